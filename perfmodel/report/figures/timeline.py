"""A pipeline small enough to look at, with the passes of the prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfmodel.cli import format as fmt
from perfmodel.errors import PlanError
from perfmodel.report.documents import as_document, needed, prediction_of
from perfmodel.report.schedules import DRAWN, Pass, idle_share, replay
from perfmodel.report.style import FILLS, canvas, keys, seconds_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pass_times", "pipeline_timeline", "shown_part"]

_RANKS, _COMPARED = 4, ("1f1b", "interleaved", "zb-h1", "zb-h2")
_KINDS = {
    "F": ("forward", {"facecolor": "#d6e4f2", "hatch": None}),
    "B": ("backward", FILLS[0]),
    "W": ("weight gradients", FILLS[1]),
}
_LATER = {"F": {"facecolor": "#b9cde2"}, "B": {"facecolor": "#6e8fb3"}, "W": {}}
"""Chunks after a rank's first: between the two, so that white is idle alone."""
_NO_PRODUCTS = ("attention_core", "elementwise")


@dataclass(frozen=True)
class Times:
    """Seconds of one micro-batch on a rank: forward pass, gradients of inputs and of weights."""

    forward_s: float
    inputs_s: float
    weights_s: float


def pass_times(result: Any) -> Times:
    """The passes of one micro-batch, from the terms of a training document; raises `PlanError` for others.

    Half of the backward pass of matrix products is taken as the gradients of weights.
    """
    document = prediction_of(as_document(result))
    if "n_microbatches" not in document:
        raise PlanError("pipeline_timeline: the document has no training step")
    phases = {"forward": 0.0, "backward": 0.0, "recompute": 0.0}
    weights = 0.0
    for term in needed(document, "terms", "pipeline_timeline"):
        for part in term["children"]:
            if part["name"] in phases:
                phases[part["name"]] += part["seconds"]
                if (term["name"], part["name"]) == ("layers", "backward"):
                    weights = sum(one["seconds"] for one in part["children"] if one["name"] not in _NO_PRODUCTS) / 2
    one = 1.0 / document["n_microbatches"]
    inputs = phases["backward"] + phases["recompute"] - weights
    return Times(phases["forward"] * one, inputs * one, weights * one)


@styled
def pipeline_timeline(result: Any) -> Figure:
    """Small pipelines under the document's schedule and others, with its passes; an illustration, not the prediction.

    At most four ranks and eight micro-batches; messages and the ends take no time. Raises `PlanError` where there is
    no pipeline.
    """
    document = prediction_of(as_document(result))
    times = pass_times(document)
    layout = document["request"]["layout"]
    if layout["pp"] < 2:
        raise PlanError("pipeline_timeline: the layout has no pipeline (pp is 1)")
    ranks = min(_RANKS, layout["pp"])
    own, batches = layout["schedule"], 2 * ranks
    chosen = (*((own,) if own in DRAWN else ()), *(name for name in _COMPARED if name != own))
    vpp = {name: layout["vpp"] if name == own else 2 for name in chosen}
    drawn = [
        replay(name, ranks, batches, times.forward_s, times.inputs_s, times.weights_s, vpp[name]) for name in chosen
    ]
    figure, axes = canvas(len(chosen), squeeze=False, sharex=True, height=0.55 + len(chosen) * (0.34 + 0.17 * ranks))
    for panel, name, passes in zip(axes[:, 0], chosen, drawn, strict=True):
        said = f"{name}{f', {vpp[name]} chunks' if name == 'interleaved' else ''}"
        mark = " (the plan's)" if name == own else ""
        panel.set_title(f"{said}{mark}: ranks idle {fmt.percent(idle_share(passes, ranks))}", pad=3)
        _draw_passes(panel, passes, ranks)
    longest = max(one.end_s for passes in drawn for one in passes)
    axes[-1, 0].set_xlim(0, longest)
    seconds_axis(axes[-1, 0].xaxis, longest, "time")
    figure.legend(handles=keys(dict(_KINDS.values())), loc="outside lower center", ncols=4)
    return figure


def _draw_passes(axes: Axes, passes: Sequence[Pass], ranks: int) -> None:
    chunks = 1 + max(one.chunk for one in passes)
    for rank in range(ranks):
        for kind, (_, fill) in _KINDS.items():
            own = [one for one in passes if (one.rank, one.kind) == (rank, kind)]
            for later, part in _by_chunk(own):
                look = fill | (_LATER[kind] if later else {})
                axes.broken_barh(part, (rank - 0.44, 0.88), edgecolor="black", linewidth=0.4 / chunks, **look)
        for one in passes:
            if chunks <= 2 and (one.rank, one.kind, one.chunk) == (rank, "F", 0):
                middle = (one.start_s + one.end_s) / 2
                axes.text(middle, rank, str(one.microbatch + 1), ha="center", va="center_baseline", fontsize=5.5)
    axes.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)], fontsize=7)
    axes.set_ylim(ranks - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _by_chunk(passes: Sequence[Pass]) -> Iterator[tuple[bool, list[tuple[float, float]]]]:
    for later in (False, True):
        part = [(one.start_s, one.end_s - one.start_s) for one in passes if (one.chunk > 0) == later]
        if part:
            yield later, part


def shown_part(document: Mapping[str, Any]) -> str:
    """What of the pipeline is drawn, for the caption."""
    layout = document["request"]["layout"]
    ranks = min(_RANKS, layout["pp"])
    return f"{ranks} of {layout['pp']} ranks and {2 * ranks} of {document['n_microbatches']} micro-batches"
