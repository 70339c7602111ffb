"""`plan_pools`: machines that prompt and machines that answer under one budget, beside pools that do both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.plan.power_pools import MOST_MACHINES, PoolMachine, affordable, mixed_rate, plan_phase_pools
from perfmodel.plan.records import Certificate, Constraint, Plan
from perfmodel.plan.tables import table_of
from perfmodel.predict.records import Record
from perfmodel.predict.serving.disaggregated import Pools, disaggregated_pools
from perfmodel.predict.serving.iso import aggregated_goodput, role_goodputs
from perfmodel.specs.cluster import Cluster, cluster_reference, load_cluster
from perfmodel.specs.huggingface import load_model, model_reference
from perfmodel.specs.quantity import cited
from perfmodel.specs.registry import data_version, reference

__all__ = ["MachineRates", "MixedPool", "PoolsPlan", "plan_pools"]

_COLUMNS = ("prompt_requests_per_s", "token_requests_per_s", "watts", "usd_per_hour")
_QUESTION = ("model", "cluster", "prompt_tokens", "output_tokens")
_METHOD = "every number of prompting machines of every pair of kinds, and as many answering ones as the budget leaves"


class MachineRates(Record):
    """One kind of machine: requests a second that it can prompt, answer, and do whole (None: not known)."""

    machine: str
    prompt_requests_per_s: float
    token_requests_per_s: float
    mixed_requests_per_s: float
    watts: float
    usd_per_hour: float


class MixedPool(Record):
    """The same budget spent on one kind of machine that does both phases."""

    machine: str
    machines: int
    requests_per_s: float


class PoolsPlan(Plan):
    """The pair of pools with most requests a second; `gain` is that over the best mixed pool of the same budget."""

    document: str = "perfmodel/pools-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    decision: dict[str, Any] | None
    prediction: dict[str, float] | None
    machines: tuple[MachineRates, ...]
    mixed: tuple[MixedPool, ...]
    gain: float | None
    constraints: tuple[Constraint, ...]
    certificate: Certificate
    infeasible_because: tuple[str, ...]
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def plan_pools(
    machines: Any = None,
    *,
    watts: float | None = None,
    usd_per_hour: float | None = None,
    model: Any = None,
    cluster: Any = None,
    prompt_tokens: int | None = None,
    output_tokens: int | None = None,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    percentile: float = 0.9,
    tp: int | None = None,
    weights: str = "bf16",
    kv_cache: str | None = None,
    software: Any = None,
) -> PoolsPlan:
    """Pools of machines for prompts and for tokens within `watts` and `usd_per_hour`, as Splitwise splits phases.

    `machines` are rows [{machine, prompt_requests_per_s, token_requests_per_s, watts, usd_per_hour}] of measured rates;
    without them the nodes of each `cluster` are priced for the requests of a `model`: replicas of `tp` accelerators
    (default: the node), at most as fast as `percentile` of the requests keep `ttft_s` and `tpot_s`, with the watts that
    a node may draw (Patel et al. 2024, arXiv:2311.18677, provisions by those). Raises `SpecError` and `PlanError`.
    """
    for name, value in (("watts", watts), ("usd_per_hour", usd_per_hour)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
            raise OutOfRangeError(f"{name}: must be a number > 0 (got {value!r})")
    if watts is None and usd_per_hour is None:
        raise PlanError("watts, usd_per_hour: give at least one budget")
    budget = {"watts": watts, "usd_per_hour": usd_per_hour}
    if machines is not None:
        if model is not None or cluster is not None:
            raise PlanError("machines, model: rates are given or predicted; leave out one of the two")
        rows = table_of("machines", machines, name="machine", needed=_COLUMNS, zero=_COLUMNS[:2])
        kinds = {one["machine"]: PoolMachine(*one.values()) for one in rows}
        return _plan({"machines": rows}, kinds, {}, budget, (), ())
    asked = dict(zip(_QUESTION, (model, cluster, prompt_tokens, output_tokens), strict=True))
    for name, value in asked.items():
        if value is None:
            raise PlanError(f"{name}: missing; give it, or a table of machines with their rates")
    limits = {"ttft_s": ttft_s or math.inf, "tpot_s": tpot_s or math.inf, "percentile": percentile}
    nodes = [load_cluster(one) for one in (cluster if isinstance(cluster, (list, tuple)) else [cluster])]
    described = [_Node(model, one, tp, asked, limits, (weights, kv_cache, software)) for one in nodes]
    first = described[0].pools
    request = {
        "model": model_reference(load_model(model)), "cluster": [cluster_reference(one) for one in nodes],
        "prompt_tokens": prompt_tokens, "output_tokens": output_tokens, "ttft_s": ttft_s, "tpot_s": tpot_s,
        "percentile": percentile, "tp": tp, "weights": weights, "kv_cache": kv_cache,
        "software": reference("software", first.prefill.software),
    }  # fmt: skip
    notes = tuple(dict.fromkeys(note for one in described for note in one.notes()))
    sources = tuple(dict.fromkeys(source for one in described for source in one.sources()))
    kinds = {one.cluster.id: one.machine() for one in described}
    return _plan(request, kinds, {one.cluster.id: one.mixed() for one in described}, budget, notes, sources)


class _Node:
    """A node of a cluster that holds as many replicas of `tp` accelerators as it can."""

    def __init__(
        self, model: Any, cluster: Cluster, tp: int | None, asked: dict[str, Any], limits: dict[str, Any],
        precisions: tuple[str, str | None, Any],
    ) -> None:  # fmt: skip
        self.cluster, self.model, self.limits = cluster, model, limits
        each = tp or cluster.accelerators_per_node
        if each > cluster.accelerators_per_node:
            raise PlanError(f"tp: must be at most {cluster.accelerators_per_node}, a node of {cluster.id} (got {each})")
        self.replicas = cluster.accelerators_per_node // each
        self.role = {"cluster": cluster, "layout": {"tp": each}} | dict(
            zip(("weights", "kv_cache", "software"), precisions, strict=True)
        )
        self.lengths = {name: asked[name] for name in ("prompt_tokens", "output_tokens")}
        self.pools: Pools = disaggregated_pools(
            model, self.role, self.role, None, **self.lengths, prefix_hit=0.0, arrival_rate_per_s=None,
            transfer="layerwise", link_byte_per_s=None,
        )  # fmt: skip

    def machine(self) -> PoolMachine:
        """Its rates in either phase, the cache being sent to its like."""
        prompts, tokens = role_goodputs(self.pools, **self.limits)
        each, n = self.pools.prefill, self.cluster.accelerators_per_node / self.pools.prefill.accelerators
        return PoolMachine(
            self.cluster.id, prompts * self.replicas, tokens * self.replicas, each.provisioned_w * n,
            each.usd_per_hour * n,
        )  # fmt: skip

    def mixed(self) -> float:
        """Requests a second where every replica does both phases, prompts between the tokens of the others."""
        return self.replicas * aggregated_goodput(self.model, self.role, **self.lengths, **self.limits)

    def notes(self) -> Iterator[str]:
        yield from self.pools.prefill.notes
        yield "watts are what machines may draw; the cache of a prompt is sent to a machine of the same kind"

    def sources(self) -> Iterator[str]:
        used = cited(self.cluster.accelerator, self.cluster, self.pools.prefill.software)
        for one in (*used, self.pools.model.source):
            if one is not None:
                yield f"{one.title}: {one.url}"


def _plan(
    request: dict[str, Any], kinds: dict[str, PoolMachine], wholes: dict[str, float],
    budget: dict[str, float | None], notes: tuple[str, ...], sources: tuple[str, ...],
) -> PoolsPlan:  # fmt: skip
    found = plan_phase_pools(kinds, **budget)
    rates = {name: wholes.get(name, mixed_rate(one, watts=one.watts)) for name, one in kinds.items()}
    mixed = tuple(
        MixedPool(machine=name, machines=count, requests_per_s=count * rates[name])
        for name, one in kinds.items()
        for count in [affordable(one, **budget)]
    )
    best = max(one.requests_per_s for one in mixed)
    capped = any(one.machines > MOST_MACHINES for one in mixed)
    needs = {} if found is None else {"watts": found.watts, "usd_per_hour": found.usd_per_hour}
    chosen = None if found is None else vars(found)
    return PoolsPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=request | budget,
        feasible=found is not None,
        decision=None if chosen is None else {
            name: chosen[name] for name in ("prompt_machine", "prompt_machines", "token_machine", "token_machines")
        },
        prediction=None if found is None else {"requests_per_s": found.requests_per_s, **needs},
        machines=tuple(
            MachineRates(
                machine=name, prompt_requests_per_s=one.prompt_requests_per_s,
                token_requests_per_s=one.token_requests_per_s, mixed_requests_per_s=rates[name], watts=one.watts,
                usd_per_hour=one.usd_per_hour,
            )
            for name, one in kinds.items()
        ),
        mixed=mixed,
        gain=None if found is None or not best else found.requests_per_s / best,
        constraints=tuple(
            Constraint(name=name, limit=limit, value=needs[name], slack=limit - needs[name])
            for name, limit in budget.items()
            if limit is not None and name in needs
        ),
        certificate=Certificate(
            method=_METHOD, optimal=found is not None and not capped, bound=None, gap=None,
            candidates=0 if found is None else found.candidates, priced=0 if found is None else found.candidates,
            pruned={}, stopped_by="work_limit" if capped else None,
        ),
        infeasible_because=() if found is not None else tuple(_reasons(list(kinds.values()), budget)),
        notes=notes,
        sources=sources,
    )  # fmt: skip


def _reasons(machines: Sequence[PoolMachine], budget: dict[str, float | None]) -> Iterator[str]:
    """Which phase no machine can do within the limits, or what the least pair would need."""
    able = {
        phase: [one for one in machines if getattr(one, f"{phase}_requests_per_s") > 0] for phase in ("prompt", "token")
    }
    for phase, limit in (("prompt", "ttft_s"), ("token", "tpot_s")):
        if not able[phase]:
            yield f"{limit}: no machine keeps it with any load, or holds the model"
    for name, most in budget.items():
        if most is not None and all(able.values()):
            least = sum(min(getattr(one, name) for one in kinds) for kinds in able.values())
            if least > most:
                yield f"{name}: one machine of each pool needs {least:g}, {most:g} given"
