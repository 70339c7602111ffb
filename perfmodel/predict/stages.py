"""Where layers, embedding and head stand in a pipeline, even when they do not divide."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from perfmodel.ops import ceil, ceil_div, less, maximum, minimum, where
from perfmodel.predict.cost import Number

__all__ = ["Stages", "fold", "place_layers", "relieve_head", "split_layers"]


@dataclass(frozen=True, slots=True)
class Stages:
    """Layers on the fullest stage, on the first, on the last, and on the average one."""

    full: Number
    first: Number
    last: Number
    average: Number

    def compact(self) -> Stages:
        """Without the axes along which nothing differs: what follows from the stages is then computed once for them."""
        return Stages(*(_compact(getattr(self, name)) for name in self.__dataclass_fields__))


def fold(stages: Stages, copies: float) -> Stages:
    """The same stages where the first rank holds the embedding and the head: `first` and `last` are both its layers.

    In the shape of a V it loses the slots left over at both ends; with two copies of the weights (DualPipe) it works
    half of the time on the first stage and half on the last, and so on average on the mean of both.
    """
    ends = maximum(stages.first + stages.last - stages.full, 0.0) if copies == 1.0 else (stages.first + stages.last) / 2
    return Stages(stages.full, ends, ends, stages.average)


def _compact(layers: Number) -> Number:
    if not isinstance(layers, np.ndarray):
        return layers
    for axis in range(layers.ndim):
        first = layers.take([0], axis) if layers.shape[axis] > 1 else layers
        if first is not layers and (layers == first).all():
            layers = first
    return layers


def place_layers(
    n_layers: int, pp: Number, vpp: Number, stage_layers: tuple[int, ...] | Stages | None = None
) -> Stages:
    """Layers of each kind of stage.

    Frameworks give every chunk the same number of layers, rounded up; the slots left over are taken from the stages
    that also hold the head and the embedding, last first, one layer each (Megatron-Core's options
    account-for-loss and account-for-embedding in the pipeline split). `stage_layers` places them by hand instead: all
    of them, or fullest, first and last for many layouts at once.
    """
    if isinstance(stage_layers, Stages):
        return replace(stage_layers, average=n_layers / pp)
    if stage_layers is not None:
        layers = [float(count) for count in stage_layers]
        return Stages(max(layers), layers[0], layers[-1], n_layers / pp)
    full = ceil_div(n_layers, pp * vpp) * vpp
    spare = full * pp - n_layers
    last = full - minimum(spare, 1.0)
    first = full - minimum(maximum(spare - 1.0, 0.0), 1.0)
    alone = minimum(pp - 1.0, 1.0)
    return Stages(full, alone * first + (1.0 - alone) * full, alone * last + (1.0 - alone) * full, n_layers / pp)


def relieve_head(stages: Stages, n_layers: int, pp: Number, vpp: Number, head_layers: Number) -> Stages:
    """The stages after moving layers away from the head, which costs as much as `head_layers` of them.

    As a pipeline layout does that names the chunk of every layer: whole layers move to the other stages while that
    shortens the slowest one. Stages of one chunk whose layers divide need no such layout and are left even.
    """
    others = maximum(pp - 1.0, 1.0)
    # 0 where there is one chunk a stage and no slot is left over: such stages are left even.
    needed = (vpp - 1.0) + (stages.full * pp - n_layers)
    movable = minimum(needed, pp - 1.0)
    # Where the head's stage and the others would take equally long, if layers could be cut; whole layers lie beside it.
    level = -ceil((others * head_layers - n_layers) / pp)
    best, best_slowest = stages, maximum(stages.full, stages.last + head_layers)
    for step in (-1.0, 0.0, 1.0):
        last = minimum(maximum(level + step, 0.0), stages.last)
        full = ceil_div(n_layers - last, others)
        slowest = where(less(movable, 0.5), best_slowest, maximum(full, last + head_layers))
        better = less(slowest, best_slowest)
        best = Stages(
            where(better, full, best.full),
            where(better, minimum(full, stages.first + 1.0), best.first),
            where(better, last, best.last),
            stages.average,
        )
        best_slowest = minimum(slowest, best_slowest)
    return best


def split_layers(n_layers: int, pp: int, first: int, last: int) -> tuple[int, ...]:
    """Layers of each stage: what is left between the ends is shared out evenly, longer stages later."""
    between, stages = n_layers - first - last, pp - 2
    if stages < 1:
        return (n_layers,) if stages else (first, last)
    short, longer = divmod(between, stages)
    return (first, *([short] * (stages - longer)), *([short + 1] * longer), last)
