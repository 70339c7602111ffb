"""What is true: one file per family of laws, pure functions of named quantities in base units.

A body uses `+ - * / **`, `perfmodel.ops` and other formulas, nothing else; a constant that carries a unit or a
choice is an argument with a default, so nothing is hidden. Nothing here reads a file or knows a specification.
"""

from perfmodel.formulas._explain import Explanation, explain
from perfmodel.formulas._inverse import Crossover, Root, crossovers, meeting_points, solve_formula
from perfmodel.formulas._local import Asymptote, Elasticity, Substituted, asymptote, elasticities, substitute
from perfmodel.formulas._registry import Formula, all_formulas, formula, get_formula

__all__ = [
    "Asymptote",
    "Crossover",
    "Elasticity",
    "Explanation",
    "Formula",
    "Root",
    "Substituted",
    "all_formulas",
    "asymptote",
    "crossovers",
    "elasticities",
    "explain",
    "formula",
    "get_formula",
    "meeting_points",
    "solve_formula",
    "substitute",
]
