"""Which figures a document has the numbers for, with their titles and captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfmodel.errors import PerfModelError, PlanError, unknown_name
from perfmodel.report import figures
from perfmodel.report.documents import kind_of, prediction_of, read_document
from perfmodel.report.figures.terms import held_bytes, iterations
from perfmodel.report.figures.timeline import shown_part
from perfmodel.report.repriced import sensitivities_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "completed", "figure", "pictures_of"]


@dataclass(frozen=True)
class Picture:
    """One figure of a document; `draw` takes the document."""

    title: str
    caption: str
    draw: Callable[[Any], Figure]


def figure(result: Any, name: str = "", *, label: str = "document") -> Figure:
    """The figure of that name of a result (a record or its document).

    Raises `SpecError` for what is no document of perfmodel, `PlanError` for a figure that it does not have, and
    `MissingExtraError` without matplotlib.
    """
    document = completed(read_document(result, label))
    known = pictures_of(document)
    said = f"this document has {', '.join(known) or 'none'}"
    if not name:
        raise PlanError(f"figure: which one; {said}")
    if name not in figures.__all__:
        raise PlanError(unknown_name("figure", name, known or figures.__all__))
    if name not in known:
        raise PlanError(f"{label}: no {name} in a {kind_of(document).replace('-', ' ')}; {said}")
    return known[name].draw(document)


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """A training estimate with the elasticities that a plan would bring, where this version prices it alike."""
    if kind_of(document) != "training-estimate":
        return document
    try:
        return {**document, "sensitivities": sensitivities_of(document)}
    except PerfModelError:  # the roofline, left out for the same reason, says why
        return document


def pictures_of(document: Mapping[str, Any]) -> dict[str, Picture]:
    """Every figure that the document has the numbers for, by the name of its function in `figures`."""
    said = prediction_of(document)
    found = [*_of_a_step(said), *_of_serving(document, said), *_of_places(document, said), *_of_choices(document)]
    return {picture.draw.__name__: picture for picture in found}


def _of_a_step(said: Mapping[str, Any]) -> Iterator[Picture]:
    if iterations(said):
        caption = _WATERFALL + (_BOUNDS if "step_time_interval_s" in said else "")
        yield Picture("Where the time goes", caption, figures.waterfall)
    if held_bytes(said):
        yield Picture("Where the memory goes", _MEMORY, figures.memory_bars)
    if said.get("terms") and ("step_time_s" in said or "ttft_s" in said):
        caption = _TRAINING_ROOF if "step_time_s" in said else _SERVING_ROOF
        yield Picture("The operations under the roof", caption, figures.roofline)
    if said.get("terms") and said.get("n_microbatches") and said["request"]["layout"]["pp"] > 1:
        caption = f"{_TIMELINE} Drawn: {shown_part(said)}."
        yield Picture("The pipeline, in small", caption, figures.pipeline_timeline)


def _of_serving(document: Mapping[str, Any], said: Mapping[str, Any]) -> Iterator[Picture]:
    if said.get("ttft_p50_s") is not None:
        yield Picture("What requests wait", _PERCENTILES, figures.percentiles)
    if said.get("ttft_s") and said.get("terms"):
        yield Picture("Throughput against speed", _LOAD_CURVE, figures.load_curve)
    if document.get("frontier"):
        yield Picture("Every engine's best", _FRONTIER, figures.frontier)
    if document.get("hourly"):
        yield Picture("A day", _HOURLY, figures.hourly_replicas)


def _of_places(document: Mapping[str, Any], said: Mapping[str, Any]) -> Iterator[Picture]:
    if document.get("load_duration"):
        yield Picture("The row's load", _DURATION, figures.load_duration)
    if said.get("max_over_mean_load"):
        yield Picture("Balance of the layers", _BALANCE, figures.expert_balance)


def _of_choices(document: Mapping[str, Any]) -> Iterator[Picture]:
    if document.get("sensitivities") or kind_of(document) in ("elasticities", "serving-elasticities"):
        yield Picture("What would help", _TORNADO, figures.tornado)
    alternatives = document.get("alternatives")
    if not alternatives:
        return
    if "budget" in alternatives[0]:
        yield Picture("What more buys", _BUDGET, figures.budget_curve)
    elif "training_cost" in alternatives[0]:
        yield Picture("What the budget goes to", _SPENDING, figures.spending)
    else:
        yield Picture("The alternatives", _PARETO, figures.pareto)


_WATERFALL = (
    "Exposed time of each term, in the order of the document; the terms sum to the whole. Hatching says what binds a "
    "term."
)
_BOUNDS = " Below: dotted, from perfect overlap to none; thick, the interval of the prediction."
_MEMORY = "Bytes on the fullest accelerator at the peak, against what a framework finds there."
_TRAINING_ROOF = (
    "Matrix products and attention of one layer's forward pass on one rank; traffic counts every operand and result "
    "once. Element-wise kernels do no arithmetic to speak of and are not drawn."
)
_SERVING_ROOF = (
    "Matrix products and attention of a layer on one rank, for one prompt and for a decode step of the mean batch, "
    "each kernel priced alone. Routed experts and latent attention are not drawn."
)
_TIMELINE = (
    "An illustration with this step's passes, not the prediction: messages, embedding and head take no time, and "
    "half of the backward pass of the matrix products counts as weight gradients."
)
_PERCENTILES = "Over requests. The interval of the mean says how sure the model is of it, not how requests differ."
_LOAD_CURVE = "The same deployment under other loads."
_FRONTIER = "The most that an accelerator gives at each speed of one user, with the engine that gives it."
_HOURLY = "Replicas that keep the limits in each hour of the day, and the requests that come."
_DURATION = "How long the row draws at least so much, before caps; thresholds and budget are levels of the same scale."
_BALANCE = "Load of the fullest rank over the mean of its layer; 1 is perfect balance."
_TORNADO = "By elasticity, near this point; where there is more, recomputed with the changed quantity."
_PARETO = "Numbers are the rows of the table below."
_BUDGET = "The bound on accuracy at other budgets, and simpler ways to spend."
_SPENDING = "The plan and its alternatives: what training and serving take of the budget, and the loss that it gives."
