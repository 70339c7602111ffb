"""`explain`: a formula's data sheet with its closed form, read by SymPy from the one definition."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from perfmodel.formulas._registry import Symbol, get_formula
from perfmodel.formulas._trees import expression_of

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """What a formula says: closed form in text and LaTeX, symbols with units, validity, source, published checks.

    `equation` is the published form, `expression` and `latex` are what is computed; an open end of a range is None.
    """

    id: str
    family: str
    summary: str
    equation: str
    expression: str
    latex: str
    symbols: tuple[Symbol, ...]
    returns: Symbol
    assumptions: str
    valid: str
    valid_ranges: dict[str, tuple[float | None, float | None]]
    monotone: dict[str, str]
    limits: tuple[tuple[str, float, float], ...]
    source: str
    checked: str

    def _repr_latex_(self) -> str:
        """The published form, as a notebook shows it."""
        return f"$\\displaystyle {self.equation}$"

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return asdict(self) | {
            "symbols": [asdict(symbol) for symbol in self.symbols],
            "valid_ranges": {name: list(ends) for name, ends in self.valid_ranges.items()},
            "limits": [{"quantity": name, "at": at, "value": value} for name, at, value in self.limits],
        }


def explain(name: str) -> Explanation:
    """Explain the formula of that name; raises `PlanError` with the nearest match."""
    import sympy

    law = get_formula(name)
    expression = expression_of(law.name)
    names = {sympy.Symbol(symbol.name, positive=True): symbol.tex for symbol in law.symbols.values()}
    return Explanation(
        id=law.name,
        family=law.family,
        summary=law.summary,
        equation=law.equation,
        expression=str(expression),
        latex=sympy.latex(expression, symbol_names=names),
        symbols=tuple(law.symbols.values()),
        returns=law.returns,
        assumptions=law.assumptions,
        valid=law.valid_text,
        valid_ranges={name: (_bound(one.low), _bound(one.high)) for name, one in law.valid.items()},
        monotone={name: "+" if sign > 0 else "-" for name, sign in law.monotone.items()},
        limits=law.limits,
        source=law.source,
        checked=law.checked,
    )


def _bound(value: float) -> float | None:
    return value if math.isfinite(value) else None
