"""`import_launch`: the launch file of a tool as a scenario that an estimate takes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.launch.deepspeed import deepspeed_scenario
from perfmodel.launch.megatron import megatron_scenario
from perfmodel.launch.serving_import import serving_scenario
from perfmodel.launch.shell import Command, commands, read_command
from perfmodel.launch.tables import Table, load_table
from perfmodel.launch.text import read_header, toml_text
from perfmodel.launch.torchtitan import torchtitan_scenario

__all__ = ["IMPORTS", "Imported", "import_launch"]

IMPORTS = ("megatron", "deepspeed", "torchtitan", "vllm", "sglang")
"""Tools whose launch files can be read back."""
_DESCRIBES = {
    "training": ("cluster", "accelerators", "software", "tokens", "trainable", "packing", "mean_seq_len"),
    "serving": (
        "cluster", "accelerators", "prompt_tokens", "output_tokens", "arrival_rate_per_s", "batching", "arrivals",
        "activations",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """A scenario (its layout keys under "layout"), flags that say nothing to us, and remarks on what is left open."""

    scenario: dict[str, Any]
    ignored: tuple[str, ...]
    notes: tuple[str, ...]

    def to_toml(self) -> str:
        """The scenario as the TOML file that `-f` reads."""
        return toml_text(self.scenario)


def import_launch(
    text: str, tool: str, version: str | None = None, *, role: str | None = None, label: str = "file"
) -> Imported:
    """The scenario of a launch file; `role` chooses a server of a file that starts prefill and decode servers.

    Raises `PlanError` for an unknown tool, version or role, and `SpecError` for a file that is not the tool's, a flag
    that its version does not know (with the nearest one), and numbers that contradict each other.
    """
    if tool not in IMPORTS:
        raise PlanError(f"--from: {unknown_name('tool', tool, IMPORTS)}")
    table = load_table(tool, version)
    if role is not None and table.kind != "serving":
        raise PlanError(f"--role: goes with an engine, not with {tool}")
    if not text.strip():
        raise SpecError(f"{label}: is empty; it should hold a launch file of {tool}")
    said = read_header(text, label)
    if tool in ("torchtitan", "deepspeed"):
        got, ignored = _keys(text, table, label)
        if tool == "deepspeed":
            scenario, notes = deepspeed_scenario(got, label)
        else:
            scenario, notes = torchtitan_scenario(got, said, table, label)
    else:
        found = _commands(text, table, label)
        ignored = [word for read in found for word in read.ignored]
        if tool == "megatron":
            if len(found) > 1:
                raise SpecError(f"{label}: holds {len(found)} training commands; import one of them at a time")
            scenario, notes = megatron_scenario(found[0], said, label)
        else:
            scenario, notes = serving_scenario(found, said, table, role, label)
    for key in _DESCRIBES[table.kind]:
        if key in said:
            scenario[key] = said[key]
    if "cluster" not in scenario:
        notes.append("the cluster is not said; add it as --cluster")
    return Imported(_ordered(scenario), tuple(dict.fromkeys(ignored)), tuple(dict.fromkeys(notes)))


def _ordered(scenario: dict[str, Any]) -> dict[str, Any]:
    first = [key for key in ("model", "cluster", "accelerators") if key in scenario]
    rest = [key for key in scenario if key not in first and key != "layout"]
    # A model of its own is a table: TOML wants tables behind the plain values.
    return {key: scenario[key] for key in (*first, *rest)} | {"layout": scenario["layout"]}


def _commands(text: str, table: Table, label: str) -> list[Command]:
    # `-m` is the interpreter's, not the tool's.
    every = [[word for word in words if word != "-m"] for words in commands(text, label)]
    started = [words for words in every if _starts(words, table.tool)]
    bare = [words for words in every if words[0].startswith("-")]
    if not started and not bare:
        raise SpecError(f"{label}: holds no command of {table.tool}")
    return [read_command(words, table, label) for words in started or bare]


def _starts(words: list[str], tool: str) -> bool:
    programs = {word.rpartition("/")[2] for word in words}
    if tool == "megatron":
        return any(word.endswith(".py") for word in words) and any("model-parallel" in word for word in words)
    if tool == "vllm":
        return {"vllm", "serve"} <= programs or "vllm.entrypoints.openai.api_server" in programs
    return "sglang.launch_server" in programs or {"sglang", "serve"} <= programs


def _keys(text: str, table: Table, label: str) -> tuple[dict[str, Any], list[str]]:
    """The keys of a TOML or JSON file by their dotted names, and those that carry nothing for us."""
    try:
        data = tomllib.loads(text) if table.tool == "torchtitan" else json.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise SpecError(f"{label}: not valid {'TOML' if table.tool == 'torchtitan' else 'JSON'}: {error}") from None
    if not isinstance(data, Mapping):
        raise SpecError(f"{label}: must hold one table (got {type(data).__name__})")
    got: dict[str, Any] = {}
    ignored: list[str] = []
    _walk(data, "", table, label, got, ignored)
    return got, ignored


def _walk(
    data: Mapping[str, Any], above: str, table: Table, label: str, got: dict[str, Any], ignored: list[str]
) -> None:
    for key, value in data.items():
        name = above + key
        inner = any(known.startswith(name + ".") for known in (*table.flags, *table.ignored))
        if isinstance(value, Mapping) and inner:
            _walk(value, name + ".", table, label, got, ignored)
        elif value == "auto" and table.tool == "deepspeed":
            ignored.append(f"{name} (auto: left to the trainer around it)")
        elif _below_ignored(name, table) or (flag := table.found(name, label)) is None:
            ignored.append(name)
        else:
            got[name] = flag.checked(value, label)
            if not flag.carries:
                ignored.append(name)


def _below_ignored(name: str, table: Table) -> bool:
    """Whether a key stands in a table that says nothing to us as a whole."""
    parts = name.split(".")
    return name not in table.flags and any(".".join(parts[:depth]) in table.ignored for depth in range(1, len(parts)))
