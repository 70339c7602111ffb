"""A closed form with numbers in the places of its symbols, as text and as LaTeX, nothing worked out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

__all__ = ["filled_latex", "filled_text"]


def filled_text(expression: Any, point: Mapping[str, float]) -> str:
    """The expression as text with every symbol's number.

    >>> import sympy
    >>> filled_text(sympy.Symbol("a") / sympy.Symbol("b") + 1, {"a": 6.0, "b": 3e9})
    '1 + 6/3e+09'
    """
    return str(_printer()({"point": dict(point)}).doprint(expression))


def filled_latex(expression: Any, point: Mapping[str, float]) -> str:
    """The same as LaTeX, with a times sign wherever two numbers would touch."""
    import sympy

    names = {symbol: _latex_number(point[symbol.name]) for symbol in expression.free_symbols}
    return str(sympy.latex(expression, symbol_names=names, mul_symbol="times"))


@cache
def _printer() -> Any:
    from sympy.printing.str import StrPrinter

    class Filled(StrPrinter):  # type: ignore[misc]
        _default_settings = StrPrinter._default_settings | {"point": {}}

        def _print_Symbol(self, symbol: Any) -> str:
            number = f"{self._settings['point'][symbol.name]:.12g}"
            return f"({number})" if number.startswith("-") else number

    return Filled


def _latex_number(value: float) -> str:
    mantissa, exponent, power = f"{value:.12g}".partition("e")
    if not exponent:
        return mantissa if value >= 0 else rf"\left({mantissa}\right)"
    return rf"\left({mantissa} \cdot 10^{{{int(power)}}}\right)"
