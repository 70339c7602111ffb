"""Numbers with units as people write them on a command line: 450GB/s, 3us, 989e12."""

from __future__ import annotations

import math
import re

from perfmodel.errors import PlanError

__all__ = ["bracket_in", "number_in"]

_PREFIXES = {"": 1.0, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_VALUE = re.compile(r"(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>.*)")


def bracket_in(text: str | None) -> tuple[float, float] | None:
    """LOW,HIGH of `--between` in base units; raises `PlanError`."""
    if text is None:
        return None
    ends = text.split(",")
    if len(ends) != 2:
        raise PlanError(f"--between: must be LOW,HIGH (got {text!r})")
    return number_in(ends[0], "1", "--between"), number_in(ends[1], "1", "--between")


def number_in(text: str, unit: str, label: str) -> float:
    """A number in base units, with or without its unit and a prefix; raises `PlanError` that begins with `label`.

    >>> number_in("450GB/s", "B/s", "--at"), number_in("3us", "s", "--at"), number_in("989e12", "flop/s", "--at")
    (450000000000.0, 3e-06, 989000000000000.0)
    """
    match = _VALUE.fullmatch(text.strip())
    scale = None if match is None else _scale(match["unit"].strip(), unit)
    if match is None or scale is None:
        raise PlanError(f"{label}: must be a number in [{unit}], as {_example(unit)} (got {text!r})")
    value = float(match["number"]) * scale
    if not math.isfinite(value):
        raise PlanError(f"{label}: must be finite (got {text!r})")
    return value


def _scale(written: str, unit: str) -> float | None:
    written = re.sub(r"(?i)flop", "flop", written)
    if not written:
        return 1.0
    for prefixes in (_PREFIXES, _BINARY if unit.startswith("B") else {}):
        for prefix, scale in prefixes.items():
            if written == prefix + unit or (written == prefix and scale >= 1e3):
                return scale
    return None


def _example(unit: str) -> str:
    return "4096 or 8k" if unit == "1" else f"2.5e9 or 2.5G{unit}"
