"""Latencies over requests, and throughput against what one user sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perfmodel.cli import format as fmt
from perfmodel.report.documents import as_document, needed, prediction_of
from perfmodel.report.repriced import Load, loads_of
from perfmodel.report.style import FILLS, canvas, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["frontier", "hourly_replicas", "load_curve", "percentiles"]

_ROWS = ("mean", "p50", "p90", "p99")
_MARKERS = "osD^vP"


@styled
def percentiles(result: Any) -> Figure:
    """TTFT and TPOT over requests: median, mean with its interval, 90th and 99th percentile, and the limits asked for.

    Raises `PlanError` where the document has none.
    """
    document = as_document(result)
    said = prediction_of(document)
    needed(said, "ttft_p50_s", "percentiles")
    limits = _limits(document)
    figure, axes = canvas(1, 2, height=2.3, sharey=True)
    for panel, name in zip(axes, ("ttft", "tpot"), strict=True):
        _draw_latency(panel, name, said, limits.get(f"{name}_s"))
    axes[0].set_yticks(range(len(_ROWS)), _ROWS)
    axes[0].invert_yaxis()
    axes[1].tick_params(axis="y", length=0)
    return figure


def _limits(document: Mapping[str, Any]) -> Mapping[str, Any]:
    request: Mapping[str, Any] = document.get("request") or {}
    return request.get("slo") or {}


def _draw_latency(axes: Axes, name: str, said: Mapping[str, Any], limit: float | None) -> None:
    values = [said[f"{name}_s"] if row == "mean" else said[f"{name}_{row}_s"] for row in _ROWS]
    most = max(*values, said[f"{name}_interval_s"][1], limit or 0.0)
    scale, unit = fmt.time_scale(most)
    for row, value in enumerate(values):
        mean = _ROWS[row] == "mean"
        fill = FILLS[3] if mean else FILLS[0]
        axes.barh(row, value / scale, height=0.62, edgecolor="black", linewidth=0.6, **fill)
        end = value
        if mean:
            low, high = said[f"{name}_interval_s"]
            axes.plot([low / scale, high / scale], [row, row], color="black", linewidth=2.5, marker="|", markersize=9)
            end = max(high, value)
        axes.annotate(
            fmt.seconds(value), (end / scale, row), (5, 0), textcoords="offset points", va="center", fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    if limit:
        axes.axvline(limit / scale, color="black", linestyle="--", linewidth=1)
        axes.set_title(f"dashed: limit {fmt.seconds(limit)}")
    axes.set_xlim(0, 1.3 * most / scale)
    axes.set_xlabel(f"{name.upper()} [{unit}]; mean with {100 * said['interval_level']:.0f} % interval")


@styled
def load_curve(result: Any) -> Figure:
    """Output tokens a second of an accelerator against tokens a second of one user, as the load grows.

    The same deployment is priced at other loads. Raises `PlanError` where the document is not about serving, is split
    into pools, or this version prices it differently.
    """
    document = as_document(result)
    said = prediction_of(document)
    needed(said, "tpot_s", "load_curve")
    loads = loads_of(document)
    figure, axes = canvas(height=3.4)
    axes.plot([one.user_tokens_per_s for one in loads], [one.accelerator_tokens_per_s for one in loads],
              color="black", marker="o", markerfacecolor="white", linewidth=1)  # fmt: skip
    _label_loads(axes, loads)
    here = (1.0 / said["tpot_s"], said["output_tokens_per_s_per_accelerator"])
    axes.plot([here[0]], [here[1]], marker="*", color="black", markersize=15)
    axes.margins(0.09)
    _name_axes(axes, document)
    axes.set_title(f"star: this document; labels: {loads[0].what}")
    return figure


def _name_axes(axes: Axes, document: Mapping[str, Any]) -> None:
    limit = _limits(document).get("tpot_s")
    axes.set_ylim(0)
    if limit:
        axes.axvline(1.0 / limit, color="black", linestyle="--", linewidth=1)
        axes.annotate(f"TPOT limit {fmt.seconds(limit)}", (1.0 / limit, 0), (-3, 5), textcoords="offset points",
                      ha="right", rotation=90, fontsize=8)  # fmt: skip
    axes.set_xlabel("tokens/s of one user (1 / mean TPOT)")
    axes.set_ylabel("output tokens/s per accelerator")
    axes.grid(linewidth=0.3, color="#bbbbbb")


@styled
def frontier(result: Any) -> Figure:
    """The best output rate of an accelerator at each speed of one user, marked by its engine; and the plan (star).

    Raises `PlanError` where the document has no frontier.
    """
    document = as_document(result)
    points = sorted(needed(document, "frontier", "frontier"), key=lambda one: one["tokens_per_s_per_user"])
    figure, axes = canvas(height=4.2)
    axes.plot(*_places(points), color="black", linewidth=0.8)
    engines = list(dict.fromkeys(one["engine"] for one in points))
    for number, engine in enumerate(engines):
        own = [one for one in points if one["engine"] == engine]
        color = "white" if number // len(_MARKERS) % 2 == 0 else "#555555"
        axes.plot(*_places(own), linestyle="", marker=_MARKERS[number % len(_MARKERS)], color=color,
                  markeredgecolor="black", markersize=7, label=engine)  # fmt: skip
    said = prediction_of(document)
    if said.get("tpot_s"):
        axes.plot([1.0 / said["tpot_s"]], [said["output_tokens_per_s_per_accelerator"]], marker="*", color="black",
                  markersize=15, linestyle="", label="the plan, at its load")  # fmt: skip
    _name_axes(axes, document)
    axes.legend(loc="upper right")
    return figure


def _places(points: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    across = [one["tokens_per_s_per_user"] for one in points]
    return across, [one["output_tokens_per_s_per_accelerator"] for one in points]


@styled
def hourly_replicas(result: Any) -> Figure:
    """Replicas for every hour of a day, and the requests that come. Raises `PlanError` where the document has none."""
    hours = needed(as_document(result), "hourly", "hourly_replicas")
    figure, axes = canvas(height=2.9)
    axes.bar([one["hour"] + 0.5 for one in hours], [one["replicas"] for one in hours], width=1.0, edgecolor="black",
             linewidth=0.6, facecolor=FILLS[2]["facecolor"])  # fmt: skip
    axes.set(xlabel="hour of the day", ylabel="replicas", xlim=(0, len(hours)), xticks=range(0, len(hours) + 1, 3))
    axes.yaxis.get_major_locator().set_params(integer=True)
    rates = axes.twinx()
    rates.plot([one["hour"] + 0.5 for one in hours], [one["arrival_rate_per_s"] for one in hours], color="black",
               marker=".", linewidth=1.2)  # fmt: skip
    rates.set_ylabel("requests/s (line)")
    rates.set_ylim(0)
    rates.spines["right"].set_visible(True)
    return figure


def _label_loads(axes: Axes, loads: Sequence[Load]) -> None:
    for one in loads:
        place = (one.user_tokens_per_s, one.accelerator_tokens_per_s)
        axes.annotate(fmt.count(one.load), place, (6, 5), textcoords="offset points", fontsize=8)
