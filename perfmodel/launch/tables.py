"""One table per tool and version: which flags there are, what they take, and which key of ours each carries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.specs.registry import read_toml

__all__ = ["Flag", "Table", "load_table", "tools", "versions"]

_FOLDER = Path(__file__).with_name("tables")
# The version that a tool gets when none is named: the one that its software generation was priced as.
_DEFAULT = {"vllm": "0.10.0"}
_KINDS = ("whole", "fraction", "text", "texts", "parts", "switch", "json")


@dataclass(frozen=True)
class Flag:
    """One flag or key: what it takes, which key of a scenario it carries ("" for none), and what it may be."""

    name: str
    type: str
    carries: str
    aliases: tuple[str, ...] = ()
    allowed: tuple[Any, ...] = ()
    low: int = 1

    def checked(self, value: Any, label: str) -> Any:
        """`value` if this flag takes it; raises `PlanError` naming label, flag, value and what is allowed."""
        what = f"{label}: {self.name}"
        if self.type == "whole":
            if isinstance(value, bool) or not isinstance(value, int) or value < self.low:
                if self.allowed:
                    raise PlanError(f"{what}: {unknown_name('value', value, map(str, self.allowed), shown=40)}")
                raise PlanError(f"{what}: must be a whole number >= {self.low} (got {value!r})")
        elif self.type == "fraction":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise PlanError(f"{what}: must be a number above 0 and at most 1 (got {value!r})")
        elif self.type == "switch":
            if not isinstance(value, bool):
                raise PlanError(f"{what}: must be true or false (got {value!r})")
        elif self.type in ("texts", "parts"):
            if not isinstance(value, (list, tuple)):
                raise PlanError(f"{what}: must be a list (got {value!r})")
        elif self.type == "text" and not isinstance(value, str):
            raise PlanError(f"{what}: must be text (got {value!r})")
        for item in value if self.type == "texts" else (value,):
            if self.allowed and item not in self.allowed:
                raise PlanError(f"{what}: {unknown_name('value', item, map(str, self.allowed), shown=40)}")
        return value


@dataclass(frozen=True)
class Table:
    """The flags of one version of a tool, where they were read, and what else of it an exporter must know.

    `memory_fraction` says of what an engine's fraction is meant: "of-total", "static" (weights and cache) or "of-free"
    (what the weights leave). `weights` and `kv_cache` turn our precisions into its words, `models` our zoo ids.
    """

    tool: str
    version: str
    kind: str
    title: str
    url: str
    commit: str
    checked: str
    flags: Mapping[str, Flag]
    ignored: frozenset[str]
    memory_fraction: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)
    kv_cache: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.tool} {self.version}"

    def emitted(self, name: str, value: Any) -> Any:
        """`value` of a flag that is about to be written; raises `PlanError` where this version does not take it."""
        if name not in self.flags:
            raise PlanError(f"{self.label}: {unknown_name('flag', name, self.flags)}")
        return self.flags[name].checked(value, self.label)

    def found(self, name: str, label: str) -> Flag | None:
        """The flag of that name or alias, None for one that carries nothing; raises `SpecError` for an unknown one."""
        for flag in self.flags.values():
            if name == flag.name or name in flag.aliases:
                return flag
        if name in self.ignored:
            return None
        if name.startswith("--") and (dashed := self._other_spelling(name)) is not None:
            return self.found(dashed, label)
        known = [*self.flags, *self.ignored, *(alias for flag in self.flags.values() for alias in flag.aliases)]
        near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        hint = f"; nearest: {near[0]!r}" if near else f"; its table has {len(known)} ({self.url})"
        raise SpecError(f"{label}: unknown flag of {self.label} {name!r}{hint}")

    def _other_spelling(self, name: str) -> str | None:
        """argparse of some launchers takes underscores for dashes; a value may stand behind `=`."""
        dashed = name.replace("_", "-")
        known = dashed in self.ignored or any(dashed in (flag.name, *flag.aliases) for flag in self.flags.values())
        return dashed if dashed != name and known else None


@cache
def _files() -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(_FOLDER.glob("*.toml")):
        data = read_toml(path)
        found.setdefault(data["tool"], {})[data["version"]] = path
    return found


def tools() -> tuple[str, ...]:
    """Every tool that has a table, sorted."""
    return tuple(sorted(_files()))


def versions(tool: str) -> tuple[str, ...]:
    """The versions of a tool that have a table, the default first; raises `PlanError`."""
    if tool not in _files():
        raise PlanError(unknown_name("tool", tool, _files()))
    default = _DEFAULT.get(tool)
    return tuple(sorted(_files()[tool], key=lambda version: (version != default, version)))


@cache
def load_table(tool: str, version: str | None = None) -> Table:
    """The table of a tool's version (None: its default); raises `PlanError` naming the nearest one that exists."""
    known = versions(tool)
    chosen = known[0] if version is None else version.removeprefix("v")
    if chosen not in known:
        raise PlanError(f"{tool}: {unknown_name('version', version, known)}")
    path = _files()[tool][chosen]
    data = read_toml(path)
    flags = {name: _flag(path, name, entry) for name, entry in data.pop("flags").items()}
    ignored = frozenset(data.pop("known")["ignored"])
    if like := data.pop("like", None):
        base = load_table(tool, like)
        flags, ignored = {**base.flags, **flags}, ignored | base.ignored
        shared = {"kind": base.kind, "memory_fraction": base.memory_fraction, "weights": base.weights}
        data = shared | {"kv_cache": base.kv_cache, "models": base.models} | data
    return Table(flags=flags, ignored=ignored, **data)


def _flag(path: Path, name: str, entry: Mapping[str, Any]) -> Flag:
    if entry.get("type") not in _KINDS or "carries" not in entry or not re.fullmatch(r"[\w./:-]+", name):
        raise SpecError(f"{path}: flags: {name}: needs a type of {', '.join(_KINDS)} and carries")
    listed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Flag(name=name, **listed)
