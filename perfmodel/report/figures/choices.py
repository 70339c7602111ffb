"""What would help, and what else could have been chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perfmodel.cli import format as fmt
from perfmodel.errors import PlanError
from perfmodel.report.documents import as_document, needed
from perfmodel.report.style import FILLS, canvas, seconds_axis, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pareto", "quantity_words", "tornado"]

_STEP = 0.1
"""The tornado's change of each quantity; elasticities hold near where they are taken."""
_SHOWN = 10
_SPREAD = 0.01
_SLOPES = ("hardware", "software", "constants", "workload")
"""Tables of a document of elasticities."""


@styled
def tornado(result: Any) -> Figure:
    """How the answer moves with each quantity: by its elasticity for +-10 %, and recomputed for twice the quantity.

    `perfmodel.elasticities` has the first alone, of the step time; of a deployment it is those of the time per token.
    Sensitivities without elasticity (other inputs, other answers) are bars from the answer to theirs. Raises
    `PlanError` where the document has none.
    """
    document = as_document(result)
    if "hardware" in document and "workload" in document:
        tables = [document[name] for name in _SLOPES if document.get(name)]
        rows = [{"quantity": key, "elasticity": slope} for table in tables for key, slope in table.items()]
        return _elasticities(rows, ("step_time_s", document["step_time_s"]), doubled=False)
    if "elasticities" in document and "figures" in document:
        tables = [document[name].get("tpot_s", {}) for name in ("elasticities", "software")]
        rows = [{"quantity": key, "elasticity": slope} for table in tables for key, slope in table.items()]
        return _elasticities(rows, ("tpot_s", document["figures"]["tpot_s"]), doubled=False)
    found = needed(document, "sensitivities", "tornado")
    if "elasticity" in found[0]:
        return _elasticities(found, _answer(document, found[0]), doubled=True)
    return _changed_answers(document, found)


def _answer(document: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[str, float]:
    """Name and value of the quantity that `if_doubled_NAME` is about."""
    doubled = next(key for key in one if key.startswith("if_doubled_"))
    name = doubled.removeprefix("if_doubled_")
    value = (document.get("prediction") or document).get(name)
    return name, float(needed({name: value}, name, "tornado"))


def _elasticities(found: Sequence[Mapping[str, Any]], answer: tuple[str, float], *, doubled: bool) -> Figure:
    name, value = answer
    rows = sorted(found, key=lambda one: -abs(one["elasticity"]))[:_SHOWN]
    figure, axes = canvas(1, 1 + doubled, height=0.33 * len(rows) + 1.3, sharey=True, squeeze=False)
    left = axes[0, 0]
    for row, one in enumerate(rows):
        ends = [100 * ((1 + sign * _STEP) ** one["elasticity"] - 1) for sign in (-1, 1)]
        for end, fill in zip(ends, (FILLS[3], FILLS[0]), strict=True):
            left.barh(row, end, height=0.62, edgecolor="black", linewidth=0.6, **fill)
        left.annotate(_signed(one["elasticity"]), (max(ends), row), (4, 0), textcoords="offset points", va="center",
                      fontsize=8)  # fmt: skip
    left.axvline(0, color="black", linewidth=0.8)
    left.set_yticks(range(len(rows)), [quantity_words(one["quantity"]) for one in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    widest = max(abs(bound) for bound in left.get_xlim())
    left.set_xlim(-1.15 * widest, (1.55 if doubled else 1.25) * widest)
    words = name.removesuffix("_s").replace("_", " ")
    left.set_title("quantity −10 % (crossed), +10 % (solid)")
    left.set_xlabel(f"change of {words} [%]; number: elasticity")
    if doubled:
        _draw_doubled(axes[0, 1], rows, name, value)
    return figure


def _signed(slope: float) -> str:
    """
    >>> _signed(-0.7194), _signed(1e-5)
    ('−0.719', '0.000')
    """
    return f"{slope:+.3f}".replace("-", "−") if abs(slope) >= 5e-4 else "0.000"


def _draw_doubled(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, value: float) -> None:
    for row, one in enumerate(rows):
        _dumbbell(axes, row, value, one[f"if_doubled_{name}"])
    axes.axvline(value, color="black", linewidth=0.8, linestyle=":")
    axes.set_title("quantity doubled")
    if name.endswith("_s"):
        seconds_axis(axes.xaxis, value, name.removesuffix("_s").replace("_", " "))
    else:
        axes.set_xlabel(name.replace("_", " "))
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.3 * (high - low), high + 0.3 * (high - low))
    axes.tick_params(axis="y", length=0)


def _dumbbell(axes: Axes, row: float, now: float, then: float) -> None:
    axes.plot([now, then], [row, row], color="black", linewidth=1.2)
    axes.plot([now], [row], marker="o", color="white", markeredgecolor="black", markersize=5)
    axes.plot([then], [row], marker="D", color="black", markersize=5)
    change = fmt.percent(then / now - 1, signed=True)
    side, align = (-6, "right") if then < now else (6, "left")
    axes.annotate(change, (then, row), (side, 0), textcoords="offset points", va="center", ha=align, fontsize=8)


def _changed_answers(document: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Figure:
    """Another value of one input, and the answer then."""
    name = next(key for key in found[0] if key not in ("quantity", "value"))
    now = float((document.get("decision") or {}).get(name) or 0.0)
    rows = sorted(found, key=lambda one: one[name])[-2 * _SHOWN :]
    figure, axes = canvas(height=0.3 * len(rows) + 1.1)
    share = name.endswith("_fraction")
    scale, unit = (100.0, " [%]") if share else (1.0, "")
    for row, one in enumerate(rows):
        fill = FILLS[0] if one[name] >= now else FILLS[3]
        axes.barh(
            row, scale * (one[name] - now), left=scale * now, height=0.6, edgecolor="black", linewidth=0.6, **fill
        )
        text = fmt.percent(one[name], signed=True) if share else fmt.significant(one[name])
        axes.annotate(
            text, (scale * max(one[name], now), row), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.axvline(scale * now, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [_changed(one) for one in rows])
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.12 * (high - low))
    axes.set_xlabel(f"{name.removesuffix('_fraction').replace('_', ' ')}{unit}; the line is the plan")
    return figure


def _changed(one: Mapping[str, Any]) -> str:
    words = quantity_words(one["quantity"])
    return words if words.startswith("no ") else f"{words} = {one['value']:.4g}"


def quantity_words(quantity: str) -> str:
    """A quantity's name for people: `peak flop/s bf16`."""
    return re.sub(r"(?<!per)_s(?=\.|$)", "", quantity).replace("_per_", "/").replace("_", " ").replace(".", " ")


_AXES = (
    ("step_time_s", "memory_bytes", "step time [s]", "memory of the fullest accelerator [GB]", 1.0, 1e-9),
    ("ttft_s", "tpot_s", "mean TTFT [ms]", "mean TPOT [ms]", 1e3, 1e3),
    ("mean_max_over_mean_load", "cross_rank_fraction", "fullest rank over mean, mean of the layers",
     "tokens that change rank [%]", 1.0, 100.0),
    ("brake_events", "added_servers_fraction", "expected brakes a year", "servers added [%]", 1.0, 100.0),
    ("cross_rank_fraction", "mean_max_over_mean_load", "tokens that change rank [%]",
     "fullest rank over the mean", 100.0, 1.0),
)  # fmt: skip
"""What the frontier of each kind of plan is drawn in: keys, axis titles, scales."""


@styled
def pareto(result: Any) -> Figure:
    """The plan (star) among its alternatives, numbered as in the document; filled where tied with the best.

    Raises `PlanError` where there are none, none of a kind that has a picture, or all are alike.
    """
    document = as_document(result)
    points = [_point(one) for one in needed(document, "alternatives", "pareto")]
    x, y, x_title, y_title, x_scale, y_scale = _axes_of(points)
    figure, axes = canvas(height=3.9)
    places = [(x_scale * one[x], y_scale * one[y]) for one in points]
    for (across, up), one in zip(places, points, strict=True):
        face = "#555555" if one.get("tied") else "white"
        axes.plot([across], [up], marker="o", color=face, markeredgecolor="black", markersize=7)
    chosen = _point({**(document.get("decision") or {}), **(document.get("prediction") or {})})
    held = chosen.get("memory_bytes")
    if isinstance(held, Mapping):
        chosen["memory_bytes"] = held["total"]
    own = [(x_scale * chosen[x], y_scale * chosen[y])] if x in chosen and y in chosen else []
    for across, up in own:
        axes.plot([across], [up], marker="*", color="black", markersize=15, linestyle="")
    axes.margins(0.1, 0.12)
    _number(axes, places, own)
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    axes.ticklabel_format(useOffset=False)
    axes.grid(linewidth=0.3, color="#bbbbbb")
    if own:
        _explain(axes, any(one.get("tied") for one in points))
    return figure


def _axes_of(points: Sequence[Mapping[str, Any]]) -> tuple[str, str, str, str, float, float]:
    """The first two quantities that all points have and in one of which they differ enough to be seen."""
    known = [one for one in _AXES if all(point.get(key) is not None for point in points for key in one[:2])]
    for one in known:
        ranges = [(min(values), max(values)) for values in ([point[key] for point in points] for key in one[:2])]
        if any(high - low > _SPREAD * abs(high) for low, high in ranges):
            return one
    why = f"they differ by less than {100 * _SPREAD:.0f} %" if known else "no two quantities to compare"
    raise PlanError(f"pareto: the alternatives have no picture: {why}")


def _explain(axes: Axes, tied: bool) -> None:
    axes.plot([], [], marker="*", color="black", markersize=12, linestyle="", label="the plan")
    if tied:
        axes.plot([], [], marker="o", color="#555555", markeredgecolor="black", linestyle="", label="tied with it")
    axes.plot([], [], marker="o", color="white", markeredgecolor="black", linestyle="", label="alternative")
    axes.legend(loc="best")


def _point(one: Mapping[str, Any]) -> dict[str, Any]:
    """An alternative with its prediction's keys beside its own."""
    return {**one, **(one.get("prediction") or {})}


def _number(axes: Axes, places: Sequence[tuple[float, float]], own: Sequence[tuple[float, float]]) -> None:
    """Numbers beside the points, each on the side where no other point or number is near."""
    figure: Any = axes.get_figure()
    figure.draw_without_rendering()
    spots = [tuple(axes.transData.transform(place)) for place in (*own, *places)]
    taken = list(spots)
    offsets = (
        (9, 0),
        (-9, 0),
        (0, 10),
        (0, -10),
        (9, 9),
        (-9, 9),
        (9, -9),
        (-9, -9),
        (20, 0),
        (-20, 0),
        (0, 21),
        (0, -21),
    )
    for number, (place, spot) in enumerate(zip(places, spots[len(own) :], strict=True), 1):

        def room(offset: tuple[int, int], spot: tuple[float, float] = spot) -> float:
            at = (spot[0] + 1.4 * offset[0], spot[1] + 1.4 * offset[1])
            near = min((at[0] - x) ** 2 + (at[1] - y) ** 2 for x, y in taken)
            return min(near, 14.0**2) - 0.02 * (offset[0] ** 2 + offset[1] ** 2)

        best = max(offsets, key=room)
        taken.append((spot[0] + 1.4 * best[0], spot[1] + 1.4 * best[1]))
        axes.annotate(str(number), place, best, textcoords="offset points", ha="center", va="center", fontsize=8)
