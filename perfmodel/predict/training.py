"""`estimate_training`: from a model, a cluster and a layout to the record of one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel._version import __version__
from perfmodel.formulas.cost import cost_usd
from perfmodel.predict.cost import Number
from perfmodel.predict.layout import ParallelLayout, check_layout, make_layout
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.records import (
    MemoryBytes,
    TrainingEstimate,
    UnevenExperts,
    Warned,
    term_of,
    uneven_experts,
)
from perfmodel.predict.run import run_totals
from perfmodel.predict.stage_times import placed_layers
from perfmodel.predict.step import Step
from perfmodel.predict.training_task import (
    ClusterLike,
    ModelLike,
    TrainingTask,
    as_laid_out,
    degrees_of,
    training_task,
)
from perfmodel.predict.uncertainty import extrapolations, interval_of, widenings
from perfmodel.specs.quantity import cited
from perfmodel.specs.region import Region
from perfmodel.specs.registry import data_version
from perfmodel.specs.software import Software

__all__ = [
    "describe",
    "estimate_memory",
    "estimate_training",
    "step_carbon_kg",
    "step_cost_usd",
    "step_energy_j",
]


def estimate_training(
    model: ModelLike,
    cluster: ClusterLike,
    *,
    layout: ParallelLayout | Mapping[str, Any],
    global_batch: int,
    seq_len: int,
    precision: str = "bf16",
    software: Software | str | Mapping[str, Any] | None = None,
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
) -> TrainingEstimate:
    """Time, memory, energy and cost of one training step of `global_batch` sequences of `seq_len` tokens.

    `tokens` adds the totals of a whole run. `trainable` is "all", "lora:r=R" or "qlora:r=R". Documents of
    `mean_seq_len` tokens are padded to `seq_len` each, or `packing` "packed" fills sequences with them, each attending
    to itself; rates and utilisations then count their tokens alone. Experts are loaded evenly, or as one of
    `expert_imbalance`, `expert_loads` and `expert_placement` says (`predict.imbalance.expert_routing`). Carbon is that
    of a `region` (default: the world's mean) or of `carbon_kg_per_kwh`; with `embodied_kg`, of making one accelerator,
    also its share of `life_years`. `carbon_by_hour` are 24 intensities of the hours of a day, or their CSV: a step then
    has their mean, a run that of its own hours from `start_hour` on (local time), and says the best hour to start.
    Raises `SpecError` for a bad description and `PlanError` for arguments that cannot run together; an estimate that
    does not fit in memory is returned with `fits=False`.
    """
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
    chosen = make_layout(layout)
    check_layout(chosen, task.model, task.cluster, task.global_batch, task.seq_len)
    steps = as_laid_out(task.steps, chosen)
    return describe(task, chosen, steps.price(degrees_of(chosen, task.model.n_layers), task.global_batch, task.seq_len))


def estimate_memory(*args: Any, **keywords: Any) -> MemoryBytes:
    """Bytes [B] on the fullest rank at the peak of a training step; arguments and errors of `estimate_training`."""
    return estimate_training(*args, **keywords).memory_bytes


def describe(task: TrainingTask, layout: ParallelLayout, step: Step) -> TrainingEstimate:
    """The record of a step that was priced with scalars."""
    seconds = float(step.seconds)
    documents, length = task.documents
    tokens_per_s = documents * length / seconds
    accelerators = layout.accelerators
    peak = float(task.cluster.accelerator.peak(matmul_format(task.precision).peak)) * accelerators * seconds
    # Forward, gradients of the inputs, and gradients of the weights that learn.
    passes = 3.0 if task.steps.trainable.trains_all else 2.0
    full, causal = (
        passes * documents * task.model.forward_flops(1, length, attention=kind) for kind in ("full", "causal")
    )
    energy = float(step_energy_j(task, accelerators, step))
    cost = float(step_cost_usd(task, accelerators, seconds))
    carbon, power = float(step_carbon_kg(task, accelerators, seconds, energy)), task.steps.device_power
    memory = _memory(task, step)
    found = (
        *widenings(task.cluster, task.software, task.precision, task.notes),
        *extrapolations(task.software, accelerators, task.seq_len),
    )
    warnings = tuple(Warned(**one) for one in found)
    return TrainingEstimate(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=task.request() | {"layout": layout.model_dump(mode="json")},
        step_time_s=seconds,
        step_time_lower_s=float(step.lower_s),
        step_time_upper_s=float(step.upper_s),
        step_time_interval_s=interval_of(seconds, warnings, experts=task.model.n_experts > 1),
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_accelerator=tokens_per_s / accelerators,
        model_flop_per_s_per_accelerator=full / seconds / accelerators,
        mfu=full / peak,
        mfu_causal=causal / peak,
        hfu=(full + float(step.recompute_flops)) / peak,
        memory_bytes=memory,
        fits=memory.total <= memory.capacity,
        accelerators_used=accelerators,
        n_microbatches=task.global_batch // (layout.dp * layout.micro_batch),
        stage_layers=None if step.turn is None else placed_layers(step.turn, layout, task.model.n_layers),
        energy_j_per_step=energy,
        cost_usd_per_step=cost,
        carbon_kg_per_step=carbon,
        accelerator_w=float(step.energy_j(power)) / seconds,
        facility_w=energy / seconds,
        energy_j_per_token=energy / (documents * length),
        cost_usd_per_mtok=cost / (documents * length) * 1e6,
        carbon_kg_per_mtok=carbon / (documents * length) * 1e6,
        accelerator_w_by_term=step.watts_by_term(power),
        run=None
        if task.tokens is None
        else run_totals(
            task.tokens,
            tokens_per_s,
            seconds,
            energy,
            cost,
            accelerators,
            task.cluster.accelerators,
            task.emissions,
            task.start_hour,
        ),
        experts=_uneven_experts(task, layout, seconds),
        terms=term_of(step.tree).children,
        warnings=warnings,
        notes=(*task.notes, *power.notes),
        sources=_sources(task),
    )


def _uneven_experts(task: TrainingTask, layout: ParallelLayout, seconds: float) -> UnevenExperts | None:
    """What the step waits for the fullest rank of experts; None where routing is balanced."""
    routing = task.steps.routing
    if routing is None:
        return None
    steps = as_laid_out(task.steps.balanced(), layout)
    balanced = steps.price(degrees_of(layout, task.model.n_layers), task.global_batch, task.seq_len, detail=False)
    return uneven_experts(routing, layout.ep, seconds / float(balanced.seconds))


def _memory(task: TrainingTask, step: Step) -> MemoryBytes:
    parts = {name: float(getattr(step.memory, name)) for name in MemoryBytes.model_fields if name != "capacity"}
    return MemoryBytes(**parts, capacity=float(task.cluster.accelerator.capacity_bytes))


def step_energy_j(task: TrainingTask, accelerators: Number, step: Step) -> Number:
    """Energy [J] of steps: every accelerator as on the slowest stage, servers always on, times the facility."""
    one = step.energy_j(task.steps.device_power)
    server = float(task.cluster.server_overhead_w) * step.seconds
    return (one + server) * accelerators * float(task.cluster.pue)


def step_cost_usd(task: TrainingTask, accelerators: Number, seconds: Number) -> Number:
    """Price [USD] of the accelerators for that time; a rental price already contains power and servers."""
    return cost_usd(accelerators, seconds, float(task.cluster.accelerator_usd_per_hour))


def step_carbon_kg(task: TrainingTask, accelerators: Number, seconds: Number, energy_j: Number) -> Number:
    """Carbon [kg CO2e] of that energy at the meter, and of the accelerators for that time where it is asked for."""
    return task.emissions.kg(energy_j, accelerators, seconds)


def _sources(task: TrainingTask) -> tuple[str, ...]:
    """Title and address of every description that this prediction used."""
    described = (
        task.cluster.accelerator,
        task.cluster,
        task.software,
        task.steps.device_power.fitted,
        task.emissions.region,
    )
    used = [*cited(*described), task.model.source]
    return tuple(dict.fromkeys(f"{one.title}: {one.url}" for one in used if one is not None))
