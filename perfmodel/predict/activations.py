"""Bytes that a layer keeps from its forward to its backward pass, by the module whose recomputation would free them."""

from __future__ import annotations

from perfmodel.formulas import activations as laws
from perfmodel.formulas import zero_bubble
from perfmodel.ops import maximum
from perfmodel.predict.cost import Number
from perfmodel.predict.kinds import Parts
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.share import Share
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind
from perfmodel.specs.software import Software

__all__ = ["FREED_BY", "activation_bytes_of_layer", "saved_by_module", "weight_operand_bytes_of_layer"]

_BYTES, _LSE_BYTES, _MASK_BYTES = 2.0, 4.0, 1.0
_EAGER_NORM_BYTES = 6.0
_SCORE_BYTES = {False: 2.0, True: 5.0}
"""Softmax output, and with dropout its mask and result (Korthikanti et al. 2022, section 4.1)."""

FREED_BY: dict[str, tuple[str, ...]] = {
    "core_attn": ("core_attn",),
    "layernorm": ("layernorm",),
    "mla_up_proj": ("mla_up_proj",),
    "mlp_act": ("mlp_act",),
    "moe_act": ("moe_act",),
    "mlp": ("mlp", "mlp_act"),
    "moe": ("moe", "moe_act", "shared_experts"),
    "shared_experts": ("shared_experts",),
}
"""What recomputing a module frees; the names are those of Megatron-Core's `recompute_modules`."""


def saved_by_module(
    model: Architecture, kind: LayerKind, software: Software, share: Share, dtype: str
) -> dict[str, Number]:
    """Bytes [B] that a layer of this kind keeps for one micro-batch on one rank; "hidden" is its inputs.

    Inputs of products are kept in the precision of the products.
    """
    operand = min(matmul_format(dtype).left_bytes, _BYTES)
    hidden = share.tokens * model.d_model * _BYTES / share.shards
    branches = (kind.mixer != "none") + (kind.ffn != "none")
    saved: dict[str, Number] = {
        "hidden": model.norms_per_layer * hidden,
        "layernorm": branches * hidden * operand / _BYTES,
        "dropout": branches * hidden * _MASK_BYTES / _BYTES if model.dropout else 0.0 * hidden,
    }
    if software.norm_backward == "eager":
        # The input in 32 bits and the normalised one in 16, before its weight.
        saved["layernorm"] = saved["layernorm"] + model.norms_per_layer * hidden * _EAGER_NORM_BYTES / _BYTES
    saved |= _mixer(model, kind, software, share)
    return saved | _ffn(model, kind, software, share, operand)


def activation_bytes_of_layer(
    model: Architecture,
    software: Software,
    share: Share,
    dtype: str,
    parts: Parts,
    recompute: str,
    modules: tuple[str, ...] = (),
) -> Number:
    """Bytes [B] that the mean of these kinds keeps; `modules` are recomputed when selective."""
    if recompute == "full":
        return laws.activation_bytes_per_layer_full_recompute(
            share.seq_len / share.cp, share.micro_batch, model.d_model, share.shards
        )
    freed = _freed(recompute, modules)
    kept: Number = 0.0
    for kind, part in parts:
        saved = saved_by_module(model, kind, software, share, dtype)
        kept = kept + part * sum(n for name, n in saved.items() if name not in freed)
    return kept


def weight_operand_bytes_of_layer(model: Architecture, share: Share, dtype: str, parts: Parts) -> Number:
    """Bytes [B] that the mean of these kinds keeps from the gradients of its inputs to those of its weights.

    Operands that tensor parallelism does not cut are kept as the layer's hidden state is.
    """
    operand = min(matmul_format(dtype).left_bytes, _BYTES)
    kept: Number = 0.0
    for kind, part in parts:
        for product in model.products(kind):
            n, k = share.columns(model, kind, product)
            rows = share.tokens
            cut = 1.0 / share.shards
            inputs, outputs = k, n
            if product.experts:
                rows = share.expert_tokens * model.experts_per_token
            else:
                inputs = k if product.split == "row" else k * cut
                outputs = n if product.split == "column" else n * cut
            kept = kept + part * zero_bubble.weight_gradient_operand_bytes(
                rows * inputs, rows * outputs, operand, _BYTES
            )
    return kept


def _freed(recompute: str, modules: tuple[str, ...]) -> frozenset[str]:
    if recompute != "selective":
        return frozenset()
    return frozenset(name for module in modules or ("core_attn",) for name in FREED_BY[module])


def _mixer(model: Architecture, kind: LayerKind, software: Software, share: Share) -> dict[str, Number]:
    tokens = share.tokens / share.tp
    if kind.mixer == "none":
        return {}
    if kind.mixer == "mamba2" and model.state_space is not None:
        space = model.state_space
        return {"mixer": tokens * _BYTES * (2 * space.conv_width + 3 * space.d_inner)}
    if kind.mixer == "linear" and model.linear_attention is not None:
        return {"mixer": tokens * _BYTES * 5 * model.linear_attention.width}
    if kind.mixer == "latent" and model.latent is not None:
        latent, heads = model.latent, model.n_heads
        compressed = share.tokens / share.shards * _BYTES * 2 * ((latent.q_lora_rank or 0) + latent.cache_values)
        expanded = tokens * heads * _BYTES * (2 * latent.qk_head_dim + latent.v_head_dim)
        out = tokens * heads * (_BYTES * latent.v_head_dim + _LSE_BYTES)
        return {"mixer": compressed + out, "mla_up_proj": expanded}
    key_values = maximum(model.n_kv_heads, share.tp)
    fused = software.attention == "flash"
    kept = laws.attention_activation_bytes(
        share.seq_len / share.cp, share.micro_batch, model.d_model, model.n_heads, key_values, model.d_head, share.tp,
        share.shards, hidden_tensors=0, bytes_per_lse=_LSE_BYTES if fused else 0.0,
    )  # fmt: skip
    if fused:
        return {"mixer": kept}
    scores = share.micro_batch * model.n_heads / share.tp * float(share.seq_len) ** 2 / share.cp
    return {"mixer": kept, "core_attn": _SCORE_BYTES[bool(model.dropout)] * scores}


def _ffn(model: Architecture, kind: LayerKind, software: Software, share: Share, operand: float) -> dict[str, Number]:
    inward = 2.0 if model.gated_mlp else 1.0
    # Apart from its product with the other half, an eager gate keeps its own result.
    eager = 1.0 if model.gated_mlp and software.activation == "eager" else 0.0
    if kind.ffn == "dense":
        width = share.tokens * model.d_ff / share.tp * _BYTES
        return {"mlp": inward * width, "mlp_act": (operand / _BYTES + eager) * width}
    experts = model.experts
    if kind.ffn == "none" or experts is None:
        return {}
    copies = share.expert_tokens * experts.experts_per_token
    product = copies * experts.d_ff / share.etp * _BYTES
    routed = laws.expert_activation_bytes(copies, model.d_model, experts.d_ff, share.etp, ff_tensors=inward)
    # One of the two copies of a routed token is the input of a product.
    routed = routed - copies * model.d_model * (_BYTES - operand)
    shared = share.tokens * experts.shared_d_ff / share.tp * _BYTES
    return {"moe": routed, "moe_act": (operand / _BYTES + eager) * product, "shared_experts": (inward + 1) * shared}
