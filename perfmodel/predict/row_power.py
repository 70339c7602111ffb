"""A row under a policy: brakes a year and shares of time in each state, in closed form or from a history.

The closed form errs on the safe side twice: a cap counts as lifted as soon as the level is below its threshold (more
brakes), and as held until the level is below threshold less hysteresis (more slowdown).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from perfmodel.formulas.power_rows import excursion_rate, normal_tail
from perfmodel.predict.power import ServerPower
from perfmodel.predict.row_load import SECONDS_PER_YEAR, History, LoadStatistics
from perfmodel.predict.row_policy import RowPolicy

__all__ = ["INTERVAL_LEVEL", "RowOutcome", "brakes_interval", "row_outcome", "states_of"]

INTERVAL_LEVEL = 0.8
_PHASES, _LEVELS = 32, 121
_DAY = ((np.arange(_PHASES) + 0.5) / _PHASES / 2)[:, None]
"""Half a day, which the other half mirrors."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RowOutcome:
    """Brakes a year, the highest level with and without caps [1], and shares of the work by state."""

    brakes_per_year: float
    peak: float
    uncapped_peak: float
    state_shares: Floats


def row_outcome(load: History | LoadStatistics, scale: float, policy: RowPolicy, server: ServerPower) -> RowOutcome:
    """What happens to a row whose levels are `scale` times those of `load`."""
    kept = policy.kept(server)
    if isinstance(load, History):
        return _from_history(load, scale, policy, kept)
    return _from_statistics(load, scale, policy, kept)


def brakes_interval(
    load: History | LoadStatistics, scale: float, policy: RowPolicy, server: ServerPower
) -> tuple[float, float]:
    """Brakes a year that are as likely as `INTERVAL_LEVEL` says: a published peak is one draw, a history is short."""
    kept = policy.kept(server)
    if isinstance(load, History):
        years = float(load.weights_s.sum()) / SECONDS_PER_YEAR
        return _poisson_interval(round(_from_history(load, scale, policy, kept).brakes_per_year * years), years)
    margin = float(norm.ppf(0.5 + INTERVAL_LEVEL / 2)) * load.peak_sd
    # A higher level reaches a threshold earlier, so the rate need not rise with it.
    rates = [_brake_rate(load, scale, policy, kept, shift) for shift in (-margin, 0.0, margin)]
    return min(rates), max(rates)


def _from_statistics(load: LoadStatistics, scale: float, policy: RowPolicy, kept: Floats) -> RowOutcome:
    rate = _brake_rate(load, scale, policy, kept, 0.0)
    levels, weights = _grid(load)
    work = weights * np.maximum(levels - load.idle, 0.0)
    states = np.searchsorted(np.array(policy.thresholds) - policy.hysteresis, levels * scale, side="left")
    shares = np.bincount(states.ravel(), work.ravel(), minlength=len(kept)) / work.sum()
    braked = min(1.0, rate * max(policy.brake_s, policy.frequency_s) / SECONDS_PER_YEAR)
    shares = shares * (1.0 - braked)
    shares[-1] = braked
    top = load.peak * scale
    held = top * float(kept[np.searchsorted(policy.thresholds, top, side="left")])
    return RowOutcome(rate, held, top, shares)


@lru_cache(maxsize=32)
def _grid(load: LoadStatistics) -> tuple[Floats, Floats]:
    """Levels by time of day and drift, and their weights."""
    z = np.linspace(-5.0, 5.0, _LEVELS)
    weights = norm.pdf(z) / norm.pdf(z).sum()
    levels = load.wave(_DAY) + load.level_sd * z
    return levels, np.broadcast_to(weights / _PHASES, levels.shape)


def _brake_rate(load: LoadStatistics, scale: float, policy: RowPolicy, kept: Floats, shift: float) -> float:
    """Brakes a year: excursions past the limit that holds in the state which was ordered a latency ago."""
    before, weights = _grid(load)
    mean = load.wave(_DAY) + shift
    memory = math.exp(-policy.frequency_s / load.memory_s)
    states = np.searchsorted(policy.thresholds, (before + shift) * scale, side="left")
    limit = policy.brake_at / (kept[states] * scale)
    drift = max(load.level_sd * math.sqrt(1.0 - memory**2), 1e-6)
    expected = mean + memory * (before + shift - mean)
    over = normal_tail(np.clip((limit - expected) / drift, -30.0, 30.0))
    rate_per_s = excursion_rate(over, np.clip((limit - mean) / load.level_sd, 0.0, 30.0), load.memory_s)
    return float((rate_per_s * weights).sum()) * SECONDS_PER_YEAR


def states_of(levels: Floats, scale: float, policy: RowPolicy, kept: Floats) -> NDArray[np.int64]:
    """The state ordered at each sample [0: no cap]: up past a threshold, down when the capped level is below it."""
    states: NDArray[np.int64] = np.zeros(levels.shape, dtype=np.int64)
    for step, threshold in enumerate(policy.thresholds):
        wanted = levels * scale
        order = np.where(
            wanted > threshold, 1, np.where(wanted * kept[step + 1] < threshold - policy.hysteresis, 0, -1)
        )
        at = np.maximum.accumulate(np.where(order >= 0, np.arange(order.size), 0))
        states += np.maximum(order[at], 0)
    return states


def _from_history(load: History, scale: float, policy: RowPolicy, kept: Floats) -> RowOutcome:
    ordered = states_of(load.levels, scale, policy, kept)
    # Between samples a level holds, so the state in force is the one ordered by the last sample a latency ago.
    source = np.searchsorted(load.times_s, load.times_s - policy.frequency_s, side="right") - 1
    states = np.where(source >= 0, ordered[np.maximum(source, 0)], 0)
    wanted = load.levels * scale
    power = wanted * kept[states]
    over = power > policy.brake_at
    events = int(np.count_nonzero(over & ~np.append(False, over[:-1])))
    weights = load.weights_s
    work = weights * wanted
    states = np.where(over, len(kept) - 1, states)
    shares = np.bincount(states, work, minlength=len(kept)) / max(float(work.sum()), 1e-300)
    years = float(weights.sum()) / SECONDS_PER_YEAR
    held = float(np.where(over, 0.0, power).max())
    return RowOutcome(events / years, held, float(wanted.max()), shares)


def _poisson_interval(events: int, years: float) -> tuple[float, float]:
    """Rates a year that would give so many events (Garwood): none seen is not none to come."""
    tail = (1.0 - INTERVAL_LEVEL) / 2
    low: Any = chi2.ppf(tail, 2 * events) / 2 if events else 0.0
    return float(low) / years, float(chi2.ppf(1.0 - tail, 2 * events + 2)) / 2 / years
