"""What a budget buys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.cli import format as fmt
from perfmodel.report.documents import as_document, needed
from perfmodel.report.style import FILLS, canvas, keys, plain_log_ticks, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["budget_curve", "spending"]

_PARTS = {"training": FILLS[0], "serving": FILLS[1]}


@styled
def budget_curve(result: Any) -> Figure:
    """Accuracy against budget: the plan, its bound at other budgets, and the same spending on every task."""
    document = as_document(result)
    points = needed(document, "alternatives", "budget_curve")
    said = needed(document, "prediction", "budget_curve")
    figure, axes = canvas(height=3.6)
    axes.plot([one["budget"] for one in points], [100 * one["accuracy"] for one in points], color="black", marker=".",
              label="best plan at another budget (bound)")  # fmt: skip
    low, high = said["accuracy_interval"]
    axes.errorbar([said["cost"]], [100 * said["accuracy"]], color="black", marker="*", markersize=14, capsize=4,
                  yerr=[[100 * max(said["accuracy"] - low, 0)], [100 * max(high - said["accuracy"], 0)]],
                  linestyle="", label=f"this plan, {100 * said['interval_level']:.0f} % interval")  # fmt: skip
    simpler = {f"{one['method']} x {one['samples']} for all": one for one in document.get("comparisons", ())}
    for text, one in simpler.items():
        if one["accuracy"] is not None:
            place = (one["cost"], 100 * one["accuracy"])
            axes.plot([place[0]], [place[1]], marker="s", color="white", markeredgecolor="black")
            axes.annotate(text, place, (7, -3), textcoords="offset points", fontsize=8)
    if min(one["budget"] for one in points) > 0:
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
    axes.set_xlabel(f"budget [{said['cost_unit']}]")
    axes.set_ylabel("expected accuracy [%]")
    axes.grid(linewidth=0.3, color="#bbbbbb")
    axes.legend(loc="lower right")
    return figure


@styled
def spending(result: Any) -> Figure:
    """Of a training budget: the cost of training and of serving of the plan and of each alternative, and its loss.

    Raises `PlanError` where the document is about something else.
    """
    document = as_document(result)
    made = needed(document, "decision", "spending")
    needed(made, "training_cost", "spending")
    choices = [made, *document["alternatives"]]
    scale, unit = _money(document["request"], max(one["cost"] for one in choices))
    figure, axes = canvas(height=0.6 * len(choices) + 1.1)
    for row, one in enumerate(choices):
        left = 0.0
        for part, fill in _PARTS.items():
            size = one[f"{part}_cost"] / scale
            axes.barh(row, size, left=left, height=0.6, edgecolor="black", linewidth=0.6, **fill)
            left += size
        axes.annotate(
            f"loss {one['loss']:.4f}", (left, row), (5, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(range(len(choices)), [_chosen(one) for one in choices])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(one["cost"] for one in choices) / scale)
    axes.set_xlabel(f"cost [{unit}]")
    figure.legend(handles=keys(_PARTS), loc="outside lower center", ncols=2)
    return figure


def _money(request: Mapping[str, Any], most: float) -> tuple[float, str]:
    """Scale and unit of the costs: dollars, or operations."""
    if request["cluster"] is None:
        return 1.0, "FLOP at 16 bits"
    return (1e6, "million USD") if most >= 1e6 else (1.0, "USD")


def _chosen(one: Mapping[str, Any]) -> str:
    size, length = fmt.count(one["n_params"]), fmt.count(one["tokens"])
    return f"{one['role']}, {one['precision']}\n{size} parameters\n{length} tokens"
