"""Group mode: every group of experts lives on one node, so that a token reaches few nodes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.experts.budget import Budget
from perfmodel.plan.experts.counts import replica_count_bound
from perfmodel.plan.experts.packing import packed
from perfmodel.plan.experts.pool import Pool, Search, Settings, balanced_pool, is_small

__all__ = ["balanced_groups"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Part = tuple[int, ...]
_LISTED, _TRIED, _PROVEN = 3000, 6, 1e-9


def balanced_groups(
    loads: Floats, slots: int, ranks: int, nodes: int, groups: int, settings: Settings, budget: Budget
) -> Pool:
    """Place `groups` equal runs of experts on `nodes` nodes, as many on each, then replicate and place inside nodes.

    Where the ways to deal out the groups can be listed, they are taken in order of their bound until the best plan is
    proven or nothing cheaper is left.
    """
    members = np.arange(len(loads)).reshape(groups, -1)
    nodes_of = _Nodes(loads, members, nodes, slots, ranks, settings, budget)
    dealings, complete = _dealings(loads[members].sum(axis=1), nodes)
    queue = sorted((max(map(nodes_of.bound, dealing)), dealing) for dealing in dealings)
    best, chosen, bound = np.inf, queue[0][1], np.inf
    for tried, (least, dealing) in enumerate(queue):
        if best < np.inf and (
            tried >= nodes_of.most_dealings or budget.stopped_by or best <= min(bound, least) * (1 + nodes_of.enough)
        ):
            bound = min(bound, least)
            break
        fullest = nodes_of.fullest(dealing)
        bound = min(bound, max(map(nodes_of.bound, dealing)))
        if fullest < best:
            best, chosen = fullest, dealing
    if not complete:
        bound = _mean_bound(loads, members, ranks, nodes)
    experts = np.concatenate([members[list(part)].ravel()[nodes_of.pools[part].experts] for part in chosen])
    return Pool(experts, best, min(bound, best), nodes_of.relaxation(chosen) if complete else "mean load of nodes")


class _Nodes:
    """Pools of nodes by the groups they hold, each balanced once; nodes of one layer need not beat the fullest."""

    def __init__(
        self, loads: Floats, members: Ints, nodes: int, slots: int, ranks: int, settings: Settings, budget: Budget
    ) -> None:
        self.loads, self.members, self.slots, self.ranks = loads, members, slots // nodes, ranks // nodes
        slots, ranks = self.slots, self.ranks
        self.settings, self.budget = settings, budget
        small = is_small(len(loads) // nodes, slots, ranks, settings)
        self.enough = _PROVEN if small else settings.enough
        self.most_dealings = _LISTED if small else _TRIED
        self.bounds: dict[Part, float] = {}
        self.pools: dict[Part, Pool] = {}

    def bound(self, part: Part) -> float:
        if part not in self.bounds:
            most = self.slots if self.settings.duplicates else self.ranks
            held = self.loads[self.members[list(part)].ravel()]
            self.bounds[part] = replica_count_bound(held, self.slots, self.ranks, most)
        return self.bounds[part]

    def fullest(self, dealing: tuple[Part, ...]) -> float:
        """Load of the fullest rank; the node of the highest bound goes first and sets the others' target."""
        target = 0.0
        for part in sorted(dealing, key=self.bound, reverse=True):
            if part not in self.pools or self.pools[part].fullest > max(target, self.pools[part].bound):
                held = self.loads[self.members[list(part)].ravel()]
                pool = balanced_pool(held, self.slots, self.ranks, Search(self.settings, self.budget, target))
                self.pools[part] = pool
                self.bounds[part] = max(self.bounds[part], pool.bound)
            target = max(target, self.pools[part].fullest)
        return target

    def relaxation(self, dealing: tuple[Part, ...]) -> str:
        """What bounds the node of the highest bound."""
        return f"{self.pools[max(dealing, key=self.bound)].relaxation} in nodes"


def _mean_bound(loads: Floats, members: Ints, ranks: int, nodes: int) -> float:
    """The mean, and the hottest group with the coldest ones beside it."""
    weights = np.sort(loads[members].sum(axis=1))
    beside = len(weights) // nodes - 1
    return float(max(loads.sum() / ranks, (weights[-1] + weights[:beside].sum()) / (ranks // nodes)))


def _dealings(weights: Floats, nodes: int) -> tuple[list[tuple[Part, ...]], bool]:
    """All ways to deal the groups to nodes (which are alike), or one good way where they are too many to list."""
    each = len(weights) // nodes
    ways = 1
    for left in range(len(weights), 0, -each):
        ways *= comb(left - 1, each - 1)
    if ways <= _LISTED:
        return list(_partitions(tuple(range(len(weights))), each)), True
    ones = np.ones(len(weights), dtype=np.int64)
    placed = packed(ones, weights, nodes, duplicates=False, rounds=2000, target=float(weights.sum() / nodes))
    assert placed is not None  # every group has one copy: no twins can meet
    return [tuple(tuple(sorted(row)) for row in placed.tolist())], False


def _partitions(items: Part, each: int) -> Iterator[tuple[Part, ...]]:
    if not items:
        yield ()
        return
    first, rest = items[0], items[1:]
    for others in combinations(rest, each - 1):
        left = tuple(item for item in rest if item not in others)
        for partition in _partitions(left, each):
            yield ((first, *others), *partition)
