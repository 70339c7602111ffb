"""A checked question about serving: every description loaded, every argument refused with a reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.predict.emissions import Emissions, emissions_of
from perfmodel.predict.imbalance import ExpertRouting, expert_routing
from perfmodel.predict.layout import ParallelLayout, make_layout
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.memory import ServingMemory
from perfmodel.predict.serving.operating import Arrivals
from perfmodel.predict.serving.precisions import Precisions, make_precisions
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.huggingface import load_model
from perfmodel.specs.region import Region
from perfmodel.specs.serving_software import ServingSoftware, load_serving_software
from perfmodel.specs.workload import Slo, TokenCounts, Workload

__all__ = ["ARRIVALS", "BATCHING", "LOADS", "ServingTask", "check_serving_layout", "serving_task"]

BATCHING = ("continuous", "static")
LOADS = ("maximum",)
ARRIVALS = {
    # Ten requests a slot in turn, as load generators are usually run; the first of every slot at once.
    "closed-loop": Arrivals(),
    "lockstep": Arrivals(joint=4.0),
    "burst": Arrivals(requests_per_slot=1.0),
}
"""Protocols of load generators for a given concurrency; the TTFT depends on them."""
_UNUSED = {"cp": 1, "vpp": 1}


@dataclass(frozen=True)
class ServingTask:
    """Everything about a deployment and its load."""

    model: Architecture
    cluster: Cluster
    software: ServingSoftware
    layout: ParallelLayout
    precisions: Precisions
    prompt_tokens: float
    """Mean over requests; `workload` has the distribution."""
    output_tokens: float
    concurrency: float | None
    arrival_rate_per_s: float | None
    batching: str
    arrivals: str
    engine: Engine
    memory: ServingMemory
    notes: tuple[str, ...]
    workload: Workload
    slo: Slo | None = None
    emissions: Emissions = field(default_factory=emissions_of)

    @property
    def at_maximum(self) -> bool:
        """Whether as many requests are in flight as there are places for."""
        return self.concurrency is None and self.arrival_rate_per_s is None


def serving_task(
    model: Any,
    cluster: Any,
    *,
    layout: ParallelLayout | Mapping[str, Any],
    prompt_tokens: int | TokenCounts | Mapping[str, Any],
    output_tokens: int | TokenCounts | Mapping[str, Any],
    concurrency: int | None,
    arrival_rate_per_s: float | None,
    weights: str,
    activations: str | None,
    kv_cache: str | None,
    batching: str,
    software: ServingSoftware | str | Path | Mapping[str, Any] | None,
    arrivals: str,
    load: str | None = None,
    burstiness: float = 1.0,
    dispersion: Sequence[Sequence[float]] = (),
    prefix_hit: float = 0.0,
    slo: Slo | Mapping[str, Any] | None = None,
    region: Region | str | Path | Mapping[str, Any] | None = None,
    carbon_kg_per_kwh: float | None = None,
    embodied_kg: float | None = None,
    life_years: float | None = None,
    carbon_by_hour: Sequence[float] | str | Path | None = None,
    expert_imbalance: float | None = None,
    expert_loads: Any = None,
    expert_placement: Any = None,
) -> ServingTask:
    """Load and check everything; raises `SpecError` and `PlanError` before any work."""
    architecture, machine = load_model(model), load_cluster(cluster)
    chosen, stack = make_layout(layout), load_serving_software(software)
    routing = expert_routing(architecture, expert_imbalance, expert_loads, expert_placement)
    check_serving_layout(chosen, architecture, machine, routing)
    if batching not in BATCHING:
        raise PlanError(unknown_name("batching", batching, BATCHING))
    if arrivals not in ARRIVALS:
        raise PlanError(unknown_name("arrivals", arrivals, ARRIVALS))
    if not architecture.causal or architecture.head != "lm":
        raise PlanError(f"model: {architecture.id} generates no tokens (an encoder)")
    _check_load(concurrency, arrival_rate_per_s, batching, load)
    workload = Workload(
        prompt_tokens=_tokens("prompt_tokens", prompt_tokens), output_tokens=_tokens("output_tokens", output_tokens),
        arrival_rate_per_s=None if arrival_rate_per_s is None else float(arrival_rate_per_s),
        burstiness=_number("burstiness", burstiness), dispersion=_rows(dispersion),
        prefix_hit=_number("prefix_hit", prefix_hit, 1.0),
    )  # fmt: skip
    precisions = make_precisions(weights, activations, kv_cache)
    efficiency = machine.accelerator.kernel_constants()
    replicas = 1.0 if routing is None else routing.at(float(chosen.ep)).replicas
    memory = ServingMemory(
        architecture, stack, chosen, precisions, float(machine.accelerator.capacity_bytes), replicas
    )  # fmt: skip
    return ServingTask(
        architecture, machine, stack, chosen, precisions,
        _mean(workload.prompt_tokens), _mean(workload.output_tokens),
        None if concurrency is None else float(_count("concurrency", concurrency)), arrival_rate_per_s, batching,
        arrivals, Engine(architecture, machine, efficiency, stack, chosen, precisions, routing), memory,
        (*efficiency.inherited, *stack.inherits), workload, _slo(slo),
        emissions_of(region, carbon_kg_per_kwh, embodied_kg, life_years, carbon_by_hour),
    )  # fmt: skip


def _check_load(concurrency: Any, rate: Any, batching: str, load: str | None) -> None:
    if load is not None and load not in LOADS:
        raise PlanError(unknown_name("load", load, LOADS))
    if sum(one is not None for one in (concurrency, rate, load)) != 1:
        raise PlanError("concurrency, arrival_rate_per_s, load: give one of the three (load: maximum)")
    if load is not None and batching == "static":
        raise PlanError("load: a static batch has a size; give concurrency")
    if concurrency is not None:
        _count("concurrency", concurrency)
    if rate is None:
        return
    if batching == "static":
        raise PlanError("arrival_rate_per_s: a static batch has no arrivals; give concurrency, its size")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not math.isfinite(rate) or rate <= 0:
        raise OutOfRangeError(f"arrival_rate_per_s: must be a number > 0 (got {rate!r})")


def check_serving_layout(
    layout: ParallelLayout, model: Architecture, cluster: Cluster, routing: ExpertRouting | None = None
) -> None:
    """Whether a layout cuts this model on this cluster; raises `PlanError`.

    Slots of a placement need not be as many as experts, so its ranks need not divide them.
    """
    for key, off in _UNUSED.items():
        if getattr(layout, key) != off:
            raise PlanError(f"layout: {key}: is not priced in serving yet; leave it at {off}")
    if layout.accelerators > cluster.accelerators:
        raise PlanError(
            f"layout: needs {layout.accelerators} accelerators (tp {layout.tp} * pp {layout.pp} * dp {layout.dp}), "
            f"{cluster.id} has {cluster.accelerators}; scale it with accelerators="
        )
    if model.n_heads % layout.tp:
        raise PlanError(f"layout: tp: must divide the {model.n_heads} heads of {model.id} (got {layout.tp})")
    if layout.pp > model.n_layers:
        raise PlanError(f"layout: pp: must be at most the {model.n_layers} layers of {model.id} (got {layout.pp})")
    ranks = layout.tp * layout.attention_dp
    cut = model.n_experts % layout.ep == 0 or (routing is not None and routing.knows(layout.ep))
    if layout.ep > 1 and (model.experts is None or not cut or ranks % layout.ep):
        raise PlanError(
            f"layout: ep: must divide tp * attention_dp = {ranks} and the experts of {model.id} (got {layout.ep})"
        )
    if layout.dp % layout.attention_dp:
        raise PlanError(
            f"layout: attention_dp: must divide dp {layout.dp}, which counts its groups (got {layout.attention_dp})"
        )
    if layout.attention_dp > 1 and (model.experts is None or layout.pp > 1):
        raise PlanError(
            f"layout: attention_dp: needs experts, which its groups share, and pp 1 (got {layout.attention_dp})"
        )


def _tokens(name: str, value: Any) -> int | TokenCounts:
    if isinstance(value, TokenCounts):
        return value
    return TokenCounts(**value) if isinstance(value, Mapping) else _count(name, value)


def _rows(dispersion: Any) -> tuple[tuple[float, float, float], ...]:
    rows = dispersion if isinstance(dispersion, (list, tuple)) else [None]
    if not all(isinstance(row, (list, tuple)) and len(row) == 3 for row in rows):
        raise PlanError("dispersion: must be rows of a window [s] and the indices of requests and of prompt tokens")
    return tuple((window, requests, tokens) for window, requests, tokens in dispersion)


def _mean(tokens: int | TokenCounts) -> float:
    return tokens.mean if isinstance(tokens, TokenCounts) else tokens


def _slo(slo: Slo | Mapping[str, Any] | None) -> Slo | None:
    if slo is None or isinstance(slo, Slo):
        return slo
    if not isinstance(slo, Mapping):
        raise PlanError(f"slo: must be a table of ttft_s, tpot_s and percentile (got {type(slo).__name__})")
    return Slo(**slo)


def _number(name: str, value: Any, below: float = math.inf) -> float:
    wanted = "a number >= 0" if below == math.inf else f"a number from 0 to below {below:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PlanError(f"{name}: must be {wanted} (got {value!r})")
    if not 0 <= value < below:
        raise OutOfRangeError(f"{name}: must be {wanted} (got {value!r})")
    return float(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PlanError(f"{name}: must be a whole number >= 1 (got {value!r})")
    if value < 1 or value % 1:
        raise OutOfRangeError(f"{name}: must be a whole number >= 1 (got {value!r})")
    return int(value)
