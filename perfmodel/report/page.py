"""One self-contained HTML page of a result document."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.cli import format as fmt
from perfmodel.errors import MissingExtraError, PerfModelError
from perfmodel.report import figures, tables
from perfmodel.report.documents import kind_of, prediction_of, read_document
from perfmodel.report.figures.choices import quantity_words
from perfmodel.report.figures.timeline import shown_part
from perfmodel.report.laws import formulas_of, law
from perfmodel.report.repriced import sensitivities_of
from perfmodel.report.style import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawn", "draw", "render_report"]

_TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Drawn:
    """A figure of the page, as one `<svg>` element."""

    name: str
    title: str
    caption: str
    svg: str


def render_report(result: Any, *, label: str = "document") -> str:
    """The page of a result (a record or its document) as HTML: figures, tables, formulas, sources, no network.

    The same document gives the same bytes. Raises `SpecError` for what is no document of perfmodel and
    `MissingExtraError` without matplotlib or jinja2.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("report: needs jinja2; pip install jinja2") from None
    document = read_document(result, label)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["ticks"] = _ticks
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(**_content(document)) + "\n"


def _ticks(text: str) -> Any:
    """Names between backticks, as docstrings write them, as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def draw(document: Mapping[str, Any]) -> tuple[dict[str, Drawn], list[str]]:
    """Every figure that the document has the numbers for, by name, and why others of its kind are left out."""
    found, left_out = {}, []
    for name, title, caption, figure in _figures(document):
        try:
            found[name] = Drawn(name, title, caption, svg(figure(), name))
        except PerfModelError as error:
            left_out.append(f"{title}: left out: {error}")
    return found, left_out


_Wanted = tuple[str, str, str, Callable[[], "Figure"]]


def _figures(document: Mapping[str, Any]) -> list[_Wanted]:
    said = prediction_of(document)
    wanted: list[_Wanted] = []
    if said.get("terms"):
        caption = _WATERFALL + (_BOUNDS if "step_time_interval_s" in said else "")
        wanted.append(("waterfall", "Where the time goes", caption, lambda: figures.waterfall(document)))
    if figures.terms.held_bytes(said):
        wanted.append(("memory_bars", "Where the memory goes", _MEMORY, lambda: figures.memory_bars(document)))
    if "step_time_s" in said or "tpot_s" in said:
        wanted.append(("roofline", "The operations under the roof", _roof_caption(said),
                       lambda: figures.roofline(document)))  # fmt: skip
    if said.get("n_microbatches") and said["request"]["layout"]["pp"] > 1:
        caption = f"{_TIMELINE} Drawn: {shown_part(said)}."
        wanted.append(("timeline", "The pipeline, in small", caption, lambda: figures.pipeline_timeline(document)))
    if said.get("ttft_p50_s") is not None:
        wanted.append(("percentiles", "What requests wait", _PERCENTILES, lambda: figures.percentiles(document)))
    if said.get("tpot_s"):
        wanted.append(("load_curve", "Throughput against speed", _LOAD_CURVE, lambda: figures.load_curve(document)))
    if document.get("load_duration"):
        wanted.append(("load_duration", "The row's load", _DURATION, lambda: figures.load_duration(document)))
    if said.get("max_over_mean_load"):
        wanted.append(("balance", "Balance of the layers", _BALANCE, lambda: figures.expert_balance(document)))
    return [*wanted, *_figures_of_choices(document)]


def _figures_of_choices(document: Mapping[str, Any]) -> list[_Wanted]:
    wanted: list[_Wanted] = []
    if document.get("sensitivities"):
        wanted.append(("tornado", "What would help", _TORNADO, lambda: figures.tornado(document)))
    if document.get("alternatives"):
        if "budget" in document["alternatives"][0]:
            wanted.append(("budget", "What more buys", _BUDGET, lambda: figures.budget_curve(document)))
        else:
            wanted.append(("pareto", "The alternatives", _PARETO, lambda: figures.pareto(document)))
    return wanted


_WATERFALL = (
    "Exposed time of each term, in the order of the document; the terms sum to the whole. Hatching says what binds a "
    "term."
)
_BOUNDS = " Below: dotted, from perfect overlap to none; thick, the interval of the prediction."
_MEMORY = "Bytes on the fullest accelerator at the peak, against what a framework finds there."
_PERCENTILES = "Over requests. The interval of the mean says how sure the model is of it, not how requests differ."
_TIMELINE = (
    "An illustration with this step's passes, not the prediction: messages, embedding and head take no time, and "
    "half of the backward pass of the matrix products counts as weight gradients."
)
_LOAD_CURVE = "The same deployment under other loads, or a plan's alternatives."
_DURATION = "How long the row draws at least so much, before caps; thresholds and budget are levels of the same scale."
_BALANCE = "Load of the fullest rank over the mean of its layer; 1 is perfect balance."
_TORNADO = "Left: by elasticity, near this point. Right, or bars alone: recomputed with the changed quantity."
_PARETO = "Numbers are the rows of the table below."
_BUDGET = "The bound on accuracy at other budgets, and simpler ways to spend."


def _roof_caption(said: Mapping[str, Any]) -> str:
    if "step_time_s" in said:
        return (
            "Matrix products and attention of one layer's forward pass on one rank; traffic counts every operand and "
            "result once. Element-wise kernels do no arithmetic to speak of and are not drawn."
        )
    return (
        "Matrix products and attention of a layer on one rank, for one prompt and for a decode step of the mean batch, "
        "each kernel priced alone. Routed experts and latent attention are not drawn."
    )


def _content(document: dict[str, Any]) -> dict[str, Any]:
    said, kind = prediction_of(document), kind_of(document)
    document, estimated = _with_sensitivities(document, said)
    drawn, left_out = draw(document)
    title, subject = tables.title_of(document)
    certificate = tables.certificate_table(document)
    warnings = [*said.get("warnings", ()), *(document.get("warnings", ()) if said is not document else ())]
    return {
        "title": title,
        "subject": subject,
        "versions": (document.get("perfmodel_version", "?"), document.get("data_version", "?")),
        "document": document["document"],
        "feasible": document.get("feasible"),
        "fits": said.get("fits"),
        "because": document.get("infeasible_because") or (),
        "headline": tables.headline(document),
        "decision": tables.decision_table(document),
        "binds": _binds(document, said),
        "constraints": tables.constraints_table(document),
        "alternatives": tables.alternatives_table(document),
        "sensitivities": tables.sensitivities_table(document.get("sensitivities") or ()),
        "sensitivities_here": estimated,
        "certificate": certificate,
        "figures": drawn,
        "warnings": [_warning(one) for one in warnings],
        "notes": [*dict.fromkeys([*document.get("notes", ()), *said.get("notes", ())]), *left_out],
        "terms": list(tables.term_rows(said.get("terms") or ())),
        "laws": [law(name) for name in formulas_of(document)],
        "sources": [_source(one) for one in dict.fromkeys([*document.get("sources", ()), *said.get("sources", ())])],
        "rest": tables.leftover_tables(document),
        "request": json.dumps(document["request"], indent=2, ensure_ascii=False, allow_nan=False),
        "kind": kind,
    }


def _with_sensitivities(document: dict[str, Any], said: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A training estimate with the elasticities that a plan would bring, where this version prices it alike."""
    if kind_of(document) != "training-estimate":
        return document, False
    try:
        return {**document, "sensitivities": sensitivities_of(document)}, True
    except PerfModelError:  # the roofline, left out for the same reason, says why
        return document, False


def _binds(document: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    """One sentence on each thing that binds: the largest terms by resource, the tightest limit, memory."""
    found = [
        _shares(name, terms) for name, terms in _wholes(said.get("terms") or ()) if sum(t["seconds"] for t in terms) > 0
    ]
    limits = [one for one in document.get("constraints") or () if one["limit"]]
    if limits:
        tightest = min(limits, key=lambda one: one["slack"] / abs(one["limit"]))
        share = fmt.percent(tightest["slack"] / abs(tightest["limit"]))
        found.append(f"The tightest limit is {tightest['name'].replace('_', ' ')}: {share} of it is left.")
    for role, held in figures.terms.held_bytes(said).items():
        most = max((key for key in held if key not in ("total", "capacity")), key=lambda key: held[key])
        found.append(
            f"Memory ({role}): {fmt.bytes_(held['total'])} of {fmt.bytes_(held['capacity'])}, "
            f"most of it {most.replace('_', ' ')}."
        )
    sensed = [one for one in document.get("sensitivities") or () if "elasticity" in one]
    if sensed:
        first = max(sensed, key=lambda one: abs(one["elasticity"]))
        found.append(
            f"The answer moves most with {quantity_words(first['quantity'])}: "
            f"{first['elasticity']:+.2f} % for each 1 %."
        )
    return [line.replace(" %", "\u00a0%") for line in found]


def _wholes(terms: Any) -> list[tuple[str, Any]]:
    iterations = [term for term in terms if term["name"] in ("prefill", "decode_step")]
    return [(one["name"].replace("_", " "), one["children"]) for one in iterations] or [("step", terms)]


def _shares(name: str, terms: Any) -> str:
    """How the leaves' time divides among the resources that bind them."""
    seconds: dict[str, float] = {}
    stack = list(terms)
    while stack:
        term = stack.pop()
        stack += term["children"]
        if not term["children"]:
            seconds[term["bound_by"]] = seconds.get(term["bound_by"], 0.0) + term["seconds"]
    whole = sum(seconds.values())
    parts = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{resource} {fmt.percent(part / whole)}" for resource, part in parts if part > 0.0005 * whole)
    return f"Of a {name}, exposed time is bound by {text}."


def _warning(one: Any) -> str:
    if not isinstance(one, Mapping):
        return str(one)
    return f"{one['quantity']} = {one['value']}: outside {one['valid']} ({one['formula']})"


def _source(text: Any) -> tuple[str, str]:
    """Title and address of a source; only addresses of the web become links."""
    title, mark, address = str(text).partition(": http")
    address = f"http{address}" if mark else ""
    return (title, address) if address.startswith(("http://", "https://")) and " " not in address else (str(text), "")
