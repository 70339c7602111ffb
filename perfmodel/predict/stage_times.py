"""What one micro-batch takes in every stage of a pipeline: layers that need not divide, embedding first, head last."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.dual import plain
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.schedules import DUALPIPE, FOLDED, V_SHAPED
from perfmodel.predict.stages import split_layers
from perfmodel.predict.step import StageTurn

__all__ = ["StageTime", "placed_layers", "stage_times"]


@dataclass(frozen=True)
class StageTime:
    """One stage (of folded schedules: one rank): its layers, and seconds of a micro-batch, all passes [s]."""

    layers: float
    seconds: float


def placed_layers(turn: StageTurn, layout: ParallelLayout, n_layers: int) -> tuple[int, ...] | None:
    """Whole layers of each stage: given by hand, or as placed (None: stages that are folded into one another)."""
    if layout.schedule in FOLDED:
        return None
    first, last = int(plain(turn.stages.first)), int(plain(turn.stages.last))
    return layout.stage_layers or split_layers(n_layers, layout.pp, first, last)


def stage_times(turn: StageTurn, layout: ParallelLayout, n_layers: int) -> tuple[StageTime, ...]:
    """Every stage in order; the slowest takes what the step model makes the pace of the pipeline."""
    ends_s = turn.head_s + turn.embedding_s
    layers = _layers(turn, layout, n_layers)
    seconds = [float(n * turn.layer_s) for n in layers]
    if isinstance(layout.recompute_layers, tuple):
        whole_s = turn.layer_s - turn.repeated * turn.again_s
        seconds = [
            float(n * whole_s + some * turn.again_s) for n, some in zip(layers, layout.recompute_layers, strict=True)
        ]
    if layout.schedule in V_SHAPED:
        seconds[0] += ends_s
    elif layout.schedule == DUALPIPE:  # the pair of stages works half of the time on each
        seconds[0] += ends_s / 2.0
        seconds[-1] += ends_s / 2.0
    else:
        seconds[0] += turn.embedding_s
        seconds[-1] += turn.head_s
    return tuple(StageTime(n, taken) for n, taken in zip(layers, seconds, strict=True))


def _layers(turn: StageTurn, layout: ParallelLayout, n_layers: int) -> list[float]:
    """Layers of each stage; of folded ones as even as whole layers can be behind the first."""
    if (placed := placed_layers(turn, layout, n_layers)) is not None:
        return [float(count) for count in placed]
    first = float(turn.stages.first)
    if layout.schedule in V_SHAPED:
        return [first, *_even(n_layers - first, layout.pp - 1)]
    # DualPipe: both ranks of a pair hold the same two stages.
    half = [first, *_even(n_layers / 2.0 - first, layout.pp // 2 - 1)]
    return [*half, *reversed(half)]


def _even(layers: float, stages: int) -> list[float]:
    """Layers over stages as evenly as whole layers can be, the fuller ones first."""
    if not float(layers).is_integer():
        return [layers / stages] * stages
    return [float(layers // stages + (at < layers % stages)) for at in range(stages)]
