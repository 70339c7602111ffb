"""A scenario from the commands of a serving engine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.launch.engines import model_name, zoo_model
from perfmodel.launch.shell import Command
from perfmodel.launch.tables import Table
from perfmodel.ops import ceil_div
from perfmodel.specs import registry
from perfmodel.specs.huggingface import load_model

__all__ = ["ROLES", "pick_role", "role_of", "serving_scenario"]

ROLES = ("serve", "prefill", "decode")
_SOFTWARE = {"vllm": "vllm-2025", "sglang": "sglang-2025"}
_DTYPES = {"float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
_LOAD = ("prompt_tokens", "output_tokens")
_HUGGING_FACE = "https://huggingface.co/"


def role_of(read: Command, table: Table) -> str:
    """Which role a command starts."""
    if table.tool == "sglang":
        mode = read.values.get("--disaggregation-mode", "null")
        return "serve" if mode == "null" else str(mode)
    config = read.values.get("--kv-transfer-config")
    kv_role = config.get("kv_role") if isinstance(config, Mapping) else None
    return {"kv_producer": "prefill", "kv_consumer": "decode"}.get(str(kv_role), "serve")


def pick_role(found: list[Command], table: Table, role: str | None, label: str) -> list[Command]:
    """The commands of one role; raises `PlanError` where several are there and none is asked for."""
    if role is not None and role not in ROLES:
        raise PlanError(f"role: {unknown_name('value', role, ROLES)}")
    roles = [role_of(read, table) for read in found]
    there = sorted(set(roles), key=ROLES.index)
    if role is None and len(there) > 1:
        raise PlanError(f"{label}: starts {' and '.join(there)} servers; an estimate prices one of them: give --role")
    wanted = role or there[0]
    if wanted not in there:
        raise PlanError(f"{label}: starts no {wanted} server; it starts: {', '.join(there)}")
    return [read for read, name in zip(found, roles, strict=True) if name == wanted]


def serving_scenario(
    found: list[Command], said: Mapping[str, Any], table: Table, role: str | None, label: str
) -> tuple[dict[str, Any], list[str]]:
    """The scenario of an engine's commands, equal ones being replicas; with remarks on what they leave open.

    `said` are the keys in our own comments. Raises `SpecError` for commands that differ and `PlanError` where a role
    must be chosen.
    """
    chosen = pick_role(found, table, role, label)
    # A port, a node's rank or an address tells equal servers apart.
    carried = [{name: read.values[name] for name in read.values if table.flags[name].carries} for read in chosen]
    if any(values != carried[0] for values in carried):
        raise SpecError(f"{label}: its servers differ; import one of them at a time")
    got = chosen[0].values
    notes: list[str] = []
    layout = {"tp": 1, "pp": 1, "dp": 1, "ep": 1} | _layout(got, table, label)
    layout["dp"] *= _count(said, "layout.dp", label) or len(chosen)
    scenario = _model(chosen[0], got, said, label) | _precisions(got, said, table, notes)
    scenario |= {"software": said.get("software", _SOFTWARE[table.tool]), "layout": layout}
    batch = _first(got, table, "max_batch")
    if batch is not None and "arrival_rate_per_s" not in said:
        groups = layout["dp"]
        asked = _count(said, "concurrency", label)
        same = asked is not None and ceil_div(asked, groups) == batch
        scenario["concurrency"] = asked if same else batch * groups
    context = _first(got, table, "context")
    if context is not None and not set(_LOAD) <= said.keys():
        notes.append(f"requests of at most {context} tokens: prompt_tokens and output_tokens are not said")
    if got.get("--data-parallel-size", 1) > 1 and "attention_dp" not in layout and _has_experts(scenario["model"]):
        notes.append("--data-parallel-size: vLLM shares the experts among its ranks; priced as whole replicas")
    return scenario, notes + _unpriced(got, table, scenario["software"])


def _count(said: Mapping[str, Any], key: str, label: str) -> int | None:
    """A whole number in our own comments, None where they do not have it."""
    value = said.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise SpecError(f"{label}: # perfmodel: {key}: must be a whole number >= 1 (got {value!r})")
    return value


def _first(got: Mapping[str, Any], table: Table, carries: str) -> Any:
    return next((got[name] for name in got if table.flags[name].carries == carries), None)


def _layout(got: Mapping[str, Any], table: Table, label: str) -> dict[str, int]:
    found = {key: _first(got, table, key) for key in ("tp", "pp", "dp")}
    layout = {key: value for key, value in found.items() if value is not None}
    tp, dp = layout.get("tp", 1), layout.get("dp", 1)
    if table.tool == "sglang":
        layout["ep"] = got.get("--ep-size", 1)
        if "--enable-dp-attention" in got:
            if tp % dp:
                raise SpecError(f"{label}: --dp-size: must divide --tp-size {tp} with --enable-dp-attention (got {dp})")
            layout |= {"tp": tp // dp, "attention_dp": dp}
        return layout
    if "--enable-expert-parallel" in got:  # all ranks hold experts, and attention is what runs data-parallel
        return layout | {"ep": tp * dp} | ({"attention_dp": dp} if dp > 1 else {})
    return layout


def _has_experts(model: Any) -> bool:
    return model in registry.ids("models") and load_model(model).experts is not None


@cache
def _repositories() -> dict[str, str]:
    """Zoo ids by their repository on Hugging Face, in lower case."""
    found: dict[str, str] = {}
    for id in registry.ids("models"):
        url = registry.read_toml(registry.path_of("models", id).with_name("source.toml")).get("url", "")
        if url.startswith(_HUGGING_FACE):
            found.setdefault(url.removeprefix(_HUGGING_FACE).lower(), id)
    return found


def _model(read: Command, got: Mapping[str, Any], said: Mapping[str, Any], label: str) -> dict[str, Any]:
    name = got.get("--model") or got.get("--model-path")
    if name is None and "serve" in read.words[:-1]:
        name = read.words[read.words.index("serve") + 1]
    if name is None:
        raise SpecError(f"{label}: names no model")
    # A zoo id may share its repository with others, and a model of one's own has none.
    if "model" in said and model_name(load_model(said["model"]), said["model"]) == name:
        return {"model": said["model"]}
    return {"model": zoo_model(name, _repositories())}


def _precisions(got: Mapping[str, Any], said: Mapping[str, Any], table: Table, notes: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    method, dtype = got.get("--quantization"), _DTYPES.get(got.get("--dtype", "auto"))
    if method is not None:
        known = {word: key for key, word in reversed(list(table.weights.items())) if word}
        if method in known:
            found["weights"] = known[method]
        else:
            notes.append(f"--quantization {method}: no precision of ours; weights are taken as bf16")
    elif dtype is not None:
        found["weights"] = dtype
    cache = got.get("--kv-cache-dtype", "auto")
    found["kv_cache"] = "fp8" if cache.startswith("fp8") else dtype if cache == "auto" and dtype else "bf16"
    # Several precisions share a word: ours says which, where it is the same word.
    for key, words in (("weights", table.weights), ("kv_cache", table.kv_cache)):
        if key in said and words.get(said[key]) == words.get(found.get(key, "bf16")):
            found[key] = said[key]
    return found


def _unpriced(got: Mapping[str, Any], table: Table, software: str) -> list[str]:
    """Limits that an estimate takes from the software generation instead, where they differ."""
    from perfmodel.specs.serving_software import load_serving_software

    generation = load_serving_software(software)
    notes = []
    for key in ("max_batched_tokens", "block_tokens", "memory_fraction"):
        value = _first(got, table, key)
        priced = float(getattr(generation, key))
        if value is not None and (key != "memory_fraction" or table.memory_fraction == "of-total") and value != priced:
            name = next(name for name in got if table.flags[name].carries == key)
            notes.append(f"{name} {value}: an estimate takes {priced:g} of {software}")
    return notes
