"""Price the candidates of a space as arrays, block by block on all cores, and keep those worth naming."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.bounds import least
from perfmodel.plan.limits import Limit
from perfmodel.plan.loads import Loads
from perfmodel.plan.space import Block, Space
from perfmodel.predict.cost import Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.step import Step
from perfmodel.predict.training import TrainingTask, step_cost_usd, step_energy_j

__all__ = ["BOUND_MEMORY", "BOUND_OBJECTIVE", "OBJECTIVES", "Found", "Nearest", "search"]

OBJECTIVES = {"time": "step_time_s", "cost": "cost_usd", "energy": "energy_j", "memory": "memory_bytes"}
COLUMNS = ("step_time_s", "memory_bytes", "cost_usd", "energy_j")
BOUND_MEMORY = "bound: weights and optimizer alone exceed the memory"
BOUND_OBJECTIVE = "bound: at its best far behind a candidate that fits"
REACH = 1.5
"""Candidates whose bound is this far above the best are left unpriced: no frontier that a reader wants is there."""
CELLS = 1 << 16
"""Positions that are priced at once: few enough for memory, enough for NumPy."""
KEPT = 512
"""Candidates of a block that are kept: the frontier that a reader sees lies far within."""
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


@dataclass(frozen=True)
class Query:
    """What is asked: candidates of least `objective` within `limits`; `bounds` may leave candidates unpriced."""

    task: TrainingTask
    objective: str
    limits: tuple[Limit, ...]
    bounds: bool = True

    @property
    def column(self) -> str:
        """The column that is least."""
        return OBJECTIVES[self.objective]


@dataclass
class Kept:
    """What one block leaves behind; `needs` is, per limit, the least that a candidate within the limits before needs."""

    block: Block
    columns: NDArray[np.float64]
    position: NDArray[np.int64]
    priced: int = 0
    fitting: int = 0
    pruned: Counter[str] = field(default_factory=Counter)
    needs: list[tuple[float, int]] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether any candidate is within the limits."""
        return self.fitting > 0


def search(
    task: TrainingTask, space: Space, objective: str, limits: tuple[Limit, ...], *, bounds: bool = True
) -> Found:
    """Candidates within `limits`, those of least `objective` first; equal ones by time, memory, order of the space.

    With `bounds`, candidates that cannot fit or cannot come near the best are counted and left unpriced; the best one
    is the same. Where nothing fits all are priced, to say what is nearest.
    """
    query = Query(task, objective, limits, bounds)
    loads = Loads(task, space)
    chunks = [chunk for block in space.blocks for chunk in block.chunks(CELLS)]
    with ThreadPoolExecutor(cores()) as pool:
        kept = _bounded(query, chunks, loads, pool) if bounds else []
        if not any(one.fits for one in kept):
            kept = list(pool.map(lambda chunk: price(query, chunk, loads), chunks))
    return gathered(query, kept)


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
    degrees, layers = block.degrees, loads.of(block)
    needs = least(query.task, degrees, layers, "memory_bytes")
    value = least(query.task, degrees, layers, query.column)
    fits = block.allowed & (needs <= query.limits[0].most)
    floor = np.where(fits, value, np.inf)
    return floor, float(floor.min())


def price(
    query: Query, block: Block, loads: Loads, floor: NDArray[np.float64] | None = None, limit: float = np.inf
) -> Kept:
    """Price the candidates of a block whose `floor` is below `limit`, and keep the best within all limits."""
    pruned: Counter[str] = Counter()
    if floor is not None:
        keep = floor <= limit
        keep &= np.isfinite(floor)
        pruned[BOUND_MEMORY] = block.size - int(np.isfinite(floor[block.allowed]).sum())
        pruned[BOUND_OBJECTIVE] = block.size - int(keep.sum()) - pruned[BOUND_MEMORY]
        if not keep.any():
            return Kept(block, np.zeros((len(COLUMNS), 0)), np.zeros(0, dtype=np.int64), pruned=pruned)
        block = Block(block.degrees, keep).cropped()
    kept = keep_best(query, block, step_of(query.task, block.degrees, loads.of(block)))
    kept.pruned.update(pruned)
    return kept


def step_of(task: TrainingTask, degrees: Degrees, layers: Any = None) -> Step:
    """Sums of a step for arrays of degrees."""
    return task.steps.price(degrees, task.global_batch, task.seq_len, detail=False, block=layers)


def keep_best(query: Query, block: Block, step: Step) -> Kept:
    """The candidates of a priced block that are within the limits, at most `KEPT` of the best."""
    shape, positions = block.allowed.shape, block.candidates
    of = columns_of(query.task, block.degrees, step)

    def at(values: Any, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.broadcast_to(values, shape).reshape(-1)[chosen]

    # Time, memory and cost of every candidate exist from here on: this is what "priced" counts.
    for column in COLUMNS[:3]:
        of(column)
    kept = Kept(block, np.zeros((len(COLUMNS), 0)), positions, priced=len(positions))
    fits = positions
    for limit in query.limits:
        values = at(limit.needs(of), fits)
        if len(fits):
            lowest = int(values.argmin())
            kept.needs.append((float(values[lowest]), int(fits[lowest])))
        passes = values <= limit.most
        kept.pruned[limit.rule] += len(fits) - int(passes.sum())
        fits = fits[passes]
    kept.fitting = len(fits)
    if len(fits) > KEPT:
        fits = fits[np.argpartition(at(of(query.column), fits), KEPT - 1)[:KEPT]]
    kept.position = fits
    kept.columns = np.stack([at(of(column), fits) for column in COLUMNS])
    return kept


def columns_of(task: TrainingTask, degrees: Degrees, step: Step) -> Callable[[str], Number]:
    """Columns of a priced step by name, each computed when it is first asked for."""
    makers: dict[str, Callable[[], Number]] = {
        "step_time_s": lambda: step.seconds,
        "memory_bytes": lambda: step.memory.total,
        "cost_usd": lambda: step_cost_usd(task, degrees.accelerators, step.seconds),
        "energy_j": lambda: step_energy_j(task, degrees.accelerators, step),
    }
    known: dict[str, Number] = {}

    def of(name: str) -> Number:
        if name not in known:
            known[name] = makers[name]()
        return known[name]

    return of


def gathered(query: Query, kept: Iterable[Kept]) -> Found:
    """What blocks left behind as one table, best first."""
    kept = list(kept)
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
        pruned=dict(sum((one.pruned for one in kept), Counter())),
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
