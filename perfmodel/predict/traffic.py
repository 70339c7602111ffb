"""Memory traffic of a layer's element-wise kernels: bytes read and written, counted kernel by kernel."""

from __future__ import annotations

from perfmodel.predict.cost import Number
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.share import Share
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind
from perfmodel.specs.software import Software

__all__ = ["CAUSAL_SOFTMAX", "SCORE_DROPOUT", "elementwise_traffic", "module_bytes"]

# Forward and backward bytes per element of 16-bit activations. Norm: x in, y out; dy and x in, dx out; where the
# gradients of its own parameters are a kernel of their own, dy and x in once more; eager: a kernel for each of the cast
# to 32 bits, square, mean, scaling, cast back and weight, and two for each of them backward.
_NORM = {"fused": (4.0, 6.0), "split": (4.0, 10.0), "eager": (36.0, 72.0)}
# Residual addition with dropout: branch and residual in, sum and 1-byte mask out; dy and mask in, dx out.
_ADD_WITH_DROPOUT = (7.0, 5.0)
_ADD = (6.0, 0.0)
# The addition of two gradients where a residual forks.
_FORK = (0.0, 6.0)
# Softmax of the scores behind a causal mask: half in, all out; half of dy and y in, all out. And its dropout.
CAUSAL_SOFTMAX = (3.0, 4.0)
SCORE_DROPOUT = (5.0, 5.0)
_COPY = (4.0, 4.0)
_SIXTEEN_BITS = 2.0
# Rotation in one kernel, or half by half: two products, a swapped copy and a sum.
_ROPE = {"fused": (4.0, 4.0), "eager": (26.0, 26.0)}
# GELU; the gated unit in one kernel, or SiLU and product apart.
_PLAIN, _GATED = (4.0, 6.0), {"fused": (6.0, 10.0), "eager": (10.0, 18.0)}
# Copies of a token to its experts and the weighted sum of what they return, per copy: in and out each way.
_PERMUTE = (8.0, 8.0)
# Short convolution (in and out), decay and gate of a state space or of linear attention, per inner element.
_STATE_MIXER = (12.0, 24.0)


def elementwise_traffic(
    model: Architecture, kind: LayerKind, software: Software, share: Share, dtype: str
) -> tuple[tuple[Number, Number], float]:
    """Bytes [B] of one layer on one rank, forward and backward, and how many kernels move them."""
    hidden = share.tokens * model.d_model / share.shards
    adds = _ADD_WITH_DROPOUT if model.dropout else _ADD
    branches = (kind.mixer != "none") + (kind.ffn != "none")
    phases = []
    cast = _cast_bytes(model, kind, share, dtype)
    for phase in (0, 1):
        norms = model.norms_per_layer * _NORM[software.norm_backward][phase]
        n_bytes = (norms + branches * (adds[phase] + _FORK[phase])) * hidden
        n_bytes = n_bytes + _mixer_bytes(model, kind, software, share, phase)
        phases.append(n_bytes + _ffn_bytes(model, kind, software, share, phase) + cast[phase])
    return (phases[0], phases[1]), model.norms_per_layer + 2.0 * branches


def module_bytes(model: Architecture, kind: LayerKind, software: Software, share: Share) -> dict[str, Number]:
    """Bytes [B] that the element-wise modules of one layer move forward, by the names of Megatron-Core."""
    hidden = share.tokens * model.d_model / share.shards
    dense, routed = _activation_bytes(model, kind, software, share, 0)
    return {
        "layernorm": model.norms_per_layer * _NORM[software.norm_backward][0] * hidden,
        "mlp_act": dense,
        "moe_act": routed,
    }


def _cast_bytes(model: Architecture, kind: LayerKind, share: Share, dtype: str) -> tuple[Number, Number]:
    """Inputs of all products forward and gradients of their results backward, turned into a narrower format."""
    narrow = matmul_format(dtype).left_bytes
    if narrow >= _SIXTEEN_BITS:
        return 0.0, 0.0
    # Read in 16 bits, written twice: the weight gradient sums over the other dimension.
    per_element = _SIXTEEN_BITS + 2 * narrow
    inputs: Number = 0.0
    results: Number = 0.0
    for product in model.products(kind):
        copies = share.expert_tokens * model.experts_per_token if product.experts else share.rows(product)
        n, k = share.columns(model, kind, product)
        inputs, results = inputs + copies * k, results + copies * n
    return per_element * inputs, per_element * results


def _mixer_bytes(model: Architecture, kind: LayerKind, software: Software, share: Share, phase: int) -> Number:
    if kind.mixer == "mamba2" and model.state_space is not None:
        return _STATE_MIXER[phase] * share.tokens * model.state_space.conv_width / share.tp
    if kind.mixer == "linear" and model.linear_attention is not None:
        return _STATE_MIXER[phase] * share.tokens * model.linear_attention.width / share.tp
    if kind.mixer == "none":
        return 0.0
    n_bytes: Number = 0.0
    query_width = share.tokens * model.n_heads * model.d_head / share.tp
    if model.rope:
        n_bytes = (
            _ROPE[software.activation][phase]
            * share.tokens
            * (model.n_heads + model.n_kv_heads)
            * model.d_head
            / share.tp
        )
    if model.qk_norm != "none":
        n_bytes = n_bytes + _NORM["fused"][phase] * query_width
    if software.attention == "unfused":
        n_bytes = n_bytes + _COPY[phase] * query_width
    return n_bytes


def _ffn_bytes(model: Architecture, kind: LayerKind, software: Software, share: Share, phase: int) -> Number:
    experts, activations = model.experts, sum(_activation_bytes(model, kind, software, share, phase))
    if kind.ffn != "experts" or experts is None:
        return activations
    return activations + _PERMUTE[phase] * share.expert_tokens * experts.experts_per_token * model.d_model


def _activation_bytes(
    model: Architecture, kind: LayerKind, software: Software, share: Share, phase: int
) -> tuple[Number, Number]:
    """Bytes of the nonlinearity of a dense network or of shared experts, and of routed experts."""
    activation = (_GATED[software.activation] if model.gated_mlp else _PLAIN)[phase] * share.tokens
    experts = model.experts
    if kind.ffn == "dense":
        return activation * model.d_ff / share.tp, 0.0
    if kind.ffn == "none" or experts is None:
        return 0.0, 0.0
    copies = share.expert_tokens / share.tokens * experts.experts_per_token
    return activation * experts.shared_d_ff / share.tp, activation * copies * experts.d_ff / share.etp
