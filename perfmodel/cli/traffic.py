"""`perfmodel validate --traffic`: its document and its page."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.cli.commands import DONE, NOT_FEASIBLE
from perfmodel.cli.output import emit, say
from perfmodel.errors import PlanError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["traffic_validation_page", "validate_traffic"]


def validate_traffic(args: Namespace) -> int:
    """`perfmodel validate --traffic`: 1 where a trace is over its tolerance."""
    from perfmodel.validation.traffic_scores import record_traffic, run_traffic

    if args.because and not args.record:
        raise PlanError("--because: goes with --record")
    if args.record and args.source:
        raise PlanError("--record: needs every source; leave out --source")
    say("replaying traces ...")
    report = run_traffic(args.source)
    if args.record:
        record_traffic(report, because=args.because)
        say("recorded traffic tolerances")
        report = run_traffic()
    document = report.to_dict()
    emit(document, lambda console: traffic_validation_page(console, document), as_json=args.json, file=args.output)
    return NOT_FEASIBLE if document["over_tolerance"] else DONE


def traffic_validation_page(console: Console, report: Mapping[str, Any]) -> None:
    """The page of the report of `run_traffic`: errors by trace, and closed form over replay at every load."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    console.print(Text("Queueing in closed form against a replay of real traces", "bold"))
    remark = "median |ln(predicted / replayed)| of mean, p50, p90, p99 over loads; calm: loads up to a half; no queue: "
    console.print(
        Text(f"{remark}nobody waits; M/M/1: the textbook's queue of prompts. Iteration times are the same", "dim")
    )
    table = plain_table("trace", "error", "TTFT", "TPOT", "calm", "bias", "no queue", "M/M/1", "limit", gap=1)
    for id, one in report["sources"].items():
        limit = one["tolerance_percent"]
        table.add_row(
            id, Text(fmt.percent(one["error"]), "bold red" if one["over_tolerance"] else "bold"),
            *(fmt.percent(one[name]) for name in ("ttft_error", "tpot_error", "calm_error")),
            fmt.percent(one["bias"], signed=True),
            *(fmt.percent(one[name]) for name in ("no_queue_error", "mm1_error")),
            "-" if limit is None else f"{limit:g} %",
        )  # fmt: skip
    console.print(table)
    for id, one in report["sources"].items():
        heading(console, id, "closed form over replay")
        _ratios(console, one)


def _ratios(console: Console, one: Mapping[str, Any]) -> None:
    from perfmodel.cli.render import plain_table

    figures = ("mean", "p50", "p90", "p99")
    names = [f"{metric} {figure}" for metric in ("TTFT", "TPOT") for figure in figures]
    table = plain_table("load", *names, "kept", "replayed", gap=1)
    kept = {load: shares for load, *shares in one["attainment"]}
    for load, shares in kept.items():
        found = {(row["metric"], row["figure"]): row for row in one["rows"] if row["load"] == load}
        ratios = [
            f"{found[metric, figure]['closed_form'] / found[metric, figure]['replayed']:.2f}"
            for metric in ("ttft_s", "tpot_s")
            for figure in figures
        ]
        table.add_row(f"{load:g}", *ratios, *(f"{share:.2f}" for share in shares))
    console.print(table)
