"""One option for each item under one budget (a multiple-choice knapsack): its linear bound and its whole answer.

Options lie on a plane of cost and value. The linear relaxation buys steps of the items' upper concave envelopes in
order of value for money, so its bound and its price of a unit of budget are exact. Whole answers begin from that order,
are filled up, and are proved, where few options remain possible, by a dynamic program over states that no other state
dominates and that the relaxation does not rule out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROUNDING", "Choices", "Frontier", "choose", "frontier"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
_STATES = 400_000
_EXACT = 1e-9
_FILLS = 60
ROUNDING = 1e-12
"""Relative: sums of many prices differ in the last digits by their order."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """Steps of all items' envelopes by falling slope: `item`, `option` reached, `cost` and `value` added."""

    item: Whole
    option: Whole
    cost: Floats
    value: Floats

    def at(self, budget: float) -> tuple[float, float]:
        """The bound on value at a budget, and the value of one more unit there."""
        spent = np.cumsum(self.cost)
        position = int(np.searchsorted(spent, budget, side="right"))
        value = float(self.value[:position].sum())
        if position == len(spent):
            return value, 0.0
        slope = float(self.value[position] / self.cost[position])
        left = budget - (float(spent[position - 1]) if position else 0.0)
        return value + slope * left, slope

    def budget_for(self, value: float) -> float | None:
        """The least budget whose bound is this value; None beyond what all budgets reach."""
        bought = np.concatenate(([0.0], np.cumsum(self.value)))
        if value > bought[-1]:
            return None
        return float(np.interp(value, bought, np.concatenate(([0.0], np.cumsum(self.cost)))))


@dataclass(frozen=True, slots=True)
class Choices:
    """An answer: `option` of each item (-1: none), with its value and cost, the bound, and what was proved."""

    option: Whole
    value: float
    cost: float
    bound: float
    slope: float
    optimal: bool
    stopped_by: str | None


def frontier(values: Sequence[Floats], costs: Sequence[Floats]) -> Frontier:
    """The steps of every item's envelope from nothing (cost 0, value 0); costs are positive."""
    hulls = [_envelope(value, cost) for value, cost in zip(values, costs, strict=True)]
    item = np.repeat(np.arange(len(hulls)), [len(hull) for hull in hulls])
    option = np.concatenate(hulls)
    cost = np.concatenate([np.diff(one[hull], prepend=0.0) for one, hull in zip(costs, hulls, strict=True)])
    value = np.concatenate([np.diff(one[hull], prepend=0.0) for one, hull in zip(values, hulls, strict=True)])
    order = np.argsort(-value / cost, kind="stable")
    return Frontier(item[order], option[order], cost[order], value[order])


def _envelope(value: Floats, cost: Floats) -> Whole:
    """Positions of the upper concave envelope above the origin, by rising cost."""
    order = np.lexsort((-value, cost))
    best = np.maximum.accumulate(np.concatenate(([0.0], value[order])))
    hull: list[int] = []
    for position in order[value[order] > best[:-1]]:
        x, y = cost[position], value[position]
        while hull:
            x1, y1 = cost[hull[-1]], value[hull[-1]]
            x0, y0 = (cost[hull[-2]], value[hull[-2]]) if len(hull) > 1 else (0.0, 0.0)
            if (y1 - y0) * (x - x0) > (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append(int(position))
    return np.array(hull, dtype=np.int64)


def choose(
    values: Sequence[Floats], costs: Sequence[Floats], steps: Frontier, budget: float, *, states: int = _STATES
) -> Choices:
    """The options of most value within the budget; `states` limits the work of the proof."""
    budget *= 1.0 + ROUNDING
    bound, slope = steps.at(budget)
    option = _filled(values, costs, _greedy(steps, len(values), costs, budget), budget)
    value = _total(values, option)
    if bound - value <= _EXACT * max(bound, 1e-300):
        return Choices(option, value, _total(costs, option), bound, slope, True, None)
    better, finished = _proved(values, costs, budget, bound, slope, option, states)
    value = _total(values, better)
    proved = value if finished else bound
    return Choices(better, value, _total(costs, better), proved, slope, finished, None if finished else "work_limit")


def _total(table: Sequence[Floats], option: Whole) -> float:
    return float(sum(row[chosen] for row, chosen in zip(table, option, strict=True) if chosen >= 0))


def _greedy(steps: Frontier, items: int, costs: Sequence[Floats], budget: float) -> Whole:
    """Steps in order of slope; an item whose next step is too dear takes no later one."""
    option = np.full(items, -1, dtype=np.int64)
    left, closed = budget, np.zeros(items, dtype=bool)
    for item, reached, cost in zip(steps.item.tolist(), steps.option.tolist(), steps.cost.tolist(), strict=True):
        if closed[item]:
            continue
        if cost > left:
            closed[item] = True
            continue
        option[item], left = reached, left - cost
    return option


def _filled(values: Sequence[Floats], costs: Sequence[Floats], option: Whole, budget: float) -> Whole:
    """Exchange options of single items, the largest gain first, while one fits into what is left."""
    option = option.copy()
    for _ in range(_FILLS):
        left = budget - _total(costs, option)
        best, best_gain = None, 1e-15
        for item, (value, cost) in enumerate(zip(values, costs, strict=True)):
            now = option[item]
            held, paid = (value[now], cost[now]) if now >= 0 else (0.0, 0.0)
            gain = np.where(cost <= paid + left, value - held, -1.0)
            reached = int(np.argmax(gain))
            if gain[reached] > best_gain:
                best, best_gain = (item, reached), float(gain[reached])
        if best is None:
            break
        option[best[0]] = best[1]
    return option


def _proved(
    values: Sequence[Floats],
    costs: Sequence[Floats],
    budget: float,
    bound: float,
    slope: float,
    incumbent: Whole,
    states: int,
) -> tuple[Whole, bool]:
    """The best whole answer where `states` suffice, and whether they did."""
    known = _total(values, incumbent) * (1.0 + _EXACT)
    rows = []
    for value, cost in zip(values, costs, strict=True):
        all_values, all_costs = np.append(value, 0.0), np.append(cost, 0.0)
        reduced = all_values - slope * all_costs
        top = reduced.max()
        # An option this far from its item's best cannot stand in an answer better than the known one.
        kept = np.flatnonzero(bound - (top - reduced) > known)
        rows.append((kept, all_values[kept], all_costs[kept], top))
    rest = float(sum(row[3] for row in rows)) + slope * budget
    cost_of, value_of = np.zeros(1), np.zeros(1)
    parents: list[tuple[Whole, Whole]] = []
    work = 0
    for kept, value, cost, top in rows:
        rest -= top
        work += len(kept) * len(cost_of)
        if work > states or not len(kept):
            return incumbent, not len(kept)
        all_cost = (cost_of[:, None] + cost[None, :]).ravel()
        all_value = (value_of[:, None] + value[None, :]).ravel()
        possible = (all_cost <= budget) & (all_value - slope * all_cost + rest > known)
        found = np.flatnonzero(possible)
        found = found[np.lexsort((-all_value[found], all_cost[found]))]
        reached = np.maximum.accumulate(np.concatenate(([-1.0], all_value[found])))
        found = found[all_value[found] > reached[:-1]]
        parents.append((found // len(kept), kept[found % len(kept)]))
        cost_of, value_of = all_cost[found], all_value[found]
        if not len(found):
            return incumbent, True
    best = int(np.argmax(value_of))
    if value_of[best] <= known:  # a state may survive because of budget that it leaves unused
        return incumbent, True
    return _traced(parents, best, [len(value) for value in values]), True


def _traced(parents: list[tuple[Whole, Whole]], state: int, sizes: list[int]) -> Whole:
    option = np.full(len(parents), -1, dtype=np.int64)
    for item in range(len(parents) - 1, -1, -1):
        came_from, chosen = parents[item]
        picked = int(chosen[state])
        option[item] = picked if picked < sizes[item] else -1
        state = int(came_from[state])
    return option
