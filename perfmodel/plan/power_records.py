"""What a power plan says."""

from __future__ import annotations

from typing import Any

from perfmodel.plan.records import Certificate, Constraint, Plan
from perfmodel.predict.records import Record, Warned

__all__ = ["Impact", "PowerAlternative", "PowerDecision", "PowerPlan", "PowerPrediction", "PowerSensitivity"]


class Impact(Record):
    """How much longer requests of one priority take than without caps, less one [1]."""

    p50: float
    p99: float


class PowerDecision(Record):
    """How many servers to add, and the policy that allows it; clocks by priority, one for each threshold."""

    added_servers: int
    servers: int
    added_servers_fraction: float
    thresholds: tuple[float, ...]
    frequencies_hz: dict[str, tuple[float, ...]]


class PowerPrediction(Record):
    """What the row then does. Shares are of the provisioned power; `state_shares` of the work: no cap, past each
    threshold, brake. `brake_events` is expected in a year; its interval says how sure (`interval_level`)."""

    brake_events: float
    brake_events_interval: tuple[float, float]
    interval_level: float
    latency_impact: dict[str, Impact]
    peak_share: float
    uncapped_peak_share: float
    peak_w: float
    state_shares: tuple[float, ...]
    overload_trip_s: float | None
    energy_j_per_year: float
    usd_per_year: float
    kg_co2e_per_year: float | None


class PowerAlternative(Record):
    """Another policy on the frontier of servers against slowdown and brakes."""

    added_servers: int
    added_servers_fraction: float
    thresholds: tuple[float, ...]
    frequencies_hz: dict[str, tuple[float, ...]]
    brake_events: float
    latency_impact: dict[str, Impact]


class PowerSensitivity(Record):
    """How many servers the same search adds when one input is another."""

    quantity: str
    value: float
    added_servers_fraction: float


class PowerPlan(Plan):
    """How far a row can be filled beyond its nameplates; `feasible` is False where not even the row as it is holds."""

    document: str = "perfmodel/power-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    decision: PowerDecision | None
    prediction: PowerPrediction | None
    constraints: tuple[Constraint, ...]
    alternatives: tuple[PowerAlternative, ...]
    certificate: Certificate
    sensitivities: tuple[PowerSensitivity, ...]
    infeasible_because: tuple[str, ...]
    load_duration: dict[str, tuple[float, ...]]
    warnings: tuple[Warned, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
