"""The operations in their readers (Dual numbers: test_dual.py), and the algebra of dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel import ops
from perfmodel.errors import unknown_name
from perfmodel.units import DimensionError, Measure, parse_unit


@settings(derandomize=True)
@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_ceil_div_is_exact_for_exact_divisions(quotient: int, divisor: int) -> None:
    product = float(quotient * divisor)
    assert ops.ceil_div(product, float(divisor)) == quotient
    assert ops.ceil_div(np.array([product]), np.array([float(divisor)]))[0] == quotient


def test_ceil_div_where_the_reciprocal_is_one_too_large() -> None:
    assert math.ceil(525 * (1 / 75)) == 8, "the trap that lambdify falls into"
    assert ops.ceil_div(525.0, 75.0) == 7


@pytest.mark.parametrize("name", ["ceil", "floor", "exp", "log", "log2", "sqrt"])
def test_elementary_operations_agree_in_every_reader(name: str) -> None:
    operation = getattr(ops, name)
    x = sympy.Symbol("x", positive=True)
    for value in (0.7, 1.0, 2.5, 9.0):
        scalar = operation(value)
        assert operation(np.array([value]))[0] == pytest.approx(scalar, rel=1e-14, abs=0)
        assert float(operation(x).subs(x, value)) == pytest.approx(scalar, rel=1e-12, abs=1e-15)
        assert operation(Measure(value)).value == pytest.approx(scalar, rel=1e-14, abs=0)


@pytest.mark.parametrize("name", ["log_gamma", "digamma", "normal_cdf"])
def test_special_functions_agree_in_every_reader(name: str) -> None:
    operation = getattr(ops, name)
    x = sympy.Symbol("x", positive=True)
    for value in (0.7, 2.5, 9.0):
        scalar = operation(value)
        assert operation(np.array([value]))[0] == scalar
        assert float(operation(x).subs(x, value)) == pytest.approx(scalar, rel=1e-12, abs=1e-15)
        assert operation(Measure(value)).value == scalar


def test_beta_cdf_is_a_binomial_tail() -> None:
    """At least two heads of three: 3 p^2 (1 - p) + p^3."""
    a, b, x = sympy.symbols("a b x", positive=True)
    wanted = 3 * 0.6**2 * 0.4 + 0.6**3
    assert ops.beta_cdf(2.0, 2.0, 0.6) == pytest.approx(wanted, rel=1e-14)
    assert ops.beta_cdf(np.array([2.0]), 2.0, 0.6)[0] == ops.beta_cdf(2.0, 2.0, 0.6)
    assert float(ops.beta_cdf(a, b, x).subs({a: 2, b: 2, x: 0.6}).evalf()) == pytest.approx(wanted, rel=1e-12)
    assert ops.beta_cdf(Measure(2.0), Measure(2.0), 0.6).value == ops.beta_cdf(2.0, 2.0, 0.6)


def test_extrema_and_where_agree_in_every_reader() -> None:
    x, y = sympy.symbols("x y", positive=True)
    for a, b in ((1.0, 2.0), (2.0, 1.0), (3.0, 3.0)):
        chosen = ops.where(ops.less(a, b), a, ops.maximum(b, 0.5))
        arrays = ops.where(ops.less(np.array([a]), np.array([b])), np.array([a]), np.maximum(np.array([b]), 0.5))
        symbols = ops.where(ops.less(x, y), x, ops.maximum(y, 0.5)).subs({x: a, y: b})
        measures = ops.where(ops.less(Measure(a), Measure(b)), Measure(a), ops.maximum(Measure(b), 0.5))
        assert chosen == arrays[0] == float(symbols) == measures.value
    assert ops.minimum(3.0, 1.0, 2.0) == 1.0


SECONDS, BYTES = parse_unit("s"), parse_unit("B")


def test_dimensions_multiply_and_cancel() -> None:
    rate = Measure(10.0, BYTES) / Measure(2.0, SECONDS)
    assert str(rate.dimension) == "B s^-1"
    assert (Measure(5.0, BYTES) / rate).dimension == SECONDS
    assert (Measure(3.0, SECONDS) ** 1.6) ** (1 / 1.6) == Measure(pytest.approx(3.0), SECONDS)
    assert parse_unit("W") == parse_unit("J/s")


@pytest.mark.parametrize(
    "mistake",
    [
        lambda s, b: s + b,
        lambda s, b: s - 1.0,
        lambda s, b: ops.maximum(s, b),
        lambda s, b: ops.less(s, b),
        lambda s, b: ops.where(True, s, b),
        lambda s, b: ops.exp(s),
        lambda s, b: ops.ceil(b),
        lambda s, b: 2.0**s,
    ],
)
def test_dimension_mistakes_are_refused(mistake) -> None:
    with pytest.raises(DimensionError):
        mistake(Measure(2.0, SECONDS), Measure(3.0, BYTES))


def test_literal_zero_fits_every_dimension() -> None:
    assert (0 + Measure(2.0, SECONDS)).dimension == SECONDS
    assert ops.maximum(Measure(-2.0, SECONDS), 0).value == 0


def test_unknown_units_and_names_are_explained() -> None:
    with pytest.raises(ValueError, match="unknown unit 'GB'"):
        parse_unit("GB/s")
    assert "nearest: 'dgx-h100'" in unknown_name("cluster", "dgx-h10", ["dgx-h100", "dgx-a100"])
    assert "nearest" not in unknown_name("cluster", "zzzz", ["dgx-h100"])
