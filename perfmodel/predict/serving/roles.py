"""One side of a disaggregated deployment: replicas of one layout that prefill, or that decode, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.formulas.disaggregation import dual_batch_time, expert_exchange_time
from perfmodel.formulas.prefix import missed_prompt_tokens
from perfmodel.formulas.serving import mean_decode_length
from perfmodel.formulas.sparse import expected_touched_groups
from perfmodel.predict.cost import Cost, Node, Number
from perfmodel.predict.imbalance import EVEN, ExpertRouting, Unevenness, expert_routing
from perfmodel.predict.layout import ParallelLayout, make_layout
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.load import Load
from perfmodel.predict.serving.memory import ServingMemory
from perfmodel.predict.serving.precisions import Precisions, make_precisions
from perfmodel.predict.serving.prefix import chunks_of, missed_load
from perfmodel.predict.serving.speculation import Speculation, mtp_step, verification
from perfmodel.predict.serving.task import check_serving_layout
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster, cluster_reference, load_cluster
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.registry import reference
from perfmodel.specs.serving_software import ServingSoftware, load_serving_software

__all__ = ["ROLE_KEYS", "Pool", "make_pool"]

ROLE_KEYS = (
    "cluster", "accelerators", "layout", "count", "weights", "activations", "kv_cache", "software", "batch",
    "batch_tokens", "dual_batch", "acceptance", "draft_tokens", "expert_imbalance", "expert_loads", "expert_placement",
)  # fmt: skip
"""What a role may say; `cluster` and `layout` are needed."""
_MESSAGES = ("expert_parallel", "tensor_parallel")
# A narrow token travels with a scale of 4 bytes for 128 values (DeepEP); results come back in 16 bits.
_NARROW_BYTES, _SIXTEEN_BITS = 1.0 + 4.0 / 128, 2.0


@dataclass(frozen=True)
class Pool:
    """`count` equal replicas of one role. `batch` [1] is the most sequences that a replica decodes (None: its memory),
    `batch_tokens` [1] the tokens that a group of `tp` ranks prefills in an iteration."""

    model: Architecture
    cluster: Cluster
    layout: ParallelLayout
    precisions: Precisions
    software: ServingSoftware
    count: int
    batch: int | None
    batch_tokens: int
    dual_batch: bool
    speculation: Speculation | None
    notes: tuple[str, ...]
    routing: ExpertRouting | None = None

    @property
    def attention_groups(self) -> float:
        """Groups of `tp` ranks that each attend for sequences of their own."""
        return float(self.layout.attention_dp)

    @property
    def accelerators(self) -> int:
        """Accelerators of all replicas."""
        return self.layout.accelerators * self.count

    @cached_property
    def efficiency(self) -> Efficiency:
        """Kernel constants of the accelerator."""
        return self.cluster.accelerator.kernel_constants()

    @cached_property
    def engine(self) -> Engine:
        """One replica; with data-parallel attention one group of it, whose experts are spread over all ranks."""
        return Engine(
            self.model, self.cluster, self.efficiency, self.software, self._group_layout, self.precisions, self.routing
        )  # fmt: skip

    @cached_property
    def memory(self) -> ServingMemory:
        """What one rank holds."""
        capacity = float(self.cluster.accelerator.capacity_bytes)
        replicas = self.uneven.replicas
        return ServingMemory(self.model, self.software, self._group_layout, self.precisions, capacity, replicas)

    @property
    def uneven(self) -> Unevenness:
        """How uneven the ranks of experts are."""
        return EVEN if self.routing is None else self.routing.at(float(self.layout.ep))

    @property
    def _group_layout(self) -> ParallelLayout:
        return self.layout.model_copy(update={"dp": 1, "attention_dp": 1})

    def request(self) -> dict[str, Any]:
        """The role as it was asked for, resolved."""
        speculation = self.speculation
        return {
            "cluster": cluster_reference(self.cluster),
            "accelerators": self.cluster.accelerators,
            "layout": self.layout.model_dump(mode="json"),
            "count": self.count,
            "weights": self.precisions.weights,
            "activations": self.precisions.activations,
            "kv_cache": self.precisions.kv_cache,
            "software": reference("software", self.software),
            "batch": self.batch,
            "batch_tokens": self.batch_tokens,
            "dual_batch": self.dual_batch,
            "acceptance": None if speculation is None else speculation.acceptance,
            "draft_tokens": None if speculation is None else speculation.draft_tokens,
            **(self.routing.request if self.routing else {}),
        }

    # Iterations

    def iteration(self, load: Load, name: str) -> Node:
        """An iteration of a replica over this load of all its ranks."""
        if not self.dual_batch:
            return self._whole(load, name)
        half = self._whole(replace(load, prompts=load.prompts / 2.0, sequences=load.sequences / 2.0), name)
        messages = sum(float(one.cost.seconds) for one in half.children if one.name in _MESSAGES)
        host = sum(float(one.cost.seconds) for one in half.children if one.name == "engine")
        kernels = float(half.cost.seconds) - messages - host
        hidden = 2.0 * (kernels + messages) - float(dual_batch_time(kernels, messages))
        return _overlapped(half, host, hidden, messages)

    def _whole(self, load: Load, name: str) -> Node:
        """Each group attends for its own share of the sequences; experts and their messages see those of all groups."""
        groups = self.attention_groups
        if groups == 1.0:
            return self.engine.iteration(load, name)
        own = self.engine.iteration(replace(load, prompts=load.prompts / groups, sequences=load.sequences / groups))
        experts = _child(self.engine.iteration(load), "experts")
        messages = Node("expert_parallel", self._exchange(load), "link")
        shared = {"experts": experts, "expert_parallel": messages}
        return Node.of(name, *(shared.get(one.name, one) for one in own.children))

    def _exchange(self, load: Load) -> Cost:
        """Messages of all layers with experts, written straight to their ranks; prompts' once for each node."""
        model, ranks = self.model, float(self.layout.ep)
        experts = float(model.experts_per_token)
        inner, outer = self.cluster.tiers[0], self.cluster.tiers[-1]
        domain = float(inner.domain_accelerators or self.cluster.accelerators)
        tier = inner if ranks <= domain else outer
        byte_per_s = float(tier.link_byte_per_s) * self.efficiency.network.link_efficiency
        away = 1.0 - min(1.0, domain / ranks) if tier is outer else 1.0 - 1.0 / ranks
        nodes = math.ceil(ranks / domain)
        forwarded = tier is outer and float(load.prompts) > 0
        copies = (float(expected_touched_groups(experts, nodes)) if forwarded else experts) * away
        # The fullest rank receives most; on this tier travels what leaves its node, or all of it.
        copies *= self.uneven.fullest * (self.uneven.far if tier is outer else self.uneven.leaving)
        sent = _NARROW_BYTES if self.precisions.is_narrow else _SIXTEEN_BITS
        width, layers = float(model.d_model), sum(n for kind, n in model.layer_groups if kind.ffn == "experts")
        one = expert_exchange_time(
            load.tokens / ranks, copies, sent * width, _SIXTEEN_BITS * width, byte_per_s, float(tier.latency_s)
        )
        return Cost(layers * one, 0.0, layers * one, 0.0, 0.0, layers * one)

    # Prefill

    def prompts_at_once(self, prompt_tokens: float, prefix_hit: float) -> float:
        """Prompts of a full iteration of a replica: as many missed tokens as `batch_tokens` of every group."""
        missed = max(1.0, float(missed_prompt_tokens(prompt_tokens, prefix_hit)))
        each = max(1.0, math.floor(self.batch_tokens / missed))
        return each * self.attention_groups

    def prefill(self, prompts: float, prompt_tokens: float, prefix_hit: float) -> Node:
        """Prompts of which `prefix_hit` is in the cache; longer ones in chunks of `batch_tokens`."""
        chunks = chunks_of(prompt_tokens, prefix_hit, float(self.batch_tokens))
        one = self.iteration(missed_load(prompts, prompt_tokens, prefix_hit, chunks), "prefill")
        return Node.of("prefill", *(replace(child, cost=child.cost * chunks) for child in one.children))

    # Decode

    def decode(self, sequences: Number, prompt_tokens: float, output_tokens: float) -> Node:
        """What a token of every sequence takes; with speculation a round over the tokens that it yields."""
        length = float(mean_decode_length(prompt_tokens, output_tokens))
        if self.speculation is None:
            return self.iteration(Load(sequences=sequences, kv_len=length), "decode_step")
        drafted = float(self.speculation.draft_tokens)
        if self.attention_groups > 1 or self.dual_batch:
            # Rows of a verification are those of so many more sequences; attention too, an upper bound.
            verify = self.iteration(Load(sequences=sequences * (drafted + 1.0), kv_len=length), "verify")
        else:
            verify = verification(self.engine, sequences, length, drafted)
        draft = mtp_step(self.engine, sequences / self.attention_groups, length)
        share = 1.0 / self.speculation.tokens
        nodes = [replace(one, cost=one.cost * share) for one in verify.children]
        return Node.of("decode_step", *nodes, Node("draft", draft.cost * (drafted * share), draft.cost.bound_by))

    def places(self, prompt_tokens: float, output_tokens: float) -> float:
        """Sequences that a replica can decode at a time: what its memory holds, and no more than `batch`."""
        most, ranks = float(self.batch or self.software.max_batch * self.attention_groups), self.attention_groups
        blocks = float(self.memory.blocks(most / ranks, most / ranks))
        held = float(self.memory.concurrency(blocks, float(mean_decode_length(prompt_tokens, output_tokens)))) * ranks
        return min(most, held)

    # Budgets

    @property
    def provisioned_w(self) -> float:
        """Power [W] that the machines of this pool may draw, servers included."""
        each = float(self.cluster.accelerator.tdp_w) + float(self.cluster.server_overhead_w)
        return each * self.accelerators

    @property
    def usd_per_hour(self) -> float:
        """Price of the machines of this pool."""
        return float(self.cluster.accelerator_usd_per_hour) * self.accelerators


def _child(node: Node, name: str) -> Node:
    return next(one for one in node.children if one.name == name)


def _overlapped(half: Node, host: float, hidden: float, messages: float) -> Node:
    """Two halves with their messages behind the kernels; what stays of the messages is exposed."""
    exposed = max(0.0, 2.0 * messages - hidden)
    nodes = []
    for one in half.children:
        if one.name == "engine":
            nodes.append(one)
        elif one.name in _MESSAGES:
            share = exposed / (2.0 * messages) if messages else 0.0
            nodes.append(replace(one, cost=_scaled(one.cost, 2.0, share)))
        else:
            nodes.append(replace(one, cost=one.cost * 2.0))
    return Node.of(half.name, *nodes)


def _scaled(cost: Cost, times: float, exposed_share: float) -> Cost:
    whole = cost * times
    return Cost(whole.seconds * exposed_share, 0.0, whole.upper, 0.0, 0.0, whole.link_s)


def make_pool(name: str, model: Architecture, role: Mapping[str, Any]) -> Pool:
    """The pool that a role describes; raises `SpecError` and `PlanError` that name it."""
    unknown = [key for key in role if key not in ROLE_KEYS]
    if unknown:
        raise PlanError(f"{name}: {unknown_name('key', unknown[0], ROLE_KEYS, shown=20)}")
    missing = [key for key in ("cluster", "layout") if key not in role]
    if missing:
        raise PlanError(f"{name}: {missing[0]}: is missing")
    layout = make_layout(role["layout"])
    count = _whole(f"{name}: count", role.get("count", 1))
    cluster = load_cluster(role["cluster"], accelerators=role.get("accelerators"))
    software = load_serving_software(role.get("software"))
    routing = expert_routing(
        model, role.get("expert_imbalance"), role.get("expert_loads"), role.get("expert_placement")
    )  # fmt: skip
    _check_layout(name, layout, model, cluster, routing)
    efficiency = cluster.accelerator.kernel_constants()
    batch = role.get("batch")
    return Pool(
        model, cluster, layout,
        make_precisions(role.get("weights", "bf16"), role.get("activations"), role.get("kv_cache")), software, count,
        None if batch is None else _whole(f"{name}: batch", batch),
        _whole(f"{name}: batch_tokens", role.get("batch_tokens", min(software.max_batched_tokens, 16384))),
        bool(role.get("dual_batch", False)), _speculation(name, role),
        (*efficiency.inherited, *software.inherits), routing,
    )  # fmt: skip


def _check_layout(
    name: str, layout: ParallelLayout, model: Architecture, cluster: Cluster, routing: ExpertRouting | None
) -> None:
    """Groups of data-parallel attention are priced where all their ranks share the experts: ep = tp * attention_dp."""
    if layout.dp != layout.attention_dp:
        raise PlanError(
            f"{name}: layout: dp: must be attention_dp {layout.attention_dp}, for replicas are counted by count "
            f"(got {layout.dp})"
        )
    if layout.attention_dp > 1 and (model.experts is None or layout.ep != layout.tp * layout.dp or layout.pp > 1):
        raise PlanError(
            f"{name}: layout: attention_dp: is priced for models with experts, pp = 1 and ep = tp * attention_dp "
            f"(got {layout.attention_dp}, with tp {layout.tp}, ep {layout.ep}, pp {layout.pp})"
        )
    if layout.accelerators > cluster.accelerators:
        raise PlanError(
            f"{name}: layout: needs {layout.accelerators} accelerators, {cluster.id} has {cluster.accelerators}; "
            "scale it with accelerators="
        )
    if layout.attention_dp == 1:
        check_serving_layout(layout, model, cluster, routing)


def _speculation(name: str, role: Mapping[str, Any]) -> Speculation | None:
    acceptance = role.get("acceptance")
    if acceptance is None:
        return None
    if isinstance(acceptance, bool) or not isinstance(acceptance, (int, float)) or not 0 <= acceptance < 1:
        raise OutOfRangeError(f"{name}: acceptance: must be in [0, 1) (got {acceptance!r})")
    return Speculation(float(acceptance), _whole(f"{name}: draft_tokens", role.get("draft_tokens", 1)))


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PlanError(f"{name}: must be a whole number >= 1 (got {value!r})")
    if value < 1 or value % 1:
        raise OutOfRangeError(f"{name}: must be a whole number >= 1 (got {value!r})")
    return int(value)
