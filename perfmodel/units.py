"""Dimensions: the algebra that proves that the units of a formula fit.

`Measure` is the fourth reader of a formula body (after floats, arrays and symbols): a number that carries its
dimension through `+ - * / **` and `perfmodel.ops`, and refuses to add seconds to bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["DIMENSIONLESS", "Dimension", "DimensionError", "Measure", "parse_unit"]


class DimensionError(TypeError):
    """Two quantities of different dimension were added, compared, or used as a pure number."""


@dataclass(frozen=True)
class Dimension:
    """A product of powers of the base units, e.g. `B/s` is {"B": 1, "s": -1}."""

    powers: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, powers: dict[str, float]) -> Dimension:
        # Exponents such as 1.6 / 1.6 come back as 1 only up to rounding.
        kept = {unit: round(power, 9) for unit, power in powers.items() if abs(power) > 1e-9}
        return cls(tuple(sorted(kept.items())))

    def times(self, other: Dimension, sign: float = 1.0) -> Dimension:
        powers = dict(self.powers)
        for unit, power in other.powers:
            powers[unit] = powers.get(unit, 0.0) + sign * power
        return Dimension.of(powers)

    def to_the(self, exponent: float) -> Dimension:
        return Dimension.of({unit: power * exponent for unit, power in self.powers})

    def __str__(self) -> str:
        return " ".join(unit if power == 1 else f"{unit}^{power:g}" for unit, power in self.powers) or "1"


DIMENSIONLESS = Dimension()
_BASE_UNITS = ("s", "B", "flop", "J", "USD", "kg")
_DERIVED_UNITS = {
    "1": DIMENSIONLESS,
    "W": Dimension.of({"J": 1, "s": -1}),
    "Hz": Dimension.of({"s": -1}),
} | {unit: Dimension.of({unit: 1}) for unit in _BASE_UNITS}
_FACTOR = re.compile(r"([A-Za-z1]+)(?:\^(-?[\d.]+))?")


def parse_unit(text: str) -> Dimension:
    """Read a unit such as `B/s`, `flop/B`, `1`, `USD/J`, `1/s`, `B s`; raise `ValueError` for an unknown one.

    >>> str(parse_unit("flop/s"))
    'flop s^-1'
    """
    dimension = DIMENSIONLESS
    for position, part in enumerate(text.split("/")):
        for factor in part.split():
            match = _FACTOR.fullmatch(factor)
            if match is None or match[1] not in _DERIVED_UNITS:
                raise ValueError(f"unknown unit {factor!r} in {text!r}; allowed: {', '.join(_DERIVED_UNITS)}")
            power = float(match[2] or 1)
            dimension = dimension.times(_DERIVED_UNITS[match[1]].to_the(power), -1.0 if position else 1.0)
    return dimension


@dataclass(frozen=True)
class Measure:
    """A value with its dimension. A literal zero fits every dimension; any other bare number is a pure count."""

    value: float
    dimension: Dimension = DIMENSIONLESS

    @staticmethod
    def wrap(x: object) -> Measure:
        return x if isinstance(x, Measure) else Measure(float(x))  # type: ignore[arg-type]

    def same_dimension(self, other: object, doing: str) -> Measure:
        right = Measure.wrap(other)
        if right.dimension != self.dimension and right.value != 0 and self.value != 0:
            raise DimensionError(f"{doing}: [{self.dimension}] does not fit [{right.dimension}]")
        return right

    def pure(self, doing: str) -> float:
        if self.dimension != DIMENSIONLESS:
            raise DimensionError(f"{doing} needs a pure number, got [{self.dimension}]")
        return self.value

    def map(self, function: Callable[[float], float]) -> Measure:
        return Measure(function(self.value), self.dimension)

    def _sum(self, other: object, doing: str, value: Callable[[float, float], float]) -> Measure:
        right = self.same_dimension(other, doing)
        dimension = self.dimension if self.value != 0 or right.value == 0 else right.dimension
        return Measure(value(self.value, right.value), dimension)

    def __add__(self, other: object) -> Measure:
        return self._sum(other, "+", lambda a, b: a + b)

    def __sub__(self, other: object) -> Measure:
        return self._sum(other, "-", lambda a, b: a - b)

    def __mul__(self, other: object) -> Measure:
        right = Measure.wrap(other)
        return Measure(self.value * right.value, self.dimension.times(right.dimension))

    def __truediv__(self, other: object) -> Measure:
        right = Measure.wrap(other)
        return Measure(self.value / right.value, self.dimension.times(right.dimension, -1.0))

    def __pow__(self, other: object) -> Measure:
        exponent = Measure.wrap(other).pure("an exponent")
        return Measure(math.pow(self.value, exponent), self.dimension.to_the(exponent))

    def __neg__(self) -> Measure:
        return Measure(-self.value, self.dimension)

    def __radd__(self, other: object) -> Measure:
        return Measure.wrap(other) + self

    def __rsub__(self, other: object) -> Measure:
        return Measure.wrap(other) - self

    def __rmul__(self, other: object) -> Measure:
        return Measure.wrap(other) * self

    def __rtruediv__(self, other: object) -> Measure:
        return Measure.wrap(other) / self

    def __rpow__(self, other: object) -> Measure:
        return Measure.wrap(other) ** self
