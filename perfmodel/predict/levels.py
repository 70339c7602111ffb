"""What depends on a number of layers, evaluated at the few numbers that occur instead of for every layout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.data_parallel import Messages

__all__ = ["lean_at_levels"]

_MOST_LEVELS = 4


def lean_at_levels(messages: Callable[[Number], Messages], full: Number) -> Messages:
    """`messages(full)` without bounds, where `full` differs little along its last axis."""
    if not isinstance(full, np.ndarray) or full.ndim == 0 or full.shape[-1] <= _MOST_LEVELS:
        return messages(full).lean()
    least = full.min(axis=-1, keepdims=True)
    above = (full - least).astype(np.intp)
    levels = int(above.max()) + 1
    if levels > _MOST_LEVELS:
        return messages(full).lean()
    few = messages(least + np.arange(float(levels))).lean()

    def spread(cost: Cost) -> Cost:
        seconds = cost.seconds
        if not isinstance(seconds, np.ndarray) or seconds.shape[-1] == 1:
            return cost
        rows = np.broadcast_shapes(seconds.shape[:-1], above.shape[:-1])
        at = np.broadcast_to(above, (*rows, above.shape[-1]))
        return Cost(np.take_along_axis(np.broadcast_to(seconds, (*rows, seconds.shape[-1])), at, -1))

    return Messages(spread(few.gradients), spread(few.weights), spread(few.updated))
