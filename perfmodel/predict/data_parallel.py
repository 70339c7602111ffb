"""Once a step: gradients between the ranks that hold the same weights, weights gathered under ZeRO, the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.formulas.elementwise import optimizer_bytes
from perfmodel.formulas.overlap import exposed_time
from perfmodel.ops import maximum, minimum
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Node, Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.schedules import FOLDED
from perfmodel.predict.stages import Stages
from perfmodel.predict.weights import WEIGHT_BYTES, ParamsPerRank, Weights, optimizer_of
from perfmodel.specs.software import Software

__all__ = ["DataParallel", "Windows"]


@dataclass(frozen=True, slots=True)
class Windows:
    """Computation of one micro-batch on the fullest stage [s] behind which data-parallel messages can hide."""

    forward: Number
    backward: Number


@dataclass(frozen=True)
class DataParallel:
    """The once-a-step terms of one layout (or arrays of layouts)."""

    weights: Weights
    degrees: Degrees
    links: Links
    kernels: Kernels
    software: Software

    def exchange(self, stages: Stages, windows: Windows, n_microbatches: Number) -> Node:
        """Reduction of the gradients and, under ZeRO, gathering of the weights; what computation does not hide."""
        d = self.degrees
        params = self._fullest(stages)
        learns = self.weights.trainable.share
        # ZeRO-3, and FSDP whatever it shards, gather and reduce layer by layer, the others all at once.
        messages = stages.full * d.weight_copies if d.zero_stage >= 3 or self.software.shards_by_layer else 1.0
        scatter = self._reduce(params.dense * learns, d.data_ranks * d.weight_copies, d.tp, messages)
        gathered, updated = (
            self._gather(params.dense, d.tp, messages),
            self._gather(params.dense * learns, d.tp, messages),
        )
        if self.weights.model.experts is not None:
            inside = d.ep * d.etp
            scatter = scatter + self._reduce(
                params.experts * learns, d.expert_data_ranks * d.weight_copies, inside, messages
            )
            gathered = gathered + self._gather(params.experts, inside, messages)
            updated = updated + self._gather(params.experts * learns, inside, messages)
        if d.zero_stage < 3:
            pieces = [("gradients", scatter, windows.backward)]
            if d.zero_stage:
                # The updated weights return before the next step's first forward pass.
                pieces.append(("weights", updated, windows.forward))
        else:
            m = n_microbatches
            pieces = [
                ("gradients", scatter * m, windows.backward * m),
                ("weights", gathered * (2.0 * m), (windows.forward + windows.backward) * m),
            ]
        nodes = [Node(name, self._behind(window, cost), "link") for name, cost, window in pieces]
        tied = self._tied_embedding()
        return Node.of("data_parallel", *nodes, *([tied] if tied else []))

    def optimizer(self, stages: Stages, name: str) -> Node:
        """Reading and writing gradients, states and weights of the parameters that a rank owns."""
        d, params = self.degrees, self._fullest(stages)
        cut = d.shards * d.weight_copies if d.zero_stage else 1.0
        experts_cut = d.shards * d.weight_copies * d.tp / (d.ep * d.etp) if d.zero_stage else 1.0
        owned = (params.dense / cut + params.experts / experts_cut) * self.weights.trainable.share
        per_param = float(self.software.optimizer_bytes_per_param) * optimizer_of(name).traffic
        traffic = optimizer_bytes(owned, per_param)
        return Node("optimizer", self.kernels.elementwise(traffic, self.software.elementwise_library, 10.0))

    def _fullest(self, stages: Stages) -> ParamsPerRank:
        d = self.degrees
        return self.weights.params(stages.full * d.weight_copies, True, d.ends_together)

    def _reduce(self, n_params: Number, ranks: Number, stride: Number, messages: Number) -> Cost:
        """Gradients of `n_params` over `ranks`: an all-reduce, or a reduce-scatter with an all-reduce of the shards."""
        d, n_bytes = self.degrees, n_params * self.weights.gradient_bytes / messages
        if d.zero_stage == 0:
            return self.links.collective("all_reduce", n_bytes, ranks, stride)
        replicas = d.data_ranks / d.shards
        inside = maximum(ranks / replicas, 1.0)
        scatter = self.links.collective("reduce_scatter", n_bytes, inside, stride)
        between = self.links.collective("all_reduce", n_bytes / inside, replicas, stride * inside)
        return (scatter + between) * messages

    def _gather(self, n_params: Number, stride: Number, messages: Number) -> Cost:
        """Weights of `n_params` from the ranks that share them out; `stride` ranks hold different weights."""
        ranks = maximum(self.degrees.shards * self.degrees.weight_copies * self.degrees.tp / stride, 1.0)
        return self.links.collective("all_gather", n_params * WEIGHT_BYTES / messages, ranks, stride) * messages

    def _behind(self, window_s: Number, cost: Cost) -> Cost:
        if not self.software.overlap_data:
            return cost
        share = float(self.software.exposed_share)
        seconds = exposed_time(window_s, cost.seconds, share)
        return Cost(seconds, 0.0, cost.upper * max(1.0, share), 0.0, 0.0, cost.link_s)

    def _tied_embedding(self) -> Node | None:
        model, d = self.weights.model, self.degrees
        if not model.tied_embeddings or d.schedule in FOLDED:
            return None
        n_bytes = model.embedding_params / d.tp * self.weights.gradient_bytes * self.weights.trainable.share
        pair = self.links.collective("all_reduce", n_bytes, 2.0, d.tp * d.data_ranks * maximum(d.pp - 1.0, 1.0))
        return Node("tied_embedding", pair * minimum(d.pp - 1.0, 1.0), "link")
