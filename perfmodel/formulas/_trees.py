"""Reading a formula's SymPy tree at a point: its value, and the branch on which it stands there.

A maximum, a condition or a `ceil` makes a formula a patchwork of smooth pieces. Derivatives, inverses and limits are
exact on a piece; which piece it is takes numbers. Nothing here goes through `lambdify`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from perfmodel.formulas._registry import get_formula

__all__ = ["Branch", "Choice", "branch_at", "expression_of", "tree_value"]

_TIE = 1e-9  # two sides nearer than this, relatively, are a kink


@dataclass(frozen=True)
class Choice:
    """One decision that a formula takes at a point: which argument of a maximum or minimum, which case, which step.

    `taken` and `others` are expressions as text with their values; `kink` says that the decision stands on its edge.
    """

    kind: str
    taken: str
    taken_value: float
    others: tuple[tuple[str, float], ...]
    depends_on: tuple[str, ...]
    kink: bool


@dataclass(frozen=True)
class Branch:
    """The smooth piece of an expression around a point, and the decisions that lead there."""

    expression: Any
    choices: tuple[Choice, ...]

    def kinks_in(self, name: str) -> bool:
        """Whether the point is an edge of the piece along that quantity."""
        return any(choice.kink and name in choice.depends_on for choice in self.choices)


@cache
def expression_of(name: str) -> Any:
    """The SymPy expression of a formula, made once."""
    return get_formula(name).symbolic()


def tree_value(node: Any, point: Mapping[str, Any]) -> Any:
    """The number, or the float64 array, of an expression where its symbols take the values of `point`."""
    if node.is_Symbol:
        return point[node.name]
    if not node.free_symbols and node.is_number:
        return float(node)
    if node.is_Piecewise:
        return _piecewise(node, point)
    if node.is_Mul:
        return _product(node, point)
    operands = [tree_value(part, point) for part in node.args]
    reader = _readers().get(node.func.__name__)
    if reader is None:
        return float(node.subs({symbol: point[symbol.name] for symbol in node.free_symbols}).evalf())
    return reader(*operands)


@cache
def _readers() -> dict[str, Callable[..., Any]]:
    from scipy import special

    def reduced(function: Any) -> Callable[..., Any]:
        return lambda *operands: function.reduce(
            [np.asarray(one, dtype=float) for one in np.broadcast_arrays(*operands)]
        )

    return {
        "Add": lambda *operands: sum(operands[1:], operands[0]),
        "Pow": lambda base, exponent: np.power(base, exponent, dtype=float),
        "Max": reduced(np.maximum),
        "Min": reduced(np.minimum),
        "ceiling": np.ceil,
        "floor": np.floor,
        "exp": np.exp,
        "log": np.log,
        "erf": special.erf,
        "loggamma": special.gammaln,
        "gamma": special.gamma,
        "beta": special.beta,
        "polygamma": lambda order, x: special.psi(x) if order == 0 else special.polygamma(int(order), x),
        "betainc_regularized": lambda a, b, _low, x: special.betainc(a, b, x),
        "StrictLessThan": np.less,
        "LessThan": np.less_equal,
        "StrictGreaterThan": np.greater,
        "GreaterThan": np.greater_equal,
    }


def _product(node: Any, point: Mapping[str, Any]) -> Any:
    """One division at the end: a / b is exact where b divides a, and a * (1 / b) is not."""
    above, below = np.float64(1.0), np.float64(1.0)  # NumPy's division by zero is infinite, Python's an error
    for factor in node.args:
        if factor.is_Pow and factor.exp.is_number and factor.exp.is_negative:
            below = below * tree_value(1 / factor, point)
        else:
            above = above * tree_value(factor, point)
    return above / below


def _piecewise(node: Any, point: Mapping[str, Any]) -> Any:
    value = tree_value(node.args[-1][0], point)
    for case, condition in reversed(node.args[:-1]):
        value = np.where(_holds(condition, point), tree_value(case, point), value)
    return value


def _holds(condition: Any, point: Mapping[str, Any]) -> Any:
    return bool(condition) if condition in (True, False) else tree_value(condition, point)


def branch_at(expression: Any, point: Mapping[str, float]) -> Branch:
    """The piece of `expression` at `point`: maxima, minima and conditions decided, `ceil` and `floor` constant."""
    choices: list[Choice] = []
    return Branch(_decided(expression, point, choices), tuple(choices))


def _decided(node: Any, point: Mapping[str, float], choices: list[Choice]) -> Any:
    if not node.args:
        return node
    name = node.func.__name__
    if name in ("Max", "Min"):
        return _decided(_extreme(node, point, choices), point, choices)
    if node.is_Piecewise:
        return _decided(_case(node, point, choices), point, choices)
    if name in ("ceiling", "floor"):
        return _step(node, point, choices)
    return node.func(*(_decided(part, point, choices) for part in node.args))


def _extreme(node: Any, point: Mapping[str, float], choices: list[Choice]) -> Any:
    values = [float(tree_value(part, point)) for part in node.args]
    pick = max if node.func.__name__ == "Max" else min
    taken = values.index(pick(values))
    others = tuple(
        (str(part), value) for at, (part, value) in enumerate(zip(node.args, values, strict=True)) if at != taken
    )
    kink = any(math.isclose(values[taken], value, rel_tol=_TIE, abs_tol=0.0) for _, value in others)
    kind = "maximum" if pick is max else "minimum"
    choices.append(Choice(kind, str(node.args[taken]), values[taken], others, _names(node), kink))
    return node.args[taken]


def _case(node: Any, point: Mapping[str, float], choices: list[Choice]) -> Any:
    kink, decided = False, None
    others = []
    for case, condition in node.args:
        if decided is None and bool(_holds(condition, point)):
            decided = case
        else:
            others.append((str(case), float(tree_value(case, point))))
        if condition not in (True, False):
            left, right = (float(tree_value(side, point)) for side in condition.args)
            kink = kink or math.isclose(left, right, rel_tol=_TIE, abs_tol=0.0)
    assert decided is not None, "ops.where always ends in a case that holds"
    choices.append(Choice("case", str(decided), float(tree_value(decided, point)), tuple(others), _names(node), kink))
    return decided


def _step(node: Any, point: Mapping[str, float], choices: list[Choice]) -> Any:
    import sympy

    inside, value = float(tree_value(node.args[0], point)), float(tree_value(node, point))
    kink = abs(inside - round(inside)) <= _TIE * max(abs(inside), 1.0)
    choices.append(Choice(node.func.__name__, str(node), value, ((str(node.args[0]), inside),), _names(node), kink))
    return sympy.Integer(int(value)) if value.is_integer() and abs(value) < 2**53 else sympy.Float(value)


def _names(node: Any) -> tuple[str, ...]:
    return tuple(sorted(symbol.name for symbol in node.free_symbols))
