"""What a document decided, read for an exporter: a training run, or the roles of a deployment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.ops import ceil_div
from perfmodel.predict.layout import ParallelLayout, check_layout
from perfmodel.predict.serving.memory import ServingMemory
from perfmodel.predict.serving.precisions import make_precisions
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.huggingface import load_model
from perfmodel.specs.serving_software import ServingSoftware, load_serving_software
from perfmodel.specs.software import load_software

__all__ = ["Bytes", "Deployment", "Role", "TrainingRun", "nodes_of", "normal_layout", "read_plan"]

_TRAINING = ("perfmodel/training-plan/1", "perfmodel/training-estimate/1")
_SERVING = ("perfmodel/serving-plan/1", "perfmodel/serving-estimate/1")
_REQUEST = ("prompt_tokens", "output_tokens")
_LENGTHS = ("p99", "p90", "mean")
_MODES = {"aggregated": ("serve",), "disaggregated": ("prefill", "decode")}


@dataclass(frozen=True)
class TrainingRun:
    """A training run that fits: `scenario` without its layout, the layout in its normal form, layers of each stage.

    `placed_freely` says that the stack can name the layers of every chunk.
    """

    scenario: dict[str, Any]
    layout: ParallelLayout
    model: Architecture
    cluster: Cluster
    stages: tuple[int, ...] = ()
    placed_freely: bool = False

    @property
    def n_microbatches(self) -> int:
        """Micro-batches of a step on each data-parallel rank; gradients accumulate over them."""
        return int(self.scenario["global_batch"]) // (self.layout.dp * self.layout.micro_batch)

    @property
    def nodes(self) -> tuple[int, int]:
        """Nodes of the run, and accelerators on each."""
        return nodes_of(self.layout.accelerators, self.cluster)


@dataclass(frozen=True)
class Bytes:
    """What one accelerator of a role holds [B]; `other` is activations and workspace."""

    weights: float
    kv_cache: float
    other: float
    capacity: float


@dataclass(frozen=True)
class Role:
    """One kind of server of a deployment; `max_batch` counts the sequences of one replica, `kv_blocks` those of a rank.

    `attention_dp` groups of ranks of a replica each hold the cache of their own sequences.
    """

    name: str
    layout: ParallelLayout
    replicas: int
    max_batch: int
    max_batched_tokens: int
    kv_blocks: int
    block_tokens: int
    bytes: Bytes
    caches: bool

    @property
    def ranks(self) -> int:
        """Ranks of one pipeline stage of a replica: every attention group's."""
        return self.layout.tp * self.layout.attention_dp

    @property
    def accelerators(self) -> int:
        """Accelerators of one replica."""
        return self.ranks * self.layout.pp

    @property
    def rank_batch(self) -> int:
        """Sequences of one attention group of a replica."""
        return int(ceil_div(self.max_batch, self.layout.attention_dp))


@dataclass(frozen=True)
class Deployment:
    """A deployment whose context and batch fit; `context` is the longest request in tokens."""

    scenario: dict[str, Any]
    mode: str
    roles: tuple[Role, ...]
    context: int
    precisions: dict[str, str]
    model: Architecture
    cluster: Cluster


def read_plan(document: Mapping[str, Any], label: str = "plan") -> TrainingRun | Deployment:
    """The decision of a plan or of an estimate; raises `SpecError` for another document and `PlanError` for one that
    cannot be launched: infeasible, out of memory, or with a context or batch that its cache does not hold.
    """
    kind = document.get("document")
    if kind not in (*_TRAINING, *_SERVING):
        raise SpecError(f"{label}: {unknown_name('document', kind, (*_TRAINING, *_SERVING))}")
    request = document.get("request")
    if not isinstance(request, Mapping):
        raise SpecError(f"{label}: request: missing or not a table; it says what the document answers")
    if document.get("feasible") is False:
        because = document.get("infeasible_because") or ["nothing fits"]
        raise PlanError(f"{label}: nothing to launch: the plan is not feasible: {because[0]}")
    decision = document.get("decision")
    if "decision" in document and not isinstance(decision, Mapping):
        raise SpecError(f"{label}: decision: missing or not a table")
    if kind in _TRAINING:
        return _training(label, document, request, decision)
    return _deployment(label, document, request, decision)


def nodes_of(accelerators: int, cluster: Cluster) -> tuple[int, int]:
    """How many nodes so many accelerators take, and how many they use of each; raises `PlanError` where uneven."""
    per_node = min(accelerators, cluster.accelerators_per_node)
    if accelerators % per_node:
        raise PlanError(
            f"{accelerators} accelerators: must fill nodes of {cluster.accelerators_per_node} evenly to be launched"
        )
    return accelerators // per_node, per_node


def normal_layout(layout: ParallelLayout, software: str | None) -> ParallelLayout:
    """The same layout with what it leaves open said one way: what one rank cannot share is off, and selective
    recomputation of nothing is none (fused attention keeps no scores, so it has nothing to compute again).
    """
    changes: dict[str, Any] = {}
    if layout.tp == 1:
        changes["sequence_parallel"] = False
    if layout.dp == 1:
        changes["zero_stage"] = 0
    if layout.dp_shard == layout.dp or (layout.dp == 1 and layout.dp_shard is not None):
        changes["dp_shard"] = None
    fused = load_software(software).attention == "flash"
    if layout.recompute == "selective" and not layout.recompute_modules and fused:
        changes["recompute"] = "none"
    if layout.cp == 1:
        changes["cp_exchange"] = None
    return layout.model_copy(update=changes)


def _training(label: str, document: Mapping[str, Any], request: Mapping[str, Any], decision: Any) -> TrainingRun:
    asked = {key: value for key, value in request.items() if value is not None and key not in _SEARCH}
    given = asked.pop("layout", None) if decision is None else decision.get("layout")
    if not isinstance(given, Mapping):
        raise SpecError(f"{label}: layout: missing or not a table")
    for key in ("model", "cluster", "global_batch", "seq_len"):
        if key not in asked:
            raise SpecError(f"{label}: request: {key}: missing")
    model = load_model(asked["model"])
    cluster = load_cluster(asked["cluster"], accelerators=asked.get("accelerators"))
    layout = ParallelLayout(**given)
    _whole(label, asked, "global_batch", "seq_len")
    _check_batch(label, asked["global_batch"], layout)
    check_layout(layout, model, cluster, asked["global_batch"], asked["seq_len"])
    prediction = document if decision is None else document.get("prediction") or {}
    if prediction.get("fits") is False:
        memory = prediction["memory_bytes"]
        raise PlanError(
            f"{label}: does not fit: needs {memory['total'] / 1e9:.1f} GB an accelerator, "
            f"has {memory['capacity'] / 1e9:.1f}; nothing to launch"
        )
    asked["accelerators"] = cluster.accelerators
    software = asked.get("software")
    stages = prediction.get("stage_layers") or ()
    if stages and (len(stages) != layout.pp or sum(stages) != model.n_layers):
        raise SpecError(f"{label}: stage_layers: {list(stages)} are not {layout.pp} stages of {model.n_layers} layers")
    free = load_software(software).places_layers_freely
    return TrainingRun(asked, normal_layout(layout, software), model, cluster, tuple(stages), bool(stages) and free)


_SEARCH = ("objective", "memory_margin", "top", "max_watts", "max_usd", "max_days")


def _check_batch(label: str, global_batch: int, layout: ParallelLayout) -> None:
    share = layout.dp * layout.micro_batch
    if global_batch % share:
        raise PlanError(
            f"{label}: global_batch: {global_batch} is not micro_batch {layout.micro_batch} * dp {layout.dp} * a whole "
            f"number of accumulation steps; nearest: {max(share, round(global_batch / share) * share)}"
        )


def _whole(label: str, table: Mapping[str, Any], *keys: str) -> None:
    for key in keys:
        value = table.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise PlanError(f"{label}: {key}: must be a whole number >= 1 (got {value!r})")


def _deployment(label: str, document: Mapping[str, Any], request: Mapping[str, Any], decision: Any) -> Deployment:
    asked = {key: value for key, value in request.items() if value is not None}
    for key in ("model", "cluster"):
        if key not in asked:
            raise SpecError(f"{label}: request: {key}: missing")
    model = load_model(asked["model"])
    cluster = load_cluster(_machine(asked["cluster"], decision), accelerators=asked.get("accelerators"))
    software = load_serving_software(asked.get("software"))
    workload = asked.get("workload")
    lengths = workload if isinstance(workload, Mapping) else asked
    context = sum(_length(label, lengths, key, largest=True) for key in _REQUEST)
    mean = {key: _length(label, lengths, key, largest=False) for key in _REQUEST}
    rate = {key: lengths[key] for key in ("arrival_rate_per_s",) if lengths.get(key) is not None}
    asked |= mean | rate
    usual = sum(mean.values())
    parts = _roles_of(label, document, asked, decision, software, usual)
    first = next(iter(parts.values()))
    chosen = {key: first.get(key) or asked.get(key) for key in ("weights", "activations", "kv_cache")}
    precisions = make_precisions(chosen["weights"] or "bf16", chosen["activations"], chosen["kv_cache"])
    words = {name: getattr(precisions, name) for name in ("weights", "activations", "kv_cache")}
    roles = tuple(_role(label, name, part, document, software, model, cluster, words) for name, part in parts.items())
    for role in roles:
        # A prefill server hands its cache on with the first token.
        _check_cache(label, role, context, mean["prompt_tokens"] + 1 if role.name == "prefill" else usual)
    mode = "disaggregated" if len(roles) > 1 else "aggregated"
    return Deployment(asked | {"software": software.id}, mode, roles, context, words, model, cluster)


def _machine(asked: Any, decision: Any) -> Any:
    """The kind of machine; of several that a plan chose from, the one it chose."""
    if not isinstance(asked, list) or not isinstance(decision, Mapping):
        return asked
    roles = [part for part in decision.values() if isinstance(part, Mapping) and "cluster" in part]
    chosen = roles[0]["cluster"] if roles else None
    return next((one for one in asked if chosen == (one.get("id") if isinstance(one, Mapping) else one)), asked[0])


def _length(label: str, table: Mapping[str, Any], key: str, *, largest: bool) -> int:
    value = table.get(key)
    if isinstance(value, Mapping):
        names = _LENGTHS if largest else tuple(reversed(_LENGTHS))
        value = next((value[name] for name in names if value.get(name) is not None), None)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value < 1e9:
        raise PlanError(f"{label}: {key}: must be a number of tokens >= 1 (got {value!r})")
    return int(ceil_div(value, 1.0))


def _roles_of(
    label: str,
    document: Mapping[str, Any],
    asked: Mapping[str, Any],
    decision: Mapping[str, Any] | None,
    software: ServingSoftware,
    usual: int,
) -> dict[str, Mapping[str, Any]]:
    """The tables of the decision's roles; an estimate is one role whose layout and load were given."""
    if decision is None:
        return {"serve": _estimated(label, document, asked, software, usual)}
    mode = decision.get("mode")
    if not isinstance(mode, str) or mode not in _MODES:
        raise PlanError(f"{label}: decision: {unknown_name('mode', mode, _MODES)}")
    missing = [name for name in _MODES[mode] if not isinstance(decision.get(name), Mapping)]
    if missing:
        raise SpecError(f"{label}: decision: {missing[0]}: missing or not a table; {mode} needs {_MODES[mode]}")
    shared = {"replicas": decision.get("replicas")} if mode == "aggregated" else {}
    return {name: shared | decision[name] for name in _MODES[mode]}


def _estimated(
    label: str, document: Mapping[str, Any], asked: Mapping[str, Any], software: ServingSoftware, usual: int
) -> dict[str, Any]:
    layout = asked.get("layout")
    if not isinstance(layout, Mapping):
        raise SpecError(f"{label}: layout: missing or not a table")
    if document.get("fits") is False:
        raise PlanError(f"{label}: does not fit: the weights leave no room for one request of {usual} tokens")
    given = ParallelLayout(**layout)
    replicas = max(1, given.dp // given.attention_dp)
    places = document.get("max_concurrency")
    if isinstance(places, bool) or not isinstance(places, int):
        raise SpecError(f"{label}: max_concurrency: missing or not a whole number (got {places!r})")
    held = places // replicas
    concurrency = asked.get("concurrency")
    if concurrency is not None:
        _whole(label, asked, "concurrency")
    batch = min(software.max_batch, held) if concurrency is None else int(ceil_div(concurrency, replicas))
    kept = ("kv_blocks", "block_tokens", "memory_bytes")
    return {key: document[key] for key in kept if key in document} | {
        "layout": dict(layout),
        "replicas": replicas,
        "max_batch": batch,
        "max_batched_tokens": software.max_batched_tokens,
    }


def _role(
    label: str,
    name: str,
    part: Mapping[str, Any],
    document: Mapping[str, Any],
    software: ServingSoftware,
    model: Architecture,
    cluster: Cluster,
    precisions: Mapping[str, str],
) -> Role:
    where = f"{label}: {name}"
    if not isinstance(part.get("layout"), Mapping):
        raise SpecError(f"{where}: layout: missing or not a table")
    layout = ParallelLayout(**part["layout"])
    numbers = {"block_tokens": software.block_tokens, "max_batched_tokens": software.max_batched_tokens}
    numbers |= {key: part[key] for key in (*numbers, "max_batch", "replicas") if part.get(key) is not None}
    numbers.setdefault("replicas", max(1, layout.dp // layout.attention_dp))
    _whole(where, numbers, "block_tokens", "max_batched_tokens", "max_batch", "replicas")
    if layout.dp not in (1, layout.attention_dp, numbers["replicas"] * layout.attention_dp):
        raise PlanError(f"{where}: replicas: {numbers['replicas']} and layout dp {layout.dp} contradict each other")
    layout = layout.model_copy(update={"dp": layout.attention_dp})
    blocks = part.get("kv_blocks")
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 0:
        raise PlanError(f"{where}: kv_blocks: must be a whole number >= 0 (got {blocks!r})")
    nodes_of(layout.accelerators, cluster)
    memory = _memory(name, part, document, numbers, layout, software, model, cluster, precisions)
    caches = model.kv_cache_bytes_per_token(precisions["kv_cache"]) > 0
    return Role(name=name, layout=layout, kv_blocks=blocks, bytes=memory, caches=caches, **numbers)


def _memory(
    name: str,
    part: Mapping[str, Any],
    document: Mapping[str, Any],
    numbers: Mapping[str, int],
    layout: ParallelLayout,
    software: ServingSoftware,
    model: Architecture,
    cluster: Cluster,
    precisions: Mapping[str, str],
) -> Bytes:
    """What the document says that an accelerator of a role holds; where it does not say, what the model says."""
    prediction = document.get("prediction") or {}
    found = part.get("memory_bytes") or prediction.get(name, {}).get("memory_bytes") or prediction.get("memory_bytes")
    if isinstance(found, Mapping):
        given = {key: _byte_count(f"{name}: memory_bytes", found, key) for key in _HELD}
        other = given["activations"] + given["workspace"]
        return Bytes(given["weights"], given["kv_cache"], other, given["capacity"])
    capacity = float(cluster.accelerator.capacity_bytes)
    held = ServingMemory(model, software, layout, make_precisions(**precisions), capacity)
    other = held.activations(float(numbers["max_batched_tokens"]), float(numbers["max_batch"]))
    cache = part["kv_blocks"] * held.block_bytes
    return Bytes(held.weights, cache, float(other) + float(software.workspace_bytes), capacity)


_HELD = ("weights", "kv_cache", "activations", "workspace", "capacity")


def _byte_count(where: str, table: Mapping[str, Any], key: str) -> float:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise SpecError(f"{where}: {key}: must be a number of bytes (got {value!r})")
    return float(value)


def _check_cache(label: str, role: Role, context: int, usual: int) -> None:
    """A server boots only if its longest request fits its blocks, and keeps its promise only if the batch does."""
    if not role.caches:
        return
    where, tokens = f"{label}: {role.name}", role.kv_blocks * role.block_tokens
    if ceil_div(context, role.block_tokens) > role.kv_blocks:
        raise PlanError(
            f"{where}: a request of {context} tokens does not fit {role.kv_blocks} blocks of {role.block_tokens}: "
            f"at most {tokens} tokens fit"
        )
    places = role.kv_blocks // int(ceil_div(usual, role.block_tokens))
    if role.rank_batch > places:
        raise PlanError(
            f"{where}: max_batch {role.max_batch} does not fit {role.kv_blocks} blocks of {role.block_tokens}: "
            f"{places * role.layout.attention_dp} requests of {usual} tokens fit at once"
        )
