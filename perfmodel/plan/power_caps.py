"""Clocks by pipeline stage: what is off the critical path runs slower, at no longer step (Perseus)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.power import energy_at_clock
from perfmodel.predict.records import Warned
from perfmodel.specs.power import PowerSet

__all__ = ["StageClocks", "clock_warnings", "plan_stage_clocks"]

_PACES = 20


@dataclass(frozen=True)
class StageClocks:
    """Clock ratio of each stage [1], the energy of a micro-batch over all stages, waits included [J], and its time."""

    clock_ratios: tuple[float, ...]
    energy_j: float
    energy_before_j: float
    pace_s: float

    @property
    def saved_share(self) -> float:
        """Energy saved [1]."""
        return 1.0 - self.energy_j / self.energy_before_j


def plan_stage_clocks(
    stage_s: Sequence[float],
    power: PowerSet,
    *,
    clock_bound_share: float = 1.0,
    slack: float = 0.0,
    busy_w: float | None = None,
    rest_w: float = 0.0,
) -> StageClocks:
    """The least-energy clocks at which no stage takes longer than the slowest (times up to 1 + `slack`).

    `stage_s` [s] is a micro-batch's time in each stage at full clocks. A stage that is early waits and draws its static
    power meanwhile, so only the dynamic energy can be saved, and the lowest clock that keeps the pace saves most (Chung
    et al. 2024, "Perseus", arXiv:2312.06902). `busy_w` [W] is what work draws that follows the clock, static power
    included (default: the set's own); `rest_w` [W] runs beside each stage all the time, as servers do. Raises
    `PlanError`.
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
    if not 0 <= rest_w < math.inf:
        raise OutOfRangeError(f"rest_w: must be 0 or more watts (got {rest_w!r})")
    dynamic_w = max(0.0, (power.busy_w if busy_w is None else busy_w) - float(power.static_w))
    draw = _Draw(power, float(power.static_w) + rest_w, dynamic_w, clock_bound_share)
    paces = [max(stage_s) * (1.0 + slack * step / _PACES) for step in range(_PACES + 1)]
    plans = [_at_pace(stage_s, draw, pace) for pace in (paces if slack else paces[:1])]
    pace, clocks, joules = min(plans, key=lambda plan: plan[2])
    before_j = _joules(stage_s, draw, max(stage_s), [1.0] * len(stage_s))
    return StageClocks(clocks, joules, before_j, pace)


@dataclass(frozen=True)
class _Draw:
    """What a stage draws all the time and at work [W], and the share of its time that follows the clock [1]."""

    power: PowerSet
    static_w: float
    dynamic_w: float
    share: float


def _at_pace(stage_s: Sequence[float], draw: _Draw, pace: float) -> tuple[float, tuple[float, ...], float]:
    """The lowest clocks that keep a pace, and what they take."""
    slowest = float(draw.power.min_clock_hz or 0.0) / float(draw.power.clock_hz or 1.0)
    # time_at_clock solved for the clock: t (1 - s + s / r) = pace.
    share = draw.share
    clocks = tuple(min(1.0, max(slowest, share / (pace / seconds - 1.0 + share))) for seconds in stage_s)
    return pace, clocks, _joules(stage_s, draw, pace, clocks)


def _joules(stage_s: Sequence[float], draw: _Draw, pace: float, clocks: Sequence[float]) -> float:
    """Static power all the time, and the dynamic energy of the work at these clocks [J]."""
    slope, floor = float(draw.power.voltage_slope), float(draw.power.voltage_floor)
    pairs = zip(stage_s, clocks, strict=True)
    work = (energy_at_clock(s, 0.0, draw.dynamic_w, draw.share, r, slope, floor) for s, r in pairs)
    return draw.static_w * pace * len(stage_s) + float(sum(work))


def clock_warnings(power: PowerSet) -> Iterator[Warned]:
    """What is not measured of a device at lower clocks: its voltage, or everything."""
    slope = power.voltage_slope
    if slope > 0 and slope.kind == "assumed":
        yield Warned(formula="clock_dynamic_ratio", quantity="voltage_slope", value=float(slope), valid="not measured")
    if power.relative:
        yield Warned(formula="power_set", quantity="accelerator", value=power.id, valid=power.relative)
