"""What a serving plan says."""

from __future__ import annotations

from typing import Any

from perfmodel.plan.records import Certificate, Constraint, Plan, Sensitivity
from perfmodel.predict.records import Record
from perfmodel.predict.serving.disaggregated import DisaggregatedEstimate
from perfmodel.predict.serving.records import ServingEstimate

__all__ = ["FrontierPoint", "Growth", "HourlyReplicas", "ServingAlternative", "ServingPlan"]


class ServingAlternative(Record):
    """Another deployment that keeps the limits; `tied` costs the same."""

    mode: str
    engine: str
    replicas: int
    accelerators_used: int
    usd_per_hour: float
    cost_usd_per_mtok: float
    facility_w: float
    energy_j_per_token: float
    slo_attainment: float | None
    ttft_s: float
    tpot_s: float
    tied: bool


class FrontierPoint(Record):
    """The best rate of an accelerator for a speed that every user sees, at maximum load of an engine."""

    engine: str
    batch: float
    tokens_per_s_per_user: float
    output_tokens_per_s_per_accelerator: float
    ttft_s: float


class Growth(Record):
    """What happens when more requests come: at a factor of the rate, and where the queue has no end."""

    traffic_factor: float
    slo_attainment: float
    slo_met: bool
    diverges_at_per_s: float


class HourlyReplicas(Record):
    """Replicas in one hour of the day, how long before its start new ones must be started [s], and what they draw and
    cause at the meter in that hour."""

    hour: int
    arrival_rate_per_s: float
    replicas: int
    start_before_s: float
    facility_w: float | None = None
    carbon_kg: float | None = None


class ServingPlan(Plan):
    """The deployment found, why, and what else was close; `feasible` is False when nothing keeps the limits."""

    document: str = "perfmodel/serving-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    decision: dict[str, Any] | None
    prediction: ServingEstimate | DisaggregatedEstimate | None
    constraints: tuple[Constraint, ...]
    headroom: bool | None
    """Whether the limits still hold with a fifth more requests."""
    growth: tuple[Growth, ...]
    max_fitting_context: int | None
    hourly: tuple[HourlyReplicas, ...]
    day: dict[str, float] | None = None
    """Of rates by hour: `energy_kwh`, `carbon_kg` by the hour, and `mean_hour_carbon_kg` of as much energy."""
    alternatives: tuple[ServingAlternative, ...]
    frontier: tuple[FrontierPoint, ...]
    certificate: Certificate
    sensitivities: tuple[Sensitivity, ...]
    infeasible_because: tuple[str, ...]
    notes: tuple[str, ...]
    sources: tuple[str, ...]
