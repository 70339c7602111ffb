"""Clocks by pipeline stage: what is off the critical path runs slower, at no longer step (Perseus)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.power import energy_at_clock
from perfmodel.predict.power import least_energy_clock
from perfmodel.specs.power import PowerSet

__all__ = ["StageClocks", "plan_stage_clocks"]


@dataclass(frozen=True)
class StageClocks:
    """Clock ratio of each stage [1], and the busy energy of a micro-batch over all stages [J] before and after."""

    clock_ratios: tuple[float, ...]
    energy_j: float
    energy_before_j: float

    @property
    def saved_share(self) -> float:
        """Energy saved at no slowdown [1]."""
        return 1.0 - self.energy_j / self.energy_before_j


def plan_stage_clocks(
    stage_s: Sequence[float], power: PowerSet, *, clock_bound_share: float = 1.0, slack: float = 0.0
) -> StageClocks:
    """The least-energy clocks at which no stage takes longer than the slowest (times 1 + `slack`).

    `stage_s` [s] is a micro-batch's time in each stage at full clocks. Stages do not share a budget, so each takes its
    own optimum: the clock of least energy, or the lowest that meets the pace if that is higher. Raises `PlanError`.
    """
    if not stage_s:
        raise PlanError("stage_s: is empty; give the seconds of each stage")
    for seconds in stage_s:
        if isinstance(seconds, bool) or not 0 < seconds < math.inf:
            raise OutOfRangeError(f"stage_s: must be positive seconds (got {seconds!r})")
    if not 0 < clock_bound_share <= 1:
        raise OutOfRangeError(f"clock_bound_share: must be more than 0 and at most 1 (got {clock_bound_share!r})")
    if not 0 <= slack < math.inf:
        raise OutOfRangeError(f"slack: must be 0 or more (got {slack!r})")
    dynamic = power.busy_w - float(power.static_w)
    cheapest = least_energy_clock(power, clock_bound_share, dynamic)
    pace = max(stage_s) * (1.0 + slack)
    # time_at_clock solved for the clock: t (1 - s + s / r) = pace.
    needed = [clock_bound_share / (pace / seconds - 1.0 + clock_bound_share) for seconds in stage_s]
    clocks = tuple(min(1.0, max(cheapest, ratio)) for ratio in needed)
    return StageClocks(
        clocks,
        sum(
            _energy(power, seconds, dynamic, clock_bound_share, clock)
            for seconds, clock in zip(stage_s, clocks, strict=True)
        ),
        sum(_energy(power, seconds, dynamic, clock_bound_share, 1.0) for seconds in stage_s),
    )


def _energy(power: PowerSet, seconds: float, dynamic_w: float, share: float, clock: float) -> float:
    slope, floor = float(power.voltage_slope), float(power.voltage_floor)
    return float(energy_at_clock(seconds, float(power.static_w), dynamic_w, share, clock, slope, floor))
