"""`perfmodel plan power` and `perfmodel validate --power`: their questions, documents and pages."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.cli.commands import DONE, NOT_FEASIBLE
from perfmodel.cli.option import parsed
from perfmodel.cli.options import PLAN_POWER
from perfmodel.cli.output import emit, say
from perfmodel.errors import PlanError, SpecError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["plan_power", "power_page", "power_validation_page", "validate_power"]

TABLES = {
    "row": ("servers", "server", "provisioned_w", "positions", "cooling_w", "feeds", "spare_feeds", "feed_va",
            "power_factor", "kg_per_kwh", "model"),
    "policy": ("thresholds", "frequencies_hz", "priorities", "latencies_s", "hysteresis", "clock_bound_share",
               "brake_hz"),
    "load": ("kind", "peak", "rise", "rise_s", "days", "memory_s", "peak_over_valley", "idle", "history"),
    "limits": ("brakes_per_year", "p50", "p99"),
}  # fmt: skip
"""Which table of the library's question each option belongs to."""


def plan_power(args: Namespace) -> int:
    """`perfmodel plan power`: 0 with a plan, 1 where not even the row as it stands holds."""
    import perfmodel as pm

    plan = pm.plan_power(**_question(args)).to_dict()
    if getattr(args, "plot", None):
        from perfmodel.cli.report import draw

        draw(plan, "load_duration", args.plot, flag="--plot")
    emit(plan, lambda console: power_page(console, plan), as_json=args.json, file=args.output)
    return DONE if plan["feasible"] else NOT_FEASIBLE


def _question(args: Namespace) -> dict[str, Any]:
    """Row, policy, load and limits: flags over the file."""
    tables = _tables(args.file)
    for option in PLAN_POWER:
        if hasattr(args, option.name):
            value = _typed(option.name, parsed(option, getattr(args, option.name)))
            _put(tables, option.name, value)
    load: Any = tables["load"]
    if isinstance(load, Mapping) and "history" in load:
        load = read_history(str(load["history"]))
    elif not load:
        raise PlanError("--history: missing; give a file of seconds and fractions, or --peak and --rise")
    return {"row": tables["row"], "policy": tables["policy"], "load": load, "limits": tables["limits"] or None}


def _put(tables: dict[str, Any], name: str, value: Any) -> None:
    table = next(key for key, names in TABLES.items() if name in names)
    if table == "load" and not isinstance(tables["load"], dict):
        tables["load"] = {}
    if name in ("p50", "p99"):
        for priority, most in value.items():
            tables["limits"].setdefault(priority, {})[name] = most
    else:
        tables[table][name] = value


def _tables(file: str | None) -> dict[str, Any]:
    """The tables of a scenario file, or the request of an earlier plan."""
    tables: dict[str, Any] = {key: {} for key in TABLES}
    if file is None:
        return tables
    from perfmodel.cli.scenario import read_table

    data = read_table(file)
    if "document" in data:
        if data["document"] != "perfmodel/power-plan/1":
            raise SpecError(f"{file}: {unknown_name('document', data['document'], ['perfmodel/power-plan/1'])}")
        data = data.get("request", {})
    for key, value in data.items():
        if key not in TABLES:
            raise SpecError(f"{file}: {unknown_name('key', key, TABLES)}")
        tables[key] = dict(value) if isinstance(value, Mapping) else value
    return tables


def _typed(name: str, value: Any) -> Any:
    """Lists and tables that flags write with commas: `0.8,0.89`, `high=0.5,low=0.5`, `low=1275e6/1110e6`."""
    if name == "thresholds":
        return [_float(name, part) for part in value.split(",")]
    if name == "frequencies_hz":
        return {key: [_float(name, part) for part in text.split("/")] for key, text in _pairs(name, value)}
    if name in ("priorities", "latencies_s", "p50", "p99"):
        return {key: _float(name, text) for key, text in _pairs(name, value)}
    return value


def _pairs(name: str, text: str) -> list[tuple[str, str]]:
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not key or not sign for key, sign, _ in pairs):
        raise PlanError(f"--{name.replace('_', '-')}: must be NAME=X with commas between (got {text!r})")
    return [(key.strip(), number.strip()) for key, _, number in pairs]


def _float(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PlanError(f"--{name.replace('_', '-')}: must be numbers (got {text!r})") from None


def read_history(file: str) -> tuple[list[float], list[float]]:
    """Seconds and fractions of a CSV with two columns; a first line of words is its head. Raises `SpecError`."""
    try:
        with Path(file).open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row and not row[0].startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    times, levels = [], []
    for line, row in enumerate(rows, 1):
        try:
            second, fraction = (float(cell) for cell in row)
        except ValueError:
            if line == 1 and len(row) == 2:
                continue
            raise SpecError(f"{file}:{line}: must be seconds,fraction (got {','.join(row)[:40]!r})") from None
        times.append(second)
        levels.append(fraction)
    return times, levels


def power_page(console: Console, plan: Mapping[str, Any]) -> None:
    """The page of a power plan: how many servers, at what risk, and what the caps cost."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading

    row, made = plan["request"]["row"], plan["decision"]
    subject = f"{row['servers']} x {row['server']} under {fmt.power(row['provisioned_w'])}: "
    if made is None:
        console.print(Text.assemble((subject, "bold"), ("does not hold as it stands", "bold red")))
        for reason in plan["infeasible_because"]:
            console.print(f"- {reason}", markup=False)
        return
    said = plan["prediction"]
    share = f" ({fmt.percent(made['added_servers_fraction'], signed=True)})"
    console.print(Text.assemble((subject, "bold"), (f"{made['added_servers']} more servers", "bold green"), share))
    low, high = said["brake_events_interval"]
    console.print(
        f"{said['brake_events']:.2g} brakes a year ({low:.2g} to {high:.2g}, {100 * said['interval_level']:.0f} %); "
        f"peak {fmt.percent(said['peak_share'])} of the budget, {fmt.percent(said['uncapped_peak_share'])} without caps"
    )
    _policy(console, plan)
    _limits(console, plan)
    heading(console, "If", "servers that the same search adds")
    for one in plan["sensitivities"]:
        console.print(
            f"  {one['quantity']} = {one['value']:.4g}: {fmt.percent(one['added_servers_fraction'], signed=True)}"
        )
    console.print(f"{said['energy_j_per_year'] / 3.6e9:,.0f} MWh and {fmt.usd(said['usd_per_year'])} a year")
    for note in plan["notes"]:
        console.print(Text(note, "dim"))


def _policy(console: Console, plan: Mapping[str, Any]) -> None:
    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    made, said = plan["decision"], plan["prediction"]
    heading(console, "Policy", "clocks past each threshold; share of the work done there; slowdown by priority")
    names = list(made["frequencies_hz"])
    table = plain_table("past", "work", *names)
    for step, threshold in enumerate(made["thresholds"]):
        clocks = [f"{made['frequencies_hz'][name][step] / 1e6:.0f} MHz" for name in names]
        table.add_row(fmt.percent(threshold), fmt.percent(said["state_shares"][step + 1]), *clocks)
    for key in ("p50", "p99"):
        table.add_row(key, "", *(fmt.percent(said["latency_impact"][name][key], signed=True) for name in names))
    console.print(table)


def _limits(console: Console, plan: Mapping[str, Any]) -> None:
    from perfmodel.cli.render import heading, plain_table

    heading(console, "Limits")
    table = plain_table("", "limit", "value", "slack")
    for one in plan["constraints"]:
        table.add_row(one["name"], f"{one['limit']:.4g}", f"{one['value']:.4g}", f"{one['slack']:.4g}")
    console.print(table)


def validate_power(args: Namespace) -> int:
    """`perfmodel validate --power`: 1 where a figure misses what it has to reach."""
    from perfmodel.validation.power_report import run_power

    for option in ("source", "record", "because"):
        if getattr(args, option):
            raise PlanError(f"--{option}: goes without --power")
    say("simulating 100 rows of six weeks")
    document = run_power().to_dict()
    emit(document, lambda console: power_validation_page(console, document), as_json=args.json, file=args.output)
    return NOT_FEASIBLE if document["missed"] else DONE


def power_validation_page(console: Console, report: Mapping[str, Any]) -> None:
    """The page of the report of `run_power`."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    verdict = (
        ("figures missed: " + ", ".join(report["missed"]), "bold red")
        if report["missed"]
        else ("reached", "bold green")
    )
    console.print(Text.assemble("Power against published tables and figures: ", verdict))
    heading(console, "Tables", "mean error on rows that fix no number; trivial: nothing changes, or the best constant")
    table = plain_table("source", "rows", "error", "trivial", "bias", "limit", left=(0,))
    for one in report["scores"]:
        limit = "-" if one["limit"] is None else fmt.percent(one["limit"])
        table.add_row(one["source"], str(one["scored"]), fmt.percent(one["mape"]), fmt.percent(one["trivial"]),
                      fmt.percent(one["bias"], signed=True), limit)  # fmt: skip
    console.print(table)
    heading(console, "Figures")
    figures = plain_table("", "published", "model", "", left=(0, 3))
    for one in report["figures"]:
        published = "-" if one["published"] is None else f"{one['published']:.4g}"
        figures.add_row(one["name"], published, f"{one['model']:.4g}", one["verdict"])
    console.print(figures)
    heading(console, "POLCA row", f"{report['polca']['seeds']} seeds of six weeks: share without a brake")
    for added, share, closed in zip(
        report["polca"]["added"], report["polca"]["without_brake"], report["polca"]["closed_form"], strict=True
    ):
        console.print(f"  +{100 * added:.0f} %: {fmt.percent(share)} simulated, {fmt.percent(closed)} in closed form")
