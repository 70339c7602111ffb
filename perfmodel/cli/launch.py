"""`perfmodel export` and `perfmodel import`: launch files of other tools out of plans, and back into scenarios."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

from perfmodel.cli.commands import DONE
from perfmodel.cli.output import say, write_atomically
from perfmodel.cli.scenario import read_table, read_text

__all__ = ["export_plan", "import_launch"]


def export_plan(args: Namespace) -> int:
    """`perfmodel export`: the launch file on standard output or whole into a file, remarks on standard error."""
    from perfmodel import launch

    label = "standard input" if args.plan == "-" else args.plan
    exported = launch.export_plan(read_table(args.plan), args.to, args.version_of, label=label)
    for note in exported.notes:
        say(f"note: {note}")
    _write(exported.text, args.output)
    return DONE


def import_launch(args: Namespace) -> int:
    """`perfmodel import`: a scenario for `-f`, as TOML or JSON; what says nothing to us on standard error."""
    from perfmodel import launch

    label = "standard input" if args.launch_file == "-" else args.launch_file
    imported = launch.import_launch(
        read_text(args.launch_file), args.origin, args.version_of, role=args.role, label=label
    )
    if imported.ignored:
        say(f"note: {label}: ignored, they change no prediction: {', '.join(imported.ignored)}")
    for note in imported.notes:
        say(f"note: {label}: {note}")
    as_json = args.json or (args.output or "").lower().endswith(".json")
    _write(
        json.dumps(imported.scenario, indent=2, allow_nan=False) + "\n" if as_json else imported.to_toml(), args.output
    )
    return DONE


def _write(text: str, file: str | None) -> None:
    if file is not None and file != "-":
        write_atomically(file, text)
        return
    sys.stdout.write(text)
    sys.stdout.flush()
