"""Bound every row of a space, price those that can still win on all cores, and keep the layouts worth naming."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.bounds import least
from perfmodel.plan.limits import Column, Limit
from perfmodel.plan.loads import Loads
from perfmodel.plan.pricing import OBJECTIVES, Kept, Query, chunks_of, price, split_stages
from perfmodel.plan.space import DEGREES, PLAIN, SPLIT, Rows, Space, Switches
from perfmodel.plan.splits import splits_of
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.stages import split_layers
from perfmodel.predict.training_task import TrainingTask

__all__ = ["OBJECTIVES", "Found", "search"]

REACH = 1.25
"""Rows whose bound is this far above the best are left unpriced: no frontier that a reader wants is there."""
FIRST_ROWS = 1024
"""Rows of least bound that are priced before the best value found so far is looked at, and then four times as many."""
BOUND_LIMIT = "bound: at its best beyond the limit of {}"
BOUND_OBJECTIVE = "bound: at its best far behind a layout that fits"
BOUND_UNEVEN = "bound: other stages cannot be better, or are beyond a limit"
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Found:
    """The best layouts within all limits, best first, as columns; counts are over the whole space.

    `unplaced` are the rows of one chunk a stage that could be best if every stage took as long as the mean one.
    """

    n_layers: int
    columns: dict[str, NDArray[np.float64]]
    switches: tuple[Switches, ...]
    recomputes: tuple[str, ...]
    switch: NDArray[np.intp]
    priced: int
    fitting: int
    pruned: dict[str, int]
    unplaced: tuple[tuple[Switches, Rows], ...]
    loads: Loads
    modules: tuple[str, ...]

    def layout(self, index: int) -> ParallelLayout:
        """One of the kept layouts."""
        row = {name: int(column[index]) for name, column in self.columns.items() if name in _WHOLE}
        switches = self.switches[int(self.switch[index])]
        degrees = {name: row[name] for name in DEGREES}
        kind = self.recomputes[int(self.switch[index])]
        recomputed = row["recomputed"] if kind == "full" else None
        schedule = "interleaved" if switches.schedule == PLAIN and row["vpp"] > 1 else switches.schedule
        by_hand = row.get("full", 0) > 0
        return ParallelLayout(
            **degrees,
            zero_stage=switches.zero_stage,
            dp_shard=None if row["replicas"] == 1 else row["dp"] // row["replicas"],
            sequence_parallel=switches.sequence_parallel,
            recompute="none" if recomputed == 0 else kind,
            recompute_modules=self.modules if kind == "selective" else (),
            recompute_layers=None if recomputed in (None, 0, row["layers"]) else recomputed,
            schedule=schedule,
            stage_layers=split_layers(self.n_layers, row["pp"], row["first"], row["last"]) if by_hand else None,
        )


_WHOLE = (*DEGREES, *SPLIT, "replicas", "recomputed", "layers")


@dataclass(frozen=True)
class _Pile:
    """Rows under the same switches, the least value of each, and what they are."""

    switches: Switches
    floor: NDArray[np.float64]
    rows: Callable[[NDArray[np.intp]], Rows]


def search(
    task: TrainingTask,
    space: Space,
    objective: str | Query,
    limits: tuple[Limit, ...] = (),
    *,
    bounds: bool = True,
    uneven: bool = True,
) -> Found:
    """Layouts within `limits`, those of least `objective` first; equal ones by time and memory.

    With `bounds`, layouts that cannot pass a limit or cannot come near the best are counted and left unpriced; the best
    one is the same. `uneven` adds layouts whose first and last stages hold fewer layers, as long as they can be best.
    """
    query = objective if isinstance(objective, Query) else Query.of(task, objective, limits, bounds=bounds)
    with ThreadPoolExecutor(cores()) as pool:
        return _Search(query, space, Loads(task, space, busy=query.busy), pool).run(uneven=uneven)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Search:
    def __init__(self, query: Query, space: Space, loads: Loads, pool: Executor) -> None:
        self.query, self.space, self.loads, self.pool = query, space, loads, pool
        self.kept: list[Kept] = []
        self.pruned: Counter[str] = Counter()
        self.best = np.inf

    def run(self, *, uneven: bool) -> Found:
        piles = list(self.pool.map(self._pile, self.space.switches()))
        for pile, left in zip(piles, self._rounds(piles, REACH), strict=True):
            self.pruned[BOUND_OBJECTIVE] += self._layouts(pile.rows(np.flatnonzero(left)), pile.switches.zero_stage)[0]
        by_default = sum(one.priced for one in self.kept)
        if uneven and np.isfinite(self.best):
            self._rounds([self._split(pile) for pile in piles if pile.switches.schedule == PLAIN], 1.0)
        by_hand = sum(one.priced for one in self.kept) - by_default
        self.pruned[BOUND_UNEVEN] = self.space.uneven - by_hand
        unplaced = tuple((pile.switches, self._unplaced(pile)) for pile in piles if pile.switches.schedule == PLAIN)
        modules = self.query.task.steps.planned_modules
        return _gathered(self.space.model.n_layers, self.kept, self.pruned, unplaced, self.loads, modules)

    # Bounds

    def _pile(self, switches: Switches) -> _Pile:
        """Every row of the space under these switches, bounded."""
        blocks, found = self.space.blocks, []
        for position, block in enumerate(blocks):
            for index in np.array_split(block.index, -(-len(block.index) // _ROWS_AT_ONCE)):
                rows, allowed = self.space.under(block.rows(index), switches)
                if allowed.any():
                    floor = self._floor(rows, switches)
                    # Narrow numbers: a space may have many million rows.
                    of = np.full(len(floor), position, dtype=np.int16)
                    found.append((of, index[allowed].astype(np.int32), floor))
        block_of, row_of, floor = (np.concatenate([one[i] for one in found] or [np.zeros(0)]) for i in range(3))

        def rows_at(positions: NDArray[np.intp]) -> Rows:
            chosen, of = row_of[positions], block_of[positions]
            tables = [self.space.under(blocks[i].rows(chosen[of == i]), switches)[0] for i in np.unique(of)]
            return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]} if tables else {}

        return _Pile(switches, floor, rows_at)

    def _floor(self, rows: Rows, switches: Switches) -> NDArray[np.float64]:
        """What rows are worth at their best."""
        if not self.query.bounds:
            return np.full(len(rows["pp"]), -np.inf)
        of = self._least(rows, switches)
        return np.broadcast_to(self.query.value(of), rows["pp"].shape)

    def _within(self, pile: _Pile, rows: Rows, *, counted: bool = True) -> Rows:
        """The rows that at their best are within the limits; the others are `counted` by a rule."""
        if not self.query.bounds or not rows:
            return rows
        of = self._least(rows, pile.switches)
        fits = np.ones(len(rows["pp"]), dtype=bool)
        for limit in self.query.limits:
            passes = limit.needs(of) <= limit.most
            if counted and SPLIT[0] not in rows:
                over = {name: column[fits & ~passes] for name, column in rows.items()}
                self.pruned[BOUND_LIMIT.format(limit.rule)] += self._layouts(over, pile.switches.zero_stage)[0]
            fits = fits & passes
        return {name: column[fits] for name, column in rows.items()}

    def _least(self, rows: Rows, switches: Switches) -> Column:
        columns: dict[str, Any] = {name: rows[name] for name in DEGREES}
        degrees = Degrees(
            **columns,
            shards=rows["dp"] * rows["cp"],
            zero_stage=switches.zero_stage,
            sequence_parallel=switches.sequence_parallel,
            stage_layers=split_stages(rows, (-1,)),
            schedule=switches.schedule,
        )
        return least(self.query.task, degrees, self.loads.of(rows, switches.sequence_parallel, 1))

    def _layouts(self, rows: Rows, zero_stage: int) -> tuple[int, int]:
        """Layouts that some rows stand for, with default stages and with uneven ones."""
        if not rows or not len(rows["pp"]):
            return 0, 0
        default, uneven = self.space.layouts(rows, zero_stage)
        return int(default.sum()), int(uneven.sum())

    def _split(self, pile: _Pile) -> _Pile:
        """The rows of one chunk a stage that can still be best, with every split of their layers."""
        rows = _with_splits(self._unplaced(pile), self.space.model.n_layers)
        floor = self._floor(rows, pile.switches) if rows else np.zeros(0)
        return _Pile(pile.switches, floor, lambda positions: {name: column[positions] for name, column in rows.items()})

    def _unplaced(self, pile: _Pile) -> Rows:
        """The rows of one chunk a stage that can still be best."""
        rows = self._within(pile, pile.rows(np.flatnonzero(pile.floor < self.best)), counted=False)
        plain = (rows["vpp"] == 1) & (rows["pp"] > 1) if rows else None
        return {name: column[plain] for name, column in rows.items()}

    # Prices

    def _rounds(self, piles: list[_Pile], reach: float) -> list[NDArray[np.bool_]]:
        """Price rows of least bound first, and give which were left out because the best is further below.

        Rounds have fixed sizes: what is left out depends on no clock and no thread.
        """
        floors = np.concatenate([pile.floor for pile in piles])
        order, left = np.argsort(floors, kind="stable"), np.ones(len(floors), dtype=bool)
        ends = np.cumsum([len(pile.floor) for pile in piles])
        done, size = 0, FIRST_ROWS if self.query.bounds else len(order)
        while done < len(order):
            batch = order[done : done + size]
            done, size = done + size, 4 * size
            batch = np.sort(batch[floors[batch] <= self.best * reach])
            left[batch] = False
            cuts = np.split(batch, np.searchsorted(batch, ends[:-1]))
            self._price([
                (pile, self._within(pile, pile.rows(cut - (end - len(pile.floor)))))
                for pile, cut, end in zip(piles, cuts, ends, strict=True)
                if len(cut)
            ])  # fmt: skip
        return np.split(left, ends[:-1])

    def _price(self, found: list[tuple[_Pile, Rows]]) -> None:
        jobs = []
        for pile, rows in found:
            if not len(rows["pp"]):
                continue
            layers = rows[SPLIT[0]] if SPLIT[0] in rows else self.space.stage_layers(rows)
            for recompute in self.space.recomputes:
                for cut in chunks_of(rows, layers, pile.switches, recompute):
                    chosen = {name: column[cut] for name, column in rows.items()}
                    jobs.append((chosen, layers[cut], pile.switches, recompute))
        self.kept += self.pool.map(lambda job: price(self.query, self.loads, *job), jobs)
        self.best = min([self.best, *(float(one.columns["value"].min()) for one in self.kept if one.fitting)])


def _with_splits(rows: Rows, n_layers: int) -> Rows:
    """Rows of one chunk a stage, each once for every split of its layers."""
    if not rows:
        return {}
    parts = []
    for pp in np.unique(rows["pp"]):
        splits = splits_of(n_layers, int(pp))
        here = np.flatnonzero(rows["pp"] == pp)
        part = {name: np.repeat(column[here], splits.shape[1]) for name, column in rows.items()}
        parts.append(part | {name: np.tile(line, len(here)) for name, line in zip(SPLIT, splits, strict=True)})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _gathered(
    n_layers: int,
    kept: list[Kept],
    pruned: Counter[str],
    unplaced: tuple[tuple[Switches, Rows], ...],
    loads: Loads,
    modules: tuple[str, ...],
) -> Found:
    """What chunks left behind as one table, best first."""
    kept = [one for one in kept if one.priced]
    names = dict.fromkeys(name for one in kept for name in one.columns)
    columns = {
        name: np.concatenate([one.columns.get(name, np.zeros(len(one.columns["value"]))) for one in kept])
        for name in names
    }
    for name in ("value", "memory_bytes", "step_time_s"):
        columns.setdefault(name, np.zeros(0))
    order = np.lexsort((columns["memory_bytes"], columns["step_time_s"], columns["value"]))
    switch = np.repeat(np.arange(len(kept)), [len(one.columns["value"]) for one in kept])
    return Found(
        n_layers,
        columns={name: column[order] for name, column in columns.items()},
        switches=tuple(one.switches for one in kept),
        recomputes=tuple(one.recompute for one in kept),
        switch=switch[order],
        priced=sum(one.priced for one in kept),
        fitting=sum(one.fitting for one in kept),
        pruned=dict(sum((one.pruned for one in kept), Counter(pruned))),
        unplaced=unplaced,
        loads=loads,
        modules=modules,
    )
