"""How much of its provisioned power a row draws: a history, or the few statistics that are published of one.

Levels are shares of the provisioned power of the row as it stands, before servers are added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.overlap import expected_maximum_of_normals
from perfmodel.formulas.power_rows import drift_sd

__all__ = ["History", "LoadStatistics", "history_of", "training_history"]

SECONDS_PER_DAY, SECONDS_PER_YEAR = 86400.0, 365.25 * 86400.0
_USUAL_MAXIMUM = 4.0
"""Standard deviations of a maximum over weeks, where only its logarithm matters."""
_MOST_SAMPLES = 5_000_000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """Levels [1] at times [s]; each level holds until the next time, the last one as long as the one before."""

    times_s: Floats
    levels: Floats

    @property
    def step_s(self) -> float:
        """The usual distance of two samples [s]."""
        return float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else 1.0

    @property
    def weights_s(self) -> Floats:
        """How long each level holds [s]."""
        steps = np.diff(self.times_s)
        return np.append(steps, steps[-1] if len(steps) else 1.0)

    @property
    def peak(self) -> float:
        """The highest level [1]."""
        return float(self.levels.max())

    def duration_curve(self, points: int = 201) -> tuple[Floats, Floats]:
        """Shares of time [1] and the levels [1] that are exceeded for so long."""
        order = np.argsort(self.levels)[::-1]
        shares = np.cumsum(self.weights_s[order]) / self.weights_s.sum()
        at = np.linspace(0.0, 1.0, points)
        return at, np.interp(at, shares, self.levels[order])


@dataclass(frozen=True)
class LoadStatistics:
    """A row known by what is published of it: a daily wave, and around it a level that drifts and returns.

    `peak` [1] is the highest level in `days`; `rise` [1] the largest rise within `rise_s`. `memory_s` is how long a
    burst lasts (210 s: the rates of the Azure conversation trace of 2023 vary by 22 % over 60 s and by 18 % over
    300 s); `peak_over_valley` is of the daily load (2.8: the conversation service of DynamoLLM, arXiv:2408.00741);
    `idle` [1] is the level without load. Raises `PlanError`.
    """

    peak: float
    rise: float
    rise_s: float = 40.0
    days: float = 42.0
    memory_s: float = 210.0
    peak_over_valley: float = 2.8
    idle: float = 1500.0 / 6500.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("peak", 0.0, 1.5), ("rise", 0.0, 1.0), ("rise_s", 0.0, 3600.0), ("days", 0.5, 3660.0),
            ("memory_s", 0.0, 86400.0), ("peak_over_valley", 1.0, 1000.0), ("idle", 0.0, 1.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise PlanError(f"load.{name}: must be a number (got {value!r})")
            if not low < value <= high and not (name in ("idle", "peak_over_valley") and value == low):
                raise OutOfRangeError(f"load.{name}: must be more than {low:g} and at most {high:g} (got {value:g})")
        if self.peak_mean <= self.idle:
            raise PlanError(
                f"load: a rise of {self.rise:g} within {self.rise_s:g} s needs swings that leave no room under "
                f"the peak of {self.peak:g} above idle, {self.idle:.3g}; synchronous training? (kind = 'training')"
            )

    @property
    def level_sd(self) -> float:
        """Spread of the level around its daily wave [1], so that the largest rise is expected to be `rise`."""
        one = float(drift_sd(1.0, self.rise_s, self.memory_s))
        return self.rise / (one * float(expected_maximum_of_normals(_draws(self._seconds / self.rise_s))))

    @property
    def _seconds(self) -> float:
        return self.days * SECONDS_PER_DAY

    @property
    def draws(self) -> float:
        """Independent levels near the top of the daily wave in all days [1] (Laplace's method for its crest)."""
        crest = (self.peak - self.idle) * (1.0 - 1.0 / self.peak_over_valley) / self.level_sd
        share = min(1.0, 1.0 / math.sqrt(1.0 + math.pi * _USUAL_MAXIMUM * crest))
        return _draws(share * self._seconds / self.memory_s)

    @property
    def peak_sd(self) -> float:
        """Spread of the highest level between rows of the same kind [1] (Gumbel)."""
        return self.level_sd * math.pi / math.sqrt(6.0) / math.sqrt(2.0 * math.log(self.draws))

    @property
    def peak_mean(self) -> float:
        """Mean level at the busiest time of day [1], so that the highest level is expected to be `peak`."""
        return self.peak - self.level_sd * float(expected_maximum_of_normals(self.draws))

    def wave(self, day_share: Any) -> Any:
        """Mean level at a time of day [1]; 0.5 is the busiest."""
        valley = 1.0 / self.peak_over_valley
        load = valley + (1.0 - valley) * (1.0 - np.cos(2.0 * np.pi * day_share)) / 2.0
        return self.idle + (self.peak_mean - self.idle) * load

    def duration_curve(self, points: int = 201) -> tuple[Floats, Floats]:
        """Shares of time [1] and the levels [1] that are exceeded for so long."""
        from scipy.stats import norm

        phases = (np.arange(96) + 0.5) / 96
        z = norm.ppf((np.arange(200) + 0.5) / 200)
        levels = np.sort((self.wave(phases)[:, None] + self.level_sd * z).ravel())[::-1]
        at = np.linspace(0.0, 1.0, points)
        return at, np.interp(at, (np.arange(levels.size) + 0.5) / levels.size, levels)


def _draws(memories: float) -> float:
    """Independent normal draws with the same maximum as a level watched for so many memories (Pickands 1969)."""
    apart = max(memories, 2.0)
    return apart * max(1.0, float(expected_maximum_of_normals(apart))) ** 2


def training_history(peak: float, rise: float, period_s: float = 10.0, trough_s: float = 2.0) -> History:
    """Synchronous training: the whole row at `peak`, and `rise` below it between iterations."""
    times = np.arange(0.0, 600.0, 1.0)
    return History(times, np.where(times % period_s < trough_s, peak - rise, peak))


def history_of(series: Any) -> History:
    """A history from (seconds, fractions) or a list of pairs; raises `PlanError` for what is no history."""
    times, levels = _columns(series)
    if times.size == 0:
        raise PlanError("load: is empty; give at least two samples (seconds, fraction of provisioned power)")
    if times.size < 2:
        raise PlanError("load: needs at least two samples (got 1)")
    if times.size > _MOST_SAMPLES:
        raise PlanError(f"load: at most {_MOST_SAMPLES:,} samples (got {times.size:,})")
    if not (np.isfinite(times).all() and np.isfinite(levels).all()):
        raise PlanError("load: holds a value that is not a finite number")
    late = np.flatnonzero(np.diff(times) <= 0)
    if late.size:
        at = int(late[0])
        raise PlanError(
            f"load: times must rise (sample {at + 1} is at {times[at + 1]:g} s, the one before at {times[at]:g} s)"
        )
    worst = float(levels.max()) if levels.max() > 1.5 else float(levels.min())
    if levels.min() < 0 or levels.max() > 1.5:
        raise OutOfRangeError(f"load: fractions of the provisioned power must be from 0 to 1.5 (got {worst:g})")
    return History(times, levels)


def _columns(series: Any) -> tuple[Floats, Floats]:
    try:
        if isinstance(series, Sequence) and len(series) == 2 and np.ndim(series[0]) == 1 and len(series[0]) != 2:
            times, levels = (np.asarray(column, dtype=np.float64) for column in series)
        else:
            table = np.asarray(series, dtype=np.float64)
            if table.size == 0:
                return np.empty(0), np.empty(0)
            if table.ndim != 2 or 2 not in table.shape:
                raise ValueError
            times, levels = table.T if table.shape[1] == 2 else table
    except (TypeError, ValueError):
        raise PlanError("load: must be (seconds, fractions): two columns of equal length") from None
    if times.shape != levels.shape:
        raise PlanError(f"load: {times.size} times but {levels.size} fractions; they must be equally many")
    return np.ascontiguousarray(times), np.ascontiguousarray(levels)
