"""What a serving plan is asked: everything checked, the engines to choose from, and what an objective is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.plan.serving.space import Candidates, candidates_of
from perfmodel.predict.emissions import Emissions, emissions_of
from perfmodel.predict.imbalance import ExpertRouting, expert_routing
from perfmodel.predict.serving.demand import demand_of
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster, cluster_reference, load_cluster
from perfmodel.specs.huggingface import load_model, model_reference
from perfmodel.specs.registry import reference
from perfmodel.specs.serving_software import ServingSoftware, load_serving_software
from perfmodel.specs.workload import Slo, Workload

__all__ = ["MODES", "MOST_IN_AN_ENGINE", "OBJECTIVES", "Limits", "ServingQuestion", "question_of", "unrestricted"]

OBJECTIVES = ("cost", "energy", "carbon", "throughput")
MODES = ("aggregated", "disaggregated")
_CARBON = ("region", "carbon_kg_per_kwh", "embodied_kg", "life_years", "carbon_by_hour")
_ROUTING = ("expert_imbalance", "expert_loads", "expert_placement")
MOST_IN_AN_ENGINE = 32


@dataclass(frozen=True)
class Limits:
    """At most so many watts at the meter and dollars an hour."""

    watts: float | None = None
    usd_per_hour: float | None = None

    def keeps(self, watts: float, usd_per_hour: float) -> bool:
        """Whether a deployment is within both."""
        return watts <= (self.watts or math.inf) and usd_per_hour <= (self.usd_per_hour or math.inf)


@dataclass(frozen=True)
class ServingQuestion:
    """A checked question."""

    model: Architecture
    clusters: tuple[Cluster, ...]
    software: ServingSoftware
    workload: Workload
    slo: Slo
    objective: str
    modes: tuple[str, ...]
    rate_per_s: float
    """Requests a second that the plan must hold, with the traffic factor."""
    redundancy: int
    most: int | None
    keywords: dict[str, Any]
    candidates: Candidates
    carbon: dict[str, Any]
    """The keywords of an estimate that say whose carbon; `emissions` is what they mean."""
    emissions: Emissions
    limits: Limits
    routing: ExpertRouting | None = None

    @property
    def tokens_per_s(self) -> float:
        """Answers' tokens that the plan serves."""
        return self.rate_per_s * float(demand_of(self.workload).output_tokens)

    def value(self, watts: float, usd_per_hour: float, accelerators: int) -> float:
        """What the objective makes least: USD an hour, J a token, or kg CO2e a million tokens."""
        if self.objective == "energy":
            return watts / self.tokens_per_s
        if self.objective == "carbon":
            return float(self.emissions.kg(watts, accelerators, 1.0)) / self.tokens_per_s * 1e6
        return usd_per_hour


def question_of(model: Any, cluster: Any, workload: Any, slo: Any, **given: Any) -> ServingQuestion:
    """The checked question; raises `SpecError` and `PlanError` before any work."""
    if given["objective"] not in OBJECTIVES:
        raise PlanError(unknown_name("objective", given["objective"], OBJECTIVES))
    if not isinstance(workload, Workload):
        raise PlanError(f"workload: must be a Workload, as load_trace gives (got {type(workload).__name__})")
    modes = _names("modes", given["modes"], MODES)
    factor, spare = given["traffic_factor"], given["redundancy"]
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1e6:
        raise OutOfRangeError(f"traffic_factor: must be a number above 0 (got {factor!r})")
    for name, least in (("redundancy", 0), ("max_accelerators", 1), ("top", 1)):
        value = given[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise OutOfRangeError(f"{name}: must be a whole number >= {least} (got {value!r})")
    margin = given["memory_margin"]
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < 1:
        raise OutOfRangeError(f"memory_margin: must be at least 0 and below 1 (got {margin!r})")
    if given["objective"] == "throughput" and given["max_accelerators"] is None:
        raise PlanError("max_accelerators: objective 'throughput' asks how much so many serve; give it")
    limits = slo if isinstance(slo, Slo) else Slo(**(slo or {}))
    rate = workload.arrival_rate_per_s
    carbon = {name: given[name] for name in _CARBON}
    for name in ("max_watts", "max_usd_per_hour"):
        most = given[name]
        if most is not None and (isinstance(most, bool) or not isinstance(most, (int, float)) or not 0 < most < 1e15):
            raise OutOfRangeError(f"{name}: must be a number above 0 (got {most!r})")
    emissions = emissions_of(**carbon)
    if rate is None and given["objective"] != "throughput":
        raise PlanError(f"arrival_rate_per_s: {workload.name or 'the workload'} has none; give it")
    architecture = load_model(model)
    if not architecture.causal or architecture.head != "lm":
        raise PlanError(f"model: {architecture.id} generates no tokens (an encoder)")
    clusters = tuple(load_cluster(one) for one in (cluster if isinstance(cluster, (list, tuple)) else [cluster]))
    if not clusters:
        raise PlanError("cluster: give at least one")
    routing = expert_routing(architecture, *(given[name] for name in _ROUTING))
    others = tuple(load_model(one) for one in given["beside"])
    stack = load_serving_software(given["software"])
    prompt, answer = workload.prompts.mean, workload.outputs.mean
    demand = demand_of(workload)
    candidates = candidates_of(
        architecture, clusters, stack, (math.ceil(prompt) + math.ceil(answer), demand.kv_len),
        weights=_choices(given["weights"]), kv_cache=_choices(given["kv_cache"]),
        most=min(given["max_accelerators"] or MOST_IN_AN_ENGINE, MOST_IN_AN_ENGINE),
        memory_margin=float(margin), beside=others, routing=routing,
    )  # fmt: skip
    machines = [cluster_reference(one) for one in clusters]
    kept = given | {
        "model": model_reference(architecture), "beside": [model_reference(one) for one in others],
        "modes": list(modes), "cluster": machines[0] if len(machines) == 1 else machines,
        "software": reference("software", stack), "slo": limits.model_dump(mode="json"),
        "workload": workload.model_dump(mode="json"), "weights": _listed(given["weights"]),
        "kv_cache": _listed(given["kv_cache"]), **emissions.request(),
        **(routing.request if routing else {}),
    }  # fmt: skip
    return ServingQuestion(
        architecture, clusters, stack, workload, limits, given["objective"], modes, (rate or 0.0) * float(factor),
        int(spare), given["max_accelerators"], kept, candidates, carbon, emissions,
        Limits(given["max_watts"], given["max_usd_per_hour"]), routing,
    )  # fmt: skip


def unrestricted(question: ServingQuestion, most: int | None = None) -> Candidates:
    """The engines of all precisions that the hardware multiplies, of as many accelerators as allowed or `most`."""
    workload, demand = question.workload, demand_of(question.workload)
    lengths = (math.ceil(workload.prompts.mean) + math.ceil(workload.outputs.mean), demand.kv_len)
    allowed = most or min(question.most or MOST_IN_AN_ENGINE, MOST_IN_AN_ENGINE)
    return candidates_of(
        question.model, question.clusters, question.software, lengths, most=allowed, routing=question.routing
    )


def _names(key: str, given: Sequence[str] | str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in known:
            raise PlanError(unknown_name(key, name, known))
    return names


def _choices(given: Sequence[str] | str | None) -> tuple[str, ...] | None:
    return (given,) if isinstance(given, str) else None if given is None else tuple(given)


def _listed(given: Sequence[str] | str | None) -> list[str] | None:
    return None if given is None else list(_choices(given) or ())
