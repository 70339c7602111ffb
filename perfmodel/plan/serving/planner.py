"""`plan_serving`: the cheapest deployment that keeps its latency limits under its traffic, with the reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.plan.records import Certificate, Constraint
from perfmodel.plan.serving.fleet import growth_of, hourly_replicas
from perfmodel.plan.serving.points import Curves, curves_of
from perfmodel.plan.serving.reasons import why_not, with_other_precisions
from perfmodel.plan.serving.records import FrontierPoint, ServingAlternative, ServingPlan
from perfmodel.plan.serving.space import Candidate, Candidates, candidates_of
from perfmodel.plan.serving.split import Split, cheapest_split
from perfmodel.predict.serving.demand import demand_of
from perfmodel.predict.serving.estimate import estimate_serving
from perfmodel.predict.serving.records import ServingEstimate
from perfmodel.predict.serving.traffic import attainment
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster, cluster_reference, load_cluster
from perfmodel.specs.huggingface import load_model, model_reference
from perfmodel.specs.registry import data_version, reference
from perfmodel.specs.serving_software import ServingSoftware, load_serving_software
from perfmodel.specs.workload import Slo, Workload

__all__ = ["MODES", "OBJECTIVES", "ServingQuestion", "plan_serving"]

OBJECTIVES = ("cost", "energy", "throughput")
MODES = ("aggregated", "disaggregated")
MOST_IN_AN_ENGINE = 32
_PRICED = 6
"""Engines whose whole estimate is made where energy decides."""
_MOST_MORE = 3
_SLOWEST_S = 0.2
"""A user who gets fewer than five tokens a second is not served."""


@dataclass(frozen=True)
class ServingQuestion:
    """A checked question."""

    model: Architecture
    clusters: tuple[Cluster, ...]
    software: ServingSoftware
    workload: Workload
    slo: Slo
    objective: str
    modes: tuple[str, ...]
    rate_per_s: float
    """Requests a second that the plan must hold, with the traffic factor."""
    redundancy: int
    most: int | None
    keywords: dict[str, Any]
    candidates: Candidates


def plan_serving(
    model: Any,
    cluster: Any,
    workload: Workload,
    slo: Slo | Mapping[str, Any] | None = None,
    *,
    objective: str = "cost",
    software: ServingSoftware | str | None = None,
    weights: Sequence[str] | str | None = None,
    kv_cache: Sequence[str] | str | None = None,
    modes: Sequence[str] | str = MODES,
    max_accelerators: int | None = None,
    memory_margin: float = 0.0,
    redundancy: int = 0,
    traffic_factor: float = 1.0,
    beside: Sequence[Any] = (),
    top: int = 8,
) -> ServingPlan:
    """The deployment of least `objective` that serves `workload` within `slo`: which engines, how many, how cut.

    `cluster` may be several kinds of machines to choose from. `objective`: "cost" (USD an hour), "energy" (J a token)
    or "throughput" (most requests within the limits on `max_accelerators`). `weights` and `kv_cache` are precisions
    to choose from (default: 16 bits, and fp8 where the hardware multiplies it). The plan holds with `redundancy`
    replicas lost and at `traffic_factor` times the rate; models `beside` stay resident on the same accelerators.
    Raises `SpecError` and `PlanError`; where nothing keeps the limits the plan says so.
    """
    question = _question(
        model, cluster, workload, slo, objective=objective, software=software, weights=weights, kv_cache=kv_cache,
        modes=modes, max_accelerators=max_accelerators, memory_margin=memory_margin, redundancy=redundancy,
        traffic_factor=traffic_factor, beside=beside, top=top,
    )  # fmt: skip
    engines = question.candidates.engines
    if not engines:
        return _nothing(question, None)
    curves = curves_of(engines, question.workload)
    if objective == "throughput":
        question, found = _most_served(question, curves)
    else:
        found = _within_size(question, curves.engines_for(question.rate_per_s, question.slo, range(len(engines))))
    split = None
    if "disaggregated" in question.modes and objective != "throughput":
        split = cheapest_split(curves, question.rate_per_s, question.slo, question.most)
    if "aggregated" not in question.modes:
        found = {}
    order = _ordered(question, curves, found)
    if not order and split is None:
        return _nothing(question, curves)
    cheapest = None if not order else found[order[0]] * engines[order[0]].usd_per_hour
    if split is not None and (cheapest is None or split.usd_per_hour < cheapest):
        return _of_split(question, curves, split, order, found)
    return _of_engine(question, curves, order, found, split)


def _question(model: Any, cluster: Any, workload: Any, slo: Any, **given: Any) -> ServingQuestion:
    if given["objective"] not in OBJECTIVES:
        raise PlanError(unknown_name("objective", given["objective"], OBJECTIVES))
    if not isinstance(workload, Workload):
        raise PlanError(f"workload: must be a Workload, as load_trace gives (got {type(workload).__name__})")
    modes = _names("modes", given["modes"], MODES)
    factor, spare = given["traffic_factor"], given["redundancy"]
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1e6:
        raise OutOfRangeError(f"traffic_factor: must be a number above 0 (got {factor!r})")
    for name, least in (("redundancy", 0), ("max_accelerators", 1), ("top", 1)):
        value = given[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise OutOfRangeError(f"{name}: must be a whole number >= {least} (got {value!r})")
    margin = given["memory_margin"]
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < 1:
        raise OutOfRangeError(f"memory_margin: must be at least 0 and below 1 (got {margin!r})")
    if given["objective"] == "throughput" and given["max_accelerators"] is None:
        raise PlanError("max_accelerators: objective 'throughput' asks how much so many serve; give it")
    limits = slo if isinstance(slo, Slo) else Slo(**(slo or {}))
    rate = workload.arrival_rate_per_s
    if rate is None and given["objective"] != "throughput":
        raise PlanError(f"arrival_rate_per_s: {workload.name or 'the workload'} has none; give it")
    architecture = load_model(model)
    if not architecture.causal or architecture.head != "lm":
        raise PlanError(f"model: {architecture.id} generates no tokens (an encoder)")
    clusters = tuple(load_cluster(one) for one in (cluster if isinstance(cluster, (list, tuple)) else [cluster]))
    if not clusters:
        raise PlanError("cluster: give at least one")
    others = tuple(load_model(one) for one in given["beside"])
    stack = load_serving_software(given["software"])
    prompt, answer = workload.prompts.mean, workload.outputs.mean
    most, demand = given["max_accelerators"], demand_of(workload)
    candidates = candidates_of(
        architecture, clusters, stack, (math.ceil(prompt) + math.ceil(answer), demand.kv_len),
        weights=_choices(given["weights"]), kv_cache=_choices(given["kv_cache"]),
        most=min(most or MOST_IN_AN_ENGINE, MOST_IN_AN_ENGINE), memory_margin=float(margin), beside=others,
    )  # fmt: skip
    machines = [cluster_reference(one) for one in clusters]
    kept = given | {
        "model": model_reference(architecture), "beside": [model_reference(one) for one in others],
        "modes": list(modes), "cluster": machines[0] if len(machines) == 1 else machines,
        "software": reference("software", stack), "slo": limits.model_dump(mode="json"),
        "workload": workload.model_dump(mode="json"), "weights": _listed(given["weights"]),
        "kv_cache": _listed(given["kv_cache"]),
    }  # fmt: skip
    return ServingQuestion(
        architecture, clusters, stack, workload, limits, given["objective"], modes, (rate or 0.0) * float(factor),
        int(spare), most, kept, candidates,
    )  # fmt: skip


def _unrestricted(question: ServingQuestion, most: int | None = None) -> Candidates:
    """The engines of all precisions that the hardware multiplies, of as many accelerators as allowed or `most`."""
    workload, demand = question.workload, demand_of(question.workload)
    lengths = (math.ceil(workload.prompts.mean) + math.ceil(workload.outputs.mean), demand.kv_len)
    allowed = most or min(question.most or MOST_IN_AN_ENGINE, MOST_IN_AN_ENGINE)
    return candidates_of(question.model, question.clusters, question.software, lengths, most=allowed)


def _names(key: str, given: Sequence[str] | str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in known:
            raise PlanError(unknown_name(key, name, known))
    return names


def _choices(given: Sequence[str] | str | None) -> tuple[str, ...] | None:
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)


def _listed(given: Sequence[str] | str | None) -> list[str] | None:
    return None if given is None else list(_choices(given) or ())


def _within_size(question: ServingQuestion, found: dict[int, int]) -> dict[int, int]:
    """Engines with those that may be lost, where they are no more than allowed."""
    engines = question.candidates.engines
    spare = {i: count + question.redundancy for i, count in found.items()}
    most = question.most
    return {i: count for i, count in spare.items() if most is None or count * engines[i].accelerators <= most}


def _ordered(question: ServingQuestion, curves: Curves, found: dict[int, int]) -> list[int]:
    """Cheapest first; of equal price the wider precision, then the faster for its users."""
    engines = curves.candidates

    def key(i: int) -> tuple[Any, ...]:
        one, count = engines[i], found[i]
        working = max(1, count - question.redundancy)
        traffic = curves.at(question.rate_per_s, working, [i])
        narrow = one.precisions.weight_bytes + one.precisions.kv_bytes
        kept = float(attainment(traffic, question.slo)[0])
        price = round(count * one.usd_per_hour, 6)
        if question.objective == "throughput":
            price = -float(working * curves.most[i])
        return price, -narrow, -round(kept, 3), count * one.accelerators, i

    order = sorted(found, key=key)
    if question.objective != "energy" or not order:
        return order
    # Energy needs the whole estimate: of the engines that are cheapest, as idle accelerators cost both.
    some = order[: 2 * _PRICED]
    joules = {i: _estimate(question, engines[i], found[i]).energy_j_per_token for i in some}
    return sorted(some, key=lambda i: joules[i]) + order[2 * _PRICED :]


def _most_served(question: ServingQuestion, curves: Curves) -> tuple[ServingQuestion, dict[int, int]]:
    """The engine whose copies on all accelerators serve most within the limits, and that rate as the question."""
    best, rates = 0.0, {}
    for i, one in enumerate(curves.candidates):
        count = (question.most or 0) // one.accelerators - question.redundancy
        if count < 1:
            continue
        traffic = curves.along(count)[i]
        kept = attainment(traffic, question.slo) >= question.slo.percentile
        if kept.any():
            rates[i] = float(traffic.arrival_rate_per_s[kept].max()) * one.groups * count
            best = max(best, rates[i])
    asked = ServingQuestion(**{**question.__dict__, "rate_per_s": best})
    chosen = {i: (question.most or 0) // curves.candidates[i].accelerators for i in rates if rates[i] >= 0.999 * best}
    return asked, chosen


def _estimate(question: ServingQuestion, one: Candidate, engines: int) -> ServingEstimate:
    """The whole record of so many engines at the rate that the plan must hold."""
    layout = one.layout.model_copy(update={"dp": engines * one.groups})
    machine = one.cluster.model_copy(update={"accelerators": max(layout.accelerators, one.cluster.accelerators)})
    workload = question.workload.with_(arrival_rate_per_s=question.rate_per_s)
    return estimate_serving(
        question.model, machine, layout=layout, workload=workload, slo=question.slo,
        weights=one.precisions.weights, kv_cache=one.precisions.kv_cache, software=question.software,
    )  # fmt: skip


def _of_engine(
    question: ServingQuestion, curves: Curves, order: list[int], found: dict[int, int], split: Split | None
) -> ServingPlan:
    one, replicas = curves.candidates[order[0]], found[order[0]]
    working = max(1, replicas - question.redundancy)
    prediction = _estimate(question, one, working)
    while prediction.slo_met is False and working - replicas < _MOST_MORE:
        # The curve is straight between its points; the whole estimate decides.
        working += 1
        prediction = _estimate(question, one, working)
    replicas = max(replicas, working + question.redundancy)
    growth = growth_of(curves, order[0], question.rate_per_s, working, question.slo)
    return _plan(
        question, curves,
        decision={
            "mode": "aggregated", "replicas": replicas, "accelerators_used": replicas * one.accelerators,
            "usd_per_hour": replicas * one.usd_per_hour, "serve": _role(one, replicas),
        },
        prediction=prediction,
        constraints=_constraints(question, prediction),
        headroom=growth[1].slo_met, growth=growth,
        max_fitting_context=int(min(one.blocks * question.software.block_tokens, question.model.max_seq_len)),
        hourly=hourly_replicas(question.workload, curves, order[0], question.slo, question.redundancy),
        alternatives=_alternatives(question, curves, order[1:], found, split, replicas * one.usd_per_hour),
        sources=prediction.sources, notes=prediction.notes,
    )  # fmt: skip


def _of_split(
    question: ServingQuestion, curves: Curves, split: Split, order: list[int], found: dict[int, int]
) -> ServingPlan:
    x, y = split.x + question.redundancy, split.y + question.redundancy
    ttft = Constraint(
        name="ttft_s", limit=question.slo.ttft_s or math.inf, value=split.ttft_s,
        slack=(question.slo.ttft_s or math.inf) - split.ttft_s,
    )  # fmt: skip
    tpot = Constraint(
        name="tpot_s", limit=question.slo.tpot_s or math.inf, value=split.estimate.tpot_s,
        slack=(question.slo.tpot_s or math.inf) - split.estimate.tpot_s,
    )  # fmt: skip
    used = x * split.prefill.accelerators + y * split.decode.accelerators
    usd = x * split.prefill.usd_per_hour + y * split.decode.usd_per_hour
    return _plan(
        question, curves,
        decision={
            "mode": "disaggregated", "replicas": x + y, "accelerators_used": used, "usd_per_hour": usd,
            "prefill": _role(split.prefill, x), "decode": _role(split.decode, y, split.batch),
        },
        prediction=split.estimate,
        constraints=tuple(one for one in (ttft, tpot) if math.isfinite(one.limit)),
        headroom=split.estimate.max_requests_per_s >= 1.2 * question.rate_per_s, growth=(),
        max_fitting_context=int(min(split.decode.blocks * question.software.block_tokens, question.model.max_seq_len)),
        hourly=(), alternatives=_alternatives(question, curves, order, found, None, usd),
        sources=split.estimate.sources,
        notes=(*split.estimate.notes, "pools: Poisson arrivals, prompts of mean length in the queue"),
    )  # fmt: skip


def _role(one: Candidate, replicas: int, batch: int | None = None) -> dict[str, Any]:
    software, places = one.engine.software, int(one.whole)
    layout = one.layout.model_copy(update={"dp": one.groups})
    held = one.memory
    cache = one.blocks * held.block_bytes
    return {
        "engine": one.name, "layout": layout.model_dump(mode="json"), "cluster": one.cluster.id, "replicas": replicas,
        "accelerators": one.accelerators, "max_batch": (min(batch, places) if batch else places) * one.groups,
        "kv_blocks": int(one.blocks), "block_tokens": software.block_tokens,
        "max_batched_tokens": software.max_batched_tokens, "weights": one.precisions.weights,
        "activations": one.precisions.activations, "kv_cache": one.precisions.kv_cache,
        "memory_fraction": float(software.memory_fraction), "weights_bytes": held.weights, "kv_cache_bytes": cache,
    }  # fmt: skip


def _constraints(question: ServingQuestion, prediction: ServingEstimate) -> tuple[Constraint, ...]:
    found = []
    if prediction.slo_attainment is not None and (question.slo.ttft_s or question.slo.tpot_s):
        share, wanted = prediction.slo_attainment, question.slo.percentile
        found.append(Constraint(name="slo_attainment", limit=wanted, value=share, slack=share - wanted))
    memory = prediction.memory_bytes
    found.append(
        Constraint(name="memory_bytes", limit=memory.capacity, value=memory.total, slack=memory.capacity - memory.total)
    )
    return tuple(found)


def _alternatives(
    question: ServingQuestion, curves: Curves, order: list[int], found: dict[int, int], split: Split | None, usd: float
) -> tuple[ServingAlternative, ...]:
    others = []
    demand = demand_of(question.workload)
    for i in order[: int(question.keywords["top"])]:
        one, count = curves.candidates[i], found[i]
        traffic = curves.at(question.rate_per_s, max(1, count - question.redundancy), [i])
        price = count * one.usd_per_hour
        tokens = question.rate_per_s * demand.output_tokens * 3600.0
        others.append(
            ServingAlternative(
                mode="aggregated", engine=one.name, replicas=count, accelerators_used=count * one.accelerators,
                usd_per_hour=price, cost_usd_per_mtok=price / tokens * 1e6,
                slo_attainment=float(attainment(traffic, question.slo)[0]), ttft_s=float(traffic.ttft_s[0]),
                tpot_s=float(traffic.tpot_s[0]), tied=price <= usd * (1 + 1e-9),
            )
        )  # fmt: skip
    if split is not None:
        name = f"{split.x} x ({split.prefill.name}) prefill, {split.y} x ({split.decode.name}) decode"
        others.append(
            ServingAlternative(
                mode="disaggregated", engine=name, replicas=split.x + split.y, accelerators_used=split.accelerators,
                usd_per_hour=split.usd_per_hour, cost_usd_per_mtok=split.estimate.cost_usd_per_mtok,
                slo_attainment=None, ttft_s=split.estimate.ttft_s, tpot_s=split.estimate.tpot_s,
                tied=split.usd_per_hour <= usd * (1 + 1e-9),
            )
        )  # fmt: skip
    return tuple(others)


def _frontier(question: ServingQuestion, curves: Curves) -> tuple[FrontierPoint, ...]:
    """Rate of an accelerator against the speed of a user, the best of all engines at maximum load."""
    outputs = demand_of(question.workload).output_tokens
    points = []
    for one, traffic in zip(curves.candidates, curves.along(), strict=True):
        each = traffic.arrival_rate_per_s * outputs * one.groups / one.accelerators
        for k in range(0, len(each), 3):
            if traffic.batch[k] >= 1.0 and 0 < traffic.tpot_s[k] <= _SLOWEST_S:
                points.append((1.0 / float(traffic.tpot_s[k]), float(each[k]), float(traffic.batch[k]),
                               float(traffic.ttft_s[k]), one.name))  # fmt: skip
    best, kept = 0.0, []
    for speed, rate, batch, ttft_s, name in sorted(points, reverse=True):
        if rate > 1.15 * best:
            best = rate
            kept.append(
                FrontierPoint(
                    engine=name, batch=batch, tokens_per_s_per_user=speed, output_tokens_per_s_per_accelerator=rate,
                    ttft_s=ttft_s,
                )
            )  # fmt: skip
    return tuple(kept)


def _certificate(question: ServingQuestion, bound: float | None) -> Certificate:
    pruned = question.candidates.pruned
    priced = len(question.candidates.engines)
    return Certificate(
        method="every engine of the space on its whole curve; the fewest of each by doubling and halving",
        optimal=bound is not None, bound=bound, gap=None if bound is None else 0.0,
        candidates=priced + sum(pruned.values()), priced=priced, pruned=pruned,
    )  # fmt: skip


def _plan(question: ServingQuestion, curves: Curves, **parts: Any) -> ServingPlan:
    return ServingPlan(
        perfmodel_version=__version__, data_version=data_version(), request=question.keywords, feasible=True,
        frontier=_frontier(question, curves), certificate=_certificate(question, parts["decision"]["usd_per_hour"]),
        sensitivities=(), infeasible_because=(), **parts,
    )  # fmt: skip


def _nothing(question: ServingQuestion, curves: Curves | None) -> ServingPlan:
    because = why_not(question.candidates, curves, question.slo, question.rate_per_s, question.most)
    if curves is None:
        larger = _unrestricted(question, most=MOST_IN_AN_ENGINE).engines
        if larger:
            smallest = min(larger, key=lambda one: one.accelerators)
            because.append(f"would hold it: {smallest.accelerators} accelerators ({smallest.name})")
    elif question.keywords["weights"] or question.keywords["kv_cache"]:
        because += with_other_precisions(curves_of(_unrestricted(question).engines, question.workload), question.slo)
    return ServingPlan(
        perfmodel_version=__version__, data_version=data_version(), request=question.keywords, feasible=False,
        decision=None, prediction=None, constraints=(), headroom=None, growth=(), max_fitting_context=None, hourly=(),
        alternatives=(), frontier=(), certificate=_certificate(question, None), sensitivities=(),
        infeasible_because=tuple(because), notes=(), sources=(),
    )  # fmt: skip
