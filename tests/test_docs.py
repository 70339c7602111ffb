"""The documentation holds: commands run through the entry point, Python as it stands, generated pages are current.

A fenced block `sh` holds commands, one a line; `# heavy` at its end keeps one out of the quick tests. A block with a
file name after its language is that file. Links lead to pages and headings that exist.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perfmodel.cli.reference import filled_page, formula_pages

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RUN = ("../README.md", "guide.md", "how-sure-are-we.md")
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"])
_FENCE = re.compile(r"^```(?P<info>[^\n]+)\n(?P<text>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\]\((?!https?:)(?P<page>[^)#\s]*)(?:#(?P<heading>[^)\s]*))?\)")


def blocks(page: str) -> Iterator[tuple[str, str]]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return ((found["info"].strip(), found["text"]) for found in _FENCE.finditer(text))


def run_page(cli: Any, page: str, *, heavy: bool) -> int:
    """Run the blocks of a page in their order, in the current folder; the number of commands that were run."""
    run = 0
    for info, text in blocks(page):
        language, _, name = info.partition(" ")
        if name:
            Path(name).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, page, "exec"), {})
        elif language == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                if not line.startswith("perfmodel ") or (line.rstrip().endswith("# heavy") and not heavy):
                    continue
                outcome = cli(*shlex.split(line, comments=True)[1:])
                assert outcome.code == 0, (line, outcome.err)
                run += 1
    return run


@pytest.mark.parametrize("page", RUN)
def test_examples(cli: Any, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_page(cli, page, heavy=False) >= 6


@pytest.mark.heavy
@pytest.mark.parametrize("page", RUN)
def test_every_example(cli: Any, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_page(cli, page, heavy=True) >= 6


def test_generated_pages_are_current() -> None:
    """Else run `python -m perfmodel.cli.reference docs`."""
    pages = formula_pages()
    written = {path.relative_to(DOCS).as_posix() for path in (DOCS / "formulas").glob("*.md")} | {"formulas.md"}
    assert written == pages.keys()
    stale = [name for name, text in pages.items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert not stale
    data = (DOCS / "data.md").read_text(encoding="utf-8")
    assert filled_page(data) == data
    assert "number with its source" in data


@pytest.mark.parametrize("page", PAGES, ids=lambda page: os.path.relpath(page, ROOT))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = (page.parent / link["page"]).resolve() if link["page"] else page
        assert target.exists(), link[0]
        if link["heading"]:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert link["heading"] in {_anchor(heading) for heading in headings}, link[0]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
