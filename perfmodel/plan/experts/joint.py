"""Exchanges of experts between ranks that shorten the priced layer: tail and traffic at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.experts.budget import Budget

__all__ = ["exchanged"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_SWEEPS, _EXCHANGES = 12, 60
_TINY = 1e-9
Price = Callable[[Any, Any, Any], Any]
"""Mean layer time of (mean tail, share of tokens that change rank, share that change node), arrays that broadcast."""


def exchanged(
    experts: Ints, load: Floats, flow: Floats, nodes: int, price: Price, budget: Budget, *, grouped: bool
) -> Ints:
    """One copy of every expert: exchange two of a layer as long as the mean layer gets shorter, the best pair first.

    `experts[layer, rank, slot]`; a unit of work is a sweep over one layer. `grouped` exchanges inside nodes alone.
    """
    layers, ranks, _ = experts.shape
    home = np.empty(load.shape, dtype=np.int64)
    for row, placed in zip(home, experts, strict=True):
        for rank, held in enumerate(placed):
            row[held] = rank
    search = _Search(home, load / load.sum(axis=1, keepdims=True) * ranks, flow, ranks, nodes, price, grouped)
    for _ in range(_SWEEPS):
        before = search.value
        for layer in range(layers):
            if not budget.spend():
                break
            search.improve(layer)
        if budget.stopped_by or search.value >= before * (1 - _TINY):
            break
    return np.array([np.argsort(row, kind="stable").reshape(ranks, -1) for row in search.home])


class _Search:
    def __init__(
        self, home: Ints, load: Floats, flow: Floats, ranks: int, nodes: int, price: Price, grouped: bool
    ) -> None:
        self.home, self.load, self.flow, self.ranks, self.price, self.grouped = home, load, flow, ranks, price, grouped
        self.each = ranks // nodes
        self.tail = np.array([np.bincount(h, one, ranks).max() for h, one in zip(home, load, strict=True)])
        self.kept = [self._kept(1), self._kept(self.each)]
        self.value = float(price(self.tail.mean(), 1 - self.kept[0], 1 - self.kept[1]))

    def _kept(self, width: int) -> float:
        at = self.home // width
        same = [step[a[:, None] == b[None]].sum() for step, a, b in zip(self.flow, at[:-1], at[1:], strict=True)]
        return float(np.mean(same))

    def improve(self, layer: int) -> None:
        """Exchanges in one layer until none helps."""
        for _ in range(_EXCHANGES):
            values, tails, kept = self._exchanges(layer)
            best = np.unravel_index(int(values.argmin()), values.shape)
            if values[best] >= self.value * (1 - _TINY):
                return
            a, b = int(best[0]), int(best[1])
            self.home[layer, [a, b]] = self.home[layer, [b, a]]
            self.value, self.tail[layer] = float(values[best]), float(tails[best])
            self.kept = [float(one[best]) for one in kept]

    def _exchanges(self, layer: int) -> tuple[Floats, Floats, list[Floats]]:
        """Value, tail and kept shares after each exchange of two experts, arrays [expert, expert]."""
        home, load = self.home[layer], self.load[layer]
        on_ranks = np.bincount(home, load, self.ranks)
        moved = load[:, None] - load[None]
        mine = on_ranks[home]
        order = np.sort(on_ranks)[::-1]
        # The fullest of the ranks that an exchange leaves alone: one of the three fullest of all.
        top = np.pad(order[:3], (0, max(3 - self.ranks, 0)), constant_values=0.0)
        high, low = np.maximum(mine[:, None], mine[None]), np.minimum(mine[:, None], mine[None])
        others = np.where(high < top[0], top[0], np.where(low < top[1], top[1], top[2]))
        tails = np.maximum(np.maximum(mine[:, None] - moved, mine[None] + moved), others)
        kept = [
            one + self._gain(layer, width) / len(self.flow)
            for one, width in zip(self.kept, (1, self.each), strict=True)
        ]
        mean = self.tail.mean() + (tails - self.tail[layer]) / len(self.tail)
        values = np.asarray(self.price(mean, 1 - kept[0], 1 - kept[1]))
        barred = home[:, None] == home[None]
        if self.grouped:
            barred = barred | (home[:, None] // self.each != home[None] // self.each)
        return np.where(barred, np.inf, values), tails, kept

    def _gain(self, layer: int, width: int) -> Floats:
        """Tokens kept more after each exchange, summed over the steps before and after the layer."""
        parts = self.ranks // width
        worth = np.zeros((len(self.home[layer]), parts))
        if layer > 0:
            worth += self.flow[layer - 1].T @ np.eye(parts)[self.home[layer - 1] // width]
        if layer < len(self.flow):
            worth += self.flow[layer] @ np.eye(parts)[self.home[layer + 1] // width]
        seat = worth[:, self.home[layer] // width]  # axes: expert, whose seat it takes
        own = np.diag(seat)
        return np.asarray(seat + seat.T - own[:, None] - own[None])
