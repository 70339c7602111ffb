"""Bytes on the fullest rank at the peak of a step, by what holds them."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.dual import plain
from perfmodel.formulas import memory as laws
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

__all__ = ["Memory", "kept_share", "memory_of_stage", "peak_memory"]

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


def peak_memory(
    model: Architecture,
    software: Software,
    weights: Weights,
    d: Degrees,
    share: Share,
    stages: Stages,
    n_microbatches: Number,
    *,
    detail: bool = True,
) -> Memory:
    """The fullest of the first stage, the second (a layer more, a micro-batch less) and the last (head and logits).

    Without `detail` only the total is right: all of it is called workspace.
    """
    candidates = [
        memory_of_stage(model, software, weights, d, share, n_microbatches, *place)
        for place in _places(model, d, stages)
    ]
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


def kept_share(
    model: Architecture,
    software: Software,
    d: Degrees,
    share: Share,
    dtype: str,
    layers: Number,
    *,
    first: bool = False,
) -> Number:
    """What waits for the gradients of a stage's weights, over all activations that its micro-batch keeps [1]."""
    parts = stage_parts(model, layers * d.weight_copies, first)
    one = maximum(layers, 1.0)
    all_kept = _sum(_kept(model, software, d, share, dtype, one, parts, 1.0, repeating=False))
    return one * weight_operand_bytes_of_layer(model, share, dtype, parts) / all_kept


def memory_of_stage(
    model: Architecture, software: Software, weights: Weights, d: Degrees, share: Share, n_microbatches: Number,
    layers: Number, stage: Number, embeds: bool, predicts: Number,
) -> Memory:  # fmt: skip
    """Memory of one stage; `embeds` says that it holds the embedding, `predicts` is 1 where it holds the head."""
    held = layers * d.weight_copies
    state = weights.of_stage(held, embeds, predicts)
    waiting = 0.0
    if d.schedule in SPLIT_BACKWARD and weights.trainable.trains_all:
        waiting = kept_share(model, software, d, share, weights.dtype, layers, first=embeds)
    in_flight = in_flight_microbatches(d.schedule, n_microbatches, d.pp, d.vpp, stage, waiting)
    kept = _kept(model, software, d, share, weights.dtype, layers, stage_parts(model, held, embeds), in_flight)
    if embeds and model.dropout:
        kept.append(
            laws.embedding_dropout_bytes_korthikanti2022(
                share.seq_len / share.cp, share.micro_batch, model.d_model, in_flight, share.shards
            )
        )
    if d.offload_share:
        kept = [_sum(kept) * (1.0 - d.offload_share)]
    # The cross entropy works in 32 bits on a copy of the logits and turns it into their gradient in place.
    logits = laws.logits_bytes(share.seq_len / share.cp, share.micro_batch, model.vocab_padded, share.tp, _LOGIT_BYTES)
    # Logits live after the last forward pass and before the backward pass of the layers frees anything.
    activations = _sum([*kept, predicts * logits])
    gathered = weights.gathered_bytes if d.zero_stage >= 3 else 0.0
    buffers = _HIDDEN_BYTES * share.tokens * model.d_model if share.sequence_parallel else 0.0
    workspace = plain(software.workspace_bytes) + gathered + buffers + weights.largest_gradient_bytes
    return Memory(state.weights, state.gradients, state.optimizer, activations, workspace)


def _kept(
    model: Architecture, software: Software, d: Degrees, share: Share, dtype: str, layers: Number, parts: Parts,
    in_flight: Number, *, repeating: bool = True,
) -> list[Number]:  # fmt: skip
    """Activations of all micro-batches in flight, less what recomputation frees of them.

    While a layer is recomputed (if `repeating`) it needs what it had freed.
    """
    whole = activation_bytes_of_layer(model, software, share, dtype, parts, "none")
    every = layers * in_flight * whole
    if d.recompute == "none":
        return [every]
    freed = whole - activation_bytes_of_layer(model, software, share, dtype, parts, d.recompute, d.recompute_modules)
    repeated = layers
    if d.recompute == "full" and d.recompute_layers is not None:
        repeated = minimum(layers, d.recompute_layers)
    again = [maximum(freed, 0.0) * minimum(repeated, 1.0)] if repeating else []
    return [every, -in_flight * freed * repeated, *again]
