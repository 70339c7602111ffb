"""What a deployment does as traffic changes: a fifth more, until the queue has no end, and through a day."""

from __future__ import annotations

from perfmodel.formulas.cost import energy_kwh
from perfmodel.plan.serving.energy import facility_watts, spare_watts
from perfmodel.plan.serving.points import Curves
from perfmodel.plan.serving.records import Growth, HourlyReplicas
from perfmodel.predict.emissions import Emissions
from perfmodel.predict.serving.traffic import attainment
from perfmodel.specs.workload import Slo, Workload

__all__ = ["FACTORS", "LOAD_BYTE_PER_S", "WARM_UP_S", "day_of", "growth_of", "hourly_replicas"]

FACTORS = (1.0, 1.2, 1.5)
LOAD_BYTE_PER_S = 2e9
"""What an accelerator reads of its weights from storage, where nobody says (a share of an NVMe drive) [B/s]."""
HOUR_S = 3600.0
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
    workload: Workload, curves: Curves, i: int, slo: Slo, redundancy: int, emissions: Emissions
) -> tuple[HourlyReplicas, ...]:
    """Engines for each hour of the day's profile, and how early new ones must start: their weights load first."""
    one = curves.candidates[i]
    ready_s = one.memory.weights / LOAD_BYTE_PER_S + WARM_UP_S
    found: list[HourlyReplicas] = []
    for hour, rate in enumerate(workload.hourly_rates_per_s):
        engines = curves.engines_for(rate, slo, [i]).get(i, 0) if rate > 0 else 0
        count = max(engines, 1) + redundancy
        more = bool(found) and count > found[-1].replicas
        spare = count if rate <= 0 else redundancy
        watts = spare_watts(curves, i, count) if spare == count else facility_watts(curves, rate, {i: count}, spare)[i]
        found.append(
            HourlyReplicas(
                hour=hour, arrival_rate_per_s=rate, replicas=count, start_before_s=ready_s if more else 0.0,
                facility_w=watts,
                carbon_kg=float(emissions.kg(watts * HOUR_S, float(count * one.accelerators), HOUR_S, hour)),
            )
        )  # fmt: skip
    return tuple(found)


def day_of(hourly: tuple[HourlyReplicas, ...], accelerators: int, emissions: Emissions) -> dict[str, float] | None:
    """Energy and carbon of a day hour by hour, and the carbon of the same energy in the mean hour."""
    if not hourly:
        return None
    joules = sum(one.facility_w or 0.0 for one in hourly) * HOUR_S
    used = sum(one.replicas for one in hourly) * float(accelerators)
    return {
        "energy_kwh": float(energy_kwh(joules)),
        "carbon_kg": sum(one.carbon_kg or 0.0 for one in hourly),
        "mean_hour_carbon_kg": float(emissions.kg(joules, used, HOUR_S)),
    }
