"""Dual numbers: a value with its slope, so that arithmetic carries exact derivatives along (forward mode).

`Dual` is the fifth reader of a formula body. The slope of a quantity to differentiate by is 1, or a unit vector where
one evaluation gives the slopes by several quantities; every operation then applies its rule of differentiation.

A branch is chosen by value, so at a kink (a tie of a maximum, an exact step of a `ceil`) the slope is that of the
branch chosen: the one-sided derivative of the law that binds. Of equal operands the first is chosen; a step is flat.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeGuard

import numpy as np

__all__ = ["Dual", "plain"]


class Dual:
    """A number and its derivative; `slope` is a float, or a float64 array of one entry per quantity differentiated by.

    `float(dual)` raises, and so does hashing: both would lose the slope without a word. Comparisons are by value.

    >>> x = Dual(3.0, 1.0)
    >>> (x**2 / (x + 1)).slope
    0.9375
    """

    __slots__ = ("slope", "value")
    __array_ufunc__ = None  # a NumPy scalar on the left leaves the operation to us
    __hash__ = None  # type: ignore[assignment]  # a cache would answer with another's slope

    def __init__(self, value: float, slope: Any = 0.0) -> None:
        self.value, self.slope = float(value), slope

    @staticmethod
    def wrap(number: Any) -> Dual:
        """The number itself, or a constant."""
        return number if isinstance(number, Dual) else Dual(number)

    def through(self, function: Callable[[float], float], derivative: Callable[[float], float]) -> Dual:
        """`function` of this number, by the chain rule."""
        return Dual(function(self.value), derivative(self.value) * self.slope)

    @property
    def elasticity(self) -> Any:
        """Slope over value: d ln of this number, where the seed was d ln of a quantity."""
        return self.slope / self.value

    def __float__(self) -> float:
        raise TypeError("float() of a Dual loses its slope; use `perfmodel.dual.plain`, or `.value` where it is meant")

    def __bool__(self) -> bool:
        return self.value != 0

    def __repr__(self) -> str:
        return f"Dual({self.value!r}, {self.slope!r})"

    def __add__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value + other.value, self.slope + other.slope)
        return Dual(self.value + other, self.slope) if _is_number(other) else NotImplemented

    def __sub__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value - other.value, self.slope - other.slope)
        return Dual(self.value - other, self.slope) if _is_number(other) else NotImplemented

    def __mul__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value * other.value, self.slope * other.value + self.value * other.slope)
        return Dual(self.value * other, self.slope * other) if _is_number(other) else NotImplemented

    def __truediv__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            quotient = self.value / other.value
            return Dual(quotient, (self.slope - quotient * other.slope) / other.value)
        return Dual(self.value / other, self.slope / other) if _is_number(other) else NotImplemented

    def __pow__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            power = self.value**other.value
            return Dual(power, _power_slope(self, other.value) + _exponential_slope(self.value, power, other.slope))
        return Dual(self.value**other, _power_slope(self, other)) if _is_number(other) else NotImplemented

    def __radd__(self, other: Any) -> Dual:
        return self + other

    def __rsub__(self, other: Any) -> Dual:
        return Dual(other - self.value, -self.slope) if _is_number(other) else NotImplemented

    def __rmul__(self, other: Any) -> Dual:
        return self * other

    def __rtruediv__(self, other: Any) -> Dual:
        return Dual(other) / self if _is_number(other) else NotImplemented

    def __rpow__(self, other: Any) -> Dual:
        return Dual(other) ** self if _is_number(other) else NotImplemented

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.slope)

    def __eq__(self, other: object) -> bool:
        return self.value == _value(other)

    def __lt__(self, other: Any) -> bool:
        return self.value < _value(other)

    def __le__(self, other: Any) -> bool:
        return self.value <= _value(other)

    def __gt__(self, other: Any) -> bool:
        return self.value > _value(other)

    def __ge__(self, other: Any) -> bool:
        return self.value >= _value(other)


def plain(number: float) -> float:
    """A float without its provenance; a `Dual` stays one, so that its slope reaches the prediction."""
    return number if isinstance(number, Dual) else float(number)


def _is_number(x: object) -> TypeGuard[float]:
    return isinstance(x, Real)  # NumPy's scalars too; arrays, symbols and text are not


def _value(number: Any) -> Any:
    return number.value if isinstance(number, Dual) else number


def _power_slope(base: Dual, exponent: float) -> Any:
    # Nothing to the power of less than one has a vertical slope: of a constant it is none, of a variable an error.
    if base.value == 0 and not np.any(base.slope):
        return base.slope
    return exponent * base.value ** (exponent - 1) * base.slope


def _exponential_slope(base: float, power: float, slope: Any) -> Any:
    return power * math.log(base) * slope if base else 0.0 * slope
