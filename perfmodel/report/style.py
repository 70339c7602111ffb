"""How every figure looks: legible in black and white, the same bytes for the same input, no display needed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from perfmodel.cli import format as fmt
from perfmodel.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BOUND_BY",
    "FILLS",
    "FORMATS",
    "PLAIN",
    "WIDTH",
    "canvas",
    "keys",
    "plain_log_ticks",
    "seconds_axis",
    "styled",
    "svg",
    "written",
]

WIDTH = 7.6
"""Inches; a page column of 760 CSS pixels shows figures at their own size."""

FILLS: tuple[dict[str, Any], ...] = (
    {"facecolor": "#35618f", "hatch": None},
    {"facecolor": "#f2b36b", "hatch": "////"},
    {"facecolor": "#c9dff0", "hatch": "||||"},
    {"facecolor": "#ffffff", "hatch": "xxxx"},
    {"facecolor": "#d8d0e8", "hatch": "\\\\\\\\"},
    {"facecolor": "#ffffff", "hatch": "----"},
)
"""Fills that differ in hatching and in brightness, for bars of one figure."""

BOUND_BY: dict[str, dict[str, Any]] = dict(
    zip(("compute", "memory", "link", "latency", "host", "dependency"), FILLS, strict=True)
)
"""The fill of a term by what binds it."""

PLAIN: dict[str, Any] = {"facecolor": "#eeeeee", "hatch": None}
"""The fill of what has no kind: a sum, or many small parts."""

FORMATS = ("svg", "png", "pdf")
"""How a figure can be written."""

_RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.5,
    "hatch.color": "#333333",
    "svg.fonttype": "path",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.axisbelow": True,
}
_DPI = 160
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """A function that draws in the house style; it raises `MissingExtraError` without matplotlib."""

    @wraps(draw)
    def drawn(*args: Any, **keywords: Any) -> Figure:
        try:
            from matplotlib import rc_context, rcParamsDefault
        except ImportError:
            raise MissingExtraError("figures need matplotlib; pip install matplotlib") from None
        # A person's own matplotlibrc changes nothing here; the backend is left alone.
        plain: dict[Any, Any] = {key: value for key, value in rcParamsDefault.items() if "backend" not in key}
        with rc_context({**plain, **_RC}):
            return draw(*args, **keywords)

    return drawn


def canvas(rows: int = 1, columns: int = 1, *, height: float = 3.2, **grid: Any) -> tuple[Figure, Any]:
    """A figure with its axes (an array where there are several) that knows no window.

    Keywords go to `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **grid)


def keys(fills: dict[str, dict[str, Any]]) -> list[Any]:
    """What a legend shows for fills by name."""
    from matplotlib.patches import Patch

    return [Patch(label=name, edgecolor="black", linewidth=0.6, **fill) for name, fill in fills.items()]


def seconds_axis(axis: Any, whole: float, words: str) -> None:
    """Ticks of an axis of seconds and its name, in the unit that suits `whole`."""
    from matplotlib.ticker import FuncFormatter

    scale, unit = fmt.time_scale(whole)
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value / scale)))
    axis.set_label_text(f"{words} [{unit}]")


def plain_log_ticks(axis: Any) -> None:
    """1, 2 and 5 of each decade, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _plain(value: float) -> str:
    """
    >>> _plain(0.25), _plain(2.0), _plain(1250.0)
    ('0.25', '2', '1,250')
    """
    text = f"{value:,.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def written(figure: Figure, form: str) -> bytes:
    """The figure as a file of one of `FORMATS`; the same figure gives the same bytes."""
    from matplotlib import rc_context

    dates = {
        "svg": _METADATA,
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    buffer = io.BytesIO()
    with rc_context({**_RC, "svg.hashsalt": "perfmodel"}):
        figure.savefig(buffer, format=form, metadata=dates[form], dpi=_DPI)
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as one `<svg>` element to stand in a page; `name` makes its ids unique there and fixes its bytes."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({**_RC, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata=_METADATA)
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    # In a page the parser knows the namespaces; without them no address stands in the figure.
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    # A thousandth of a point is enough, and half the bytes.
    text = re.sub(r"(\.\d{3})\d+", r"\1", re.sub(r"\s*<!--.*?-->|\n(?=[A-Za-z] )", " ", text))
    return re.sub(r"<svg[^>]*?viewBox=\"([^\"]+)\"[^>]*>", r'<svg viewBox="\1">', text, count=1)
