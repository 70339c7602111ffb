"""Where the time goes, and where the memory goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfmodel.cli import format as fmt
from perfmodel.report.documents import as_document, needed, prediction_of
from perfmodel.report.style import BOUND_BY, FILLS, PLAIN, canvas, keys, seconds_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["held_bytes", "iterations", "memory_bars", "terms_of", "waterfall"]

_OPENED = 0.3
"""A term of more than this share of the whole is drawn as its parts."""
_SMALLEST = 0.001
_ITERATIONS = ("prefill", "decode_step")
_ROLES = ("prefill", "decode")
"""Of a disaggregated deployment."""
_HELD = ("weights", "gradients", "optimizer", "kv_cache", "activations", "workspace")


@dataclass(frozen=True)
class _Bar:
    name: str
    seconds: float
    bound_by: str


@styled
def waterfall(result: Any) -> Figure:
    """The exposed terms of a step one after the other, hatched by what binds them; of serving, those of an iteration.

    Below a training step stand the bounds of perfect and of no overlap and the interval of the prediction. Raises
    `PlanError` where the document has no terms.
    """
    document = prediction_of(as_document(result))
    groups = iterations(document)
    needed({"terms": groups}, "terms", "waterfall")
    bars = [_bars(inner) for _, inner in groups]
    rows = sum(len(one) + 2 for one in bars)
    figure, axes = canvas(
        len(groups), squeeze=False, height=0.27 * rows + 1.0,
        gridspec_kw={"height_ratios": [len(one) + 2 for one in bars]},
    )  # fmt: skip
    for panel, (name, _), found in zip(axes[:, 0], groups, bars, strict=True):
        _draw_waterfall(panel, name.replace("_", " "), found, document if name == "step" else {})
    used = {bar.bound_by for found in bars for bar in found}
    fills = {name: fill for name, fill in BOUND_BY.items() if name in used}
    figure.legend(handles=keys(fills), loc="outside lower center", ncols=6, title="bound by")
    return figure


def iterations(document: Mapping[str, Any]) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """The wholes whose terms a prediction breaks down: a training step, or the iterations of a server; maybe none."""
    found = terms_of(document)
    serving = [(term["name"], term["children"]) for term in found if term["name"] in _ITERATIONS]
    return serving or ([("step", found)] if found else [])


def terms_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The terms of a prediction, or those of the roles of a split deployment."""
    parts = [document, *(document[role] for role in _ROLES if isinstance(document.get(role), Mapping))]
    return [term for part in parts for term in part.get("terms") or ()]


def _bars(terms: Sequence[Mapping[str, Any]]) -> list[_Bar]:
    """Terms in their order; large ones as their parts, tiny ones as one."""
    whole = sum(term["seconds"] for term in terms) or 1.0
    found, rest = [], 0.0
    for term in terms:
        parts = term["children"] if term["children"] and term["seconds"] > _OPENED * whole else ()
        for part in parts or (term,):
            name = f"{term['name']}: {part['name']}" if parts else part["name"]
            if part["seconds"] < _SMALLEST * whole:
                rest += part["seconds"]
            else:
                found.append(_Bar(name.replace("_", " "), part["seconds"], part["bound_by"]))
    return [*found, _Bar("all smaller ones", rest, "")] if rest > 0 else found


def _draw_waterfall(axes: Axes, name: str, bars: list[_Bar], bounds: Mapping[str, Any]) -> None:
    whole = sum(bar.seconds for bar in bars)
    left = 0.0
    for row, bar in enumerate(bars):
        axes.barh(row, bar.seconds, left=left, height=0.72, edgecolor="black", linewidth=0.6, **_fill(bar.bound_by))
        text = f"{fmt.seconds_beside(bar.seconds, whole)} · {fmt.percent(bar.seconds / whole)}"
        _beside(axes, left, left + bar.seconds, row, text, whole)
        left += bar.seconds
        axes.plot([left, left], [row + 0.36, row + 0.64], color="black", linewidth=0.6)
    last = len(bars)
    axes.barh(last, whole, height=0.72, edgecolor="black", linewidth=0.9, **PLAIN)
    axes.text(0.01 * whole, last, fmt.seconds(whole), va="center", weight="bold")
    rows, most = [*(bar.name for bar in bars), name], whole
    if "step_time_interval_s" in bounds:
        low, high = bounds["step_time_interval_s"]
        lower, upper = bounds["step_time_lower_s"], bounds["step_time_upper_s"]
        below = last + 1
        axes.plot([lower, upper], [below, below], color="black", linewidth=0.8, linestyle=":")
        axes.plot([low, high], [below, below], color="black", linewidth=3.5, solid_capstyle="butt")
        axes.plot([lower, upper], [below, below], color="black", linestyle="", marker="|", markersize=10)
        axes.plot([whole], [below], color="white", markeredgecolor="black", marker="D", markersize=5)
        rows.append(f"bounds, {100 * bounds['interval_level']:.0f} % interval")
        most = max(upper, high, whole)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlim(0, most * (1.04 if most > 1.15 * whole else 1.17))
    seconds_axis(axes.xaxis, whole, "exposed time")
    axes.grid(axis="x", linewidth=0.3, color="#bbbbbb")


def _beside(axes: Axes, start: float, end: float, row: int, text: str, whole: float) -> None:
    """A label right of a bar, left of one that ends far right."""
    if end < 0.8 * whole or start < 0.25 * whole:
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    else:
        axes.annotate(text, (start, row), (-4, 0), textcoords="offset points", va="center", ha="right", fontsize=8)


def _fill(bound_by: str) -> dict[str, Any]:
    return BOUND_BY.get(bound_by, PLAIN)


def held_bytes(document: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """`memory_bytes` of a prediction by role; roles of a deployment are tables with memory of their own."""
    found = document.get("memory_bytes")
    if isinstance(found, Mapping):
        return {"fullest accelerator": found}
    return {
        name.replace("_", " "): part["memory_bytes"]
        for name, part in document.items()
        if isinstance(part, Mapping) and isinstance(part.get("memory_bytes"), Mapping)
    }


@styled
def memory_bars(result: Any) -> Figure:
    """What the fullest accelerator holds, against what it has; one bar for each role. Raises `PlanError`."""
    document = prediction_of(as_document(result))
    roles = held_bytes(document)
    if not roles:
        needed(document, "memory_bytes", "memory_bars")
    figure, axes = canvas(height=1.25 + 0.75 * len(roles))
    used: dict[str, dict[str, Any]] = {}
    for row, held in enumerate(roles.values()):
        _draw_memory(axes, row, held, used)
    most = max(max(held["capacity"], held["total"]) for held in roles.values())
    axes.set_xlim(0, 1.09 * most / 1e9)
    axes.set_ylim(len(roles) - 0.35, -0.75)
    axes.set_yticks(range(len(roles)), [name.replace(" ", "\n", 1) for name in roles])
    axes.set_xlabel("GB")
    figure.legend(handles=keys(used), loc="outside lower center", ncols=len(used))
    return figure


def _draw_memory(axes: Axes, row: int, held: Mapping[str, float], used: dict[str, dict[str, Any]]) -> None:
    left, room = 0.0, 0.07 * max(held["capacity"], held["total"]) / 1e9
    for name, fill in zip(_HELD, (*FILLS[:3], FILLS[2], *FILLS[3:5]), strict=True):
        size = held.get(name, 0.0) / 1e9
        if size <= 0:
            continue
        axes.barh(row, size, left=left, height=0.5, edgecolor="black", linewidth=0.6, **fill)
        used[name.replace("_", " ")] = fill
        if size > room:
            axes.text(left + size / 2, row, fmt.significant(size), ha="center", va="center", fontsize=8,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2})  # fmt: skip
        left += size
    capacity = held["capacity"] / 1e9
    axes.plot([capacity, capacity], [row - 0.42, row + 0.42], color="black", linewidth=2)
    slack = capacity - left
    said = f"{fmt.significant(capacity)} GB, {fmt.significant(abs(slack))} {'free' if slack >= 0 else 'too much'}"
    axes.text(capacity, row - 0.46, said, ha="right", va="bottom", fontsize=8)
