"""Where layers, embedding and head stand in a pipeline, even when they do not divide."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.ops import ceil_div, maximum, minimum
from perfmodel.predict.cost import Number

__all__ = ["Stages", "place_layers"]


@dataclass(frozen=True, slots=True)
class Stages:
    """Layers on the fullest stage, on the first, on the last, and on the average one."""

    full: Number
    first: Number
    last: Number
    average: Number


def place_layers(n_layers: int, pp: Number, vpp: Number, stage_layers: tuple[int, ...] | None = None) -> Stages:
    """Layers of each kind of stage.

    Frameworks give every chunk the same number of layers, rounded up; the slots left over are taken from the stages
    that also hold the head and the embedding, last first, one layer each (Megatron-Core's options
    account-for-loss and account-for-embedding in the pipeline split). `stage_layers` places them by hand instead.
    """
    if stage_layers is not None:
        layers = [float(count) for count in stage_layers]
        return Stages(max(layers), layers[0], layers[-1], n_layers / pp)
    full = ceil_div(n_layers, pp * vpp) * vpp
    spare = full * pp - n_layers
    last = full - minimum(spare, 1.0)
    first = full - minimum(maximum(spare - 1.0, 0.0), 1.0)
    alone = minimum(pp - 1.0, 1.0)
    return Stages(full, alone * first + (1.0 - alone) * full, alone * last + (1.0 - alone) * full, n_layers / pp)
