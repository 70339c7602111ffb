"""The scoreboard as a page: how far predictions are from published numbers, and how honest the intervals are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from perfmodel.cli import format as fmt
from perfmodel.cli.render import heading, plain_table

__all__ = ["validation_page"]

Score = Mapping[str, Any]


def validation_page(console: Console, report: Mapping[str, Any]) -> None:
    """The page of `validate`; one source alone is shown with its rows and remarks."""
    sources = report["sources"]
    verdict = ("over tolerance", "bold red") if report["over_tolerance"] else ("within tolerance", "bold green")
    console.print(Text.assemble("Published numbers against predictions: ", verdict))
    if len(sources) > 1:
        _summary(console, report)
    _accuracy(console, sources)
    _baselines(console, sources)
    _intervals(console, sources)
    _layouts(console, sources)
    if len(sources) == 1:
        (only,) = sources.values()
        _rows(console, only)
    _remarks(console, report)


def _summary(console: Console, report: Mapping[str, Any]) -> None:
    one = report["summary"]
    lines = [f"{one['beating']} of {one['compared']} sources are nearer than both trivial baselines"]
    if one["mean_coverage"] is not None:
        lines.append(
            f"80 % intervals hold {fmt.percent(one['mean_coverage'])} (mean over {one['intervals']} sources); median "
            f"half-width, dense: {fmt.percent(one['median_half_width'])}"
        )
    if one["layout_choice"]:
        choice = one["layout_choice"]
        lines.append(
            f"layouts ranked first ran {fmt.percent(choice['mean_regret'])} longer than the best of {choice['groups']} "
            "choices"
        )
    for name, pool in report["pooled"].items():
        lines.append(
            f"{name}, {pool['given']} rows as one table: {fmt.percent(pool['headline'])} over {pool['scored']}; best "
            f"constant HFU {fmt.percent(pool['baselines']['fitted_hfu_mape'])}"
        )
    for line in lines:
        console.print(f"- {line}", markup=False, highlight=False)


def _accuracy(console: Console, sources: Mapping[str, Score]) -> None:
    heading(console, "Accuracy", "mean absolute error; in brackets: fixed constants, so no validation")
    head = ("source", "scored", "error", "limit", "calibr.", "without", "|ln|", "bias", "worst", "rank", "fits", "")
    table = plain_table(*head, left=(0, 11), gap=1)
    for id, one in sources.items():
        error = _or_dash(one["headline"], fmt.percent)
        table.add_row(
            id,
            f"{one['scored']}/{one['given']}",
            Text(error if one["role"] == "validate" else f"({error})", "bold red" if one["over_tolerance"] else "bold"),
            _or_dash(one["tolerance"], fmt.percent),
            _or_dash(one["calibrated"], lambda own: f"({fmt.percent(own['headline'])})"),
            _or_dash(one["without_it"], lambda left: fmt.percent(left["headline"])),
            _or_dash(one["median_abs_log"], lambda x: f"{x:.3f}"),
            _or_dash(one["bias"], lambda x: fmt.percent(x, signed=True)),
            _or_dash(one["worst"], lambda worst: fmt.percent(worst["error"], signed=True)),
            _or_dash(one["rank_correlation"], lambda x: f"{x:.2f}"),
            _or_dash(one["fitting"], lambda n, of=one["predicted"]: f"{n}/{of}"),
            one["quantity"],
        )
    console.print(table)


def _baselines(console: Console, sources: Mapping[str, Score]) -> None:
    compared = {id: one for id, one in sources.items() if _trivial(one) or one["other_tools"]}
    if not compared:
        return
    remark = "HFU 0.5 or 16 bytes a parameter; the best constant, fitted on these rows; other tools"
    heading(console, "Beside it", remark)
    table = plain_table("source", "ours", "trivial", "fitted", "others", left=(0, 4))
    for id, one in compared.items():
        trivial, fitted = _trivial(one) or (None, None)
        table.add_row(
            id,
            _or_dash(one["headline"], fmt.percent),
            _or_dash(trivial, fmt.percent),
            _or_dash(fitted, fmt.percent),
            ", ".join(f"{_brief(other['tool'])} {fmt.percent(other['mape'])}" for other in one["other_tools"]),
        )
    console.print(table)


def _trivial(one: Score) -> tuple[float, float] | None:
    if one["baselines"]:
        return one["baselines"]["constant_hfu_mape"], one["baselines"]["fitted_hfu_mape"]
    if one["memory_baselines"]:
        return one["memory_baselines"]["states_mape"], one["memory_baselines"]["fitted_mape"]
    return None


def _brief(tool: str) -> str:
    return tool.partition(" (")[0].partition(", ")[0]


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


def _layouts(console: Console, sources: Mapping[str, Score]) -> None:
    chosen = {id: one["layout_choice"] for id, one in sources.items() if one["layout_choice"]}
    if not chosen:
        return
    heading(console, "Choosing the layout", "how much longer the layout ranked first ran than the best one")
    table = plain_table("source", "choices", "layouts", "mean regret", "rank")
    for id, one in chosen.items():
        rank = _or_dash(one["rank_correlation"], lambda x: f"{x:.2f}")
        table.add_row(id, str(one["groups"]), str(one["rows"]), fmt.percent(one["mean_regret"]), rank)
    console.print(table)


def _rows(console: Console, source: Score) -> None:
    heading(console, source["title"], source["url"])
    console.print(Text(f"{source['definition']}; read from {source['read']}", "dim"))
    printers: dict[str, Callable[[float], str]] = {"activation memory": fmt.percent, "peak memory": fmt.bytes_}
    shown = printers.get(source["quantity"], fmt.seconds)
    table = plain_table("row", "published", "predicted", "error", "interval", "")
    for row in source["rows"]:
        interval, remark = "", "calibrates" if row["calibrates"] else ""
        if row["interval"]:
            low, high = row["interval"]
            interval = fmt.seconds_interval(low, high)
            remark = remark or ("" if low <= row["measured"] <= high else "outside")
        table.add_row(
            row["where"],
            shown(row["measured"]),
            shown(row["predicted"]),
            fmt.percent(row["error"], signed=True),
            interval,
            remark,
        )
    console.print(table)


def _remarks(console: Console, report: Mapping[str, Any]) -> None:
    """What failed or was refused; of one source alone also what was left out and what it calibrates."""
    sources = report["sources"]
    lines = [f"over tolerance: {line}" for line in report["failures"]]
    for id, one in sources.items():
        lines += [f"{id}, refused: {refusal['where']}: {refusal['reason']}" for refusal in one["refused"]]
    if len(sources) == 1:
        lines += [line for id, one in sources.items() for line in _details(id, one)]
    elif sources:
        lines.append("rows, what was left out and which constants a source fixed: --source ID")
    if lines:
        heading(console, "Mind")
    for line in lines:
        console.print(f"- {line}", markup=False)


def _details(id: str, one: Score) -> list[str]:
    lines = [f"{id}, left out: {text}" for text in one["left_out"]]
    if one["free_constants"]:
        lines.append(f"{id}, constants fixed by it: {', '.join(one['free_constants'])}")
    if left := one["without_it"]:
        lines.append(f"{id}, without it its generation rests on {left['fitted_on']}: {fmt.percent(left['headline'])}")
    return lines


def _or_dash(value: Any, shown: Any) -> str:
    return "-" if value is None else str(shown(value))
