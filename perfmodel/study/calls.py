"""What a prediction asked of the formulas: every call of a closed form on the way to an estimate, with its numbers.

Predictions carry no trace of their arithmetic. An estimate is run once more and watched: a formula is a plain
function, so the interpreter tells when it is entered and what it returns. Nothing slows down while nobody watches.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from perfmodel.errors import PlanError, unknown_name
from perfmodel.formulas import all_formulas, get_formula
from perfmodel.formulas import substitute as substituted
from perfmodel.study.quantities import estimate_of, resolved
from perfmodel.study.words import words_of_term

__all__ = ["FormulaCall", "calls_of_formula", "calls_of_term", "formula_calls"]


@dataclass(frozen=True)
class FormulaCall:
    """A formula at the numbers of a prediction: `times` it was asked so, first by the function `asked_by`.

    `through` are the functions on the way to it, of all those times.
    """

    formula: str
    at: dict[str, float]
    value: float
    unit: str
    times: int
    asked_by: str
    through: frozenset[str]

    def filled(self) -> dict[str, Any]:
        """The closed form with these numbers in the places of its symbols: `expression` and `latex`."""
        found = substituted(self.formula, self.at)
        return {"expression": found.expression, "latex": found.latex}


def formula_calls(scenario: Mapping[str, Any]) -> tuple[FormulaCall, ...]:
    """Every distinct call of a formula in the estimate of a scenario (keywords of `estimate_training` or `_serving`).

    Calls with arrays are left out; so is what an earlier estimate of this process left in a cache. Raises `SpecError`
    and `PlanError` as the estimate does.
    """
    asked = resolved(scenario)
    estimate_of(asked)  # tables are read and modules loaded: what is watched is arithmetic
    seen: dict[tuple[Any, ...], FormulaCall] = {}
    with _watched(seen):
        estimate_of(asked)
    return tuple(seen.values())


def calls_of_formula(scenario: Mapping[str, Any], name: str) -> tuple[FormulaCall, ...]:
    """The calls of one formula; raises `PlanError` where it has no part in the prediction, naming those that have."""
    get_formula(name)
    calls = formula_calls(scenario)
    found = tuple(call for call in calls if call.formula == name)
    if not found:
        known = dict.fromkeys(call.formula for call in calls)
        raise PlanError(f"{name}: has no part in this prediction; those that have: {', '.join(known)}")
    return found


def calls_of_term(scenario: Mapping[str, Any], term: str) -> tuple[FormulaCall, ...]:
    """The calls of the formulas that stand behind a term of the prediction, by its own name ("mlp_up").

    A formula that serves several terms (every matrix product) is given with the numbers of them all. Raises
    `PlanError` for a term that the prediction does not have, or that is only the sum of others.
    """
    names = list(_term_names(estimate_of(resolved(scenario))["terms"]))
    last = term.split("/")[-1].strip()
    if last not in names:
        raise PlanError(unknown_name("term", term, names, shown=40))
    words = words_of_term(last)
    formulas, within = words.get("formulas", ()), words.get("within", "")
    if not formulas:
        raise PlanError(f"term: {last}: is the sum of the terms under it; ask for one of those")
    calls = (call for call in formula_calls(scenario) if call.formula in formulas)
    return tuple(call for call in calls if any(within in name for name in call.through))


def _term_names(terms: Any) -> Iterator[str]:
    for term in terms:
        yield term["name"]
        yield from _term_names(term["children"])


@contextmanager
def _watched(seen: dict[tuple[Any, ...], FormulaCall]) -> Iterator[None]:
    laws = {law.function.__code__: law for law in all_formulas().values()}
    arguments: dict[FrameType, dict[str, Any]] = {}

    def watch(frame: FrameType, event: str, result: Any) -> None:
        law = laws.get(frame.f_code)
        if law is None:
            return
        if event == "call":
            arguments[frame] = dict(frame.f_locals)  # on return a body may have put others in their places
        elif event == "return" and (at := arguments.pop(frame, None)) is not None:
            numbers = [*at.values(), result]
            if not all(isinstance(number, (int, float, np.floating)) for number in numbers):
                return
            key = (law.name, *map(float, at.values()))
            way = _way(frame)
            before = seen.get(key)
            seen[key] = FormulaCall(
                formula=law.name,
                at={name: float(number) for name, number in at.items()},
                value=float(result),
                unit=law.returns.unit,
                times=1 + (before.times if before else 0),
                asked_by=before.asked_by if before else next(iter(way), ""),
                through=frozenset(way) | (before.through if before else frozenset()),
            )

    earlier = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(earlier)


def _way(frame: FrameType) -> list[str]:
    """The functions of the predictions that lead to a call, nearest first, as `module.function` without our name."""
    way, above = [], frame.f_back
    while above is not None:
        module = above.f_globals.get("__name__", "")
        if module.startswith("perfmodel.predict"):
            name = above.f_code.co_qualname.split(".<locals>")[0]
            way.append(f"{module.removeprefix('perfmodel.')}.{name}")
        above = above.f_back
    return way
