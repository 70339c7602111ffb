"""Price rows with all that they stand for as arrays, and keep the layouts worth naming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.limits import Column, Limit
from perfmodel.plan.loads import Loads
from perfmodel.plan.space import DEGREES, SPLIT, Rows, Switches, divisors, replica_counts
from perfmodel.predict.cost import Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.stages import Stages
from perfmodel.predict.step import Step
from perfmodel.predict.training import step_carbon_kg, step_cost_usd, step_energy_j
from perfmodel.predict.training_task import TrainingTask

__all__ = ["OBJECTIVES", "Kept", "Query", "chunks_of", "columns_of", "price", "split_stages", "unfolded"]

OBJECTIVES = {
    "time": "step_time_s",
    "cost": "cost_usd",
    "energy": "energy_j",
    "carbon": "carbon_kg",
    "memory": "memory_bytes",
}
PRICED = ("step_time_s", "memory_bytes", "cost_usd")
CELLS = 1 << 17
"""Layouts that are priced at once: few enough for memory, enough for NumPy."""
KEPT = 512
"""Layouts of a chunk that are kept: the frontier that a reader sees lies far within."""
_AXES = 3


@dataclass(frozen=True)
class Query:
    """What is asked: layouts of least `value` within `limits`; `bounds` may leave layouts unpriced."""

    task: TrainingTask
    value: Callable[[Column], Any]
    limits: tuple[Limit, ...]
    bounds: bool = True
    energetic: bool = False
    """Whether the value depends on how busy devices are."""

    @property
    def busy(self) -> bool:
        """Whether the value or a limit depends on how busy devices are."""
        return self.energetic or any(limit.energetic for limit in self.limits)

    @classmethod
    def of(cls, task: TrainingTask, objective: str, limits: tuple[Limit, ...], *, bounds: bool = True) -> Query:
        """The query for one of the objectives."""
        column = OBJECTIVES[objective]
        return cls(task, lambda of: of(column), limits, bounds, energetic=objective in ("energy", "carbon"))


@dataclass(frozen=True)
class Unfolded:
    """Rows with their axes: rows, ways to share out ZeRO's states, numbers of recomputed layers."""

    degrees: Degrees
    replicas: NDArray[np.float64]
    allowed: NDArray[np.bool_]


@dataclass
class Kept:
    """What a chunk leaves behind: columns of the best layouts, how many were priced and what became of them."""

    switches: Switches
    recompute: str
    columns: dict[str, NDArray[np.float64]]
    priced: int = 0
    fitting: int = 0
    pruned: Counter[str] = field(default_factory=Counter)


def chunks_of(
    rows: Rows, layers: NDArray[np.float64], switches: Switches, recompute: str
) -> Iterator[NDArray[np.intp]]:
    """Positions of rows with alike stages and data parallelism together, at most about `CELLS` layouts at once."""
    order = np.lexsort((rows["pp"], rows["tp"], rows["dp"], layers))
    widths = np.ones(len(order))
    if recompute == "full":
        widths = widths * (layers + 1.0)
    if switches.zero_stage:
        widths = widths * replica_counts(rows["dp"])
    part = (np.cumsum(widths[order]) // CELLS).astype(int)
    yield from np.split(order, np.flatnonzero(np.diff(part)) + 1)


def unfolded(
    rows: Rows, layers: NDArray[np.float64], switches: Switches, recompute: str, modules: tuple[str, ...] = ()
) -> Unfolded:
    """Every layout that the rows stand for under these switches, as degrees that broadcast."""
    d: dict[str, Any] = {name: rows[name].reshape(-1, 1, 1) for name in DEGREES}
    dp = d["dp"]
    allowed = np.ones((len(layers), 1, 1), dtype=bool)
    replicas, counts = np.ones((1, 1, 1)), None
    if switches.zero_stage:
        ways = sorted({1} | {r for one in np.unique(dp) for r in divisors(int(one))[:-1]})
        replicas = np.array(ways, dtype=np.float64).reshape(1, -1, 1)
        allowed = (replicas == 1.0) | ((dp % replicas == 0) & (dp > replicas))
    if recompute == "full":
        counts = np.arange(layers.max() + 1.0).reshape(1, 1, -1)
        allowed = allowed & (counts <= layers.reshape(-1, 1, 1))
    by_hand = split_stages(rows, (-1, 1, 1))
    degrees = Degrees(
        **d, shards=np.maximum(dp / replicas, 1.0) * d["cp"], zero_stage=switches.zero_stage,
        sequence_parallel=switches.sequence_parallel, recompute=recompute, recompute_layers=counts,
        recompute_modules=modules if recompute == "selective" else (), stage_layers=by_hand, schedule=switches.schedule,
    )  # fmt: skip
    return Unfolded(degrees, replicas, allowed)


def split_stages(rows: Rows, shape: tuple[int, ...]) -> Stages | None:
    """The stages of rows that place them by hand."""
    if SPLIT[0] not in rows:
        return None
    full, first, last = (rows[name].reshape(shape) for name in SPLIT)
    return Stages(full, first, last, 0.0)


def price(
    query: Query, loads: Loads, rows: Rows, layers: NDArray[np.float64], switches: Switches, recompute: str
) -> Kept:
    """Price everything that the rows stand for, and keep the best within all limits."""
    task = query.task
    block = unfolded(rows, layers, switches, recompute, task.steps.planned_modules)
    load = loads.of(rows, switches.sequence_parallel, _AXES)
    step = task.steps.price(block.degrees, task.global_batch, task.seq_len, detail=False, load=load)
    of = columns_of(task, block.degrees, step)
    kept = Kept(switches, recompute, {}, priced=int(block.allowed.sum()))
    # Time, memory and cost of every layout exist from here on: this is what "priced" counts.
    columns = {name: of(name) for name in PRICED}
    fits = block.allowed
    left = kept.priced
    for limit in query.limits:
        fits = fits & (limit.needs(of) <= limit.most)
        passed = int(fits.sum())
        kept.pruned[limit.rule] += left - passed
        left = passed
    kept.fitting = left
    shape = np.broadcast_shapes(fits.shape, *(np.shape(column) for column in columns.values()))
    found = np.flatnonzero(np.broadcast_to(fits, shape))
    values = np.broadcast_to(query.value(of), shape).reshape(-1)[found]
    if len(found) > KEPT:
        best = np.argpartition(values, KEPT - 1)[:KEPT]
        found, values = found[best], values[best]
    at = np.unravel_index(found, shape)
    row = at[0]
    kept.columns = {name: column[row] for name, column in rows.items()}
    kept.columns |= {
        "value": values,
        "replicas": block.replicas[0, at[1] if block.replicas.size > 1 else 0, 0] + 0.0 * values,
        "recomputed": at[2] + 0.0 * values,
        "layers": layers[row],
        **{name: np.broadcast_to(column, shape)[at] for name, column in columns.items()},
    }
    return kept


def columns_of(task: TrainingTask, degrees: Degrees, step: Step) -> Column:
    """Columns of a priced step by name, each computed when it is first asked for."""
    makers: dict[str, Callable[[], Number]] = {
        "step_time_s": lambda: step.seconds,
        "memory_bytes": lambda: step.memory.total,
        "cost_usd": lambda: step_cost_usd(task, degrees.accelerators, step.seconds),
        "energy_j": lambda: step_energy_j(task, degrees.accelerators, step),
        "watts": lambda: of("energy_j") / of("step_time_s"),
        "carbon_kg": lambda: step_carbon_kg(task, degrees.accelerators, step.seconds, of("energy_j")),
    }
    known: dict[str, Number] = {}

    def of(name: str) -> Number:
        if name not in known:
            known[name] = makers[name]()
        return known[name]

    return of
