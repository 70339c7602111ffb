"""A bound for pools of few ranks: the hottest experts are placed one after the other, the others stay a fluid.

A state says what load and how many slots the placed replicas take on every rank. Of the rest it keeps three facts: its
load fits under the fullest rank, its replicas fill the slots beside the hottest ones, and spare slots make few of them
small. States are taken in order of their bound, so the bound of the next one is a bound of the pool at any time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, groupby, product

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEW_RANKS", "Hottest", "hottest_bound"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rank = tuple[float, int]
"""Load of the placed replicas of a rank, and their number."""
_STATES = 1500
FEW_RANKS = 8
"""Ranks of a pool up to which ways to place an expert are few."""


@dataclass(frozen=True)
class Hottest:
    """No packing is below `bound`; `counts` are replicas of all experts that come near it."""

    bound: float
    counts: Ints


@dataclass(frozen=True)
class _State:
    ranks: tuple[Rank, ...]
    copies: tuple[int, ...]
    spare: int


def hottest_bound(loads: Floats, slots: int, ranks: int, least: float, enough: float) -> Hottest:
    """Best first, until a bound reaches `enough`, every expert is placed, or the limit of states.

    `least` is a bound known already. At most one replica of an expert on a rank.
    """
    order = np.argsort(-loads, kind="stable")
    pool = _Pool(loads[order], slots, ranks, least)
    number = count()
    start = _State(((0.0, 0),) * ranks, (), slots - len(loads))
    queue = [(pool.bound(start), 0, next(number), start)]
    seen: set[tuple[int, int, tuple[Rank, ...]]] = set()
    while len(seen) < _STATES:
        bound, depth, _, state = queue[0]
        if bound >= enough or -depth == len(loads):
            break
        heapq.heappop(queue)
        for child in pool.children(state):
            key = (len(child.copies), child.spare, child.ranks)
            if key not in seen:
                seen.add(key)
                heapq.heappush(queue, (max(bound, pool.bound(child)), -len(child.copies), next(number), child))
    bound, _, _, state = queue[0]
    counts = np.ones(len(loads), dtype=np.int64)
    counts[order] = pool.filled(state)
    return Hottest(bound, counts)


class _Pool:
    """One pool with experts in falling order of load."""

    def __init__(self, loads: Floats, slots: int, ranks: int, least: float) -> None:
        self.loads, self.each, self.ranks, self.least = loads.tolist(), slots // ranks, ranks, least
        self._known: dict[tuple[int, int, int], float] = {}
        # Sums of the coldest experts, by their number.
        self.coldest = np.concatenate([[0.0], np.cumsum(loads[::-1])]).tolist()
        self.left = np.concatenate([np.cumsum(loads[::-1])[::-1], [0.0]]).tolist()

    def children(self, state: _State) -> Iterator[_State]:
        """Every number of copies of the next expert, on every choice of ranks that differ."""
        load = self.loads[len(state.copies)]
        # No slot stays empty: the last expert takes those that are left.
        least = state.spare + 1 if len(state.copies) + 1 == len(self.loads) else 1
        alike = [(rank, len(list(same))) for rank, same in groupby(state.ranks)]
        room = [number if rank[1] < self.each else 0 for rank, number in alike]
        for taken in product(*(range(most + 1) for most in room)):
            copies = sum(taken)
            if not least <= copies <= state.spare + 1:
                continue
            held: list[Rank] = []
            for (rank, number), some in zip(alike, taken, strict=True):
                held += [(rank[0] + load / copies, rank[1] + 1)] * some + [rank] * (number - some)
            yield _State(tuple(sorted(held, reverse=True)), (*state.copies, copies), state.spare - copies + 1)

    def bound(self, state: _State) -> float:
        """What the fullest rank carries at least."""
        placed, bound, beside, slots = 0.0, self.least, self.left[len(state.copies)], 0
        for number, (load, held) in enumerate(state.ranks, 1):
            placed += load
            slots += self.each - held
            # The fullest of these are filled up by companions; all the rest fits under the fullest rank.
            bound = max(bound, (placed + self._companions(slots, state.spare, len(state.copies))) / number)
        # Emptiest ranks first take the rest, which then fills all alike.
        filled = self.ranks
        for load, _ in state.ranks:
            level = (placed + beside) / filled
            if load <= level:
                return max(bound, level)
            placed -= load
            filled -= 1
        return bound

    def _companions(self, slots: int, spare: int, placed: int) -> float:
        """The least that so many replicas of the experts left weigh, the coldest of them.

        A spare slot among them saves the next expert; one on another rank takes away a part of an expert's load.
        """
        key = slots, spare, placed
        if key not in self._known:
            left = len(self.loads) - placed
            self._known[key] = min(
                (
                    self._thinned(slots - inside, spare - inside)
                    for inside in range(spare + 1)
                    if 0 <= slots - inside <= left
                ),
                default=np.inf,
            )
        return self._known[key]

    def _thinned(self, distinct: int, spare: int) -> float:
        """The coldest experts when spare slots elsewhere go to whom they relieve most."""
        weight = self.coldest[distinct]
        chosen = self.loads[len(self.loads) - distinct :][:spare]
        copies = [1] * len(chosen)
        for _ in range(spare if chosen else 0):
            gains = [load / held - load / (held + 1) for load, held in zip(chosen, copies, strict=True)]
            best = max(range(len(gains)), key=gains.__getitem__)
            weight -= gains[best]
            copies[best] += 1
        return float(max(weight, 0.0))

    def filled(self, state: _State) -> Ints:
        """The state's copies, and the spare slots left for whichever replica of the others is largest."""
        counts = np.ones(len(self.loads), dtype=np.int64)
        counts[: len(state.copies)] = state.copies
        others = np.array(self.loads)
        others[: len(state.copies)] = 0.0
        for _ in range(state.spare):
            sizes = np.where(counts < self.ranks, others / counts, -1.0)
            best = int(sizes.argmax()) if (sizes > 0).any() else int((counts < self.ranks).argmax())
            counts[best] += 1
        return counts
