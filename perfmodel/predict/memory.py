"""Bytes on the fullest rank at the peak of a step, by what holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from perfmodel.dual import plain
from perfmodel.formulas import activations as laws
from perfmodel.ops import less, maximum, minimum, where
from perfmodel.predict.activations import activation_bytes_of_layer, weight_operand_bytes_of_layer
from perfmodel.predict.cost import Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.kinds import Parts, stage_parts
from perfmodel.predict.schedules import FOLDED, SPLIT_BACKWARD, in_flight_microbatches
from perfmodel.predict.share import Share
from perfmodel.predict.stages import Stages
from perfmodel.predict.weights import Weights
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.software import Software

__all__ = ["Memory", "StageMemory", "peak_memory"]

_HIDDEN_BYTES = 2.0
_LOGIT_BYTES = 6.0
"""Logits in 16 bits and the 32-bit copy that the cross entropy turns into their gradient."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes [B] on the fullest rank; `workspace` holds context, communication buffers and fragmentation."""

    weights: Number
    gradients: Number
    optimizer: Number
    activations: Number
    workspace: Number

    @property
    def total(self) -> Number:
        """Bytes that the framework allocates at its peak."""
        return _sum([self.weights, self.gradients, self.optimizer, self.activations, self.workspace])


def _sum(parts: list[Number]) -> Number:
    """Arrays of few axes first: few additions have the size of all."""
    return sum(sorted(parts, key=lambda part: getattr(part, "size", 1)))


def peak_memory(memory: StageMemory, stages: Stages, *, detail: bool = True) -> Memory:
    """The fullest of the first stage, the second (a layer more, a micro-batch less) and the last (head and logits).

    Without `detail` only the total is right: all of it is called workspace.
    """
    d, model = memory.d, memory.weights.model
    if isinstance(d.recompute_layers, tuple):
        candidates = [memory.of(*place) for place in _every_place(model, d)]
    else:
        candidates = [memory.of(*place) for place in _places(model, d, stages)]
    if not detail:
        return Memory(0.0, 0.0, 0.0, 0.0, maximum(*(stage.total for stage in candidates)))
    fullest = candidates[0]
    for other in candidates[1:]:
        bigger = less(fullest.total, other.total)
        fullest = Memory(
            *(where(bigger, getattr(other, part), getattr(fullest, part)) for part in Memory.__dataclass_fields__)
        )
    return fullest


def _places(model: Architecture, d: Degrees, stages: Stages) -> list[tuple[Number, Number, bool, Number]]:
    """Layers that a micro-batch meets on a stage, the stage, whether it holds the embedding, and 1 with the head."""
    alone = where(less(d.pp, 2), 1.0, 0.0)
    second = ((1.0 - alone) * stages.full, minimum(1.0, d.pp - 1.0), False, 0.0)
    if d.schedule in FOLDED:
        return [(stages.first + model.mtp_layers / d.weight_copies, 0.0, True, 1.0), second]
    return [
        (stages.first + alone * model.mtp_layers, 0.0, True, alone),
        second,
        ((1.0 - alone) * (stages.last + model.mtp_layers), d.pp - 1.0, False, 1.0),
    ]


def _every_place(model: Architecture, d: Degrees) -> Iterator[tuple[Number, Number, bool, Number, Number]]:
    """The same of every stage, with the layers that it recomputes."""
    assert isinstance(d.stage_layers, tuple)
    assert isinstance(d.recompute_layers, tuple)
    last = len(d.stage_layers) - 1
    for stage, (layers, again) in enumerate(zip(d.stage_layers, d.recompute_layers, strict=True)):
        head = float(stage == last)
        yield float(layers + head * model.mtp_layers), float(stage), stage == 0, head, float(again)


class StageMemory:
    """Memory of the stages of one layout (arrays give arrays); what stages have in common is computed once."""

    def __init__(self, software: Software, weights: Weights, d: Degrees, share: Share, n_microbatches: Number) -> None:
        self.software, self.weights, self.d, self.share = software, weights, d, share
        self.n_microbatches = n_microbatches

    def of(
        self, layers: Number, stage: Number, embeds: bool, predicts: Number, recomputed: Number | None = None
    ) -> Memory:
        """Bytes of one stage; `embeds` says that it holds the embedding, `predicts` is 1 where it holds the head.

        Full recomputation repeats `recomputed` of its layers (None: as many as on every stage).
        """
        weights, d, share, model = self.weights, self.d, self.share, self.weights.model
        state = weights.of_stage(layers * d.weight_copies, embeds, predicts)
        waiting = 0.0
        if d.schedule in SPLIT_BACKWARD and weights.trainable.trains_all:
            waiting = self.waiting_share(layers, first=embeds)
        in_flight = in_flight_microbatches(d.schedule, self.n_microbatches, d.pp, d.vpp, stage, waiting)
        kept = self._kept(layers, in_flight, *self._layer(layers, embeds), recomputed=recomputed)
        if embeds and model.dropout:
            kept.append(
                laws.embedding_dropout_bytes_korthikanti2022(
                    share.seq_len / share.cp, share.micro_batch, model.d_model, in_flight, share.shards
                )
            )
        if d.offload_share:
            kept = [_sum(kept) * (1.0 - d.offload_share)]
        # Logits live after the last forward pass and before the backward pass of the layers frees anything.
        activations = _sum([*kept, predicts * self._logits])
        return Memory(state.weights, state.gradients, state.optimizer, activations, self._workspace)

    def waiting_share(self, layers: Number, *, first: bool = False) -> Number:
        """What waits for the gradients of a stage's weights, over all activations that its micro-batch keeps [1]."""
        one, model = maximum(layers, 1.0), self.weights.model
        parts = stage_parts(model, layers * self.d.weight_copies, first)
        all_kept = _sum(self._kept(one, 1.0, *self._layer(layers, first), repeating=False))
        return one * weight_operand_bytes_of_layer(model, self.share, self.weights.dtype, parts) / all_kept

    def _kept(
        self,
        layers: Number,
        in_flight: Number,
        whole: Number,
        freed: Number,
        *,
        repeating: bool = True,
        recomputed: Number | None = None,
    ) -> list[Number]:
        """Activations of all micro-batches in flight, less what recomputation frees of them.

        While a layer is recomputed (if `repeating`) it needs what it had freed.
        """
        every, d = layers * in_flight * whole, self.d
        if d.recompute == "none":
            return [every]
        repeated = layers
        recomputed = d.recompute_layers if recomputed is None else recomputed
        if d.recompute == "full" and recomputed is not None:
            repeated = minimum(layers, recomputed)
        again = [maximum(freed, 0.0) * minimum(repeated, 1.0)] if repeating else []
        return [every, -in_flight * freed * repeated, *again]

    def _layer(self, layers: Number, first: bool) -> tuple[Number, Number]:
        """What the mean layer of a stage keeps of a micro-batch, and what recomputation frees of that [B]."""
        if first and self.weights.model.first_k_dense:
            return self._kept_and_freed(stage_parts(self.weights.model, layers * self.d.weight_copies, True))
        return self._later_layer

    @cached_property
    def _later_layer(self) -> tuple[Number, Number]:
        return self._kept_and_freed(stage_parts(self.weights.model, 0.0, False))

    def _kept_and_freed(self, parts: Parts) -> tuple[Number, Number]:
        d, held = self.d, (self.weights.model, self.software, self.share, self.weights.dtype, parts)
        whole = activation_bytes_of_layer(*held, "none")
        if d.recompute == "none":
            return whole, 0.0
        return whole, whole - activation_bytes_of_layer(*held, d.recompute, d.recompute_modules)

    @cached_property
    def _logits(self) -> Number:
        # The cross entropy works in 32 bits on a copy of the logits and turns it into their gradient in place.
        share, vocab = self.share, self.weights.model.vocab_padded
        return laws.logits_bytes(share.seq_len / share.cp, share.micro_batch, vocab, share.tp, _LOGIT_BYTES)

    @cached_property
    def _workspace(self) -> Number:
        weights, share = self.weights, self.share
        gathered = weights.gathered_bytes if self.d.zero_stage >= 3 else 0.0
        buffers = _HIDDEN_BYTES * share.tokens * weights.model.d_model if share.sequence_parallel else 0.0
        return plain(self.software.workspace_bytes) + gathered + buffers + weights.largest_gradient_bytes
