"""Bytes on the fullest rank, by what holds them."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.formulas import memory as laws
from perfmodel.formulas import pipeline as schedules
from perfmodel.ops import less, maximum, minimum, where
from perfmodel.predict.cost import Number
from perfmodel.predict.stages import Stages
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.software import Software

__all__ = ["OPTIMIZER_BYTES", "Memory", "activation_bytes_of_layer", "peak_memory"]

# Bytes of state per parameter: fp32 master weight and both moments for mixed-precision Adam.
OPTIMIZER_BYTES = {"adam-mixed": 12.0}
_BYTES = 2.0  # 16-bit weights and activations


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes [B] on the fullest rank; `workspace` holds context, buffers, logits and fragmentation."""

    weights: Number
    gradients: Number
    optimizer: Number
    activations: Number
    workspace: Number

    @property
    def total(self) -> Number:
        """Bytes that the framework allocates at its peak."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.workspace


def activation_bytes_of_layer(
    model: Architecture,
    software: Software,
    *,
    tp: Number,
    micro_batch: Number,
    seq_len: int,
    sequence_parallel: bool,
    recompute: str,
) -> Number:
    """Bytes that one layer keeps from the forward to the backward pass of one micro-batch."""
    shards = tp if sequence_parallel else 1.0
    if recompute == "full":
        return laws.activation_bytes_per_layer_full_recompute(seq_len, micro_batch, model.d_model, 1.0)
    if model.gated_mlp or not model.dropout or software.attention == "flash":
        norm_mlp = laws.activation_bytes_per_layer_gated if model.gated_mlp else _plain_layer
        return norm_mlp(
            seq_len,
            micro_batch,
            model.d_model,
            model.d_ff,
            model.n_heads,
            maximum(model.n_kv_heads, tp),
            model.d_head,
            tp,
            shards,
        )
    if recompute == "selective":
        return laws.activation_bytes_per_layer_selective_korthikanti2022(
            seq_len, micro_batch, model.d_model, tp, shards
        )
    return laws.activation_bytes_per_layer_korthikanti2022(
        seq_len, micro_batch, model.d_model, model.n_heads, tp, shards
    )


def _plain_layer(
    seq_len: int,
    micro_batch: Number,
    d_model: int,
    d_ff: int,
    n_heads: int,
    n_kv_heads: Number,
    d_head: int,
    tp: Number,
    shards: Number,
) -> Number:
    attention = laws.attention_activation_bytes(seq_len, micro_batch, d_model, n_heads, n_kv_heads, d_head, tp, shards)
    # Without a gate the MLP keeps its input to the activation and the input of the second product.
    return attention + laws.gated_mlp_activation_bytes(seq_len, micro_batch, d_model, d_ff, tp, shards, ff_tensors=2)


def peak_memory(
    model: Architecture,
    software: Software,
    stages: Stages,
    *,
    dtype: str,
    optimizer: str,
    tp: Number,
    pp: Number,
    vpp: Number,
    shards: Number,
    micro_batch: Number,
    n_microbatches: Number,
    seq_len: int,
    sequence_parallel: bool,
    recompute: str,
    zero_stage: int,
    gpipe: bool = False,
) -> Memory:
    """Peak of a step on the fullest rank: the first stage, or the second where the first holds a layer less."""
    per_layer = activation_bytes_of_layer(
        model,
        software,
        tp=tp,
        micro_batch=micro_batch,
        seq_len=seq_len,
        sequence_parallel=sequence_parallel,
        recompute=recompute,
    )
    embedding = model.embedding_params / tp
    second = maximum(stages.full, 0.0) * model.layer_params / tp
    first = stages.first * model.layer_params / tp + embedding
    head = where(less(pp, 2), 0.0 if model.tied_embeddings else embedding, 0.0)
    in_first, in_second = _in_flight(n_microbatches, pp, vpp, gpipe)
    held_first, held_second = stages.first * in_first * per_layer, stages.full * in_second * per_layer
    hidden_shards = tp if sequence_parallel else 1.0
    boundary = laws.embedding_dropout_bytes_korthikanti2022(
        seq_len, micro_batch, model.d_model, in_first, hidden_shards, 1.0 if model.dropout else 0.0
    )
    # The layer whose backward runs needs all of its activations for the moment, whatever was recomputed.
    working = _working_set(model, software, tp, micro_batch, seq_len, sequence_parallel, recompute)
    logits = where(less(pp, 2), laws.logits_bytes(seq_len, micro_batch, model.vocab_padded, tp), 0.0)
    params_first = first + head
    split = [shards if zero_stage >= stage else 1.0 for stage in (3, 2, 1)]
    widths = (_BYTES, software.gradient_bytes(dtype), OPTIMIZER_BYTES[optimizer])
    state_of_one = laws.model_state_bytes_per_rank(1.0, split[0], split[1], split[2], *widths)
    second_is_fuller = less(params_first * state_of_one + held_first + boundary, second * state_of_one + held_second)
    n_params = where(second_is_fuller, second, params_first)
    activations = where(second_is_fuller, held_second, held_first + boundary) + working + logits
    weights = laws.weight_bytes_per_rank(n_params, widths[0], split[0])
    gradients = laws.gradient_bytes_per_rank(n_params, widths[1], split[1])
    states = laws.optimizer_bytes_per_rank(n_params, widths[2], split[2])
    gathered = laws.gathered_weight_bytes(model.layer_params / tp) if zero_stage >= 3 else 0.0
    workspace = float(software.workspace_bytes) + gathered + 0.0 * n_params
    return Memory(weights, gradients, states, activations, workspace)


def _in_flight(n_microbatches: Number, pp: Number, vpp: Number, gpipe: bool) -> tuple[Number, Number]:
    if gpipe:
        every = schedules.in_flight_microbatches_gpipe(n_microbatches)
        return every, every
    counts = []
    for stage in (0.0, 1.0):
        plain = schedules.in_flight_microbatches_1f1b(n_microbatches, pp, minimum(stage, pp - 1))
        chunked = schedules.in_flight_microbatches_interleaved(n_microbatches, pp, vpp, minimum(stage, pp - 1))
        counts.append(where(less(vpp, 2), plain, chunked))
    return counts[0], counts[1]


def _working_set(
    model: Architecture,
    software: Software,
    tp: Number,
    micro_batch: Number,
    seq_len: int,
    sequence_parallel: bool,
    recompute: str,
) -> Number:
    if recompute == "none":
        return 0.0
    return activation_bytes_of_layer(
        model,
        software,
        tp=tp,
        micro_batch=micro_batch,
        seq_len=seq_len,
        sequence_parallel=sequence_parallel,
        recompute="none",
    )
