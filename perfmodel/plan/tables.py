"""Tables that a person gives to a planner: rows of named cells, each checked before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name

__all__ = ["table_of"]


def table_of(
    key: str, rows: Any, *, name: str, needed: Sequence[str], more: Sequence[str] = (), zero: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of the table `key`: column `name` is text and told apart, all others are numbers above 0 (`zero`: or 0).

    `needed` columns stand in every row, those of `more` in any. Raises `PlanError` naming row and column.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise PlanError(f"{key}: must be rows with the columns {', '.join((name, *needed))} (got {_shown(rows)})")
    found, seen = [], set()
    for at, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise PlanError(f"{key}: row {at}: must be a table of {', '.join((name, *needed))} (got {_shown(row)})")
        for column in row:
            if column not in (name, *needed, *more):
                raise PlanError(f"{key}: row {at}: {unknown_name('column', column, [name, *needed, *more])}")
        own = str(row.get(name, ""))
        if not own:
            raise PlanError(f"{key}: row {at}: {name}: missing")
        label = f"{key}: row {at} ({own})"
        if own in seen:
            raise PlanError(f"{label}: {name}: stands there twice")
        seen.add(own)
        for column in needed:
            if row.get(column) is None:
                raise PlanError(f"{label}: {column}: missing")
        numbers = {c: row[c] for c in (*needed, *more) if row.get(c) is not None}
        found.append({name: own} | {c: _number(f"{label}: {c}", v, c in zero) for c, v in numbers.items()})
    return found


def _number(label: str, value: Any, zero: bool) -> float:
    wanted = "a number >= 0" if zero else "a number > 0"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PlanError(f"{label}: must be {wanted} (got {_shown(value)})")
    if not 0 <= value < math.inf or (value == 0 and not zero):
        raise OutOfRangeError(f"{label}: must be {wanted} (got {_shown(value)})")
    return float(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
