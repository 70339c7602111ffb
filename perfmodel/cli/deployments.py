"""The group of `perfmodel validate --serving` that scores published rates of disaggregated deployments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["deployments_page"]


def deployments_page(console: Console, report: Mapping[str, Any]) -> None:
    """The page of the report of `run_deployments`."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    heading(console, "Prefill and decode apart", "tokens/s of an accelerator; nothing is fitted on these rows")
    table = plain_table("deployment", "published", "model", "error", "sheet", "iteration", gap=1)
    for one in report["rows"]:
        if one["refused"]:
            table.add_row(one["id"], f"{one['published']:,.0f}", "-", "refused", "-", "-")
            continue
        table.add_row(
            one["id"], f"{one['published']:,.0f}", f"{one['predicted']:,.0f}",
            Text(fmt.percent(one["error"], signed=True), "bold"), f"{one['data_sheet']:,.0f}",
            fmt.seconds(one["iteration_s"]),
        )  # fmt: skip
    console.print(table)
    mean, sheet, constant = (fmt.percent(report[key]) for key in ("mape", "data_sheet_mape", "constant_mape"))
    console.print(f"mean |error| {mean}; of the data sheet {sheet}, of that times one factor fitted here {constant}")
    for one in report["rows"]:
        remark = one["refused"] or one["assumed"]
        console.print(Text(f"- {one['id']}: {remark}", "dim"))
