"""Dual numbers against SymPy: their arithmetic, their operations, and the slope of every registered formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from test_formulas import Formula, each_formula, samples

from perfmodel import ops
from perfmodel.dual import Dual, plain
from perfmodel.specs.quantity import Quantity

RULES: dict[str, Callable] = {
    "sum": lambda x, y: x + y + 3 + 2.0 + x,
    "difference": lambda x, y: 7 - x - y - 1.5,
    "product": lambda x, y: 2 * x * y * 0.5,
    "quotient": lambda x, y: 3 / x + x / y + y / 4,
    "power": lambda x, y: x**2.5 + 1.7**y + x**y,
    "negative": lambda x, y: -(x * y) - (-y),
    "exponential": lambda x, y: ops.exp(-x) * ops.log(1 + y) + ops.log2(x) + ops.sqrt(x + y),
    "norm": lambda x, y: (x**1.6 + y**1.6) ** (1 / 1.6),
    "extremum": lambda x, y: ops.maximum(x * y, x + y, 1.0) - ops.minimum(x**2, y, 5.0),
    "branch": lambda x, y: ops.where(ops.less(x, y), x * y, y**2) + ops.where(ops.less_equal(y, 2.0), x, 1.0),
    "steps": lambda x, y: ops.ceil(x) * y + ops.floor(y) * x + ops.ceil_div(x, y),
}
SYMBOLS = sympy.symbols("x y", positive=True)
# Away from whole numbers, from each other and so from every kink.
NUMBERS = st.sampled_from([0.37, 0.91, 1.13, 1.77, 2.41, 3.19, 4.83])


def exact_slope(expression: sympy.Expr, symbol: sympy.Symbol, at: dict) -> float:
    """SymPy's derivative; the steps of `ceiling` and `floor` are flat, and mpmath takes what SymPy cannot."""
    expression = sympy.sympify(expression)
    if expression.has(sympy.betainc_regularized):
        free = expression.subs({other: number for other, number in at.items() if other != symbol})
        with mpmath.workdps(40):
            return float(mpmath.diff(sympy.lambdify(symbol, free, "mpmath"), mpmath.mpf(at[symbol])))
    slope = expression.diff(symbol)
    flat = slope.replace(lambda part: isinstance(part, (sympy.Derivative, sympy.Subs)), lambda part: sympy.Integer(0))
    return float(flat.subs(at))


@pytest.mark.parametrize("rule", RULES)
@settings(derandomize=True, max_examples=25, deadline=None)
@given(x=NUMBERS, y=NUMBERS)
def test_rules_are_those_of_sympy(rule: str, x: float, y: float) -> None:
    if x == y:
        y += 0.003
    law, at = RULES[rule], dict(zip(SYMBOLS, (x, y), strict=True))
    expression = law(*SYMBOLS)
    both = law(Dual(x, np.array([1.0, 0.0])), Dual(y, np.array([0.0, 1.0])))
    assert both.value == law(x, y), "the value is that of floats, to the bit"
    for position, (symbol, one) in enumerate(zip(SYMBOLS, (law(Dual(x, 1.0), y), law(x, Dual(y, 1.0))), strict=True)):
        wanted = exact_slope(expression, symbol, at)
        assert Dual.wrap(one).slope == pytest.approx(wanted, rel=1e-12, abs=1e-14)
        assert both.slope[position] == pytest.approx(wanted, rel=1e-12, abs=1e-14)


@each_formula
def test_slope_of_every_formula_is_the_symbolic_one(law: Formula) -> None:
    point = off_the_steps(law)
    value = law.function(**point)
    for name, at in point.items():
        dual = Dual.wrap(law.function(**(point | {name: Dual(at, 1.0)})))
        assert dual.value == pytest.approx(value, rel=1e-14, abs=0)
        symbol = sympy.Symbol(name, positive=True)
        others = {other: sympy.Float(number, 40) for other, number in point.items() if other != name}
        wanted = exact_slope(law.function(**(others | {name: symbol})), symbol, {symbol: sympy.Float(at, 40)})
        assert dual.slope == pytest.approx(wanted, rel=1e-8, abs=1e-10 * abs(value / at)), name


def off_the_steps(law: Formula) -> dict[str, float]:
    """A point inside the validity range where no argument is whole and no two are equal: away from kinks."""
    point = next(samples(law))
    for position, (name, value) in enumerate(point.items()):
        high = law.valid[name].high if name in law.valid else math.inf
        point[name] = value * (1.0 + 0.01 * math.sqrt(position + 2)) if value * 1.1 < high else value * 0.987
    return point


def test_at_a_tie_the_slope_is_that_of_the_first() -> None:
    x = Dual(2.0, 1.0)
    assert ops.maximum(3 * x, x + 4).slope == 3
    assert ops.maximum(x + 4, 3 * x).slope == 1
    assert Dual.wrap(ops.maximum(2.0, x)).slope == 0
    assert ops.ceil(x).slope == 0


@pytest.mark.parametrize("losing", [float, int, math.sqrt, math.ceil, hash, "{:g}".format, np.float64, round])
def test_nothing_loses_a_slope_silently(losing: Callable) -> None:
    with pytest.raises(TypeError):
        losing(Dual(2.0, 1.0))


def test_numpy_scalars_work_and_arrays_are_refused() -> None:
    x = Dual(2.0, 1.0)
    assert (np.float64(3.0) * x).slope == 3
    assert (np.float64(3.0) - x).value == 1
    assert np.float64(3.0) > x
    for mistake in (lambda a: a * x, lambda a: x + a, lambda a: ops.maximum(a, x)):
        with pytest.raises((TypeError, ValueError)):
            mistake(np.array([1.0, 2.0]))


def test_nothing_to_a_power() -> None:
    assert (Dual(0.0) ** 0.5).slope == 0, "a constant has no slope, whatever the power"
    assert (Dual(0.0, 1.0) ** 2).slope == 0
    with pytest.raises(ZeroDivisionError):
        Dual(0.0, 1.0) ** 0.5


def test_plain_takes_provenance_and_leaves_slopes() -> None:
    assert type(plain(Quantity(2.0))) is float
    x = Dual(2.0, 1.0)
    assert plain(x) is x
    assert (Quantity(3.0) * x).slope == 3
