"""The roofline with a document's operations on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perfmodel.cli import format as fmt
from perfmodel.report.documents import as_document
from perfmodel.report.repriced import Operation, Roof, operations_of
from perfmodel.report.style import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["roofline"]

_LOOKS = {
    "forward": {"marker": "o", "color": "#35618f"},
    "prefill": {"marker": "s", "color": "#35618f"},
    "decode": {"marker": "^", "color": "white"},
}


def roofline(result: Any) -> Figure:
    """Attained FLOP/s of each operation against its arithmetic over its least traffic, under the data sheet's roof.

    Of training the forward pass of one layer on one rank; of serving a prompt and a decode step. Raises `PlanError`
    where the document has no layers or this version prices it differently.
    """
    roof = operations_of(as_document(result))
    figure, axes = canvas(height=4.0)
    _draw_roof(axes, roof)
    for phase, look in _LOOKS.items():
        own = [one for one in roof.operations if one.phase == phase]
        if own:
            places = [one.intensity for one in own], [one.flop_per_s / 1e12 for one in own]
            axes.plot(*places, linestyle="", markeredgecolor="black", markersize=7, label=phase, **look)
    _label(axes, roof.operations)
    if len({one.phase for one in roof.operations}) > 1:
        axes.legend(loc="lower right", fontsize=8)
    axes.set_xlabel("arithmetic over least traffic [FLOP/B]")
    axes.set_ylabel("TFLOP/s")
    axes.set_title(f"{roof.accelerator}, {roof.precision}, dense")
    return figure


def _draw_roof(axes: Axes, roof: Roof) -> None:
    balance = roof.peak_flop_per_s / roof.hbm_byte_per_s
    peak = roof.peak_flop_per_s / 1e12
    low = min(balance / 8, *(one.intensity / 2.5 for one in roof.operations))
    high = max(balance * 8, *(one.intensity * 3.5 for one in roof.operations))
    bottom = min(low * roof.hbm_byte_per_s / 1e12, *(one.flop_per_s / 2e12 for one in roof.operations))
    axes.plot([low, balance, high], [low * roof.hbm_byte_per_s / 1e12, peak, peak], color="black", linewidth=1.6)
    axes.plot([balance, balance], [bottom, peak], color="black", linewidth=0.7, linestyle=":")
    axes.annotate(f"{fmt.flop_rate(roof.peak_flop_per_s)}", (high, peak), (-3, 4), textcoords="offset points",
                  ha="right", fontsize=8)  # fmt: skip
    axes.annotate(f"{balance:.0f} FLOP/B", (balance, bottom), (3, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(bottom, 1.7 * peak)
    axes.annotate(fmt.byte_rate(roof.hbm_byte_per_s), (low, low * roof.hbm_byte_per_s / 1e12), (12, 16),
                  textcoords="offset points", fontsize=8, ha="left", va="bottom")  # fmt: skip
    axes.grid(linewidth=0.3, color="#bbbbbb")


def _label(axes: Axes, operations: tuple[Operation, ...]) -> None:
    """Names right of the points, in columns that keep their lines apart."""
    figure = axes.get_figure()
    figure.draw_without_rendering()
    taken: list[tuple[float, float]] = []
    for one in sorted(operations, key=lambda one: -one.flop_per_s):
        place = (one.intensity, one.flop_per_s / 1e12)
        across, up = axes.transData.transform(place)
        drop = 0.0
        while any(abs(across - x) < 95 and abs(up - drop - y) < 13 for x, y in taken):
            drop += 2.0
        taken.append((across, up - drop))
        lines = {"arrowstyle": "-", "linewidth": 0.4, "shrinkB": 3} if drop > 8 else None
        axes.annotate(one.name.replace("_", " "), place, (9, -3 - 0.72 * drop), textcoords="offset points", fontsize=7.5,
                      arrowprops=lines)  # fmt: skip
