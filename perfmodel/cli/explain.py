"""`perfmodel explain`: a formula's data sheet, its answers at numbers, or a result document in words."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.cli.catalogue import formula_entry
from perfmodel.cli.numbers import bracket_in, number_in
from perfmodel.cli.output import emit
from perfmodel.errors import PlanError, unknown_name

if TYPE_CHECKING:
    from perfmodel.formulas import Formula

__all__ = ["explain"]


def explain(args: Namespace) -> int:
    """`perfmodel explain FORMULA|DOCUMENT`; raises `PlanError` where a question does not fit the formula."""
    from perfmodel.formulas import get_formula

    if _is_document(args.id):
        return _explain_document(args)
    law = get_formula(args.id)
    if args.term:
        raise PlanError("--term: goes with a result document, not with a formula")
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
    asked = [flag for flag in ("at", "solve", "value", "crossover", "over", "limit", "between") if getattr(args, flag)]
    if asked or args.latex or args.file:
        raise PlanError("explain: a document takes --term and --elasticities; other questions go with a formula")
    if args.term and args.elasticities:
        raise PlanError("explain: --term or --elasticities: give one of them")
    if args.term:
        return _explain_term(args)
    if args.elasticities:
        return _explain_slopes(args)
    from perfmodel.cli.scenario import read_table
    from perfmodel.study.words import explain_document

    words = explain_document(read_table(args.id)).to_dict()

    def page(console: Any) -> None:
        from perfmodel.cli.render_explain import document_page

        document_page(console, words)

    emit(words, page, as_json=args.json, file=None)
    return 0


def _keywords(file: str) -> dict[str, Any]:
    """The estimate that a scenario or a result stands for."""
    from perfmodel.cli.solve import estimate_keywords

    return estimate_keywords(Namespace(file=file), "explain")


def _explain_term(args: Namespace) -> int:
    from perfmodel.study.calls import calls_of_term

    calls = [_call_entry(call) for call in calls_of_term(_keywords(args.id), args.term)]

    def page(console: Any) -> None:
        from perfmodel.cli.render_explain import calls_page

        calls_page(console, f"What stands behind {args.term}", calls)

    emit({"term": args.term, "calls": calls}, page, as_json=args.json, file=None)
    return 0


def _call_entry(call: Any) -> dict[str, Any]:
    kept = ("formula", "at", "value", "unit", "times", "asked_by")
    return {key: getattr(call, key) for key in kept} | call.filled()


def _explain_slopes(args: Namespace) -> int:
    import perfmodel as pm
    from perfmodel.study.slopes import serving_elasticities

    scenario = _keywords(args.id)
    found = pm.elasticities(scenario) if "global_batch" in scenario else serving_elasticities(scenario)
    document = found.to_dict()

    def page(console: Any) -> None:
        from perfmodel.cli.render_explain import slopes_page

        slopes_page(console, document)

    emit(document, page, as_json=args.json, file=None)
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
    if args.file:
        from perfmodel.study.calls import calls_of_formula

        found["calls"] = [_call_entry(call) for call in calls_of_formula(_keywords(args.file), law.name)]
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
