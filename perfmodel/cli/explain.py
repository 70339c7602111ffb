"""`perfmodel explain`: a formula's data sheet, its answers at numbers, or a result document in words."""

from __future__ import annotations

import math
import re
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.cli.catalogue import formula_entry
from perfmodel.cli.output import emit
from perfmodel.errors import PlanError, unknown_name

if TYPE_CHECKING:
    from perfmodel.formulas import Formula

__all__ = ["bracket_in", "explain", "number_in"]

_PREFIXES = {"": 1.0, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_VALUE = re.compile(r"(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>.*)")


def explain(args: Namespace) -> int:
    """`perfmodel explain FORMULA|DOCUMENT`; raises `PlanError` where a question does not fit the formula."""
    from perfmodel.formulas import get_formula

    if _is_document(args.id):
        return _explain_document(args)
    law = get_formula(args.id)
    entry = formula_entry(law)
    if args.latex:
        sys.stdout.write(f"{entry['latex']}\n")
        sys.stdout.flush()
        return 0
    answers = _answers(law, args)

    def page(console: Any) -> None:
        from perfmodel.cli.render_catalogue import formula_page
        from perfmodel.cli.render_explain import answers_page

        if answers:
            answers_page(console, entry, answers)
        else:
            formula_page(console, entry)

    emit(entry | answers, page, as_json=args.json, file=None)
    return 0


def _is_document(word: str) -> bool:
    return word == "-" or word.lower().endswith(".json") or Path(word).is_file()


def _explain_document(args: Namespace) -> int:
    from perfmodel.cli.scenario import read_table
    from perfmodel.study.words import explain_document

    asked = [flag for flag in ("at", "solve", "value", "crossover", "over", "limit", "between") if getattr(args, flag)]
    if asked or args.latex or args.elasticities:
        raise PlanError("explain: a document takes no questions; --at, --solve, --limit and the like go with a formula")
    words = explain_document(read_table(args.id))

    def page(console: Any) -> None:
        from perfmodel.cli.render_explain import document_page

        document_page(console, words.to_dict())

    emit(words.to_dict(), page, as_json=args.json, file=None)
    return 0


def _answers(law: Formula, args: Namespace) -> dict[str, Any]:
    """What was asked beside the data sheet, as further keys of its document."""
    from perfmodel import formulas

    shared = formulas.get_formula(args.crossover) if args.crossover else law
    at = dict(_pair(law, shared, text) for text in args.at or ())
    bracket = bracket_in(args.between)
    found: dict[str, Any] = {"at": at} if at else {}
    if args.value is not None and not args.solve:
        raise PlanError("--for: goes with --solve NAME")
    if args.over is None and args.crossover is not None:
        raise PlanError("--crossover: needs --over NAME, the quantity that varies")
    if args.solve:
        if args.value is None:
            raise PlanError(f"--solve {args.solve}: needs --for VALUE, the result wanted [{law.returns.unit}]")
        wanted = number_in(args.value, law.returns.unit, "--for")
        roots = formulas.solve_formula(law.name, args.solve, wanted, at, bracket)
        found["solve"] = {"quantity": args.solve, "for": wanted, "roots": [asdict(one) for one in roots]}
    if args.over is not None:
        met = (
            formulas.meeting_points(law.name, args.crossover, args.over, at, bracket)
            if args.crossover
            else formulas.crossovers(law.name, args.over, at, bracket)
        )
        found["crossovers"] = {
            "over": args.over,
            "with": args.crossover or None,
            "points": [asdict(one) for one in met],
        }
    if args.limit:
        quantity, _, towards = args.limit.partition("=")
        found["limit"] = asdict(formulas.asymptote(law.name, quantity, towards, at))
    asked_elsewhere = args.solve or args.over is not None or args.limit
    if args.elasticities or (at and not asked_elsewhere):
        found["substituted"] = asdict(formulas.substitute(law.name, at))
        found["elasticities"] = [asdict(one) for one in formulas.elasticities(law.name, at)]
    return found


def _pair(law: Formula, other: Formula, text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    if not equals:
        raise PlanError(f"--at: must be NAME=VALUE (got {text!r})")
    symbols = law.symbols | other.symbols
    if name not in symbols:
        raise PlanError(f"--at: {unknown_name('quantity', name, symbols, shown=30)}")
    return name, number_in(value, symbols[name].unit, f"--at {name}")


def bracket_in(text: str | None) -> tuple[float, float] | None:
    """LOW,HIGH of `--between` in base units; raises `PlanError`."""
    if text is None:
        return None
    ends = text.split(",")
    if len(ends) != 2:
        raise PlanError(f"--between: must be LOW,HIGH (got {text!r})")
    return number_in(ends[0], "1", "--between"), number_in(ends[1], "1", "--between")


def number_in(text: str, unit: str, label: str) -> float:
    """A number in base units, with or without its unit and a prefix; raises `PlanError` that begins with `label`.

    >>> number_in("450GB/s", "B/s", "--at"), number_in("3us", "s", "--at"), number_in("989e12", "flop/s", "--at")
    (450000000000.0, 3e-06, 989000000000000.0)
    """
    match = _VALUE.fullmatch(text.strip())
    scale = None if match is None else _scale(match["unit"].strip(), unit)
    if match is None or scale is None:
        raise PlanError(f"{label}: must be a number in [{unit}], as {_example(unit)} (got {text!r})")
    value = float(match["number"]) * scale
    if not math.isfinite(value):
        raise PlanError(f"{label}: must be finite (got {text!r})")
    return value


def _scale(written: str, unit: str) -> float | None:
    written = re.sub(r"(?i)flop", "flop", written)
    if not written:
        return 1.0
    for prefixes in (_PREFIXES, _BINARY if unit.startswith("B") else {}):
        for prefix, scale in prefixes.items():
            if written == prefix + unit or (unit == "1" and written == prefix and scale >= 1e3):
                return scale
    return None


def _example(unit: str) -> str:
    return "4096 or 8k" if unit == "1" else f"2.5e9 or 2.5G{unit}"
