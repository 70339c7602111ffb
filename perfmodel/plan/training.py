"""`plan_training`: price the space of layouts as arrays, keep what is within the limits, explain the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.plan.layerwise import LINEAR, stage_by_stage
from perfmodel.plan.limits import Limit, limits_of
from perfmodel.plan.pricing import Query
from perfmodel.plan.reasons import nearest_of, reasons
from perfmodel.plan.records import Alternative, Certificate, Constraint, Layerwise, TrainingPlan
from perfmodel.plan.search import OBJECTIVES, Found, search
from perfmodel.plan.sensitivity import step_sensitivities
from perfmodel.plan.space import Space, space_of
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.records import TrainingEstimate
from perfmodel.predict.schedules import SCHEDULES
from perfmodel.predict.training import describe
from perfmodel.predict.training_task import ClusterLike, ModelLike, TrainingTask, degrees_of, training_task
from perfmodel.predict.uncertainty import residual_spread
from perfmodel.specs.region import Region
from perfmodel.specs.registry import data_version
from perfmodel.specs.software import Software

__all__ = ["OBJECTIVES", "plan_training"]

DEFAULT_MEMORY_MARGIN = 0.05


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
    trainable: str = "all",
    mean_seq_len: int | None = None,
    packing: str = "padded",
    region: Region | str | Path | Mapping[str, Any] | None = None,
    carbon_kg_per_kwh: float | None = None,
    embodied_kg: float | None = None,
    life_years: float | None = None,
    carbon_by_hour: Sequence[float] | str | Path | None = None,
    start_hour: float | None = None,
    expert_imbalance: float | None = None,
    expert_loads: Any = None,
    expert_placement: Any = None,
    memory_margin: float = DEFAULT_MEMORY_MARGIN,
    max_watts: float | None = None,
    max_usd: float | None = None,
    max_days: float | None = None,
    schedules: Sequence[str] | None = None,
    top: int = 8,
) -> TrainingPlan:
    """The layout of least `objective` that leaves `memory_margin` free.

    `objective` is "time", "cost", "energy", "carbon" or "memory". `max_watts` limits the mean power of all accelerators
    used with their servers and facility, `max_usd` and `max_days` a run of `tokens`; carbon by hour ranks layouts by
    the mean hour, and `start_hour` says which hours the run of the best has; `schedules` are the pipeline
    schedules to choose from (None: those that the software offers). Uneven experts make a degree `ep` slower by the
    fullest rank that it has (`expert_loads` are placed in order at every degree). Raises `SpecError` or `PlanError` for
    bad input; when nothing fits the plan says so (`feasible`, `infeasible_because`) and nothing is raised.
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
        trainable=trainable,
        mean_seq_len=mean_seq_len,
        packing=packing,
        region=region,
        carbon_kg_per_kwh=carbon_kg_per_kwh,
        embodied_kg=embodied_kg,
        life_years=life_years,
        carbon_by_hour=carbon_by_hour,
        start_hour=start_hour,
        expert_imbalance=expert_imbalance,
        expert_loads=expert_loads,
        expert_placement=expert_placement,
    )
    memory = float(task.cluster.accelerator.capacity_bytes) * (1.0 - memory_margin)
    limits = limits_of(task, memory, max_watts, max_usd, max_days)
    offered = _schedules(schedules)
    given = {"max_watts": max_watts, "max_usd": max_usd, "max_days": max_days, "schedules": offered and list(offered)}
    request = task.request() | {"objective": objective, "memory_margin": memory_margin, "top": top} | given
    space = space_of(task, offered)
    found = search(task, space, objective, limits)
    certificate = _certificate(space, found)
    if not found.fitting:
        return _infeasible(task, request, certificate, space, limits)
    layerwise = _layerwise(Query.of(task, objective, limits), found) if objective in LINEAR else None
    return _feasible(task, request, certificate, found, limits, top, layerwise)


def _schedules(names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    for name in [names] if isinstance(names, str) else names:
        if name not in SCHEDULES:
            raise PlanError(unknown_name("schedule", name, SCHEDULES))
    return (names,) if isinstance(names, str) else tuple(names)


def _feasible(
    task: TrainingTask,
    request: dict[str, Any],
    certificate: Certificate,
    found: Found,
    limits: tuple[Limit, ...],
    top: int,
    layerwise: Layerwise | None,
) -> TrainingPlan:
    layout = found.layout(0)
    prediction = _described(task, layout)
    return TrainingPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=request,
        feasible=True,
        decision={"layout": layout.model_dump(mode="json"), "accelerators_used": layout.accelerators},
        prediction=prediction,
        constraints=tuple(_constraint(limit, _needs(limit, prediction)) for limit in limits),
        alternatives=_alternatives(task, found, top),
        certificate=certificate,
        layerwise=layerwise,
        sensitivities=step_sensitivities(task, layout),
        infeasible_because=(),
        sources=prediction.sources,
    )


def _layerwise(query: Query, found: Found) -> Layerwise:
    """Whether stages with layers and recomputation of their own would beat the decision."""
    layered = stage_by_stage(query, found.loads, found.unplaced, float(found.columns["value"][0]))
    if layered.layout is None:
        nothing = dict.fromkeys(("layout", "step_time_s", "step_change", "memory_bytes"))
        return Layerwise(**nothing, meshes=layered.meshes, solved=layered.solved)
    estimate = _described(query.task, layered.layout)
    return Layerwise(
        layout=layered.layout.model_dump(mode="json"),
        step_time_s=estimate.step_time_s,
        step_change=estimate.step_time_s / float(found.columns["step_time_s"][0]) - 1.0,
        memory_bytes=estimate.memory_bytes.total,
        meshes=layered.meshes,
        solved=layered.solved,
    )


def _infeasible(
    task: TrainingTask,
    request: dict[str, Any],
    certificate: Certificate,
    space: Space,
    limits: tuple[Limit, ...],
) -> TrainingPlan:
    nearest = nearest_of(task, space, limits)
    return TrainingPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=request,
        feasible=False,
        decision=None,
        prediction=None,
        constraints=() if nearest is None else (_constraint(nearest.limit, nearest.value),),
        alternatives=(),
        certificate=certificate,
        sensitivities=(),
        infeasible_because=tuple(reasons(task, space, nearest, limits)),
        sources=(),
    )


def _constraint(limit: Limit, value: float) -> Constraint:
    return Constraint(name=limit.name, limit=limit.most, value=value, slack=limit.most - value)


def _needs(limit: Limit, prediction: TrainingEstimate) -> float:
    """What a described layout needs of a limit."""
    columns = {
        "step_time_s": prediction.step_time_s,
        "memory_bytes": prediction.memory_bytes.total,
        "cost_usd": prediction.cost_usd_per_step,
        "energy_j": prediction.energy_j_per_step,
        "watts": prediction.facility_w,
    }
    return float(limit.needs(columns.__getitem__))


def _described(task: TrainingTask, layout: ParallelLayout) -> TrainingEstimate:
    """The full record of one layout of the space."""
    degrees = degrees_of(layout, task.model.n_layers)
    return describe(task, layout, task.steps.price(degrees, task.global_batch, task.seq_len))


def _certificate(space: Space, found: Found) -> Certificate:
    fits = found.fitting > 0
    return Certificate(
        method="every layout of the space priced as arrays, or left out by a named rule or an admissible bound",
        optimal=fits,
        bound=float(found.columns["value"][0]) if fits else None,
        gap=0.0 if fits else None,
        candidates=space.candidates,
        priced=found.priced,
        pruned=space.dropped | space.dominated | {"memory": 0} | found.pruned,
    )


def _alternatives(task: TrainingTask, found: Found, top: int) -> tuple[Alternative, ...]:
    """Layouts tied with the best inside the model's own interval, and the frontier of time against memory and cost."""
    columns = found.columns
    frontier = _pareto(np.stack([columns["step_time_s"], columns["memory_bytes"], columns["cost_usd"]]))
    chosen = _distinct(columns, frontier[frontier != 0])[:top]
    # What is uncertain about hardware and software is common to all layouts; only the residual spread tells them apart.
    reach = float(columns["step_time_s"][0]) * (1.0 + residual_spread())
    alternatives = []
    for index in chosen:
        layout = found.layout(index)
        estimate = _described(task, layout)
        alternatives.append(
            Alternative(
                layout=layout.model_dump(mode="json"),
                step_time_s=estimate.step_time_s,
                step_time_interval_s=estimate.step_time_interval_s,
                memory_bytes=estimate.memory_bytes.total,
                cost_usd_per_step=estimate.cost_usd_per_step,
                energy_j_per_step=estimate.energy_j_per_step,
                carbon_kg_per_step=estimate.carbon_kg_per_step,
                facility_w=estimate.facility_w,
                accelerators_used=estimate.accelerators_used,
                mfu=estimate.mfu,
                tied=estimate.step_time_s <= reach,
            )
        )
    return tuple(alternatives)


def _distinct(columns: dict[str, NDArray[np.float64]], rows: NDArray[np.int64]) -> list[int]:
    """Leave out rows that a reader could not tell from one shown already (within 0.1 % in time and memory)."""
    time_s, memory = columns["step_time_s"], columns["memory_bytes"]
    shown = [0]
    for row in rows:
        differs = (np.abs(time_s[row] / time_s[shown] - 1) > 1e-3) | (np.abs(memory[row] / memory[shown] - 1) > 1e-3)
        if differs.all():
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
