"""`plan_training`: price every layout of the space as arrays, keep what fits, and explain the choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.plan.records import Alternative, Certificate, Constraint, TrainingPlan
from perfmodel.plan.sensitivity import step_sensitivities
from perfmodel.plan.space import Block, Space, training_space
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.records import TrainingEstimate
from perfmodel.predict.training import (
    ClusterLike,
    ModelLike,
    TrainingTask,
    degrees_of,
    describe,
    step_cost_usd,
    step_energy_j,
    training_task,
)
from perfmodel.predict.uncertainty import residual_spread
from perfmodel.specs.registry import data_version
from perfmodel.specs.software import Software

__all__ = ["OBJECTIVES", "PricedSpace", "plan_training", "price_space"]

OBJECTIVES = ("time", "cost", "energy")
DEFAULT_MEMORY_MARGIN = 0.05


@dataclass(frozen=True)
class PricedSpace:
    """Columns over every priced candidate, in the order of the space's blocks."""

    space: Space
    step_time_s: NDArray[np.float64]
    memory_bytes: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    accelerators: NDArray[np.float64]
    block: NDArray[np.int64]
    row: NDArray[np.int64]

    def layout(self, index: int) -> ParallelLayout:
        """The layout of one candidate."""
        return self.space.blocks[int(self.block[index])].layout(int(self.row[index]))

    def objective(self, name: str) -> NDArray[np.float64]:
        """The column that is minimised."""
        return {"time": self.step_time_s, "cost": self.cost_usd, "energy": self.energy_j}[name]


def plan_training(
    model: ModelLike,
    cluster: ClusterLike,
    *,
    global_batch: int,
    seq_len: int,
    precision: str = "bf16",
    objective: str = "time",
    software: Software | str | dict[str, Any] | None = None,
    optimizer: str = "adam-mixed",
    tokens: float | None = None,
    memory_margin: float = DEFAULT_MEMORY_MARGIN,
    top: int = 8,
) -> TrainingPlan:
    """The layout of least `objective` ("time", "cost" or "energy") whose memory leaves `memory_margin` free.

    Raises `SpecError` or `PlanError` for bad input; when nothing fits the plan says so (`feasible`,
    `infeasible_because`) and nothing is raised.
    """
    if objective not in OBJECTIVES:
        raise PlanError(unknown_name("objective", objective, OBJECTIVES))
    if isinstance(memory_margin, bool) or not 0 <= memory_margin < 1:
        raise OutOfRangeError(f"memory_margin: must be at least 0 and below 1 (got {memory_margin!r})")
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise OutOfRangeError(f"top: must be a whole number >= 1 (got {top!r})")
    task = training_task(
        model,
        cluster,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
        software=software,
        optimizer=optimizer,
        tokens=tokens,
    )
    priced = price_space(task)
    capacity = float(task.cluster.accelerator.capacity_bytes)
    limit = capacity * (1.0 - memory_margin)
    request = task.request() | {"objective": objective, "memory_margin": memory_margin, "top": top}
    fits = np.flatnonzero(priced.memory_bytes <= limit)
    certificate = _certificate(priced, fits, objective)
    if not len(fits):
        return _infeasible(task, request, certificate, priced, limit)
    best = fits[_rank(priced, fits, objective)[0]]
    layout = priced.layout(int(best))
    prediction = _described(task, layout)
    total = prediction.memory_bytes.total
    return TrainingPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=request,
        feasible=True,
        decision={"layout": layout.model_dump(mode="json"), "accelerators_used": layout.accelerators},
        prediction=prediction,
        constraints=(Constraint(name="memory_bytes", limit=limit, value=total, slack=limit - total),),
        alternatives=_alternatives(task, priced, fits, int(best), objective, top),
        certificate=certificate,
        sensitivities=step_sensitivities(task, layout),
        infeasible_because=(),
        sources=prediction.sources,
    )


def _described(task: TrainingTask, layout: ParallelLayout) -> TrainingEstimate:
    """The full record of one layout of the space."""
    degrees = degrees_of(layout, task.model.n_layers)
    return describe(task, layout, task.steps.price(degrees, task.global_batch, task.seq_len))


def price_space(task: TrainingTask, space: Space | None = None) -> PricedSpace:
    """Step time, memory, cost and energy of every candidate, block by block as float64 arrays."""
    if space is None:
        space = training_space(task.model, task.cluster.accelerators, task.global_batch, task.seq_len)
    parts = [_price_block(task, block) for block in space.blocks]
    columns = [np.concatenate([part[i] for part in parts]) if parts else np.zeros(0) for i in range(5)]
    sizes = [len(block.degrees.tp) for block in space.blocks]
    return PricedSpace(
        space=space,
        step_time_s=columns[0],
        memory_bytes=columns[1],
        cost_usd=columns[2],
        energy_j=columns[3],
        accelerators=columns[4],
        block=np.repeat(np.arange(len(sizes)), sizes),
        row=np.concatenate([np.arange(size) for size in sizes]) if sizes else np.zeros(0, dtype=np.int64),
    )


def _price_block(task: TrainingTask, block: Block) -> tuple[NDArray[np.float64], ...]:
    degrees = block.degrees
    step = task.steps.price(degrees, task.global_batch, task.seq_len)
    columns = (
        step.seconds,
        step.memory.total,
        step_cost_usd(task, degrees.accelerators, step.seconds),
        step_energy_j(task, degrees.accelerators, step),
        degrees.accelerators,
    )
    return tuple(np.broadcast_to(np.asarray(column, dtype=np.float64), degrees.tp.shape) for column in columns)


def _rank(priced: PricedSpace, rows: NDArray[np.int64], objective: str) -> NDArray[np.int64]:
    """Order of `rows` by objective; equal values by time, then memory, then the order of the space."""
    keys = (priced.memory_bytes[rows], priced.step_time_s[rows], priced.objective(objective)[rows])
    return np.lexsort(keys)


def _certificate(priced: PricedSpace, fits: NDArray[np.int64], objective: str) -> Certificate:
    pruned = dict(priced.space.pruned) | {"memory": int(priced.space.priced - len(fits))}
    bound = float(priced.objective(objective)[fits].min()) if len(fits) else None
    return Certificate(
        method="every candidate of the space priced as arrays",
        optimal=bool(len(fits)),
        bound=bound,
        gap=0.0 if len(fits) else None,
        candidates=priced.space.candidates,
        priced=priced.space.priced,
        pruned=pruned,
    )


def _alternatives(
    task: TrainingTask, priced: PricedSpace, fits: NDArray[np.int64], best: int, objective: str, top: int
) -> tuple[Alternative, ...]:
    """Layouts tied with the best inside the model's own interval, and the frontier of time against memory and cost."""
    order = fits[_rank(priced, fits, objective)]
    frontier = _pareto(np.stack([priced.step_time_s, priced.memory_bytes, priced.cost_usd])[:, order])
    chosen = _distinct(priced, order[frontier][1:], best)[:top]
    # What is uncertain about hardware and software is common to all layouts; only the residual spread tells them apart.
    reach = float(priced.step_time_s[best]) * (1.0 + residual_spread())
    found = []
    for index in chosen:
        layout = priced.layout(int(index))
        estimate = _described(task, layout)
        found.append(
            Alternative(
                layout=layout.model_dump(mode="json"),
                step_time_s=estimate.step_time_s,
                step_time_interval_s=estimate.step_time_interval_s,
                memory_bytes=estimate.memory_bytes.total,
                cost_usd_per_step=estimate.cost_usd_per_step,
                energy_j_per_step=estimate.energy_j_per_step,
                accelerators_used=estimate.accelerators_used,
                mfu=estimate.mfu,
                tied=estimate.step_time_s <= reach,
            )
        )
    return tuple(found)


def _distinct(priced: PricedSpace, rows: NDArray[np.int64], best: int) -> list[int]:
    """Leave out rows that a reader could not tell from one shown already (within 0.1 % in time and memory)."""
    shown = [best]
    for row in rows:
        differs = all(
            abs(priced.step_time_s[row] / priced.step_time_s[other] - 1) > 1e-3
            or abs(priced.memory_bytes[row] / priced.memory_bytes[other] - 1) > 1e-3
            for other in shown
        )
        if differs:
            shown.append(int(row))
    return shown[1:]


def _pareto(columns: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of columns that no other one equals or beats in every row; the first of equals stays."""
    order = np.lexsort(columns[::-1])
    kept: list[int] = []
    for position in order:
        point = columns[:, position]
        if not kept or not (columns[:, kept] <= point[:, None]).all(axis=0).any():
            kept.append(int(position))
    return np.array(kept, dtype=np.int64)


def _infeasible(
    task: TrainingTask, request: dict[str, Any], certificate: Certificate, priced: PricedSpace, limit: float
) -> TrainingPlan:
    return TrainingPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=request,
        feasible=False,
        decision=None,
        prediction=None,
        constraints=_memory_constraint(priced, limit),
        alternatives=(),
        certificate=certificate,
        sensitivities=(),
        infeasible_because=tuple(_reasons(task, priced, limit)),
        sources=(),
    )


def _memory_constraint(priced: PricedSpace, limit: float) -> tuple[Constraint, ...]:
    if not len(priced.memory_bytes):
        return ()
    least = float(priced.memory_bytes.min())
    return (Constraint(name="memory_bytes", limit=limit, value=least, slack=limit - least),)


def _reasons(task: TrainingTask, priced: PricedSpace, limit: float) -> list[str]:
    """The tightest constraint, by how much it is missed, and what would fit."""
    if not len(priced.memory_bytes):
        rules = "; ".join(f"{rule}: {count}" for rule, count in priced.space.pruned.items() if count)
        return [f"no layout passes the rules of the space ({rules or 'none enumerated'})"]
    index = int(priced.memory_bytes.argmin())
    layout = priced.layout(index)
    least = float(priced.memory_bytes[index])
    reasons = [
        f"memory: the leanest layout (tp {layout.tp}, pp {layout.pp}, dp {layout.dp}, micro-batch "
        f"{layout.micro_batch}, ZeRO-{layout.zero_stage}, recompute {layout.recompute}) needs {least / 1e9:.1f} GB, "
        f"{limit / 1e9:.1f} GB are allowed of {float(task.cluster.accelerator.capacity_bytes) / 1e9:.1f}"
    ]
    enough = _accelerators_that_fit(task, limit)
    if enough is not None:
        reasons.append(f"would fit: {enough} accelerators of the same kind")
    reasons.append(f"would fit: an accelerator with {least / limit:.2f} times the memory")
    return reasons


def _accelerators_that_fit(task: TrainingTask, limit: float) -> int | None:
    """The smallest doubling of the cluster on which something fits."""
    for doubling in range(1, 9):
        accelerators = task.cluster.accelerators * 2**doubling
        if task.cluster.tiers[-1].domain_accelerators is not None:
            return None
        larger = training_task(
            task.model,
            task.cluster.model_copy(update={"accelerators": accelerators}),
            global_batch=task.global_batch,
            seq_len=task.seq_len,
            precision=task.precision,
            software=task.software,
            optimizer=task.optimizer,
        )
        memory = price_space(larger).memory_bytes
        if len(memory) and memory.min() <= limit:
            return accelerators
    return None
