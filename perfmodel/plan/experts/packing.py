"""Packing replicas onto ranks of equal slots: longest first, then exchanges until the fullest rank cannot be relieved.

A packing is an array `expert[rank, slot]`; replicas of an expert share its load equally.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_exchange", "folded", "packed", "rank_loads"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_TINY = 1e-12


def rank_loads(slots: Ints, sizes: Floats) -> Floats:
    """Load of every rank of `slots[rank, slot]` where a replica of expert e carries `sizes[e]`."""
    return np.asarray(sizes[slots].sum(axis=-1))


def packed(counts: Ints, sizes: Floats, ranks: int, *, duplicates: bool, rounds: int, target: float) -> Ints | None:
    """Place `counts[e]` replicas of size `sizes[e]` on `ranks` ranks of equal slots, least full rank first.

    Stops where the fullest rank is not above `target` or no exchange helps. None where no placement without two
    replicas of an expert on one rank was found.
    """
    replicas = np.repeat(np.arange(len(counts)), counts)
    order = replicas[np.argsort(-sizes[replicas], kind="stable")]
    slots = len(order) // ranks
    start = folded(order, ranks) if slots == 2 else _longest_first(order, sizes, ranks, duplicates)
    if not duplicates and not _made_distinct(start, sizes):
        return None
    if slots == 1:
        return start
    placed = _exchanged(start, sizes, duplicates, rounds, target)
    if slots > 2 and rank_loads(placed, sizes).max() > target:
        placed = _dealt_again(placed, sizes, duplicates, rounds, target)
        placed = _exchanged(placed, sizes, duplicates, rounds, target)
    return placed


def folded(order: Ints, ranks: int) -> Ints:
    """Two slots a rank: the largest with the smallest, which no other pairing beats."""
    return np.stack([order[:ranks], order[ranks:][::-1]], axis=1)


def _longest_first(order: Ints, sizes: Floats, ranks: int, duplicates: bool) -> Ints:
    slots = len(order) // ranks
    placed = np.full((ranks, slots), -1, dtype=np.int64)
    loads, held = np.zeros(ranks), np.zeros(ranks, dtype=np.int64)
    for expert in order:
        open_ranks = held < slots
        if not duplicates:
            free = open_ranks & ~(placed == expert).any(axis=1)
            open_ranks = free if free.any() else open_ranks
        rank = int(np.where(open_ranks, loads, np.inf).argmin())
        placed[rank, held[rank]] = expert
        held[rank] += 1
        loads[rank] += sizes[expert]
    return placed


def _made_distinct(placed: Ints, sizes: Floats) -> bool:
    """Exchange replicas that meet a twin on their rank, in place, at the least damage; False where one is left."""
    for rank, slot in _twins(placed):
        expert = placed[rank, slot]
        there = placed  # candidates: replicas of experts that this rank lacks, on ranks that lack this expert
        allowed = ~np.isin(there, placed[rank]) & ~(placed == expert).any(axis=1)[:, None]
        if not allowed.any():
            return False
        damage = np.where(allowed, np.abs(sizes[there] - sizes[expert]), np.inf)
        other = np.unravel_index(int(damage.argmin()), damage.shape)
        placed[rank, slot], placed[other] = placed[other], expert
    return not _twins(placed)


def _twins(placed: Ints) -> list[tuple[int, int]]:
    found = []
    for rank, row in enumerate(placed.tolist()):
        found += [(rank, slot) for slot, expert in enumerate(row) if expert in row[:slot]]
    return found


def _exchanged(placed: Ints, sizes: Floats, duplicates: bool, rounds: int, target: float) -> Ints:
    """Relieve the fullest rank by exchanging one of its replicas with one of any other rank, the best pair first."""
    loads = rank_loads(placed, sizes)
    for _ in range(rounds):
        fullest = int(loads.argmax())
        if loads[fullest] <= target:
            break
        exchange = best_exchange(placed, sizes, loads, fullest, duplicates)
        if exchange is None:
            break
        slot, rank, other = exchange
        placed[fullest, slot], placed[rank, other] = placed[rank, other], placed[fullest, slot]
        loads[[fullest, rank]] = rank_loads(placed[[fullest, rank]], sizes)
    return placed


def best_exchange(
    placed: Ints, sizes: Floats, loads: Floats, fullest: int, duplicates: bool
) -> tuple[int, int, int] | None:
    """The exchange that leaves the two ranks least full: (slot of the fullest, other rank, its slot); None: no gain."""
    mine = sizes[placed[fullest]]
    lighter = mine[:, None, None] - sizes[placed][None]  # axes: my slot, rank, its slot
    after = np.maximum(loads[fullest] - lighter, loads[None, :, None] + lighter)
    after[:, fullest] = np.inf
    if not duplicates:
        i_hold = (placed[:, :, None] == placed[fullest][None, None, :]).any(axis=2)
        they_hold = (placed[None] == placed[fullest][:, None, None]).any(axis=2)
        after[:, i_hold] = np.inf
        after[they_hold] = np.inf
    best = int(after.argmin())
    slot, rank, other = np.unravel_index(best, after.shape)
    if after[slot, rank, other] >= loads[fullest] * (1 - _TINY):
        return None
    return int(slot), int(rank), int(other)


def _dealt_again(placed: Ints, sizes: Floats, duplicates: bool, rounds: int, target: float) -> Ints:
    """Take one replica from each of some ranks and deal them anew, the largest to the emptiest.

    No other dealing of these makes the loads more even (majorisation), so every round is kept unless twins meet.
    """
    ranks, slots = placed.shape
    draws = np.random.default_rng(0)
    loads = rank_loads(placed, sizes)
    for _ in range(rounds):
        if loads.max() <= target:
            break
        some = np.flatnonzero(draws.random(ranks) < draws.uniform(0.1, 1.0))
        slot = draws.integers(0, slots, len(some))
        taken = placed[some, slot]
        left = loads[some] - sizes[taken]
        dealt = np.empty_like(taken)
        dealt[np.argsort(left, kind="stable")] = taken[np.argsort(-sizes[taken], kind="stable")]
        if not duplicates:
            others = placed[some].copy()
            others[np.arange(len(some)), slot] = -1
            if (others == dealt[:, None]).any():
                continue
        placed[some, slot] = dealt
        loads[some] = left + sizes[dealt]
    return placed
