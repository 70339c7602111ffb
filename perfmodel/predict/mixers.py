"""The core of each mixer, forward and backward: attention, windows, latent attention, state spaces and the like."""

from __future__ import annotations

from perfmodel.ops import maximum
from perfmodel.predict.cost import Cost
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.share import Share
from perfmodel.predict.traffic import CAUSAL_SOFTMAX, SCORE_DROPOUT
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind
from perfmodel.specs.software import Software

__all__ = ["mixer_core"]

Phases = tuple[Cost, Cost]


def mixer_core(model: Architecture, kind: LayerKind, kernels: Kernels, software: Software, share: Share) -> Phases:
    """Forward and backward cost of what mixes the tokens of one layer on one rank."""
    if kind.mixer == "none":
        return Cost(), Cost()
    if kind.mixer in ("mamba2", "linear"):
        return _chunked(model, kind, kernels, share)
    if software.attention == "unfused":
        return _unfused(model, kernels, software, share)
    return _fused(model, kind, kernels, software, share)


def _fused(model: Architecture, kind: LayerKind, kernels: Kernels, software: Software, share: Share) -> Phases:
    latent = model.latent if kind.mixer == "latent" else None
    key_width, value_width = (
        (latent.qk_head_dim, latent.v_head_dim) if latent is not None else (model.d_head, model.d_head)
    )
    heads = model.n_heads / share.tp
    kv_heads = heads if latent is not None else maximum(model.n_kv_heads / share.tp, 1.0)
    length = float(share.document_len or share.seq_len)
    # Context-parallel ranks share out the pairs evenly, each with every key.
    sequences = share.micro_batch * (share.seq_len / length) / share.cp
    forward, backward = (
        kernels.flash_attention(
            sequences, length, heads, kv_heads, float(key_width), library=software.attention_library, backward=back,
            window=float(model.window) if kind.mixer == "window" and model.window else None,
            value_width=float(value_width),
        )
        for back in (False, True)
    )  # fmt: skip
    # An encoder looks at every pair, about twice the causal ones.
    return (forward, backward) if model.causal else (forward * 2.0, backward * 2.0)


def _unfused(model: Architecture, kernels: Kernels, software: Software, share: Share) -> Phases:
    count, seq_len = share.micro_batch * model.n_heads / share.tp / share.cp, share.seq_len
    scores = count * seq_len * seq_len
    both = kernels.matmul(seq_len, seq_len, model.d_head, count) + kernels.matmul(seq_len, model.d_head, seq_len, count)
    passes = (CAUSAL_SOFTMAX, SCORE_DROPOUT) if model.dropout else (CAUSAL_SOFTMAX,)
    phases = []
    for phase, products in enumerate((both, both * 2.0)):
        traffic = sum(kind[phase] for kind in passes) * scores
        phases.append(products + kernels.elementwise(traffic, software.elementwise_library, len(passes)))
    return phases[0], phases[1]


def _chunked(model: Architecture, kind: LayerKind, kernels: Kernels, share: Share) -> Phases:
    """Products inside chunks and between them, at the size of a chunk; backward repeats them twice."""
    if kind.mixer == "mamba2" and model.state_space is not None:
        chunk, state, width = model.state_space.chunk, model.state_space.d_state, model.state_space.d_head
        heads = model.state_space.n_heads / share.tp
    elif model.linear_attention is not None:
        chunk, width = model.linear_attention.chunk, model.linear_attention.d_head
        state, heads = width, model.linear_attention.n_heads / share.tp
    chunks = heads * share.tokens / chunk
    # Scores, scores on values, building a chunk's state, and reading the state before it.
    forward = (
        kernels.matmul(chunk, chunk, state, chunks)
        + kernels.matmul(chunk, width, chunk, chunks)
        + kernels.matmul(state, width, chunk, chunks)
        + kernels.matmul(chunk, width, state, chunks)
    )
    return forward, forward * 2.0
