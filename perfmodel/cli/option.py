"""One option of the command line: the Python keyword it stands for, what it may be, and what it means.

Flags give text, scenario files give typed values; both end in `checked`, so both are refused in the same words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name

__all__ = ["Option", "checked", "json_property", "parsed"]

# Beyond 2^50 whole numbers times small factors would no longer be exact as float64.
_LARGEST_COUNT = 10**15


@dataclass(frozen=True)
class Option:
    """One option. `kind` is text, spec (an id, a path, or a table in a file), whole, number, switch, texts, wholes,
    tokens (a whole number, or a table in a file), array (a path, or in a file the rows or numbers themselves), rows
    (rows of numbers, in a file only), shares (a table of numbers, NAME=X as a flag) or table (a table of anything,
    likewise); `choices` are the names allowed, those of a table's keys too; `complete` is the kind of description whose
    ids complete it."""

    name: str
    kind: str
    help: str
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    default: Any = None
    required: bool = False
    complete: str = ""

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.name.replace("_", "-")


def parsed(option: Option, text: str) -> Any:
    """The value of a flag; raises `PlanError("--tp: must be a whole number >= 1 (got 0)")`."""
    return checked(option, _typed(option, text), option.flag, typed_as=text)


def checked(option: Option, value: Any, label: str, *, typed_as: str | None = None) -> Any:
    """`value` as the option's kind; raises `PlanError` that begins with `label`."""
    got = _shown(value) if typed_as is None else _shown(typed_as, quote=isinstance(value, str))
    if option.kind == "text":
        if not isinstance(value, str):
            raise PlanError(f"{label}: must be text (got {got})")
        _known(option, value, label)
    elif option.kind == "spec":
        if not isinstance(value, (str, Mapping)) or not value:
            raise PlanError(f"{label}: must be an id, a path or a table (got {got})")
    elif option.kind == "whole":
        return _whole(option, value, label, got)
    elif option.kind == "tokens":
        return dict(value) if isinstance(value, Mapping) else _whole(option, value, label, got)
    elif option.kind == "number":
        return _number(option, value, label, got)
    elif option.kind == "array":
        if not isinstance(value, (str, list)) or not value:
            raise PlanError(f"{label}: must be a path or rows of numbers (got {got})")
    elif option.kind == "rows":
        if not isinstance(value, (list, tuple)) or not all(isinstance(row, (list, tuple)) for row in value):
            raise PlanError(f"{label}: must be a list of rows of numbers (got {got})")
        return tuple(tuple(row) for row in value)
    elif option.kind == "switch":
        if not isinstance(value, bool):
            raise PlanError(f"{label}: must be true or false (got {got})")
    elif option.kind == "shares":
        return _shares(option, value, label, got)
    elif option.kind == "table":
        if not isinstance(value, Mapping) or not value:
            raise PlanError(f"{label}: must be a table, as {option.choices[0]}=... (got {got})")
        for key in value:
            _known(option, key, label, "key")
        return dict(value)
    elif option.kind == "texts":
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
            raise PlanError(f"{label}: must be a list of names (got {got})")
        for item in value:
            _known(option, item, label)
        return tuple(value)
    else:
        if isinstance(value, (str, Mapping)):
            raise PlanError(f"{label}: must be a list of whole numbers (got {got})")
        several = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_whole(option, item, label, _shown(item)) for item in several)
    return value


def _known(option: Option, name: str, label: str, what: str = "value") -> None:
    if option.choices and name not in option.choices:
        raise PlanError(f"{label}: {unknown_name(what, name, option.choices)}")


def _shares(option: Option, value: Any, label: str, got: str) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise PlanError(f"{label}: must be a table of numbers, as {option.choices[0]}=0.5 (got {got})")
    for key, number in value.items():
        _known(option, key, label, "key")
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise PlanError(f"{label}: {key}: must be a number >= 0 (got {_shown(number)})")
        if not 0 <= number < math.inf:
            raise OutOfRangeError(f"{label}: {key}: must be a number >= 0 (got {_shown(number)})")
    return {key: float(number) for key, number in value.items()}


def _typed(option: Option, text: str) -> Any:
    if option.kind in ("whole", "tokens", "number"):
        return _number_in(text)
    if option.kind == "texts":
        return [part.strip() for part in text.split(",")]
    if option.kind == "wholes":
        return [_number_in(part.strip()) for part in text.split(",")]
    if option.kind in ("shares", "table"):
        pairs = [part.partition("=") for part in text.split(",")]
        return {key.strip(): _number_in(value.strip()) for key, _, value in pairs} if "=" in text else text
    return text


def _number_in(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _whole(option: Option, value: Any, label: str, got: str) -> int:
    low, high = int(option.low), _LARGEST_COUNT if option.high == math.inf else int(option.high)
    wanted = f"a whole number >= {low}" if option.high == math.inf else f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PlanError(f"{label}: must be {wanted} (got {got})")
    if not low <= value < math.inf or value % 1:  # false for NaN too
        raise OutOfRangeError(f"{label}: must be {wanted} (got {got})")
    if value > high:
        largest = wanted if option.high < math.inf else f"{wanted} and at most {high:g}"
        raise OutOfRangeError(f"{label}: must be {largest} (got {got})")
    return int(value)


def _number(option: Option, value: Any, label: str, got: str) -> float:
    wanted = f"a number from {option.low:g} to below {option.high:g}"
    if option.high == math.inf:
        wanted = f"a number >= {option.low:g}" if option.low > 0 else "a number > 0"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PlanError(f"{label}: must be {wanted} (got {got})")
    inside = option.low <= value < option.high
    if option.high == math.inf:
        inside = 0 < value <= 1e300 and inside
    if not inside:
        raise OutOfRangeError(f"{label}: must be {wanted} (got {got})")
    return float(value)


def _shown(value: Any, quote: bool = True) -> str:
    if isinstance(value, bool):  # as TOML and JSON write it
        return str(value).lower()
    try:
        text = repr(value) if quote else str(value)
    except ValueError:  # an integer of more than 4300 digits
        return "a number of thousands of digits"
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


_JSON_KINDS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "spec": {"anyOf": [{"type": "string"}, {"type": "object"}]},
    "whole": {"type": "integer"},
    "tokens": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "object"}]},
    "array": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": ["array", "number"]}}]},
    "rows": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
    "number": {"type": "number"},
    "switch": {"type": "boolean"},
    "texts": {"type": "array", "items": {"type": "string"}},
    "wholes": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer", "minimum": 0}}]},
    "shares": {"type": "object", "additionalProperties": False},
    "table": {"type": "object"},
}


def json_property(option: Option) -> dict[str, Any]:
    entry: dict[str, Any] = {"description": option.help} | _JSON_KINDS[option.kind]
    if option.choices and option.kind == "text":
        entry["enum"] = list(option.choices)
    if option.choices and option.kind == "texts":
        entry["items"] = {"enum": list(option.choices)}
    if option.kind == "shares":
        entry["properties"] = {key: {"type": "number", "minimum": 0} for key in option.choices}
    if option.kind == "whole":
        entry["minimum"] = int(option.low)
        if option.high < math.inf:
            entry["maximum"] = int(option.high)
    if option.kind == "number":
        least = {"minimum": option.low} if 0 < option.low < math.inf else {"exclusiveMinimum": 0}
        entry |= least if option.high == math.inf else {"minimum": 0, "exclusiveMaximum": option.high}
    if option.default is not None:
        entry["default"] = option.default
    return entry
