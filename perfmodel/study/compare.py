"""`compare`: two results side by side, what was asked differently, and the difference term by term."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel._version import __version__
from perfmodel.errors import PlanError
from perfmodel.predict.frames import document_of, row_of, terms_of, wholes
from perfmodel.predict.records import Record
from perfmodel.specs.registry import data_version
from perfmodel.study.scenario import Scenario, load_scenario, read_beside

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Change", "Comparison", "Quantity", "TermDifference", "compare"]

_SERVING = ("perfmodel/serving-estimate/1", "perfmodel/disaggregated-estimate/1")
"""Deployments all the same: the phases and the quantities of one stand beside those of the other."""


class Change(Record):
    """A key that the two questions answer differently; None: not given."""

    key: str
    a: Any
    b: Any


class Quantity(Record):
    """A number of both results, in the unit of its name; `ratio` is b over a, None where a is zero."""

    name: str
    a: float
    b: float
    difference: float
    ratio: float | None


class TermDifference(Record):
    """A term of either result [s]; one that a result lacks takes no time there. Children sum to their parent."""

    term: str
    name: str
    depth: int
    leaf: bool
    a_s: float
    b_s: float
    difference_s: float
    share: float | None
    """Of the difference of the step, or of this phase of serving [1]; None where there is none."""
    a_bound_by: str | None
    b_bound_by: str | None


class Comparison(Record):
    """Result `b` against result `a`: `changes` of the question, `quantities`, and `terms` depth first."""

    document: str = "perfmodel/comparison/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    changes: tuple[Change, ...]
    quantities: tuple[Quantity, ...]
    terms: tuple[TermDifference, ...]
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def to_frame(self) -> DataFrame:
        """The terms as a table, one row a term; without terms (kernels), the quantities."""
        from pandas import DataFrame

        return DataFrame([one.to_dict() for one in self.terms or self.quantities])


def compare(a: Any, b: Any) -> Comparison:
    """The difference of two results of one kind, of which each may be a record, its document, a scenario or a file.

    A scenario is run first; a plan is compared by its prediction (two plans also by what they were asked). Terms are
    aligned by their path, so that differences of children sum to that of their parent. Raises `PlanError` and
    `SpecError`.
    """
    (ours, asked), (theirs, asked_too) = _priced("a", a), _priced("b", b)
    kinds = ours["document"], theirs["document"]
    if kinds[0] != kinds[1] and not {*kinds} <= {*_SERVING}:
        raise PlanError(f"b: is a {kinds[1]}, a is a {kinds[0]}; compare two of a kind")
    if asked is not None and asked_too is not None:
        ours["request"], theirs["request"] = dict(asked) | ours["request"], dict(asked_too) | theirs["request"]
    return Comparison(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={"a": ours["request"], "b": theirs["request"]},
        changes=tuple(_changes(_leaves(ours["request"]), _leaves(theirs["request"]))),
        quantities=tuple(_quantities(row_of(ours), row_of(theirs))),
        terms=tuple(_terms(ours, theirs)),
        notes=tuple(_made_by(ours, theirs)),
        sources=tuple(dict.fromkeys([*ours.get("sources", ()), *theirs.get("sources", ())])),
    )


def _priced(label: str, what: Any) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """The document with the numbers, and of a plan what was asked."""
    if isinstance(what, (str, Path)):
        data = read_beside(Path(what))
        what = data if "document" in data else load_scenario(what)
    elif isinstance(what, Mapping) and "document" not in what:
        what = load_scenario(what)
    document = document_of(what.run() if isinstance(what, Scenario) else what)
    prediction, asked = document.get("prediction"), None
    if "decision" in document:
        if prediction is None:
            raise PlanError(f"{label}: the plan found nothing feasible, so there is nothing to compare")
        document, asked = dict(prediction), document.get("request")
    if not isinstance(document.get("request"), Mapping) or "document" not in document:
        raise PlanError(f"{label}: has no request and no document; give an estimate or a plan with a prediction")
    return document, asked


def _made_by(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    for key in ("perfmodel_version", "data_version"):
        if a.get(key) != b.get(key):
            yield f"{key}: a was made by {a.get(key)}, b by {b.get(key)}"


def _leaves(request: Mapping[str, Any]) -> dict[str, Any]:
    """Request keys by their last name; descriptions written out stay whole."""
    nested = {"layout", "slo", "workload"}
    return {
        name: one
        for key, value in request.items()
        for name, one in (value.items() if key in nested and isinstance(value, Mapping) else [(key, value)])
    }


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Change]:
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key):
            yield Change(key=key, a=a.get(key), b=b.get(key))


def _quantities(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Quantity]:
    for name, value in a.items():
        other = b.get(name)
        if _is_number(value) and _is_number(other):
            ratio = other / value if value else None
            yield Quantity(name=name, a=value, b=other, difference=other - value, ratio=ratio)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _terms(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[TermDifference]:
    mine, other = wholes(a), wholes(b)
    names = dict.fromkeys([*mine, *other])
    whole = {name: other.get(name, 0.0) - mine.get(name, 0.0) for name in names}
    if "step_time_s" in a:
        whole = dict.fromkeys(names, max(other.values(), default=0.0) - max(mine.values(), default=0.0))
    for term in _differences(terms_of(a), terms_of(b), ()):
        of = whole[term.term.split("/")[0]]
        yield term.model_copy(update={"share": term.difference_s / of if of else None})


def _differences(a: Any, b: Any, path: tuple[str, ...]) -> Iterator[TermDifference]:
    ours, theirs = ({term["name"]: term for term in terms} for terms in (a, b))
    for name in dict.fromkeys([*ours, *theirs]):
        mine, other = ours.get(name), theirs.get(name)
        a_s, b_s = (0.0 if term is None else term["seconds"] for term in (mine, other))
        below, beside = (() if term is None else term["children"] for term in (mine, other))
        yield TermDifference(
            term="/".join((*path, name)), name=name, depth=len(path) + 1, leaf=not (below or beside),
            a_s=a_s, b_s=b_s, difference_s=b_s - a_s, share=None,
            a_bound_by=mine and mine["bound_by"], b_bound_by=other and other["bound_by"],
        )  # fmt: skip
        if below or beside:
            yield from _differences(below, beside, (*path, name))
