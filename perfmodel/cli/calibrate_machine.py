"""`perfmodel calibrate` without a table: measure this machine, show what was found, write its hardware description."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.cli.commands import DONE
from perfmodel.cli.output import emit, say, write_atomically
from perfmodel.cli.progress import progress
from perfmodel.errors import PlanError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["calibrate_machine", "check_output"]


def calibrate_machine(args: Namespace) -> int:
    """Measure the device that `--device` names (default: a GPU where PyTorch finds one, else the CPU)."""
    from perfmodel.calibrate.machine.calibration import calibrate_machine as measured
    from perfmodel.calibrate.machine.devices import open_device

    check_output(args.output)
    device = open_device(args.device)
    found = measured(device, quick=args.quick, note=args.note or "", progress=progress())
    if args.output is not None:
        write_atomically(args.output, found.to_toml())
    document = found.to_dict()
    emit(document, lambda console: _page(console, document), as_json=args.json, file=None)
    if args.output is not None:
        say(f"wrote {args.output}: use it as --cluster {args.output}, or as --accelerator {args.output}")
    return DONE


def check_output(file: str | None) -> None:
    """Refuse a place that cannot be written before any work; raises `PlanError`."""
    if file is None:
        return
    if not file.lower().endswith(".toml"):
        raise PlanError(f"-o {file}: the constants are written as TOML; name a file *.toml")
    if not Path(file).parent.is_dir():
        raise PlanError(f"-o {file}: cannot be written: no such folder")


def _page(console: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    device, check = document["device"], document["check"]
    console.print(Text(f"Kernel constants of {device['name']}", "bold"))
    console.print(Text(f"{device['stack']}; {len(document['samples'])} operations, medians", "dim"))
    heading(console, "Fits", "|ln(law / measured)|; every third shape held out; roofline: measured peaks alone")
    table = plain_table("block", "rows", "fitted", "held out", "P90", "roofline", left=(0,), gap=2)
    for block in document["blocks"]:
        errors = [fmt.percent(block[key]) for key in ("fitted_median", "held_out_median", "held_out_p90")]
        rows = f"{block['rows']} + {block['held_out_rows']}"
        table.add_row(block["block"], rows, *errors, fmt.percent(block["roofline_median"]))
    console.print(table)
    heading(console, "Held out", "by class of shape")
    table = plain_table("block", "shapes", "rows", "median", "P90", "bias", left=(0, 1), gap=2)
    for one in document["classes"]:
        errors = [fmt.percent(one["median"]), fmt.percent(one["p90"]), fmt.percent(one["bias"], signed=True)]
        table.add_row(one["block"], one["shapes"], str(one["rows"]), *errors)
    console.print(table)
    for block in document["blocks"]:
        named = (f"{name} {value:.4g}" for name, value in block["constants"].items())
        console.print(Text(f"{block['block']}: {', '.join(named)}", "dim"))
    heading(console, "A block that was not fitted")
    low, high = fmt.seconds(check["measured_p10_s"]), fmt.seconds(check["measured_p90_s"])
    console.print(f"measured   {fmt.seconds(check['measured_s'])} ({low} to {high})", markup=False)
    parts = ", ".join(f"{name.removesuffix('_s')} {fmt.seconds(value)}" for name, value in check["parts"].items())
    console.print(f"predicted  {fmt.seconds(check['predicted_s'])}: {parts}", markup=False)
    console.print(f"ratio      {check['ratio']:.3f}", markup=False)
    if document["notes"]:
        heading(console, "Mind")
    for note in document["notes"]:
        console.print(f"- {note}", markup=False)
