r"""The register of closed forms: one decorator that reads a formula's docstring as its data sheet.

A formula is a pure function. Its docstring carries, under fixed headings, everything that the contract tests,
`perfmodel explain` and the documentation need::

    Symbols      n  n_bytes [B] message per rank;  p  ranks [1];  returns [s]
    Assumptions  free text
    Valid for    ranks >= 1; 1e6 <= n_bytes <= 1e12; fails when ... (free text after the bounds)
    Monotone     n_bytes +; link_byte_per_s -
    Limits       ranks = 1 -> 0
    Source       Author Year, "Title", eq. 3, arXiv or DOI
    Checked      which published numbers the tests compare with

The decorator compares the symbol table with the signature when the module is imported.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from perfmodel.errors import PlanError, unknown_name
from perfmodel.units import Dimension, parse_unit

__all__ = ["Formula", "Range", "Symbol", "all_formulas", "formula", "get_formula"]

_HEADINGS = ("Symbols", "Assumptions", "Valid for", "Monotone", "Limits", "Source", "Checked", "Example")
_HEADING = re.compile(rf"^(?P<name>{'|'.join(_HEADINGS)})(?:\s{{2,}}|:\s+|\s*$)(?P<text>.*)$")
_SYMBOL = re.compile(r"(?P<tex>\S+)\s+(?P<name>\w+)\s+\[(?P<unit>[^\]]+)\]\s*(?P<meaning>.*)", re.S)
_RETURNS = re.compile(r"returns\s+\[(?P<unit>[^\]]+)\]\s*(?P<meaning>.*)", re.S)
_NUMBER = r"[-+]?[\d.]+(?:e[-+]?\d+)?"
_BOUNDS = re.compile(
    rf"(?:(?P<low>{_NUMBER})\s*<=\s*)?(?P<name>\w+)\s*(?:(?P<side>[<>]=)\s*(?P<bound>{_NUMBER}))?", re.S
)
_LIMIT = re.compile(rf"(?P<name>\w+)\s*=\s*(?P<at>{_NUMBER})\s*->\s*(?P<value>{_NUMBER})")

Function = TypeVar("Function", bound=Callable[..., Any])
_FORMULAS: dict[str, Formula] = {}


@dataclass(frozen=True)
class Symbol:
    """One argument (or the result) of a formula: how it is written, its unit and meaning."""

    name: str
    tex: str
    unit: str
    meaning: str
    default: float | None = None

    @property
    def dimension(self) -> Dimension:
        return parse_unit(self.unit)


@dataclass(frozen=True)
class Range:
    """The published validity range of one argument."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        low = f"{self.low:g} <= " if self.low > -math.inf else ""
        return f"{low}x{f' <= {self.high:g}' if self.high < math.inf else ''}"


@dataclass(frozen=True)
class Formula:
    """A registered closed form with the data sheet from its docstring."""

    name: str
    family: str
    function: Callable[..., Any]
    summary: str
    equation: str
    symbols: dict[str, Symbol]
    returns: Symbol
    assumptions: str
    valid_text: str
    valid: dict[str, Range]
    monotone: dict[str, int]
    limits: tuple[tuple[str, float, float], ...]
    source: str
    checked: str
    example: str

    def symbolic(self, **fixed: Any) -> Any:
        """The formula as a SymPy expression; `fixed` replaces symbols by numbers. Units: `self.returns.unit`."""
        import sympy

        free = {name: sympy.Symbol(name, positive=True) for name in self.symbols}
        return sympy.sympify(self.function(**(free | fixed)))

    def out_of_range(self, **values: Any) -> Iterator[dict[str, Any]]:
        """Yield a warning record for each value outside the published validity range."""
        for name, value in values.items():
            bounds = self.valid.get(name)
            if bounds is not None and not bounds.low <= value <= bounds.high:
                yield {"formula": self.name, "quantity": name, "value": float(value), "valid": str(bounds)}


def formula(function: Function) -> Function:
    """Register a closed form; raise `TypeError` when its docstring and signature disagree."""
    doc = inspect.getdoc(function) or ""
    if re.search(r"[\x00-\x08\x0b-\x1f]", doc):
        raise TypeError(f'{function.__name__}: control character in the docstring; begin it with r"""')
    head, sections = _split(doc)
    name = function.__name__
    missing = [h for h in ("Symbols", "Valid for", "Source") if not sections.get(h)]
    if missing:
        raise TypeError(f"{name}: docstring lacks {', '.join(missing)}")
    symbols, returns = _symbols(name, sections["Symbols"], inspect.signature(function))
    equation = head.split(".. math::", 1)
    record = Formula(
        name=name,
        family=function.__module__.rsplit(".", 1)[-1],
        function=function,
        summary=" ".join(equation[0].split()),
        equation=" ".join(equation[1].split()) if len(equation) > 1 else "",
        symbols=symbols,
        returns=returns,
        assumptions=sections.get("Assumptions", ""),
        valid_text=sections["Valid for"],
        valid=_ranges(name, sections["Valid for"], symbols),
        monotone=_monotone(name, sections.get("Monotone", ""), symbols),
        limits=tuple(
            (m["name"], float(m["at"]), float(m["value"])) for m in _LIMIT.finditer(sections.get("Limits", ""))
        ),
        source=sections["Source"],
        checked=sections.get("Checked", ""),
        example=sections.get("Example", ""),
    )
    if name in _FORMULAS and _FORMULAS[name].function.__module__ != function.__module__:
        raise TypeError(f"{name}: defined twice, in {_FORMULAS[name].family} and {record.family}")
    _FORMULAS[name] = record
    return function


@cache
def all_formulas() -> dict[str, Formula]:
    """Every registered formula by name, families imported on first use."""
    package = importlib.import_module("perfmodel.formulas")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"perfmodel.formulas.{module.name}")
    return dict(sorted(_FORMULAS.items()))


def get_formula(name: str) -> Formula:
    """The formula of that name; raise `PlanError` with the nearest match."""
    formulas = all_formulas()
    if name not in formulas:
        raise PlanError(unknown_name("formula", name, formulas))
    return formulas[name]


def _split(doc: str) -> tuple[str, dict[str, str]]:
    head: list[str] = []
    sections: dict[str, list[str]] = {}
    current: list[str] = head
    for line in doc.splitlines():
        match = _HEADING.match(line)
        if match:
            current = sections.setdefault(match["name"], [])
            line = match["text"]
        current.append(line.strip())
    return "\n".join(head).strip(), {name: " ".join(lines).strip() for name, lines in sections.items()}


def _symbols(name: str, text: str, signature: inspect.Signature) -> tuple[dict[str, Symbol], Symbol]:
    symbols: dict[str, Symbol] = {}
    returns = None
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        if match := _RETURNS.fullmatch(entry):
            returns = Symbol("returns", "", match["unit"], match["meaning"].strip())
        elif match := _SYMBOL.fullmatch(entry):
            parameter = signature.parameters.get(match["name"])
            default = None if parameter is None or parameter.default is parameter.empty else float(parameter.default)
            symbols[match["name"]] = Symbol(
                match["name"], match["tex"], match["unit"], match["meaning"].strip(), default
            )
        else:
            raise TypeError(f"{name}: cannot read {entry!r} in Symbols; write 'tex name [unit] meaning'")
    if list(symbols) != list(signature.parameters):
        raise TypeError(f"{name}: Symbols {list(symbols)} do not match the signature {list(signature.parameters)}")
    if returns is None:
        raise TypeError(f"{name}: Symbols lacks 'returns [unit]'")
    for symbol in (*symbols.values(), returns):
        parse_unit(symbol.unit)
    return symbols, returns


def _ranges(name: str, text: str, symbols: dict[str, Symbol]) -> dict[str, Range]:
    ranges: dict[str, Range] = {}
    for part in (piece.strip() for piece in text.split(";")):
        match = _BOUNDS.fullmatch(part)
        if match is None or (match["low"] is None and match["side"] is None):
            continue
        if match["name"] not in symbols:
            raise TypeError(f"{name}: 'Valid for' bounds {match['name']!r}, which is not an argument")
        low = float(match["low"]) if match["low"] else -math.inf
        high = math.inf
        if match["side"] == "<=":
            high = float(match["bound"])
        elif match["side"] == ">=":
            low = float(match["bound"])
        ranges[match["name"]] = Range(low, high)
    return ranges


def _monotone(name: str, text: str, symbols: dict[str, Symbol]) -> dict[str, int]:
    directions = dict(re.findall(r"(\w+)\s*([+-])", text))
    if not directions.keys() <= symbols.keys():
        raise TypeError(f"{name}: Monotone names {sorted(directions.keys() - symbols.keys())}, not arguments")
    return {argument: 1 if sign == "+" else -1 for argument, sign in directions.items()}
