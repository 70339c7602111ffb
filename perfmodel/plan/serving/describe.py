"""A serving plan written out: the decision, its whole estimate, what else was close, or why there is none."""

from __future__ import annotations

import math
from typing import Any

from perfmodel._version import __version__
from perfmodel.plan.records import Certificate, Constraint
from perfmodel.plan.serving.energy import spare_watts
from perfmodel.plan.serving.fleet import day_of, growth_of, hourly_replicas
from perfmodel.plan.serving.points import Curves, curves_of
from perfmodel.plan.serving.question import MOST_IN_AN_ENGINE, ServingQuestion, unrestricted
from perfmodel.plan.serving.reasons import why_not, with_other_precisions
from perfmodel.plan.serving.records import FrontierPoint, ServingAlternative, ServingPlan
from perfmodel.plan.serving.space import Candidate
from perfmodel.plan.serving.split import Pools, Split
from perfmodel.predict.serving.demand import demand_of
from perfmodel.predict.serving.draw import facility_w
from perfmodel.predict.serving.estimate import estimate_serving
from perfmodel.predict.serving.records import ServingEstimate
from perfmodel.predict.serving.traffic import attainment
from perfmodel.specs.registry import data_version

__all__ = ["estimate_of", "nothing", "of_both", "plan_of_engine", "plan_of_split"]

_ENOUGH = 1.02
"""Curves are straight between their points; the whole estimate may draw a little more."""
_MOST_MORE = 3
_SLOWEST_S = 0.2
"""A user who gets fewer than five tokens a second is not served."""


def estimate_of(question: ServingQuestion, one: Candidate, engines: int) -> ServingEstimate:
    """The whole record of so many engines at the rate that the plan must hold."""
    layout = one.layout.model_copy(update={"dp": engines * one.groups})
    machine = one.cluster.model_copy(update={"accelerators": max(layout.accelerators, one.cluster.accelerators)})
    workload = question.workload.with_(arrival_rate_per_s=question.rate_per_s)
    return estimate_serving(
        question.model, machine, layout=layout, workload=workload, slo=question.slo,
        weights=one.precisions.weights, kv_cache=one.precisions.kv_cache, software=question.software,
        **question.carbon, **(question.routing.request if question.routing else {}),
    )  # fmt: skip


def of_both(question: ServingQuestion, split: Split) -> tuple[float, float, int]:
    """Watts at the meter, dollars an hour and accelerators of two pools with the engines that may be lost."""
    spare = question.redundancy
    sides = (split.prefill, split.decode)
    idle = sum(facility_w(one.cluster, spare * one.accelerators, one.engine.power.idle_w) for one in sides)
    usd = split.usd_per_hour + spare * sum(one.usd_per_hour for one in sides)
    return split.estimate.facility_w + idle, usd, split.accelerators + spare * sum(one.accelerators for one in sides)


def plan_of_engine(
    question: ServingQuestion, curves: Curves, i: int, order: list[int], found: dict[int, int],
    watts: dict[int, float], pools: Pools | None,
) -> ServingPlan:  # fmt: skip
    """The plan of engines of one kind."""
    one, replicas, split = curves.candidates[i], found[i], None if pools is None else pools.best
    working = max(1, replicas - question.redundancy)
    prediction = estimate_of(question, one, working)
    while prediction.slo_met is False and working - replicas < _MOST_MORE:
        # The curve is straight between its points; the whole estimate decides.
        working += 1
        prediction = estimate_of(question, one, working)
    replicas = max(replicas, working + question.redundancy)
    growth = growth_of(curves, i, question.rate_per_s, working, question.slo)
    draw = prediction.facility_w + spare_watts(curves, i, replicas - working)
    usd, used = replicas * one.usd_per_hour, replicas * one.accelerators
    hourly = hourly_replicas(
        question.workload, curves, i, question.slo, question.redundancy, question.emissions
    )  # fmt: skip
    return _plan(
        question, curves, pools,
        decision={
            "mode": "aggregated", "replicas": replicas, "accelerators_used": used, "usd_per_hour": usd,
            "facility_w": draw, "serve": _role(one, replicas),
        },
        value=question.value(draw, usd, used), prediction=prediction,
        constraints=(*_constraints(question, prediction), *_budgets(question, draw, usd)),
        headroom=growth[1].slo_met, growth=growth,
        max_fitting_context=int(min(one.blocks * question.software.block_tokens, question.model.max_seq_len)),
        hourly=hourly, day=day_of(hourly, one.accelerators, question.emissions),
        alternatives=_alternatives(question, curves, [j for j in order if j != i], found, watts, split, usd),
        sources=prediction.sources, notes=prediction.notes,
    )  # fmt: skip


def plan_of_split(
    question: ServingQuestion, curves: Curves, pools: Pools, order: list[int], found: dict[int, int],
    watts: dict[int, float],
) -> ServingPlan:  # fmt: skip
    """The plan of two pools."""
    split = pools.best
    assert split is not None
    x, y = split.x + question.redundancy, split.y + question.redundancy
    ttft = Constraint(
        name="ttft_s", limit=question.slo.ttft_s or math.inf, value=split.ttft_s,
        slack=(question.slo.ttft_s or math.inf) - split.ttft_s,
    )  # fmt: skip
    tpot = Constraint(
        name="tpot_s", limit=question.slo.tpot_s or math.inf, value=split.estimate.tpot_s,
        slack=(question.slo.tpot_s or math.inf) - split.estimate.tpot_s,
    )  # fmt: skip
    draw, usd, used = of_both(question, split)
    return _plan(
        question, curves, pools,
        decision={
            "mode": "disaggregated", "replicas": x + y, "accelerators_used": used, "usd_per_hour": usd,
            "facility_w": draw, "prefill": _role(split.prefill, x), "decode": _role(split.decode, y, split.batch),
        },
        value=question.value(draw, usd, used), prediction=split.estimate,
        constraints=(*(one for one in (ttft, tpot) if math.isfinite(one.limit)), *_budgets(question, draw, usd)),
        headroom=split.estimate.max_requests_per_s >= 1.2 * question.rate_per_s, growth=(),
        max_fitting_context=int(min(split.decode.blocks * question.software.block_tokens, question.model.max_seq_len)),
        hourly=(), alternatives=_alternatives(question, curves, order, found, watts, None, usd),
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


def _budgets(question: ServingQuestion, watts: float, usd_per_hour: float) -> tuple[Constraint, ...]:
    limits = question.limits
    asked = ("watts", limits.watts, watts), ("usd_per_hour", limits.usd_per_hour, usd_per_hour)
    return tuple(
        Constraint(name=name, limit=most, value=value, slack=most - value)
        for name, most, value in asked if most is not None
    )  # fmt: skip


def _alternatives(
    question: ServingQuestion, curves: Curves, order: list[int], found: dict[int, int], watts: dict[int, float],
    split: Split | None, usd: float,
) -> tuple[ServingAlternative, ...]:  # fmt: skip
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
                facility_w=watts[i], energy_j_per_token=watts[i] / question.tokens_per_s,
                slo_attainment=float(attainment(traffic, question.slo)[0]), ttft_s=float(traffic.ttft_s[0]),
                tpot_s=float(traffic.tpot_s[0]), tied=price <= usd * (1 + 1e-9),
            )
        )  # fmt: skip
    if split is not None:
        others.append(
            ServingAlternative(
                mode="disaggregated", engine=_pools(split), replicas=split.x + split.y,
                accelerators_used=split.accelerators,
                usd_per_hour=split.usd_per_hour, cost_usd_per_mtok=split.estimate.cost_usd_per_mtok,
                facility_w=split.estimate.facility_w, energy_j_per_token=split.estimate.energy_j_per_token,
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


def _certificate(question: ServingQuestion, value: float | None, pools: Pools | None = None) -> Certificate:
    """What is proven: engines of one kind are all priced, pairs of pools as far as their least price could win."""
    pruned = question.candidates.pruned
    priced = len(question.candidates.engines)
    method = "every engine of the space on its whole curve; the fewest of each by doubling and halving"
    bound = value
    if value is not None and pools is not None:
        method += f"; {pools.priced} pairs of pools, the cheapest for their work alone first"
        bound = min(value, pools.others_usd_per_hour) if question.objective == "cost" else None
        if math.isinf(pools.others_usd_per_hour):
            bound = value
    gap = None if value is None or bound is None else value / bound - 1.0
    return Certificate(
        method=method, optimal=gap == 0.0, bound=bound, gap=gap,
        candidates=priced + sum(pruned.values()), priced=priced, pruned=pruned,
    )  # fmt: skip


def _plan(question: ServingQuestion, curves: Curves, pools: Pools | None, *, value: float, **parts: Any) -> ServingPlan:
    return ServingPlan(
        perfmodel_version=__version__, data_version=data_version(), request=question.keywords, feasible=True,
        frontier=_frontier(question, curves), certificate=_certificate(question, value, pools),
        sensitivities=(), infeasible_because=(), **parts,
    )  # fmt: skip


def nothing(
    question: ServingQuestion, curves: Curves | None, found: dict[int, int] | None = None,
    watts: dict[int, float] | None = None, split: Split | None = None,
) -> ServingPlan:  # fmt: skip
    """The plan where nothing keeps the limits; `found` keeps those on latency."""
    if curves is not None and (found or split):
        because = _over_budget(question, curves, found or {}, watts or {}, split)
    else:
        because = why_not(question.candidates, curves, question.slo, question.rate_per_s, question.most)
    if curves is None:
        larger = unrestricted(question, most=MOST_IN_AN_ENGINE).engines
        if larger:
            smallest = min(larger, key=lambda one: one.accelerators)
            because.append(f"would hold it: {smallest.accelerators} accelerators ({smallest.name})")
    elif not (found or split) and (question.keywords["weights"] or question.keywords["kv_cache"]):
        because += with_other_precisions(curves_of(unrestricted(question).engines, question.workload), question.slo)
    return ServingPlan(
        perfmodel_version=__version__, data_version=data_version(), request=question.keywords, feasible=False,
        decision=None, prediction=None, constraints=(), headroom=None, growth=(), max_fitting_context=None, hourly=(),
        alternatives=(), frontier=(), certificate=_certificate(question, None), sensitivities=(),
        infeasible_because=tuple(because), notes=(), sources=(),
    )  # fmt: skip


def _over_budget(
    question: ServingQuestion, curves: Curves, found: dict[int, int], watts: dict[int, float], split: Split | None
) -> list[str]:
    """Which of the limits on watts and dollars no deployment keeps, by how much, and what would be enough."""
    engines = curves.candidates
    names = [f"{n} x {engines[i].name}" for i, n in found.items()]
    draws = [watts[i] for i in found]
    prices = [n * engines[i].usd_per_hour for i, n in found.items()]
    if split is not None:
        draw, usd, _ = of_both(question, split)
        names, draws, prices = [*names, _pools(split)], [*draws, draw], [*prices, usd]
    said = []
    for values, name, rule, most, unit in (
        (draws, "max_watts", "power", question.limits.watts, "W"),
        (prices, "max_usd_per_hour", "dollars", question.limits.usd_per_hour, "USD"),
    ):
        least = min(range(len(values)), key=values.__getitem__)
        if most is not None and values[least] > most:
            said += [
                f"{rule}: the deployment that needs least ({names[least]}) needs {values[least]:,.4g} {unit}, "
                f"{most:,.4g} are allowed",
                f"would fit: {name} of {values[least] * _ENOUGH:.4g}",
            ]
    return said or ["power and dollars: each limit can be kept, not both by one deployment"]


def _pools(split: Split) -> str:
    return f"{split.x} x ({split.prefill.name}) prefill, {split.y} x ({split.decode.name}) decode"
