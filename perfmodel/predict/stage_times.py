"""What one micro-batch takes in every stage of a pipeline: layers that need not divide, embedding first, head last."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.schedules import DUALPIPE, V_SHAPED
from perfmodel.predict.step import StageTurn

__all__ = ["StageTime", "stage_times"]


@dataclass(frozen=True)
class StageTime:
    """One stage (of folded schedules: one rank): its layers, and seconds of a micro-batch, all passes [s]."""

    layers: float
    seconds: float


def stage_times(turn: StageTurn, layout: ParallelLayout, n_layers: int) -> tuple[StageTime, ...]:
    """Every stage in order; the slowest takes what the step model makes the pace of the pipeline."""
    ends_s = turn.head_s + turn.embedding_s
    layers = _layers(turn, layout, n_layers)
    extra = [0.0] * len(layers)
    if layout.schedule in V_SHAPED:
        extra[0] = ends_s
    elif layout.schedule == DUALPIPE:  # the pair of stages works half of the time on each
        extra[0] = extra[-1] = ends_s / 2.0
    else:
        extra[0], extra[-1] = extra[0] + turn.embedding_s, extra[-1] + turn.head_s
    return tuple(StageTime(n, float(n * turn.layer_s + more)) for n, more in zip(layers, extra, strict=True))


def _layers(turn: StageTurn, layout: ParallelLayout, n_layers: int) -> list[float]:
    """Layers of each stage: given by hand, or the ends as placed and the others as even as whole layers can be."""
    if layout.stage_layers is not None:
        return [float(count) for count in layout.stage_layers]
    first, last = float(turn.stages.first), float(turn.stages.last)
    if layout.pp == 1:
        return [float(n_layers)]
    if layout.schedule in V_SHAPED:
        return [first, *_even(n_layers - first, layout.pp - 1)]
    if layout.schedule == DUALPIPE:  # both ranks of a pair hold the same two stages
        half = [first, *_even(n_layers / 2.0 - first, layout.pp // 2 - 1)]
        return [*half, *reversed(half)]
    return [first, *_even(n_layers - first - last, layout.pp - 2), last]


def _even(layers: float, stages: int) -> list[float]:
    """Layers over stages as evenly as whole layers can be, the fuller ones first."""
    if not float(layers).is_integer():
        return [layers / stages] * stages
    return [float(layers // stages + (at < layers % stages)) for at in range(stages)]
