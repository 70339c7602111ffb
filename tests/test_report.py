"""The page of a result: whole, small, alone, and readable by a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_words import Outcome
from markupsafe import escape
from result_documents import KINDS, result
from test_figures import EXPECTED

from perfmodel.errors import MissingExtraError, SpecError
from perfmodel.formulas import all_formulas
from perfmodel.report import KINDS as READ
from perfmodel.report import laws, render_report

Cli = Callable[..., Outcome]
_VOID = {"meta", "br", "link", "img", "input", "hr"}


class _Page(HTMLParser):
    """Tags that are opened and closed in order, ids, and every attribute that could fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        self._see(tag, dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _see(self, tag: str, attrs: dict[str, str | None]) -> None:
        self.ids += [attrs["id"] or ""] if "id" in attrs else []
        for name, value in attrs.items():
            inside = (value or "").startswith("#")
            if inside and name == "href":
                self.targets.append((value or "")[1:])
            elif name in ("src", "srcset", "data", "action") or (name == "href" and tag != "a"):
                self.fetched.append(f"{tag} {name}={value}")
        if tag in ("script", "link", "iframe", "object", "embed", "img"):
            self.fetched.append(tag)


@cache
def page_of(kind: str) -> str:
    return render_report(result(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_of_every_document(kind: str) -> None:
    text = page_of(kind)
    assert len(text.encode()) < 2e6
    page = _Page(text)
    assert page.open == []
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)
    assert {name for name in page.ids if name in EXPECTED[kind]} == EXPECTED[kind]
    assert not re.search(r"url\((?!#)|@import|<script|javascript:", text)
    assert ": left out: " not in text
    assert not re.search(r"\bnan\b|&lt;class|object at 0x|Decimal\(", text)


def test_a_record_and_its_document_give_the_same_page() -> None:
    assert page_of("power-plan") == render_report(json.loads(result("power-plan").to_json()))


def test_what_a_plan_says_stands_on_its_page() -> None:
    text = page_of("training-plan")
    for heading in ("Decision", "What binds", "What would help", "Alternatives", "Certificate", "Formulas", "Sources"):
        assert f">{heading}</h2>" in text
    assert "<math" in text
    assert "Of a step, exposed time is bound by compute" in text
    assert all(str(escape(source.split(": http")[0])) in text for source in result("training-plan").sources)
    because = page_of("nothing-feasible")
    assert "Nothing feasible." in because
    assert "Decision" not in because


def test_text_from_outside_is_only_text() -> None:
    document = json.loads(result("memory-estimate").to_json())
    document["sources"] = ["<script>alert(1)</script>: javascript:alert(1)", 'x: https://a.example/"onclick=1']
    document["request"]["model"] = "<b>bold</b>"
    text = render_report(document)
    assert "<script" not in text
    assert "<b>bold" not in text
    assert 'href="javascript' not in text
    assert '"onclick' not in text


def test_documents_of_another_version() -> None:
    document = json.loads(result("power-plan").to_json())
    assert render_report({**document, "a_key_of_tomorrow": 3}) == page_of("power-plan")
    with pytest.raises(SpecError, match="reads major version 1"):
        render_report({**document, "document": "perfmodel/power-plan/2"})
    del document["certificate"]
    with pytest.raises(SpecError, match="certificate: missing"):
        render_report(document)


def test_documents_without_a_page_of_their_own_get_their_tables() -> None:
    text = render_report({"document": "perfmodel/something-new/1", "request": {"x": 1}, "some_time_s": 0.5})
    assert "500 ms" in text


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"hello": 1}, "document: missing; this is no result of perfmodel"),
        ({"document": "perfmodel"}, "unknown document 'perfmodel'"),
        ({"document": "perfmodel/training-plan/1"}, "request: missing"),
        ({"document": "perfmodel/x/1", "request": {}, "a": {"b": float("nan")}}, "a: b: must be finite"),
        (["a list"], "must be a result of perfmodel or its JSON object"),
    ],
)
def test_what_is_no_document(document: object, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        render_report(document)


def test_formulas_behind_documents_exist() -> None:
    named = [name for kind in laws._OF_KIND.values() for name in kind]
    named += [name for term in laws._OF_A_STEP.values() for name in term]
    named += [*laws._OF_EVERY_STEP, *laws._OF_SERVING, *laws._BUBBLES.values()]
    assert set(named) <= set(all_formulas())
    assert set(laws._OF_KIND) <= set(READ)


def test_command(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, page = tmp_path / "plan.json", tmp_path / "plan.html"
    plan.write_text(result("power-plan").to_json())
    outcome = cli("report", str(plan), "-o", str(page))
    assert (outcome.code, outcome.out) == (0, "")
    assert re.fullmatch(rf"perfmodel: wrote {re.escape(str(page))} \(\d+ kB\)\n", outcome.err)
    assert cli("report", str(plan), "-o", "-").out == page.read_text(encoding="utf-8")
    plan.write_text('{"document": "perfmodel"}')
    outcome = cli("report", str(plan), "-o", str(page))
    assert outcome.code == 2
    assert f"{plan}: unknown document 'perfmodel'" in outcome.err
    assert "-o" in cli("report", str(plan)).err
    plan.write_text(result("power-plan").to_json())
    for module in ("jinja2", "matplotlib"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            outcome = cli("report", str(plan), "-o", str(page))
            assert (outcome.code, len(outcome.err.splitlines())) == (3, 1)
            assert f"pip install {module}" in outcome.err


def test_missing_extra_in_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match="needs jinja2"):
        render_report(result("power-plan"))


def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here; .ci/run installs Debian's where it can")
    from matplotlib.image import imread

    page, picture = tmp_path / "plan.html", tmp_path / "plan.png"
    page.write_text(page_of("training-plan"), encoding="utf-8")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,3000", "--enable-logging=stderr",
             f"--screenshot={picture}", page.as_uri()]  # fmt: skip
    said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stderr
    assert "CONSOLE" not in said  # where Chromium writes what a page does wrong, or may not fetch
    seen = imread(picture)[:, :, :3].mean(axis=2)
    assert seen.shape == (3000, 900)
    # Text and figures in every part of the page, and nothing that sticks out of its column.
    assert all((seen[top : top + 300] < 0.9).mean() > 0.01 for top in range(0, 3000, 300))
    assert (seen[:, :40] > 0.99).all()
    assert (seen[:, 860:] > 0.99).all()
