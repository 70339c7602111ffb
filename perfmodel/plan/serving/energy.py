"""What deployments draw, and the order in which energy or carbon puts them."""

from __future__ import annotations

from collections.abc import Mapping

from perfmodel.plan.serving.points import Curves
from perfmodel.predict.serving.demand import demand_of
from perfmodel.predict.serving.draw import busy_share, facility_w, mean_w
from perfmodel.predict.serving.operating import phases_at

__all__ = ["facility_watts", "spare_watts"]


def facility_watts(curves: Curves, rate_per_s: float, counts: Mapping[int, int], spare: int) -> dict[int, float]:
    """Mean draw [W] at the meter of so many engines of each candidate, of which `spare` wait; from their curves."""
    return {i: _of(curves, rate_per_s, i, count, spare) for i, count in counts.items()}


def spare_watts(curves: Curves, i: int, engines: int) -> float:
    """Draw [W] at the meter of engines that only wait."""
    one = curves.candidates[i]
    return facility_w(one.cluster, engines * one.accelerators, one.engine.power.idle_w)


def _of(curves: Curves, rate_per_s: float, i: int, count: int, spare: int) -> float:
    one, demand = curves.candidates[i], demand_of(curves.workload)
    working = max(1, count - spare)
    traffic = curves.at(rate_per_s, working, [i])
    batch, latency_s = max(1.0, float(traffic.batch[0])), float(traffic.latency_s[0])
    each = rate_per_s / (working * one.groups)
    decode, prompt = phases_at(one.engine, batch, demand)
    watts = mean_w(one.engine.power, prompt, decode, each, busy_share(each, latency_s))
    return facility_w(one.cluster, working * one.accelerators, watts) + spare_watts(curves, i, count - working)
