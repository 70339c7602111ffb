"""Price the candidates of a space as arrays, block by block on all cores, and keep those worth naming."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.bounds import least
from perfmodel.plan.limits import Limit
from perfmodel.plan.loads import Loads
from perfmodel.plan.partial import refined
from perfmodel.plan.pricing import COLUMNS, OBJECTIVES, REACH, Kept, Query, price
from perfmodel.plan.space import PARTIAL_RULE, Block, Space
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.training import TrainingTask

__all__ = ["OBJECTIVES", "Found", "Nearest", "search"]

CELLS = 1 << 16
"""Positions that are priced at once: few enough for memory, enough for NumPy."""
ROUNDS = (2, 6)
"""Blocks that are priced before the best value found so far is looked at again, and again; then all others."""


@dataclass(frozen=True)
class Nearest:
    """The first limit that no candidate passes, the least that any needs, and which one that is."""

    limit: Limit
    value: float
    layout: ParallelLayout


@dataclass(frozen=True)
class Found:
    """The best candidates within all limits, best first; counts are over the whole space."""

    blocks: tuple[Block, ...]
    columns: dict[str, NDArray[np.float64]]
    block: NDArray[np.int64]
    position: NDArray[np.int64]
    priced: int
    fitting: int
    pruned: dict[str, int]
    nearest: Nearest | None

    def layout(self, index: int) -> ParallelLayout:
        """The layout of one of the kept candidates."""
        return self.blocks[int(self.block[index])].layout(int(self.position[index]))


def search(
    task: TrainingTask,
    space: Space,
    objective: str,
    limits: tuple[Limit, ...],
    *,
    bounds: bool = True,
    partial: bool = True,
) -> Found:
    """Candidates within `limits`, those of least `objective` first; equal ones by time, memory, order of the space.

    With `bounds`, candidates that cannot fit or cannot come near the best are counted and left unpriced; the best one
    is the same. Where nothing fits all are priced, to say what is nearest. `partial` adds layouts that recompute some
    layers of a stage.
    """
    query = Query(task, objective, limits, bounds)
    loads = Loads(task, space)
    chunks = [chunk for block in space.blocks for chunk in block.chunks(CELLS)]
    with ThreadPoolExecutor(cores()) as pool:
        kept = _bounded(query, chunks, loads, pool) if bounds else []
        if not any(one.fits for one in kept):
            kept = list(pool.map(lambda chunk: price(query, chunk, loads), chunks))
    if partial and any(one.fits for one in kept):
        kept += refined(query, kept, min(_best(query, one) for one in kept))
    return _gathered(query, kept, space.partial)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bounded(query: Query, chunks: list[Block], loads: Loads, pool: Executor) -> list[Kept]:
    """Blocks of least bound first, in rounds of fixed size: what is left out depends on no clock and no thread."""
    floors = list(pool.map(lambda chunk: _floor(query, chunk, loads), chunks))
    order = sorted(range(len(chunks)), key=lambda i: floors[i][1])
    kept: list[Kept] = []
    best, done = np.inf, 0
    for size in (*ROUNDS, len(order)):
        batch = order[done : done + size]
        done += len(batch)
        limit = best * REACH
        kept += pool.map(lambda i, limit=limit: price(query, chunks[i], loads, floors[i][0], limit), batch)
        best = min((best, *(_best(query, one) for one in kept)))
    return kept


def _best(query: Query, one: Kept) -> float:
    values = one.columns[COLUMNS.index(query.column)]
    return float(values.min()) if len(values) else np.inf


def _floor(query: Query, block: Block, loads: Loads) -> tuple[NDArray[np.float64], float]:
    """A bound of the objective for each candidate of a block, infinite where memory cannot suffice, and the least."""
    degrees, layers = block.degrees, loads.of(block).layer
    needs = least(query.task, degrees, layers, "memory_bytes")
    value = least(query.task, degrees, layers, query.column)
    fits = block.allowed & (needs <= query.limits[0].most)
    floor = np.where(fits, value, np.inf)
    return floor, float(floor.min())


def _gathered(query: Query, kept: list[Kept], partial: int) -> Found:
    """What blocks left behind as one table, best first."""
    repeating = sum(one.priced for one in kept if one.block.degrees.recompute_layers is not None)
    columns = np.concatenate([one.columns for one in kept], axis=1) if kept else np.zeros((len(COLUMNS), 0))
    named = dict(zip(COLUMNS, columns, strict=True))
    order = np.lexsort((named["memory_bytes"], named["step_time_s"], named[query.column]))
    return Found(
        blocks=tuple(one.block for one in kept),
        columns={name: column[order] for name, column in named.items()},
        block=np.repeat(np.arange(len(kept)), [one.columns.shape[1] for one in kept])[order],
        position=np.concatenate([one.position for one in kept])[order] if kept else np.zeros(0, dtype=np.int64),
        priced=sum(one.priced for one in kept),
        fitting=sum(one.fitting for one in kept),
        pruned={PARTIAL_RULE: partial - repeating} | dict(sum((one.pruned for one in kept), Counter())),
        nearest=None if any(one.fits for one in kept) else _nearest(query, kept),
    )


def _nearest(query: Query, kept: list[Kept]) -> Nearest | None:
    """Of the candidates that pass most limits, the one that needs least of the next."""
    reached = max((len(one.needs) for one in kept), default=0)
    if not reached:
        return None
    value, position, block = min(
        ((*one.needs[-1], i) for i, one in enumerate(kept) if len(one.needs) == reached), key=lambda found: found[0]
    )
    return Nearest(query.limits[reached - 1], value, kept[block].block.layout(position))
