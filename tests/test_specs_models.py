"""Models: exact counts against published ones, work against an operator-by-operator count, errors that help."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest

from perfmodel.errors import MissingExtraError, OutOfRangeError, PlanError, SpecError
from perfmodel.formulas import transformer as law
from perfmodel.specs import registry
from perfmodel.specs.architecture import BYTE_PER_VALUE, Architecture, Dtype
from perfmodel.specs.huggingface import load_model

ZOO = registry.ids("models")
HEADLINE_COUNTS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
OWN: dict[str, Any] = {
    "model_type": "perfmodel-decoder",
    "n_layers": 2,
    "d_model": 64,
    "d_ff": 256,
    "n_heads": 8,
    "vocab_size": 100,
    "max_seq_len": 32,
}


@pytest.mark.parametrize(("id", "count"), HEADLINE_COUNTS.items())
def test_counts_are_exact(id: str, count: int) -> None:
    assert load_model(id).n_params == count


@pytest.mark.parametrize("id", ZOO)
def test_zoo_agrees_with_its_source(id: str) -> None:
    model = load_model(id)
    source = model.source
    assert source is not None
    assert model.id == id
    assert model.name != id
    assert source.url.startswith("https://")
    assert source.license
    assert source.checked == "2026-11-21"
    assert source.published_params is not None
    assert source.published_digit is not None
    # Less than one unit of the last digit given: some tables round, some cut; an exact count has the digit 1.
    assert abs(model.n_params - source.published_params) < source.published_digit
    assert (model.n_params == model.n_active_params) == (model.experts is None)


def test_zoo_is_whole() -> None:
    assert {"gpt3-175b", "megatron-1t", "mt-nlg-530b", "llama-3.3-70b"} <= set(ZOO)
    assert {folder.name for folder in registry.data_folder("models").iterdir()} == set(ZOO)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        # GPT-NeoX-20B, Black et al. 2022, arXiv:2204.06745, Table 1: 20,554,567,680
        ({"model_type": "gpt_neox", "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44,
          "num_attention_heads": 64, "vocab_size": 50432}, 20_554_567_680),
        # Mistral 7B v0.1, model page: 7,241,732,096
        ({"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}, 7_241_732_096),
    ],
)  # fmt: skip
def test_counts_of_other_families(config: dict[str, Any], count: int) -> None:
    assert load_model(config).n_params == count


def test_published_formula_counts_the_same() -> None:
    for id in (id for id in ZOO if id.startswith("megatron-")):
        model = load_model(id)
        published = law.gpt_params_sc21(model.n_layers, model.d_model, model.vocab_size, model.max_seq_len)
        assert published + model.norm_params == pytest.approx(model.n_params, rel=1e-12, abs=0)


def operators(model: Architecture, s: int, attention: str) -> list[tuple[int, int, int]]:
    """Every matrix product of one sequence as (rows, inner, columns); causal attention row by row."""
    h, dh = model.d_model, model.d_head
    products = []
    for _ in range(model.n_layers):
        products += [(s, h, model.n_heads * dh), (s, h, model.n_kv_heads * dh), (s, h, model.n_kv_heads * dh)]
        for row in range(1, s + 1):
            seen = row if attention == "causal" else s
            products += [(model.n_heads, dh, seen), (model.n_heads, seen, dh)]
        products.append((s, model.n_heads * dh, h))
        products += [(s, h, model.d_ff)] * (2 if model.gated_mlp else 1) + [(s, model.d_ff, h)]
    return [*products, (s, h, model.vocab_padded)]


@pytest.mark.parametrize("attention", ["causal", "full"])
@pytest.mark.parametrize("id", ["gpt2-xl", "llama-2-70b", "llama-3.2-1b", "megatron-1.7b"])
def test_forward_flops_against_operators(id: str, attention: str) -> None:
    model = load_model(id)
    counted = 3 * sum(2 * m * k * n for m, k, n in operators(model, 333, attention))
    assert model.forward_flops(3, 333, attention) == pytest.approx(counted, rel=1e-12, abs=0)


@pytest.mark.parametrize("id", ["megatron-22b", "megatron-175b", "megatron-1t"])
def test_forward_flops_against_published_laws(id: str) -> None:
    model = load_model(id)
    forward = model.forward_flops(4, 2048, attention="full")
    sizes = (4, 2048, model.n_layers, model.d_model, model.vocab_size)
    assert 3 * forward == pytest.approx(law.model_flops_korthikanti2022(*sizes), rel=1e-12, abs=0)
    heads = (model.n_layers, model.n_heads, model.d_head, 2048)
    palm = 4 * 2048 * law.palm_flops_per_token(model.n_params, *heads)
    assert 3 * forward == pytest.approx(palm, rel=0.01, abs=0)  # PaLM also multiplies biases, norms and positions
    head = 2 * 4 * 2048 * model.d_model * model.vocab_size
    full_recompute = 4 * forward - head  # the LM head is not computed twice
    assert full_recompute == pytest.approx(law.training_flops_sc21(*sizes), rel=1e-12, abs=0)


def test_kv_cache_and_weights() -> None:
    model = load_model("llama-3.1-405b")
    assert model.kv_cache_bytes_per_token("bf16") == 516_096  # arXiv:2505.09343, Table 1
    assert model.kv_cache_bytes_per_token("fp8") == 258_048
    for dtype, size in BYTE_PER_VALUE.items():
        formula = law.kv_cache_bytes_per_token(model.n_layers, model.n_kv_heads, model.d_head, size)
        assert model.kv_cache_bytes_per_token(dtype) == formula
    assert model.weights_bytes("bf16") == 2 * model.n_params
    assert model.weights_bytes("mxfp4") == model.n_params * 17 / 32
    assert set(Dtype.__args__) == set(BYTE_PER_VALUE)


def test_layer_law_counts_the_matrices() -> None:
    for model in (load_model("llama-3.1-70b"), load_model("llama-2-7b")):
        sizes = (model.d_model, model.d_ff, model.n_heads, model.n_kv_heads, model.d_head, 3)
        assert law.dense_layer_params(*sizes) == model.layer_params - 2 * model.d_model


def test_biases_norms_and_padding_by_hand() -> None:
    plain = load_model(OWN)
    assert plain.layer_params == 4 * 64 * 64 + 2 * 64 * 256 + 2 * 2 * 64
    assert plain.n_params == 2 * 100 * 64 + 2 * plain.layer_params + 2 * 64
    changed = load_model(OWN | {"attention_bias": True, "mlp_bias": True, "gated_mlp": True, "norm": "rmsnorm"})
    assert changed.layer_params == 4 * 64 * 64 + 4 * 64 + 3 * 64 * 256 + 2 * 256 + 64 + 2 * 64
    padded = load_model(OWN | {"vocab_padded": 128, "tied_embeddings": True, "learned_positions": True})
    assert (padded.embedding_params, padded.head_params) == ((128 + 32) * 64, 0)


def test_defaults_of_the_class() -> None:
    model = load_model({k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {"head_dim": 16, "extra": 1})
    assert (model.n_kv_heads, model.d_head, model.max_seq_len, model.dtype) == (8, 16, 2048, "bf16")
    mistral = LLAMA | {"model_type": "mistral"}
    del mistral["num_key_value_heads"]
    assert load_model(mistral).n_kv_heads == 8
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 1, "n_head": 4, "vocab_size": 10, "n_inner": None}
    assert (load_model(gpt2).d_ff, load_model(gpt2).max_seq_len, load_model(gpt2).tied_embeddings) == (256, 1024, True)


def test_rope_of_both_editions() -> None:
    old = load_model("llama-3.1-8b").rope
    assert old is not None
    assert (old.theta, old.scaling, old.factor) == (500000.0, "llama3", 8.0)
    modern = {"rope_theta": 500000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    assert load_model(LLAMA | {"rope_parameters": modern, "dtype": "float16"}).rope == old
    neox = load_model(
        {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {"model_type": "gpt_neox", "rotary_pct": 0.5}
    ).rope
    assert neox is not None
    assert (neox.theta, neox.fraction) == (10000.0, 0.5)


def test_paths_folders_and_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "other.json").write_text(json.dumps(OWN | {"id": "own", "name": "Own"}))
    from_folder = load_model(folder)
    assert from_folder.id == "mine"
    assert load_model(str(folder / "config.json")) == from_folder
    monkeypatch.chdir(tmp_path)
    assert load_model("mine") == from_folder
    other = load_model("other.json")
    assert (other.id, other.name) == ("own", "Own")
    assert load_model(other) is other
    again = load_model({"model_type": "perfmodel-decoder"} | other.model_dump(mode="json"))
    assert again == other
    zoo = load_model("llama-3.1-8b")
    assert load_model({"model_type": "perfmodel-decoder"} | json.loads(zoo.model_dump_json())) == zoo


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in LLAMA.items() if k != key}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (without("hidden_size"), ["model: hidden_size: missing"]),
        (LLAMA | {"hidden_size": None}, ["hidden_size: missing"]),
        (LLAMA | {"num_hidden_layers": 0}, ["num_hidden_layers: must be a whole number more than zero (got 0)"]),
        (LLAMA | {"vocab_size": -5}, ["vocab_size", "(got -5)"]),
        (LLAMA | {"intermediate_size": "96"}, ["intermediate_size: must be a whole number (got '96')"]),
        (LLAMA | {"intermediate_size": 96.5}, ["intermediate_size: must be a whole number (got 96.5)"]),
        (LLAMA | {"hidden_size": True}, ["hidden_size: must be a whole number (got True)"]),
        (LLAMA | {"hidden_size": [64]}, ["hidden_size: must be a whole number"]),
        (LLAMA | {"tie_word_embeddings": 1}, ["tie_word_embeddings: must be true or false (got 1)"]),
        (LLAMA | {"rope_theta": math.nan}, ["rope_theta: must be a number more than zero (got nan)"]),
        (LLAMA | {"rope_theta": math.inf}, ["rope_theta", "(got inf)"]),
        (LLAMA | {"rope_scaling": "linear"}, ["rope_scaling: must be an object (got 'linear')"]),
        (LLAMA | {"torch_dtype": "bfloat"}, ["torch_dtype: unknown dtype 'bfloat'; nearest: 'bfloat16'"]),
        (LLAMA | {"num_key_value_heads": 3}, ["n_kv_heads: must divide n_heads 8 (got 3)"]),
        (LLAMA | {"hidden_size": 65}, ["d_head: missing, and d_model 65 is no multiple of n_heads 8"]),
        (LLAMA | {"hidden_size": 10**400}, ["d_model"]),
        (without("model_type"), ["model_type: missing", "perfmodel-decoder"]),
        (LLAMA | {"model_type": "mistrall"}, ["'mistrall'", "nearest: 'mistral'", 'model_type: "perfmodel-decoder"']),
        (LLAMA | {"model_type": 7}, ["unknown model_type 7", "gpt2"]),
        (OWN | {"n_layer": 2}, ["unknown key 'n_layer'; nearest: 'n_layers'"]),
        (OWN | {"d_ff": 256.0}, ["d_ff", "integer", "256.0"]),
        (OWN | {"norm": "rms"}, ["norm", "unknown value 'rms'", "rmsnorm"]),
        (OWN | {"n_heads": 0}, ["n_heads", "greater than 0"]),
        (OWN | {"vocab_padded": 99}, ["vocab_padded: must be at least vocab_size 100 (got 99)"]),
        (OWN | {"dtype": "bf61"}, ["dtype", "unknown value 'bf61'; nearest: 'bf16'"]),
        (OWN | {"rope": {"theta": -1.0}}, ["rope.theta", "greater than 0"]),
        ({k: v for k, v in OWN.items() if k != "d_ff"}, ["d_ff: key is missing"]),
        ({}, ["model_type: missing"]),
    ],
)
def test_bad_configs(config: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        load_model(config)
    assert str(caught.value).startswith("model: ")
    assert "\n" not in str(caught.value)
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n "model_type": "llama",\n "hidden_size": ', [":3:", "not valid JSON", "column"]),
        ('{"model_type": "llama", "hidden_size": NaN}', ["finite (got NaN)"]),
        ("[1, 2]", ["must hold one JSON object (got list)"]),
        ("", [":1:", "not valid JSON"]),
    ],
)
def test_bad_files(tmp_path: Path, text: str, said: list[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_model(path)
    assert str(caught.value).startswith(str(path))
    for words in said:
        assert words in str(caught.value)


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds no config\.json; give a Hugging Face config\.json"):
        load_model(tmp_path)
    with pytest.raises(SpecError, match="cannot be read"):
        load_model(tmp_path / "none.json")
    with pytest.raises(SpecError, match=r"unknown model 'llama-3\.1-450b'; nearest: 'llama-3\.1-405b'"):
        load_model("llama-3.1-450b")
    with pytest.raises(SpecError, match="must be an id, a path, a dict"):
        load_model(7)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="must be 'hf:org/name'"):
        load_model("hf:")


def test_hub_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match="pip install huggingface_hub") as caught:
        load_model("hf:org/name")
    assert caught.value.exit_code == 3


def test_bad_arguments() -> None:
    model = load_model("gpt2")
    with pytest.raises(PlanError, match="unknown dtype 'bf61'; nearest: 'bf16'"):
        model.kv_cache_bytes_per_token("bf61")
    with pytest.raises(PlanError, match="unknown dtype"):
        model.weights_bytes(16)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="unknown attention 'casual'; nearest: 'causal'"):
        model.forward_flops(1, 1, attention="casual")
    with pytest.raises(OutOfRangeError, match="seq_len: must be 1 or more"):
        model.forward_flops(1, 0)
    with pytest.raises(PlanError, match="batch: must be a whole number"):
        model.forward_flops(1.5, 8)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="n_layers"):
        Architecture(n_layers=0, d_model=8, d_ff=8, n_heads=1, n_kv_heads=1, d_head=8, vocab_size=8,
                     vocab_padded=8, max_seq_len=8)  # fmt: skip
