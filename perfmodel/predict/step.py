"""A training step, composed from layers to stages to the pipeline, for one layout or for arrays of layouts."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.formulas.elementwise import optimizer_bytes, vocabulary_loss_bytes
from perfmodel.formulas.overlap import exposed_time, host_exposed_time, straggler_slowdown
from perfmodel.formulas.pipeline import p2p_message_bytes, pipeline_bubble_time
from perfmodel.ops import less, maximum, minimum, where
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Node, Number, total
from perfmodel.predict.kernels import STEADY_LOAD_S, Kernels
from perfmodel.predict.layer import Layer, hidden_exchange, layer, matmul_backward
from perfmodel.predict.memory import Memory, peak_memory
from perfmodel.predict.stages import Stages, place_layers
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.software import Software

__all__ = ["Degrees", "Step", "StepModel"]

# Embedding traffic per hidden element [B]: row in, sum with positions out, dropout mask; and the scattered gradient.
_EMBEDDING_BYTES = 9.0
_WEIGHT_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class Degrees:
    """What varies from layout to layout: numbers may be arrays, switches are plain Python."""

    tp: Number
    pp: Number
    dp: Number
    vpp: Number
    micro_batch: Number
    shards: Number
    zero_stage: int
    sequence_parallel: bool
    recompute: str
    gpipe: bool = False

    @property
    def accelerators(self) -> Number:
        """Accelerators used."""
        return self.tp * self.pp * self.dp


@dataclass(frozen=True, slots=True)
class Step:
    """A step's tree of terms, its two bounds [s], its memory [B] and the forward arithmetic it repeats [flop]."""

    tree: Node
    lower_s: Number
    upper_s: Number
    memory: Memory
    recompute_flops: Number

    @property
    def seconds(self) -> Number:
        """Estimated step time [s]."""
        return self.tree.cost.seconds


class StepModel:
    """Prices steps of one model on one cluster with one software generation and precision."""

    def __init__(
        self,
        model: Architecture,
        cluster: Cluster,
        efficiency: Efficiency,
        software: Software,
        *,
        dtype: str,
        optimizer: str = "adam-mixed",
        load_s: float = STEADY_LOAD_S,
    ) -> None:
        self.model, self.cluster, self.software, self.efficiency = model, cluster, software, efficiency
        self.dtype, self.optimizer = dtype, optimizer
        self.kernels = Kernels(cluster.accelerator, efficiency, dtype, load_s)
        self.links = Links(cluster, efficiency)
        self.relative_spread = float(efficiency.relative_spread)

    def at_burst_clocks(self) -> StepModel:
        """The same model for a layer that is timed alone, before clocks settle."""
        return StepModel(
            self.model,
            self.cluster,
            self.efficiency,
            self.software,
            dtype=self.dtype,
            optimizer=self.optimizer,
            load_s=0.0,
        )

    def price(self, degrees: Degrees, global_batch: int, seq_len: int) -> Step:
        """Time, bounds and memory of one step; arrays in `degrees` give arrays."""
        d = degrees
        stages = place_layers(self.model.n_layers, d.pp, d.vpp)
        n_microbatches = global_batch / (d.dp * d.micro_batch)
        block = layer(
            self.model,
            self.kernels,
            self.links,
            self.software,
            tp=d.tp,
            micro_batch=d.micro_batch,
            seq_len=seq_len,
            sequence_parallel=d.sequence_parallel,
        )
        repeated = self._recomputed(block, d.recompute)
        ends = self._ends(d, seq_len)
        slots, head_binds = _bottleneck(stages, block, repeated, ends)
        layers = n_microbatches * slots
        device, exchange = self._layer_terms(block, repeated, layers)
        compute = Node.of("layers", *device)
        edge = self._edge_node(ends, n_microbatches, d.pp, head_binds)
        host = self._host(block, repeated, layers)
        bubble = self._bubble(block, repeated, stages, ends, d)
        slow = straggler_slowdown(d.accelerators, self.relative_spread)
        worked = compute.cost + edge.cost
        straggler_s = slow * (worked.seconds + bubble.cost.seconds)
        tree = Node.of(
            "step",
            compute,
            exchange,
            edge,
            host,
            Node.wait("stragglers", straggler_s, "dependency"),
            bubble,
            self._pipeline_transfer(d, n_microbatches, seq_len),
            self._gradient_exchange(d, stages, block, repeated, n_microbatches),
            self._optimizer(d, stages),
        )
        lower, upper = self._bounds(tree, exchange, repeated, layers)
        memory = peak_memory(
            self.model,
            self.software,
            stages,
            dtype=self.dtype,
            optimizer=self.optimizer,
            tp=d.tp,
            pp=d.pp,
            vpp=d.vpp,
            shards=d.shards,
            micro_batch=d.micro_batch,
            n_microbatches=n_microbatches,
            seq_len=seq_len,
            sequence_parallel=d.sequence_parallel,
            recompute=d.recompute,
            zero_stage=d.zero_stage,
            gpipe=d.gpipe,
        )
        return Step(tree, lower, upper, memory, self._recompute_flops(d.recompute, global_batch, seq_len))

    def _recomputed(self, block: Layer, recompute: str) -> dict[str, Cost]:
        if recompute == "full":
            return block.forward
        if recompute == "selective" and self.software.attention == "unfused":
            # A fused kernel never stores the scores, so there is nothing to repeat.
            return {"attention_core": block.forward["attention_core"]}
        return {}

    def _recompute_flops(self, recompute: str, global_batch: int, seq_len: int) -> float:
        model = self.model
        if recompute == "full":
            head = 2.0 * model.vocab_padded * model.d_model * global_batch * seq_len
            return model.forward_flops(global_batch, seq_len, attention="full") - head
        if recompute == "selective" and self.software.attention == "unfused":
            return 4.0 * model.n_layers * global_batch * float(seq_len) ** 2 * model.n_heads * model.d_head
        return 0.0

    def _ends(self, d: Degrees, seq_len: int) -> tuple[Cost, Cost]:
        """Head with loss, and embedding, of one micro-batch, forward and backward."""
        model, kernels, library = self.model, self.kernels, self.software.elementwise_library
        tokens = d.micro_batch * seq_len
        columns = model.vocab_padded / d.tp
        loss = vocabulary_loss_bytes(tokens, columns, float(self.software.loss_bytes_per_logit))
        hidden_bytes = kernels.bytes_per_element * tokens * model.d_model
        exchange = hidden_exchange(self.links, hidden_bytes, d.tp, d.sequence_parallel)
        head = (
            kernels.matmul(tokens, columns, model.d_model)
            + matmul_backward(kernels, self.software, tokens, columns, model.d_model)
            + kernels.elementwise(loss, library, 6.0)
            + exchange
        )
        shards = d.tp if d.sequence_parallel else 1.0
        embedding = kernels.elementwise(_EMBEDDING_BYTES * tokens * model.d_model / shards, library, 4.0) + exchange
        return head, embedding

    def _layer_terms(self, block: Layer, repeated: dict[str, Cost], layers: Number) -> tuple[list[Node], Node]:
        phases = {"forward": block.forward, "backward": block.backward, "recompute": repeated}
        device, links = [], []
        for phase, costs in phases.items():
            operations = {name: cost * layers for name, cost in costs.items()}
            exchange = operations.pop("tensor_parallel", None)
            if operations:
                device.append(Node.of(phase, *(Node(name, cost) for name, cost in operations.items())))
            if exchange is not None:
                links.append(Node(phase, exchange, "link"))
        return device, Node.of("tensor_parallel", *links)

    def _edge_node(self, ends: tuple[Cost, Cost], n_microbatches: Number, pp: Number, head_binds: Number) -> Node:
        head, embedding = ends
        alone = less(pp, 2)
        return Node.of(
            "vocabulary",
            Node("head_and_loss", head * (n_microbatches * head_binds)),
            Node("embedding", embedding * where(alone, n_microbatches, 0.0 * n_microbatches)),
        )

    def _host(self, block: Layer, repeated: dict[str, Cost], layers: Number) -> Node:
        forward_host = float(self.software.host_layer_s)
        backward_host = forward_host * float(self.software.host_backward_ratio)
        forward = total(block.forward.values()).seconds
        waits = host_exposed_time(forward, forward_host) + host_exposed_time(
            total(block.backward.values()).seconds, backward_host
        )
        if len(repeated) > 1:
            waits = waits + host_exposed_time(forward, forward_host)
        return Node.wait("host", waits * layers, "host")

    def _bubble(
        self, block: Layer, repeated: dict[str, Cost], stages: Stages, ends: tuple[Cost, Cost], d: Degrees
    ) -> Node:
        per_layer = total([*block.forward.values(), *block.backward.values(), *repeated.values()])
        stage = per_layer * stages.average + (ends[0] + ends[1]) * (1.0 / d.pp)
        seconds, lower, upper = (
            pipeline_bubble_time(x, d.pp, d.vpp) for x in (stage.seconds, stage.lower, stage.upper)
        )
        return Node.wait("pipeline_bubble", seconds, "dependency", lower, upper)

    def _pipeline_transfer(self, d: Degrees, n_microbatches: Number, seq_len: int) -> Node:
        """Activations forward and gradients backward between stages, for every chunk and in the warm-up."""
        model, kernels = self.model, self.kernels
        n_bytes = p2p_message_bytes(seq_len, d.micro_batch, model.d_model, d.tp, kernels.bytes_per_element)
        one = self.links.send_recv(n_bytes, d.tp * d.dp)
        if not d.sequence_parallel:
            # Each rank sends its share over its own rail; the receivers gather the shares.
            one = one + self.links.collective("all_gather", n_bytes * d.tp, d.tp)
        crosses = minimum(d.pp - 1.0, 1.0)
        warm_up = one * (2.0 * (d.pp - 1.0))
        steady = one * (2.0 * d.vpp * n_microbatches * crosses)
        if self.software.overlap_pipeline:
            share = float(self.software.exposed_share)
            steady = Cost(steady.seconds * min(share, 1.0), 0.0 * steady.seconds, steady.upper, 0.0, 0.0, steady.link_s)
        return Node("pipeline_transfer", warm_up + steady, "link")

    def _gradient_exchange(
        self, d: Degrees, stages: Stages, block: Layer, repeated: dict[str, Cost], n_microbatches: Number
    ) -> Node:
        """Data-parallel reduction of gradients and, under ZeRO, the gathering of weights."""
        n_params = self._params_per_rank(d, stages)
        gradient = n_params * self.software.gradient_bytes(self.dtype)
        weights = n_params * _WEIGHT_BYTES
        gather = self.links.collective("all_gather", weights, d.dp, d.tp)
        scatter = self.links.collective("reduce_scatter", gradient, d.dp, d.tp)
        backward = total([*block.backward.values(), *repeated.values()]).seconds * stages.full
        forward = total(block.forward.values()).seconds * stages.full
        if d.zero_stage == 0:
            pieces = [("gradients", self.links.collective("all_reduce", gradient, d.dp, d.tp), backward)]
        elif d.zero_stage < 3:
            pieces = [("gradients", scatter, backward), ("weights", gather, forward)]
        else:
            pieces = [
                ("gradients", scatter * n_microbatches, backward * n_microbatches),
                ("weights", gather * (2.0 * n_microbatches), (forward + backward) * n_microbatches),
            ]
        nodes = [Node(name, self._hidden_behind(window, cost), "link") for name, cost, window in pieces]
        tied = self._tied_embedding(d)
        return Node.of("data_parallel", *nodes, *([tied] if tied else []))

    def _hidden_behind(self, window_s: Number, cost: Cost) -> Cost:
        if not self.software.overlap_data:
            return cost
        share = float(self.software.exposed_share)
        seconds = exposed_time(window_s, cost.seconds, share)
        return Cost(seconds, 0.0 * cost.seconds, cost.upper * max(1.0, share), 0.0, 0.0, cost.link_s)

    def _tied_embedding(self, d: Degrees) -> Node | None:
        if not self.model.tied_embeddings:
            return None
        n_bytes = self.model.embedding_params / d.tp * self.software.gradient_bytes(self.dtype)
        pair = self.links.collective("all_reduce", n_bytes, 2.0, d.tp * d.dp * maximum(d.pp - 1.0, 1.0))
        return Node("tied_embedding", pair * minimum(d.pp - 1.0, 1.0), "link")

    def _params_per_rank(self, d: Degrees, stages: Stages) -> Number:
        model = self.model
        ends = model.embedding_params + where(less(d.pp, 2), float(model.head_params), 0.0)
        return (stages.full * model.layer_params + ends) / d.tp

    def _optimizer(self, d: Degrees, stages: Stages) -> Node:
        owned = self._params_per_rank(d, stages) / (d.shards if d.zero_stage else 1.0)
        traffic = optimizer_bytes(owned, float(self.software.optimizer_bytes_per_param))
        return Node("optimizer", self.kernels.elementwise(traffic, self.software.elementwise_library, 10.0))

    def _bounds(self, tree: Node, exchange: Node, repeated: dict[str, Cost], layers: Number) -> tuple[Number, Number]:
        """Perfect overlap: the longest of device, links and host. No overlap: everything in turn."""
        host_forward = float(self.software.host_layer_s)
        rounds = 1.0 + float(self.software.host_backward_ratio) + (1.0 if len(repeated) > 1 else 0.0)
        host_s = host_forward * rounds * layers
        return maximum(tree.cost.lower, exchange.cost.link_s, host_s), tree.cost.upper + host_s


def _bottleneck(
    stages: Stages, block: Layer, repeated: dict[str, Cost], ends: tuple[Cost, Cost]
) -> tuple[Number, Number]:
    """Layers of the slowest stage, and 1 where that stage also holds the head."""
    per_layer = total([*block.forward.values(), *block.backward.values(), *repeated.values()]).seconds
    with_head = stages.last * per_layer + ends[0].seconds
    head_binds = where(less(with_head, stages.full * per_layer), 0.0, 1.0)
    return where(less(with_head, stages.full * per_layer), stages.full, stages.last), head_binds
