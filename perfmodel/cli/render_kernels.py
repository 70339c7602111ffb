"""The page of `validate --kernels`: held-out errors of kernels and messages beside the data sheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from perfmodel.cli import format as fmt
from perfmodel.cli.render import heading, plain_table

__all__ = ["kernel_validation_page"]


def kernel_validation_page(console: Console, report: Mapping[str, Any]) -> None:
    """The page of the report of `validation.run_kernels`."""
    console.print(Text("Kernels and messages against measured tables", "bold"))
    console.print(
        Text(
            "median (90th percentile) of |ln(predicted / measured)| on held-out shapes; data sheet: roofline, or ring "
            "at peak without latency; transfer: the constants of another accelerator",
            "dim",
        )
    )
    for accelerator in sorted({family["accelerator"] for family in report["families"]}):
        heading(console, accelerator)
        table = plain_table("family", "rows", "error", "(P90)", "bias", "data sheet", "transfer", left=(0,), gap=2)
        for one in report["families"]:
            if one["accelerator"] != accelerator:
                continue
            table.add_row(
                one["family"],
                str(one["rows"]),
                Text(_percent(one["median"]), "bold"),
                f"({_percent(one['p90'])})",
                "-" if one["bias"] is None else fmt.percent(one["bias"], signed=True),
                f"{_percent(one['data_sheet_median'])}",
                "-" if one["transfer_median"] is None else _percent(one["transfer_median"]),
            )
        console.print(table)
    refused = [one for one in report["families"] if one["refused"]]
    if refused:
        heading(console, "Mind")
    for one in refused:
        console.print(f"- {one['accelerator']}, {one['family']}, refused: {one['refused']}", markup=False)


def _percent(share: float | None) -> str:
    return "-" if share is None else fmt.percent(share)
