"""What a plan of experts says (DESIGN section 4): where every slot's expert lives, what that gives, and the proof."""

from __future__ import annotations

from typing import Any

from perfmodel.plan.records import Certificate, Constraint, Plan
from perfmodel.predict.records import Record

__all__ = ["ExpertAlternative", "ExpertCertificate", "ExpertDecision", "ExpertPlan", "ExpertPrediction"]


class ExpertDecision(Record):
    """`slot_expert[layer][slot]`; slot s lives on rank `s // slots_per_rank`, rank r on node `r // ranks_per_node`."""

    slot_expert: tuple[tuple[int, ...], ...]
    replicas: tuple[tuple[int, ...], ...]
    slots_per_rank: int
    ranks_per_node: int
    moved_slots: int | None = None


class ExpertPrediction(Record):
    """Per layer: load of the fullest rank (and node) over the mean, and what no plan goes below; and the traffic.

    `cross_rank_fraction` is the mean share of tokens whose next layer's expert is on another rank; without transitions
    layers are taken as independent. `relative_layer_time` is that of a layer over one that is balanced and whose
    tokens all change rank.
    """

    max_over_mean_load: tuple[float, ...]
    max_over_mean_load_bound: tuple[float, ...]
    max_over_mean_node_load: tuple[float, ...]
    mean_max_over_mean_load: float
    max_over_mean_load_today: float | None = None
    cross_rank_fraction: float
    cross_node_fraction: float
    relative_layer_time: float


class ExpertCertificate(Certificate):
    """`bound` and `gap` of the objective's value; `relaxations` counts the layers each relaxation bounds."""

    objective_value: float | None = None
    relaxations: dict[str, int]


class ExpertAlternative(Record):
    """Another way to place the experts, and what it gives."""

    name: str
    mean_max_over_mean_load: float
    cross_rank_fraction: float
    cross_node_fraction: float
    relative_layer_time: float
    moved_slots: int | None = None


class ExpertPlan(Plan):
    """The best placement found, what it gives, and how far from the best it can be."""

    document: str = "perfmodel/experts-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    decision: ExpertDecision | None
    prediction: ExpertPrediction | None
    constraints: tuple[Constraint, ...] = ()
    alternatives: tuple[ExpertAlternative, ...] = ()
    certificate: ExpertCertificate
    sensitivities: tuple[Any, ...] = ()
    infeasible_because: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
