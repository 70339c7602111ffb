"""Scenario files (`-f`): the same keys as the options, in TOML or JSON, or a whole earlier result document."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.cli.option import Option, checked
from perfmodel.cli.options import LAYOUT, OPTIONS, SLO
from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.specs.rivals import replaced

__all__ = ["Scenario", "beside", "gather", "read_scenario", "read_table", "read_text"]

# Tables of a file whose keys are options by their own names.
_TABLES = {"layout": frozenset(option.name for option in LAYOUT), "slo": frozenset(SLO)}
_DOCUMENTS = (
    "perfmodel/training-estimate/1",
    "perfmodel/training-plan/1",
    "perfmodel/memory-estimate/1",
    "perfmodel/serving-estimate/1",
    "perfmodel/clocks-plan/1",
)


@dataclass(frozen=True)
class Scenario:
    """Checked values by Python keyword, layout keys flattened, and what a person should be told about them."""

    values: dict[str, Any]
    notes: tuple[str, ...] = ()
    from_document: bool = False


def gather(options: tuple[Option, ...], given: dict[str, Any], file: str | None, command: str) -> Scenario:
    """The values of one command: flags over the file over the defaults; raises `SpecError` and `PlanError`."""
    scenario = read_scenario(file) if file is not None else Scenario({})
    names = {option.name for option in options}
    unused = sorted(scenario.values.keys() - names)
    notes = list(scenario.notes)
    if unused and not scenario.from_document:  # a document answers another question too; a person may have slipped
        notes.append(f"{file}: not used by {command}: {', '.join(unused)}")
    values = {option.name: option.default for option in options if option.default is not None}
    values |= replaced({key: value for key, value in scenario.values.items() if key in names}, given)
    for option in options:
        if option.required and option.name not in values:
            raise PlanError(f"{option.flag}: missing; give it as an option, or as the key {option.name} of a file (-f)")
    return Scenario(values, tuple(notes))


def read_scenario(file: str) -> Scenario:
    """The scenario in a file ("-": standard input); raises `SpecError` naming file, key and fault."""
    label = "standard input" if file == "-" else file
    data = _parsed(label, read_text(file), file)
    notes: tuple[str, ...] = ()
    from_document = "document" in data
    if from_document:
        notes = _version_note(label, data)
        data = _request_of(label, data)
    folder = None if file == "-" else Path(file).parent
    flat = _flat(label, data)
    values = {}
    for key, value in flat.items():
        if value is None:  # a resolved request writes null for what was not given
            continue
        values[key] = beside(folder, checked(OPTIONS[key], value, f"{label}: {key}"), OPTIONS[key])
    return Scenario(values, notes, from_document)


def _flat(label: str, data: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if key in _TABLES:
            if value is None and key != "layout":
                continue
            if not isinstance(value, Mapping):
                raise SpecError(f"{label}: {key}: must be a table (got {type(value).__name__})")
            for inner in value:
                if inner not in _TABLES[key]:
                    raise SpecError(f"{label}: {key}: {unknown_name('key', inner, _TABLES[key], shown=30)}")
                if inner in data:
                    raise SpecError(f"{label}: {inner}: given twice, alone and under {key}; keep one")
            flat |= value
        elif key == "question":  # of a scenario that the library wrote; here the command is the question
            continue
        elif key not in OPTIONS:
            raise SpecError(f"{label}: {unknown_name('key', key, [*OPTIONS, *_TABLES], shown=50)}")
        else:
            flat[key] = value
    return flat


def _request_of(label: str, document: Mapping[str, Any]) -> dict[str, Any]:
    kind, request = document["document"], document.get("request")
    if kind not in _DOCUMENTS:
        raise SpecError(f"{label}: {unknown_name('document', kind, _DOCUMENTS)}")
    if not isinstance(request, Mapping):
        raise SpecError(f"{label}: request: missing or not a table; it says what the document answers")
    decision = document.get("decision")
    # What a plan decided is what an estimate of it prices.
    decided = decision.get("layout") if isinstance(decision, Mapping) else None
    return dict(request) | ({"layout": decided} if decided else {})


def _version_note(label: str, document: Mapping[str, Any]) -> tuple[str, ...]:
    from perfmodel._version import __version__

    made_by = document.get("perfmodel_version", __version__)
    return () if made_by == __version__ else (f"{label}: made by perfmodel {made_by}; this is {__version__}",)


def beside(folder: Path | None, value: Any, option: Option) -> Any:
    """A relative path in a file means: relative to that file."""
    if folder is not None and option.kind == "array" and isinstance(value, str) and not value.startswith("generated:"):
        return str(folder / value)
    if folder is None or option.kind != "spec" or not isinstance(value, str) or value.startswith("hf:"):
        return value
    from perfmodel.specs.registry import is_path

    return str(folder / value) if is_path(value) else value


def read_table(file: str) -> dict[str, Any]:
    """The one table in a TOML or JSON file ("-": standard input); raises `SpecError`."""
    return _parsed("standard input" if file == "-" else file, read_text(file), file)


def read_text(file: str) -> str:
    """The text of a file ("-": standard input); raises `SpecError` for one that is missing or not UTF-8."""
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{file}:{line}: not UTF-8 text (byte {error.object[error.start]:#04x})") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _parsed(label: str, text: str, file: str) -> dict[str, Any]:
    as_json = text.lstrip().startswith(("{", "[{", '["')) or file.lower().endswith(".json")
    if file.lower().endswith(".toml"):
        as_json = False
    if not text.strip():
        raise SpecError(f"{label}: is empty; it should hold a scenario in TOML or JSON")
    try:
        data = json.loads(text, parse_constant=_refused) if as_json else tomllib.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(f"{label}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from None
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        # Where the text ends too early the parser gives no line: the fault is in the last one.
        line = found[1] if found else str(len(text.splitlines()))
        raise SpecError(f"{label}:{line}: not valid TOML: {error}") from None
    except RecursionError:
        raise SpecError(f"{label}: nested too deeply") from None
    except ValueError as error:
        raise SpecError(f"{label}: {error}") from None
    if not isinstance(data, dict):
        raise SpecError(f"{label}: must hold one JSON object (got {type(data).__name__})")
    return data


def _refused(name: str) -> float:
    raise ValueError(f"numbers must be finite (got {name})")
