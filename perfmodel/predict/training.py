"""`estimate_training`: from a model, a cluster and a layout to the record of one step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.formulas.cost import cost_usd
from perfmodel.predict.cost import Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.emissions import Emissions, check_start_hour, emissions_of
from perfmodel.predict.imbalance import ExpertRouting, expert_routing
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
from perfmodel.predict.step import Step, StepModel
from perfmodel.predict.uncertainty import extrapolations, interval_of, widenings
from perfmodel.predict.weights import OPTIMIZERS
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster, cluster_reference, load_cluster
from perfmodel.specs.huggingface import load_model, model_reference
from perfmodel.specs.quantity import cited
from perfmodel.specs.region import Region
from perfmodel.specs.registry import data_version, reference
from perfmodel.specs.software import Software, default_training_software, load_software

__all__ = [
    "TRAINING_PRECISIONS",
    "TrainingTask",
    "as_laid_out",
    "degrees_of",
    "describe",
    "estimate_memory",
    "estimate_training",
    "step_carbon_kg",
    "step_cost_usd",
    "step_energy_j",
    "training_task",
]

PACKINGS = ("padded", "packed")
TRAINING_PRECISIONS = ("fp16", "bf16", "fp8", "mxfp8", "nvfp4")
ModelLike = Architecture | str | Path | Mapping[str, Any]
ClusterLike = Cluster | str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class TrainingTask:
    """A checked question: everything about a training step except the layout."""

    model: Architecture
    cluster: Cluster
    software: Software
    global_batch: int
    seq_len: int
    precision: str
    optimizer: str
    tokens: float | None
    trainable: str
    mean_seq_len: int | None
    packing: str
    steps: StepModel
    notes: tuple[str, ...]
    emissions: Emissions
    start_hour: float | None = None

    def on(self, cluster: Cluster) -> TrainingTask:
        """The same question for a cluster of the same accelerators."""
        return replace(self, cluster=cluster, steps=self.steps.with_(cluster=cluster))

    def request(self) -> dict[str, Any]:
        """The resolved request without the layout: ids from the shelf, anything else written out in full."""
        return {
            "model": model_reference(self.model),
            "cluster": cluster_reference(self.cluster),
            "accelerators": self.cluster.accelerators,
            "global_batch": self.global_batch,
            "seq_len": self.seq_len,
            "precision": self.precision,
            "software": reference("software", self.software),
            "optimizer": self.optimizer,
            "tokens": self.tokens,
            "trainable": self.trainable,
            "mean_seq_len": self.mean_seq_len,
            "packing": self.packing,
            **dict.fromkeys(("expert_imbalance", "expert_loads", "expert_placement")),
            **(self.steps.routing.request if self.steps.routing else {}),
            **self.emissions.request(),
            "start_hour": self.start_hour,
        }

    @property
    def documents(self) -> tuple[float, int]:
        """Documents of a step and the length of one [tokens]: what is left of a batch without its padding."""
        if self.mean_seq_len is None:
            return float(self.global_batch), self.seq_len
        filled = self.seq_len / self.mean_seq_len if self.packing == "packed" else 1.0
        return self.global_batch * filled, self.mean_seq_len


def training_task(
    model: ModelLike,
    cluster: ClusterLike,
    *,
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
) -> TrainingTask:
    """Load and check everything; raises `SpecError` and `PlanError` before any work."""
    architecture = load_model(model)
    machine = load_cluster(cluster)
    if precision not in TRAINING_PRECISIONS:
        raise PlanError(unknown_name("precision", precision, TRAINING_PRECISIONS))
    if optimizer not in OPTIMIZERS:
        raise PlanError(unknown_name("optimizer", optimizer, OPTIMIZERS))
    stack = load_software(default_training_software(machine.accelerator.vendor) if software is None else software)
    efficiency = machine.accelerator.kernel_constants()
    if tokens is not None:
        tokens = _positive("tokens", tokens)
    length = _count("seq_len", seq_len)
    mean = _mean_length(mean_seq_len, packing, length)
    emissions = emissions_of(region, carbon_kg_per_kwh, embodied_kg, life_years, carbon_by_hour)
    steps = StepModel(
        architecture,
        machine,
        efficiency,
        stack,
        dtype=precision,
        optimizer=optimizer,
        trainable=trainable,
        document_len=float(mean) if mean is not None and packing == "packed" else None,
        routing=_trained_routing(architecture, expert_imbalance, expert_loads, expert_placement),
    )
    return TrainingTask(
        model=architecture,
        cluster=machine,
        software=stack,
        global_batch=_count("global_batch", global_batch),
        seq_len=length,
        precision=precision,
        optimizer=optimizer,
        tokens=tokens,
        trainable=trainable,
        mean_seq_len=mean,
        packing=packing,
        steps=steps,
        notes=(*efficiency.inherited, *stack.inherits),
        emissions=emissions,
        start_hour=check_start_hour(start_hour, emissions, tokens),
    )


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


def as_laid_out(steps: StepModel, layout: ParallelLayout) -> StepModel:
    """The step model with the switches that a layout sets instead of the software generation."""
    changes: dict[str, Any] = {}
    if layout.overlap is not None:
        changes |= {
            "overlap_tensor": "all" if layout.overlap else "none",
            "overlap_pipeline": layout.overlap,
            "overlap_data": layout.overlap,
        }
    if layout.cp_exchange is not None:
        changes["context_parallel"] = layout.cp_exchange
    return steps.with_(software=steps.software.model_copy(update=changes)) if changes else steps


def estimate_memory(*args: Any, **keywords: Any) -> MemoryBytes:
    """Bytes [B] on the fullest rank at the peak of a training step; arguments and errors of `estimate_training`."""
    return estimate_training(*args, **keywords).memory_bytes


def degrees_of(layout: ParallelLayout, n_layers: int) -> Degrees:
    """The numbers of a layout as the step model takes them."""
    return Degrees(
        tp=float(layout.tp),
        pp=float(layout.pp),
        dp=float(layout.dp),
        vpp=float(layout.vpp),
        micro_batch=float(layout.micro_batch),
        shards=float(layout.full_data_parallel * layout.cp),
        cp=float(layout.cp),
        ep=float(layout.ep),
        etp=float(layout.etp),
        zero_stage=layout.zero_stage,
        sequence_parallel=layout.sequence_parallel and layout.tp > 1,
        recompute=layout.recompute,
        recompute_modules=layout.recompute_modules,
        recompute_layers=layout.recompute_layers,
        stage_layers=layout.stage_layers,
        offload_share=layout.offload_share(n_layers),
        schedule=layout.schedule,
    )


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


def _trained_routing(model: Architecture, *given: Any) -> ExpertRouting | None:
    """Unevenness of a step; a placement with replicas is for serving."""
    routing = expert_routing(model, *given)
    if routing is not None and routing.placement is not None and routing.placement.slots != model.n_experts:
        raise PlanError(
            f"expert_placement: {routing.placement.slots} slots for the {model.n_experts} experts of {model.id}: "
            "replicas would sum their gradients, which is not priced in training; plan with as many slots as experts"
        )
    return routing


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


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PlanError(f"{name}: must be a whole number >= 1 (got {value!r})")
    if value < 1 or value % 1:
        raise OutOfRangeError(f"{name}: must be a whole number >= 1 (got {value!r})")
    return int(value)


def _mean_length(mean_seq_len: Any, packing: str, seq_len: int) -> int | None:
    if packing not in PACKINGS:
        raise PlanError(unknown_name("packing", packing, PACKINGS))
    if mean_seq_len is None:
        return None
    mean = _count("mean_seq_len", mean_seq_len)
    if mean > seq_len:
        raise PlanError(f"mean_seq_len: must be at most seq_len {seq_len} (got {mean})")
    return mean


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise OutOfRangeError(f"{name}: must be a positive number (got {value!r})")
    return float(value)
