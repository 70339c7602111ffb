"""What is true: one file per family of laws, pure functions of named quantities in base units.

A body uses `+ - * / **`, `perfmodel.ops` and other formulas, nothing else; a constant that carries a unit or a
choice is an argument with a default, so nothing is hidden. Nothing here reads a file or knows a specification.
"""

from perfmodel.formulas._explain import Explanation, explain
from perfmodel.formulas._registry import Formula, all_formulas, formula, get_formula

__all__ = ["Explanation", "Formula", "all_formulas", "explain", "formula", "get_formula"]
