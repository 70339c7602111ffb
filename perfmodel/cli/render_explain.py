"""Answers of a formula, results in words, and inverse queries as pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from perfmodel.cli import format as fmt
from perfmodel.cli.render import heading, plain_table

__all__ = ["answers_page", "calls_page", "document_page", "in_unit", "slopes_page", "solution_page"]

Entry = Mapping[str, Any]
_CALLS, _SLOPES, _FELT = 6, (12, 8), 5e-4  # as many of a kind as a page shows, and the least slope
_PEOPLE = {
    "s": fmt.seconds,
    "B": fmt.bytes_,
    "B/s": fmt.byte_rate,
    "flop/s": fmt.flop_rate,
    "W": fmt.power,
    "J": fmt.energy,
    "USD": fmt.usd,
}


def in_unit(value: float, unit: str) -> str:
    """A number with its unit, and as people say it where that differs.

    >>> in_unit(0.0025, "s"), in_unit(8.0, "1")
    ('0.0025 s (2.50 ms)', '8')
    """
    exact = f"{value:.6g}" if unit == "1" else f"{value:.6g} {unit}"
    shown = _PEOPLE[unit](value) if unit in _PEOPLE and value else exact
    return exact if shown.replace(",", "") == exact else f"{exact} ({shown})"


def answers_page(console: Console, entry: Entry, answers: Entry) -> None:
    """What a formula gives at these numbers: value, elasticities, roots, crossovers, limits."""
    console.print(Text.assemble((entry["id"], "bold"), f"  {entry['summary']}"))
    console.print(entry["expression"], markup=False)
    units = {symbol["name"]: symbol["unit"] for symbol in entry["symbols"]}
    if answers.get("at"):
        heading(console, "At")
        for name, value in answers["at"].items():
            console.print(f"{name} = {in_unit(value, units.get(name, '1'))}", markup=False)
    if "substituted" in answers:
        _substituted(console, entry, answers)
    if "calls" in answers:
        calls_page(console, "In this prediction", answers["calls"])
    if "solve" in answers:
        _roots(console, entry, answers["solve"])
    if "crossovers" in answers:
        _crossovers(console, entry, answers["crossovers"])
    if "limit" in answers:
        _limit(console, answers["limit"])


def _substituted(console: Console, entry: Entry, answers: Entry) -> None:
    found = answers["substituted"]
    heading(console, "Value")
    console.print(f"= {found['expression']}", markup=False)
    console.print(Text(f"= {in_unit(found['value'], found['unit'])}", "bold"))
    for choice in found["choices"]:
        if choice["kind"] in ("ceiling", "floor"):
            inside = choice["others"][0]
            console.print(
                f"{choice['kind']} of {inside[1]:.6g} is {choice['taken_value']:.6g}: {inside[0]}", markup=False
            )
            continue
        others = ", ".join(f"{text} = {value:.6g}" for text, value in choice["others"])
        edge = "; on the edge" if choice["kink"] else ""
        console.print(
            f"{choice['kind']}: {choice['taken']} = {choice['taken_value']:.6g} stands, against {others}{edge}",
            markup=False,
        )
    for warned in found["warnings"]:
        console.print(
            f"outside its range: {warned['quantity']} = {warned['value']:g}, valid {warned['valid']}", markup=False
        )
    heading(console, "Elasticities", "change of the value in % for 1 % more of the quantity")
    table = plain_table("", "elasticity", "", left=(0, 2))
    for one in answers["elasticities"]:
        note = " ".join(part for part in ("at a kink" * one["kink"], "by difference" * (not one["exact"])) if part)
        shown = "" if one["elasticity"] is None else f"{one['elasticity']:+.4g}"
        table.add_row(one["quantity"], shown, note)
    console.print(table)


def _roots(console: Console, entry: Entry, solved: Entry) -> None:
    heading(console, f"{solved['quantity']} for {in_unit(solved['for'], entry['returns']['unit'])}")
    if not solved["roots"]:
        console.print("no value in the range gives that; --between LOW,HIGH looks elsewhere")
    for root in solved["roots"]:
        jump = "; the formula steps over the result there" if root["jump"] else ""
        console.print(Text(f"{root['quantity']} = {in_unit(root['value'], root['unit'])}{jump}", "bold"))
        _closed_form(console, root)


def _closed_form(console: Console, found: Entry) -> None:
    if found["closed_form"] is None:
        console.print("no closed form: found as a bracketed root alone")
        return
    console.print(f"= {found['closed_form']}", markup=False)
    console.print(f"closed form {found['closed_form_value']:.10g}, bracketed root {found['value']:.10g}", markup=False)


def _crossovers(console: Console, entry: Entry, crossed: Entry) -> None:
    other = f" with {crossed['with']}" if crossed["with"] else ""
    what = "which is less" if crossed["with"] else "which argument stands"
    heading(console, f"Crossovers{other} over {crossed['over']}", what)
    if not crossed["points"]:
        console.print("none in the range; --between LOW,HIGH looks elsewhere")
    for point in crossed["points"]:
        console.print(Text(f"{point['quantity']} = {in_unit(point['value'], point['unit'])}", "bold"))
        console.print(f"below: {point['below']}", markup=False)
        console.print(f"above: {point['above']}", markup=False)
        console.print(f"value there: {in_unit(point['result'], entry['returns']['unit'])}", markup=False)
        _closed_form(console, point)


def _limit(console: Console, limit: Entry) -> None:
    heading(console, f"As {limit['quantity']} goes to {limit['towards']}")
    console.print(Text(limit["leading"], "bold"))
    if limit["ratio"] is not None:
        console.print(f"at {limit['quantity']} = {limit['far']:g} the formula is {limit['ratio']:.6g} times that")


def calls_page(console: Console, title: str, calls: Sequence[Entry]) -> None:
    """Formulas with the numbers that a prediction put into them, the largest values first."""
    heading(console, title, "each distinct set of numbers once; an algorithm that loses is asked too")
    for name in dict.fromkeys(call["formula"] for call in calls):
        console.print(Text(name, "bold"))
        same = sorted((call for call in calls if call["formula"] == name), key=lambda call: -call["value"])
        for call in same[:_CALLS]:
            console.print(f"  {call['expression']} = {in_unit(call['value'], call['unit'])}", markup=False)
            console.print(Text(f"  {call['times']} x, {call['asked_by']}", "dim"))
        if len(same) > _CALLS:
            console.print(Text(f"  and {len(same) - _CALLS} more; --json lists them all", "dim"))


def slopes_page(console: Console, document: Entry) -> None:
    """Elasticities of a step or of a deployment."""
    whole = {"step_time_s": document["step_time_s"]} if "step_time_s" in document else document["figures"]
    groups = ("hardware", "software", "constants", "workload")
    by_title = document["elasticities"] if "figures" in document else {key: document[key] for key in groups}
    for key, value in whole.items():
        console.print(f"{key}  {fmt.quantity(key, value)}", markup=False)
    for title, slopes in by_title.items():
        heading(console, f"Elasticities: {title}", "change in % for 1 % more of the quantity")
        served = "figures" in document
        notes = _notes(document, title) if served else {}
        more = [document[group][title] for group in ("software", "constants")] if served else []
        rows = [(quantity, slope) for part in (slopes, *more) for quantity, slope in part.items()]
        shown = [row for row in sorted(rows, key=lambda row: -abs(row[1])) if abs(row[1]) > _FELT][: _SLOPES[served]]
        table = plain_table("", "elasticity", "", left=(0, 2))
        for quantity, slope in shown:
            table.add_row(quantity, f"{slope:+.4f}", notes.get(quantity, ""))
        console.print(table)
        if len(rows) > len(shown):
            console.print(Text(f"and {len(rows) - len(shown)} smaller; --json lists them all", "dim"))
    for key, names in document.get("uneven", {}).items():
        console.print(
            f"{key} has a step or a kink within 2 % along {', '.join(names)}: perfmodel solve asks for values",
            markup=False,
        )


def _notes(document: Entry, figure: str) -> dict[str, str]:
    """What a deployment's elasticity by a quantity is, where it is not a slope of hardware or load that holds."""
    groups = {"software": "of the engine", "constants": "of kernels"}
    notes = {name: note for group, note in groups.items() for name in document[group][figure]}
    notes |= dict.fromkeys(document["differences"], "by difference")
    return notes | dict.fromkeys(document["uneven"].get(figure, ()), "not for 2 %")


def document_page(console: Console, words: Entry) -> None:
    """A result in words."""
    console.print(Text(words["summary"], "bold"), soft_wrap=True)
    for title, key in (("What binds", "binds"), ("What would change it", "changes")):
        if words[key]:
            heading(console, title)
            for line in words[key]:
                console.print(f"- {line}", markup=False, highlight=False)
    if words["terms"]:
        heading(console, "Terms")
    for term in words["terms"]:
        console.print(Text.assemble((term["name"], "bold"), f"  {fmt.seconds(term['seconds'])}, {term['bound_by']}"))
        console.print(f"  {term['meaning']}", markup=False)
        if term["formulas"]:
            console.print(Text(f"  perfmodel explain {', '.join(term['formulas'])}", "dim"))
    if words["how_sure"]:
        heading(console, "How sure")
        for line in words["how_sure"]:
            console.print(f"- {line}", markup=False)


def solution_page(console: Console, solution: Entry) -> None:
    """The answer of `perfmodel solve`."""
    asked = solution["request"]
    if not solution["feasible"]:
        console.print(Text(f"No {asked['quantity']} makes {asked['target_text']}", "bold"))
        for line in solution["infeasible_because"]:
            console.print(f"- {line}", markup=False)
        return
    now = solution["now"]
    console.print(
        Text(
            f"{asked['quantity']} = {in_unit(solution['value'], solution['unit'])} makes {asked['target_text']}", "bold"
        )
    )
    if now:
        console.print(f"now {in_unit(now, solution['unit'])}: {solution['value'] / now:.4g} times that", markup=False)
    table = plain_table("", "now", "there")
    for key, (before, after) in solution["figures"].items():
        table.add_row(
            key,
            *("" if x is None else fmt.quantity(key, x) if isinstance(x, float) else str(x) for x in (before, after)),
        )
    console.print()
    console.print(table)
    for line in solution["notes"]:
        console.print(f"- {line}", markup=False)
