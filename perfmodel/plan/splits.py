"""Pipelines whose first and last stages hold fewer layers than the others, by choice."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_FEWER", "splits_of"]

MOST_FEWER = 4
"""Layers by which the first and the last stage are relieved at most: an embedding, a head, a micro-batch in flight."""


@lru_cache(maxsize=1024)
def splits_of(n_layers: int, pp: int) -> NDArray[np.float64]:
    """Splits as rows (fullest, first, last), each with as many columns.

    Stages between the first and the last are alike, so their share and these three numbers are all that matters: the
    fullest stage holds as few layers as the relief of the ends allows, and no split is another one with idle slots.
    """
    if pp < 2:
        return np.zeros((3, 0))
    spare = -n_layers % pp
    even = -(-n_layers // pp)
    # Where the slots that are left over come from without any choice (`place_layers`).
    found, default = set(), (even, even - min(max(spare - 1, 0), 1), even - min(spare, 1))
    for fewer_first, fewer_last in product(range(MOST_FEWER + 1), repeat=2):
        full = -(-(n_layers + fewer_first + fewer_last) // pp)
        first, last = full - fewer_first, full - fewer_last
        between = n_layers - first - last
        if min(first, last, between) < 0:
            continue
        tallest = -(-between // (pp - 2)) if pp > 2 else 0
        if max(first, last, tallest) == full and (pp > 2 or between == 0):
            found.add((full, first, last))
    return np.array(sorted(found - {default}), dtype=np.float64).reshape(-1, 3).T
