"""`perfmodel plan test-time`: from a table of success counts and a price list to an allocation and its page."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.cli.commands import DONE, NOT_FEASIBLE
from perfmodel.cli.option import parsed
from perfmodel.cli.options import PLAN_TEST_TIME, PLAN_TRAINING_BUDGET
from perfmodel.cli.output import emit
from perfmodel.cli.scenario import read_table
from perfmodel.cli.tables import read_rows
from perfmodel.errors import PlanError, SpecError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["plan_test_time", "plan_training_budget", "test_time_page", "training_budget_page"]

_UNITS = ("usd", "s", "j", "tokens")
_KEYS = ("tasks", "methods", "budget", "objective", "estimator")
_DOCUMENT = "perfmodel/test-time-plan/1"
_SHOWN = 12


def plan_test_time(args: Namespace) -> int:
    """`perfmodel plan test-time`: 0 with a plan, 1 (and the document all the same) where the budget buys nothing."""
    import perfmodel as pm

    document = pm.plan_test_time(**_question(args)).to_dict()
    emit(document, lambda console: test_time_page(console, document), as_json=args.json, file=args.output)
    return DONE if document["feasible"] else NOT_FEASIBLE


def plan_training_budget(args: Namespace) -> int:
    """`perfmodel plan training-budget`: 0 with a plan, 1 where the budget trains nothing."""
    import perfmodel as pm

    given = {one.name: parsed(one, getattr(args, one.name)) for one in PLAN_TRAINING_BUDGET if hasattr(args, one.name)}
    budget = {unit: given.pop(unit) for unit in ("usd", "flop") if unit in given}
    if len(budget) > 1:
        raise PlanError("--usd, --flop: give one budget")
    document = pm.plan_training_budget(budget or None, **given).to_dict()
    emit(document, lambda console: training_budget_page(console, document), as_json=args.json, file=args.output)
    return DONE if document["feasible"] else NOT_FEASIBLE


def _question(args: Namespace) -> dict[str, Any]:
    """The keyword arguments of the library call: flags over the file."""
    question = {} if args.file is None else _of_file(args.file)
    given = {one.name: parsed(one, getattr(args, one.name)) for one in PLAN_TEST_TIME if hasattr(args, one.name)}
    for key in ("tasks", "methods"):
        if getattr(args, key) is not None:
            question[key] = read_rows(getattr(args, key), key)
        if key not in question:
            raise PlanError(f"--{key}: missing; give it as a file, or as the key {key} of a file (-f)")
    budget = {unit: given.pop(unit) for unit in _UNITS if unit in given}
    if len(budget) > 1:
        raise PlanError(f"{', '.join(f'--{unit}' for unit in budget)}: give one budget")
    if budget:
        question["budget"] = budget
    if "budget" not in question:
        raise PlanError(f"budget: missing; give one of {', '.join(f'--{unit}' for unit in _UNITS)}")
    return question | given


def _of_file(file: str) -> dict[str, Any]:
    data = read_table(file)
    if "document" in data:
        if data["document"] != _DOCUMENT:
            raise SpecError(f"{file}: {unknown_name('document', data['document'], [_DOCUMENT])}")
        data = data.get("request") or {}
    for key in data:
        if key not in _KEYS:
            raise SpecError(f"{file}: {unknown_name('key', key, _KEYS)}")
    folder = Path() if file == "-" else Path(file).parent
    # A table may stand in a file of its own, named relative to this one.
    return {key: read_rows(str(folder / value), key) if _is_file(key, value) else value for key, value in data.items()}


def _is_file(key: str, value: Any) -> bool:
    return key in ("tasks", "methods") and isinstance(value, str)


def test_time_page(console: Console, plan: Mapping[str, Any]) -> None:
    """The page of a plan: accuracy, classes, comparisons, what more money buys, and the first allocations."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading

    ((unit, size),) = plan["request"]["budget"].items()
    if not plan["feasible"]:
        console.print(Text("No plan is feasible", "bold red"))
        for reason in plan["infeasible_because"]:
            console.print(f"- {reason}", markup=False)
        return
    said = plan["prediction"]
    low, high = (fmt.percent(end) for end in said["accuracy_interval"])
    asked = len(plan["decision"]["allocations"])
    console.print(
        Text.assemble(
            (f"{asked} tasks, {_amount(size, unit)}: ", "bold"),
            (f"{fmt.percent(said['accuracy'])} solved", "bold green"),
            f" (80 %: {low} to {high})",
        )
    )
    certificate = plan["certificate"]
    proof = "optimal" if certificate["optimal"] else f"within {100 * certificate['gap']:.2g} % of the bound"
    marginal = said["marginal_accuracy_per_unit"] * size / 100
    console.print(
        f"{_amount(said['cost'], unit)} spent, {proof}; 1 % more budget adds {100 * marginal:.2g} points; "
        + (f"doubling pays up to {_amount(said['stops_paying_at'], unit)}" if said["stops_paying_at"] else "")
    )
    _tables(console, plan, unit)
    if plan["warnings"]:
        heading(console, "Mind")
    for text in plan["warnings"]:
        console.print(f"- {text}", markup=False)


def _tables(console: Console, plan: Mapping[str, Any], unit: str) -> None:
    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    heading(console, "By difficulty, hardest first", "success rate of one sample")
    table = plain_table("one sample", "tasks", "samples", "solved", "of budget", "methods", left=(0, 5))
    for one in plan["decision"]["classes"]:
        rates = " to ".join(fmt.percent(end) for end in one["success_rate"])
        methods = ", ".join(f"{name} {count}" for name, count in one["methods"].items())
        shares = [fmt.percent(one[key]) for key in ("accuracy", "budget_share")]
        table.add_row(rates, str(one["tasks"]), fmt.significant(one["samples_mean"]), *shares, methods)
    console.print(table)
    heading(console, "The same for every task", "beside this plan")
    table = plain_table("method", "samples", "solved", "cost", "plan at", "", left=(0, 5))
    for one in plan["comparisons"]:
        remark = "dearest method, once" if one["role"] == "dearest-once" else ""
        remark += "" if one["within_budget"] else " (over budget)"
        cost = _amount(one["cost"], unit)
        reached = "-" if one["plan_reaches_it_at"] is None else _amount(one["plan_reaches_it_at"], unit)
        table.add_row(one["method"], f"{one['samples']:,}", fmt.percent(one["accuracy"]), cost, reached, remark)
    console.print(table)
    heading(console, "Other budgets", "bound on what can be solved")
    table = plain_table("budget", "solved", "next 1 %")
    for one in plan["alternatives"]:
        gain = 100 * one["marginal_accuracy_per_unit"] * one["budget"] / 100
        table.add_row(_amount(one["budget"], unit), fmt.percent(one["accuracy"]), f"{gain:.2g} points")
    console.print(table)
    allocations = plan["decision"]["allocations"]
    heading(console, "Allocations", f"first {min(_SHOWN, len(allocations))} of {len(allocations)}; all with --json")
    table = plain_table("task", "method", "samples", "tokens", "solved", "cost", left=(0, 1))
    for one in allocations[:_SHOWN]:
        amounts = fmt.count(one["tokens"]), fmt.percent(one["accuracy"]), _amount(one["cost"], unit)
        table.add_row(one["task"], one["method"] or "-", f"{one['samples']:,}", *amounts)
    console.print(table)


def _amount(value: float, unit: str) -> str:
    from perfmodel.cli import format as fmt

    if unit == "usd":
        return fmt.usd(value)
    if unit == "s":
        return fmt.seconds(value)
    return fmt.energy(value) if unit == "j" else f"{fmt.count(value)} tokens"


def training_budget_page(console: Console, plan: Mapping[str, Any]) -> None:
    """The page of a training budget: the choice beside others, and what each costs."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    if not plan["feasible"]:
        console.print(Text("No plan is feasible", "bold red"))
        for reason in plan["infeasible_because"]:
            console.print(f"- {reason}", markup=False)
        return
    best, dollars = plan["decision"], plan["request"]["cluster"] is not None
    said = f"{fmt.count(best['n_params'])} parameters, {fmt.count(best['tokens'])} tokens, {best['precision']}: "
    console.print(Text.assemble((said, "bold"), (f"loss {best['loss']:.4f}", "bold green")))
    heading(console, "Choices", f"law {plan['request']['law']}, {plan['request']['served_tokens']:.3g} tokens served")
    table = plain_table("", "parameters", "tokens", "per param.", "precision", "loss", "training", "serving", left=(0,))
    for one in (best, *plan["alternatives"]):
        costs = [fmt.usd(one[key]) if dollars else f"{one[key]:.3g}" for key in ("training_cost", "serving_cost")]
        sizes = fmt.count(one["n_params"]), fmt.count(one["tokens"]), fmt.significant(one["tokens_per_param"])
        table.add_row(one["role"], *sizes, one["precision"], f"{one['loss']:.4f}", *costs)
    console.print(table)
    for text in plan["warnings"]:
        console.print(f"- {text}", markup=False)
