"""Layers that many candidates share: costed once on the axes of a whole space, and cut to what a block needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from perfmodel.plan.space import Block, Space
from perfmodel.predict.cost import Cost
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layer import Layer
from perfmodel.predict.step import Load
from perfmodel.predict.training import TrainingTask

__all__ = ["Loads"]

_AXIS = {"tp": 1, "cp": 2, "ep": 3, "etp": 4, "micro_batch": 6, "pp": 7}
"""Degrees on which a layer depends, and where they stand in the shape of a block."""


class Loads:
    """Blocks differ in switches that leave their layers alone: one costing serves them all."""

    def __init__(self, task: TrainingTask, space: Space) -> None:
        # The mean layer of a stage depends on where the stages are cut only where layers differ.
        self._names = [name for name in _AXIS if name != "pp" or len(task.model.layer_groups) > 1]
        self._whole: dict[bool, tuple[dict[str, Any], Load]] = {}
        self._cut: dict[tuple[Any, ...], Load] = {}
        for sequence_parallel in (False, True):
            blocks = [b.degrees for b in space.blocks if b.degrees.sequence_parallel == sequence_parallel]
            if blocks:
                self._whole[sequence_parallel] = self._costed(task, blocks)

    def _costed(self, task: TrainingTask, blocks: list[Degrees]) -> tuple[dict[str, Any], Load]:
        axes = {name: np.unique(np.concatenate([np.ravel(getattr(d, name)) for d in blocks])) for name in _AXIS}
        shaped: dict[str, Any] = {
            name: values.reshape([-1 if i == _AXIS[name] else 1 for i in range(8)]) for name, values in axes.items()
        }
        share = replace(blocks[0], **shaped).share(task.seq_len, task.steps.document_len)
        whole = task.steps.load(share, shaped["pp"])
        # Bounds and what works when are of no use for ranking.
        return axes, _mapped(whole, lambda number: number, lean=True)

    def of(self, block: Block) -> Load:
        """The layers and ends of a block."""
        d = block.degrees
        key = (d.sequence_parallel, *(getattr(d, name).tobytes() for name in self._names))
        if key not in self._cut:
            axes, whole = self._whole[d.sequence_parallel]
            taken = [
                (_AXIS[name], at)
                for name in self._names
                for at in [np.searchsorted(axes[name], np.ravel(getattr(d, name)))]
                if len(at) < len(axes[name])
            ]
            self._cut[key] = _mapped(whole, lambda number: _taken(number, taken))
        return self._cut[key]


def _taken(number: Any, taken: list[tuple[int, Any]]) -> Any:
    for axis, positions in taken:
        if isinstance(number, np.ndarray) and number.ndim == 8 and number.shape[axis] > 1:
            number = number.take(positions, axis)
    return number


def _mapped(load: Load, of: Any, *, lean: bool = False) -> Load:
    def cost(one: Cost) -> Cost:
        one = one.lean() if lean else one
        return Cost(of(one.seconds), 0.0, 0.0, of(one.compute_s), 0.0, 0.0)

    layer = load.layer
    forward, backward = ({name: cost(one) for name, one in phase.items()} for phase in (layer.forward, layer.backward))
    return Load(Layer(forward, backward, of(layer.slowdown)), (cost(load.ends[0]), cost(load.ends[1])))
