"""Questions asked backwards: which value of one quantity gives a result, and where two terms or two formulas cross.

Every answer is found twice where that is possible: as a bracketed root of the numbers, and as the closed form of the
piece on which that root lies; `closed_form_value` stands beside `value` so that anybody can see that they agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.errors import PlanError, unknown_name
from perfmodel.formulas._local import point_of
from perfmodel.formulas._registry import Formula, get_formula
from perfmodel.formulas._trees import branch_at, expression_of, tree_value

__all__ = ["Crossover", "Root", "crossovers", "invert", "meeting_points", "solve_formula"]

_SPAN = (1e-12, 1e27)  # where a range has an open end: from picoseconds to the operations of a whole run
_POINTS_PER_DECADE = 24
_RESULT = "result"


@dataclass(frozen=True)
class Root:
    """One value of `quantity` at which the formula gives `result`.

    `closed_form` (and `latex`) holds on the piece around the root, None where no closed form is found; `jump` is True
    where the formula steps over the result there (a `ceil`, a condition) without ever having that value.
    """

    quantity: str
    unit: str
    value: float
    result: float
    closed_form: str | None
    latex: str | None
    closed_form_value: float | None
    jump: bool


@dataclass(frozen=True)
class Crossover:
    """A value of `quantity` where `below` takes over from `above`: what stands under it, and what stands over it."""

    quantity: str
    unit: str
    value: float
    below: str
    above: str
    result: float
    closed_form: str | None
    latex: str | None
    closed_form_value: float | None


def solve_formula(
    name: str,
    quantity: str,
    value: float,
    at: Mapping[str, float] | None = None,
    bracket: tuple[float, float] | None = None,
) -> tuple[Root, ...]:
    """Every value of `quantity` in the bracket at which the formula is `value`; the others stand `at` their numbers.

    The bracket is the validity range unless given, an open end of it 1e-12 or 1e27. Raises `PlanError` for a wrong
    argument; empty where the bracket holds no root.

    >>> [root.value for root in solve_formula("machine_balance", "byte_per_s", 300.0, {"flop_per_s": 9e14})]
    [3000000000000.0]
    """
    law = _checked(name, quantity)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PlanError(f"{name}: value: must be a finite number (got {value!r})")
    point = point_of(law, {n: v for n, v in (at or {}).items() if n != quantity}, free=quantity)
    return tuple(
        _root(law, quantity, float(value), point, x)
        for x in _roots(lambda x: _off(_numbers(law, point, quantity, x), float(value)), _grid(law, quantity, bracket))
    )


def meeting_points(
    name: str,
    other: str,
    quantity: str,
    at: Mapping[str, float] | None = None,
    bracket: tuple[float, float] | None = None,
) -> tuple[Crossover, ...]:
    """Where two formulas give the same as `quantity` varies; arguments of one name are one quantity.

    Raises `PlanError` for a wrong argument, formulas of different units, or a missing number.
    """
    laws = (_checked(name, quantity), get_formula(other))
    if quantity not in laws[1].symbols:
        raise PlanError(f"{other}: {unknown_name('quantity', quantity, laws[1].symbols, shown=30)}")
    if laws[0].returns.dimension != laws[1].returns.dimension:
        units = " and ".join(f"{law.name} [{law.returns.unit}]" for law in laws)
        raise PlanError(f"crossover: needs two formulas of one unit (got {units})")
    both = laws[0].symbols.keys() | laws[1].symbols.keys()
    for one in at or {}:
        if one not in both:
            raise PlanError(f"{name}: {unknown_name('quantity', one, both, shown=30)}")
    points = [
        point_of(law, {n: v for n, v in (at or {}).items() if n in law.symbols and n != quantity}, free=quantity)
        for law in laws
    ]

    def difference(x: Any) -> Any:
        first, second = (_numbers(law, point, quantity, x) for law, point in zip(laws, points, strict=True))
        return first - second

    grid = np.intersect1d(_grid(laws[0], quantity, bracket), _grid(laws[1], quantity, bracket))
    if not len(grid):
        raise PlanError(f"crossover: {name} and {other} are valid for no {quantity} in common; give a bracket")
    found = []
    for x in _roots(difference, grid):
        sides = np.sign([float(difference(x * (1 + sign * 1e-6))) for sign in (-1, 1)])
        if sides[0] == sides[1] or x == 0:
            continue
        faster = [name if side < 0 else other for side in sides]
        pair = (expression_of(name), expression_of(other))
        merged = points[0] | points[1]
        result = float(_numbers(laws[0], points[0], quantity, x))
        found.append(_crossover(laws[0], quantity, x, faster[0], faster[1], pair, merged, result))
    return tuple(found)


def crossovers(
    name: str, quantity: str, at: Mapping[str, float] | None = None, bracket: tuple[float, float] | None = None
) -> tuple[Crossover, ...]:
    """Where, as `quantity` varies, a maximum or minimum inside the formula turns from one argument to another.

    >>> at = {"n_bytes": 1e9, "flop_per_s": 1e15, "byte_per_s": 1e12}
    >>> [(c.value, c.below, c.above) for c in crossovers("roofline_time", "flops", at)]
    [(1000000000000.0, 'n_bytes/byte_per_s', 'flops/flop_per_s')]
    """
    import sympy

    law = _checked(name, quantity)
    point = point_of(law, {n: v for n, v in (at or {}).items() if n != quantity}, free=quantity)
    grid = _grid(law, quantity, bracket)
    found: dict[tuple[float, str, str], Crossover] = {}
    for node in sympy.preorder_traversal(expression_of(name)):
        if node.func.__name__ in ("Max", "Min") and any(s.name == quantity for s in node.free_symbols):
            for one in _turns(law, node, quantity, point, grid):
                found.setdefault((float(f"{one.value:.9g}"), one.below, one.above), one)
    return tuple(sorted(found.values(), key=lambda one: one.value))


def _turns(law: Formula, node: Any, quantity: str, point: Mapping[str, float], grid: Any) -> list[Crossover]:
    pick = np.argmax if node.func.__name__ == "Max" else np.argmin
    with np.errstate(all="ignore"):
        sides = [np.broadcast_to(tree_value(part, {**point, quantity: grid}), grid.shape) for part in node.args]
    taken = pick(np.array(sides), axis=0)
    turns = []
    for at in np.flatnonzero(taken[1:] != taken[:-1]):
        first, second = node.args[taken[at]], node.args[taken[at + 1]]

        def difference(x: Any, first: Any = first, second: Any = second) -> Any:
            return tree_value(first, {**point, quantity: x}) - tree_value(second, {**point, quantity: x})

        for x in _roots(difference, grid[at : at + 2]):
            result = float(_numbers(law, point, quantity, x))
            turns.append(_crossover(law, quantity, x, str(first), str(second), (first, second), point, result))
    return turns


def _crossover(
    law: Formula, quantity: str, x: float, below: str, above: str, pair: Any, point: Mapping[str, float], result: float
) -> Crossover:
    text, latex, exact = _closed(law, pair[0] - pair[1], quantity, point, x, {})
    return Crossover(quantity, law.symbols[quantity].unit, x, below, above, result, text, latex, exact)


def _checked(name: str, quantity: str) -> Formula:
    law = get_formula(name)
    if quantity not in law.symbols:
        raise PlanError(f"{name}: {unknown_name('quantity', quantity, law.symbols, shown=30)}")
    return law


def _grid(law: Formula, quantity: str, bracket: tuple[float, float] | None) -> Any:
    """Where to look for changes of sign: even in the logarithm, and even besides where the range is short."""
    bounds = law.valid.get(quantity)
    low, high = bracket or ((bounds.low, bounds.high) if bounds else (0.0, math.inf))
    if not low <= high:
        raise PlanError(f"{law.name}: bracket: must rise (got {low:g} to {high:g})")
    first, last = max(low, _SPAN[0]), min(high, _SPAN[1])
    decades = math.log10(last / first) if last > first else 0.0
    points = [np.geomspace(first, last, max(int(_POINTS_PER_DECADE * decades), 2))] if last > first else []
    if math.isfinite(low) and math.isfinite(high):
        points.append(np.linspace(low, high, 257))
    return np.unique(np.concatenate([*points, np.array([end for end in (low, high) if math.isfinite(end)])]))


def _numbers(law: Formula, point: Mapping[str, float], quantity: str, x: Any) -> Any:
    """The formula along `quantity`; not a number where it has none."""
    with np.errstate(all="ignore"):
        values = law.function(**point, **{quantity: np.asarray(x, dtype=float)})
    return np.broadcast_to(np.asarray(values, dtype=float), np.shape(x))


def _off(values: Any, wanted: float) -> Any:
    """How far off, and nothing where only rounding is: a root may be the very end of a range."""
    return np.where(np.abs(values - wanted) <= 1e-13 * abs(wanted), 0.0, values - wanted)


def _roots(difference: Callable[[Any], Any], grid: Any) -> list[float]:
    """Zeros and changes of sign of `difference` along the grid; of a stretch of zeros both ends."""
    from scipy.optimize import brentq

    with np.errstate(all="ignore"):
        values = np.broadcast_to(difference(grid), grid.shape)
        found = []
        edges = np.flatnonzero(np.diff(np.concatenate(([0], (values == 0).astype(int), [0]))))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            found += [float(grid[at]) for at in dict.fromkeys((start, end - 1))]
        for at in np.flatnonzero(values[:-1] * values[1:] < 0):
            low, high = float(grid[at]), float(grid[at + 1])
            found.append(float(brentq(lambda x: float(difference(x)), low, high, xtol=1e-300, rtol=1e-14, maxiter=500)))
    return sorted(found)


def _root(law: Formula, quantity: str, value: float, point: Mapping[str, float], x: float) -> Root:
    import sympy

    result = sympy.Symbol(_RESULT)
    reached = float(_numbers(law, point, quantity, x))
    jump = not math.isclose(reached, value, rel_tol=1e-6, abs_tol=1e-300)
    text, latex, exact = (None, None, None)
    if not jump:
        text, latex, exact = _closed(law, expression_of(law.name) - result, quantity, point, x, {_RESULT: value})
    return Root(quantity, law.symbols[quantity].unit, x, value, text, latex, exact, jump)


def _closed(
    law: Formula, zero: Any, quantity: str, point: Mapping[str, float], x: float, more: Mapping[str, float]
) -> tuple[str | None, str | None, float | None]:
    """The closed form of the root near `x` of `zero` on its piece: as text, as LaTeX, and its number."""
    import sympy

    numbers = dict(point) | dict(more)
    with np.errstate(all="ignore"):
        piece = branch_at(zero, numbers | {quantity: x}).expression
    best = None
    for form in invert(piece, sympy.Symbol(quantity, positive=True)):
        try:
            with np.errstate(all="ignore"):
                value = float(tree_value(form, numbers))
        except (ArithmeticError, TypeError, ValueError):
            continue
        if math.isfinite(value) and (best is None or abs(value - x) < abs(best[1] - x)):
            best = (form, value)
    if best is None or not math.isclose(best[1], x, rel_tol=1e-6, abs_tol=1e-12):
        return None, None, None
    names = {sympy.Symbol(symbol.name, positive=True): symbol.tex for symbol in law.symbols.values()}
    return str(best[0]), sympy.latex(best[0], symbol_names=names), best[1]


def invert(zero: Any, x: Any) -> list[Any]:
    """The closed forms of x in `zero` = 0: by undoing operations one by one, or as roots of a polynomial up to squares.

    Empty where neither way leads there; always ends, unlike a general solver.
    """
    import sympy

    undone = _undone(zero, x)
    if undone is not None:
        return [undone]
    above = sympy.fraction(sympy.together(zero))[0]
    if not above.is_polynomial(x):
        return []
    polynomial = sympy.Poly(above, x)
    if polynomial.degree() == 1:
        a, b = polynomial.all_coeffs()
        return [sympy.factor_terms(-b / a)]
    if polynomial.degree() == 2:
        a, b, c = polynomial.all_coeffs()
        root = sympy.sqrt(b**2 - 4 * a * c)
        return [(-b + sign * root) / (2 * a) for sign in (1, -1)]
    return []


def _undone(node: Any, x: Any) -> Any:
    """x from `node` = 0 where x stands once: what is done to it is undone from the outside in."""
    import sympy

    if node.count(x) != 1:
        return None
    other: Any = sympy.Integer(0)
    while node != x:
        inner = next(part for part in node.args if part.has(x))
        rest = [part for part in node.args if part is not inner]
        kind = node.func.__name__
        if kind == "Add":
            other = other - sympy.Add(*rest)
        elif kind == "Mul":
            other = other / sympy.Mul(*rest)
        elif kind == "Pow" and inner is node.base:
            other = other ** (1 / node.exp)
        elif kind == "Pow":
            other = sympy.log(other) / sympy.log(node.base)
        elif kind in ("exp", "log"):
            other = sympy.log(other) if kind == "exp" else sympy.exp(other)
        else:
            return None
        node = inner
    return other
