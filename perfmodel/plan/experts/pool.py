"""One pool of ranks that may hold any of its experts: the best packing found, and what none can beat.

A pool is a whole layer (free mode) or the ranks of one node with the expert groups placed there (group mode).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.experts.budget import Budget
from perfmodel.plan.experts.counts import greedy_counts, replica_count_bound
from perfmodel.plan.experts.exact import solved_placement
from perfmodel.plan.experts.hottest import FEW_RANKS, hottest_bound
from perfmodel.plan.experts.packing import packed, rank_loads
from perfmodel.plan.experts.pairs import searched_pairs
from perfmodel.plan.experts.relaxation import replica_choice

__all__ = ["Pool", "Search", "Settings", "balanced_pool", "is_small"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_PROVEN = 1e-9
_LIGHT_ROUNDS, _FEW_SPARE = 60, 8
_PAIRS_ENOUGH = 4e-3
"""Two slots a rank: the last half of a gap takes half of the programs, and hardly moves the plan."""


@dataclass(frozen=True)
class Settings:
    """How hard to search: rounds of local search, columns up to which a pool is solved exactly, gap that is enough."""

    duplicates: bool = False
    rounds: int = 1500
    count_rounds: int = 400
    exact_columns: int = 150
    exact_nodes: int = 2000
    spreads: int = 400
    enough: float = 2e-3


@dataclass(frozen=True)
class Search:
    """Settings and budget of one pool; a plan at or below `target` need not be improved.

    `raised` is how far the relaxation raised the bound of a pool like this one: where to ask first.
    """

    settings: Settings
    budget: Budget
    target: float = 0.0
    raised: float = 1.0


@dataclass(frozen=True)
class Pool:
    """`experts[rank, slot]`, the load of the fullest rank, the bound, and the relaxation that gave the bound."""

    experts: Ints
    fullest: float
    bound: float
    relaxation: str

    @property
    def optimal(self) -> bool:
        return self.fullest <= self.bound * (1 + _PROVEN)


def balanced_pool(loads: Floats, slots: int, ranks: int, search: Search) -> Pool:
    """Minimise the fullest of `ranks` ranks of equal slots; `loads[e]` is split evenly over the copies of e.

    Cheap first: counts of least largest replica, packed and exchanged; then counts from the replica-size relaxation,
    whose infeasible targets raise the bound; then, in small pools, the exact program.
    """
    if slots == 2 * ranks and not is_small(len(loads), slots, ranks, search.settings):
        search = replace(search, settings=replace(search.settings, enough=max(search.settings.enough, _PAIRS_ENOUGH)))
    settings = search.settings
    most = slots if settings.duplicates else ranks
    bound = replica_count_bound(loads, slots, ranks, most)
    placed = _start(loads, slots, ranks, most, search)
    plan = _with(Pool(placed, np.inf, bound, "replica count"), placed, loads)
    if slots == ranks or plan.optimal or plan.fullest <= search.target:
        return plan
    if ranks <= FEW_RANKS and not settings.duplicates and not is_small(len(loads), slots, ranks, settings):
        plan = _of_hottest(plan, loads, slots, ranks, most, search)
    if slots == 2 * ranks and search.budget.spend():
        plan = _attempted(plan, greedy_counts(loads, slots, most), loads, ranks, most, plan.bound, settings)
    elif search.budget.spend():
        plan = _spread(plan, loads, slots, ranks, most, search)
    small = _small(plan, loads, slots, ranks, search)
    if small is not None:
        return small
    return _narrowed(plan, loads, slots, ranks, most, search)


def is_small(experts: int, slots: int, ranks: int, settings: Settings) -> bool:
    """Whether the exact program of a pool is tried."""
    widest = min(slots - experts + 1, slots if settings.duplicates else ranks)
    return experts * widest * ranks <= settings.exact_columns


def _with(plan: Pool, experts: Ints, loads: Floats) -> Pool:
    """The plan, or the one with this placement where that is better."""
    counts = np.bincount(experts.ravel(), minlength=len(loads))
    fullest = float(rank_loads(experts, loads / counts).max())
    if fullest >= plan.fullest:
        return plan
    return Pool(experts, fullest, min(plan.bound, fullest), plan.relaxation)


def _start(loads: Floats, slots: int, ranks: int, most: int, search: Search) -> Ints:
    counts = greedy_counts(loads, slots, most)
    rounds = search.settings.rounds if search.budget.spend() else 0
    target = max(replica_count_bound(loads, slots, ranks, most), search.target)
    sizes = loads / counts
    found = packed(counts, sizes, ranks, duplicates=search.settings.duplicates, rounds=rounds, target=target)
    # One replica of an expert on each of as many ranks in a row never meets its twin: this always stands.
    return found if found is not None else _in_turn(counts, ranks)


def _in_turn(counts: Ints, ranks: int) -> Ints:
    replicas = np.repeat(np.arange(len(counts)), counts)
    return np.sort(replicas.reshape(-1, ranks).T, axis=1)


def _attempted(
    plan: Pool, counts: Ints, loads: Floats, ranks: int, most: int, target: float, settings: Settings
) -> Pool:
    if int(counts.sum()) == 2 * ranks:
        counts = searched_pairs(counts, loads, most, target, settings.count_rounds)
    sizes = loads / counts
    found = packed(counts, sizes, ranks, duplicates=settings.duplicates, rounds=settings.rounds, target=target)
    return plan if found is None else _with(plan, found, loads)


def _of_hottest(plan: Pool, loads: Floats, slots: int, ranks: int, most: int, search: Search) -> Pool:
    """The bound of placing the hottest first, and the counts that come near it, packed."""
    settings = search.settings
    enough = max(plan.bound * (1 + settings.enough), search.target)
    if plan.fullest <= enough or not search.budget.spend():
        return plan
    found = hottest_bound(loads, slots, ranks, plan.bound, plan.fullest)
    if found.bound > plan.bound:
        plan = Pool(plan.experts, plan.fullest, min(found.bound, plan.fullest), "hottest placed")
    if plan.fullest > plan.bound * (1 + settings.enough):
        plan = _attempted(plan, found.counts, loads, ranks, most, plan.bound, settings)
    return plan


def _narrowed(plan: Pool, loads: Floats, slots: int, ranks: int, most: int, search: Search) -> Pool:
    """Halve the room between bound and plan: a target is proven out of reach, or its counts are tried.

    The first target is the lowest worth knowing: where the relaxation allows it, it can say no more about the bound.
    """
    enough = 1 + search.settings.enough
    reach, target = plan.fullest, plan.bound * max(enough, search.raised)
    if target >= reach:
        target = plan.bound * enough
    while reach > max(plan.bound * enough, search.target) and search.budget.spend():
        choice = replica_choice(
            loads, slots, ranks, most, target, whole=False, time_limit_s=search.budget.seconds_left()
        )
        search.budget.note(choice.stopped_by)
        if not choice.possible:
            plan = Pool(plan.experts, plan.fullest, target, "replica size")
            target = min(plan.bound * enough, (reach + plan.bound) / 2) if search.raised > 1 else (reach + target) / 2
        else:
            reach = target
            if choice.counts is not None:
                plan = _attempted(plan, choice.counts, loads, ranks, most, target, search.settings)
            target = (reach + plan.bound) / 2
    return plan


def _spread(plan: Pool, loads: Floats, slots: int, ranks: int, most: int, search: Search) -> Pool:
    """Few spare slots: every way to spread them over the hottest experts, until one is good enough."""
    hottest = np.argsort(-loads, kind="stable")
    light = replace(search.settings, rounds=_LIGHT_ROUNDS)
    for extra in _ways(slots - len(loads), len(loads), search.settings.spreads):
        if plan.fullest <= max(plan.bound * (1 + search.settings.enough), search.target):
            break
        counts = np.ones(len(loads), dtype=np.int64)
        counts[hottest[: len(extra)]] += extra
        if counts.max() <= most and _least(loads / counts, counts, ranks) < plan.fullest:
            plan = _attempted(plan, counts, loads, ranks, most, plan.bound, light)
    return plan


def _least(sizes: Floats, counts: Ints, ranks: int) -> float:
    """No packing of these replicas is below the largest, or the two of the largest ranks + 1 that must meet."""
    largest = np.sort(np.repeat(sizes, counts))[::-1]
    return float(max(largest[0], largest[ranks - 1] + largest[ranks]))


def _ways(spare: int, experts: int, limit: int) -> Iterator[Ints]:
    """All divisions of the spare slots among so many of the hottest experts that there are at most `limit`."""
    if not 0 < spare <= _FEW_SPARE:
        return
    among = 1
    while among < min(experts, 9) and comb(spare + among, among) <= limit:
        among += 1
    for bars in combinations(range(spare + among - 1), among - 1):
        edges = np.array([-1, *bars, spare + among - 1])
        yield np.diff(edges) - 1


def _small(plan: Pool, loads: Floats, slots: int, ranks: int, search: Search) -> Pool | None:
    """The exact program where it is small; None where it is not."""
    settings = search.settings
    if not is_small(len(loads), slots, ranks, settings) or not search.budget.spend():
        return None
    placed, solution = solved_placement(
        loads,
        slots,
        ranks,
        duplicates=settings.duplicates,
        nodes=settings.exact_nodes,
        time_limit_s=search.budget.seconds_left(),
    )
    search.budget.note(solution.stopped_by)
    if placed is not None:
        plan = _with(plan, placed, loads)
    # An optimal status is exact but for the solver's tolerance, a part in a million of the mean.
    bound = plan.fullest if solution.status == "optimal" else min(solution.bound, plan.fullest)
    return Pool(plan.experts, plan.fullest, max(plan.bound, bound), "mixed-integer program")
