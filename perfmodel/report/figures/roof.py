"""The roofline with a document's operations on it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from perfmodel.cli import format as fmt
from perfmodel.report.documents import as_document
from perfmodel.report.repriced import Operation, Roof, operations_of
from perfmodel.report.style import canvas, plain_log_ticks, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["roofline"]

_LOOKS = {
    "forward": {"marker": "o", "color": "#35618f"},
    "prefill": {"marker": "s", "color": "#35618f"},
    "decode": {"marker": "^", "color": "white"},
}


@styled
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
        axes.legend(loc="lower right")
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
    middle = (low * balance) ** 0.5
    axes.annotate(fmt.byte_rate(roof.hbm_byte_per_s), (middle, middle * roof.hbm_byte_per_s / 1e12), (-6, 5),
                  textcoords="offset points", fontsize=8, ha="right")  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        plain_log_ticks(axis)
    axes.grid(linewidth=0.3, color="#bbbbbb")


def _label(axes: Axes, operations: tuple[Operation, ...]) -> None:
    """Names beside the points, where they cover neither a point nor another name."""
    figure: Any = axes.get_figure()
    figure.draw_without_rendering()
    to_points = 72.0 / figure.dpi
    places = [(one.intensity, one.flop_per_s / 1e12) for one in operations]
    spots = [tuple(to_points * axes.transData.transform(place)) for place in places]
    lines = [to_points * axes.transData.transform(line.get_xydata()) for line in axes.lines[:2]]  # roof and balance
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in (*spots, *(at for line in lines for at in _along(line)))]
    for one, place, (x, y) in sorted(zip(operations, places, spots, strict=True), key=lambda row: -row[2][1]):
        width = 4.8 * len(one.name)

        def box(side: int, drop: int, x: float = x, y: float = y, width: float = width) -> _Box:
            left = x + 8 if side > 0 else x - 8 - width
            return (left, y - drop - 5, left + width, y - drop + 5)

        side, drop = min(
            ((side, drop) for side in (1, -1) for drop in range(-44, 45, 11)),
            key=lambda at: (sum(_meet(box(*at), other) for other in taken), abs(at[1]), -at[0]),
        )
        taken.append(box(side, drop))
        line = {"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 3} if drop else None
        axes.annotate(
            one.name.replace("_", " "), place, (8 * side, -drop), textcoords="offset points", fontsize=7.5,
            ha="left" if side > 0 else "right", va="center", arrowprops=line,
        )  # fmt: skip


_Box = tuple[float, float, float, float]


def _along(corners: Any, steps: int = 60) -> Iterator[tuple[float, float]]:
    """Points along a drawn line."""
    for (x, y), (to_x, to_y) in pairwise(corners):
        for step in range(steps + 1):
            yield x + (to_x - x) * step / steps, y + (to_y - y) * step / steps


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
