"""Arrays of dual numbers: float64 values with their slopes, read by NumPy's own functions.

What `dual.Dual` is to a float, `DualArray` is to an array; of no axes it is one number. It takes part in NumPy through
`__array_ufunc__` and `__array_function__`, so code that works on float64 arrays carries slopes as it stands. Functions
without a rule here raise `TypeError`: none loses a slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from perfmodel.dual import Dual

__all__ = ["DualArray", "as_floats", "flat", "implicit_root"]

Array = Any


class DualArray(NDArrayOperatorsMixin, Dual):
    """`value` [...] and `slope` [..., quantity], one entry for each quantity differentiated by.

    >>> x = DualArray([1.0, 3.0], [[1.0], [1.0]])
    >>> np.maximum(x**2, 5.0).slope.tolist()
    [[0.0], [6.0]]
    """

    __slots__ = ()
    value: Any

    def __init__(self, value: Any, slope: Any) -> None:
        self.value = value if isinstance(value, (np.ndarray, np.float64)) else np.asarray(value, dtype=float)[()]
        slope = np.asarray(slope, dtype=float)
        wanted = (*np.shape(self.value), slope.shape[-1])
        self.slope = slope if slope.shape == wanted else np.broadcast_to(slope, wanted)

    @property
    def elasticity(self) -> Any:
        """Slopes over values [..., quantity]: d ln of these numbers, where the seeds were d ln of quantities."""
        return self.slope / np.asarray(self.value)[..., None]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return np.shape(self.value)

    @property
    def ndim(self) -> int:
        """Of the values."""
        return np.ndim(self.value)

    @property
    def size(self) -> int:
        """Of the values."""
        return int(np.size(self.value))

    @property
    def T(self) -> DualArray:
        """Of two axes, the other way round."""
        return DualArray(self.value.T, self.slope.swapaxes(0, 1)) if self.ndim == 2 else self

    # Nothing is changed in place.
    __iadd__, __isub__ = NDArrayOperatorsMixin.__add__, NDArrayOperatorsMixin.__sub__
    __imul__, __itruediv__ = NDArrayOperatorsMixin.__mul__, NDArrayOperatorsMixin.__truediv__

    def __repr__(self) -> str:
        return f"DualArray({self.value!r}, slopes by {self.slope.shape[-1]})"

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("an array of a DualArray loses its slopes; use `as_floats`, or `flat` where that is meant")

    def __bool__(self) -> bool:
        return bool(self.value != 0)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[DualArray]:
        return (self[at] for at in range(len(self)))

    def __getitem__(self, at: Any) -> DualArray:
        # An ellipsis would reach into the slopes' own axis.
        assert at is not Ellipsis
        return DualArray(self.value[at], self.slope[at])

    def reshape(self, *shape: int) -> DualArray:
        """The same numbers in another shape."""
        value = self.value.reshape(*shape)
        return DualArray(value, self.slope.reshape(*value.shape, -1))

    def sum(self, axis: int | None = None) -> DualArray:
        """Over one axis or all."""
        axes = tuple(range(self.ndim)) if axis is None else axis % self.ndim
        return DualArray(self.value.sum(axis=axes), self.slope.sum(axis=axes))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if kwargs.pop("axis", 0) != 0 or kwargs:
            return NotImplemented
        if method == "accumulate" and ufunc is np.maximum:
            return _running_maximum(operands[0])
        if method != "__call__":
            return NotImplemented
        values = [flat(operand) for operand in operands]
        if ufunc in _COMPARISONS:
            return ufunc(*values)
        if ufunc is np.matmul:
            return _product(*operands)
        if ufunc not in _RULES:
            return NotImplemented
        with np.errstate(all="ignore"):
            found = ufunc(*values)
            return _chained(found, operands, _RULES[ufunc], values)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _FUNCTIONS[function](*args, **kwargs) if function in _FUNCTIONS else NotImplemented


def flat(numbers: Any) -> Any:
    """The values alone, for what moves in steps and so has no slope."""
    return numbers.value if isinstance(numbers, DualArray) else numbers


def as_floats(numbers: Any) -> Any:
    """A float64 array; a `DualArray` stays one."""
    return numbers if isinstance(numbers, DualArray) else np.asarray(numbers, dtype=float)


def implicit_root(residual: Callable[[Any], DualArray], root: Array, met: float = 1e-5) -> DualArray:
    """The root of a residual that carries slopes, `root` [point] being its value, by the implicit function theorem.

    Each entry of the residual depends on the same entry of the root alone. Slopes are not finite where it does not, or
    where it jumps over nothing: there it is further from it than `met`.

    >>> y = DualArray([9.0], [[1.0]])
    >>> implicit_root(lambda x: x**2 - y, np.array([3.0])).slope.round(6).tolist()
    [[0.166667]]
    """
    there = residual(root)
    # The residual is linear in slopes: a direction more in every quantity shows its own slope in each of them.
    moved = residual(DualArray(root, np.ones(there.slope.shape[-1])))
    quietest = np.argmin(np.abs(there.slope), axis=-1)[..., None]
    own = np.take_along_axis(moved.slope - there.slope, quietest, axis=-1)
    with np.errstate(all="ignore"):
        return DualArray(root, np.where(np.abs(there.value)[..., None] > met, np.nan, -there.slope / own))


def _chained(found: Array, operands: tuple[Any, ...], rules: Any, values: list[Any]) -> DualArray:
    """The chain rule: each operand's slopes times the derivative by it."""
    slope: Any = 0.0
    for operand, rule in zip(operands, rules, strict=True):
        if isinstance(operand, DualArray):
            slope = slope + _times(rule(found, *values), operand.slope)
    return DualArray(found, slope)


def _times(derivative: Any, slope: Any) -> Any:
    many = isinstance(derivative, np.ndarray) and derivative.ndim
    part = derivative[..., None] * slope if many else derivative * slope
    # Of a constant there is no slope, however steep the law (the root of nothing).
    finite = np.isfinite(derivative).all() if many else math.isfinite(derivative)
    return part if finite else np.where(slope == 0, 0.0, part)


def _steps(value: Any, *operands: Any) -> Any:
    return 0.0


_Rule = Callable[..., Any]
_RULES: Mapping[np.ufunc, tuple[_Rule, ...]] = {
    np.add: (lambda v, a, b: 1.0, lambda v, a, b: 1.0),
    np.subtract: (lambda v, a, b: 1.0, lambda v, a, b: -1.0),
    np.multiply: (lambda v, a, b: b, lambda v, a, b: a),
    np.divide: (lambda v, a, b: 1.0 / np.float64(b), lambda v, a, b: -v / b),
    np.power: (lambda v, a, b: b * np.float64(a) ** (b - 1), lambda v, a, b: np.where(a == 0, 0.0, v * np.log(a))),
    np.negative: (lambda v, a: -1.0,),
    np.absolute: (lambda v, a: np.sign(a),),
    np.sign: (_steps,),
    np.ceil: (_steps,),
    np.floor: (_steps,),
    np.exp: (lambda v, a: v,),
    np.log: (lambda v, a: 1.0 / np.float64(a),),
    np.log2: (lambda v, a: 1.0 / (np.float64(a) * np.log(2.0)),),
    np.sqrt: (lambda v, a: 0.5 / np.float64(v),),
    # Of equal operands the first is chosen, as in `Dual`.
    np.maximum: (lambda v, a, b: np.greater_equal(a, b) * 1.0, lambda v, a, b: np.less(a, b) * 1.0),
    np.minimum: (lambda v, a, b: np.less_equal(a, b) * 1.0, lambda v, a, b: np.greater(a, b) * 1.0),
}
_COMPARISONS = (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal, np.isfinite)


def _running_maximum(numbers: DualArray) -> DualArray:
    """Along the first axis."""
    highest = np.maximum.accumulate(numbers.value, axis=0)
    rows = np.arange(len(highest)).reshape(-1, *(1,) * (highest.ndim - 1))
    rises = np.concatenate([np.ones_like(highest[:1], dtype=bool), highest[1:] > highest[:-1]])
    at = np.maximum.accumulate(np.where(rises, rows, 0), axis=0)
    return DualArray(highest, np.take_along_axis(numbers.slope, at[..., None], axis=0))


def _product(a: Any, b: Any) -> DualArray:
    """Of a row of weights with rows, or of rows with a column of weights."""
    if np.ndim(b) == 1:
        return (a * b).sum(axis=-1)
    assert np.ndim(a) == 1
    return (a[:, None] * b).sum(axis=0)


def _where(condition: Any, when_true: Any, when_false: Any) -> DualArray:
    value = np.where(condition, flat(when_true), flat(when_false))
    slopes = (one.slope if isinstance(one, DualArray) else 0.0 for one in (when_true, when_false))
    return DualArray(value, np.where(np.asarray(condition)[..., None], *slopes))


def _clip(numbers: Any, low: Any, high: Any) -> Any:
    return np.minimum(np.maximum(numbers, low), high)


def _interp(x: Any, known: Any, there: Any) -> Any:
    """Piecewise linear, level beyond the ends, between constant `known`."""
    known = np.asarray(known)
    at = np.clip(np.searchsorted(known, flat(x), side="right") - 1, 0, len(known) - 2)
    width = known[at + 1] - known[at]
    share = _clip((x - known[at]) / np.where(width > 0, width, 1.0), 0.0, 1.0)
    return there[at] + share * (there[at + 1] - there[at])


def _gradient(numbers: DualArray, at: np.ndarray) -> DualArray:
    return DualArray(np.gradient(numbers.value, at), np.gradient(numbers.slope, at, axis=0))


def _repeat(numbers: DualArray, times: int) -> DualArray:
    return DualArray(np.repeat(numbers.value, times), np.repeat(numbers.slope, times, axis=0))


def _stack(parts: Sequence[Any], axis: int) -> DualArray:
    assert axis == -1
    return DualArray(np.stack([one.value for one in parts], axis=-1), np.stack([one.slope for one in parts], axis=-2))


def _broadcast_to(numbers: DualArray, shape: tuple[int, ...]) -> DualArray:
    return DualArray(np.broadcast_to(numbers.value, shape), numbers.slope)


_FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    np.where: _where,
    np.clip: _clip,
    np.interp: _interp,
    np.gradient: _gradient,
    np.repeat: _repeat,
    np.broadcast_to: _broadcast_to,
    np.stack: _stack,
    np.atleast_1d: lambda numbers: numbers if numbers.ndim else numbers.reshape(1),
    np.shape: lambda numbers: numbers.shape,
    np.ndim: lambda numbers: numbers.ndim,
}
