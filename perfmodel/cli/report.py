"""`perfmodel report` and `perfmodel plot`: a result as a self-contained page, and one of its figures."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from perfmodel.cli.commands import DONE
from perfmodel.cli.output import say, write_atomically
from perfmodel.cli.scenario import read_table
from perfmodel.errors import PlanError

__all__ = ["draw", "plot", "report"]


def report(args: Namespace) -> int:
    """`perfmodel report`: 0, also for a plan that is not feasible; the page in a file or on standard output."""
    from perfmodel.report import render_report

    page = render_report(read_table(args.plan), label=_label(args))
    if args.output == "-":
        sys.stdout.write(page)
        sys.stdout.flush()
        return DONE
    write_atomically(args.output, page)
    say(f"wrote {args.output} ({len(page.encode()) / 1e3:,.0f} kB)")
    return DONE


def plot(args: Namespace) -> int:
    """`perfmodel plot`: 0 with the figure in the file, or with the names of the figures printed."""
    if not args.output and not args.figure:
        from perfmodel.report.documents import read_document
        from perfmodel.report.gallery import completed, pictures_of

        print(*pictures_of(completed(read_document(read_table(args.plan), _label(args)))), sep="\n")
        return DONE
    if not args.output:
        raise PlanError(f"plot: missing -o/--output, the file for {args.figure}")
    draw(read_table(args.plan), args.figure, args.output, label=_label(args))
    return DONE


def draw(result: Any, name: str, file: str, *, label: str = "document", flag: str = "-o") -> None:
    """Write one figure of a result into a file, in the format that its name ends with; raises `PlanError`."""
    from perfmodel.report import figure
    from perfmodel.report.style import FORMATS, written

    form = Path(file).suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise PlanError(f"{flag} {file}: must end in {', '.join('.' + one for one in FORMATS)}")
    write_atomically(file, written(figure(result, name, label=label), form), flag)
    say(f"wrote {file}")


def _label(args: Namespace) -> str:
    return "standard input" if args.plan == "-" else str(args.plan)
