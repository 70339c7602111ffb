"""The ledger of published systems: each claim beside what the model says, or the reason why it cannot be checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from perfmodel.formulas import get_formula
from perfmodel.predict.training import estimate_training
from perfmodel.specs.cluster import load_cluster

__all__ = ["ledger"]

_DATA = Path(__file__).parent.parent / "data"
_EMPTY: dict[str, Any] = {
    "status": "checked",
    "value": None,
    "unit": None,
    "model_value": None,
    "error": None,
    "tolerance": 1e-3,
    "formula": None,
    "inputs": {},
    "scenario": None,
    "result": None,
    "note": "",
}


def ledger() -> list[dict[str, Any]]:
    """Every entry, by id: claim, published `value` and `unit`, `model_value` and relative `error` where checkable.

    `formula` with `inputs` is one registered law; `scenario` with `result` is one training estimate and the key of it
    that is compared. `tolerance` is what a checked value may be off: half a unit of the last digit printed.
    """
    files = [_DATA / "systems.toml", *sorted((_DATA / "systems").glob("*.toml"))]
    tables = [tomllib.loads(file.read_text(encoding="utf-8")) for file in files]
    return [_entry(id, facts) for table in tables for id, facts in table.items()]


def _entry(id: str, facts: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": id} | _EMPTY | facts
    if entry["formula"] is not None:
        inputs = {name: float(value) for name, value in entry["inputs"].items()}
        entry["model_value"] = float(get_formula(entry["formula"]).function(**inputs))
    elif entry["scenario"] is not None:
        entry["model_value"] = _predicted(entry["scenario"], entry["result"])
    if entry["model_value"] is not None and entry["value"] is not None:
        entry["error"] = entry["model_value"] / entry["value"] - 1.0
    return entry


def _predicted(scenario: Mapping[str, Any], result: str) -> float:
    """One number of a training estimate; `result` is its key, with dots for what lies deeper."""
    keywords = dict(scenario)
    cluster = load_cluster(keywords.pop("cluster"), accelerators=keywords.pop("accelerators"))
    estimate: Any = estimate_training(keywords.pop("model"), cluster, **keywords)
    return float(reduce(getattr, result.split("."), estimate))
