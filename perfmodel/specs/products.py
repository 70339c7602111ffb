"""One operator list of a layer: its matrix products, its small vectors, its core and what it remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perfmodel.specs.blocks import Product

if TYPE_CHECKING:
    from perfmodel.specs.architecture import Architecture

__all__ = [
    "cache_values",
    "core_macs",
    "ffn_products",
    "head_products",
    "mixer_products",
    "mixer_vectors",
    "pairs",
    "state_values",
]


def mixer_products(model: Architecture, mixer: str) -> tuple[Product, ...]:
    """The matrix products around the core of a mixer, in the order in which a token meets them."""
    d, bias, out_bias = model.d_model, model.attention_bias, model.output_bias
    if mixer in ("attention", "window"):
        query, key_value = model.n_heads * model.d_head, model.n_kv_heads * model.d_head
        return (
            Product("qkv_projection", query + 2 * key_value, d, "column", bias=bias),
            Product("output_projection", d, query, "row", bias=out_bias),
        )
    if mixer == "latent":
        return _latent_products(model)
    if mixer == "mamba2":
        space = _given(model.state_space)
        inward = space.d_inner + space.conv_width + space.n_heads
        return (
            Product("ssm_in", inward, d, "column", bias=space.proj_bias),
            Product("ssm_out", d, space.d_inner, "row", bias=space.proj_bias),
        )
    if mixer == "linear":
        linear = _given(model.linear_attention)
        gate = (Product("gate_projection", linear.width, d, "column"),) if linear.gate else ()
        return (
            Product("qkv_projection", 3 * linear.width, d, "column", bias=bias),
            *gate,
            Product("output_projection", d, linear.width, "row", bias=out_bias),
        )
    return ()


def _latent_products(model: Architecture) -> tuple[Product, ...]:
    latent, d, heads, bias = _given(model.latent), model.d_model, model.n_heads, model.attention_bias
    queries = heads * latent.qk_head_dim
    if latent.q_lora_rank is None:
        query: tuple[Product, ...] = (Product("q_projection", queries, d, "column"),)
    else:
        query = (
            Product("q_down", latent.q_lora_rank, d, "none", bias=bias),
            Product("q_up", queries, latent.q_lora_rank, "column"),
        )
    return (
        *query,
        Product("kv_down", latent.cache_values, d, "none", bias=bias),
        Product("kv_up", heads * (latent.qk_nope_head_dim + latent.v_head_dim), latent.kv_lora_rank, "column"),
        Product("output_projection", d, heads * latent.v_head_dim, "row", bias=model.output_bias),
    )


def ffn_products(model: Architecture, ffn: str) -> tuple[Product, ...]:
    """The matrix products of an MLP, or of a router with its routed and shared experts."""
    d, inward = model.d_model, 2 if model.gated_mlp else 1
    if ffn == "dense":
        return (
            Product("mlp_up", inward * model.d_ff, d, "column", bias=model.mlp_bias),
            Product("mlp_down", d, model.d_ff, "row", bias=model.mlp_bias),
        )
    if ffn != "experts":
        return ()
    experts = _given(model.experts)
    products = [
        Product("router", experts.n_experts, d, "none", bias=experts.router_bias),
        Product("expert_up", inward * experts.d_ff, d, "column", "routed", experts.expert_bias),
        Product("expert_down", d, experts.d_ff, "row", "routed", experts.expert_bias),
    ]
    if experts.n_shared:
        products += [
            Product("shared_up", inward * experts.shared_d_ff, d, "column", bias=experts.expert_bias),
            Product("shared_down", d, experts.shared_d_ff, "row", bias=experts.expert_bias),
        ]
    if experts.shared_gate:
        products.append(Product("shared_gate", 1, d, "none"))
    return tuple(products)


def head_products(model: Architecture) -> tuple[Product, ...]:
    """The matrix products after the last layer."""
    if model.head == "none":
        return ()
    lm_head = Product("lm_head", model.vocab_padded, model.d_model, "column", bias=model.head_bias)
    if model.head == "lm":
        return (lm_head,)
    return (Product("head_transform", model.d_model, model.d_model, "none", bias=True), lm_head)


def mixer_vectors(model: Architecture, mixer: str) -> dict[str, int]:
    """Parameters of a mixer that no product holds: norms inside it, sinks, convolution, decays."""
    vectors: dict[str, int] = {}
    if mixer in ("attention", "window"):
        if model.qk_norm == "head":
            vectors = {"q_norm": model.d_head, "k_norm": model.d_head}
        elif model.qk_norm == "width":
            vectors = {"q_norm": model.n_heads * model.d_head, "k_norm": model.n_kv_heads * model.d_head}
        if model.attention_sinks:
            vectors["sinks"] = model.n_heads
    elif mixer == "latent":
        latent = _given(model.latent)
        vectors = {"kv_norm": latent.kv_lora_rank}
        if latent.q_lora_rank is not None:
            vectors["q_norm"] = latent.q_lora_rank
    elif mixer == "mamba2":
        space = _given(model.state_space)
        vectors = {"conv": space.conv_width * (space.d_conv + space.conv_bias)}
        vectors |= {"decay": space.n_heads, "skip": space.n_heads, "dt_bias": space.n_heads}
        if space.gated_norm:
            vectors["gated_norm"] = space.d_inner
    elif mixer == "linear" and _given(model.linear_attention).norm:
        vectors = {"linear_norm": _given(model.linear_attention).width}
    return vectors


def pairs(tokens: int, causal: bool, window: int | None = None) -> int:
    """Pairs of query and key that one sequence looks at; a window of w lets a token see itself and w - 1 before it."""
    reach = tokens if window is None else min(tokens, window)
    if not causal:
        return tokens * reach
    return reach * (reach + 1) // 2 + (tokens - reach) * reach


def _chunk_pairs(tokens: int, causal: bool, chunk: int) -> int:
    whole, rest = divmod(tokens, chunk)
    return whole * pairs(chunk, causal) + pairs(rest, causal)


def core_macs(model: Architecture, mixer: str, tokens: int, causal: bool) -> int:
    """Multiply-adds of the core of a mixer over one sequence: what no weight takes part in.

    Attention: pairs times the widths of all query and of all value heads. Chunked mixers with chunks of Q tokens:
    Mamba-2 pairs inside a chunk times (groups * d_state + d_inner), then 2 s d_inner d_state to build and read the
    states (Dao and Gu 2024, section 6); lightning attention 2 pairs * width, then 2 s width d_head.
    """
    if mixer == "attention":
        return 2 * pairs(tokens, causal) * model.n_heads * model.d_head
    if mixer == "window":
        return 2 * pairs(tokens, causal, model.window) * model.n_heads * model.d_head
    if mixer == "latent":
        latent = _given(model.latent)
        return pairs(tokens, causal) * model.n_heads * (latent.qk_head_dim + latent.v_head_dim)
    if mixer == "mamba2":
        space = _given(model.state_space)
        inside = _chunk_pairs(tokens, causal, space.chunk) * (space.n_groups * space.d_state + space.d_inner)
        return inside + 2 * tokens * space.d_inner * space.d_state
    if mixer == "linear":
        linear = _given(model.linear_attention)
        return 2 * linear.width * (_chunk_pairs(tokens, causal, linear.chunk) + tokens * linear.d_head)
    return 0


def cache_values(model: Architecture, mixer: str) -> int:
    """Values that one token of the context keeps in one layer."""
    if mixer in ("attention", "window"):
        return 2 * model.n_kv_heads * model.d_head
    return _given(model.latent).cache_values if mixer == "latent" else 0


def state_values(model: Architecture, mixer: str) -> int:
    """Values that one sequence keeps in one layer however long it is."""
    if mixer == "mamba2":
        return _given(model.state_space).state_values
    return _given(model.linear_attention).state_values if mixer == "linear" else 0


def _given(part: Any) -> Any:
    """The sub-record that a mixer needs; `Architecture` has checked that it is there."""
    return part
