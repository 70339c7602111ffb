"""The ledger of published systems: each claim beside what the model says, or the reason why it cannot be checked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from perfmodel.formulas import get_formula

__all__ = ["ledger"]

_LEDGER = Path(__file__).parent.parent / "data" / "systems.toml"


def ledger() -> list[dict[str, Any]]:
    """Every entry, by id: claim, published `value` and `unit`, `model_value` and relative `error` where checkable."""
    return [_entry(id, facts) for id, facts in tomllib.loads(_LEDGER.read_text(encoding="utf-8")).items()]


def _entry(id: str, facts: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": id, "status": "checked", "value": None, "unit": None, "model_value": None}
    entry |= {"error": None, "formula": None, "inputs": {}} | facts
    if entry["formula"] is not None:
        inputs = {name: float(value) for name, value in entry["inputs"].items()}
        entry["model_value"] = float(get_formula(entry["formula"]).function(**inputs))
        entry["error"] = entry["model_value"] / entry["value"] - 1.0
    return entry
