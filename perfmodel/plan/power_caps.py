"""Clocks by pipeline stage: what is off the critical path runs slower, at no longer step (Perseus)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.power import energy_at_clock
from perfmodel.specs.power import PowerSet

__all__ = ["StageClocks", "plan_stage_clocks"]

_PACES = 20


@dataclass(frozen=True)
class StageClocks:
    """Clock ratio of each stage [1], and the energy of a micro-batch over all stages, waits included [J]."""

    clock_ratios: tuple[float, ...]
    energy_j: float
    energy_before_j: float

    @property
    def saved_share(self) -> float:
        """Energy saved [1]."""
        return 1.0 - self.energy_j / self.energy_before_j


def plan_stage_clocks(
    stage_s: Sequence[float], power: PowerSet, *, clock_bound_share: float = 1.0, slack: float = 0.0
) -> StageClocks:
    """The least-energy clocks at which no stage takes longer than the slowest (times up to 1 + `slack`).

    `stage_s` [s] is a micro-batch's time in each stage at full clocks. A stage that is early waits and draws its static
    power meanwhile, so only the dynamic energy can be saved, and the lowest clock that keeps the pace saves most (Chung
    et al. 2024, "Perseus", arXiv:2312.06902). Raises `PlanError`.
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
    paces = [max(stage_s) * (1.0 + slack * step / _PACES) for step in range(_PACES + 1)]
    plans = [_at_pace(stage_s, power, pace, clock_bound_share) for pace in (paces if slack else paces[:1])]
    clocks, joules = min(plans, key=lambda plan: plan[1])
    return StageClocks(clocks, joules, _joules(stage_s, power, max(stage_s), clock_bound_share, [1.0] * len(stage_s)))


def _at_pace(stage_s: Sequence[float], power: PowerSet, pace: float, share: float) -> tuple[tuple[float, ...], float]:
    """The lowest clocks that keep a pace, and what they take."""
    slowest = float(power.min_clock_hz or 0.0) / float(power.clock_hz or 1.0)
    # time_at_clock solved for the clock: t (1 - s + s / r) = pace.
    clocks = tuple(min(1.0, max(slowest, share / (pace / seconds - 1.0 + share))) for seconds in stage_s)
    return clocks, _joules(stage_s, power, pace, share, clocks)


def _joules(stage_s: Sequence[float], power: PowerSet, pace: float, share: float, clocks: Sequence[float]) -> float:
    """Static power all the time, and the dynamic energy of the work at these clocks [J]."""
    slope, floor = float(power.voltage_slope), float(power.voltage_floor)
    dynamic_w = power.busy_w - float(power.static_w)
    work = (energy_at_clock(s, 0.0, dynamic_w, share, r, slope, floor) for s, r in zip(stage_s, clocks, strict=True))
    return float(power.static_w) * pace * len(stage_s) + float(sum(work))
