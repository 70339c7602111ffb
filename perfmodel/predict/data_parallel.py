"""Once a step: gradients between the ranks that hold the same weights, weights gathered under ZeRO, the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perfmodel.dual import plain
from perfmodel.formulas.elementwise import optimizer_bytes
from perfmodel.formulas.overlap import exposed_time
from perfmodel.ops import maximum, minimum
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Node, Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.layer import Turn
from perfmodel.predict.schedules import FOLDED
from perfmodel.predict.stages import Stages
from perfmodel.predict.weights import WEIGHT_BYTES, ParamsPerRank, Weights, optimizer_of
from perfmodel.specs.software import Software

__all__ = ["DataParallel", "Messages", "Windows"]


@dataclass(frozen=True, slots=True)
class Windows:
    """Computation of one micro-batch on the fullest stage of `full` layers, behind which other work can hide."""

    one: Turn
    full: Number

    @property
    def forward(self) -> Number:
        """Seconds of its forward pass [s]."""
        return self.one.forward.seconds * self.full

    @property
    def backward(self) -> Number:
        """Seconds of its backward pass with what that repeats [s]."""
        return (self.one.backward.seconds + self.one.repeated.seconds) * self.full


@dataclass(frozen=True, slots=True)
class Messages:
    """All gradients reduced, all weights gathered, and those gathered that a step updated."""

    gradients: Cost
    weights: Cost
    updated: Cost

    def lean(self) -> Messages:
        """Without bounds."""
        return Messages(self.gradients.lean(), self.weights.lean(), self.updated.lean())


@dataclass(frozen=True)
class DataParallel:
    """The once-a-step terms of one layout (or arrays of layouts)."""

    weights: Weights
    degrees: Degrees
    links: Links
    kernels: Kernels
    software: Software

    def messages(self, full: Number) -> Messages:
        """Transfers of all gradients and all weights of the fullest stage, which has `full` layers."""
        d, params, learns = self.degrees, self._fullest(full), self.weights.trainable.share
        # ZeRO-3, and FSDP whatever it shards, gather and reduce layer by layer, the others all at once.
        messages = full * d.weight_copies if d.zero_stage >= 3 or self.software.shards_by_layer else 1.0
        scatter = self._reduce(params.dense * learns, d.data_ranks * d.weight_copies, d.tp, messages)
        gathered, updated = Cost(), Cost()
        # Nothing is gathered without ZeRO; all weights are where no rank has them, else those that a step updates.
        if d.zero_stage >= 3:
            gathered = self._gather(params.dense, d.tp, messages)
        elif d.zero_stage:
            updated = self._gather(params.dense * learns, d.tp, messages)
        if self.weights.model.experts is not None:
            inside = d.ep * d.etp
            scatter = scatter + self._reduce(
                params.experts * learns, d.expert_data_ranks * d.weight_copies, inside, messages
            )
            if d.zero_stage >= 3:
                gathered = gathered + self._gather(params.experts, inside, messages)
            elif d.zero_stage:
                updated = updated + self._gather(params.experts * learns, inside, messages)
        return Messages(scatter, gathered, updated)

    def exchange(self, messages: Messages, windows: Windows, n_microbatches: Number) -> Node:
        """Reduction of the gradients and, under ZeRO, gathering of the weights; what computation does not hide."""
        d = self.degrees
        pieces: list[tuple[str, Cost, Callable[[], Number]]]
        if d.zero_stage < 3:
            pieces = [("gradients", messages.gradients, lambda: windows.backward)]
            if d.zero_stage:
                # The updated weights return before the next step's first forward pass.
                pieces.append(("weights", messages.updated, lambda: windows.forward))
        else:
            m = n_microbatches
            pieces = [
                ("gradients", messages.gradients * m, lambda: windows.backward * m),
                ("weights", messages.weights * (2.0 * m), lambda: (windows.forward + windows.backward) * m),
            ]
        nodes = [Node(name, self._behind(window, cost), "link") for name, cost, window in pieces]
        tied = self._tied_embedding()
        return Node.of("data_parallel", *nodes, *([tied] if tied else []))

    def optimizer(self, stages: Stages, name: str) -> Node:
        """Reading and writing gradients, states and weights of the parameters that a rank owns."""
        d, params = self.degrees, self._fullest(stages.full)
        cut = d.shards * d.weight_copies if d.zero_stage else 1.0
        experts_cut = d.shards * d.weight_copies * d.tp / (d.ep * d.etp) if d.zero_stage else 1.0
        owned = (params.dense / cut + params.experts / experts_cut) * self.weights.trainable.share
        per_param = plain(self.software.optimizer_bytes_per_param) * optimizer_of(name).traffic
        traffic = optimizer_bytes(owned, per_param)
        return Node("optimizer", self.kernels.elementwise(traffic, self.software.elementwise_library, 10.0))

    def _fullest(self, full: Number) -> ParamsPerRank:
        d = self.degrees
        return self.weights.params(full * d.weight_copies, True, d.ends_together)

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

    def _behind(self, window_s: Callable[[], Number], cost: Cost) -> Cost:
        if not self.software.overlap_data:
            return cost
        share = plain(self.software.exposed_share)
        seconds = exposed_time(window_s(), cost.seconds, share)
        return Cost(seconds, 0.0, cost.upper * max(1.0, share), 0.0, 0.0, cost.link_s)

    def _tied_embedding(self) -> Node | None:
        model, d = self.weights.model, self.degrees
        if not model.tied_embeddings or d.schedule in FOLDED:
            return None
        n_bytes = model.embedding_params / d.tp * self.weights.gradient_bytes * self.weights.trainable.share
        pair = self.links.collective("all_reduce", n_bytes, 2.0, d.tp * d.data_ranks * maximum(d.pp - 1.0, 1.0))
        return Node("tied_embedding", pair * minimum(d.pp - 1.0, 1.0), "link")
