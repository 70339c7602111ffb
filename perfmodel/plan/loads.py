"""Layers that many rows share: costed once on the axes of a whole space, and looked up row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfmodel.plan.space import Space
from perfmodel.predict.cost import Cost
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layer import Layer
from perfmodel.predict.step import Load
from perfmodel.predict.training_task import TrainingTask

__all__ = ["Loads"]

_AXES = ("tp", "cp", "ep", "etp", "micro_batch", "pp")
"""Degrees on which a layer depends; of `pp` only whether there is a pipeline."""


class Loads:
    """Rows differ in degrees and switches that leave their layers alone: one costing serves them all.

    `busy` says whether energy is asked for, beside the time that passes.
    """

    def __init__(self, task: TrainingTask, space: Space, *, busy: bool = False) -> None:
        def used(name: str) -> Any:
            tables = {id(block.base): block.base for block in space.blocks}.values()
            columns: list[Any] = [table[name] for table in tables if name in table]
            found = np.unique(np.concatenate(columns or [[getattr(block, name) for block in space.blocks]]))
            return np.unique(np.minimum(found, 2.0)) if name == "pp" else found

        self._values = {name: used(name) for name in _AXES}
        shaped = {
            name: values.reshape([-1 if i == axis else 1 for i in range(len(_AXES))])
            for axis, (name, values) in enumerate(self._values.items())
        }
        self._whole: dict[bool, Load] = {}
        self._weight_gradient: dict[bool, Cost] = {}
        for sequence_parallel in (False, True):
            degrees = Degrees(**shaped, dp=1.0, vpp=1.0, shards=1.0, sequence_parallel=sequence_parallel)
            share = task.steps.share(degrees, task.seq_len)
            load = task.steps.load(share, shaped["pp"], task.steps.planned_modules)
            self._whole[sequence_parallel] = load.lean(task.steps.device_power.draw if busy else None)
            self._weight_gradient[sequence_parallel] = load.layer.weight_gradient

    def of(self, rows: Mapping[str, Any], sequence_parallel: bool, axes: int) -> Load:
        """The layers and ends of some rows, as columns before `axes - 1` axes of length one; numbers give numbers."""
        at = [
            np.searchsorted(values, np.minimum(rows[name], 2.0) if name == "pp" else rows[name])
            for name, values in self._values.items()
        ]
        shape = (-1,) + (1,) * (axes - 1)

        def taken(number: Any) -> Any:
            if not isinstance(number, np.ndarray):
                return number
            where = tuple(position if size > 1 else 0 for position, size in zip(at, number.shape, strict=True))
            found = number[where]
            return found.reshape(shape) if np.ndim(found) else float(found)

        def cost(one: Cost) -> Cost:
            return Cost(taken(one.seconds), loaded_s=taken(one.loaded_s))

        def costs(phase: dict[str, Cost]) -> dict[str, Cost]:
            return {name: cost(one) for name, one in phase.items()}

        whole = self._whole[sequence_parallel]
        gradient = ((cost(self._weight_gradient[sequence_parallel]), 1.0),)
        block = Layer(costs(whole.layer.forward), costs(whole.layer.backward), weight_gradients=gradient)
        repeated = {kind: costs(one) for kind, one in whole.repeated.items()}
        return Load(block, (cost(whole.ends[0]), cost(whole.ends[1])), repeated, whole.draw)
