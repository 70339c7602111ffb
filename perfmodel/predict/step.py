"""A training step, composed from layers to stages to the pipeline, for one layout or for arrays of layouts."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

from perfmodel.dual import plain
from perfmodel.formulas.elementwise import vocabulary_loss_bytes
from perfmodel.formulas.overlap import straggler_slowdown
from perfmodel.formulas.pipeline import p2p_message_bytes
from perfmodel.ops import less, maximum, where
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Draw, Node, Number, total
from perfmodel.predict.data_parallel import DataParallel, Messages, Windows
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.exchanges import EXCHANGES, hidden_exchange, side_by_side
from perfmodel.predict.host import Host
from perfmodel.predict.imbalance import ExpertRouting
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.kinds import bottleneck_parts
from perfmodel.predict.layer import Layer, Turn, added, layer, matmul_gradients, summed
from perfmodel.predict.levels import lean_at_levels
from perfmodel.predict.memory import Memory, StageMemory, peak_memory
from perfmodel.predict.offload import offload_node
from perfmodel.predict.pace import head_seconds, repeats_of, slowest_stage
from perfmodel.predict.pipeline import Pipeline, passes_of
from perfmodel.predict.power import DevicePower, device_power_of
from perfmodel.predict.recompute import planned_modules, recompute_flops, repeated_costs
from perfmodel.predict.schedules import DUALPIPE, FOLDED, SPLIT_BACKWARD
from perfmodel.predict.share import Share
from perfmodel.predict.stages import Stages, fold, place_layers, relieve_head
from perfmodel.predict.traffic import module_bytes
from perfmodel.predict.trainable import trainable_of
from perfmodel.predict.weights import Weights
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.software import Software

__all__ = ["Load", "StageTurn", "Step", "StepModel"]

# Embedding traffic per hidden element [B]: row in, sum with positions out, dropout mask; and the scattered gradient.
_EMBEDDING_BYTES = 9.0
_FAR = ("pipeline_transfer", "data_parallel", "offload")
"""Terms whose messages leave the node: what their links draw is the network card's."""


@dataclass(frozen=True, slots=True)
class StageTurn:
    """One micro-batch in a stage, all passes [s]: of a layer, of the head with its loss, of the embedding.

    The layer is the mean one of the slowest stage, which recomputes `repeated` [1] of them at `again_s` a layer.
    """

    stages: Stages
    layer_s: Number
    again_s: Number
    repeated: Number
    head_s: Number
    embedding_s: Number


@dataclass(frozen=True, slots=True)
class Step:
    """A step's tree of terms, its two bounds [s], its memory [B] and the forward arithmetic it repeats [flop].

    `turn` says what a micro-batch takes stage by stage, where the step was priced in detail.
    """

    tree: Node
    lower_s: Number
    upper_s: Number
    memory: Memory
    recompute_flops: Number
    turn: StageTurn | None = None

    @property
    def seconds(self) -> Number:
        """Estimated step time [s]."""
        return self.tree.cost.seconds

    def energy_j(self, power: DevicePower) -> Number:
        """Energy of an accelerator of the slowest stage [J]."""
        waits = total(node.cost for node in self.tree.children if node.bound_by == "host").seconds
        near = [leaf.cost for node in self.tree.children if node.name not in _FAR for leaf in node.leaves()]
        loaded = total(Cost(cost.at_full_draw(power.draw)) for cost in near).seconds
        return power.energy_j(self.seconds, waits, loaded)

    def watts_by_term(self, power: DevicePower) -> dict[str, float]:
        """Mean draw of that accelerator during each term that takes time [W], of one scenario."""
        nodes = [node for node in self.tree.children if float(node.cost.seconds) > 0]
        polling = power.idle_w + power.active_w
        return {node.name: polling if node.name in _FAR else power.mean_w(node) for node in nodes}


@dataclass(frozen=True, slots=True)
class Load:
    """What a rank's share of a micro-batch determines: the mean layer at settled clocks; head with loss; embedding.

    `repeated` is, by kind of recomputation, what the backward pass repeats of a layer that is recomputed. A lean load
    says with `draw` that energy is asked for.
    """

    layer: Layer
    ends: tuple[Cost, Cost]
    repeated: dict[str, dict[str, Cost]]
    draw: Draw | None = None

    def lean(self, draw: Draw | None = None) -> Load:
        """Sums without bounds: all that ranking many layouts needs."""
        repeated = {kind: summed(costs, draw) if costs else {} for kind, costs in self.repeated.items()}
        return Load(self.layer.summed(draw), (self.ends[0].lean(draw), self.ends[1].lean(draw)), repeated, draw)


class StepModel:
    """Prices steps of one model on one cluster with one software generation and precision.

    `trainable` says which weights learn, `document_len` [tokens] how long the documents packed into a sequence are,
    `steady` whether clocks have settled under the load, `routing` how uneven experts are (None: not at all).
    """

    def __init__(
        self,
        model: Architecture,
        cluster: Cluster,
        efficiency: Efficiency,
        software: Software,
        *,
        dtype: str,
        optimizer: str = "adam-mixed",
        trainable: str = "all",
        document_len: float | None = None,
        steady: bool = True,
        routing: ExpertRouting | None = None,
    ) -> None:
        self.model, self.cluster, self.software, self.efficiency = model, cluster, software, efficiency
        self.dtype, self.optimizer, self.document_len, self.steady = dtype, optimizer, document_len, steady
        self.routing = routing
        self.trainable = trainable_of(trainable, model)
        self.kernels = Kernels(cluster.accelerator, efficiency, dtype, steady=steady, casts_apart=True)
        self.links = Links(cluster, efficiency)
        self.relative_spread = plain(efficiency.relative_spread)

    def with_(
        self,
        *,
        cluster: Cluster | None = None,
        efficiency: Efficiency | None = None,
        software: Software | None = None,
        steady: bool = True,
    ) -> StepModel:
        """The same model on more of the same parts, with other constants or software, or at burst clocks.

        Burst clocks (not `steady`) are for a layer that is timed alone.
        """
        return StepModel(
            self.model,
            cluster or self.cluster,
            efficiency or self.efficiency,
            software or self.software,
            dtype=self.dtype,
            optimizer=self.optimizer,
            trainable=self.trainable.name,
            document_len=self.document_len,
            steady=steady,
            routing=self.routing,
        )

    def balanced(self) -> StepModel:
        """The same model with evenly loaded experts."""
        other = copy(self)
        other.routing = None
        return other

    def share(self, degrees: Degrees, seq_len: int) -> Share:
        """What one rank holds of a layer under these degrees."""
        return degrees.share(seq_len, self.document_len, self.routing)

    @cached_property
    def device_power(self) -> DevicePower:
        """What the accelerator draws in these kernels."""
        return device_power_of(self.cluster.accelerator, *self.kernels.reached)

    def layer(self, share: Share, pp: Number = 1.0) -> Layer:
        """The operations of the mean layer of the stage that sets the pace, on one rank."""
        parts = bottleneck_parts(self.model, pp)
        return layer(self.model, self.kernels, self.links, self.software, share, self.trainable, parts)

    def load(self, share: Share, pp: Number, modules: tuple[str, ...] = ()) -> Load:
        """The mean layer of the stage that sets the pace, and the ends, in the lasting load of a step."""
        block = self.layer(share, pp)
        block = block.settled(self.kernels) if self.steady else block
        parts = self._element_wise(share, pp) if modules else {}
        repeated = {kind: repeated_costs(self.software, block, kind, modules, parts) for kind in ("selective", "full")}
        return Load(block, self._ends(share, block), repeated)

    @cached_property
    def planned_modules(self) -> tuple[str, ...]:
        """The modules that a planner recomputes together."""
        return planned_modules(self.software, self.model)

    def price(
        self, degrees: Degrees, global_batch: int, seq_len: int, *, detail: bool = True, load: Load | None = None
    ) -> Step:
        """Time, bounds and memory of one step; arrays in `degrees` give arrays that broadcast.

        Without `detail` the tree names sums instead of operations and has no bounds: for many layouts at once. `load`
        is what the method of that name gives for the shares of these degrees, where the caller has it already (lean
        without `detail`).
        """
        d = degrees
        share = self.share(d, seq_len)
        stages = place_layers(self.model.n_layers, d.pp, d.vpp, d.stage_layers)
        n_microbatches = global_batch / (d.dp * d.micro_batch)
        data = self.data_parallel(d)
        weights = data.weights
        if load is None:
            load = self.load(share, d.pp, d.recompute_modules)
            load = load if detail else load.lean(self.device_power.draw)
        block, ends, repeated = load.layer, load.ends, load.repeated.get(d.recompute, {})
        again, head_s = total(repeated.values()), head_seconds(ends, d)
        repeats = repeats_of(d, stages.full, block, again, head_s)
        phases: list[dict[str, Cost]] = [block.forward, block.backward, _some(repeated, d, repeats.slowest)]
        one = alone = Turn.of(block, phases[2])
        if repeats.stage is not None:
            alone = Turn.of(block, _some(repeated, d, repeats.mean))
        if d.schedule == DUALPIPE:
            phases = [*side_by_side(phases, self.software)]
            one = Turn.of(replace(block, forward=phases[0], backward=phases[1]), phases[2])
        if self.software.places_layers_freely and d.stage_layers is None:
            stages = relieve_head(stages, self.model.n_layers, d.pp, d.vpp, ends[0].seconds / one.all.seconds)
            repeats = repeats_of(d, stages.full, block, again, head_s)
        if d.schedule in FOLDED:
            stages = fold(stages, d.weight_copies)
        stages = stages if detail else stages.compact()
        slots, head_binds = slowest_stage(d, stages, repeats, one.all.seconds, head_s)
        layers = n_microbatches * slots
        device, exchanges = self._layer_terms(phases, layers, detail=detail)
        compute = Node.of("layers", *device)
        edge = self._edge_node(ends, n_microbatches, d, head_binds)
        host = Host(self.model, self.software, self.kernels, share, repeats.slowest)
        late = host.layer_wait_s(one, again.seconds) * layers + host.ends_wait_s(ends) * n_microbatches
        pipeline = Pipeline(
            d,
            n_microbatches,
            alone.all * stages.average + (ends[0] + ends[1]) * (1.0 / d.pp),
            self._message(d, share, host.message_s),
            plain(self.software.exposed_share) if self.software.overlap_pipeline else None,
        )
        stage_memory = StageMemory(self.software, weights, d, share, n_microbatches)
        if d.schedule in SPLIT_BACKWARD:
            waiting = stage_memory.waiting_share(stages.full)
            bubble, transfer = pipeline.split_terms(passes_of(alone, block, stages, ends, d.pp), waiting)
        else:
            bubble, transfer = pipeline.terms()
        slow = straggler_slowdown(d.accelerators, self.relative_spread)
        straggler_s = slow * (compute.cost.seconds + edge.cost.seconds + bubble.cost.seconds)
        windows = Windows(one, stages.full)
        messages = data.messages(stages.full) if detail else lean_at_levels(self._messages, d, stages.full)
        memory = peak_memory(stage_memory, stages, detail=detail)
        terms = (
            compute,
            *exchanges,
            edge,
            Node.wait("host", late, "host"),
            Node.wait("stragglers", straggler_s, "dependency"),
            bubble,
            transfer,
            *offload_node(
                self.cluster, self.software, d, share, self.model, self.dtype, layers, windows, n_microbatches
            ),
            data.exchange(messages, windows, n_microbatches),
            data.optimizer(stages, self.optimizer),
        )
        if not detail:
            return Step(Node.of("step", *(_lean(term, load.draw) for term in terms)), 0.0, 0.0, memory, 0.0)
        tree = Node.of("step", *terms)
        host_s = host.layer_s * layers
        lower, upper = _bounds(tree, exchanges, host_s)
        flops = recompute_flops(self.model, self.software, d, repeats.mean, global_batch, seq_len)
        turn = StageTurn(stages, one.all.seconds, again.seconds, repeats.slowest, ends[0].seconds, ends[1].seconds)
        return Step(tree, lower, upper, memory, flops, turn)

    def data_parallel(self, d: Degrees) -> DataParallel:
        """What happens once a step between the ranks that hold the same weights."""
        weights = Weights(self.model, self.software, d, self.dtype, self.optimizer, self.trainable)
        return DataParallel(weights, d, self.links, self.kernels, self.software)

    def _messages(self, d: Degrees, full: Number) -> Messages:
        return self.data_parallel(d).messages(full)

    def _element_wise(self, share: Share, pp: Number) -> dict[str, Cost]:
        """The element-wise modules of the mean layer, forward."""
        bytes_of = [
            (module_bytes(self.model, kind, self.software, share), part)
            for kind, part in bottleneck_parts(self.model, pp)
        ]
        means = {name: sum(held[name] * part for held, part in bytes_of) for name in bytes_of[0][0]}
        library = self.software.elementwise_library
        return {name: self.kernels.elementwise(n_bytes, library) for name, n_bytes in means.items()}

    def _ends(self, share: Share, block: Layer) -> tuple[Cost, Cost]:
        """Head with loss, and embedding, of one micro-batch, both passes; layers that predict further tokens too."""
        model, kernels, library = self.model, self.kernels, self.software.elementwise_library
        tokens = share.tokens
        columns = model.vocab_padded / share.tp
        loss = vocabulary_loss_bytes(tokens, columns, plain(self.software.loss_bytes_per_logit))
        exchange = hidden_exchange(self.links, kernels.activation_bytes * tokens * model.d_model, share)
        trains = self.trainable.trains_all
        head = (
            self._head_products(tokens, share, trains).slowed(block.slowdown)
            + kernels.elementwise(loss, library, 6.0)
            + exchange
        ) * (1.0 + model.mtp_layers) + Turn.of(block, {}).all * float(model.mtp_layers)
        embedding = (
            kernels.elementwise(_EMBEDDING_BYTES * tokens * model.d_model / share.shards, library, 4.0) + exchange
        )
        return head, embedding

    def _head_products(self, tokens: Number, share: Share, trains: bool) -> Cost:
        """The products after the last layer; they stay in 16 bits whatever the layers use."""
        kernels = self.kernels.in_sixteen_bits()
        costs = []
        for product in self.model.head_products:
            n, k = (product.n / share.tp if product.split == "column" else product.n), product.k
            costs += [
                kernels.matmul(tokens, n, k),
                total(matmul_gradients(kernels, self.software, tokens, n, k, trains=trains)),
            ]
        return total(costs)

    def _layer_terms(
        self, passes: list[dict[str, Cost]], layers: Number, *, detail: bool
    ) -> tuple[list[Node], list[Node]]:
        phases = dict(zip(("forward", "backward", "recompute"), passes, strict=True))
        if not detail:
            phases = {"all passes": added(passes)}
        device: list[Node] = []
        links: dict[str, list[Node]] = {name: [] for name in EXCHANGES}
        for phase, costs in phases.items():
            operations = {name: cost * layers for name, cost in costs.items()}
            for name in EXCHANGES:
                if name in operations:
                    links[name].append(Node(phase, operations.pop(name), "link"))
            if operations:
                device.append(Node.of(phase, *(Node(name, cost) for name, cost in operations.items())))
        return device, [Node.of(name, *nodes) for name, nodes in links.items() if nodes]

    def _edge_node(self, ends: tuple[Cost, Cost], n_microbatches: Number, d: Degrees, head_binds: Number) -> Node:
        head, embedding = ends
        if d.schedule in FOLDED:
            turns = n_microbatches * head_binds / d.weight_copies
            return Node.of("vocabulary", Node("head_and_loss", head * turns), Node("embedding", embedding * turns))
        alone = less(d.pp, 2)
        return Node.of(
            "vocabulary",
            Node("head_and_loss", head * (n_microbatches * head_binds)),
            Node("embedding", embedding * where(alone, n_microbatches, 0.0 * n_microbatches)),
        )

    def _message(self, d: Degrees, share: Share, host_s: Number) -> Cost:
        """A micro-batch's activations, or their gradients, on the way to a neighbour."""
        model, kernels = self.model, self.kernels
        n_bytes = p2p_message_bytes(share.seq_len / d.cp, d.micro_batch, model.d_model, d.tp, kernels.activation_bytes)
        one = self.links.send_recv(n_bytes, d.tp * d.data_ranks)
        if not d.sequence_parallel:
            # Each rank sends its share over its own rail; the receivers gather the shares.
            one = one + self.links.collective("all_gather", n_bytes * d.tp, d.tp)
        return Cost(one.seconds + host_s, one.lower, one.upper + host_s, 0.0, 0.0, one.link_s)


def _lean(term: Node, draw: Draw | None) -> Node:
    return term.lean(None if term.name in _FAR else draw)


def _some(repeated: dict[str, Cost], d: Degrees, share: Number) -> dict[str, Cost]:
    """What is repeated of the mean of some layers, of which recomputation repeats a share."""
    return repeated if d.recompute_layers is None else {name: cost * share for name, cost in repeated.items()}


def _bounds(tree: Node, exchanges: list[Node], host_s: Number) -> tuple[Number, Number]:
    """Perfect overlap: the longest of device, links and host. No overlap: everything in turn."""
    links_s = total(node.cost for node in exchanges).link_s
    return maximum(tree.cost.lower, links_s, host_s), tree.cost.upper + host_s
