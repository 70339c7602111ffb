"""How many replicas each expert gets, and what no choice of them can beat.

The replica-count relaxation forgets ranks but for three facts: replicas fill `slots`, a rank holds no more than its
share of them, and the hottest replica lies somewhere whole.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

__all__ = ["fewest_counts", "greedy_counts", "replica_count_bound"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def greedy_counts(loads: Floats, slots: int, most: int) -> Ints:
    """The counts of least largest replica: each spare slot goes to the expert whose replicas are largest.

    At most `most` replicas of an expert (one a rank). Optimal for the largest replica (an exchange argument).
    """
    counts = np.ones(len(loads), dtype=np.int64)
    largest = [(-load, e) for e, load in enumerate(loads)]
    heapq.heapify(largest)
    for _ in range(slots - len(loads)):
        while largest and counts[largest[0][1]] >= most:
            heapq.heappop(largest)
        if not largest:
            break
        _, e = largest[0]
        counts[e] += 1
        heapq.heapreplace(largest, (-loads[e] / counts[e], e))
    return counts


def fewest_counts(loads: Floats, target: float) -> Ints:
    """The fewest replicas that keep each at or below `target`."""
    return np.maximum(np.ceil(loads / target * (1 - 1e-12)), 1).astype(np.int64)


def replica_count_bound(loads: Floats, slots: int, ranks: int, most: int) -> float:
    """No plan has a fullest rank below this: the mean load, and the largest replica of the best counts.

    Without spare slots the hottest expert also has companions, the coldest at best.
    """
    counts = greedy_counts(loads, slots, most)
    hottest = float((loads / counts).max())
    if slots == len(loads):
        hottest += float(np.sort(loads)[: slots // ranks - 1].sum())
    return max(float(loads.sum() / ranks), hottest)
