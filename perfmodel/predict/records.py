"""What a prediction says: frozen records whose JSON keys are a contract (DESIGN section 4)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from perfmodel.predict.cost import Node
from perfmodel.predict.imbalance import ExpertRouting

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["MemoryBytes", "Record", "Term", "TrainingEstimate", "UnevenExperts", "Warned", "term_of", "uneven_experts"]


class Record(BaseModel):
    """A frozen result; `.to_dict()`, `.to_json()` and `.model_dump(mode="json")` give the same keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    document_kind: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON document as Python objects."""
        return self.model_dump(mode="json")

    def to_json(self, indent: int | None = 2) -> str:
        """The JSON document; raises `ValueError` for a NaN or an infinity."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_frame(self) -> DataFrame:
        """The terms of an estimate as a tidy table, or the one row of a result without; raises `PlanError`."""
        from perfmodel.predict.frames import frame_of

        return frame_of(self)


class Term(Record):
    """One term of a time: `seconds` is exposed and sums exactly to the parent; `busy_seconds` is what works."""

    name: str
    seconds: float
    busy_seconds: float
    bound_by: str
    children: tuple[Term, ...] = ()


class Warned(Record):
    """A quantity outside the published range of a formula or of a calibration."""

    formula: str
    quantity: str
    value: float | str
    valid: str


class MemoryBytes(Record):
    """Bytes [B] on the fullest rank, and what the accelerator has."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    workspace: float
    total: float
    capacity: float


class UnevenExperts(Record):
    """What uneven experts cost: `slowdown` is the time over that with evenly loaded experts.

    Over their even values: `fullest_over_mean` the load of the fullest rank, `leaving_rank` and `leaving_node` the
    copies that change rank and node. `placed` says how experts lie on the `ep` ranks, `replicas` slots over experts.
    """

    ep: int
    placed: str
    fullest_over_mean: float
    leaving_rank: float
    leaving_node: float
    replicas: float
    slowdown: float


class TrainingEstimate(Record):
    """Time, memory, energy and cost of one training step; `interval_level` says how sure the interval is."""

    document: str = "perfmodel/training-estimate/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    step_time_s: float
    step_time_lower_s: float
    step_time_upper_s: float
    step_time_interval_s: tuple[float, float]
    interval_level: float = 0.8
    tokens_per_s: float
    tokens_per_s_per_accelerator: float
    model_flop_per_s_per_accelerator: float
    mfu: float
    mfu_causal: float
    hfu: float
    memory_bytes: MemoryBytes
    fits: bool
    accelerators_used: int
    n_microbatches: int
    stage_layers: tuple[int, ...] | None = None
    """Layers of each pipeline stage as priced (None: a schedule that folds stages into one another)."""
    energy_j_per_step: float
    cost_usd_per_step: float
    carbon_kg_per_step: float
    accelerator_w: float
    """Mean draw of one accelerator, as on the slowest stage; `accelerator_w_by_term` during each term."""
    facility_w: float
    """Mean draw of all that is used, servers and facility included."""
    energy_j_per_token: float
    cost_usd_per_mtok: float
    carbon_kg_per_mtok: float
    accelerator_w_by_term: dict[str, float]
    run: dict[str, float] | None = None
    experts: UnevenExperts | None = None
    terms: tuple[Term, ...]
    warnings: tuple[Warned, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def uneven_experts(routing: ExpertRouting, ep: int, slowdown: float) -> UnevenExperts:
    """The record of a routing at one expert parallelism."""
    uneven = routing.at(float(ep))
    return UnevenExperts(
        ep=ep,
        placed=routing.placed(ep),
        fullest_over_mean=uneven.fullest,
        leaving_rank=uneven.leaving,
        leaving_node=uneven.far,
        replicas=uneven.replicas,
        slowdown=slowdown,
    )


def term_of(node: Node) -> Term:
    """The record of a node priced with scalars; zero children are left out, sums stay exact."""
    children = tuple(term_of(child) for child in node.children if float(child.cost.seconds) or not node.children)
    seconds = sum(child.seconds for child in children) if node.children else float(node.cost.seconds)
    if node.bound_by is not None:
        bound_by = node.bound_by
    elif children:
        bound_by = max(children, key=lambda child: child.seconds).bound_by
    else:
        bound_by = node.cost.bound_by
    return Term(
        name=node.name,
        seconds=seconds,
        busy_seconds=float(node.cost.busy_seconds),
        bound_by=bound_by,
        children=children,
    )
