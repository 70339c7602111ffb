"""What a deployment does as traffic changes: a fifth more, until the queue has no end, and through a day."""

from __future__ import annotations

from perfmodel.plan.serving.points import Curves
from perfmodel.plan.serving.records import Growth, HourlyReplicas
from perfmodel.predict.serving.traffic import attainment
from perfmodel.specs.workload import Slo, Workload

__all__ = ["FACTORS", "LOAD_BYTE_PER_S", "WARM_UP_S", "growth_of", "hourly_replicas"]

FACTORS = (1.0, 1.2, 1.5)
LOAD_BYTE_PER_S = 2e9
"""What an accelerator reads of its weights from storage, where nobody says (a share of an NVMe drive) [B/s]."""
WARM_UP_S = 60.0
"""Capturing graphs and filling the first batch [s]: assumed."""


def growth_of(curves: Curves, i: int, rate_per_s: float, engines: int, slo: Slo) -> tuple[Growth, ...]:
    """The share of requests within the limits as the rate grows with no engine more."""
    most = float(curves.most[i]) * engines
    found = []
    for factor in FACTORS:
        rate = factor * rate_per_s
        kept = float(attainment(curves.at(rate, engines, [i]), slo)[0]) if rate < most else 0.0
        found.append(
            Growth(traffic_factor=factor, slo_attainment=kept, slo_met=kept >= slo.percentile, diverges_at_per_s=most)
        )
    return tuple(found)


def hourly_replicas(
    workload: Workload, curves: Curves, i: int, slo: Slo, redundancy: int
) -> tuple[HourlyReplicas, ...]:
    """Engines for each hour of the day's profile, and how early new ones must start: their weights load first."""
    one = curves.candidates[i]
    ready_s = one.memory.weights / LOAD_BYTE_PER_S + WARM_UP_S
    found: list[HourlyReplicas] = []
    for hour, rate in enumerate(workload.hourly_rates_per_s):
        engines = curves.engines_for(rate, slo, [i]).get(i, 0) if rate > 0 else 0
        count = max(engines, 1) + redundancy
        more = bool(found) and count > found[-1].replicas
        found.append(
            HourlyReplicas(hour=hour, arrival_rate_per_s=rate, replicas=count, start_before_s=ready_s if more else 0.0)
        )
    return tuple(found)
