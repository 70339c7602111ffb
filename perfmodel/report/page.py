"""One self-contained HTML page of a result document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.cli import format as fmt
from perfmodel.errors import MissingExtraError, PerfModelError
from perfmodel.report import tables
from perfmodel.report.documents import prediction_of, read_document
from perfmodel.report.figures.choices import quantity_words
from perfmodel.report.figures.terms import held_bytes, iterations, terms_of
from perfmodel.report.gallery import completed, pictures_of
from perfmodel.report.laws import formulas_of, law
from perfmodel.report.style import svg

__all__ = ["Drawn", "draw", "render_report"]

_TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Drawn:
    """A figure of the page, as one `<svg>` element."""

    name: str
    title: str
    caption: str
    svg: str


def render_report(result: Any, *, label: str = "document") -> str:
    """The page of a result (a record or its document) as HTML: figures, tables, formulas, sources, no network.

    The same document gives the same bytes. Raises `SpecError` for what is no document of perfmodel and
    `MissingExtraError` without matplotlib or jinja2.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("report: needs jinja2; pip install jinja2") from None
    document = read_document(result, label)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["ticks"] = _ticks
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(**_content(document)) + "\n"


def _ticks(text: str) -> Any:
    """Names between backticks, as docstrings write them, as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def draw(document: Mapping[str, Any]) -> tuple[dict[str, Drawn], list[str]]:
    """Every figure that the document has the numbers for, by name, and why others of its kind are left out."""
    found, left_out = {}, []
    for name, one in pictures_of(document).items():
        try:
            found[name] = Drawn(name, one.title, one.caption, svg(one.draw(document), name))
        except MissingExtraError:
            raise
        except PerfModelError as error:
            left_out.append(f"{one.title}: left out: {error}")
    return found, left_out


def _content(document: dict[str, Any]) -> dict[str, Any]:
    said = prediction_of(document)
    whole = completed(document)
    here, document = whole is not document, whole
    drawn, left_out = draw(document)
    title, subject = tables.title_of(document)
    certificate = tables.certificate_table(document)
    warnings = [*said.get("warnings", ()), *(document.get("warnings", ()) if said is not document else ())]
    return {
        "title": title,
        "subject": subject,
        "versions": (document.get("perfmodel_version", "?"), document.get("data_version", "?")),
        "document": document["document"],
        "feasible": document.get("feasible"),
        "fits": said.get("fits"),
        "because": document.get("infeasible_because") or (),
        "headline": tables.headline(document),
        "decision": tables.decision_table(document),
        "decision_rows": tables.decision_rows(document),
        "binds": _binds(document, said),
        "constraints": tables.constraints_table(document),
        "alternatives": tables.alternatives_table(document),
        "sensitivities": tables.sensitivities_table(document.get("sensitivities") or ()),
        "sensitivities_here": here,
        "certificate": certificate,
        "figures": drawn,
        "warnings": [_warning(one) for one in warnings],
        "notes": [*dict.fromkeys([*document.get("notes", ()), *said.get("notes", ())]), *left_out],
        "terms": list(tables.term_rows(terms_of(said))),
        "laws": [law(name) for name in formulas_of(document)],
        "sources": [_source(one) for one in dict.fromkeys([*document.get("sources", ()), *said.get("sources", ())])],
        "rest": tables.leftover_tables(document),
        "request": _request(document["request"]),
    }


def _binds(document: Mapping[str, Any], said: Mapping[str, Any]) -> list[str]:
    """One sentence on each thing that binds: the largest terms by resource, the tightest limit, memory."""
    found = [
        _shares(name.replace("_", " "), parts)
        for name, parts in iterations(said)
        if sum(t["seconds"] for t in parts) > 0
    ]
    limits = [one for one in document.get("constraints") or () if one["limit"]]
    if limits:
        tightest = min(limits, key=lambda one: one["slack"] / abs(one["limit"]))
        share = fmt.percent(tightest["slack"] / abs(tightest["limit"]))
        found.append(f"The tightest limit is {tables.words(tightest['name'])}: {share} of it is left.")
    for role, held in held_bytes(said).items():
        most = max((key for key in held if key not in ("total", "capacity")), key=lambda key: held[key])
        found.append(
            f"Memory ({role}): {fmt.bytes_(held['total'])} of {fmt.bytes_(held['capacity'])}, "
            f"most of it {most.replace('_', ' ')}."
        )
    sensed = [one for one in document.get("sensitivities") or () if "elasticity" in one]
    if sensed:
        first = max(sensed, key=lambda one: abs(one["elasticity"]))
        found.append(
            f"The answer moves most with {quantity_words(first['quantity'])}: "
            f"{first['elasticity']:+.2f} % for each 1 %."
        )
    return [line.replace(" %", "\u00a0%") for line in found]


def _shares(name: str, terms: Any) -> str:
    """How the leaves' time divides among the resources that bind them."""
    seconds: dict[str, float] = {}
    stack = list(terms)
    while stack:
        term = stack.pop()
        stack += term["children"]
        if not term["children"]:
            seconds[term["bound_by"]] = seconds.get(term["bound_by"], 0.0) + term["seconds"]
    whole = sum(seconds.values())
    parts = sorted(seconds.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"{resource} {fmt.percent(part / whole)}" for resource, part in parts if part > 0.0005 * whole)
    return f"Of a {name}, exposed time is bound by {text}."


def _request(request: Mapping[str, Any]) -> str:
    """As JSON; a list without tables in it on one line."""
    text = json.dumps(request, indent=2, ensure_ascii=False, allow_nan=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s*\n\s*", " ", found[0]), text)


def _warning(one: Any) -> str:
    if not isinstance(one, Mapping):
        return str(one)
    return f"{one['quantity']} = {one['value']}: outside {one['valid']} ({one['formula']})"


def _source(text: Any) -> tuple[str, str]:
    """Title and address of a source; only addresses of the web become links."""
    title, mark, address = str(text).partition(": http")
    address = f"http{address}" if mark else ""
    return (title, address) if address.startswith(("http://", "https://")) and " " not in address else (str(text), "")
