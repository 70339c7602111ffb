"""The ledger's form, for the script that fills it: columns, digits, groups, and what contradicts itself."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.validation.sources import Row

__all__ = ["COLUMNS", "Converted", "contradiction", "digits_of", "grouped", "keyed", "read_table"]

COLUMNS = tuple(name for name in Row.model_fields if name != "calibrates")


@dataclass(frozen=True)
class Converted:
    """A made table: how many configurations were given, the rows kept, and why the others were left out."""

    given: int
    rows: list[dict[str, Any]]
    left_out: list[str]


def read_table(path: Path) -> list[dict[str, str]]:
    """The lines of a collected table as dictionaries of text."""
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, strict=True))


def keyed(
    cells: Iterable[Mapping[str, str]], key: Sequence[str]
) -> dict[tuple[str, ...], dict[str, Mapping[str, str]]]:
    """The lines by configuration (`key` columns) and metric. Raises `ValueError` for a metric given twice."""
    cases: dict[tuple[str, ...], dict[str, Mapping[str, str]]] = {}
    for cell in cells:
        case = cases.setdefault(tuple(cell[name] for name in key), {})
        if cell["metric_name"] in case:
            raise ValueError(f"{cell['metric_name']} twice for {[cell[name] for name in key]}")
        case[cell["metric_name"]] = cell
    return cases


def digits_of(printed: str) -> int:
    """Significant digits of a number as printed; zeros that end a whole number count.

    >>> digits_of("0.076"), digits_of("22.0"), digits_of("1007")
    (2, 3, 4)
    """
    return len(printed.replace(".", "").lstrip("0"))


def contradiction(row: Mapping[str, Any]) -> str:
    """Why a row cannot have run as printed, or nothing."""
    tp, dp, cp, ep, etp = (row[name] for name in ("tp", "dp", "cp", "ep", "etp"))
    if tp * row["pp"] * dp * cp != row["accelerators"]:
        return f"tp * pp * cp * dp is not {row['accelerators']}"
    if (dp * cp * tp) % (ep * etp):
        return f"ep {ep} does not divide dp * cp * tp / etp = {dp * cp * tp // etp}"
    if row["global_batch"] % (dp * row["micro_batch"]):
        return f"batch {row['global_batch']} is no multiple of dp * micro-batch = {dp * row['micro_batch']}"
    return ""


def grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their `group`: what model, machine, batch, sequence, precision and release they share."""
    keys = ("model", "model_changes", "cluster", "accelerators", "global_batch", "seq_len", "precision")
    for row in rows:
        words = [str(row[key]) for key in keys if row.get(key)]
        row["group"] = " ".join([*words, row.pop("release", "")]).strip()
    return rows
