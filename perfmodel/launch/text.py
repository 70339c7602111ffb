"""Text of launch files: TOML and YAML values, wrapped commands, and the comments in which our own keys travel."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import SpecError
from perfmodel.launch.tables import Table

__all__ = ["command", "header", "read_header", "tables_of", "toml_text", "toml_value", "yaml_text"]

_COMMENT = re.compile(r"^\s*# perfmodel: ([\w.]+) = (.+)$", re.MULTILINE)
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_value(value: Any) -> str:
    """A value as TOML writes it on one line; what is None inside a table is left out.

    >>> toml_value({"tp": 8, "note": None, "names": ("a", "b")})
    '{ tp = 8, names = ["a", "b"] }'
    """
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def toml_text(data: Mapping[str, Any]) -> str:
    """A TOML file of plain values first and one level of tables after them."""
    plain = [f"{_key(key)} = {toml_value(value)}" for key, value in data.items() if not isinstance(value, Mapping)]
    parts = ["\n".join(plain)] if plain else []
    for name, table in data.items():
        if isinstance(table, Mapping):
            rows = [f"{_key(key)} = {toml_value(value)}" for key, value in table.items() if value is not None]
            parts.append("\n".join([f"[{name}]", *rows]))
    return "\n\n".join(parts) + "\n"


def tables_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as tables in tables: `{"a.b": 1}` is `{"a": {"b": 1}}`."""
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        *above, last = name.split(".")
        table = nested
        for part in above:
            table = table.setdefault(part, {})
        table[last] = value
    return nested


def yaml_text(data: Any, indent: int = 0) -> str:
    """YAML of mappings, lists and scalars in block style; scalars as JSON writes them, which YAML reads alike."""
    space = " " * indent
    if isinstance(data, Mapping):
        lines = []
        for key, value in data.items():
            if isinstance(value, (Mapping, list, tuple)) and value:
                lines.append(f"{space}{key}:\n{yaml_text(value, indent + 2)}")
            else:
                lines.append(f"{space}{key}: {_yaml_scalar(value)}\n")
        return "".join(lines)
    lines = []
    for item in data:
        if isinstance(item, Mapping) and item:
            lines.append(f"{space}- {yaml_text(item, indent + 2).lstrip()}")
        else:
            lines.append(f"{space}- {_yaml_scalar(item)}\n")
    return "".join(lines)


def _yaml_scalar(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value)
    ambiguous = isinstance(value, str) and value.lower() in (
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "null",
        "y",
        "n",
    )
    return str(value) if plain and not ambiguous else json.dumps(value, ensure_ascii=False)


def command(words: Iterable[str], flags: Mapping[str, Any]) -> str:
    """A command with each flag on a line of its own; a switch that is on has no value, one that is off is left out.

    A value that names a shell variable ("$NODE_RANK") is left for the shell.
    """
    lines = [" ".join(map(_word, words))]
    for name, value in flags.items():
        if value is False:
            continue
        values = () if value is True else value if isinstance(value, (list, tuple)) else (value,)
        lines.append(" ".join([name, *(_word(_flat(item)) for item in values)]))
    return " \\\n    ".join(lines) + "\n"


def _flat(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def _word(text: str) -> str:
    return f'"{text}"' if re.fullmatch(r"[\w.:/=-]*(\$\w+[\w.:/=-]*)+", text) else shlex.quote(text)


def header(table: Table, scenario: Mapping[str, Any], remarks: Iterable[str] = ()) -> str:
    """Comments that name the tool's version and its source, and hold the keys that none of its flags carries."""
    lines = [
        f"# Written by perfmodel {__version__} for {table.label} ({table.url}).",
        *(f"# {text}" for text in remarks),
    ]
    lines += [f"# perfmodel: {key} = {toml_value(value)}" for key, value in scenario.items()]
    return "\n".join(lines) + "\n"


def read_header(text: str, label: str) -> dict[str, Any]:
    """The keys in our own comments; raises `SpecError` for a value that is not TOML."""
    found = {}
    for key, value in _COMMENT.findall(text):
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            raise SpecError(f"{label}: # perfmodel: {key}: not a TOML value (got {value.strip()})") from None
    return found
