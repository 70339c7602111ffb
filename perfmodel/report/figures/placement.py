"""Figures of rows of servers and of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perfmodel.report.documents import as_document, needed
from perfmodel.report.style import FILLS, canvas, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["expert_balance", "load_duration"]


@styled
def load_duration(result: Any) -> Figure:
    """The load duration curve of a row as it is and with the servers of the plan, with thresholds and the budget.

    Raises `PlanError` where the document has no curve.
    """
    document = as_document(result)
    curve = needed(document, "load_duration", "load_duration")
    share = [100.0 * one for one in curve["time_share"]]
    figure, axes = canvas(height=3.5)
    axes.plot(share, [100 * level for level in curve["level"]], color="black", linestyle="--")
    _beside(axes, share, [100 * level for level in curve["level"]], "as it stands")
    made = document.get("decision")
    if made:
        grown = [100 * (1 + made["added_servers_fraction"]) * level for level in curve["level"]]
        axes.plot(share, grown, color="black")
        _beside(axes, share, grown, f"{made['added_servers']} more servers, before caps")
        for number, threshold in enumerate(made["thresholds"], 1):
            axes.axhline(100 * threshold, color="black", linestyle=":", linewidth=0.9)
            axes.annotate(f"threshold {number}, {100 * threshold:.0f} %", (100, 100 * threshold), (-3, 3),
                          textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    axes.axhline(100, color="black", linewidth=1.6)
    axes.annotate("budget: brake", (100, 100), (-3, 3), textcoords="offset points", ha="right", fontsize=8)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of time at or above [%]")
    axes.set_ylabel("power [% of the budget]")
    return figure


def _beside(axes: Axes, share: Sequence[float], levels: Sequence[float], text: str) -> None:
    """A curve's name above its middle."""
    middle = len(share) // 2
    axes.annotate(text, (share[middle], levels[middle]), (6, 5), textcoords="offset points", fontsize=8)


@styled
def expert_balance(result: Any) -> Figure:
    """Load of the fullest rank over the mean, by layer, beside what no placement goes below. Raises `PlanError`."""
    document = as_document(result)
    said = needed(document, "prediction", "expert_balance")
    found = needed(said, "max_over_mean_load", "expert_balance")
    figure, axes = canvas(height=2.9)
    layers = range(len(found))
    axes.bar(layers, [one - 1 for one in found], bottom=1, width=0.8, edgecolor="black", linewidth=0.4,
             facecolor=FILLS[2]["facecolor"])  # fmt: skip
    bound = said.get("max_over_mean_load_bound")
    if bound:
        axes.plot(layers, bound, color="black", drawstyle="steps-mid", linewidth=1.6, label="no placement is below")
    today = said.get("max_over_mean_load_today")
    if today:
        axes.axhline(today, color="black", linestyle="--", linewidth=1, label="today, mean over layers")
    if bound or today:
        axes.legend()
    axes.set_ylim(1 - 0.04 * (max(found) - 1 or 1))
    axes.set_xlabel("layer")
    axes.set_ylabel("fullest rank over mean")
    return figure
