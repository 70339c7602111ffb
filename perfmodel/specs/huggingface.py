"""A model from a Hugging Face `config.json` as it is, from the zoo, or from keys of our own (`perfmodel-decoder`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfmodel.errors import MissingExtraError, SpecError, unknown_name
from perfmodel.specs import registry
from perfmodel.specs.architecture import Architecture, ModelSource
from perfmodel.specs.quantity import validated

__all__ = ["OWN_FAMILY", "SUPPORTED_FAMILIES", "load_model", "model_reference"]

OWN_FAMILY = "perfmodel-decoder"
_REQUIRED = object()


@dataclass(frozen=True)
class _Key:
    """One row of a family's table: the Hugging Face key, what it must be, and the default of the HF class."""

    name: str
    kind: type = int
    # None: left to `Architecture`, as the HF class derives it too.
    default: Any = _REQUIRED
    may_be_zero: bool = False


@dataclass(frozen=True)
class _Family:
    keys: dict[str, _Key]
    fixed: dict[str, Any]
    rope: dict[str, _Key] = field(default_factory=dict)


_SIZES = {
    "n_layers": _Key("num_hidden_layers"),
    "d_model": _Key("hidden_size"),
    "d_ff": _Key("intermediate_size"),
    "n_heads": _Key("num_attention_heads"),
    "vocab_size": _Key("vocab_size"),
}
_ROPE = {"theta": _Key("rope_theta", float, 10000.0)}
_FAMILIES = {
    # transformers.LlamaConfig
    "llama": _Family(
        keys=_SIZES
        | {
            "n_kv_heads": _Key("num_key_value_heads", int, None),
            "d_head": _Key("head_dim", int, None),
            "max_seq_len": _Key("max_position_embeddings", int, 2048),
            "activation": _Key("hidden_act", str, "silu"),
            "attention_bias": _Key("attention_bias", bool, False),
            "mlp_bias": _Key("mlp_bias", bool, False),
            "tied_embeddings": _Key("tie_word_embeddings", bool, False),
        },
        fixed={"gated_mlp": True, "norm": "rmsnorm"},
        rope=_ROPE,
    ),
    # transformers.MistralConfig
    "mistral": _Family(
        keys=_SIZES
        | {
            "n_kv_heads": _Key("num_key_value_heads", int, 8),
            "d_head": _Key("head_dim", int, None),
            "max_seq_len": _Key("max_position_embeddings", int, 4096 * 32),
            "activation": _Key("hidden_act", str, "silu"),
            "tied_embeddings": _Key("tie_word_embeddings", bool, False),
        },
        fixed={"gated_mlp": True, "norm": "rmsnorm"},
        rope=_ROPE,
    ),
    # transformers.GPT2Config
    "gpt2": _Family(
        keys={
            "n_layers": _Key("n_layer"),
            "d_model": _Key("n_embd"),
            "d_ff": _Key("n_inner", int, None),
            "n_heads": _Key("n_head"),
            "vocab_size": _Key("vocab_size"),
            "max_seq_len": _Key("n_positions", int, 1024),
            "activation": _Key("activation_function", str, "gelu_new"),
            "dropout": _Key("resid_pdrop", float, 0.1, may_be_zero=True),
            "tied_embeddings": _Key("tie_word_embeddings", bool, True),
        },
        fixed={"norm": "layernorm", "attention_bias": True, "mlp_bias": True, "learned_positions": True},
    ),
    # transformers.GPTNeoXConfig
    "gpt_neox": _Family(
        keys=_SIZES
        | {
            "max_seq_len": _Key("max_position_embeddings", int, 2048),
            "activation": _Key("hidden_act", str, "gelu"),
            "attention_bias": _Key("attention_bias", bool, True),
            "dropout": _Key("hidden_dropout", float, 0.0, may_be_zero=True),
            "tied_embeddings": _Key("tie_word_embeddings", bool, False),
        },
        fixed={"norm": "layernorm", "mlp_bias": True},
        rope={"theta": _Key("rotary_emb_base", float, 10000.0), "fraction": _Key("rotary_pct", float, 0.25)},
    ),
}
SUPPORTED_FAMILIES = (*sorted(_FAMILIES), OWN_FAMILY)
_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# transformers 5 gathers what its fourth edition kept under other names.
_ROPE_PARAMETER = {"theta": "rope_theta", "fraction": "partial_rotary_factor"}


def load_model(what: str | Path | Mapping[str, Any] | Architecture) -> Architecture:
    """The model of a zoo id, a config.json or its folder, a dict, or "hf:org/name" (extra `hf`).

    `model_type` is llama, mistral, gpt2, gpt_neox (keys of the Hugging Face class, others ignored) or
    "perfmodel-decoder" (keys are the fields of `Architecture`, others refused). Raises `SpecError` naming path and
    key, and `MissingExtraError` for "hf:" without huggingface_hub.
    """
    if isinstance(what, Architecture):
        return what
    if isinstance(what, Mapping):
        return _architecture("model", dict(what), {})
    if not isinstance(what, (str, Path)):
        raise SpecError(f"model: must be an id, a path, a dict or 'hf:org/name' (got {type(what).__name__})")
    if isinstance(what, str) and what.startswith("hf:"):
        return _architecture(what, registry.read_json(_downloaded(what)), {"id": what})
    if registry.is_path(what) or (what not in registry.ids("models") and Path(what).is_dir()):
        path = _config_in(Path(what))
        own_id = path.resolve().parent.name if path.name == "config.json" else path.stem
        return _architecture(str(path), registry.read_json(path), {"id": own_id})
    path = registry.path_of("models", str(what))
    provenance = path.with_name("source.toml")
    source = validated(str(provenance), registry.read_toml(provenance), ModelSource)
    return _architecture(str(what), registry.read_json(path), {"id": what, "source": source})


def _config_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    config = path / "config.json"
    if not config.is_file():
        raise SpecError(f"{path}: holds no config.json; give a Hugging Face config.json or the folder that holds one")
    return config


def _downloaded(what: str) -> Path:
    repository = what.removeprefix("hf:")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):
        raise SpecError(f"model: must be 'hf:org/name' (got {what!r})")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        way = "pip install huggingface_hub, or give the path of a downloaded config.json"
        raise MissingExtraError(f"{what}: needs the package huggingface_hub; {way}") from None
    try:
        return Path(hf_hub_download(repository, "config.json"))
    except Exception as error:  # the hub has its own tree of network, permission and naming errors
        first = (str(error).splitlines() or [""])[0]
        raise SpecError(f"{what}: cannot be fetched: {type(error).__name__}: {first}") from None


def _architecture(label: str, config: dict[str, Any], known: dict[str, Any]) -> Architecture:
    family = config.get("model_type")
    if family == OWN_FAMILY:
        fields = {key: value for key, value in config.items() if key != "model_type"}
    elif isinstance(family, str) and family in _FAMILIES:
        fields = _read_family(label, config, _FAMILIES[family])
    else:
        missing = f"missing; allowed: {', '.join(SUPPORTED_FAMILIES)}"
        fault = missing if family is None else unknown_name("model_type", family, SUPPORTED_FAMILIES)
        way_out = f'describe another dense decoder with model_type: "{OWN_FAMILY}"'
        raise SpecError(f"{label}: model_type: {fault}; {way_out}")
    source = known.get("source")
    name = source.name if source else known.get("id", "")
    return validated(label, {"name": name} | known | fields, Architecture)


def model_reference(model: Architecture) -> str | dict[str, Any]:
    """What loads this model again: its zoo id, else a perfmodel-decoder config with every field."""
    if model.id in registry.ids("models") and load_model(model.id) == model:
        return model.id
    return {"model_type": OWN_FAMILY} | model.model_dump(mode="json", exclude={"id"})


def _read_family(label: str, config: Mapping[str, Any], family: _Family) -> dict[str, Any]:
    fields = {name: _value(label, config, key) for name, key in family.keys.items()} | family.fixed
    if fields["d_ff"] is None:  # GPT2Config: n_inner None is four times n_embd
        fields["d_ff"] = 4 * fields["d_model"]
    if family.rope:
        fields["rope"] = _read_rope(label, config, family.rope)
    fields["dtype"] = _read_dtype(label, config)
    return fields


def _value(label: str, config: Mapping[str, Any], key: _Key) -> Any:
    value = config.get(key.name, key.default)
    if value is _REQUIRED or (value is None and key.default is _REQUIRED):
        raise SpecError(f"{label}: {key.name}: missing; a {config['model_type']} config must give it")
    if value is None:
        return None
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[key.kind]
    fits = isinstance(value, (int, float) if key.kind is float else key.kind)
    if not fits or (isinstance(value, bool) and key.kind is not bool):
        raise SpecError(f"{label}: {key.name}: must be {wanted} (got {value!r})")
    if key.kind in (int, float) and not (0 < value < math.inf or (key.may_be_zero and value == 0)):  # no NaN either
        raise SpecError(f"{label}: {key.name}: must be {wanted} more than zero (got {value!r})")
    return value


def _read_rope(label: str, config: Mapping[str, Any], keys: Mapping[str, _Key]) -> dict[str, Any]:
    settings: Mapping[str, Any] = {}
    for place in ("rope_parameters", "rope_scaling"):
        if config.get(place) is not None:
            settings = config[place]
            if not isinstance(settings, Mapping):
                raise SpecError(f"{label}: {place}: must be an object (got {settings!r})")
            break
    rope = {}
    for name, key in keys.items():
        modern = _ROPE_PARAMETER[name]
        if modern in settings:
            rope[name] = _value(label, settings, _Key(modern, float, key.default))
        else:
            rope[name] = _value(label, config, key)
    scaling = settings.get("rope_type", settings.get("type"))
    if scaling not in (None, "default"):
        rope["scaling"] = _value(label, {"rope_type": scaling}, _Key("rope_type", str))
        rope["factor"] = _value(label, settings, _Key("factor", float, 1.0))
    return {name: value for name, value in rope.items() if value is not None}


def _read_dtype(label: str, config: Mapping[str, Any]) -> str | None:
    key = "torch_dtype" if config.get("torch_dtype") is not None else "dtype"
    value = config.get(key)
    if value is None or value == "auto":
        return None
    if not isinstance(value, str) or value not in _DTYPES:
        raise SpecError(f"{label}: {key}: {unknown_name('dtype', value, _DTYPES)}")
    return _DTYPES[value]
