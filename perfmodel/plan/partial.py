"""How many layers of a stage to recompute, where all is slow and none does not fit: every number of them, exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.ops import ceil_div
from perfmodel.plan.pricing import COLUMNS, Kept, Query, keep_best, step_of
from perfmodel.plan.space import Block
from perfmodel.predict.degrees import Degrees

__all__ = ["refined"]

BATCH = 1024
"""Layouts whose numbers of layers are priced before the best value is looked at again."""


def refined(query: Query, found: list[Kept], best: float) -> list[Kept]:
    """Candidates that recompute some layers of every stage, as long as any can be better than `best`.

    Recomputing fewer layers takes less time, money and energy, so what a layout needs without recomputation is a bound
    for all its numbers of layers: layouts are taken in the order of that bound until it exceeds the best value found.
    Every number of layers is priced rather than searched, because where the head weighs on the placement of layers,
    memory need not fall with each layer more.
    """
    if query.objective == "memory":
        return []
    value = np.concatenate([one.overfull_value for one in found])
    source = np.repeat(np.arange(len(found)), [len(one.overfull) for one in found])
    position = np.concatenate([one.overfull for one in found])
    order = np.argsort(value, kind="stable")
    kept: list[Kept] = []
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        if query.bounds:
            rows = rows[value[rows] < best]
        if not len(rows):
            break
        for degrees in _columns(found, source[rows], position[rows]):
            kept += _numbers(query, degrees)
        best = min([best, *(float(one.columns[COLUMNS.index(query.column)].min()) for one in kept if one.fits)])
    return kept


def _columns(found: list[Kept], source: NDArray[np.int64], position: NDArray[np.int64]) -> list[Degrees]:
    """Candidates that share their switches, as columns of degrees with full recomputation."""
    groups: dict[tuple[int, bool], list[Degrees]] = {}
    for i in np.unique(source):
        some = found[int(i)].block.picked(position[source == i])
        groups.setdefault((some.zero_stage, some.sequence_parallel), []).append(some)
    names = ("tp", "pp", "dp", "vpp", "micro_batch", "shards", "cp", "ep", "etp")
    joined = []
    for group in groups.values():
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(one, name) for one in group])[:, None] for name in names
        }
        joined.append(replace(group[0], **columns, recompute="full"))
    return joined


def _numbers(query: Query, degrees: Degrees) -> list[Kept]:
    """Every number of layers below all of them, for the candidates that fit when all are recomputed."""
    whole = step_of(query.task, degrees).memory.total
    rows = np.flatnonzero(np.broadcast_to(whole, degrees.tp.shape)[:, 0] <= query.limits[0].most)
    stage = stage_layers(query.task.model.n_layers, degrees)[rows]
    if not len(rows) or stage.max() < 2:
        return []
    block = Block(degrees, np.ones(degrees.tp.shape, dtype=bool)).taken(0, rows)
    counts = np.arange(1.0, stage.max())[None, :]
    some = Block(replace(block.degrees, recompute_layers=counts), counts < stage)
    kept = keep_best(query, some, step_of(query.task, some.degrees))
    kept.needs = []
    return [kept]


def stage_layers(n_layers: int, degrees: Degrees) -> NDArray[np.float64]:
    """Layers of the fullest stage."""
    layers: NDArray[np.float64] = ceil_div(n_layers, degrees.pp * degrees.vpp) * degrees.vpp
    return layers
