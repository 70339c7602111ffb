"""Results as tables: the row of a result, and the terms of an estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.errors import PlanError
from perfmodel.predict.records import Record

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["cell", "columns_of", "document_of", "frame_of", "named", "row_of", "term_rows", "terms_of", "wholes"]

_NO_COLUMNS = (
    "document", "perfmodel_version", "data_version", "request", "interval_level", "terms", "notes", "sources",
    "constraints", "alternatives", "certificate", "sensitivities", "decision", "prediction", "frontier", "growth",
    "hourly",
)  # fmt: skip
_POOLS = ("prefill", "decode")


def frame_of(result: Record | Mapping[str, Any]) -> DataFrame:
    """The terms of an estimate as a tidy table; of a result without terms its one row. Raises `PlanError`."""
    from pandas import DataFrame

    document = document_of(result)
    return DataFrame(list(term_rows(document)) if terms_of(document) else [row_of(document)])


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
            row |= dict(columns_of(key, value))
    decision = document.get("decision")
    if isinstance(decision, Mapping):
        for key, value in decision.items():
            row |= dict(value if key == "layout" else columns_of(key, value))
    prediction = document.get("prediction")
    if isinstance(prediction, Mapping):
        row |= {key: value for key, value in row_of(prediction).items() if key not in row}
    return {key: cell(value) for key, value in row.items()}


def named(table: str, key: str) -> str:
    """The column of a nested key, its unit last.

    >>> named("memory_bytes", "total"), named("run", "cost_usd"), named("run", "run_days")
    ('memory_total_bytes', 'run_cost_usd', 'run_days')
    """
    if table.endswith("_bytes"):
        return f"{table.removesuffix('_bytes')}_{key}_bytes"
    return key if key.startswith(f"{table}_") else f"{table}_{key}"


def terms_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The topmost terms of a document; of a deployment cut in pools, those of each."""
    pools = [document[name] for name in _POOLS if isinstance(document.get(name), Mapping)]
    return [term for part in (document, *pools) for term in part.get("terms", ())]


def wholes(document: Mapping[str, Any]) -> dict[str, float]:
    """What a term is a share of, by its topmost term [s]: the step, or one phase of serving alone."""
    tops = {term["name"]: term["seconds"] for term in terms_of(document)}
    step = sum(tops.values())
    return dict.fromkeys(tops, step) if "step_time_s" in document else tops


def term_rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Terms depth first: `term` is the path with slashes, `seconds` exposed, `share` [1] of the step or the phase."""
    whole = wholes(document)
    for term in terms_of(document):
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


def columns_of(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The columns of one entry of a document, nested ones by `named`."""
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
            if name not in _NO_COLUMNS:
                yield from columns_of(named(key, name), one)
    else:
        yield key, value


def cell(value: Any) -> Any:
    """Something that one cell of a CSV file holds."""
    if isinstance(value, (list, tuple)):
        return "; ".join(map(str, value)) if value else None
    if isinstance(value, Mapping):
        return "; ".join(f"{key}={one}" for key, one in value.items()) if value else None
    return value
