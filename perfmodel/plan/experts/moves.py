"""Re-planning: a new plan laid over the old one so that few expert weights move, and moves as a price."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from perfmodel.plan.experts.packing import best_exchange, rank_loads

__all__ = ["laid_over", "moved", "relieved"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def moved(before: Ints, after: Ints) -> int:
    """Replicas that a rank must fetch: experts[rank, slot] of `after` that the rank did not hold."""
    fetched = 0
    for old, new in zip(before.tolist(), after.tolist(), strict=True):
        left = list(old)
        for expert in new:
            if expert in left:
                left.remove(expert)
            else:
                fetched += 1
    return fetched


def laid_over(before: Ints, after: Ints, nodes: int, grouped: bool) -> Ints:
    """Rename the ranks of `after` for the fewest moves (an assignment problem), and keep slots that stay in place."""
    overlap = np.array([[len(old) - moved(old[None], new[None]) for new in after] for old in before])
    if grouped and nodes > 1:
        each = len(before) // nodes
        order = np.empty(len(before), dtype=np.int64)
        inner = {}
        worth = np.zeros((nodes, nodes))
        for a in range(nodes):
            for b in range(nodes):
                block = overlap[a * each : (a + 1) * each, b * each : (b + 1) * each]
                rows, columns = linear_sum_assignment(block, maximize=True)
                inner[a, b] = columns + b * each
                worth[a, b] = block[rows, columns].sum()
        for a, b in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            order[a * each : (a + 1) * each] = inner[int(a), int(b)]
    else:
        order = linear_sum_assignment(overlap, maximize=True)[1]
    return np.array([_in_place(old, new) for old, new in zip(before, after[order], strict=True)])


def _in_place(old: Ints, new: Ints) -> Ints:
    left = list(new.tolist())
    row = np.full(len(old), -1, dtype=np.int64)
    for slot, expert in enumerate(old.tolist()):
        if expert in left:
            row[slot] = expert
            left.remove(expert)
    row[row < 0] = left
    return row


def relieved(before: Ints, loads: Floats, price: float, duplicates: bool) -> Ints:
    """The old plan with the exchanges between ranks that pay: each moves two replicas at `price` (in load) each."""
    placed = before.copy()
    counts = np.maximum(np.bincount(placed.ravel(), minlength=len(loads)), 1)
    sizes = loads / counts
    best, cost, spent = placed.copy(), np.inf, 0
    for _ in range(4 * len(placed)):
        on_ranks = rank_loads(placed, sizes)
        now = float(on_ranks.max()) + price * spent
        if now < cost:
            best, cost = placed.copy(), now
        exchange = best_exchange(placed, sizes, on_ranks, int(on_ranks.argmax()), duplicates)
        if exchange is None:
            break
        slot, rank, other = exchange
        fullest = int(on_ranks.argmax())
        placed[fullest, slot], placed[rank, other] = placed[rank, other], placed[fullest, slot]
        spent += 2
    return best
