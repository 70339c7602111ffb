"""`perfmodel solve`: which value of one quantity makes a prediction so."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from perfmodel.cli.commands import DONE, NOT_FEASIBLE
from perfmodel.cli.numbers import bracket_in
from perfmodel.cli.option import parsed
from perfmodel.cli.options import ESTIMATE_SERVING, ESTIMATE_TRAINING, LAYOUT, SLO
from perfmodel.cli.output import emit, say
from perfmodel.cli.scenario import gather, read_scenario
from perfmodel.errors import PlanError

__all__ = ["estimate_keywords", "solve"]


def solve(args: Namespace) -> int:
    """`perfmodel solve`: 0 with a value, 1 where the bracket holds none (the document is printed all the same)."""
    from perfmodel.study.solve import solve as solved

    scenario = estimate_keywords(args, "solve")
    solution = solved(
        scenario, quantity=args.quantity, target=_target(args.so_that), bracket=bracket_in(args.between)
    ).to_dict()

    def page(console: Any) -> None:
        from perfmodel.cli.render_explain import solution_page

        solution_page(console, solution)

    emit(solution, page, as_json=args.json, file=args.output)
    return DONE if solution["feasible"] else NOT_FEASIBLE


def estimate_keywords(args: Namespace, command: str) -> dict[str, Any]:
    """The keywords of the estimate that flags and file describe: of training where there is a global batch."""
    in_file = read_scenario(args.file).values if args.file not in (None, "-") else {}
    training = hasattr(args, "global_batch") or "global_batch" in in_file
    options = ESTIMATE_TRAINING if training else ESTIMATE_SERVING
    given = {
        option.name: value if isinstance(value := getattr(args, option.name), bool) else parsed(option, value)
        for option in options
        if hasattr(args, option.name)
    }
    gathered = gather(options, given, args.file, command)
    for note in gathered.notes:
        say(f"note: {note}")
    values = dict(gathered.values)
    layout = {option.name: values.pop(option.name) for option in LAYOUT if option.name in values}
    if not training:
        slo = {name: values.pop(name) for name in SLO if name in values}
        values |= {"slo": slo} if slo else {}
    if "trace" in values:
        raise PlanError(f"--trace: {command} takes lengths and a rate; perfmodel estimate serving takes traces")
    return values | {"layout": layout}


def _target(text: str) -> dict[str, Any] | str:
    if text == "fits":
        return text
    key, equals, value = text.partition("=")
    if not equals:
        raise PlanError(f"--so-that: must be fits, [TERM.]bound_by=NAME or FIGURE=VALUE (got {text!r})")
    if key.endswith("bound_by"):
        return {key: value}
    try:
        return {key: float(value)}
    except ValueError:
        raise PlanError(f"--so-that: {key}: must be a number (got {value!r})") from None
