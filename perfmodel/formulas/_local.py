"""How a formula behaves at a point and far from it: elasticities and asymptotics, on the piece where it stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from perfmodel.errors import PlanError, unknown_name
from perfmodel.formulas._filled import filled_latex, filled_text
from perfmodel.formulas._registry import Formula, get_formula
from perfmodel.formulas._trees import Choice, branch_at, expression_of, tree_value

__all__ = ["Asymptote", "Elasticity", "Substituted", "asymptote", "elasticities", "point_of", "substitute"]


@dataclass(frozen=True)
class Substituted:
    """A formula with numbers put in: its value in base units, and the decisions it took on the way.

    `expression` and `latex` are the closed form with the numbers in the places of the symbols, nothing worked out.
    """

    id: str
    at: dict[str, float]
    expression: str
    latex: str
    value: float
    unit: str
    choices: tuple[Choice, ...]
    warnings: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Elasticity:
    """d ln f / d ln x [1] at a point: the relative change of the value for a relative change of one quantity.

    `exact` is False where SymPy has no derivative (a special function in a shape argument) and a central difference
    stands instead; at a kink it is the slope of the piece that the formula stands on. None where the value is zero.
    """

    quantity: str
    elasticity: float | None
    exact: bool
    kink: bool


@dataclass(frozen=True)
class Asymptote:
    """What a formula becomes as one quantity goes to zero or infinity: `coefficient * quantity ** power`.

    `power` is None where it is not a number yet. `ratio` is formula over asymptote at a `far` point of the numbers
    given, None without numbers or where both vanish.
    """

    id: str
    quantity: str
    towards: str
    leading: str
    latex: str
    power: float | None
    coefficient: str
    far: float | None
    ratio: float | None


def point_of(law: Formula, at: Mapping[str, float] | None, *, free: str | None = None) -> dict[str, float]:
    """Every argument's number: those given over the defaults; raises `PlanError` for one that is unknown or missing."""
    given = dict(at or {})
    for name, value in given.items():
        if name not in law.symbols:
            raise PlanError(f"{law.name}: {unknown_name('quantity', name, law.symbols, shown=30)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise PlanError(f"{law.name}: {name}: must be a finite number (got {value!r})")
    values = {n: given.get(n, symbol.default) for n, symbol in law.symbols.items() if n != free}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        wanted = ", ".join(f"{name} [{law.symbols[name].unit}]" for name in missing)
        raise PlanError(f"{law.name}: at: missing {wanted}")
    return {name: float(value) for name, value in values.items() if value is not None}


def substitute(name: str, at: Mapping[str, float] | None = None) -> Substituted:
    """The formula at these numbers (base units, defaults where none is given); raises `PlanError`.

    >>> substitute("send_recv_time", {"n_bytes": 1e9, "latency_s": 0.5, "link_byte_per_s": 2e9}).value
    1.0
    """
    law = get_formula(name)
    point = point_of(law, at)
    try:
        with np.errstate(all="ignore"):
            value = float(law.function(**point))
            choices = branch_at(expression_of(name), point).choices
    except (ArithmeticError, ValueError) as error:
        raise PlanError(f"{name}: has no value at these numbers ({error}); valid for {law.valid_text}") from None
    if not math.isfinite(value):
        raise PlanError(f"{name}: has no finite value at these numbers; valid for {law.valid_text}")
    return Substituted(
        id=name,
        at=point,
        expression=filled_text(expression_of(name), point),
        latex=filled_latex(expression_of(name), point),
        value=value,
        unit=law.returns.unit,
        choices=tuple(dict.fromkeys(choices)),
        warnings=tuple(law.out_of_range(**point)),
    )


def elasticities(name: str, at: Mapping[str, float] | None = None) -> tuple[Elasticity, ...]:
    """d ln f / d ln x for every argument x, from the derivative of the piece at the point; raises `PlanError`.

    >>> [(e.quantity, e.elasticity) for e in elasticities("machine_balance", {"flop_per_s": 1e15, "byte_per_s": 3e12})]
    [('flop_per_s', 1.0), ('byte_per_s', -1.0)]
    """
    law = get_formula(name)
    found = substitute(name, at)
    branch = branch_at(expression_of(name), found.at)
    return tuple(_elasticity(law, branch, argument, found) for argument in law.symbols)


def _elasticity(law: Formula, branch: Any, argument: str, found: Substituted) -> Elasticity:
    kink = branch.kinks_in(argument)
    if found.value == 0:
        return Elasticity(argument, None, True, kink)
    slope = _slope(branch.expression, argument, found.at)
    if slope is None:
        return Elasticity(argument, _central(law, argument, found), False, kink)
    return Elasticity(argument, found.at[argument] * slope / found.value + 0.0, True, kink)


def _slope(expression: Any, argument: str, point: Mapping[str, float]) -> float | None:
    """The derivative of a smooth piece, or None where SymPy knows none."""
    import sympy
    from sympy.core.function import ArgumentIndexError

    try:
        derivative = _derivative(expression, argument)
    except ArgumentIndexError:
        return None
    if derivative.has(sympy.Derivative, sympy.Subs):
        return None
    try:
        with np.errstate(all="ignore"):
            fast, whole = (float(tree_value(one, point)) for one in (derivative, expression))
    except (ArithmeticError, TypeError, ValueError):
        fast = whole = math.nan
    if math.isfinite(fast) and whole and abs(whole) > 1e-12:
        return fast
    # Tails of a distribution cancel in float64; thirty digits hold them.
    values = {symbol: point[symbol.name] for symbol in derivative.free_symbols}
    return float(derivative.subs(values).evalf(30))


@cache
def _derivative(expression: Any, argument: str) -> Any:
    import sympy

    return sympy.diff(expression, sympy.Symbol(argument, positive=True))


def _central(law: Formula, argument: str, found: Substituted) -> float:
    step, value = 1e-5, found.at[argument]
    low, high = (float(law.function(**(found.at | {argument: value * (1 + sign * step)}))) for sign in (-1, 1))
    return (high - low) / (2 * step * found.value)


def asymptote(name: str, quantity: str, towards: str, at: Mapping[str, float] | None = None) -> Asymptote:
    """The leading term as `quantity` goes to "inf" or "0"; numbers in `at` replace symbols and settle maxima.

    Raises `PlanError` where there is no single power of the quantity, or where symbols alone do not say which argument
    of a maximum wins: give their numbers then.
    """
    import sympy

    law = get_formula(name)
    if quantity not in law.symbols:
        raise PlanError(f"{name}: {unknown_name('quantity', quantity, law.symbols, shown=30)}")
    if towards not in ("inf", "0"):
        raise PlanError(f"{name}: {quantity}: can go to inf or 0 (got {towards})")
    given = {one: value for one, value in (at or {}).items() if one != quantity}
    whole = all(symbol.default is not None or one in given or one == quantity for one, symbol in law.symbols.items())
    numbers = point_of(law, given, free=quantity) if whole else {}
    x = sympy.Symbol(quantity, positive=True)
    fixed = {sympy.Symbol(one, positive=True): _number(value) for one, value in (numbers or given).items()}
    coefficient, power = _leading(expression_of(name).subs(fixed), x, 1 if towards == "inf" else -1, name)
    if fixed and not coefficient.free_symbols:
        coefficient, power = coefficient.evalf(15), sympy.sympify(power).evalf(15)
    leading = coefficient * x**power
    far, ratio = (
        _far_ratio(law, quantity, towards, numbers, leading) if numbers or len(law.symbols) == 1 else (None, None)
    )
    return Asymptote(
        id=name,
        quantity=quantity,
        towards=towards,
        leading=str(leading),
        latex=sympy.latex(
            leading, symbol_names={sympy.Symbol(s.name, positive=True): s.tex for s in law.symbols.values()}
        ),
        power=float(power) if power.is_number else None,
        coefficient=str(coefficient),
        far=far,
        ratio=ratio,
    )


def _number(value: float) -> Any:
    import sympy

    return sympy.Integer(int(value)) if value.is_integer() and abs(value) < 2**53 else sympy.Float(value)


def _far_ratio(
    law: Formula, quantity: str, towards: str, numbers: Mapping[str, float], leading: Any
) -> tuple[float | None, float | None]:
    """Formula over leading term, where the two are nearest on the way out."""
    best: tuple[float | None, float | None] = (None, None)
    for exponent in (4, 6, 9, 12, 18, 24, 30):  # float64 cancels far out, slow powers need to go there
        far = 10.0 ** (exponent if towards == "inf" else -exponent)
        with np.errstate(all="ignore"):
            try:
                value = float(law.function(**numbers, **{quantity: far}))
                wanted = float(tree_value(leading, {quantity: far}))
            except (ArithmeticError, TypeError, ValueError):
                continue
        if math.isfinite(value) and math.isfinite(wanted) and abs(wanted) > 1e-290:
            ratio = value / wanted
            if best[1] is None or abs(ratio - 1) < abs(best[1] - 1):
                best = far, ratio
    return best


def _leading(node: Any, x: Any, direction: int, name: str) -> tuple[Any, Any]:
    """(c, p) of the leading term c * x**p; `direction` is 1 towards infinity and -1 towards zero."""
    import sympy

    if not node.has(x):
        return node, sympy.Integer(0)
    if node == x:
        return sympy.Integer(1), sympy.Integer(1)
    kind = node.func.__name__
    if kind == "Mul":
        pairs = [_leading(part, x, direction, name) for part in node.args]
        return sympy.Mul(*(c for c, _ in pairs)), sympy.Add(*(p for _, p in pairs))
    if kind == "Pow" and not node.exp.has(x):
        c, p = _leading(node.base, x, direction, name)
        return c**node.exp, p * node.exp
    if kind == "Add":
        return _leading_sum(sympy.expand(node), x, direction, name)
    if kind in ("Max", "Min"):
        return _leading_extreme(node, x, direction, name)
    if kind in ("ceiling", "floor"):
        return _leading_step(node, x, direction, name)
    if kind == "Piecewise":
        return _leading(_far_case(node, x, direction, name), x, direction, name)
    if kind == "exp":
        c, p = _leading(node.args[0], x, direction, name)
        if direction * p < 0:
            return sympy.Integer(1), sympy.Integer(0)
    raise PlanError(f"{name}: no single power of {x} there: {node} grows otherwise")


def _leading_sum(node: Any, x: Any, direction: int, name: str) -> tuple[Any, Any]:
    import sympy

    pairs = [_leading(part, x, direction, name) for part in sympy.Add.make_args(node)]
    best = _dominant([p for _, p in pairs], direction, x, name)
    kept = [c for c, p in pairs if _same_power(p, best)]
    coefficient = sympy.Add(*kept)
    numbers = all(c.is_number for c in kept)
    if coefficient == 0 or (numbers and abs(complex(coefficient)) <= 1e-12 * sum(abs(complex(c)) for c in kept)):
        raise PlanError(f"{name}: no single power of {x} there: the leading terms of {node} cancel")
    return coefficient, best


def _same_power(one: Any, other: Any) -> bool:
    # 1.6 / 1.6 comes back as 1 only up to rounding, and SymPy holds 1.0 and 1 apart.
    return one == other or (one.is_number and other.is_number and math.isclose(one, other, abs_tol=1e-12))


def _dominant(powers: list[Any], direction: int, x: Any, name: str) -> Any:
    if any(not power.is_number for power in powers) and len(set(powers)) > 1:
        raise PlanError(f"{name}: the power of {x} depends on other quantities; give their numbers")
    return powers[0] if len(set(powers)) == 1 else max(powers, key=lambda power: direction * float(power))


def _leading_extreme(node: Any, x: Any, direction: int, name: str) -> tuple[Any, Any]:
    pairs = [_leading(part, x, direction, name) for part in node.args]
    sign = 1 if node.func.__name__ == "Max" else -1
    scored = []
    for c, p in pairs:
        if not p.is_number:
            raise PlanError(f"{name}: the power of {x} depends on other quantities; give their numbers")
        if c == 0:
            scored.append((0.0, c, p))
        elif c.is_positive or c.is_negative:
            # A larger power wins a maximum with a positive coefficient and loses it with a negative one.
            scored.append(((1 if c.is_positive else -1) * math.exp(direction * round(float(p), 12)), c, p))
        else:
            raise PlanError(f"{name}: which argument of {node} wins depends on other quantities; give their numbers")
    best = max(sign * score for score, _, _ in scored)
    kept = [(c, p) for score, c, p in scored if sign * score == best]
    return (kept[0][0] if len(kept) == 1 else node.func(*(c for c, _ in kept))), kept[0][1]


def _leading_step(node: Any, x: Any, direction: int, name: str) -> tuple[Any, Any]:
    import sympy

    c, p = _leading(node.args[0], x, direction, name)
    if not p.is_number:
        raise PlanError(f"{name}: the power of {x} depends on other quantities; give their numbers")
    if direction * p > 0:
        return c, p
    if direction * p < 0 and c.is_positive:
        return sympy.Integer(1 if node.func.__name__ == "ceiling" else 0), sympy.Integer(0)
    raise PlanError(f"{name}: {node} keeps stepping there; no single limit")


def _far_case(node: Any, x: Any, direction: int, name: str) -> Any:
    import sympy

    for case, condition in node.args:
        if condition == True:  # noqa: E712 - a SymPy truth
            return case
        far = condition.subs(x, sympy.Integer(10) ** (60 * direction))
        if far == True:  # noqa: E712
            return case
        if far != False:  # noqa: E712
            raise PlanError(f"{name}: which case of a condition holds depends on other quantities; give their numbers")
    raise PlanError(f"{name}: no case holds there")
