"""The question of a test-time plan: tasks with what is known of their difficulty, methods with what a sample costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.formulas.test_time import token_price_usd
from perfmodel.predict.serving.estimate import estimate_serving

__all__ = ["SELECTIONS", "UNITS", "Evidence", "Method", "Task", "budget_of", "methods_of", "tasks_of"]

UNITS = ("usd", "s", "j", "tokens")
SELECTIONS = ("verifier", "majority")
_TASK_KEYS = ("task", "method", "samples", "correct", "success_rate", "alpha", "beta", "weight", "count")
_PRICES = ("usd_per_mtok_in", "usd_per_mtok_out", "usd_per_mtok_verifier")
_PER_SAMPLE = ("usd", "s", "j")
_HARDWARE = (
    "model", "cluster", "accelerators", "layout", "concurrency", "arrival_rate_per_s", "weights", "activations",
    "kv_cache", "batching", "software", "arrivals",
)  # fmt: skip
_DEFAULTS: dict[str, float] = {
    "prompt_tokens": 0.0,
    "verifier_tokens": 0.0,
    "completeness": 1.0,
    "soundness": 1.0,
    "odds": 1.0,
    "max_samples": 1000.0,
}
_METHOD_KEYS = ("method", "tokens", *_PRICES, *_PER_SAMPLE, "selection", "stop", *_DEFAULTS, *_HARDWARE)
_SHARES = ("completeness", "soundness")
_LARGEST_COUNT = 10_000_000


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one success rate: the rate itself, `correct` of `samples`, or shapes of a Beta distribution."""

    rate: float | None = None
    samples: float = 0.0
    correct: float = 0.0
    shapes: tuple[float, float] | None = None

    def row(self) -> dict[str, float]:
        """The keys of a row that say it."""
        if self.rate is not None:
            return {"success_rate": self.rate}
        if self.shapes is not None:
            return {"alpha": self.shapes[0], "beta": self.shapes[1]}
        return {"samples": self.samples, "correct": self.correct}


@dataclass(frozen=True, slots=True)
class Task:
    """A problem, or `count` alike, the weight of each, and the evidence for each method ("" stands for all)."""

    id: str
    weight: float
    count: float
    evidence: dict[str, Evidence]


@dataclass(frozen=True, slots=True)
class Method:
    """One way to answer: how an answer is chosen, and what a sample costs in each unit (None: not known)."""

    id: str
    tokens: float
    selection: str
    stops_when_accepted: bool
    completeness: float
    soundness: float
    odds: float
    max_samples: int
    verifier_tokens: float
    cost: dict[str, float | None]
    given: dict[str, Any]
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def budget_of(budget: Mapping[str, Any]) -> tuple[str, float]:
    """Unit and size; raises `PlanError`."""
    if not isinstance(budget, Mapping) or len(budget) != 1:
        raise PlanError(f"budget: must be one of {', '.join(UNITS)} with a number, as {{'usd': 10}} (got {budget!r})")
    ((unit, size),) = budget.items()
    if unit not in UNITS:
        raise PlanError(f"budget: {unknown_name('unit', unit, UNITS)}")
    return unit, _number(f"budget: {unit}", size, above=0.0)


def tasks_of(rows: Iterable[Mapping[str, Any]], methods: Sequence[Method]) -> tuple[Task, ...]:
    """The tasks of rows `{task, samples, correct}`, `{task, success_rate}` or `{task, alpha, beta}`.

    `weight`, `count` and `method` where given; rows of one task with different methods belong together. Raises
    `PlanError` naming row, key and value.
    """
    if isinstance(rows, (str, Mapping)) or not isinstance(rows, Iterable):
        raise PlanError(f"tasks: must be a list of tables (got {type(rows).__name__})")
    names = [method.id for method in methods]
    sizes: dict[str, tuple[float, float]] = {}
    evidence: dict[str, dict[str, Evidence]] = {}
    for number, row in enumerate(rows):
        label = f"tasks[{number}]"
        _keys(label, row, _TASK_KEYS)
        id, method, found = _name(label, row, "task", None), _name(label, row, "method", ""), _evidence(label, row)
        if method and method not in names:
            raise PlanError(f"{label}: {unknown_name('method', method, names)}")
        if method in evidence.setdefault(id, {}):
            raise PlanError(f"{label}: task {id!r} is given twice{f' for method {method!r}' if method else ''}")
        evidence[id][method] = found
        weight = _number(f"{label}: weight", row.get("weight", 1.0), above=0.0)
        count = _count(f"{label}: count", row.get("count", 1))
        if count < 1:
            raise OutOfRangeError(f"{label}: count: must be a whole number >= 1 (got {count:g})")
        if sizes.setdefault(id, (weight, count)) != (weight, count):
            raise PlanError(f"{label}: task {id!r} has another weight or count elsewhere (got {weight:g}, {count:g})")
    if not evidence:
        raise PlanError("tasks: empty; give at least one {task, samples, correct} or {task, success_rate}")
    return tuple(Task(id, *sizes[id], found) for id, found in evidence.items())


def methods_of(rows: Iterable[Mapping[str, Any]]) -> tuple[Method, ...]:
    """The methods of rows `{method, tokens, usd_per_mtok_out}` and further keys; raises `PlanError`."""
    if isinstance(rows, (str, Mapping)) or not isinstance(rows, Iterable):
        raise PlanError(f"methods: must be a list of tables (got {type(rows).__name__})")
    found: dict[str, Method] = {}
    for number, row in enumerate(rows):
        method = _method(f"methods[{number}]", row)
        if method.id in found:
            raise PlanError(f"methods[{number}]: method {method.id!r} is given twice")
        found[method.id] = method
    if not found:
        raise PlanError("methods: empty; give at least one {method, tokens, usd_per_mtok_out}")
    return tuple(found.values())


def _method(label: str, row: Mapping[str, Any]) -> Method:
    _keys(label, row, _METHOD_KEYS)
    id = _name(label, row, "method", None)
    label = f"{label} ({id})"
    numbers = {key: _number(f"{label}: {key}", row.get(key, default)) for key, default in _DEFAULTS.items()}
    for key in _SHARES:
        if numbers[key] > 1.0:
            raise OutOfRangeError(f"{label}: {key}: must be from 0 to 1 (got {numbers[key]:g})")
    if numbers["odds"] == 0.0 or numbers["max_samples"] < 1 or numbers["max_samples"] % 1:
        raise OutOfRangeError(f"{label}: odds must be > 0 and max_samples a whole number >= 1")
    selection, stop = row.get("selection", "verifier"), row.get("stop", "never")
    if selection not in SELECTIONS:
        raise PlanError(f"{label}: {unknown_name('selection', selection, SELECTIONS)}")
    if stop not in ("never", "accepted") or (stop == "accepted" and selection == "majority"):
        raise PlanError(f"{label}: stop: must be never, or accepted with selection verifier (got {stop!r})")
    tokens = _number(f"{label}: tokens", row.get("tokens"), above=0.0)
    cost, sources, warnings = _costs(label, row, tokens, numbers)
    return Method(
        id=id,
        tokens=tokens,
        selection=selection,
        stops_when_accepted=stop == "accepted",
        completeness=numbers["completeness"],
        soundness=numbers["soundness"],
        odds=numbers["odds"],
        max_samples=int(numbers["max_samples"]),
        verifier_tokens=numbers["verifier_tokens"],
        cost=cost,
        given=dict(row),
        sources=sources,
        warnings=warnings,
    )


def _costs(
    label: str, row: Mapping[str, Any], tokens: float, numbers: Mapping[str, float]
) -> tuple[dict[str, float | None], tuple[str, ...], tuple[str, ...]]:
    """What one sample with its verification costs in each unit; of hardware from the serving predictor."""
    cost: dict[str, float | None] = dict.fromkeys(UNITS)
    cost["tokens"] = tokens + numbers["verifier_tokens"]
    sources: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    if any(key in row for key in _HARDWARE):
        on_hardware, sources, warnings = _served(label, row, tokens, numbers)
        cost |= on_hardware
    if any(key in row for key in _PRICES):
        price = {key: _number(f"{label}: {key}", row.get(key, 0.0)) for key in _PRICES}
        verifier = price["usd_per_mtok_verifier" if "usd_per_mtok_verifier" in row else "usd_per_mtok_out"]
        cost["usd"] = float(
            token_price_usd(numbers["prompt_tokens"], price["usd_per_mtok_in"])
            + token_price_usd(tokens, price["usd_per_mtok_out"])
            + token_price_usd(numbers["verifier_tokens"], verifier)
        )
    for key in _PER_SAMPLE:
        if key in row:
            cost[key] = _number(f"{label}: {key}", row[key], above=0.0)
    return cost, sources, warnings


def _served(
    label: str, row: Mapping[str, Any], tokens: float, numbers: Mapping[str, float]
) -> tuple[dict[str, float | None], tuple[str, ...], tuple[str, ...]]:
    """Seconds of the whole deployment, joules and dollars of a sample that is one of many in flight."""
    missing = [key for key in ("model", "cluster") if key not in row]
    if missing:
        raise PlanError(f"{label}: {missing[0]}: missing; hardware needs model and cluster")
    from perfmodel.specs.cluster import load_cluster

    asked = {key: row[key] for key in _HARDWARE if key in row}
    cluster = load_cluster(asked.pop("cluster"), accelerators=asked.pop("accelerators", None))
    layout = asked.pop("layout", {"tp": cluster.accelerators})
    if "arrival_rate_per_s" not in asked:
        asked.setdefault("concurrency", 64)
    prompt = max(1, round(numbers["prompt_tokens"]))
    output = max(1, round(tokens + numbers["verifier_tokens"]))
    estimate = estimate_serving(cluster=cluster, layout=layout, prompt_tokens=prompt, output_tokens=output, **asked)
    if not estimate.fits:
        raise PlanError(
            f"{label}: does not fit on {estimate.accelerators_used} of {cluster.id}; give more accelerators"
        )
    cost: dict[str, float | None] = {
        "usd": token_price_usd(float(output), estimate.cost_usd_per_mtok),
        "s": 1.0 / estimate.requests_per_s,
        "j": estimate.energy_j_per_token * output,
    }
    warnings = tuple(f"{label}: {one.formula}: {one.quantity} {one.value}: {one.valid}" for one in estimate.warnings)
    return cost, estimate.sources, warnings


def _evidence(label: str, row: Mapping[str, Any]) -> Evidence:
    if "success_rate" in row:
        if "samples" in row or "correct" in row:
            raise PlanError(f"{label}: give success_rate, or samples and correct, not both")
        rate = _number(f"{label}: success_rate", row["success_rate"])
        if rate > 1.0:
            raise OutOfRangeError(f"{label}: success_rate: must be from 0 to 1 (got {rate:g})")
        return Evidence(rate=rate)
    if "alpha" in row or "beta" in row:
        alpha, beta = (_number(f"{label}: {key}", row.get(key), above=0.0) for key in ("alpha", "beta"))
        return Evidence(shapes=(alpha, beta))
    missing = [key for key in ("samples", "correct") if key not in row]
    if missing:
        raise PlanError(f"{label}: {missing[0]}: missing; give samples and correct, or success_rate")
    samples, correct = (_count(f"{label}: {key}", row[key]) for key in ("samples", "correct"))
    if not 0 <= correct <= samples or samples < 1:
        raise OutOfRangeError(
            f"{label}: correct: must be from 0 to samples, and samples >= 1 (got {correct:g} of {samples:g})"
        )
    return Evidence(samples=samples, correct=correct)


def _keys(label: str, row: Any, allowed: Sequence[str]) -> None:
    if not isinstance(row, Mapping):
        raise PlanError(f"{label}: must be a table (got {type(row).__name__})")
    for key in row:
        if key not in allowed:
            raise PlanError(f"{label}: {unknown_name('key', key, allowed, shown=30)}")


def _name(label: str, row: Mapping[str, Any], key: str, default: str | None) -> str:
    value = row.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or (default is None and not value):
        raise PlanError(f"{label}: {key}: must be a name (got {value!r})")
    return value


def _number(label: str, value: Any, *, above: float | None = None) -> float:
    wanted = "a number > 0" if above is not None else "a number >= 0"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PlanError(f"{label}: must be {wanted} (got {value!r})")
    if not math.isfinite(value) or value < 0 or (above is not None and value <= above):
        raise OutOfRangeError(f"{label}: must be {wanted} (got {value!r})")
    return float(value)


def _count(label: str, value: Any) -> float:
    found = _number(label, value)
    if found % 1 or found > _LARGEST_COUNT:
        raise OutOfRangeError(f"{label}: must be a whole number up to {_LARGEST_COUNT:,} (got {value!r})")
    return found
