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

__all__ = ["load_curve", "percentiles"]

_ROWS = ("mean", "p50", "p90", "p99")


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
    scale = most / float(fmt.seconds_beside(most, most, 4).replace(",", ""))
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
            fmt.seconds(value), (end / scale, row), (5, 0), textcoords="offset points", va="center", fontsize=8
        )
    if limit:
        axes.axvline(limit / scale, color="black", linestyle="--", linewidth=1)
        axes.annotate(f"limit {fmt.seconds(limit)}", (limit / scale, -0.62), (-3, 0), textcoords="offset points",
                      ha="right", fontsize=8)  # fmt: skip
    axes.set_xlim(0, 1.3 * most / scale)
    axes.set_xlabel(f"{name.upper()} [{fmt.time_unit(most)}]; mean with {100 * said['interval_level']:.0f} % interval")


@styled
def load_curve(result: Any) -> Figure:
    """Output tokens a second of an accelerator against tokens a second of one user, as the load grows.

    Points are the alternatives of a plan where it has them; else the same deployment is priced at other loads. Raises
    `PlanError` where the document is not about serving or this version prices it differently.
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
    limit = _limits(document).get("tpot_s")
    if limit:
        axes.axvline(1.0 / limit, color="black", linestyle="--", linewidth=1)
        axes.annotate(f"TPOT limit {fmt.seconds(limit)}", (1.0 / limit, axes.get_ylim()[1]), (3, -9),
                      textcoords="offset points", fontsize=8)  # fmt: skip
    axes.margins(0.09)
    axes.set_ylim(0)
    axes.set_xlabel("tokens/s of one user (1 / mean TPOT)")
    axes.set_ylabel("output tokens/s per accelerator")
    axes.grid(linewidth=0.3, color="#bbbbbb")
    axes.set_title(f"star: this document; labels: {loads[0].what}")
    return figure


def _label_loads(axes: Axes, loads: Sequence[Load]) -> None:
    for one in loads:
        place = (one.user_tokens_per_s, one.accelerator_tokens_per_s)
        axes.annotate(fmt.count(one.load), place, (6, 5), textcoords="offset points", fontsize=8)
