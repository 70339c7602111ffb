"""Result documents as the report reads them, checked by their records."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from perfmodel.errors import PlanError, SpecError, unknown_name

__all__ = ["KINDS", "as_document", "kind_of", "needed", "prediction_of", "read_document"]

_RECORDS = {
    "training-plan": "perfmodel.plan.records:TrainingPlan",
    "training-estimate": "perfmodel.predict.records:TrainingEstimate",
    "serving-plan": "perfmodel.plan.serving.records:ServingPlan",
    "serving-estimate": "perfmodel.predict.serving.records:ServingEstimate",
    "power-plan": "perfmodel.plan.power_records:PowerPlan",
    "test-time-plan": "perfmodel.plan.test_time_records:TestTimePlan",
    "experts-plan": "perfmodel.plan.experts.records:ExpertPlan",
    "training-budget-plan": "perfmodel.plan.training_budget:TrainingBudgetPlan",
    "disaggregated-estimate": "perfmodel.predict.serving.disaggregated:DisaggregatedEstimate",
    "elasticities": "perfmodel.predict.elasticities:StepElasticities",
}
KINDS = tuple(_RECORDS)
"""Documents with a page of their own; any other perfmodel document gets its tables."""

_DOCUMENT = re.compile(r"perfmodel/([a-z][a-z0-9-]*)/([0-9]+)")
_MAJOR = "1"


def as_document(result: Any) -> dict[str, Any]:
    """A result record, or its document, as plain JSON types; raises `SpecError` for anything else."""
    if isinstance(result, BaseModel):
        return result.model_dump(mode="json")
    if isinstance(result, Mapping):
        return dict(result)
    raise SpecError(f"document: must be a result of perfmodel or its JSON object (got {type(result).__name__})")


def read_document(result: Any, label: str = "document") -> dict[str, Any]:
    """The document, checked; keys that a later version added are left out.

    Raises `SpecError` naming the key for anything that is no document of perfmodel, and for one whose keys lack or
    hold something else than its kind says.
    """
    document = as_document(result)
    kind, major = _split(document, label)
    if major != _MAJOR:
        raise SpecError(
            f"{label}: document: this perfmodel reads major version {_MAJOR} (got {document['document']!r})"
        )
    if not isinstance(document.get("request"), Mapping):
        raise SpecError(f"{label}: request: missing or not a table; it says what the document answers")
    _check_numbers(document, label)
    record = _record(kind)
    return document if record is None else _checked(record, document, label)


def kind_of(document: Mapping[str, Any]) -> str:
    """`training-plan` of `perfmodel/training-plan/1`."""
    return _split(document, "document")[0]


def prediction_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the document predicts: a plan's `prediction`, an estimate itself; empty where nothing is feasible."""
    if "decision" not in document:
        return document
    return document.get("prediction") or {}


def _split(document: Mapping[str, Any], label: str) -> tuple[str, str]:
    if "document" not in document:
        raise SpecError(f"{label}: document: missing; this is no result of perfmodel (write one with --json -o FILE)")
    found = _DOCUMENT.fullmatch(document["document"]) if isinstance(document["document"], str) else None
    if found is None:
        known = [f"perfmodel/{kind}/{_MAJOR}" for kind in KINDS]
        raise SpecError(f"{label}: {unknown_name('document', document['document'], known)}")
    return found[1], found[2]


def _record(kind: str) -> type[BaseModel] | None:
    """The record of a kind, None for documents that only have tables."""
    if kind not in _RECORDS:
        return None
    module, name = _RECORDS[kind].split(":")
    found: type[BaseModel] = getattr(import_module(module), name)
    return found


def _checked(record: type[BaseModel], document: dict[str, Any], label: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(json.dumps(document))
    try:
        record.model_validate(kept)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            if fault["type"] != "extra_forbidden":
                where = ".".join(str(part) for part in fault["loc"])
                raise SpecError(f"{label}: {where}: {_said(fault)}") from None
            _drop(kept, fault["loc"])
    return record.model_validate(kept).model_dump(mode="json")


def _said(fault: Any) -> str:
    if fault["type"] == "missing":
        return "missing"
    shown = repr(fault["input"])
    return f"{fault['msg'][0].lower()}{fault['msg'][1:]} (got {shown if len(shown) <= 60 else shown[:57] + '...'})"


def _drop(document: Any, path: tuple[Any, ...]) -> None:
    for part in path[:-1]:
        document = document[part]
    del document[path[-1]]


def _check_numbers(value: Any, where: str) -> None:
    """Refuse what JSON of ours never holds; figures would fail on it far from the cause."""
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{where}: must be finite (got {value!r})")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_numbers(inner, f"{where}: {key}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_numbers(inner, where)


def needed(document: Mapping[str, Any], key: str, figure: str) -> Any:
    """The value of a key that a figure draws; raises `PlanError` where the document has none."""
    value = document.get(key)
    if not value:
        raise PlanError(f"{figure}: the document has no {key}")
    return value
