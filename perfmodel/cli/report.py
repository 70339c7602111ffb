"""`perfmodel report`: one self-contained page of a result."""

from __future__ import annotations

import sys
from argparse import Namespace

from perfmodel.cli.commands import DONE
from perfmodel.cli.output import say, write_atomically
from perfmodel.cli.scenario import read_table

__all__ = ["report"]


def report(args: Namespace) -> int:
    """`perfmodel report`: 0, also for a plan that is not feasible; the page in a file or on standard output."""
    from perfmodel.report import render_report

    label = "standard input" if args.plan == "-" else args.plan
    page = render_report(read_table(args.plan), label=label)
    if args.output == "-":
        sys.stdout.write(page)
        sys.stdout.flush()
        return DONE
    write_atomically(args.output, page)
    say(f"wrote {args.output} ({len(page.encode()) / 1e3:,.0f} kB)")
    return DONE
