"""`explain`: a formula's data sheet with its closed form, read by SymPy from the one definition."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from perfmodel.formulas._registry import Formula, Symbol, get_formula

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """What a formula says: closed form in text and LaTeX, symbols with units, validity, source, published checks."""

    id: str
    family: str
    summary: str
    published_equation: str
    text: str
    latex: str
    symbols: tuple[Symbol, ...]
    returns_unit: str
    assumptions: str
    valid_for: str
    source: str
    checked: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return asdict(self) | {"symbols": [asdict(symbol) for symbol in self.symbols]}


def explain(name: str) -> Explanation:
    """Explain the formula of that name; raises `PlanError` with the nearest match."""
    import sympy

    law: Formula = get_formula(name)
    expression = law.symbolic()
    tex = {sympy.Symbol(symbol.name, positive=True): symbol.tex for symbol in law.symbols.values()}
    return Explanation(
        id=law.name,
        family=law.family,
        summary=law.summary,
        published_equation=law.equation,
        text=str(expression),
        latex=sympy.latex(expression, symbol_names=tex),
        symbols=tuple(law.symbols.values()),
        returns_unit=law.returns.unit,
        assumptions=law.assumptions,
        valid_for=law.valid_text,
        source=law.source,
        checked=law.checked,
    )
