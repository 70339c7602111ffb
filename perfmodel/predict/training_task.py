"""The question of a training estimate, checked: everything about a step but its layout, and a layout's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.emissions import Emissions, check_start_hour, emissions_of
from perfmodel.predict.imbalance import ExpertRouting, expert_routing
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.step import StepModel
from perfmodel.predict.weights import OPTIMIZERS
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster, cluster_reference, load_cluster
from perfmodel.specs.huggingface import load_model, model_reference
from perfmodel.specs.region import Region
from perfmodel.specs.registry import reference
from perfmodel.specs.software import Software, default_training_software, load_software

__all__ = [
    "PACKINGS",
    "TRAINING_PRECISIONS",
    "ClusterLike",
    "ModelLike",
    "TrainingTask",
    "as_laid_out",
    "degrees_of",
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


def _trained_routing(model: Architecture, *given: Any) -> ExpertRouting | None:
    """Unevenness of a step; a placement with replicas is for serving."""
    routing = expert_routing(model, *given)
    if routing is not None and routing.placement is not None and routing.placement.slots != model.n_experts:
        raise PlanError(
            f"expert_placement: {routing.placement.slots} slots for the {model.n_experts} experts of {model.id}: "
            "replicas would sum their gradients, which is not priced in training; plan with as many slots as experts"
        )
    return routing


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
