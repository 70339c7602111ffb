"""A row in time steps, many seeds and many sizes at once: a simulator that only tests and validation call.

The generator's inputs are the published statistics of `LoadStatistics` alone. Caps are ordered on the power that the
row draws (so with caps in force), hold after their latency, and a brake falls within one step: what the closed form of
`row_power` only bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from perfmodel.predict.power import ServerPower
from perfmodel.predict.row_load import SECONDS_PER_DAY, LoadStatistics
from perfmodel.predict.row_policy import RowPolicy, quantile_of

__all__ = ["RowReplay", "generated_days", "replay_row"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RowReplay:
    """Results by [seed, scale]: brakes, highest power [1], shares of the work by state [seed, scale, state].

    `peak` and `rise` [seed] are the highest level and the largest rise within `rise_s` of the generated history itself.
    """

    scales: tuple[float, ...]
    brakes: NDArray[np.int64]
    highest: Floats
    state_shares: Floats
    peak: Floats
    rise: Floats
    slowdowns: dict[str, Floats]

    @property
    def share_without_brake(self) -> Floats:
        """Share of seeds that never brake, by scale [1]."""
        return np.asarray((self.brakes == 0).mean(axis=0), dtype=np.float64)

    def impact(self, priority: str, at: float) -> Floats:
        """Slowdown [1] at a quantile of the work of a priority, by [seed, scale]."""
        values = self.slowdowns[priority]
        return np.array([[quantile_of(values, shares, at) for shares in row] for row in self.state_shares])


def generated_days(load: LoadStatistics, seeds: Sequence[int], step_s: float) -> Iterator[Floats]:
    """Levels [seed, step] day after day: the daily wave and a drift with the memory of the statistics."""
    steps = round(SECONDS_PER_DAY / step_s)
    wave = load.wave(np.arange(steps) / steps)
    memory = math.exp(-step_s / load.memory_s)
    fresh = load.level_sd * math.sqrt(1.0 - memory**2)
    draws = [np.random.default_rng(seed) for seed in seeds]
    drift = load.level_sd * np.array([[rng.standard_normal()] for rng in draws])
    for _ in range(math.ceil(load.days)):
        noise = fresh * np.stack([rng.standard_normal(steps) for rng in draws])
        drifts, _ = lfilter([1.0], [1.0, -memory], noise, axis=1, zi=memory * drift)
        drift = drifts[:, -1:]
        yield np.maximum(wave + drifts, 0.0)


def replay_row(
    load: LoadStatistics,
    policy: RowPolicy,
    server: ServerPower,
    scales: Sequence[float],
    seeds: Sequence[int],
    step_s: float = 10.0,
) -> RowReplay:
    """Run the row for all seeds and scales; `step_s` [s] must divide the latencies and the day."""
    row = _Row(policy, policy.kept(server), np.array(scales), len(seeds), round(policy.frequency_s / step_s))
    peak, rise = np.zeros(len(seeds)), np.zeros(len(seeds))
    lag = round(load.rise_s / step_s)
    work = np.zeros((len(seeds), len(scales), len(policy.thresholds) + 2))
    for levels in generated_days(load, seeds, step_s):
        peak = np.maximum(peak, levels.max(axis=1))
        rise = np.maximum(rise, (levels[:, lag:] - levels[:, :-lag]).max(axis=1))
        row.run(levels, np.maximum(levels - load.idle, 0.0), work)
    shares = work / work.sum(axis=2, keepdims=True)
    slowdowns = {name: policy.slowdowns(name) for name in policy.shares}
    return RowReplay(tuple(scales), row.brakes, row.highest, shares, peak, rise, slowdowns)


class _Row:
    """The controllers of all rows at once; arrays are [seed, scale]."""

    def __init__(self, policy: RowPolicy, kept: Floats, scales: Floats, seeds: int, latency: int) -> None:
        self.policy, self.kept, self.scales, self.latency = policy, kept, scales, latency
        shape = (seeds, len(scales))
        self.brakes = np.zeros(shape, dtype=np.int64)
        self.highest = np.zeros(shape)
        self.ordered = np.zeros((latency + 1, *shape), dtype=np.int64)  # a ring: what was ordered so many steps ago
        self.braking = np.zeros(shape, dtype=bool)
        self.position = 0

    def run(self, levels: Floats, works: Floats, total: Floats) -> None:
        """Some steps; `total` collects the work by state."""
        calm_below = (self.policy.thresholds[0] - self.policy.hysteresis) / float(self.scales.max())
        quiet = levels.max(axis=0) < calm_below
        for step in range(levels.shape[1]):
            if quiet[step] and not self.ordered.any() and not self.braking.any():
                total[:, :, 0] += works[:, step, None]
                continue
            self._step(levels[:, step, None] * self.scales, works[:, step, None], total)

    def _step(self, wanted: Floats, work: Floats, total: Floats) -> None:
        policy, ring = self.policy, self.latency + 1
        state = self.ordered[(self.position - self.latency) % ring]
        power = wanted * self.kept[state]
        over = power > policy.brake_at
        self.brakes += over & ~self.braking
        self.braking = over
        self.highest = np.maximum(self.highest, np.where(over, 0.0, power))
        before = self.ordered[self.position % ring]
        self.position += 1
        self.ordered[self.position % ring] = self._orders(power, before)
        shown = np.where(over, len(self.kept) - 1, state)
        for index in range(total.shape[2]):
            total[:, :, index] += np.where(shown == index, work, 0.0)

    def _orders(self, power: Floats, before: NDArray[np.int64]) -> NDArray[np.int64]:
        limits = np.array(self.policy.thresholds)
        up = np.searchsorted(limits, power.ravel(), side="left").reshape(power.shape)
        held = np.searchsorted(limits - self.policy.hysteresis, power.ravel(), side="left").reshape(power.shape)
        return np.maximum(up, np.minimum(before, held))
