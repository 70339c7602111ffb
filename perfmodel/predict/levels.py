"""What few columns determine, evaluated once for all layouts that share them instead of for every layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.data_parallel import Messages
from perfmodel.predict.degrees import Degrees

__all__ = ["lean_at_levels"]

_MOST_LEVELS = 4
_MOST_ROWS = 1 << 62
_DEGREES = ("tp", "pp", "dp", "cp", "ep", "etp")
"""What messages between replicas depend on, beside shards that follow from `dp`; micro-batch and chunks are not it."""
_MessagesOf = Callable[[Degrees, Number], Messages]


def lean_at_levels(messages: _MessagesOf, d: Degrees, full: Number) -> Messages:
    """`messages(d, full)` without bounds, where `full` differs little along its last axis and many rows are alike."""
    if not isinstance(full, np.ndarray) or full.ndim == 0:
        return messages(d, full).lean()
    least = full.min(axis=-1, keepdims=True)
    above = (full - least).astype(np.intp)
    levels = int(above.max()) + 1
    if full.shape[-1] <= _MOST_LEVELS or levels > _MOST_LEVELS:
        return _for_unlike_rows(messages, d, full, full)
    few = _for_unlike_rows(messages, d, least + np.arange(float(levels)), least)

    def spread(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        if seconds.shape[-1] == 1:
            return seconds
        rows = np.broadcast_shapes(seconds.shape[:-1], above.shape[:-1])
        at = np.broadcast_to(above, (*rows, above.shape[-1]))
        return np.take_along_axis(np.broadcast_to(seconds, (*rows, seconds.shape[-1])), at, -1)

    return _each(few, spread)


def _for_unlike_rows(
    messages: _MessagesOf, d: Degrees, full: NDArray[np.float64], told: NDArray[np.float64]
) -> Messages:
    """The messages of all rows, of which each kind is evaluated once; the last axis of `told` tells `full` apart."""
    n_rows = len(full)
    columns = [getattr(d, name) for name in _DEGREES] + list(np.moveaxis(told, -1, 0))
    wide = [column for column in columns if isinstance(column, np.ndarray) and column.size > 1]
    if any(column.size != n_rows for column in wide) or (told % 1.0).any():
        return messages(d, full).lean()
    keys, size = np.zeros(n_rows, dtype=np.int64), 1
    for column in wide:
        radix = int(column.max()) + 1
        size *= radix
        keys = keys * radix + column.reshape(-1).astype(np.int64)
    if size > _MOST_ROWS:
        return messages(d, full).lean()
    _, first, kind = np.unique(keys, return_index=True, return_inverse=True)
    if 2 * len(first) > n_rows:
        return messages(d, full).lean()
    some = messages(_rows_of(d, first, n_rows), full[first]).lean()
    return _each(some, lambda seconds: seconds[kind] if len(seconds) > 1 else seconds)


def _rows_of(d: Degrees, rows: NDArray[np.intp], n_rows: int) -> Degrees:
    columns: dict[str, Any] = {field.name: getattr(d, field.name) for field in fields(d)}
    for name, column in columns.items():
        if isinstance(column, np.ndarray) and column.ndim and len(column) == n_rows > 1:
            columns[name] = column[rows]
    return replace(d, **(columns | {"stage_layers": None}))


def _each(found: Messages, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Messages:
    def changed(cost: Cost) -> Cost:
        return Cost(change(cost.seconds)) if isinstance(cost.seconds, np.ndarray) and cost.seconds.ndim else cost

    return Messages(changed(found.gradients), changed(found.weights), changed(found.updated))
