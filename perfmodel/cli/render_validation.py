"""The scoreboard as a page: how far predictions are from published numbers, and how honest the intervals are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from perfmodel.cli import format as fmt
from perfmodel.cli.render import heading, plain_table

__all__ = ["validation_page"]

Score = Mapping[str, Any]


def validation_page(console: Console, report: Mapping[str, Any]) -> None:
    """The page of `validate`; one source alone is shown with its rows."""
    sources = report["sources"]
    verdict = ("over tolerance", "bold red") if report["over_tolerance"] else ("within tolerance", "bold green")
    console.print(Text.assemble("Published numbers against predictions: ", verdict))
    _accuracy(console, sources)
    _baselines(console, sources)
    _intervals(console, sources)
    if len(sources) == 1:
        (only,) = sources.values()
        _rows(console, only)
    _remarks(console, report)


def _accuracy(console: Console, sources: Mapping[str, Score]) -> None:
    heading(console, "Accuracy", "mean absolute error; in brackets: calibrated, so no validation")
    table = plain_table("source", "scored", "error", "limit", "|ln|", "bias", "worst", "rank", "", left=(0, 8), gap=1)
    for id, one in sources.items():
        error = _or_dash(one["headline"], fmt.percent)
        table.add_row(
            id,
            f"{one['scored']}/{one['given']}",
            Text(error if one["role"] == "validate" else f"({error})", "bold red" if one["over_tolerance"] else "bold"),
            _or_dash(one["tolerance"], fmt.percent),
            _or_dash(one["median_abs_log"], lambda x: f"{x:.3f}"),
            _or_dash(one["bias"], lambda x: fmt.percent(x, signed=True)),
            _or_dash(one["worst"], lambda worst: fmt.percent(worst["error"], signed=True)),
            _or_dash(one["rank_correlation"], lambda x: f"{x:.2f}"),
            one["quantity"],
        )
    console.print(table)


def _baselines(console: Console, sources: Mapping[str, Score]) -> None:
    compared = {id: one for id, one in sources.items() if one["baselines"] or one["other_tools"]}
    if not compared:
        return
    heading(console, "Beside it", "mean absolute error of trivial models and of other tools on the same rows")
    table = plain_table("source", "ours", "HFU 0.5", "best HFU", "others", left=(0, 4))
    for id, one in compared.items():
        base = one["baselines"]
        table.add_row(
            id,
            _or_dash(one["headline"], fmt.percent),
            _or_dash(base, lambda b: fmt.percent(b["constant_hfu_mape"])),
            _or_dash(base, lambda b: fmt.percent(b["fitted_hfu_mape"])),
            ", ".join(f"{other['tool']} {fmt.percent(other['mape'])}" for other in one["other_tools"]),
        )
    console.print(table)


def _intervals(console: Console, sources: Mapping[str, Score]) -> None:
    scored = {id: one["interval"] for id, one in sources.items() if one["interval"]}
    if not scored:
        return
    level = f"{100 * next(iter(scored.values()))['level']:.0f} %"
    heading(console, f"Intervals of {level}", "beside a constant width of the prediction; a low score is good")
    table = plain_table("source", "hold", "median width", "score", "constant holds", "score")
    for id, one in scored.items():
        table.add_row(
            id,
            fmt.percent(one["coverage"]),
            fmt.percent(one["median_relative_width"]),
            f"{one['score']:.3f}",
            fmt.percent(one["constant_width_coverage"]),
            f"{one['constant_width_score']:.3f}",
        )
    console.print(table)


def _rows(console: Console, source: Score) -> None:
    heading(console, source["title"], source["url"])
    console.print(Text(f"{source['definition']}; read from {source['read']}", "dim"))
    shown = fmt.percent if source["quantity"] == "activation memory" else fmt.seconds
    table = plain_table("row", "published", "predicted", "error", "interval", "")
    for row in source["rows"]:
        interval, inside = "", ""
        if row["interval"]:
            low, high = row["interval"]
            interval, inside = fmt.seconds_interval(low, high), "" if low <= row["measured"] <= high else "outside"
        table.add_row(
            row["where"],
            shown(row["measured"]),
            shown(row["predicted"]),
            fmt.percent(row["error"], signed=True),
            interval,
            inside,
        )
    console.print(table)


def _remarks(console: Console, report: Mapping[str, Any]) -> None:
    lines = [f"over tolerance: {line}" for line in report["failures"]]
    for id, one in report["sources"].items():
        lines += [f"{id}, refused: {refusal['where']}: {refusal['reason']}" for refusal in one["refused"]]
        lines += [f"{id}, left out: {text}" for text in one["left_out"]]
        if one["free_constants"]:
            lines.append(f"{id}, constants fixed by it: {', '.join(one['free_constants'])}")
    if lines:
        heading(console, "Mind")
    for line in lines:
        console.print(f"- {line}", markup=False)


def _or_dash(value: Any, shown: Any) -> str:
    return "-" if value is None else str(shown(value))
