"""`plan_serving`: the cheapest deployment that keeps its latency limits under its traffic, with the reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from perfmodel.plan.serving.describe import estimate_of, nothing, of_both, plan_of_engine, plan_of_split
from perfmodel.plan.serving.energy import facility_watts, spare_watts
from perfmodel.plan.serving.points import Curves, curves_of
from perfmodel.plan.serving.question import MODES, OBJECTIVES, Limits, ServingQuestion, question_of
from perfmodel.plan.serving.records import ServingPlan
from perfmodel.plan.serving.split import Pools, Split, cheapest_split
from perfmodel.predict.serving.traffic import attainment
from perfmodel.specs.region import Region
from perfmodel.specs.serving_software import ServingSoftware
from perfmodel.specs.workload import Slo, Workload

__all__ = ["MODES", "OBJECTIVES", "ServingQuestion", "plan_serving"]

_PRICED = 6
"""Engines whose whole estimate is made where energy decides between those of nearly the same draw."""
_NEARLY = 1.03


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
    max_watts: float | None = None,
    max_usd_per_hour: float | None = None,
    region: Region | str | Path | Mapping[str, Any] | None = None,
    carbon_kg_per_kwh: float | None = None,
    embodied_kg: float | None = None,
    life_years: float | None = None,
    carbon_by_hour: Sequence[float] | str | Path | None = None,
    memory_margin: float = 0.0,
    redundancy: int = 0,
    traffic_factor: float = 1.0,
    beside: Sequence[Any] = (),
    top: int = 8,
    expert_imbalance: float | None = None,
    expert_loads: Any = None,
    expert_placement: Any = None,
) -> ServingPlan:
    """The deployment of least `objective` that serves `workload` within `slo`: which engines, how many, how cut.

    `cluster` may be several kinds of machines to choose from. `objective`: "cost" (USD an hour), "energy" (J a token),
    "carbon" (kg CO2e a token, of a `region` or of `carbon_kg_per_kwh`, with `embodied_kg` of making an accelerator over
    `life_years`) or "throughput" (most requests within the limits on `max_accelerators`). `max_watts` limits the mean
    draw at the meter, `max_usd_per_hour` the price. With `carbon_by_hour` (24 intensities or their CSV) a steady load
    has their mean, and a workload with rates by hour a day's carbon of its own. `weights` and `kv_cache` are precisions
    to choose from (default: 16 bits, and fp8 where the hardware multiplies it). The plan holds with `redundancy`
    replicas lost and at `traffic_factor` times the rate; models `beside` stay resident on the same accelerators.
    Experts are loaded evenly, or as one of `expert_imbalance`, `expert_loads` and `expert_placement` says.
    Raises `SpecError` and `PlanError`; where nothing keeps the limits the plan says so.
    """
    question = question_of(
        model, cluster, workload, slo, objective=objective, software=software, weights=weights, kv_cache=kv_cache,
        modes=modes, max_accelerators=max_accelerators, max_watts=max_watts, max_usd_per_hour=max_usd_per_hour,
        region=region, carbon_kg_per_kwh=carbon_kg_per_kwh, embodied_kg=embodied_kg, life_years=life_years,
        carbon_by_hour=carbon_by_hour, memory_margin=memory_margin, redundancy=redundancy,
        traffic_factor=traffic_factor, beside=beside, top=top,
        expert_imbalance=expert_imbalance, expert_loads=expert_loads, expert_placement=expert_placement,
    )  # fmt: skip
    engines = question.candidates.engines
    if not engines:
        return nothing(question, None)
    curves = curves_of(engines, question.workload)
    if objective == "throughput":
        question, found = _most_served(question, curves)
    else:
        found = _within_size(question, curves.engines_for(question.rate_per_s, question.slo, range(len(engines))))
    if "aggregated" not in question.modes:
        found = {}
    watts = facility_watts(curves, question.rate_per_s, found, question.redundancy)
    order = _ordered(question, curves, found, watts)
    within = [i for i in order if question.limits.keeps(watts[i], found[i] * engines[i].usd_per_hour)]
    pools = _pools(question, curves, found, within)
    for i in _best_first(question, curves, within, found, watts):
        plan = plan_of_engine(question, curves, i, order, found, watts, pools)
        decided = plan.decision or {}
        draw, usd, used = (decided[key] for key in ("facility_w", "usd_per_hour", "accelerators_used"))
        if pools and pools.best and _split_value(question, pools.best) < question.value(draw, usd, used):
            break
        if question.limits.keeps(draw, usd):
            return plan
    if pools and pools.best:
        return plan_of_split(question, curves, pools, order, found, watts)
    unlimited = None if question.limits == Limits() else _pools(replace(question, limits=Limits()), curves, {}, [])
    return nothing(question, curves, found, watts, unlimited.best if unlimited else None)


def _pools(question: ServingQuestion, curves: Curves, found: dict[int, int], within: list[int]) -> Pools | None:
    """The best of two pools, if they are asked for; engines `within` the limits say what there is to beat."""
    if "disaggregated" not in question.modes or question.objective == "throughput":
        return None
    beaten = min((found[i] * curves.candidates[i].usd_per_hour for i in within), default=math.inf)
    return cheapest_split(
        curves, question.rate_per_s, question.slo, question.most, partial(_split_value, question), question.carbon,
        spare=question.redundancy, beaten_usd_per_hour=beaten if question.objective == "cost" else math.inf,
    )  # fmt: skip


def _within_size(question: ServingQuestion, found: dict[int, int]) -> dict[int, int]:
    """Engines with those that may be lost, where they are no more than allowed."""
    engines = question.candidates.engines
    spare = {i: count + question.redundancy for i, count in found.items()}
    most = question.most
    return {i: count for i, count in spare.items() if most is None or count * engines[i].accelerators <= most}


def _ordered(question: ServingQuestion, curves: Curves, found: dict[int, int], watts: dict[int, float]) -> list[int]:
    """Best first; of equal value the wider precision, then the faster for its users."""
    engines = curves.candidates

    def key(i: int) -> tuple[Any, ...]:
        one, count = engines[i], found[i]
        working = max(1, count - question.redundancy)
        traffic = curves.at(question.rate_per_s, working, [i])
        narrow = one.precisions.weight_bytes + one.precisions.kv_bytes
        kept = float(attainment(traffic, question.slo)[0])
        value = round(question.value(watts[i], count * one.usd_per_hour, count * one.accelerators), 6)
        if question.objective == "throughput":
            value = -float(working * curves.most[i])
        return value, -narrow, -round(kept, 3), count * one.accelerators, i

    return sorted(found, key=key)


def _best_first(
    question: ServingQuestion, curves: Curves, order: list[int], found: dict[int, int], watts: dict[int, float]
) -> list[int]:
    """The same order; where energy decides, those nearly as good as the best by their whole estimates."""
    if question.objective not in ("energy", "carbon") or not order:
        return order
    engines = curves.candidates

    def value(i: int, draw: float) -> float:
        return question.value(draw, found[i] * engines[i].usd_per_hour, found[i] * engines[i].accelerators)

    near = [i for i in order if value(i, watts[i]) <= _NEARLY * value(order[0], watts[order[0]])][:_PRICED]
    spare = question.redundancy
    whole = {
        i: estimate_of(question, engines[i], max(1, found[i] - spare)).facility_w + spare_watts(curves, i, spare)
        for i in near
    }
    return sorted(near, key=lambda i: value(i, whole[i])) + order[len(near) :]


def _split_value(question: ServingQuestion, split: Split) -> float:
    """The objective of two pools; infinite where they break a limit."""
    watts, usd, used = of_both(question, split)
    return question.value(watts, usd, used) if question.limits.keeps(watts, usd) else math.inf


def _most_served(question: ServingQuestion, curves: Curves) -> tuple[ServingQuestion, dict[int, int]]:
    """The engine whose copies on all accelerators serve most within the limits, and that rate as the question."""
    best, rates, counts = 0.0, {}, {}
    for i in range(len(curves.candidates)):
        counts[i] = _affordable(question, curves, i)
        count = counts[i] - question.redundancy
        if count < 1:
            continue
        traffic = curves.along(count)[i]
        kept = attainment(traffic, question.slo) >= question.slo.percentile
        if kept.any():
            rates[i] = float(traffic.arrival_rate_per_s[kept].max()) * curves.candidates[i].groups * count
            best = max(best, rates[i])
    asked = ServingQuestion(**{**question.__dict__, "rate_per_s": best})
    return asked, {i: counts[i] for i in rates if rates[i] >= 0.999 * best}


def _affordable(question: ServingQuestion, curves: Curves, i: int) -> int:
    """Engines of a kind within all limits, each drawing what it draws at its fullest."""
    one, limits = curves.candidates[i], question.limits
    count = (question.most or 0) // one.accelerators
    if limits.usd_per_hour is not None:
        count = min(count, int(limits.usd_per_hour / one.usd_per_hour))
    if limits.watts is not None:
        full = facility_watts(curves, float(curves.most[i]), {i: 1}, 0)[i]
        count = min(count, int(limits.watts / full))
    return count
