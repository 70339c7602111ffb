"""`plan_clocks_of_pools`: engines, their degrees and their clocks for each pool of requests, at least power.

Pools are kinds of requests (short, long); an option of a pool is an engine at a clock, with the requests a second that
it serves within the latency limits (Stojkovic et al. 2024, "DynamoLLM", arXiv:2408.00741).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.plan.power_caps import clock_warnings
from perfmodel.plan.power_milp import PoolChoice, PoolOption, plan_pool_clocks
from perfmodel.plan.records import Certificate, Plan
from perfmodel.plan.serving.energy import facility_watts
from perfmodel.plan.serving.points import curves_of
from perfmodel.plan.serving.space import Candidate, candidates_of
from perfmodel.plan.tables import table_of
from perfmodel.predict.records import Record, Warned
from perfmodel.predict.serving.demand import demand_of
from perfmodel.predict.serving.traffic import attainment
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster, cluster_reference, load_cluster
from perfmodel.specs.huggingface import load_model, model_reference
from perfmodel.specs.power import full_clock_hz, power_set_of
from perfmodel.specs.quantity import cited
from perfmodel.specs.registry import data_version, reference
from perfmodel.specs.serving_software import ServingSoftware, load_serving_software
from perfmodel.specs.workload import Slo, Workload

__all__ = ["PoolClocksPlan", "PoolEngines", "plan_clocks_of_pools"]

_METHOD = "integer program: instances of each option of each pool, least watts (HiGHS)"
_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the full clock, where none are named."""
_LIMITS = ("ttft_s", "tpot_s")


class PoolEngines(Record):
    """So many instances of one option of one pool; rates and watts are of all of them, at their full rate."""

    pool: str
    option: str
    instances: int
    accelerators: int
    requests_per_s: float
    watts: float
    clock_ratio: float | None
    clock_hz: float | None


class PoolClocksPlan(Plan):
    """Engines by pool; `full_clock_w` is the least power of the same pools at the highest clock alone."""

    document: str = "perfmodel/pool-clocks-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    engines: tuple[PoolEngines, ...]
    watts: float | None
    accelerators_used: int
    full_clock_w: float | None
    saved_share: float | None
    certificate: Certificate
    infeasible_because: tuple[str, ...]
    warnings: tuple[Warned, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Option:
    """An option of a pool, and its clock where that is known: over the full one [1], and [Hz]."""

    pool: str
    engine: PoolOption
    clock_ratio: float | None = None
    clock_hz: float | None = None


def plan_clocks_of_pools(
    pools: Any,
    *,
    accelerators: int,
    options: Any = None,
    model: Any = None,
    cluster: Any = None,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    percentile: float = 0.9,
    degrees: Sequence[int] = (1, 2, 4, 8),
    clocks_hz: Sequence[float] | None = None,
    weights: str = "bf16",
    kv_cache: str | None = None,
    software: Any = None,
    work_limit: int = 1000,
    time_limit_s: float = 60.0,
) -> PoolClocksPlan:
    """Least power at which `accelerators` serve every pool [{pool, arrival_rate_per_s, ...}] within its limits.

    `options` are rows [{option, pool, requests_per_s, watts, accelerators}] that somebody measured. Without them
    engines of a `model` on a `cluster` are priced at tensor-parallel `degrees` and `clocks_hz` (default: 0.4 to 1 of
    the full clock) for the `prompt_tokens` and `output_tokens` of a pool, at the largest rate of which `percentile`
    keep its `ttft_s` and `tpot_s` (default: those given here). Raises `SpecError` and `PlanError`.
    """
    if isinstance(accelerators, bool) or not isinstance(accelerators, int) or accelerators < 1:
        raise OutOfRangeError(f"accelerators: must be a whole number >= 1 (got {accelerators!r})")
    limits = {"work_limit": work_limit, "time_limit_s": time_limit_s}
    request: dict[str, Any] = {"accelerators": accelerators, **limits}
    if options is not None:
        if model is not None or cluster is not None:
            raise PlanError("options, model: rates are given or predicted; leave out one of the two")
        asked = table_of("pools", pools, name="pool", needed=("arrival_rate_per_s",))
        found = _given(options, [one["pool"] for one in asked])
        return _plan(request | {"pools": asked, "options": options}, asked, found, {}, accelerators, limits)
    for name, value in (("model", model), ("cluster", cluster)):
        if value is None:
            raise PlanError(f"{name}: missing; give it, or a table of options with their rates and watts")
    needed = ("arrival_rate_per_s", "prompt_tokens", "output_tokens")
    asked = table_of("pools", pools, name="pool", needed=needed, more=_LIMITS)
    architecture, machine = load_model(model), load_cluster(cluster)
    stack = load_serving_software(software)
    clocks = _clock_ratios(machine, clocks_hz)
    given = {"ttft_s": ttft_s, "tpot_s": tpot_s, "percentile": percentile}
    precisions = weights, kv_cache or "bf16"
    predicted, pruned = [], dict.fromkeys(("no rate within the limits", "an engine that does not hold the model"), 0)
    for one in asked:
        slo = Slo(**(given | {name: one[name] for name in _LIMITS if name in one}))
        predicted += _predicted(one, slo, architecture, machine, stack, precisions, degrees, clocks, pruned)
    request |= {
        "pools": asked, "model": model_reference(architecture), "cluster": cluster_reference(machine), **given,
        "degrees": list(degrees), "clocks_hz": None if clocks_hz is None else list(clocks_hz), "weights": weights,
        "kv_cache": precisions[1], "software": reference("software", stack),
    }  # fmt: skip
    notes = (
        "watts at the meter of engines at their full rate; clocks that a lasting load lowers anyway are not told apart",
        f"power set: {power_set_of(machine.accelerator).relative or machine.accelerator.id}",
    )
    used = (*cited(machine.accelerator, machine, stack), architecture.source)
    sources = tuple(dict.fromkeys(f"{one.title}: {one.url}" for one in used if one is not None))
    plan = _plan(request, asked, predicted, pruned, accelerators, limits)
    warnings = tuple(clock_warnings(power_set_of(machine.accelerator)))
    return plan.model_copy(update={"warnings": warnings, "notes": notes, "sources": sources})


def _given(options: Any, pools: Sequence[str]) -> list[_Option]:
    """Measured options; an option's name may come again in another pool."""
    rows = options if isinstance(options, (list, tuple)) else [options]
    found: list[_Option] = []
    for at, row in enumerate(rows, 1):
        own = dict(row) if isinstance(row, dict) else {}
        pool = str(own.pop("pool", ""))
        if pool not in pools:
            raise PlanError(f"options: row {at}: {unknown_name('pool', pool, pools)}")
        needed = ("requests_per_s", "watts", "accelerators")
        (one,) = table_of(f"options: row {at}", [own], name="option", needed=needed)
        if one["accelerators"] % 1:
            raise PlanError(
                f"options: row {at}: accelerators: must be a whole number >= 1 (got {one['accelerators']:g})"
            )
        option = PoolOption(one["option"], one["requests_per_s"], one["watts"], int(one["accelerators"]))
        if any(other.pool == pool and other.engine.name == option.name for other in found):
            raise PlanError(f"options: row {at}: option: {option.name!r} stands twice in pool {pool!r}")
        found.append(_Option(pool, option))
    return found


def _clock_ratios(cluster: Cluster, clocks_hz: Sequence[float] | None) -> list[float]:
    """The clocks to try as shares of the full one [1]."""
    power = power_set_of(cluster.accelerator)
    full = full_clock_hz(power)
    if clocks_hz is None:
        return list(_SHARES)
    if full is None:
        raise PlanError(f"clocks_hz: the clocks of {power.id} are not known; leave it out for 0.4 to 1 of the full one")
    lowest = float(power.min_clock_hz or 0.0)
    for clock in clocks_hz:
        if isinstance(clock, bool) or not isinstance(clock, (int, float)) or not lowest <= clock <= full:
            allowed = f"{lowest:g} to {full:g} Hz"
            raise OutOfRangeError(f"clocks_hz: must be clocks of {power.id}, {allowed} (got {clock!r})")
    return [float(clock) / full for clock in clocks_hz]


def _predicted(
    pool: dict[str, Any], slo: Slo, model: Architecture, cluster: Cluster, stack: ServingSoftware,
    precisions: tuple[str, str], degrees: Sequence[int], clocks: Sequence[float], pruned: dict[str, int],
) -> list[_Option]:  # fmt: skip
    """Every engine of a pool at every clock, at the most that it serves within the limits."""
    workload = Workload(
        prompt_tokens=pool["prompt_tokens"], output_tokens=pool["output_tokens"],
        arrival_rate_per_s=pool["arrival_rate_per_s"],
    )  # fmt: skip
    lengths = pool["prompt_tokens"] + pool["output_tokens"], demand_of(workload).kv_len
    engines = candidates_of(
        model, [cluster], stack, lengths, weights=precisions[:1], kv_cache=precisions[1:], most=max(degrees)
    ).engines
    plain = [e for e in engines if e.layout.tp in degrees and e.accelerators == e.layout.tp and e.layout.ep == 1]
    pruned["an engine that does not hold the model"] += len(degrees) - len(plain)
    full = full_clock_hz(power_set_of(cluster.accelerator))
    held = [(replace(e, engine=e.engine.at_clock(e.cluster, ratio)), ratio) for e in plain for ratio in clocks]
    if not held:
        return []
    curves = curves_of([engine for engine, _ in held], workload)
    found = []
    for i, (traffic, (engine, ratio)) in enumerate(zip(curves.along(), held, strict=True)):
        kept = attainment(traffic, slo) >= slo.percentile
        if not kept.any():
            pruned["no rate within the limits"] += 1
            continue
        rate = float(traffic.arrival_rate_per_s[kept].max()) * engine.groups
        watts = facility_watts(curves, rate, {i: 1}, 0)[i]
        option = PoolOption(_name(engine, ratio, full), rate, watts, engine.accelerators)
        found.append(_Option(pool["pool"], option, ratio, None if full is None else full * ratio))
    return found


def _name(engine: Candidate, ratio: float, full_hz: float | None) -> str:
    clock = f"{100 * ratio:.0f} % of the clock" if full_hz is None else f"{full_hz * ratio / 1e6:.0f} MHz"
    return f"tp {engine.layout.tp} at {clock}"


def _plan(
    request: dict[str, Any], pools: list[dict[str, Any]], options: list[_Option], pruned: dict[str, int],
    accelerators: int, limits: dict[str, Any],
) -> PoolClocksPlan:  # fmt: skip
    demand = {one["pool"]: one["arrival_rate_per_s"] for one in pools}
    found = _solved(demand, options, accelerators, limits)
    fastest = max((one.clock_ratio for one in options if one.clock_ratio is not None), default=None)
    full = None
    if fastest is not None and found.feasible:
        full = _solved(demand, [one for one in options if one.clock_ratio == fastest], accelerators, limits)
    full_w = full.watts if full is not None and full.feasible else None
    engines = tuple(
        PoolEngines(
            pool=one.pool, option=one.engine.name, instances=count, accelerators=count * one.engine.accelerators,
            requests_per_s=count * one.engine.requests_per_s, watts=count * one.engine.watts,
            clock_ratio=one.clock_ratio, clock_hz=one.clock_hz,
        )
        for one in options
        if (count := found.instances.get(one.pool, {}).get(one.engine.name, 0))
    )  # fmt: skip
    return PoolClocksPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=request,
        feasible=found.feasible,
        engines=engines,
        watts=found.watts if found.feasible else None,
        accelerators_used=sum(one.accelerators for one in engines),
        full_clock_w=full_w,
        saved_share=None if full_w is None else 1.0 - found.watts / full_w,
        certificate=Certificate(
            method=_METHOD, optimal=found.optimal, bound=found.bound_w if found.feasible else None,
            gap=(found.watts - found.bound_w) / found.watts if found.feasible else None,
            candidates=len(options) + sum(pruned.values()), priced=len(options), pruned=pruned,
            stopped_by=found.stopped_by,
        ),
        infeasible_because=found.infeasible_because,
    )  # fmt: skip


def _solved(demand: dict[str, float], options: list[_Option], accelerators: int, limits: dict[str, Any]) -> PoolChoice:
    """The least power; a pool without any option is the reason where there is none."""
    by_pool = {name: [one.engine for one in options if one.pool == name] for name in demand}
    empty = [name for name, own in by_pool.items() if not own]
    if empty:
        because = tuple(f"{name}: no option serves any request of it within its limits" for name in empty)
        return PoolChoice(False, {}, 0.0, 0.0, False, because)
    return plan_pool_clocks(by_pool, demand, accelerators, **limits)
