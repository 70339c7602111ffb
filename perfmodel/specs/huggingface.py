"""A model from a Hugging Face `config.json` as it is, from the zoo, or from keys of our own (`perfmodel-decoder`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel.errors import MissingExtraError, SpecError, unknown_name
from perfmodel.specs import registry
from perfmodel.specs.architecture import Architecture, ModelSource
from perfmodel.specs.families import FAMILIES, Family, Key
from perfmodel.specs.family_rules import RULES, read_value
from perfmodel.specs.quantity import validated

__all__ = ["OWN_FAMILY", "SUPPORTED_FAMILIES", "load_model", "model_reference"]

OWN_FAMILY = "perfmodel-decoder"
# A model with vision parts keeps the decoder in `text_config`.
_WRAPPERS = {"gemma3": "gemma3_text"}
SUPPORTED_FAMILIES = (*sorted({*FAMILIES, *_WRAPPERS}), OWN_FAMILY)
_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# transformers 5 gathers what its fourth edition kept under other names.
_ROPE_PARAMETER = {"theta": "rope_theta", "fraction": "partial_rotary_factor"}


def load_model(what: str | Path | Mapping[str, Any] | Architecture) -> Architecture:
    """The model of a zoo id, a config.json or its folder, a dict, or "hf:org/name" (extra `hf`).

    `model_type` is one of `SUPPORTED_FAMILIES`: that of a Hugging Face class (its keys, others ignored; of a model with
    vision parts only the decoder) or "perfmodel-decoder" (keys are the fields of `Architecture`, others refused).
    Raises `SpecError` naming path and key, and `MissingExtraError` for "hf:" without huggingface_hub.
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
    if isinstance(family, str) and family in _WRAPPERS:
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise SpecError(f"{label}: text_config: missing; a {family} config keeps its decoder there")
        inner = {"torch_dtype": config.get("torch_dtype")} | dict(text) | {"model_type": _WRAPPERS[family]}
        return _architecture(label, inner, known)
    if family == OWN_FAMILY:
        fields = {key: value for key, value in config.items() if key != "model_type"}
    elif isinstance(family, str) and family in FAMILIES:
        fields = _read_family(label, config, FAMILIES[family])
    else:
        missing = f"missing; allowed: {', '.join(SUPPORTED_FAMILIES)}"
        fault = missing if family is None else unknown_name("model_type", family, SUPPORTED_FAMILIES)
        way_out = f'describe another model with model_type: "{OWN_FAMILY}"'
        raise SpecError(f"{label}: model_type: {fault}; {way_out}")
    source = known.get("source")
    name = source.name if source else known.get("id", "")
    return validated(label, {"name": name} | known | fields, Architecture)


def model_reference(model: Architecture) -> str | dict[str, Any]:
    """What loads this model again: its zoo id, else a perfmodel-decoder config with every field."""
    if model.id in registry.ids("models") and load_model(model.id) == model:
        return model.id
    return {"model_type": OWN_FAMILY} | model.model_dump(mode="json", exclude={"id"})


def _read_family(label: str, config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    for name, understood in family.only.items():
        if config.get(name, understood) != understood:
            raise SpecError(f"{label}: {name}: only {understood!r} is described (got {config[name]!r})")
    fields = {name: read_value(label, config, key) for name, key in family.keys.items()} | family.fixed
    for rule in family.rules:
        RULES[rule](label, config, fields)
    if family.rope:
        fields["rope"] = _read_rope(label, config, family.rope)
    fields["dtype"] = _read_dtype(label, config)
    return _nested(fields)


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with the dotted ones gathered into their parts."""
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        part, dot, key = name.partition(".")
        if dot:
            nested.setdefault(part, {})[key] = value
        else:
            nested[name] = value
    return nested


def _read_rope(label: str, config: Mapping[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
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
            rope[name] = read_value(label, settings, Key(modern, float, key.default))
        else:
            rope[name] = read_value(label, config, key)
    scaling = settings.get("rope_type", settings.get("type"))
    if scaling not in (None, "default"):
        rope["scaling"] = read_value(label, {"rope_type": scaling}, Key("rope_type", str))
        rope["factor"] = read_value(label, settings, Key("factor", float, 1.0))
    return {name: value for name, value in rope.items() if value is not None}


def _read_dtype(label: str, config: Mapping[str, Any]) -> str | None:
    key = "torch_dtype" if config.get("torch_dtype") is not None else "dtype"
    value = config.get(key)
    if value is None or value == "auto":
        return None
    if not isinstance(value, str) or value not in _DTYPES:
        raise SpecError(f"{label}: {key}: {unknown_name('dtype', value, _DTYPES)}")
    return _DTYPES[value]
