"""A model's sizes as flags of Megatron-LM, and a model of ours from such flags."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.huggingface import OWN_FAMILY, load_model

__all__ = ["is_written", "model_flags", "model_from_flags"]

_NORMS = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm"}
_NEEDED = ("--num-layers", "--hidden-size", "--num-attention-heads", "--vocab-size")
_USUAL_UNIT = 128
_FLAGS = (
    *_NEEDED, "--ffn-hidden-size", "--kv-channels", "--group-query-attention", "--num-query-groups",
    "--max-position-embeddings", "--position-embedding-type", "--make-vocab-size-divisible-by", "--normalization",
    "--swiglu", "--disable-bias-linear", "--add-qkv-bias", "--untie-embeddings-and-output-weights", "--num-experts",
    "--moe-router-topk", "--moe-ffn-hidden-size", "--moe-shared-expert-intermediate-size", "--moe-layer-freq",
)  # fmt: skip


def is_written(model: Architecture) -> bool:
    """Whether these flags describe the model: full attention in every layer, dense or expert layers behind it."""
    return model.mixers == ("attention",) and len(model.ffns) == 1 and model.norm in _NORMS and model.head == "lm"


def model_flags(model: Architecture, seq_len: int, tp: int) -> dict[str, Any]:
    """The size flags of a model trained on so long sequences in `tp` parts, none for one that they cannot describe."""
    if not is_written(model):
        return {}
    flags: dict[str, Any] = {
        "--num-layers": model.n_layers,
        "--hidden-size": model.d_model,
        "--ffn-hidden-size": model.d_ff,
        "--num-attention-heads": model.n_heads,
        "--kv-channels": model.d_head,
        "--max-position-embeddings": max(model.max_seq_len, seq_len),
        "--position-embedding-type": "learned_absolute" if model.learned_positions else "rope",
        "--vocab-size": model.vocab_size,
        "--normalization": _NORMS[model.norm],
        "--swiglu": model.gated_mlp,
        "--disable-bias-linear": not model.mlp_bias,
        "--add-qkv-bias": model.attention_bias and not model.mlp_bias,
        "--untie-embeddings-and-output-weights": not model.tied_embeddings,
    }
    if (unit := _vocabulary_unit(model, tp)) != _USUAL_UNIT:
        flags["--make-vocab-size-divisible-by"] = unit
    if model.n_kv_heads != model.n_heads:
        flags |= {"--group-query-attention": True, "--num-query-groups": model.n_kv_heads}
    if model.experts is not None:
        flags |= _expert_flags(model)
    return {name: value for name, value in flags.items() if value is not False}


def _vocabulary_unit(model: Architecture, tp: int) -> int:
    """What the rows of the embedding must divide by, so that Megatron pads them as the model says."""
    units = (_USUAL_UNIT // 2**power for power in range(_USUAL_UNIT.bit_length()))
    return next((unit for unit in units if _padded(model.vocab_size, unit * tp) == model.vocab_padded), _USUAL_UNIT)


def _padded(vocab_size: int, unit: int) -> int:
    return ceil(vocab_size / unit) * unit


def _expert_flags(model: Architecture) -> dict[str, Any]:
    experts = model.experts
    assert experts is not None
    flags: dict[str, Any] = {
        "--num-experts": experts.n_experts,
        "--moe-router-topk": experts.experts_per_token,
        "--moe-ffn-hidden-size": experts.d_ff,
    }
    if experts.n_shared:
        flags["--moe-shared-expert-intermediate-size"] = experts.shared_d_ff
    if model.first_k_dense:
        flags["--moe-layer-freq"] = f"([0]*{model.first_k_dense}+[1]*{model.n_layers - model.first_k_dense})"
    return flags


def model_from_flags(got: Mapping[str, Any], said: Mapping[str, Any], label: str) -> tuple[Any, list[str]]:
    """The model of a command line: the one that our comments name where its sizes are those of the flags, else one made
    of the flags; None and a remark where they do not say enough. Raises `SpecError` for sizes that cannot be.
    """
    sizes = {name: got[name] for name in _FLAGS if name in got}
    if "model" in said:
        tp = got.get("--tensor-model-parallel-size", 1)
        named = model_flags(load_model(said["model"]), got.get("--seq-length", 1), tp)
        if sizes == {name: value for name, value in named.items() if name in _FLAGS}:
            return said["model"], []
    missing = [name for name in _NEEDED if name not in sizes]
    if missing:
        return said.get("model") if not sizes else None, [] if "model" in said and not sizes else [
            f"the model is not said ({missing[0]} is missing); add it as --model"
        ]
    if "--multi-latent-attention" in got:
        return None, ["--multi-latent-attention: its sizes are not read; add the model as --model"]
    return _made(sizes, got, label), []


def _made(sizes: Mapping[str, Any], got: Mapping[str, Any], label: str) -> dict[str, Any]:
    biased, gated, width = "--disable-bias-linear" not in sizes, "--swiglu" in sizes, sizes["--hidden-size"]
    # Megatron keeps a gated layer as large as a plain one of four times the width.
    usual = int((4 * width * 2 / 3) / 64) * 64 if gated else 4 * width
    made: dict[str, Any] = {
        "model_type": OWN_FAMILY,
        "n_layers": sizes["--num-layers"],
        "d_model": width,
        "d_ff": sizes.get("--ffn-hidden-size", usual),
        "n_heads": sizes["--num-attention-heads"],
        "vocab_size": sizes["--vocab-size"],
        "max_seq_len": sizes.get("--max-position-embeddings", got.get("--seq-length", 2048)),
        "gated_mlp": gated,
        "activation": "silu" if gated else "gelu",
        "norm": "rmsnorm" if sizes.get("--normalization") == "RMSNorm" else "layernorm",
        "norm_bias": sizes.get("--normalization") != "RMSNorm",
        "attention_bias": biased or "--add-qkv-bias" in sizes,
        "output_bias": biased,
        "mlp_bias": biased,
        "learned_positions": sizes.get("--position-embedding-type", "learned_absolute") == "learned_absolute",
        "tied_embeddings": "--untie-embeddings-and-output-weights" not in sizes,
    }
    if "--kv-channels" in sizes:
        made["d_head"] = sizes["--kv-channels"]
    if "--group-query-attention" in sizes:
        made["n_kv_heads"] = sizes.get("--num-query-groups", 1)
    if "--num-experts" in sizes:
        made |= _experts(sizes, made["d_ff"], label)
    # The embedding is cut by tensor parallelism: Megatron pads it to a multiple of both.
    unit = sizes.get("--make-vocab-size-divisible-by", _USUAL_UNIT) * got.get("--tensor-model-parallel-size", 1)
    return made | {"vocab_padded": _padded(made["vocab_size"], unit)}


def _experts(sizes: Mapping[str, Any], d_ff: int, label: str) -> dict[str, Any]:
    width = sizes.get("--moe-ffn-hidden-size", d_ff)
    shared = sizes.get("--moe-shared-expert-intermediate-size", 0)
    found: dict[str, Any] = {
        "experts": {
            "n_experts": sizes["--num-experts"],
            "experts_per_token": sizes.get("--moe-router-topk", 2),
            "d_ff": width,
            "n_shared": 1 if shared else 0,
            "shared_d_ff": shared,
        },
        "ffns": ["experts"],
    }
    if (pattern := sizes.get("--moe-layer-freq")) in (None, "1"):
        return found
    dense = pattern.replace(" ", "").removeprefix("([0]*").partition("+[1]*")[0]
    if not dense.isdigit():
        raise SpecError(f"{label}: --moe-layer-freq: only ([0]*N+[1]*M) is read (got {pattern!r})")
    return found | {"first_k_dense": int(dense)}
