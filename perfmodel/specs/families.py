"""Tables of the Hugging Face families: which key of a public config.json gives which field of `Architecture`.

Names, types and defaults are those of the configuration class of the same `model_type` in transformers 5.23.0
(https://github.com/huggingface/transformers); a key of its fourth edition stands where the public files use it. A
dotted field belongs to a part: "experts.d_ff" is `Experts.d_ff`. What a table cannot say is a rule in `family_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["FAMILIES", "REQUIRED", "Family", "Key"]

REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """One row of a table: the Hugging Face key, what it must be, and the default of the class.

    A default of None leaves the field to `Architecture` or to a rule, as the class derives it too.
    """

    name: str
    kind: type = int
    default: Any = REQUIRED
    may_be_zero: bool = False


@dataclass(frozen=True)
class Family:
    """One `model_type`: rows, what its code fixes, and the names of the rules that read the rest."""

    keys: dict[str, Key]
    fixed: dict[str, Any]
    rope: dict[str, Key] = field(default_factory=dict)
    rules: tuple[str, ...] = ()
    # Keys that would change the model in a way no field describes, with the only value that is understood.
    only: dict[str, Any] = field(default_factory=dict)


_LLAMA_LIKE = {"gated_mlp": True, "norm": "rmsnorm"}
_GPT_LIKE = {"norm": "layernorm", "attention_bias": True, "mlp_bias": True}


def _sizes(
    max_seq_len: int, tied: bool = False, kv_heads: int | None = None, head: int | None = None
) -> dict[str, Key]:
    """The rows that all descendants of Llama share, with the defaults in which their classes differ."""
    return {
        "n_layers": Key("num_hidden_layers"),
        "d_model": Key("hidden_size"),
        "d_ff": Key("intermediate_size"),
        "n_heads": Key("num_attention_heads"),
        "vocab_size": Key("vocab_size"),
        "n_kv_heads": Key("num_key_value_heads", int, kv_heads),
        "d_head": Key("head_dim", int, head),
        "max_seq_len": Key("max_position_embeddings", int, max_seq_len),
        "activation": Key("hidden_act", str, "silu"),
        "tied_embeddings": Key("tie_word_embeddings", bool, tied),
    }


def _without(rows: dict[str, Key], *names: str) -> dict[str, Key]:
    return {name: key for name, key in rows.items() if name not in names}


def _theta(default: float = 10000.0, name: str = "rope_theta") -> dict[str, Key]:
    return {"theta": Key(name, float, default)}


_BIAS = {"attention_bias": Key("attention_bias", bool, False)}
_MLP_BIAS = {"mlp_bias": Key("mlp_bias", bool, False)}
_WINDOW = {"window": Key("sliding_window", int, None)}
_GEMMA = {"activation": Key("hidden_activation", str, "gelu_pytorch_tanh")} | _BIAS | _WINDOW
_MIXTRAL_EXPERTS = {
    "experts.n_experts": Key("num_local_experts", int, 8),
    "experts.experts_per_token": Key("num_experts_per_tok", int, 2),
    "experts.d_ff": Key("intermediate_size"),
}
_QWEN_EXPERTS = {
    "experts.n_experts": Key("num_experts"),
    "experts.experts_per_token": Key("num_experts_per_tok"),
    "experts.d_ff": Key("moe_intermediate_size"),
}
_DEEPSEEK_EXPERTS = {
    "experts.n_experts": Key("n_routed_experts"),
    "experts.experts_per_token": Key("num_experts_per_tok"),
    "experts.d_ff": Key("moe_intermediate_size"),
    "experts.n_shared": Key("n_shared_experts", int, 0, may_be_zero=True),
    "first_k_dense": Key("first_k_dense_replace", int, 0, may_be_zero=True),
    "mtp_layers": Key("num_nextn_predict_layers", int, 0, may_be_zero=True),
}
_LATENT = {
    "latent.q_lora_rank": Key("q_lora_rank", int, None),
    "latent.kv_lora_rank": Key("kv_lora_rank"),
    "latent.qk_nope_head_dim": Key("qk_nope_head_dim"),
    "latent.qk_rope_head_dim": Key("qk_rope_head_dim"),
    "latent.v_head_dim": Key("v_head_dim"),
}
# The latent heads have no head_dim of their own; configs that carry one mean the rotary part.
_DEEPSEEK = Family(
    keys=_without(_sizes(4096), "d_head", "n_kv_heads") | _BIAS | _LATENT | _DEEPSEEK_EXPERTS,
    fixed=_LLAMA_LIKE | {"experts.router_bias": True},
    rope=_theta(),
    rules=("plain_router_of_v2",),
    only={"moe_layer_freq": 1},
)

FAMILIES = {
    "llama": Family(_sizes(2048) | _BIAS | _MLP_BIAS, _LLAMA_LIKE, _theta()),
    "mistral": Family(
        _sizes(4096 * 32, kv_heads=8) | {"window": Key("sliding_window", int, 4096)}, _LLAMA_LIKE, _theta()
    ),
    "mixtral": Family(_sizes(4096 * 32, kv_heads=8) | _WINDOW | _MIXTRAL_EXPERTS, _LLAMA_LIKE, _theta(1e6)),
    "qwen2": Family(
        _sizes(32768) | _WINDOW,
        _LLAMA_LIKE | {"attention_bias": True, "output_bias": False},
        _theta(),
        rules=("window_from_max_window_layers",),
    ),
    "qwen2_moe": Family(
        _sizes(32768)
        | _WINDOW
        | _QWEN_EXPERTS
        | {
            "attention_bias": Key("qkv_bias", bool, True),
            "experts.shared_d_ff": Key("shared_expert_intermediate_size"),
        },
        _LLAMA_LIKE | {"output_bias": False, "experts.n_shared": 1, "experts.shared_gate": True},
        _theta(),
        rules=("window_from_max_window_layers", "sparse_steps"),
    ),
    "qwen3": Family(
        _sizes(32768, head=128) | _BIAS | _WINDOW,
        _LLAMA_LIKE | {"qk_norm": "head"},
        _theta(),
        rules=("window_from_max_window_layers",),
    ),
    "qwen3_moe": Family(
        _sizes(32768, kv_heads=4) | _BIAS | _WINDOW | _QWEN_EXPERTS,
        _LLAMA_LIKE | {"qk_norm": "head"},
        _theta(),
        rules=("window_from_max_window_layers", "sparse_steps"),
    ),
    "gemma": Family(_sizes(8192, tied=True, head=256) | _BIAS, _LLAMA_LIKE, _theta()),
    "gemma2": Family(
        _sizes(8192, tied=True, kv_heads=4, head=256) | _GEMMA | {"window": Key("sliding_window", int, 4096)},
        _LLAMA_LIKE | {"norms_per_layer": 4},
        _theta(),
        rules=("window_every_second",),
    ),
    "gemma3_text": Family(
        _sizes(131072, tied=True, kv_heads=4, head=256) | _GEMMA | {"window": Key("sliding_window", int, 4096)},
        _LLAMA_LIKE | {"norms_per_layer": 4, "qk_norm": "head"},
        _theta(1e6),
        rules=("window_but_every_sixth",),
    ),
    "phi3": Family(
        _sizes(4096) | _WINDOW | {"dropout": Key("resid_pdrop", float, 0.0, may_be_zero=True)},
        _LLAMA_LIKE,
        _theta() | {"fraction": Key("partial_rotary_factor", float, 1.0)},
    ),
    "falcon": Family(
        _without(_sizes(2048), "d_ff", "n_kv_heads", "d_head", "activation")
        | {
            "d_ff": Key("ffn_hidden_size", int, None),
            "activation": Key("activation", str, "gelu"),
            "attention_bias": Key("bias", bool, False),
            "mlp_bias": Key("bias", bool, False),
            "dropout": Key("hidden_dropout", float, 0.0, may_be_zero=True),
            "tied_embeddings": Key("tie_word_embeddings", bool, True),
        },
        {"norm": "layernorm"},
        _theta(),
        rules=("falcon_blocks",),
        only={"alibi": False},
    ),
    "gpt2": Family(
        {
            "n_layers": Key("n_layer"),
            "d_model": Key("n_embd"),
            "d_ff": Key("n_inner", int, None),
            "n_heads": Key("n_head"),
            "vocab_size": Key("vocab_size"),
            "max_seq_len": Key("n_positions", int, 1024),
            "activation": Key("activation_function", str, "gelu_new"),
            "dropout": Key("resid_pdrop", float, 0.1, may_be_zero=True),
            "tied_embeddings": Key("tie_word_embeddings", bool, True),
        },
        _GPT_LIKE | {"learned_positions": True},
        rules=("four_times_wide",),
    ),
    "gpt_neox": Family(
        _without(_sizes(2048), "n_kv_heads", "d_head")
        | {
            "activation": Key("hidden_act", str, "gelu"),
            "attention_bias": Key("attention_bias", bool, True),
            "parallel_block": Key("use_parallel_residual", bool, True),
            "dropout": Key("hidden_dropout", float, 0.0, may_be_zero=True),
        },
        {"norm": "layernorm", "mlp_bias": True},
        {"theta": Key("rotary_emb_base", float, 10000.0), "fraction": Key("rotary_pct", float, 0.25)},
    ),
    "opt": Family(
        _without(_sizes(2048, tied=True), "d_ff", "n_kv_heads", "d_head", "activation")
        | {
            "d_ff": Key("ffn_dim"),
            "activation": Key("activation_function", str, "relu"),
            "attention_bias": Key("enable_bias", bool, True),
            "mlp_bias": Key("enable_bias", bool, True),
            "dropout": Key("dropout", float, 0.1, may_be_zero=True),
            "tied_embeddings": Key("tie_word_embeddings", bool, True),
        },
        # The class shifts positions by two rows that padding tokens use.
        {"norm": "layernorm", "learned_positions": True, "extra_positions": 2},
        rules=("embedding_as_wide_as_the_model",),
        only={"do_layer_norm_before": True, "_remove_final_layer_norm": False},
    ),
    "bloom": Family(
        {
            "n_layers": Key("n_layer"),
            "d_model": Key("hidden_size"),
            "n_heads": Key("n_head"),
            "vocab_size": Key("vocab_size"),
            "max_seq_len": Key("seq_length", int, 2048),
            "dropout": Key("hidden_dropout", float, 0.0, may_be_zero=True),
            "tied_embeddings": Key("tie_word_embeddings", bool, True),
        },
        _GPT_LIKE | {"embedding_norm": True, "d_ff": None},
        rules=("four_times_wide",),
    ),
    "mpt": Family(
        {
            "n_layers": Key("n_layers"),
            "d_model": Key("d_model"),
            "n_heads": Key("n_heads"),
            "vocab_size": Key("vocab_size"),
            "max_seq_len": Key("max_seq_len", int, 2048),
            "dropout": Key("resid_pdrop", float, 0.0, may_be_zero=True),
            "tied_embeddings": Key("tie_word_embeddings", bool, True),
        },
        {"norm": "layernorm"},
        rules=("mpt_blocks",),
    ),
    "bert": Family(
        _without(_sizes(512), "n_kv_heads", "d_head")
        | {
            "activation": Key("hidden_act", str, "gelu"),
            "token_types": Key("type_vocab_size", int, 2),
            "dropout": Key("hidden_dropout_prob", float, 0.1, may_be_zero=True),
            "tied_embeddings": Key("tie_word_embeddings", bool, True),
        },
        _GPT_LIKE | {"learned_positions": True, "causal": False, "embedding_norm": True, "final_norm": False},
        rules=("bert_heads",),
        only={"is_decoder": False, "add_cross_attention": False},
    ),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    # Kimi K2 publishes its own name for the same class and keys.
    "kimi_k2": _DEEPSEEK,
    "gpt_oss": Family(
        _sizes(131072, kv_heads=8, head=64)
        | _MIXTRAL_EXPERTS
        | {
            "window": Key("sliding_window", int, 128),
            "experts.experts_per_token": Key("num_experts_per_tok", int, 4),
            "attention_bias": Key("attention_bias", bool, True),
        },
        _LLAMA_LIKE | {"attention_sinks": True, "experts.router_bias": True, "experts.expert_bias": True},
        _theta(150000.0),
        rules=("window_every_second",),
    ),
    "glm4_moe": Family(
        _sizes(131072, kv_heads=8) | _BIAS | _DEEPSEEK_EXPERTS,
        _LLAMA_LIKE | {"output_bias": False, "experts.router_bias": True},
        _theta() | {"fraction": Key("partial_rotary_factor", float, 0.5)},
        rules=("qk_norm_by_key",),
    ),
    "olmo": Family(
        _sizes(2048) | _BIAS, _LLAMA_LIKE | {"norm": "layernorm", "norm_scale": False, "norm_bias": False}, _theta()
    ),
    "olmo2": Family(_sizes(2048) | _BIAS, _LLAMA_LIKE | {"qk_norm": "width"}, _theta()),
    "minimax": Family(
        _sizes(4096 * 32, kv_heads=8) | _MIXTRAL_EXPERTS | {"linear_attention.chunk": Key("block_size", int, 256)},
        _LLAMA_LIKE,
        _theta(1e6),
        rules=("lightning_layers",),
    ),
    "mamba2": Family(
        {
            "n_layers": Key("num_hidden_layers"),
            "d_model": Key("hidden_size"),
            "vocab_size": Key("vocab_size"),
            "state_space.n_heads": Key("num_heads"),
            "state_space.d_head": Key("head_dim"),
            "state_space.d_state": Key("state_size"),
            "state_space.n_groups": Key("n_groups", int, 8),
            "state_space.d_conv": Key("conv_kernel", int, 4),
            "state_space.chunk": Key("chunk_size", int, 256),
            "state_space.conv_bias": Key("use_conv_bias", bool, True),
            "state_space.proj_bias": Key("use_bias", bool, False),
            "activation": Key("hidden_act", str, "silu"),
            "tied_embeddings": Key("tie_word_embeddings", bool, False),
        },
        # No position limits a state space; 2^20 only bounds what an estimate is asked for.
        {"norm": "rmsnorm", "norms_per_layer": 1, "ffns": ("none",), "max_seq_len": 2**20},
        rules=("inner_width",),
    ),
    "nemotron": Family(
        _sizes(4096) | _BIAS | _MLP_BIAS | {"activation": Key("hidden_act", str, "relu2")},
        {"norm": "layernorm"},
        _theta() | {"fraction": Key("partial_rotary_factor", float, 0.5)},
    ),
    "nemotron_h": Family(
        _without(_sizes(4096, kv_heads=8, head=128), "n_layers", "activation")
        | _MLP_BIAS
        | {
            "activation": Key("mlp_hidden_act", str, "relu2"),
            "state_space.n_heads": Key("mamba_num_heads", int, 128),
            "state_space.d_head": Key("mamba_head_dim", int, 64),
            "state_space.d_state": Key("ssm_state_size", int, 128),
            "state_space.n_groups": Key("n_groups", int, 8),
            "state_space.d_conv": Key("conv_kernel", int, 4),
            "state_space.chunk": Key("chunk_size", int, 128),
            "state_space.conv_bias": Key("use_conv_bias", bool, True),
            "state_space.proj_bias": Key("use_bias", bool, False),
            "mtp_layers": Key("num_nextn_predict_layers", int, 0, may_be_zero=True),
        },
        {"norm": "rmsnorm", "norms_per_layer": 1},
        rules=("inner_width", "nemotron_h_layers"),
        only={"moe_latent_size": None},
    ),
    "granitemoehybrid": Family(
        _sizes(2048)
        | _BIAS
        | {
            "state_space.n_heads": Key("mamba_n_heads", int, 128),
            "state_space.n_groups": Key("mamba_n_groups", int, 1),
            "state_space.d_state": Key("mamba_d_state", int, 256),
            "state_space.d_conv": Key("mamba_d_conv", int, 4),
            "state_space.chunk": Key("mamba_chunk_size", int, 256),
            "state_space.conv_bias": Key("mamba_conv_bias", bool, True),
            "state_space.proj_bias": Key("mamba_proj_bias", bool, False),
        },
        _LLAMA_LIKE,
        _theta(),
        rules=("granite_layers",),
    ),
}
# MiniMax publishes two models under names of its own with the keys of the class.
FAMILIES |= {"minimax_text_01": FAMILIES["minimax"], "minimax_m1": FAMILIES["minimax"]}
