"""Results as tables: the row of a result, the layouts of a plan, the terms of an estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.errors import PlanError
from perfmodel.plan.records import Alternative, TrainingPlan
from perfmodel.predict.records import Record

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["document_of", "named", "row_of", "term_rows", "to_frame", "wholes"]

_PLAN = TrainingPlan.model_fields["document"].default

_NO_COLUMNS = (
    "document", "perfmodel_version", "data_version", "request", "interval_level", "terms", "notes", "sources",
    "constraints", "alternatives", "certificate", "sensitivities", "decision", "prediction",
)  # fmt: skip


def to_frame(result: Record | Mapping[str, Any]) -> DataFrame:
    """A result as a tidy table: layouts of a plan (the decision first), terms of an estimate, else its one row.

    Raises `PlanError` for what is no result.
    """
    from pandas import DataFrame

    own = getattr(result, "to_frame", None)
    if callable(own):
        frame: DataFrame = own()
        return frame
    document = document_of(result)
    if document["document"] == _PLAN:
        return DataFrame(list(_layouts(document)))
    if document.get("terms"):
        return DataFrame(list(term_rows(document)))
    return DataFrame([row_of(document)])


def document_of(result: Any) -> dict[str, Any]:
    """The document of a record, or a document as it is; raises `PlanError`."""
    document = result.to_dict() if isinstance(result, Record) else result
    if not isinstance(document, Mapping) or "document" not in document:
        raise PlanError(f"must be a result or its document (got {type(result).__name__})")
    return dict(document)


def row_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Every number, word and switch of a document by one column name with its unit; nested ones by `named`.

    Of a plan: what it decided, then the columns of its prediction.
    """
    row: dict[str, Any] = {}
    for key, value in document.items():
        if key not in _NO_COLUMNS:
            row |= dict(_columns(key, value))
    decision = document.get("decision")
    if isinstance(decision, Mapping):
        for key, value in decision.items():
            row |= dict(value if key == "layout" else _columns(key, value))
    prediction = document.get("prediction")
    if isinstance(prediction, Mapping):
        row |= {key: value for key, value in row_of(prediction).items() if key not in row}
    return {key: _cell(value) for key, value in row.items()}


def named(table: str, key: str) -> str:
    """The column of a nested key, its unit last.

    >>> named("memory_bytes", "total"), named("run", "cost_usd"), named("run", "run_days")
    ('memory_total_bytes', 'run_cost_usd', 'run_days')
    """
    if table.endswith("_bytes"):
        return f"{table.removesuffix('_bytes')}_{key}_bytes"
    return key if key.startswith(f"{table}_") else f"{table}_{key}"


def wholes(document: Mapping[str, Any]) -> dict[str, float]:
    """What a term is a share of, by its topmost term [s]: the step, or one phase of serving alone."""
    tops = {term["name"]: term["seconds"] for term in document.get("terms", ())}
    step = sum(tops.values())
    return dict.fromkeys(tops, step) if "step_time_s" in document else tops


def term_rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Terms depth first: `term` is the path with slashes, `seconds` exposed, `share` [1] of the step or the phase."""
    whole = wholes(document)
    for term in document["terms"]:
        yield from _term_rows(term, (), whole[term["name"]])


def _term_rows(term: Mapping[str, Any], above: tuple[str, ...], whole: float) -> Iterator[dict[str, Any]]:
    here = (*above, term["name"])
    yield {
        "term": "/".join(here), "name": term["name"], "depth": len(here), "leaf": not term["children"],
        "seconds": term["seconds"], "share": term["seconds"] / whole if whole else 0.0,
        "busy_seconds": term["busy_seconds"], "bound_by": term["bound_by"],
    }  # fmt: skip
    for child in term["children"]:
        yield from _term_rows(child, here, whole)


def _layouts(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    shown, best = list(document["alternatives"]), document["prediction"]
    if best is not None:
        own = {key: best[key] for key in Alternative.model_fields if key in best}
        own |= {"memory_bytes": best["memory_bytes"]["total"], "tied": True}
        shown.insert(0, {"layout": document["decision"]["layout"]} | own)
    for rank, one in enumerate(shown):
        row = {"rank": rank} | one["layout"]
        for key, value in one.items():
            row |= {} if key == "layout" else dict(_columns(key, value))
        yield {key: _cell(value) for key, value in row.items()}


def _columns(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if key == "run" and value is None:  # totals of a run that nobody asked about
        return
    if key == "warnings":
        yield "n_warnings", len(value)
    elif "_interval" in key and isinstance(value, (list, tuple)) and len(value) == 2:
        for end, number in zip(("low", "high"), value, strict=True):
            yield key.replace("_interval", f"_{end}"), number
    elif key == "interval_s" and isinstance(value, (list, tuple)):
        yield from zip(("low_s", "high_s"), value, strict=True)
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from _columns(named(key, name), one)
    else:
        yield key, value


def _cell(value: Any) -> Any:
    """Something that one cell of a CSV file holds."""
    if isinstance(value, (list, tuple)):
        return "; ".join(map(str, value)) if value else None
    if isinstance(value, Mapping):
        return "; ".join(f"{key}={one}" for key, one in value.items()) if value else None
    return value
