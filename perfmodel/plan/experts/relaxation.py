"""The replica-size relaxation: choose how often each expert is copied so that the copies could share ranks at all.

For a wished load of the fullest rank, T, every choice of replica counts that a real packing allows satisfies linear
rows over the copies: replicas that cannot share a rank must each find companions that are small enough. Ranks
themselves are left out, so a T without such a choice is beaten by no plan; with two slots a rank the rows are also
sufficient (but for two replicas of one expert meeting), since large and small fold onto each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from perfmodel.plan.experts.counts import fewest_counts
from perfmodel.plan.milp import LinearProgram, Solution, solve

__all__ = ["Choice", "replica_choice"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_MARGIN = 1e-9
_THRESHOLDS = 32


@dataclass(frozen=True)
class Choice:
    """Whether counts exist for a wished load: `counts` where whole ones were found, `possible` False where proven not.

    `shares[e]` is the relaxation's mean count of an expert; `stopped_by` names a limit that ended the search.
    """

    possible: bool
    counts: Ints | None
    stopped_by: str | None = None


def replica_choice(
    loads: Floats, slots: int, ranks: int, most: int, target: float, *, whole: bool, nodes: int | None = 2000,
    time_limit_s: float | None = None,
) -> Choice:  # fmt: skip
    """Ask for replica counts that leave the fullest of `ranks` at or below `target`; not `whole`: the LP relaxation."""
    fewest = fewest_counts(loads, target)
    spare = slots - int(fewest.sum())
    if spare < 0 or fewest.max() > most or loads.sum() > ranks * target * (1 + _MARGIN):
        return Choice(False, None)
    program, expert, count = _program(loads, slots, ranks, most, target, fewest, spare)
    solution = solve(program if whole else program.relaxed(), work_limit=nodes, time_limit_s=time_limit_s)
    if solution.status == "infeasible":
        return Choice(False, None)
    if solution.values is None:
        return Choice(True, None, solution.stopped_by)
    return Choice(True, _chosen(solution, expert, count, slots, most, loads), solution.stopped_by)


def _program(
    loads: Floats, slots: int, ranks: int, most: int, target: float, fewest: Ints, spare: int
) -> tuple[LinearProgram, Ints, Ints]:
    """Columns: expert e with c copies, c from the fewest that fit; one column of each expert is taken."""
    widest = np.minimum(fewest + spare, most) - fewest + 1
    expert = np.repeat(np.arange(len(loads)), widest)
    count = np.concatenate([np.arange(low, low + width) for low, width in zip(fewest, widest, strict=True)])
    sizes = loads[expert] / count
    per_rank = slots // ranks
    chain = _nested_rows(sizes, count, target, per_rank)
    room = _room_rows(sizes, count, target, per_rank)
    links = chain.shape[1] - len(expert)
    one = csr_matrix((np.ones(len(expert)), (expert, np.arange(len(expert)))), shape=(len(loads), len(expert) + links))
    filled = csr_matrix(np.append(count, np.zeros(links)))
    rows = vstack([one, filled, chain, csr_matrix(np.pad(room, ((0, 0), (0, links))))], format="csr")
    equal = np.concatenate([np.ones(len(loads)), [slots], np.zeros(chain.shape[0])])
    low = np.append(equal, np.full(len(room), -np.inf))
    high = np.append(equal, np.zeros(len(room)))
    column_low = np.append(np.zeros(len(expert)), np.full(links, -np.inf))
    column_high = np.append(np.ones(len(expert)), np.zeros(links))
    whole = np.append(np.ones(len(expert), dtype=bool), np.zeros(links, dtype=bool))
    return LinearProgram(np.zeros(len(whole)), rows, low, high, column_low, column_high, whole), expert, count


def _nested_rows(sizes: Floats, count: Ints, target: float, slots: int) -> csr_matrix:
    """A replica of v > T / 2 has slots - 1 companions of at most T - v, for every v at once.

    Both sets grow as v falls, so the balance N(v) = (slots - 1) #{>= v} - #{<= T - v} is a chain of links N <= 0.
    """
    reach = target * (1 + _MARGIN)
    hot = np.unique(sizes[sizes > reach / 2])[::-1]
    link = np.full(len(sizes), -1)
    weight = np.zeros(len(sizes))
    is_hot = sizes > reach / 2
    link[is_hot] = np.searchsorted(-hot, -sizes[is_hot])
    weight[is_hot] = (slots - 1) * count[is_hot]
    cold = np.searchsorted(reach - hot, sizes)  # the first hot value with which it fits
    is_cold = ~is_hot & (cold < len(hot))
    link[is_cold], weight[is_cold] = cold[is_cold], -count[is_cold]
    used = np.flatnonzero(link >= 0)
    n, columns = len(hot), len(sizes)
    steps = np.arange(n)
    data = np.concatenate([weight[used], -np.ones(n), np.ones(max(n - 1, 0))])
    at = np.concatenate([link[used], steps, steps[1:]])
    of = np.concatenate([used, columns + steps, columns + steps[1:] - 1])
    return csr_matrix((data, (at, of)), shape=(n, columns + n))


def _room_rows(sizes: Floats, count: Ints, target: float, slots: int) -> Floats:
    """More than two slots: what the companions of all hot replicas weigh together fits the room that these leave."""
    reach = target * (1 + _MARGIN)
    cold = np.unique(sizes[sizes < target / 2])
    if slots == 2 or not len(cold):
        return np.zeros((0, len(sizes)))
    y = np.quantile(cold, np.linspace(0.03, 1, _THRESHOLDS))[:, None]
    hot = sizes > reach / 2
    room = np.maximum(sizes + (slots - 1) * y - reach, 0)
    return np.asarray(count * np.where(hot[None], room, -np.maximum(y - sizes, 0)) / target)


def _chosen(solution: Solution, expert: Ints, count: Ints, slots: int, most: int, loads: Floats) -> Ints:
    """Whole counts from the shares of a solution: its mean counts, rounded to fill the slots."""
    assert solution.values is not None
    mean = np.bincount(expert, weights=solution.values[: len(expert)] * count, minlength=len(loads))
    counts = np.maximum(np.floor(mean + 1e-6), 1).astype(np.int64)
    order = np.argsort(-(mean - counts), kind="stable")
    for e in order[: max(slots - int(counts.sum()), 0)]:
        counts[e] += 1
    return counts
