"""A result document in words: what its terms are, which formulas they come from, what binds, what would change it."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import SpecError
from perfmodel.predict.records import Record

__all__ = ["DocumentInWords", "TermInWords", "bound_seconds", "explain_document", "term_words", "words_of_term"]

Entry = Mapping[str, Any]
_SMALL = 0.01  # terms below this share of the whole are left to `estimate`


class TermInWords(Record):
    """A term of a time: exposed seconds, what binds it, what it is, and the formulas that give it."""

    name: str
    seconds: float
    share: float
    bound_by: str
    meaning: str
    formulas: tuple[str, ...]


class DocumentInWords(Record):
    """What a result says, for people; `explains` is the kind of document that was read."""

    document: str = "perfmodel/explanation/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    explains: str
    summary: str
    binds: tuple[str, ...]
    changes: tuple[str, ...]
    terms: tuple[TermInWords, ...]
    how_sure: tuple[str, ...]


@cache
def term_words() -> dict[str, Any]:
    """The shipped table of terms and bounds."""
    return tomllib.loads(files("perfmodel").joinpath("data", "term_words.toml").read_text(encoding="utf-8"))


def explain_document(document: Entry) -> DocumentInWords:
    """The words of an estimate or of a plan of training or serving; raises `SpecError` for anything else."""
    kind = document.get("document")
    if not isinstance(kind, str) or not kind.startswith("perfmodel/"):
        raise SpecError("document: missing; explain reads the JSON of perfmodel estimate or plan")
    inner = document.get("prediction") or document
    if document.get("feasible") is False:
        return _infeasible(document, kind)
    terms = inner.get("terms") if isinstance(inner, Mapping) else None
    if not isinstance(terms, list) or not terms:
        raise SpecError(f"document: {kind} has no terms of time; explain reads estimates and plans that have")
    wholes = _wholes(terms, kind)
    return DocumentInWords(
        perfmodel_version=document.get("perfmodel_version", __version__),
        data_version=document.get("data_version", ""),
        request=dict(document.get("request", {})),
        explains=kind,
        summary=_summary(inner),
        binds=tuple(line for name, whole in wholes for line in _binds(name, whole)),
        changes=tuple(_changes(document, wholes)),
        terms=tuple(_terms(terms, max(sum(_seconds(one) for one in whole) for _, whole in wholes))),
        how_sure=tuple(_how_sure(inner)),
    )


def _infeasible(document: Entry, kind: str) -> DocumentInWords:
    return DocumentInWords(
        perfmodel_version=document.get("perfmodel_version", __version__),
        data_version=document.get("data_version", ""),
        request=dict(document.get("request", {})),
        explains=kind,
        summary="Nothing is feasible.",
        binds=tuple(document.get("infeasible_because", ())),
        changes=(),
        terms=(),
        how_sure=(),
    )


def _wholes(terms: list[Entry], kind: str) -> list[tuple[str, list[Entry]]]:
    """The times that terms add up to: one step, or each of a deployment's iterations."""
    return [("the step", terms)] if "training" in kind else [(_title(term["name"]), [term]) for term in terms]


def _title(name: str) -> str:
    return f"the {name.replace('_', ' ')}"


def _seconds(term: Entry) -> float:
    return float(term["seconds"])


def bound_seconds(terms: list[Entry]) -> dict[str, float]:
    """Exposed seconds by what binds them, over the leaves of a tree of terms; most first."""
    found: dict[str, float] = {}
    for term in terms:
        inner = bound_seconds(term["children"]) if term["children"] else {term["bound_by"]: _seconds(term)}
        for bound, seconds in inner.items():
            found[bound] = found.get(bound, 0.0) + seconds
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _summary(inner: Entry) -> str:
    fits = "" if inner.get("fits", True) else "; it does not fit in memory"
    if "step_time_s" in inner:
        return (
            f"A step takes {inner['step_time_s']:.4g} s at {100 * inner['mfu']:.1f} % MFU on "
            f"{inner['accelerators_used']} accelerators{fits}."
        )
    if "ttft_s" in inner:
        return (
            f"The first token comes after {inner['ttft_s']:.4g} s and each further one after {inner['tpot_s']:.4g} s, "
            f"{inner['output_tokens_per_s']:.4g} output tokens/s on {inner['accelerators_used']} accelerators{fits}."
        )
    return f"{inner.get('document', 'A result')}{fits}."


def _binds(name: str, terms: list[Entry]) -> Iterator[str]:
    bounds = bound_seconds(terms)
    whole = sum(bounds.values())
    shares = ", ".join(f"{bound} {100 * seconds / whole:.0f} %" for bound, seconds in bounds.items() if seconds > 0)
    yield f"{name} is bound by {next(iter(bounds))}: of its {whole:.4g} s {shares}"


def _changes(document: Entry, wholes: list[tuple[str, list[Entry]]]) -> Iterator[str]:
    meaning = term_words()["bound"]
    for name, terms in wholes:
        bounds = bound_seconds(terms)
        whole = sum(bounds.values())
        for bound, seconds in bounds.items():
            if seconds > 0.05 * whole:
                yield f"{name}, {bound}, {100 * seconds / whole:.0f} % at most: {meaning[bound]}"
    for one in document.get("sensitivities") or ():
        if abs(one.get("elasticity", 0.0)) >= 0.01:
            way = "longer" if one["elasticity"] > 0 else "shorter"
            yield (
                f"1 % more {one['quantity']} makes the step {abs(one['elasticity']):.2f} % {way}; "
                f"twice as much gives {one['if_doubled_step_time_s']:.4g} s"
            )


def _terms(terms: list[Entry], whole: float, above: str = "") -> Iterator[TermInWords]:
    for term in sorted(terms, key=_seconds, reverse=True):
        if _seconds(term) < _SMALL * whole:
            continue
        name = f"{above}{term['name']}"
        words = words_of_term(term["name"])
        yield TermInWords(
            name=name,
            seconds=_seconds(term),
            share=_seconds(term) / whole,
            bound_by=term["bound_by"],
            meaning=words["meaning"],
            formulas=tuple(words.get("formulas", ())),
        )
        yield from _terms(term["children"], whole, f"{name} / ")


def words_of_term(name: str) -> Entry:
    """The `meaning` and, where it has some, the `formulas` of a term; a term without words is its own name."""
    table: dict[str, Entry] = term_words()["term"]
    if name in table:
        return table[name]
    matching = next((words for pattern, words in table.items() if fnmatch.fnmatchcase(name, pattern)), None)
    return matching or {"meaning": name.replace("_", " ")}


def _how_sure(inner: Entry) -> Iterator[str]:
    for key in ("step_time", "ttft", "tpot"):
        ends = inner.get(f"{key}_interval_s")
        if ends:
            level = 100 * inner.get("interval_level", 0.8)
            span = f"{key}_s: {ends[0]:.4g} to {ends[1]:.4g} s"
            yield f"{span} holds {level:.0f} % of measurements like those of validation"
    for one in inner.get("warnings", ()):
        yield f"outside what is known: {one['formula']}: {one['quantity']} is {one['value']}; known: {one['valid']}"
    yield from inner.get("notes", ())
