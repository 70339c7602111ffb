"""Price every candidate of a space as arrays, chunk by chunk on all cores, and keep those worth naming."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.space import Block, Space
from perfmodel.predict.layer import Layer
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.training import TrainingTask, step_cost_usd, step_energy_j

__all__ = ["OBJECTIVES", "Found", "search"]

OBJECTIVES = ("time", "cost", "energy", "memory")
CELLS = 1 << 15
"""Positions that are priced at once: their columns stay in a core's cache."""
KEPT = 512
"""Candidates of a chunk that are kept: the frontier that a reader sees lies far within."""
_COLUMNS = ("step_time_s", "memory_bytes", "cost_usd", "energy_j", "accelerators")


@dataclass(frozen=True)
class Found:
    """The best candidates that fit, best first, and the leanest of all; counts are over the whole space."""

    blocks: tuple[Block, ...]
    columns: dict[str, NDArray[np.float64]]
    block: NDArray[np.int64]
    position: NDArray[np.int64]
    priced: int
    fitting: int
    leanest: tuple[float, ParallelLayout] | None

    def layout(self, index: int) -> ParallelLayout:
        """The layout of one of the kept candidates."""
        return self.blocks[int(self.block[index])].layout(int(self.position[index]))


@dataclass
class _Best:
    """What one chunk leaves behind."""

    columns: NDArray[np.float64]
    position: NDArray[np.int64]
    priced: int
    fitting: int
    least_bytes: float
    leanest: int


@dataclass
class _Loads:
    """Layers of the shares that occur, each computed once: blocks differ in switches that leave them alone."""

    task: TrainingTask
    known: dict[tuple[Any, ...], Layer] = field(default_factory=dict)

    def of(self, block: Block) -> Layer:
        d = block.degrees
        # The mean layer of a stage depends on where the stages are cut only where layers differ.
        pipeline = d.pp.tobytes() if len(self.task.model.layer_groups) > 1 else None
        degrees = (column.tobytes() for column in (d.tp, d.cp, d.ep, d.etp, d.micro_batch))
        key = (d.sequence_parallel, pipeline, *degrees)
        if key not in self.known:
            share = d.share(self.task.seq_len, self.task.steps.document_len)
            self.known[key] = self.task.steps.load(share, d.pp)
        return self.known[key]


def search(task: TrainingTask, space: Space, objective: str, limit_bytes: float) -> Found:
    """Candidates that need at most `limit_bytes` [B], those of least `objective` first; equal ones by time and memory."""
    loads = _Loads(task)
    chunks = [chunk for block in space.blocks for chunk in block.chunks(CELLS)]
    with ThreadPoolExecutor(cores()) as pool:
        best = list(pool.map(lambda chunk: _price(task, chunk, loads, objective, limit_bytes), chunks))
    columns = np.concatenate([one.columns for one in best], axis=1) if best else np.zeros((len(_COLUMNS), 0))
    named = dict(zip(_COLUMNS, columns, strict=True))
    order = np.lexsort((named["memory_bytes"], named["step_time_s"], _objective(named, objective)))
    leanest = min((i for i, one in enumerate(best) if one.priced), key=lambda i: best[i].least_bytes, default=None)
    return Found(
        blocks=tuple(chunks),
        columns={name: column[order] for name, column in named.items()},
        block=np.repeat(np.arange(len(best)), [one.columns.shape[1] for one in best])[order],
        position=np.concatenate([one.position for one in best])[order] if best else np.zeros(0, dtype=np.int64),
        priced=sum(one.priced for one in best),
        fitting=sum(one.fitting for one in best),
        leanest=None if leanest is None else (best[leanest].least_bytes, chunks[leanest].layout(best[leanest].leanest)),
    )


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _objective(columns: dict[str, NDArray[np.float64]], name: str) -> NDArray[np.float64]:
    key = {"time": "step_time_s", "cost": "cost_usd", "energy": "energy_j", "memory": "memory_bytes"}[name]
    return columns[key]


def _price(task: TrainingTask, block: Block, loads: _Loads, objective: str, limit_bytes: float) -> _Best:
    degrees = block.degrees
    step = task.steps.price(degrees, task.global_batch, task.seq_len, detail=False, block=loads.of(block))
    positions, shape = block.candidates, block.allowed.shape

    def picked(values: Any, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.broadcast_to(values, shape).reshape(-1)[chosen]

    memory = picked(step.memory.total, positions)
    fits = positions[memory <= limit_bytes]
    makers: dict[str, Callable[[], Any]] = {
        "time": lambda: step.seconds,
        "cost": lambda: step_cost_usd(task, degrees.accelerators, step.seconds),
        "energy": lambda: step_energy_j(task, degrees.accelerators, step),
        "memory": lambda: step.memory.total,
    }
    kept = fits
    if len(fits) > KEPT:
        kept = fits[np.argpartition(picked(makers[objective](), fits), KEPT - 1)[:KEPT]]
    found = np.stack(
        [picked(makers[name](), kept) for name in ("time", "memory", "cost", "energy")]
        + [picked(degrees.accelerators, kept)]
    )
    least = int(memory.argmin()) if len(memory) else 0
    return _Best(
        found,
        kept,
        len(positions),
        len(fits),
        float(memory[least]) if len(memory) else np.inf,
        int(positions[least]) if len(memory) else 0,
    )
