"""Price the candidates of one block as arrays and keep those worth naming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.limits import Limit
from perfmodel.plan.loads import Loads
from perfmodel.plan.space import Block
from perfmodel.predict.cost import Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.step import Load, Step
from perfmodel.predict.training import TrainingTask, step_cost_usd, step_energy_j

__all__ = ["COLUMNS", "OBJECTIVES", "REACH", "Kept", "Query", "keep_best", "price", "step_of"]

OBJECTIVES = {"time": "step_time_s", "cost": "cost_usd", "energy": "energy_j", "memory": "memory_bytes"}
COLUMNS = ("step_time_s", "memory_bytes", "cost_usd", "energy_j")
BOUND_MEMORY = "bound: weights and optimizer alone exceed the memory"
BOUND_OBJECTIVE = "bound: at its best far behind a candidate that fits"
REACH = 1.5
"""Candidates whose bound is this far above the best are left unpriced: no frontier that a reader wants is there."""
KEPT = 512
"""Candidates of a block that are kept: the frontier that a reader sees lies far within."""


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
    """What one block leaves behind.

    `needs` is, per limit, the least that a candidate within the limits before needs; `overfull` are candidates without
    recomputation that exceed the memory and, at `overfull_value`, would be better than the best found before.
    """

    block: Block
    columns: NDArray[np.float64]
    position: NDArray[np.int64]
    priced: int = 0
    fitting: int = 0
    pruned: Counter[str] = field(default_factory=Counter)
    needs: list[tuple[float, int]] = field(default_factory=list)
    overfull: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    overfull_value: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def fits(self) -> bool:
        """Whether any candidate is within the limits."""
        return self.fitting > 0


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
    kept = keep_best(query, block, step_of(query.task, block.degrees, loads.of(block)), limit / REACH)
    kept.pruned.update(pruned)
    return kept


def step_of(task: TrainingTask, degrees: Degrees, load: Load | None = None) -> Step:
    """Sums of a step for arrays of degrees."""
    return task.steps.price(degrees, task.global_batch, task.seq_len, detail=False, load=load)


def keep_best(query: Query, block: Block, step: Step, best: float = np.inf) -> Kept:
    """The candidates of a priced block that are within the limits, at most `KEPT`; `best` is what was found before."""
    shape, positions = block.allowed.shape, block.candidates
    of = columns_of(query.task, block.degrees, step)

    def at(values: Any, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.broadcast_to(values, shape).reshape(-1)[chosen]

    # Time, memory and cost of every candidate exist from here on: this is what "priced" counts.
    for column in COLUMNS[:3]:
        of(column)
    kept = Kept(block, np.zeros((len(COLUMNS), 0)), positions, priced=len(positions))
    if block.degrees.recompute == "none":
        over = positions[at(of("memory_bytes"), positions) > query.limits[0].most]
        value = at(of(query.column), over)
        kept.overfull, kept.overfull_value = over[value < best], value[value < best]
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
