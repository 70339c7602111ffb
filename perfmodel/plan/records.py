"""What a plan says: the decision, its prediction, and the proof that nothing better was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perfmodel.predict.records import Record, TrainingEstimate

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Alternative", "Certificate", "Constraint", "Layerwise", "Plan", "Sensitivity", "TrainingPlan"]


class Constraint(Record):
    """A limit, what the plan uses of it, and what is left (units in the name)."""

    name: str
    limit: float
    value: float
    slack: float


class Certificate(Record):
    """How the plan was found and what it proves; `pruned` counts candidates removed by each named rule."""

    method: str
    optimal: bool
    bound: float | None
    gap: float | None
    candidates: int
    priced: int
    pruned: dict[str, int]
    stopped_by: str | None = None


class Sensitivity(Record):
    """Exact elasticity d ln (step time) / d ln (quantity) [1], and the step time if the quantity doubled."""

    quantity: str
    elasticity: float
    if_doubled_step_time_s: float


class Alternative(Record):
    """Another layout: on the frontier of step time, memory and cost, or tied with the best within the interval."""

    layout: dict[str, Any]
    step_time_s: float
    step_time_interval_s: tuple[float, float]
    memory_bytes: float
    cost_usd_per_step: float
    energy_j_per_step: float
    carbon_kg_per_step: float
    facility_w: float
    accelerators_used: int
    mfu: float
    tied: bool


class Layerwise(Record):
    """The layout that chooses layers and recomputed layers for every stage of 1F1B apart (None: none is better).

    It has the least time in its pipeline (slowest stage and bubble) of all, exactly: of `meshes` whose memory allows a
    pace that might beat the plan, `solved` were solved before the bound of the next was no better. `step_change` [1]
    is against the decision, which frameworks can be told.
    """

    layout: dict[str, Any] | None
    step_time_s: float | None
    step_change: float | None
    memory_bytes: float | None
    meshes: int
    solved: int


class Plan(Record):
    """What a planner returns."""

    def to_frame(self) -> DataFrame:
        """The choices as a tidy table, the decision first, or who gets what."""
        from perfmodel.plan.frames import document_frame

        return document_frame(self.to_dict())


class TrainingPlan(Plan):
    """The best layout found, why, and what else was close; `feasible` is False when nothing fits."""

    document: str = "perfmodel/training-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    decision: dict[str, Any] | None
    prediction: TrainingEstimate | None
    constraints: tuple[Constraint, ...]
    alternatives: tuple[Alternative, ...]
    certificate: Certificate
    layerwise: Layerwise | None = None
    sensitivities: tuple[Sensitivity, ...]
    infeasible_because: tuple[str, ...]
    sources: tuple[str, ...]
