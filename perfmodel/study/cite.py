"""The sources of a result as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perfmodel.predict.frames import document_of
from perfmodel.predict.records import Record

__all__ = ["cite"]

_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    letter: f"\\{letter}" for letter in "&%$#_{}"
}
_KEY_WORDS = 4
_OWN_TITLE = "perfmodel: analytical performance models of machine-learning systems"


def cite(result: Record | Mapping[str, Any]) -> str:
    """BibTeX entries of everything that a result names as its source, perfmodel first; raises `PlanError`.

    A result's `sources` are "title: address" of the hardware, software and model descriptions it used.
    """
    document = document_of(result)
    version, data = document.get("perfmodel_version", ""), document.get("data_version", "")
    own = {"title": _OWN_TITLE, "version": version, "note": f"data version {data}"}
    entries = [_entry("software", "perfmodel", own)]
    taken = {"perfmodel"}
    for source in dict.fromkeys(document.get("sources", ())):
        title, url = _parts(source)
        key = _key(title, taken)
        taken.add(key)
        entries.append(_entry("misc", key, {"title": title} | _where(url)))
    return "\n".join(entries)


def _parts(source: str) -> tuple[str, str]:
    found = re.search(r":?\s*(https?://\S+)\s*$", source)
    return (source, "") if found is None else (source[: found.start()] or found[1], found[1])


def _where(url: str) -> dict[str, str]:
    found = re.search(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})", url)
    if found is not None:
        return {"eprint": found[1], "archiveprefix": "arXiv", "url": url}
    doi = re.search(r"doi\.org/(10\.\S+)", url)
    if doi is not None:
        return {"doi": doi[1], "url": url}
    return {"url": url} if url else {}


def _key(title: str, taken: set[str]) -> str:
    words = re.findall(r"[a-z0-9]+", title.lower())[:_KEY_WORDS]
    stem = "-".join(words) or "source"
    return next(key for n in range(len(taken) + 1) if (key := stem if n == 0 else f"{stem}-{n + 1}") not in taken)


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    # An address goes to \url{}, which takes it as it stands.
    plain = ("url", "doi", "eprint")
    lines = [
        f"  {name} = {{{value if name in plain else _escaped(value)}}}," for name, value in fields.items() if value
    ]
    return "\n".join([f"@{kind}{{{key},", *lines, "}", ""])


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text)
