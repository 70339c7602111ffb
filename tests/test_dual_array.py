"""Arrays of dual numbers: the rules of single ones entry by entry, NumPy's functions against differences, no losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import sympy
from test_dual import RULES, off_the_steps
from test_formulas import Formula, each_formula

from perfmodel.dual import Dual
from perfmodel.dual_array import DualArray, as_floats, flat, implicit_root

SPECIAL = (sympy.loggamma, sympy.digamma, sympy.polygamma, sympy.erf, sympy.betainc_regularized)


def seeded(values: np.ndarray, first: int, n_seeds: int) -> DualArray:
    """Each entry has a slope of its own, from position `first` of so many."""
    slopes = np.zeros((values.size, n_seeds))
    slopes[np.arange(values.size), first + np.arange(values.size)] = 1.0
    return DualArray(values, slopes.reshape(*values.shape, n_seeds))


def single(values: np.ndarray, at: int, entry: int, n_seeds: int) -> Dual:
    return Dual(float(values[entry]), np.eye(n_seeds)[at])


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_those_of_single_numbers(rule: str) -> None:
    law = RULES[rule]
    x, y = np.array([0.37, 1.13, 2.41, 4.83]), np.array([3.19, 0.91, 1.77, 0.37])
    found = law(seeded(x, 0, 8), seeded(y, 4, 8))
    for entry in range(4):
        wanted = law(single(x, entry, entry, 8), single(y, 4 + entry, entry, 8))
        assert found.value[entry] == pytest.approx(wanted.value, rel=1e-14, abs=0)
        assert found.slope[entry] == pytest.approx(wanted.slope, rel=1e-12, abs=1e-15)


@each_formula
def test_every_formula_on_arrays(law: Formula) -> None:
    point = off_the_steps(law)
    names, n_seeds = list(point), len(point)
    factors = np.array([1.0, 0.9993])
    arrays = {
        name: DualArray(point[name] * factors, np.outer(factors * point[name], np.eye(n_seeds)[at]))
        for at, name in enumerate(names)
    }
    if asks_special_functions(law):
        with pytest.raises(TypeError, match="NotImplemented"):
            law.function(**arrays)
        return
    found = law.function(**arrays)
    for entry, factor in enumerate(factors):
        duals = {
            name: Dual(point[name] * factor, point[name] * factor * np.eye(n_seeds)[at])
            for at, name in enumerate(names)
        }
        wanted = Dual.wrap(law.function(**duals))
        assert flat(found)[entry] == pytest.approx(wanted.value, rel=1e-12, abs=0)
        scale = abs(wanted.value)
        assert found.slope[entry] == pytest.approx(np.broadcast_to(wanted.slope, n_seeds), rel=1e-9, abs=1e-12 * scale)


def asks_special_functions(law: Formula) -> bool:
    """Those of scipy have no rule on arrays."""
    symbols = {name: sympy.Symbol(name, positive=True) for name in off_the_steps(law)}
    return bool(sympy.sympify(law.function(**symbols)).has(*SPECIAL))


KNOWN = np.array([0.5, 1.0, 2.0, 4.0])
ON_ARRAYS: dict[str, Callable] = {
    "interpolation at": lambda x: np.interp(x, KNOWN, KNOWN**2),
    "interpolation of": lambda x: np.interp([0.7, 1.9, 9.0], KNOWN, x**2),
    "clipped": lambda x: np.clip(x**2, 0.5, 5.0),
    "chosen": lambda x: np.where(x > 1.0, x**3, 2.0) * np.where([True, False, True, False], 1.0, x),
    "gradient": lambda x: np.gradient(x**2, KNOWN),
    "repeated": lambda x: np.repeat(x, 3).reshape(4, 3) * np.array([1.0, 2.0, 3.0]),
    "stacked": lambda x: np.stack([x, x**2, 2.0 * x], axis=-1),
    "weighted rows": lambda x: np.array([0.1, 0.2, 0.3, 0.4]) @ (x[:, None] * np.array([1.0, 5.0])),
    "weighted columns": lambda x: (x[:, None] * np.array([1.0, 5.0])) @ np.array([0.3, 0.7]),
    "weighted": lambda x: np.array([0.1, 0.2, 0.3, 0.4]) @ x**2 + x @ np.array([4.0, 3.0, 2.0, 1.0]),
    "broadcast": lambda x: np.broadcast_to(x[1], (2, 3)) * x[:3] + x[:2][:, None],
    "rising": lambda x: np.maximum.accumulate(np.sin(6.0) * x + x[::-1] ** 2, axis=0),
    "sums": lambda x: (x[:, None] * x).sum(axis=0) + (x**2).sum(),
    "turned": lambda x: (x[:, None] * np.array([1.0, 2.0])).T[np.array([1, 0, 1])],
    "functions": lambda x: np.sqrt(x) + np.exp(-x) * np.log(x) + np.log2(x) + np.abs(x - 2.0) + np.sign(x) * x,
    "in place": lambda x: in_place(x),
}  # fmt: skip


def in_place(x: np.ndarray) -> np.ndarray:
    y = x * 1.0
    y += x**2
    y *= 3.0
    return y


@pytest.mark.parametrize("name", ON_ARRAYS)
def test_functions_of_arrays_against_differences(name: str) -> None:
    law, x = ON_ARRAYS[name], np.array([0.61, 1.37, 0.94, 3.3])
    found = law(seeded(x, 0, 4))
    assert found.value == pytest.approx(law(x), rel=1e-14, abs=0)
    assert found.slope.shape == (*np.shape(law(x)), 4)
    for seed in range(4):
        step = 1e-6 * np.eye(4)[seed]
        differences = (law(x + step) - law(x - step)) / 2e-6
        assert found.slope[..., seed] == pytest.approx(differences, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize(
    "losing",
    [float, int, hash, math.sqrt, np.asarray, np.array, np.sin, np.cumsum, np.std, np.sort, np.float64, "{:g}".format],
)
@pytest.mark.parametrize("x", [DualArray(2.0, [1.0]), DualArray([2.0, 3.0], [[1.0], [1.0]])], ids=["one", "two"])
def test_nothing_loses_a_slope_silently(losing: Callable, x: DualArray) -> None:
    with pytest.raises((TypeError, ValueError)):
        losing(x)
    with pytest.raises(TypeError):
        np.add(x, 1.0, out=np.zeros(2))


def test_flat_and_floats_say_what_is_meant() -> None:
    x = DualArray([2.0], [[1.0]])
    assert as_floats(x) is x
    assert flat(x).tolist() == [2.0]
    assert as_floats(3) == 3.0
    assert (x > 1.0).tolist() == [True], "comparisons are by value"


def test_single_and_many_do_not_mix() -> None:
    x, one = DualArray([2.0, 3.0], [[1.0], [1.0]]), Dual(2.0, np.array([1.0]))
    with pytest.raises(TypeError):
        one * x  # two kinds of numbers with slopes are a mistake, not a product


def test_nothing_to_a_power() -> None:
    constant = np.minimum(DualArray([0.5], [[1.0]]), 0.0)
    assert np.sqrt(constant).slope == 0, "a constant has no slope, whatever the power"
    assert (constant**0.5).slope == 0


def test_roots_by_the_implicit_function_theorem() -> None:
    # x^3 + y x = z at x = 2: dx = (dz - x dy) / (3 x^2 + y).
    y, z = DualArray([1.0, 3.0], np.tile([1.0, 0.0], (2, 1))), DualArray([10.0, 14.0], np.tile([0.0, 1.0], (2, 1)))
    root = implicit_root(lambda x: x**3 + y * x - z, np.array([2.0, 2.0]))
    assert root.value.tolist() == [2.0, 2.0]
    assert root.slope == pytest.approx(np.array([[-2.0, 1.0], [-2.0, 1.0]]) / np.array([[13.0], [15.0]]), rel=1e-12)


def test_a_jump_over_the_root_has_no_slope() -> None:
    y = DualArray([1.0], [[1.0]])
    root = implicit_root(lambda x: x + np.where(flat(x) > 2.0, 1.0, -1.0) - 2.0 * y, np.array([2.0]))
    assert np.isnan(root.slope).all()
