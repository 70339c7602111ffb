"""The contract of every registered formula: no formula needs a test of its own to be covered here."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import perfmodel.ops
from perfmodel.formulas import Formula, all_formulas
from perfmodel.units import Measure

FORMULAS = all_formulas()
PUBLISHED = tomllib.loads(
    (Path(perfmodel.ops.__file__).parent / "validation/published/formula_checks.toml").read_text()
)["check"]
each_formula = pytest.mark.parametrize("law", FORMULAS.values(), ids=FORMULAS.keys())


def samples(law: Formula, seed: int = 7, count: int = 12) -> Iterator[dict[str, float]]:
    """Points inside the validity range: log-uniform, whole numbers (a count may stand under a `ceil`)."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        point = {}
        for name, symbol in law.symbols.items():
            bounds = law.valid.get(name)
            low = max(bounds.low, 1e-3 if bounds.high <= 1 else 1.0) if bounds else 1.0
            high = min(bounds.high, 4096.0) if bounds else 4096.0
            high = max(high, low)
            value = math.exp(rng.uniform(math.log(low), math.log(high)))
            whole = high - low >= 2 and symbol.default is None
            point[name] = float(round(value)) if whole else value
        yield point


@each_formula
def test_dimensions(law: Formula) -> None:
    for point in samples(law):
        result = law.function(**{name: Measure(value, law.symbols[name].dimension) for name, value in point.items()})
        measure = Measure.wrap(result)
        assert measure.value == 0 or measure.dimension == law.returns.dimension


@each_formula
def test_scalar_equals_vector(law: Formula) -> None:
    points = list(samples(law))
    columns = {name: np.array([point[name] for point in points]) for name in law.symbols}
    vector = np.broadcast_to(law.function(**columns), len(points))
    scalars = [law.function(**point) for point in points]
    np.testing.assert_allclose(vector, scalars, rtol=1e-12, atol=0)
    assert np.isfinite(vector).all()


@each_formula
def test_symbolic_equals_numeric(law: Formula) -> None:
    expression = law.symbolic()
    for point in samples(law, count=3):
        exact = float(expression.subs({s: point[s.name] for s in expression.free_symbols}).evalf(30))
        assert exact == pytest.approx(law.function(**point), rel=1e-9, abs=1e-300)


@each_formula
def test_monotone(law: Formula) -> None:
    for name, direction in law.monotone.items():
        for point in samples(law, seed=11):
            bounds = law.valid.get(name)
            larger = min(point[name] * 1.5 + (1 if point[name] >= 1 else 0), bounds.high if bounds else math.inf)
            before, after = law.function(**point), law.function(**(point | {name: larger}))
            assert direction * (after - before) >= -1e-9 * abs(before), (name, point)


@each_formula
def test_limits(law: Formula) -> None:
    for name, at, value in law.limits:
        for point in samples(law):
            assert law.function(**(point | {name: at})) == pytest.approx(value, rel=1e-12, abs=1e-300), (name, point)


@each_formula
def test_body_is_plain_arithmetic(law: Formula) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(law.function)))
    allowed_calls = set(perfmodel.ops.__all__) | set(FORMULAS)
    allowed_nodes = (
        ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Expr, ast.Assign, ast.Return, ast.Name, ast.Constant,
        ast.BinOp, ast.UnaryOp, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Call, ast.keyword,
        ast.Load, ast.Store,
    )  # fmt: skip
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    function.decorator_list = []
    for node in ast.walk(tree):
        assert isinstance(node, allowed_nodes), f"{type(node).__name__} in {law.name}"
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            assert node.func.id in allowed_calls, node.func.id
    assert len([n for n in function.body if not isinstance(n, ast.Expr)]) <= 15


@each_formula
def test_data_sheet_is_complete(law: Formula) -> None:
    assert law.summary
    assert len(law.source) > 12
    assert all(symbol.meaning for symbol in law.symbols.values()), "every symbol says what it is"


@pytest.mark.parametrize("law", [law for law in FORMULAS.values() if law.example], ids=lambda law: law.name)
def test_example(law: Formula) -> None:
    call, expected = law.example.removeprefix(">>> ").rsplit(")", 1)
    value = eval(call + ")", {law.name: law.function})
    assert value == pytest.approx(float(expected), rel=1e-12, abs=0)


@pytest.mark.parametrize("check", PUBLISHED, ids=lambda c: f"{c['formula']}:{c['where']}")
def test_published_number(check: dict) -> None:
    law = FORMULAS[check["formula"]]
    result = law.function(**{name: float(value) for name, value in check["inputs"].items()})
    assert result == pytest.approx(check["value"], rel=check["rel"], abs=0)
