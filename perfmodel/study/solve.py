"""Inverse queries on predictions: which value of one quantity makes an estimate so, by bracketed roots.

A target is turned into a number that is zero where it is just met: a figure of the document minus its value, seconds
bound by one resource minus those of the next, memory free. The estimate itself is asked, so everything that it knows
counts; the answer is a root of what it says, not of a simpler model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.predict.records import Record
from perfmodel.specs.registry import data_version
from perfmodel.study.quantities import Question, question_of, resolved, unit_of, written
from perfmodel.study.words import bound_seconds, term_words

__all__ = ["Solution", "solve"]

_FIGURES = (
    "step_time_s", "ttft_s", "tpot_s", "output_tokens_per_s", "tokens_per_s", "mfu", "memory_bytes.total",
    "memory_bytes.capacity", "cost_usd_per_step", "cost_usd_per_mtok", "energy_j_per_token",
)  # fmt: skip
_LOOKS = 49  # places looked at across the bracket before roots are closed in on
_REACH = 1e3  # the bracket unless given: from a thousandth to a thousand times what stands now
Document = Mapping[str, Any]


class Solution(Record):
    """The value of a quantity at which a prediction just becomes so, or why there is none in the bracket.

    `value` is the root nearest to `now` (both in `unit`), `roots` all that were found; `figures` are those of the
    prediction now and there; whole quantities give the whole number on the side where the target holds.
    """

    document: str = "perfmodel/solution/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    value: float | None
    unit: str
    now: float | None
    roots: tuple[float, ...]
    figures: dict[str, tuple[float | str | bool | None, float | str | bool | None]]
    evaluations: int
    infeasible_because: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def solve(
    scenario: Mapping[str, Any],
    *,
    quantity: str,
    target: Mapping[str, Any] | str,
    bracket: tuple[float, float] | None = None,
) -> Solution:
    """The value of `quantity` at which the estimate of `scenario` just meets `target`.

    `scenario` holds the keywords of `estimate_training` or `estimate_serving`, `cluster` also an id with
    `accelerators`. `quantity` is one of `quantities.HARDWARE`, `COUNTS` or `NUMBERS`; a tier's or a precision's by name
    ("infiniband.link_byte_per_s", "peak_flop_per_s.fp8"), alone that of the innermost tier or of the products.
    `target` is "fits", {"bound_by": "compute"}, {"decode_step.bound_by": "compute"} or a figure of the document:
    {"step_time_s": 5.0}, {"memory_bytes.total": 60e9}. Raises `SpecError` and `PlanError` for a wrong argument;
    returns `feasible=False` with the reason where the bracket holds no root.
    """
    question, label = question_of(resolved(scenario), quantity)
    key, wanted = _target(target)
    low, high = _bracket(question, bracket)
    first = None if question.now is None else question.estimate(question.now)
    measure = _measure(key, wanted, first if first is not None else question.estimate(low) or question.estimate(high))
    looks = [(x, _measured(measure, question.estimate(x))) for x in _places(question, low, high)]
    roots = sorted({_closed_in(question, measure, *pair) for pair in _changes(looks)})
    nearest = min(roots, key=lambda x: abs(math.log(x / (question.now or x)))) if roots else None
    there = None if nearest is None else question.estimate(nearest)
    return Solution(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={
            "scenario": written(scenario),
            "quantity": label,
            "target": {key: wanted},
            "target_text": key if key == "fits" else f"{key} = {wanted}",
            "bracket": [low, high],
        },
        feasible=nearest is not None,
        value=nearest,
        unit=unit_of(quantity),
        now=question.now,
        roots=tuple(roots),
        figures=_figures(first, there, key) if there is not None else {},
        evaluations=question.evaluations,
        infeasible_because=() if roots else tuple(_reasons(question, looks, label, key, wanted, low, high)),
        notes=() if len(roots) < 2 else (f"{len(roots)} values do: {', '.join(f'{x:.6g}' for x in roots)}",),
    )


def _target(target: Mapping[str, Any] | str) -> tuple[str, Any]:
    if target == "fits":
        return "fits", True
    if not isinstance(target, Mapping) or len(target) != 1:
        raise PlanError(
            f'target: must be "fits" or one figure with its value, as {{"step_time_s": 5.0}} (got {target!r})'
        )
    ((key, wanted),) = target.items()
    if key == "fits" and wanted is True:
        return key, wanted
    if key.rpartition(".")[2] == "bound_by":
        if wanted not in term_words()["bound"]:
            raise PlanError(f"target: {key}: {unknown_name('bound', wanted, term_words()['bound'])}")
    elif isinstance(wanted, bool) or not isinstance(wanted, (int, float)) or not math.isfinite(wanted):
        raise PlanError(f"target: {key}: must be a finite number (got {wanted!r})")
    return str(key), wanted


def _measure(key: str, wanted: Any, sample: Document | None) -> Callable[[Document], float]:
    """What is zero where the target is just met, and above it where it holds (for a figure: where it is larger)."""
    if key == "fits":
        return _memory_free
    where, _, last = key.rpartition(".")
    if last == "bound_by":
        return _bound_measure(where, wanted, sample)
    if sample is not None and not isinstance(_figure(sample, key), float):
        names = [name for name in _all_figures(sample)]
        raise PlanError(f"target: {unknown_name('figure', key, [*names, 'fits', 'bound_by'], shown=40)}")
    return lambda document: float(_figure(document, key) or math.nan) - float(wanted)


def _memory_free(document: Document) -> float:
    """Bytes free, below zero where the document says that it does not fit: an engine needs a cache to work with too."""
    memory = document["memory_bytes"]
    free = abs(float(memory["capacity"]) - float(memory["total"])) or 1.0
    return free if document["fits"] else -free


def _bound_measure(where: str, wanted: str, sample: Document | None) -> Callable[[Document], float]:
    names = [term["name"] for term in (sample or {"terms": ()})["terms"]]
    if where and sample is not None and where not in names:
        raise PlanError(f"target: {where}.bound_by: {unknown_name('term', where, names)}")

    def lead(document: Document) -> float:
        bounds = bound_seconds([term for term in document["terms"] if not where or term["name"] == where])
        whole = sum(bounds.values())
        return (bounds.pop(wanted, 0.0) - max(bounds.values(), default=0.0)) / whole

    return lead


def _figure(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = document.get(part) if isinstance(document, Mapping) else None
    return float(document) if isinstance(document, int) and not isinstance(document, bool) else document


def _all_figures(document: Document, above: str = "") -> Iterator[str]:
    for key, value in document.items():
        if isinstance(value, Mapping) and key != "request":
            yield from _all_figures(value, f"{above}{key}.")
        elif isinstance(value, float):
            yield f"{above}{key}"


def _bracket(question: Question, bracket: tuple[float, float] | None) -> tuple[float, float]:
    if bracket is None:
        now = question.now or (1.0 if question.whole else 1e-3)
        low, high = now / _REACH, now * _REACH
        return (
            (max(low, 1.0), max(high, 4096.0))
            if question.whole
            else (low, min(high, 1.0 - 1e-9) if question.quantity == "prefix_hit" else high)
        )
    low, high = (float(end) for end in bracket)
    if not 0 < low < high < math.inf:
        raise OutOfRangeError(f"bracket: must rise from above 0 (got {low:g} to {high:g})")
    return low, high


def _places(question: Question, low: float, high: float) -> list[float]:
    places = [low * (high / low) ** (at / (_LOOKS - 1)) for at in range(_LOOKS)]
    if question.now is not None and low <= question.now <= high:
        places.append(question.now)
    return sorted({float(round(x)) for x in places} if question.whole else set(places))


def _measured(measure: Callable[[Document], float], document: Document | None) -> float:
    return math.nan if document is None else measure(document)


def _changes(looks: list[tuple[float, float]]) -> Iterator[tuple[float, float, float, float]]:
    """Neighbouring places between which the target is crossed; places that cannot run are passed over."""
    known = [(x, value) for x, value in looks if math.isfinite(value)]
    for (low, below), (high, above) in pairwise(known):
        if (below < 0 <= above) or (above < 0 <= below) or (below > 0 >= above):
            yield low, below, high, above


def _closed_in(
    question: Question, measure: Callable[[Document], float], low: float, below: float, high: float, above: float
) -> float:
    """The crossing between two places: to rounding, or the first whole number on the side where it holds."""
    if not question.whole:
        from scipy.optimize import brentq

        def at(x: float) -> float:
            return _measured(measure, question.estimate(x))

        if 0 in (below, above):
            return low if below == 0 else high
        return _just_held(at, float(brentq(at, low, high, rtol=1e-12, maxiter=200)), 1.0 if above > below else -1.0)
    while high - low > 1:
        middle = float(math.floor((low + high) / 2))
        value = _measured(measure, question.estimate(middle))
        if math.isfinite(value) and (value < 0) == (below < 0):
            low, below = middle, value
        else:
            high = middle
    return high if below < 0 else low


def _just_held(at: Callable[[float], float], root: float, rising: float) -> float:
    """The root, or the nearest number on the side where the target holds: memory fits, a resource binds."""
    for step in (0.0, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9):
        x = root * (1.0 + rising * step)
        if at(x) >= 0:
            return x
    return root


def _figures(now: Document | None, there: Document, key: str) -> dict[str, tuple[Any, Any]]:
    wanted = dict.fromkeys((*_FIGURES, *(() if "bound_by" in key or key == "fits" else (key,))))
    found: dict[str, tuple[Any, Any]] = {}
    for name in wanted:
        after = _figure(there, name)
        if isinstance(after, float):
            found[name] = (None if now is None else _figure(now, name), after)
    for term in ("", *(term["name"] for term in there["terms"] if "ttft_s" in there)):
        sides = [None if one is None else _bound(one, term) for one in (now, there)]
        found[f"{term}.bound_by" if term else "bound_by"] = (sides[0], sides[1])
    found["fits"] = (None if now is None else now["fits"], there["fits"])
    return found


def _bound(document: Document, term: str) -> str:
    return next(iter(bound_seconds([one for one in document["terms"] if not term or one["name"] == term])))


def _reasons(
    question: Question, looks: list[tuple[float, float]], label: str, key: str, wanted: Any, low: float, high: float
) -> Iterator[str]:
    known = [(x, value) for x, value in looks if math.isfinite(value)]
    span = f"{label} from {low:.4g} to {high:.4g}"
    if not known:
        yield f"no estimate at {span}: {question.refused}"
        return
    values = [value for _, value in known]
    if key == "fits":
        yield f"{span}: it fits {'everywhere' if values[0] >= 0 else 'nowhere'}"
    elif key.endswith("bound_by"):
        often = "always" if all(value >= 0 for value in values) else "never"
        lead = f"its lead over the next is {min(values):+.3f} to {max(values):+.3f} of the time"
        yield f"{span}: {often} bound by {wanted}; {lead}"
    else:
        reach = f"{min(values) + wanted:.6g} to {max(values) + wanted:.6g}"
        yield f"{span}: {key} runs from {reach}, {wanted:g} is not reached"
    if len(known) < len(looks):
        yield f"{len(looks) - len(known)} of {len(looks)} places cannot run: {question.refused}"
