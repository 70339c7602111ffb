"""Replication and placement of one pool as a mixed-integer program: the exact answer for small pools."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

from perfmodel.plan.milp import LinearProgram, Solution, solve

__all__ = ["PlacementProgram", "RowBuilder", "placement_program", "solved_placement"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PlacementProgram:
    """Columns: z[e, c] (expert e has c copies), x[e, c, r] (how many of them on rank r), and last the fullest load."""

    program: LinearProgram
    experts: int
    widest: int
    ranks: int

    def slots_of(self, solution: Solution) -> Ints:
        """The placement of a solution, shape (ranks, slots of a rank), experts ascending on a rank."""
        assert solution.values is not None
        first = self.experts * self.widest
        held = np.rint(solution.values[first:-1]).astype(np.int64).reshape(self.experts, self.widest, self.ranks)
        on_rank = held.sum(axis=1)
        return np.stack([np.repeat(np.arange(self.experts), on_rank[:, rank]) for rank in range(self.ranks)])


def placement_program(loads: Floats, slots: int, ranks: int, *, duplicates: bool) -> PlacementProgram:
    """Minimise the fullest rank; ranks stand in order of falling load, and equal experts in order of falling copies."""
    experts = len(loads)
    widest = slots - experts + 1 if duplicates else min(slots - experts + 1, ranks)
    counts = np.arange(1, widest + 1)
    build = RowBuilder(experts * widest * (1 + ranks) + 1)
    z = np.arange(experts * widest).reshape(experts, widest)
    x = experts * widest + np.arange(experts * widest * ranks).reshape(experts, widest, ranks)
    fullest = experts * widest * (1 + ranks)
    per_copy = loads[:, None] / counts
    for e in range(experts):
        build.add(z[e], np.ones(widest), 1, 1)
        for c in range(widest):
            build.add(np.append(x[e, c], z[e, c]), np.append(np.ones(ranks), -counts[c]), 0, 0)
            if not duplicates:
                for r in range(ranks):
                    build.add([x[e, c, r], z[e, c]], [1, -1], -np.inf, 0)
    shares = np.repeat(per_copy[:, :, None], ranks, axis=2)
    for r in range(ranks):
        build.add(x[:, :, r].ravel(), np.ones(experts * widest), slots // ranks, slots // ranks)
        build.add(np.append(x[:, :, r].ravel(), fullest), np.append(shares[:, :, r].ravel(), -1), -np.inf, 0)
        if r:
            both = np.append(x[:, :, r].ravel(), x[:, :, r - 1].ravel())
            build.add(both, np.append(per_copy.ravel(), -per_copy.ravel()), -np.inf, 0)
    order = np.argsort(loads, kind="stable")
    for a, b in pairwise(order):
        if loads[a] == loads[b]:
            build.add(np.append(z[a], z[b]), np.append(counts, -counts), 0, np.inf)
    low, high = np.zeros(build.columns), np.ones(build.columns)
    high[x.ravel()] = slots // ranks if duplicates else 1
    low[-1], high[-1] = loads.sum() / ranks, loads.sum()
    whole = np.ones(build.columns, dtype=bool)
    whole[-1] = False
    cost = np.zeros(build.columns)
    cost[-1] = 1.0
    return PlacementProgram(build.program(cost, low, high, whole), experts, widest, ranks)


def solved_placement(
    loads: Floats, slots: int, ranks: int, *, duplicates: bool, solver: str = "highs",
    nodes: int | None = None, time_limit_s: float | None = None,
) -> tuple[Ints | None, Solution]:  # fmt: skip
    """The placement of one pool, shape (ranks, slots of a rank), and what the solver proved about its fullest rank."""
    scale = float(loads.sum() / ranks) or 1.0
    model = placement_program(loads / scale, slots, ranks, duplicates=duplicates)
    found = solve(model.program, solver=solver, work_limit=nodes, time_limit_s=time_limit_s)
    objective = None if found.objective is None else found.objective * scale
    scaled = Solution(found.status, objective, found.bound * scale, found.values, found.stopped_by)
    return (None if found.values is None else model.slots_of(found)), scaled


class RowBuilder:
    """Rows of a program, gathered one at a time."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._at: list[Ints] = []
        self._of: list[Ints] = []
        self._data: list[Floats] = []
        self._low: list[float] = []
        self._high: list[float] = []

    def add(self, columns: object, values: object, low: float, high: float) -> None:
        of = np.asarray(columns, dtype=np.int64)
        self._at.append(np.full(len(of), len(self._low)))
        self._of.append(of)
        self._data.append(np.asarray(values, dtype=np.float64))
        self._low.append(low)
        self._high.append(high)

    def program(self, cost: Floats, low: Floats, high: Floats, whole: NDArray[np.bool_]) -> LinearProgram:
        data, at, of = (np.concatenate(part) for part in (self._data, self._at, self._of))
        rows = coo_matrix((data, (at, of)), shape=(len(self._low), self.columns)).tocsr()
        return LinearProgram(cost, rows, np.array(self._low), np.array(self._high), low, high, whole)
