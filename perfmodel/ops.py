"""The few operations a formula body may use beside `+ - * / **`, each for all five readers.

Every operation takes Python floats, NumPy float64 arrays, SymPy expressions, `units.Measure` or `dual.Dual`, in any mix
of floats with one of the others, and answers in kind; a `dual_array.DualArray` counts as an array. `lambdify` is never
used: it rewrites `ceil(a / b)` into something else.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from perfmodel import _special_slopes
from perfmodel.dual import Dual
from perfmodel.units import DIMENSIONLESS, Measure

__all__ = [
    "beta_cdf",
    "ceil",
    "ceil_div",
    "digamma",
    "exp",
    "floor",
    "less",
    "less_equal",
    "log",
    "log2",
    "log_gamma",
    "maximum",
    "minimum",
    "normal_cdf",
    "sqrt",
    "where",
]

_FLOAT, _ARRAY, _SYMBOL, _MEASURE, _DUAL = range(5)


def _reader(*operands: Any) -> int:
    reader = _FLOAT
    for operand in operands:
        kind = type(operand)
        if kind is np.ndarray:  # the two common ones by identity: this is asked for every operation
            reader = _ARRAY
        elif kind is float or isinstance(operand, (float, int)):
            continue
        elif isinstance(operand, (np.ndarray, np.generic)):
            reader = _ARRAY
        elif isinstance(operand, Measure):
            return _MEASURE
        elif isinstance(operand, Dual):
            if operand.__array_ufunc__ is None:
                return _DUAL
            reader = _ARRAY  # a `DualArray` answers to NumPy's functions
        else:
            return _SYMBOL
    return reader


def _sympy() -> Any:
    # A symbol can only reach us when its maker has imported sympy already.
    return sys.modules["sympy"]


_Law = Callable[[float], float]


def _elementary(name: str, on_float: _Law, on_array: Any, derivative: _Law, *, pure: bool) -> Callable[[Any], Any]:
    def operation(x: Any) -> Any:
        reader = _reader(x)
        if reader == _FLOAT:
            return on_float(x)
        if reader == _ARRAY:
            return on_array(x)
        if reader == _MEASURE:
            return Measure(on_float(x.pure(name))) if pure else x.map(on_float)
        if reader == _DUAL:
            return x.through(on_float, derivative)
        sympy = _sympy()
        if name == "log2":
            return sympy.log(x) / sympy.log(2)
        return getattr(sympy, "ceiling" if name == "ceil" else name)(x)

    operation.__name__ = name
    return operation


ceil = _elementary("ceil", lambda x: float(math.ceil(x)), np.ceil, lambda x: 0.0, pure=True)
floor = _elementary("floor", lambda x: float(math.floor(x)), np.floor, lambda x: 0.0, pure=True)
exp = _elementary("exp", math.exp, np.exp, math.exp, pure=True)
log = _elementary("log", math.log, np.log, lambda x: 1 / x, pure=True)
log2 = _elementary("log2", math.log2, np.log2, lambda x: 1 / (x * math.log(2)), pure=True)


def _special(
    name: str, of_scipy: str, of_sympy: Callable[..., Any], *slopes: Callable[..., float]
) -> Callable[..., Any]:
    """A special function of pure numbers; scipy serves floats and arrays alike, so that both agree to the last bit.

    `slopes` are its derivatives by each operand, as functions of floats.
    """

    def operation(*operands: Any) -> Any:
        reader = _reader(*operands)
        if reader == _SYMBOL:
            return of_sympy(_sympy(), *operands)
        from scipy import special

        function = getattr(special, of_scipy)
        if reader == _MEASURE:
            return Measure(float(function(*(Measure.wrap(x).pure(name) for x in operands))))
        if reader == _DUAL:
            duals = [Dual.wrap(x) for x in operands]
            at = [x.value for x in duals]
            parts = (slope(*at) * x.slope for slope, x in zip(slopes, duals, strict=True) if np.any(x.slope))
            return Dual(float(function(*at)), sum(parts, 0.0))
        return float(function(*operands)) if reader == _FLOAT else function(*operands)

    operation.__name__ = name
    return operation


log_gamma = _special("log_gamma", "gammaln", lambda sympy, x: sympy.loggamma(x), _special_slopes.digamma)
digamma = _special("digamma", "psi", lambda sympy, x: sympy.digamma(x), _special_slopes.trigamma)
normal_cdf = _special(
    "normal_cdf", "ndtr", lambda sympy, x: (1 + sympy.erf(x / sympy.sqrt(2))) / 2, _special_slopes.normal_density
)
# `beta_cdf(a, b, x)`: the probability that a Beta(a, b) draw is at most x.
beta_cdf = _special(
    "beta_cdf",
    "betainc",
    lambda sympy, a, b, x: sympy.betainc_regularized(a, b, 0, x),
    _special_slopes.beta_cdf_by_first,
    _special_slopes.beta_cdf_by_second,
    _special_slopes.beta_density,
)


def sqrt(x: Any) -> Any:
    """Square root; the dimension is halved."""
    return x**0.5


def ceil_div(a: Any, b: Any) -> Any:
    """`ceil(a / b)` by one true division, exact whenever `b` divides `a` (counts below 2^53)."""
    return ceil(a / b)


def _extremum(name: str, on_float: Any, on_array: Any) -> Callable[..., Any]:
    def operation(*operands: Any) -> Any:
        reader = _reader(*operands)
        if reader == _FLOAT:
            return on_float(operands)
        if reader == _ARRAY:
            return on_array(*operands) if len(operands) == 2 else functools.reduce(on_array, operands)
        if reader == _DUAL:
            return on_float(operands)
        if reader == _MEASURE:
            first = Measure.wrap(operands[0])
            measures = [first, *(first.same_dimension(x, name) for x in operands[1:])]
            nonzero = [m.dimension for m in measures if m.value != 0]
            return Measure(on_float(m.value for m in measures), nonzero[0] if nonzero else first.dimension)
        sympy = _sympy()
        return (sympy.Max if on_float is max else sympy.Min)(*operands)

    operation.__name__ = name
    return operation


maximum = _extremum("maximum", max, np.maximum)
minimum = _extremum("minimum", min, np.minimum)


def _compare(name: str, on_number: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def operation(a: Any, b: Any) -> Any:
        if _reader(a, b) == _MEASURE:
            left = Measure.wrap(a)
            return on_number(left.value, left.same_dimension(b, name).value)
        return on_number(a, b)

    operation.__name__ = name
    return operation


less = _compare("less", lambda a, b: a < b)
less_equal = _compare("less_equal", lambda a, b: a <= b)


def where(condition: Any, when_true: Any, when_false: Any) -> Any:
    """`when_true` where the condition holds, else `when_false`; both sides are evaluated and must be finite."""
    reader = _reader(when_true, when_false)
    if reader == _MEASURE:
        left = Measure.wrap(when_true)
        right = left.same_dimension(when_false, "where")
        dimension = left.dimension if left.dimension != DIMENSIONLESS else right.dimension
        return Measure(left.value if condition else right.value, dimension)
    if isinstance(condition, (bool, np.bool_)):
        return when_true if condition else when_false
    if isinstance(condition, np.ndarray):
        return np.where(condition, when_true, when_false)
    return _sympy().Piecewise((when_true, condition), (when_false, True))
