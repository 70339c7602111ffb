"""`perfmodel calibrate --law`: a law of scaling fitted to a user's table, or the laws that there are."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfmodel._version import __version__
from perfmodel.cli.commands import DONE
from perfmodel.cli.output import emit
from perfmodel.errors import PlanError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["calibrate_law"]


def calibrate_law(args: Namespace) -> int:
    """With `--law NAME --from-table FILE` a fit; with `--laws` the names and their columns."""
    from perfmodel.calibrate.laws import LAWS, fit_law, read_law_table

    if args.laws:
        from perfmodel.specs.registry import data_version

        laws = [{"id": id, "columns": list(law.columns), "parameters": list(law.starts)} for id, law in LAWS.items()]
        listed = {
            "document": "perfmodel/laws/1", "perfmodel_version": __version__, "data_version": data_version(),
            "request": {}, "laws": laws,
        }  # fmt: skip
        emit(listed, lambda console: _laws_page(console, laws), as_json=args.json, file=args.output)
        return DONE
    if args.law not in LAWS:
        raise PlanError(f"--law: {unknown_name('law', args.law, LAWS)}")
    if args.from_table is None:
        raise PlanError(f"--law: goes with --from-table; the columns are {', '.join(LAWS[args.law].columns)}")
    document = fit_law(args.law, read_law_table(args.from_table)).to_dict()
    emit(document, lambda console: _fit_page(console, document), as_json=args.json, file=args.output)
    return DONE


def _laws_page(console: Console, laws: list[dict[str, Any]]) -> None:
    from perfmodel.cli.render import plain_table

    table = plain_table("law", "columns", "parameters", left=(0, 1, 2))
    for law in laws:
        table.add_row(law["id"], ", ".join(law["columns"]), ", ".join(law["parameters"]))
    console.print(table)


def _fit_page(console: Console, fit: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli.render import plain_table

    console.print(Text(f"{fit['request']['law']}: {fit['rows']} rows, R2 {fit['r_squared']:.4f} of logarithms", "bold"))
    table = plain_table("parameter", "value", f"{100 * fit['interval_level']:g} % interval", left=(0,))
    for one in fit["parameters"]:
        low, high = one["interval"]
        table.add_row(one["name"], f"{one['value']:.5g}", f"{low:.4g} to {high:.4g}")
    console.print(table)
