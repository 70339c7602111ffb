"""What a table of keys cannot say: patterns of layers and switches, one short rule each, as the classes have them.

A rule takes the label for errors, the config as published and the fields read so far, and changes the fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from perfmodel.errors import SpecError, unknown_name
from perfmodel.specs.families import REQUIRED, Key

__all__ = ["RULES", "read_value"]

Rule = Callable[[str, Mapping[str, Any], dict[str, Any]], None]
RULES: dict[str, Rule] = {}
_MIXER_OF = {
    "full_attention": "attention",
    "attention": "attention",
    "sliding_attention": "window",
    "linear_attention": "linear",
}


def _rule(rule: Rule) -> Rule:
    RULES[rule.__name__] = rule
    return rule


def read_value(label: str, config: Mapping[str, Any], key: Key) -> Any:
    """The value of a key, or its default; raises `SpecError` naming label, key and what is allowed."""
    value = config.get(key.name, key.default)
    if value is REQUIRED or (value is None and key.default is REQUIRED):
        raise SpecError(f"{label}: {key.name}: missing; a {config.get('model_type')} config must give it")
    if value is None:
        return None
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list"}[key.kind]
    fits = isinstance(value, (int, float) if key.kind is float else key.kind)
    if not fits or (isinstance(value, bool) and key.kind is not bool):
        raise SpecError(f"{label}: {key.name}: must be {wanted} (got {value!r})")
    if key.kind in (int, float) and not (0 < value < math.inf or (key.may_be_zero and value == 0)):  # no NaN either
        raise SpecError(f"{label}: {key.name}: must be {wanted} more than zero (got {value!r})")
    return value


def _words(label: str, config: Mapping[str, Any], name: str, allowed: Mapping[str, str]) -> tuple[str, ...] | None:
    """A list of words, one per layer, translated."""
    words = read_value(label, config, Key(name, list, None))
    if words is None:
        return None
    for word in words:
        if not isinstance(word, str) or word not in allowed:
            raise SpecError(f"{label}: {name}: {unknown_name('layer type', word, allowed)}")
    return tuple(allowed[word] for word in words)


def _set_mixers(label: str, fields: dict[str, Any], mixers: tuple[str, ...], name: str = "layer_types") -> None:
    if len(mixers) != fields["n_layers"]:
        raise SpecError(f"{label}: {name}: must name {fields['n_layers']} layers (got {len(mixers)})")
    fields["mixers"] = mixers
    if "window" not in mixers:
        fields.pop("window", None)


def _windows(label: str, config: Mapping[str, Any], fields: dict[str, Any], seen: Callable[[int], bool]) -> None:
    """Window layers as `layer_types` says, else where `seen(layer)`; none at all without a window."""
    given = _words(label, config, "layer_types", _MIXER_OF)
    if given is None:
        has_window = fields.get("window") is not None
        given = tuple("window" if has_window and seen(i) else "attention" for i in range(fields["n_layers"]))
    _set_mixers(label, fields, given)


@_rule
def window_every_second(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Gemma 2 and gpt-oss: the first, third, ... layer sees a window."""
    _windows(label, config, fields, lambda layer: layer % 2 == 0)


@_rule
def window_but_every_sixth(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Gemma 3: every sixth layer sees all, or as `sliding_window_pattern` says."""
    period = read_value(label, config, Key("sliding_window_pattern", int, 6))
    _windows(label, config, fields, lambda layer: (layer + 1) % period != 0)


@_rule
def window_from_max_window_layers(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Qwen: only with `use_sliding_window`, and then from layer `max_window_layers` on."""
    if not read_value(label, config, Key("use_sliding_window", bool, False)):
        fields["window"] = None
    first = read_value(label, config, Key("max_window_layers", int, 28, may_be_zero=True))
    _windows(label, config, fields, lambda layer: layer >= first)


@_rule
def sparse_steps(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Qwen MoE: experts in every `decoder_sparse_step`-th layer but those of `mlp_only_layers`."""
    step = read_value(label, config, Key("decoder_sparse_step", int, 1))
    dense = read_value(label, config, Key("mlp_only_layers", list, None)) or []
    layers = range(fields["n_layers"])
    fields["ffns"] = tuple("dense" if i in dense or (i + 1) % step else "experts" for i in layers)


@_rule
def four_times_wide(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """GPT-2 without `n_inner`, and BLOOM always: the MLP is four times as wide as the model."""
    if fields["d_ff"] is None:
        fields["d_ff"] = 4 * fields["d_model"]


@_rule
def falcon_blocks(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Falcon: one key-value head, or as many as the new decoder names; one or two norms beside a parallel MLP."""
    new = read_value(label, config, Key("new_decoder_architecture", bool, False))
    parallel = new or read_value(label, config, Key("parallel_attn", bool, True))
    shared = not new and read_value(label, config, Key("multi_query", bool, True))
    norms = read_value(label, config, Key("num_ln_in_parallel_attn", int, None))
    fields["n_kv_heads"] = 1 if shared else read_value(label, config, Key("num_kv_heads", int, None))
    fields["parallel_block"] = parallel
    fields["norms_per_layer"] = (norms or 2) if new else (1 if parallel else 2)
    if fields["d_ff"] is None:
        fields["d_ff"] = 4 * fields["d_model"]


@_rule
def embedding_as_wide_as_the_model(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """OPT: only embeddings as wide as the model are described (all sizes but 350M)."""
    width = read_value(label, config, Key("word_embed_proj_dim", int, fields["d_model"]))
    if width != fields["d_model"]:
        raise SpecError(f"{label}: word_embed_proj_dim: must equal hidden_size {fields['d_model']} (got {width})")


@_rule
def mpt_blocks(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """MPT: ALiBi instead of learned positions unless `attn_config` says otherwise; `no_bias` drops every bias."""
    attention = config.get("attn_config") or {}
    if not isinstance(attention, Mapping):
        raise SpecError(f"{label}: attn_config: must be an object (got {attention!r})")
    place = f"{label}: attn_config"
    bias = not read_value(label, config, Key("no_bias", bool, True))
    fields |= {"attention_bias": bias, "mlp_bias": bias, "norm_bias": bias}
    fields["d_ff"] = round(fields["d_model"] * read_value(label, config, Key("expansion_ratio", float, 4)))
    learned = read_value(label, config, Key("learned_pos_emb", bool, True))
    fields["learned_positions"] = learned and not read_value(place, attention, Key("alibi", bool, True))
    if attention.get("attn_type") == "multiquery_attention":
        fields["n_kv_heads"] = 1
    if read_value(place, attention, Key("qk_ln", bool, False)):
        fields["qk_norm"] = "width"


@_rule
def bert_heads(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """BERT: what stands above the layers follows from `architectures`; without it a model for masked words."""
    heads: dict[str, dict[str, Any]] = {
        "BertForMaskedLM": {"head": "masked-lm"},
        "BertModel": {"head": "none", "pooler": True},
    }
    named = config.get("architectures") or ["BertForMaskedLM"]
    if not isinstance(named, list) or named[0] not in heads:
        raise SpecError(f"{label}: architectures: {unknown_name('architecture', named[0], heads)}")
    fields |= heads[named[0]]
    fields["head_bias"] = fields["head"] == "masked-lm"


@_rule
def plain_router_of_v2(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """DeepSeek: only routing "noaux_tc" (V3 and its kin) balances experts by a bias."""
    v2 = config["model_type"] == "deepseek_v2"
    method = read_value(label, config, Key("topk_method", str, "greedy" if v2 else "noaux_tc"))
    fields["experts.router_bias"] = method == "noaux_tc"


@_rule
def qk_norm_by_key(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """GLM-4.5: queries and keys are normalised where `use_qk_norm` says so."""
    fields["qk_norm"] = "head" if read_value(label, config, Key("use_qk_norm", bool, False)) else "none"


@_rule
def lightning_layers(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """MiniMax: lightning attention but in the layers that `layer_types` (or `attn_type_list`, 1) calls full."""
    mixers = _words(label, config, "layer_types", _MIXER_OF)
    kinds = read_value(label, config, Key("attn_type_list", list, None))
    if mixers is None and kinds is not None:
        mixers = tuple("attention" if kind == 1 else "linear" for kind in kinds)
    if mixers is None:
        mixers = tuple("linear" if i % 2 else "attention" for i in range(fields["n_layers"]))
    _set_mixers(label, fields, mixers)
    d_head = fields["d_head"] or fields["d_model"] // fields["n_heads"]
    fields |= {"linear_attention.n_heads": fields["n_heads"], "linear_attention.d_head": d_head}


@_rule
def inner_width(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Mamba-2: the inner width is heads times head width."""
    fields["state_space.d_inner"] = fields["state_space.n_heads"] * fields["state_space.d_head"]


@_rule
def nemotron_h_layers(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Nemotron-H: one mixer or one MLP a layer, by `hybrid_override_pattern` (M, *, -, E) or `layers_block_type`."""
    kinds = {"M": ("mamba2", "none"), "*": ("attention", "none"), "-": ("none", "dense"), "E": ("none", "experts")}
    letters = {"linear_attention": "M", "mamba": "M", "full_attention": "*", "attention": "*", "mlp": "-", "moe": "E"}
    pattern = read_value(label, config, Key("hybrid_override_pattern", str, None))
    if pattern is None:
        pattern = "".join(_words(label, config, "layers_block_type", letters) or ())
    if not pattern:
        raise SpecError(f"{label}: hybrid_override_pattern: missing; a nemotron_h config must give it")
    for letter in pattern:
        if letter not in kinds:
            raise SpecError(f"{label}: hybrid_override_pattern: {unknown_name('layer', letter, kinds)}")
    fields["n_layers"] = len(pattern)
    fields["mixers"] = tuple(kinds[letter][0] for letter in pattern)
    fields["ffns"] = tuple(kinds[letter][1] for letter in pattern)
    if "E" in pattern:
        names = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts")
        sizes = [read_value(label, config, Key(name)) for name in names]
        fields |= dict(zip(("experts.n_experts", "experts.experts_per_token", "experts.d_ff"), sizes, strict=False))
        shared = read_value(label, config, Key("moe_shared_expert_intermediate_size"))
        fields |= {"experts.n_shared": sizes[3], "experts.shared_d_ff": shared, "experts.router_bias": True}


@_rule
def granite_layers(label: str, config: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Granite 4: Mamba-2 or attention by `layer_types`, then experts beside a shared MLP (alone without experts)."""
    words = {"mamba": "mamba2", "linear_attention": "mamba2", "attention": "attention", "full_attention": "attention"}
    mixers = _words(label, config, "layer_types", words) or ("mamba2",) * fields["n_layers"]
    _set_mixers(label, fields, mixers)
    fields["state_space.d_inner"] = fields["d_model"] * read_value(label, config, Key("mamba_expand", int, 2))
    shared = read_value(label, config, Key("shared_intermediate_size", int, 1024))
    experts = read_value(label, config, Key("num_local_experts", int, 8, may_be_zero=True))
    width, fields["d_ff"] = fields["d_ff"], shared
    if experts:
        per_token = read_value(label, config, Key("num_experts_per_tok", int, 2))
        fields |= {"d_ff": width, "experts.n_experts": experts, "experts.experts_per_token": per_token}
        fields |= {"experts.d_ff": width, "experts.n_shared": 1, "experts.shared_d_ff": shared}
    if "mamba2" not in mixers:
        for name in [name for name in fields if name.startswith("state_space.")]:
            del fields[name]
