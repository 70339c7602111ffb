"""Families: counts against reference implementations and published tables, work against loops over every product."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perfmodel.errors import SpecError
from perfmodel.specs import registry
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind
from perfmodel.specs.families import FAMILIES
from perfmodel.specs.huggingface import load_model, model_reference

ZOO = [load_model(id) for id in registry.ids("models")]
COUNTED = [model for model in ZOO if model.source and model.source.class_params]
SPARSE = [model for model in ZOO if model.experts]
GIB = 2**30


def config_of(id: str, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(registry.path_of("models", id).read_text()) | changes
    return config


@pytest.mark.parametrize("model", COUNTED, ids=lambda model: model.id)
def test_counts_equal_the_reference_implementation(model: Architecture) -> None:
    assert model.source is not None
    assert model.n_params == model.source.class_params


def test_every_family_is_counted() -> None:
    seen = {config_of(model.id)["model_type"] for model in ZOO}
    aliases = {"minimax_text_01", "minimax_m1"}
    # Llama and GPT-2 are counted against their model pages (test_specs_models); the others have nothing in the zoo.
    assert set(FAMILIES) - seen - aliases <= {"gemma", "gemma3_text", "mpt"}
    assert len(COUNTED) >= 60


@pytest.mark.parametrize("model", SPARSE, ids=lambda model: model.id)
def test_active_parameters_as_published(model: Architecture) -> None:
    source = model.source
    assert source is not None
    assert source.published_active_params is not None
    assert source.published_active_digit is not None
    left_out = {"": 0, "embedding": 1, "embedding and head": 2}[source.active_without]
    counted = model.n_active_params - left_out * model.vocab_padded * model.d_model
    assert abs(counted - source.published_active_params) < source.published_active_digit
    assert model.n_active_params < model.n_params


def test_multi_token_prediction_of_deepseek() -> None:
    """README_WEIGHTS.md of deepseek-ai/DeepSeek-V3: 11.5B of its own, 2.4B active with both shared embeddings.

    Both figures fit only without the projection of two widths to one (0.10B), which the same page lists.
    """
    model = load_model("deepseek-v3")
    projection = 2 * model.d_model**2
    assert abs(model.mtp_params - projection - 11.5e9) < 0.05e9
    kind = model.layer_kinds[-1]
    idle = model.params_of(kind) - model.params_of(kind, active=True)
    active = model.mtp_params - projection - idle + 2 * model.vocab_size * model.d_model
    assert abs(active - 2.4e9) < 0.05e9
    assert load_model("kimi-k2").mtp_params == 0


@pytest.mark.parametrize(("id", "gib"), [("gpt-oss-120b", 60.8), ("gpt-oss-20b", 12.8)])
def test_checkpoint_of_gpt_oss(id: str, gib: float) -> None:
    """Model card, arXiv:2508.10925, Table 1: expert weights in MXFP4 (17/32 byte), all else in bf16."""
    model = load_model(id)
    routed = [p for kind in model.layer_kinds for p in model.products(kind) if p.experts == "routed"]
    weights = sum(product.n * product.k * model.n_experts for product in routed)
    assert (weights * 17 / 32 + 2 * (model.n_params - weights)) / GIB == pytest.approx(gib, rel=0, abs=0.05)


@pytest.mark.parametrize(
    ("id", "n_bytes"),
    [
        ("deepseek-v3", 70_272),  # arXiv:2505.09343, Table 1
        ("qwen2.5-72b", 327_680),  # the same
        ("llama-3.1-405b", 516_096),  # the same
        ("nemotron-3-nano-30b-a3b", 6 * 2 * 2 * 128 * 2),  # six attention layers with two key-value heads
        ("falcon-7b", 32 * 2 * 64 * 2),  # one key-value head
        ("mamba-codestral-7b", 0),
    ],
)
def test_cache_of_one_token(id: str, n_bytes: int) -> None:
    assert load_model(id).kv_cache_bytes_per_token("bf16") == n_bytes


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 5000])
def test_windows_cap_the_cache(tokens: int) -> None:
    model = load_model("gpt-oss-20b")
    kept = sum(min(tokens, 128) if layer % 2 == 0 else tokens for layer in range(24))
    assert model.kv_cache_bytes(tokens, "bf16") == kept * 2 * 8 * 64 * 2
    plain = load_model("llama-3-8b")
    assert plain.kv_cache_bytes(tokens, "fp8") == tokens * plain.kv_cache_bytes_per_token("fp8")


def test_states_that_do_not_grow() -> None:
    codestral = load_model("mamba-codestral-7b")
    assert codestral.state_bytes("fp32") == 4 * 64 * (128 * 64 * 128 + 3 * (8192 + 2 * 8 * 128))
    minimax = load_model("minimax-text-01")
    assert minimax.state_bytes("fp32") == 4 * 70 * 64 * 128 * 128
    assert load_model("llama-3-8b").state_bytes("fp32") == 0


def attention_macs(s: int, heads: int, d_qk: int, d_v: int, window: int | None = None, causal: bool = True) -> int:
    total = 0
    for row in range(s):
        first = 0 if window is None else max(0, row - window + 1)
        seen = row + 1 - first if causal else s
        total += heads * seen * (d_qk + d_v)
    return total


def gated(s: int, d: int, width: int, copies: int = 1) -> int:
    return copies * s * (d * width + d * width + width * d)


def count_mixtral(c: dict[str, Any], s: int) -> int:
    d, h, kv = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    dh = c.get("head_dim") or d // h
    per_layer = s * d * h * dh + 2 * s * d * kv * dh + attention_macs(s, h, dh, dh, c.get("sliding_window"))
    per_layer += s * h * dh * d + s * d * c["num_local_experts"] + gated(s, d, c["intermediate_size"], 2)
    return c["num_hidden_layers"] * per_layer + s * d * c["vocab_size"]


def count_deepseek(c: dict[str, Any], s: int) -> int:
    d, h, rank = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"]
    nope, rope, dv = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    total = 0
    for layer in range(c["num_hidden_layers"]):
        if c["q_lora_rank"]:
            total += s * d * c["q_lora_rank"] + s * c["q_lora_rank"] * h * (nope + rope)
        else:
            total += s * d * h * (nope + rope)
        total += s * d * (rank + rope) + s * rank * h * nope + s * rank * h * dv
        total += attention_macs(s, h, nope + rope, dv) + s * h * dv * d
        if layer < c["first_k_dense_replace"]:
            total += gated(s, d, c["intermediate_size"])
        else:
            total += s * d * c["n_routed_experts"]
            total += gated(s, d, c["moe_intermediate_size"], c["num_experts_per_tok"] + c["n_shared_experts"])
    return total + s * d * c["vocab_size"]


def count_gpt_oss(c: dict[str, Any], s: int) -> int:
    d, h, kv, dh = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    total = s * d * c["vocab_size"]
    for kind in c["layer_types"]:
        window = c["sliding_window"] if kind == "sliding_attention" else None
        total += s * d * (h + 2 * kv) * dh + attention_macs(s, h, dh, dh, window) + s * h * dh * d
        total += s * d * c["num_local_experts"] + gated(s, d, c["intermediate_size"], c["num_experts_per_tok"])
    return total


def mamba_macs(s: int, heads: int, width: int, d_state: int, groups: int, chunk: int) -> int:
    """Chunk by chunk: C B^T of every group, its product with the inputs, states built, states read."""
    total = 0
    for start in range(0, s, chunk):
        length = min(chunk, s - start)
        for row in range(1, length + 1):
            total += groups * row * d_state + heads * row * width
        total += heads * length * width * d_state + heads * length * d_state * width
    return total


def count_nemotron_h(c: dict[str, Any], s: int) -> int:
    d, h, kv, dh = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    heads, width, state, groups = c["mamba_num_heads"], c["mamba_head_dim"], c["ssm_state_size"], c["n_groups"]
    inner = heads * width
    total = s * d * c["vocab_size"]
    for letter in c["hybrid_override_pattern"]:
        if letter == "M":
            total += s * d * (inner + inner + groups * state + groups * state + heads) + s * inner * d
            total += mamba_macs(s, heads, width, state, groups, c["chunk_size"])
        elif letter == "*":
            total += s * d * (h + 2 * kv) * dh + attention_macs(s, h, dh, dh) + s * h * dh * d
        elif letter == "-":
            total += 2 * s * d * c["intermediate_size"]
        else:
            total += s * d * c["n_routed_experts"] + 2 * s * d * c["moe_shared_expert_intermediate_size"]
            total += c["num_experts_per_tok"] * 2 * s * d * c["moe_intermediate_size"]
    return total


def count_minimax(c: dict[str, Any], s: int) -> int:
    d, h, kv, dh = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    total = s * d * c["vocab_size"]
    for kind in c["attn_type_list"]:
        if kind == 1:
            total += s * d * (h + 2 * kv) * dh + attention_macs(s, h, dh, dh) + s * h * dh * d
        else:
            total += 3 * s * d * h * dh + s * d * h * dh + s * h * dh * d
            for start in range(0, s, c["block_size"]):
                length = min(c["block_size"], s - start)
                total += attention_macs(length, h, dh, dh) + 2 * h * length * dh * dh
        total += s * d * c["num_local_experts"] + gated(s, d, c["intermediate_size"], c["num_experts_per_tok"])
    return total


def count_bert(c: dict[str, Any], s: int) -> int:
    d, h = c["hidden_size"], c["num_attention_heads"]
    layer = 4 * s * d * d + attention_macs(s, h, d // h, d // h, causal=False) + 2 * s * d * c["intermediate_size"]
    return c["num_hidden_layers"] * layer + s * d * d + s * d * c["vocab_size"]


def count_falcon(c: dict[str, Any], s: int) -> int:
    d, h = c["hidden_size"], c["num_attention_heads"]
    kv, dh = c.get("num_kv_heads", 1), d // h
    layer = s * d * (h + 2 * kv) * dh + attention_macs(s, h, dh, dh) + s * d * d + 2 * s * d * 4 * d
    return c["num_hidden_layers"] * layer + s * d * c["vocab_size"]


def count_gemma2(c: dict[str, Any], s: int) -> int:
    d, h, kv, dh = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    total = s * d * c["vocab_size"]
    for layer in range(c["num_hidden_layers"]):
        window = None if layer % 2 else c["sliding_window"]
        total += s * d * (h + 2 * kv) * dh + attention_macs(s, h, dh, dh, window) + s * h * dh * d
        total += gated(s, d, c["intermediate_size"])
    return total


@pytest.mark.parametrize(
    ("id", "count", "changes"),
    [
        ("mixtral-8x7b", count_mixtral, {}),
        ("mixtral-8x7b", count_mixtral, {"sliding_window": 50}),
        ("deepseek-v3", count_deepseek, {}),
        ("deepseek-v2-lite", count_deepseek, {}),
        ("kimi-k2", count_deepseek, {}),
        ("gpt-oss-120b", count_gpt_oss, {}),
        ("nemotron-h-8b", count_nemotron_h, {}),
        ("nemotron-3-nano-30b-a3b", count_nemotron_h, {}),
        ("minimax-text-01", count_minimax, {}),
        ("bert-base", count_bert, {}),
        ("falcon-7b", count_falcon, {}),
        ("falcon-40b", count_falcon, {}),
        ("gemma-2-9b", count_gemma2, {"sliding_window": 100}),
    ],
)
def test_forward_flops_against_loops(id: str, count: Any, changes: dict[str, Any]) -> None:
    config = config_of(id, **changes)
    for s in (1, 129, 333):
        assert load_model(config).forward_flops(3, s) == pytest.approx(6 * count(config, s), rel=1e-12, abs=0)


def test_full_pairs_where_every_token_looks_at_all() -> None:
    bert = load_model("bert-base")
    assert bert.forward_flops(1, 100, "causal") == bert.forward_flops(1, 100, "full")
    oss = load_model("gpt-oss-20b")
    gap = oss.forward_flops(1, 500, "full") - oss.forward_flops(1, 500, "causal")
    pairs = 12 * (500 * 500 - 500 * 501 // 2) + 12 * (500 * 128 - sum(min(i, 128) for i in range(1, 501)))
    assert gap == 2 * 2 * pairs * 64 * 64


def test_further_tokens_cost_a_layer_a_projection_and_a_head() -> None:
    model = load_model("deepseek-v3")
    d, s = model.d_model, 256
    without = load_model(config_of("deepseek-v3", num_hidden_layers=60)).forward_flops(1, s)
    layer = model.forward_flops(1, s) - without
    assert model.mtp_forward_flops(1, s) == layer + 2 * s * (2 * d * d + d * model.vocab_size)
    assert load_model("llama-3-8b").mtp_forward_flops(1, s) == 0


@pytest.mark.parametrize("model", ZOO, ids=lambda model: model.id)
def test_one_list_for_all_readers(model: Architecture) -> None:
    assert len(model.layer_kinds) == model.n_layers == sum(n for _, n in model.layer_groups)
    for kind, _ in model.layer_groups:
        names = [product.name for product in model.products(kind)]
        assert len(names) == len(set(names)) > 0
        for product in model.products(kind):
            assert product.split in ("column", "row", "none")
            assert (product.experts == "routed") == product.name.startswith("expert_")
        listed = sum(p.params * (model.n_experts if p.experts else 1) for p in model.products(kind))
        assert model.params_of(kind) == listed + sum(model.layer_vectors(kind).values())
    # A token multiplies by every active matrix weight exactly once, so work without attention is twice their number.
    multiplied = sum(
        p.n * p.k * (model.experts_per_token if p.experts else 1) for k in model.layer_kinds for p in model.products(k)
    ) + sum(p.n * p.k for p in model.head_products)
    assert model.forward_flops(1, 1) >= 2 * multiplied
    assert multiplied <= model.n_active_params + model.vocab_padded * model.d_model


@pytest.mark.parametrize("model", ZOO, ids=lambda model: model.id)
def test_round_trip(model: Architecture) -> None:
    assert model_reference(model) == model.id
    other = model.model_copy(update={"id": "other"})
    reference = model_reference(other)
    assert isinstance(reference, dict)
    assert load_model(json.loads(json.dumps(reference)) | {"id": "other"}) == other


def test_names_of_products() -> None:
    def names(id: str, layer: int) -> list[str]:
        model = load_model(id)
        return [product.name for product in model.products(model.layer_kinds[layer])]

    dense = ["qkv_projection", "output_projection", "mlp_up", "mlp_down"]
    latent = ["q_down", "q_up", "kv_down", "kv_up", "output_projection"]
    experts = ["router", "expert_up", "expert_down"]
    assert names("llama-3-8b", 0) == dense
    assert names("deepseek-v3", 2) == [*latent, "mlp_up", "mlp_down"]
    assert names("deepseek-v3", 3) == [*latent, *experts, "shared_up", "shared_down"]
    assert names("deepseek-v2-lite", 1)[0] == "q_projection"
    assert names("qwen3-30b-a3b", 0) == [*dense[:2], *experts]
    assert names("qwen2-57b-a14b", 0)[-1] == "shared_gate"
    assert names("mamba-codestral-7b", 0) == ["ssm_in", "ssm_out"]
    assert names("minimax-m1", 0)[:3] == ["qkv_projection", "gate_projection", "output_projection"]


def test_patterns_of_layers() -> None:
    gemma = load_model("gemma-3-27b")
    assert [kind.mixer for kind in gemma.layer_kinds[:7]] == ["window"] * 5 + ["attention", "window"]
    assert dict(gemma.layer_groups) == {LayerKind("window", "dense"): 52, LayerKind("attention", "dense"): 10}
    sparse = load_model(config_of("qwen3-30b-a3b", mlp_only_layers=[0, 1], decoder_sparse_step=2))
    assert [kind.ffn for kind in sparse.layer_kinds[:6]] == ["dense", "dense", "dense", "experts", "dense", "experts"]
    qwen = load_model(config_of("qwen2.5-7b", use_sliding_window=True, max_window_layers=20))
    assert [kind.mixer for kind in qwen.layer_kinds].index("window") == 20
    cut = load_model("gemma-3-27b").model_copy(update={"n_layers": 2})
    assert len(cut.layer_kinds) == 2


TINY: dict[str, Any] = {"model_type": "perfmodel-decoder", "n_layers": 4, "d_model": 64, "d_ff": 128, "n_heads": 4,
                        "vocab_size": 100, "max_seq_len": 64}  # fmt: skip
EXPERTS = {"n_experts": 8, "experts_per_token": 2, "d_ff": 32}


def test_own_keys_describe_every_part() -> None:
    latent = {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    model = load_model(TINY | {"latent": latent, "experts": EXPERTS | {"n_shared": 2}, "first_k_dense": 1})
    assert (model.d_head, model.n_experts, model.experts_per_token) == (12, 8, 2)
    assert model.experts is not None
    assert model.experts.shared_d_ff == 64
    assert [kind.ffn for kind in model.layer_kinds] == ["dense", "experts", "experts", "experts"]
    no_width = {key: value for key, value in TINY.items() if key != "d_ff"}
    assert load_model(no_width | {"experts": EXPERTS}).d_ff == 32
    space = {"d_inner": 128, "d_state": 16, "n_heads": 8}
    bare = {key: value for key, value in no_width.items() if key != "n_heads"}
    state = load_model(bare | {"state_space": space, "ffns": ["none"], "norms_per_layer": 1})
    assert (state.n_heads, state.state_space and state.state_space.d_head) == (8, 16)
    mixed = load_model(TINY | {"mixers": ["window", "attention"], "window": 8})
    assert [kind.mixer for kind in mixed.layer_kinds] == ["window", "attention", "window", "attention"]
    assert (load_model(TINY).n_experts, load_model(TINY).experts_per_token) == (1, 1)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (TINY | {"mixers": ["window"]}, ["window: missing; layers of kind 'window' need it"]),
        (TINY | {"window": 8, "mixers": ["attention"]}, ["window: given, but no layer is of kind 'window'", "mixers"]),
        (TINY | {"ffns": ["experts"]}, ["experts: missing"]),
        (TINY | {"experts": EXPERTS, "ffns": ["dense"]}, ["experts: given", "ffns"]),
        (TINY | {"mixers": ["windows"]}, ["mixers.0", "unknown value 'windows'; nearest: 'window'"]),
        (TINY | {"mixers": ["attention"] * 5}, ["mixers: must name at most n_layers 4 layers (got 5)"]),
        (TINY | {"first_k_dense": 5}, ["first_k_dense: must be at most n_layers 4 (got 5)"]),
        (TINY | {"experts": EXPERTS | {"experts_per_token": 9}}, ["experts", "must be at most n_experts 8 (got 9)"]),
        (TINY | {"experts": EXPERTS | {"n_expert": 9}}, ["unknown key 'n_expert'; nearest: 'n_experts'"]),
        (TINY | {"latent": {"kv_lora_rank": 4}}, ["latent.qk_nope_head_dim: key is missing"]),
        (TINY | {"state_space": {"d_inner": 100, "d_state": 4, "n_heads": 8}}, ["d_inner: must be n_heads * d_head"]),
        (config_of("falcon-7b", alibi=True), ["alibi: only False is described (got True)"]),
        (
            config_of("opt-6.7b", word_embed_proj_dim=512),
            ["word_embed_proj_dim: must equal hidden_size 4096 (got 512)"],
        ),
        (config_of("gpt-oss-20b", layer_types=["slide"]), ["layer_types", "unknown layer type 'slide'"]),
        (config_of("gpt-oss-20b", layer_types=["full_attention"]), ["layer_types: must name 24 layers (got 1)"]),
        (config_of("nemotron-h-8b", hybrid_override_pattern="M?"), ["hybrid_override_pattern", "unknown layer '?'"]),
        (config_of("nemotron-h-8b", hybrid_override_pattern=None), ["hybrid_override_pattern: missing"]),
        (config_of("qwen3-30b-a3b", num_experts=None), ["num_experts: missing; a qwen3_moe config must give it"]),
        (config_of("gemma-3-12b", text_config=None), ["text_config: missing"]),
        (config_of("bert-base", architectures=["BertForMaskedLm"]), ["nearest: 'BertForMaskedLM'"]),
        (config_of("mixtral-8x7b", model_type="mixtrall"), ["nearest: 'mixtral'", "perfmodel-decoder"]),
    ],
)
def test_bad_descriptions(config: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        load_model(config)
    assert "\n" not in str(caught.value)
    for words in said:
        assert words in str(caught.value)


def test_mpt_by_its_own_keys() -> None:
    """MPT-7B: 6,649,286,656 parameters in transformers 5.23.0, MptForCausalLM of this config (ALiBi, no biases)."""
    config = {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432,
              "max_seq_len": 2048, "no_bias": True, "attn_config": {"alibi": True}}  # fmt: skip
    assert load_model(config).n_params == 6_649_286_656
    learned = load_model(config | {"attn_config": {"alibi": False}})
    assert learned.n_params - load_model(config).n_params == 2048 * 4096
