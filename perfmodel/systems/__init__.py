"""The ledger of published systems: each claim beside what the model says, or the reason why it cannot be checked."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from functools import cache, reduce
from pathlib import Path
from typing import Any

from perfmodel.errors import SpecError, unknown_name
from perfmodel.formulas import get_formula
from perfmodel.predict.serving.disaggregated import estimate_disaggregated
from perfmodel.predict.serving.estimate import estimate_serving
from perfmodel.predict.serving.iso import compare_at_budget
from perfmodel.predict.serving.speculation import estimate_speculation
from perfmodel.predict.training import estimate_training
from perfmodel.specs.cluster import load_cluster

__all__ = ["KINDS", "ledger"]

_DATA = Path(__file__).parent.parent / "data"
_EMPTY: dict[str, Any] = {
    "n": None,
    "status": "checked",
    "value": None,
    "unit": None,
    "model_value": None,
    "error": None,
    "tolerance": 1e-3,
    "formula": None,
    "inputs": {},
    "kind": None,
    "scenario": None,
    "baseline": None,
    "better": "more",
    "result": None,
    "note": "",
}
_ON_ONE_CLUSTER: dict[str, Callable[..., Any]] = {
    "training": estimate_training,
    "serving": estimate_serving,
    "speculation": estimate_speculation,
}
_ON_ROLES: dict[str, Callable[..., Any]] = {
    "disaggregated": estimate_disaggregated,
    "iso": compare_at_budget,
}
KINDS = (*_ON_ONE_CLUSTER, *_ON_ROLES)
"""What a scenario may ask: the estimate whose keywords it holds."""


def ledger(progress: Callable[[int, int], None] | None = None) -> list[dict[str, Any]]:
    """Every entry, by id: claim, published `value` and `unit`, `model_value` and relative `error` where checkable.

    `formula` with `inputs` is one registered law; `scenario` is one estimate of its `kind` ("training" where nothing is
    said) and `result` the key of it that is compared. `baseline` holds what the paper's baseline has otherwise (inputs,
    or keys of the scenario): the value is then the ratio of the two, scenario over baseline where more is `better`, the
    other way where "less" is. `tolerance` is what a checked value may be off: half a unit of the last digit printed.
    `progress` is told how many of all entries are done. Raises `SpecError` for an entry that contradicts itself.
    """
    written: dict[str, dict[str, Any]] = {}
    for path in (_DATA / "systems.toml", *sorted((_DATA / "systems").glob("*.toml"))):
        for id, facts in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if id in written:
                raise SpecError(f"{path.name}: {id}: stands in two files of the ledger")
            written[id] = facts
    entries = []
    for id, facts in written.items():
        entries.append(_entry(id, facts))
        if progress is not None:
            progress(len(entries), len(written))
    return entries


def _entry(id: str, facts: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": id} | _EMPTY | facts
    if entry["scenario"] is not None and entry["kind"] is None:
        entry["kind"] = "training"
    if entry["kind"] is not None and entry["kind"] not in KINDS:
        raise SpecError(f"{id}: {unknown_name('kind', entry['kind'], KINDS)}")
    if entry["formula"] is not None or entry["scenario"] is not None:
        entry["model_value"] = _model_value(entry)
    if entry["model_value"] is not None and entry["value"] is not None:
        entry["error"] = entry["model_value"] / entry["value"] - 1.0
    return entry


def _model_value(entry: Mapping[str, Any]) -> float:
    said, changes = _said(entry, {}), entry["baseline"]
    if changes is None:
        return said
    other = _said(entry, changes)
    return said / other if entry["better"] == "more" else other / said


def _said(entry: Mapping[str, Any], changes: Mapping[str, Any]) -> float:
    if entry["formula"] is not None:
        inputs = {name: float(value) for name, value in (entry["inputs"] | changes).items()}
        return float(get_formula(entry["formula"]).function(**inputs))
    return _predicted(entry["kind"], json.dumps(entry["scenario"] | changes), entry["result"])


@cache
def _predicted(kind: str, scenario: str, result: str) -> float:
    """One number of an estimate, asked once; `result` is its key, with dots for what lies deeper."""
    keywords: dict[str, Any] = json.loads(scenario)
    if kind in _ON_ONE_CLUSTER:
        keywords["cluster"] = load_cluster(keywords["cluster"], accelerators=keywords.pop("accelerators", None))
        estimate: Any = _ON_ONE_CLUSTER[kind](**keywords)
    else:
        estimate = _ON_ROLES[kind](**keywords)
    return float(reduce(_inside, result.split("."), estimate))


def _inside(whole: Any, key: str) -> Any:
    return whole[int(key)] if key.isdigit() else getattr(whole, key)
