"""Operating points of many engines as arrays: how many engines a rate needs, and what each gives at any batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.serving.space import Candidate
from perfmodel.predict.serving.demand import Phases, demand_of, phases_of, rates_of
from perfmodel.predict.serving.traffic import Traffic, attainment, traffic_at
from perfmodel.specs.workload import Slo, Workload

__all__ = ["Curves", "curves_of"]

BATCHES = 40
"""Points of an engine's curve from batch to rate; between them it is taken as straight."""
MOST_ENGINES = 100_000
POINTS_AT_ONCE = 4096
"""Operating points that are priced together: their percentiles then stay in a core's cache."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Curves [engine, batch] of some engines, with every iteration time at every batch."""

    candidates: tuple[Candidate, ...]
    workload: Workload
    batches: Array
    phases: tuple[Phases, ...]
    rates: Array
    """Requests a second of one attention group that keep a batch; they never fall along a curve."""

    @property
    def groups(self) -> Array:
        """Attention groups of each engine."""
        return np.array([float(one.groups) for one in self.candidates])

    @property
    def most(self) -> Array:
        """Requests a second that each engine can take at all."""
        return self.rates[:, -1] * self.groups

    def at(self, rate_per_s: float, engines: int, chosen: Sequence[int]) -> Traffic:
        """Traffic [engine] of some candidates when each shares a rate among so many engines of its kind."""
        positions = [int(i) for i in chosen]
        each = rate_per_s / (engines * self.groups[positions])
        batch = np.array([np.interp(r, self.rates[i], self.batches[i]) for i, r in zip(positions, each, strict=True)])
        phases = Phases.joined([_at(self.phases[i], self.batches[i], b) for i, b in zip(positions, batch, strict=True)])
        return self._traffic(phases, batch, each, positions, engines)

    def along(self, engines: int = 1) -> list[Traffic]:
        """Every point of every curve, a rate for each: one entry for each candidate."""
        width = self.batches.shape[1]
        step = max(1, POINTS_AT_ONCE // width)
        found = []
        for start in range(0, len(self.candidates), step):
            some = list(range(start, min(start + step, len(self.candidates))))
            phases = Phases.joined([self.phases[i] for i in some])
            positions = np.repeat(some, width).tolist()
            part = self._traffic(phases, self.batches[some].ravel(), self.rates[some].ravel(), positions, engines)
            found += [_cut(part, slice(k * width, (k + 1) * width)) for k in range(len(some))]
        return found

    def _traffic(self, phases: Phases, batch: Array, rate: Array, positions: list[int], engines: int) -> Traffic:
        """Requests are spread over engines and over the attention groups of each, which smooths their bursts."""
        groups = self.groups[positions]
        parts = [(np.flatnonzero(groups == one), float(one)) for one in np.unique(groups)]
        found = [
            (at, self._alike(_points(phases, at), batch[at], rate[at], [positions[i] for i in at], engines * one))
            for at, one in parts
        ]
        order = np.argsort(np.concatenate([at for at, _ in found]), kind="stable")
        return Traffic(**{
            name: np.concatenate([getattr(one, name) for _, one in found], axis=-1)[..., order]
            for name in Traffic.__dataclass_fields__
        })  # fmt: skip

    def _alike(self, phases: Phases, batch: Array, rate: Array, positions: list[int], replicas: float) -> Traffic:
        longest = float(self.candidates[0].engine.model.max_seq_len)
        demand = demand_of(self.workload, replicas, longest)
        # What engines have of their own once, then as often as each has points.
        own, again = np.unique(positions, return_inverse=True)
        full = _points(Phases.joined([_last(self.phases[i]) for i in own]), again)
        limit = self.batches[own, -1][again]
        request_s = np.array([float(self.candidates[i].engine.software.request_s) for i in own])[again]
        return traffic_at(phases, full, batch, rate, demand, limit, request_s)

    def engines_for(self, rate_per_s: float, slo: Slo, candidates: Sequence[int]) -> dict[int, int]:
        """The fewest engines of each candidate that keep the limits at that rate; candidates that never do are absent.

        More engines wait less, so a doubling finds a number that suffices and halving the least one.
        """
        least = np.maximum(1.0, np.ceil(rate_per_s / np.maximum(self.most, 1e-300)))
        alone = self.keeps(1e-6 * rate_per_s, 1, slo, candidates)
        pending = {i: int(least[i]) for i, kept in zip(candidates, alone, strict=True) if kept}
        low = {i: count - 1 for i, count in pending.items()}
        found: dict[int, int] = {}
        while pending:
            for count in sorted(set(pending.values())):
                some = [i for i, own in pending.items() if own == count]
                for i, kept in zip(some, self.keeps(rate_per_s, count, slo, some), strict=True):
                    if kept:
                        found[i] = count
                        del pending[i]
                    else:
                        low[i], pending[i] = count, 2 * count
                        if pending[i] > MOST_ENGINES:
                            del pending[i]
        return self._fewest(rate_per_s, slo, low, found)

    def _fewest(self, rate_per_s: float, slo: Slo, low: dict[int, int], high: dict[int, int]) -> dict[int, int]:
        """Between a number that does not suffice and one that does."""
        while True:
            middles = {i: (low[i] + count) // 2 for i, count in high.items() if count - low[i] > 1}
            if not middles:
                return high
            for count in sorted(set(middles.values())):
                some = [i for i, middle in middles.items() if middle == count]
                for i, kept in zip(some, self.keeps(rate_per_s, count, slo, some), strict=True):
                    (high if kept else low)[i] = count

    def keeps(self, rate_per_s: float, engines: int, slo: Slo, chosen: Sequence[int]) -> list[bool]:
        """Whether enough requests stay within the limits."""
        if not len(chosen):
            return []
        within = attainment(self.at(rate_per_s, engines, chosen), slo) >= slo.percentile
        enough = rate_per_s <= engines * self.most[list(chosen)]
        return [bool(one) for one in within & enough]


def curves_of(candidates: Sequence[Candidate], workload: Workload, batches: int = BATCHES) -> Curves:
    """The curve of each engine from one answer to as many as there is room for."""
    found, phases, rates = [], [], []
    for one in candidates:
        demand = demand_of(workload, 1.0, float(one.engine.model.max_seq_len))
        batch = np.geomspace(0.01, max(one.places, 1.0), batches)
        there = phases_of(one.engine, batch, demand)
        found.append(batch)
        phases.append(there)
        rates.append(np.maximum.accumulate(rates_of(there, batch, demand)))
    return Curves(tuple(candidates), workload, np.array(found), tuple(phases), np.array(rates))


_NAMES = ("decode_s", "added_s", "added_square", "full_s")


def _at(phases: Phases, batches: Array, batch: float) -> Phases:
    """Phases between the points of a curve."""
    columns: dict[str, Any] = {name: np.array([np.interp(batch, batches, getattr(phases, name))]) for name in _NAMES}
    quantiles = np.array([[np.interp(batch, batches, line)] for line in phases.added_quantiles_s])
    return Phases(**columns, added_quantiles_s=quantiles)


def _last(phases: Phases) -> Phases:
    return _points(phases, slice(-1, None))


def _points(phases: Phases, at: Any) -> Phases:
    columns: dict[str, Any] = {name: getattr(phases, name)[at] for name in _NAMES}
    return Phases(**columns, added_quantiles_s=phases.added_quantiles_s[:, at])


def _cut(traffic: Traffic, part: slice) -> Traffic:
    return Traffic(**{name: getattr(traffic, name)[..., part] for name in Traffic.__dataclass_fields__})
