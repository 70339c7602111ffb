"""The stage that sets the pace of a pipeline, and what recomputation adds to it and to the mean stage."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.ops import less, minimum, where
from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layer import Layer, Turn
from perfmodel.predict.schedules import FOLDED
from perfmodel.predict.stages import Stages

__all__ = ["Repeats", "head_seconds", "repeats_of", "slowest_stage"]


@dataclass(frozen=True, slots=True)
class Repeats:
    """Shares of the layers that full recomputation runs again [1]: on the slowest stage, and on the mean one.

    `stage` is the slowest stage where each repeats a number of its own; otherwise their layers alone tell (None).
    """

    slowest: Number
    mean: Number
    stage: int | None = None


def repeats_of(d: Degrees, full: Number, block: Layer, again: Cost, head_s: Number) -> Repeats:
    """What is repeated where the fullest stage has `full` layers.

    `again` is what recomputation repeats of a layer; the last stage takes `head_s` [s] beside its layers. One number
    for all stages is taken to be the same share of each, which a stage of fewer layers exceeds a little.
    """
    if isinstance(d.recompute_layers, tuple):
        layers, layer_s = _placed(d), Turn.of(block, {}).all.seconds
        seconds = [n * layer_s + some * again.seconds for n, some in zip(layers, d.recompute_layers, strict=True)]
        seconds[-1] += head_s
        stage = max(range(len(layers)), key=seconds.__getitem__)
        share = d.recompute_layers[stage] / max(layers[stage], 1)
        return Repeats(share, sum(d.recompute_layers) / sum(layers), stage)
    if d.recompute != "full":
        return Repeats(0.0, 0.0)
    share = 1.0 if d.recompute_layers is None else minimum(1.0, d.recompute_layers / full)
    return Repeats(share, share)


def slowest_stage(
    d: Degrees, stages: Stages, repeats: Repeats, layer_s: Number, head_s: Number
) -> tuple[Number, Number]:
    """Layers of the slowest stage, and 1 where that stage also holds the head, which takes `head_s` more."""
    if repeats.stage is not None:
        layers = _placed(d)
        return float(layers[repeats.stage]), float(repeats.stage == len(layers) - 1)
    elsewhere = less(stages.last * layer_s + head_s, stages.full * layer_s)
    return where(elsewhere, stages.full, stages.last), where(elsewhere, 0.0, 1.0)


def head_seconds(ends: tuple[Cost, Cost], d: Degrees) -> Number:
    """Seconds of a micro-batch beside the layers on the rank with the head."""
    if d.schedule in FOLDED:
        return (ends[0].seconds + ends[1].seconds) / d.weight_copies
    return ends[0].seconds


def _placed(d: Degrees) -> tuple[int, ...]:
    assert isinstance(d.stage_layers, tuple)
    return d.stage_layers
