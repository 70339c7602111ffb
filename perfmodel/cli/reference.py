"""The pages of `docs/` that follow from the code: `python -m perfmodel.cli.reference docs` writes them again.

`formulas.md` and `formulas/FAMILY.md` come from the register of closed forms, the tables of `data.md` from the schemas
of the descriptions, between its markers; the prose around those is written by hand.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from perfmodel.formulas import Formula, all_formulas

__all__ = ["filled_page", "formula_pages", "main"]

_INTRO = """\
# Formulas

Every closed form of `perfmodel`: {count} laws in {families} families. This page and those that it leads to are
written by `python -m perfmodel.cli.reference docs`; a test fails where they are not what the register holds.

`perfmodel explain NAME` shows the same data sheet with the published checks computed, the form as it is evaluated, and
answers questions: numbers put in (`--at`), elasticities, roots (`--solve`), crossovers (`--over`), limits (`--limit`).
"""
_BLOCK = re.compile(r"(<!-- keys:(?P<what>[\w.]+):begin -->\n).*?(<!-- keys:(?P=what):end -->)", re.S)
_UNITS = (
    ("flop_per_s", "flop/s"), ("byte_per_s", "B/s"), ("usd_per_hour", "USD/h"), ("usd_per_kwh", "USD/kWh"),
    ("bytes_per_param", "B"), ("bytes_per_logit", "B"), ("bytes", "B"), ("_s", "s"), ("_hz", "Hz"), ("_w", "W"),
)  # fmt: skip


def formula_pages() -> dict[str, str]:
    """The pages of the register by their path below `docs/`."""
    families: dict[str, list[Formula]] = {}
    for law in all_formulas().values():
        families.setdefault(law.family, []).append(law)
    families = dict(sorted(families.items()))
    index = [_INTRO.format(count=sum(map(len, families.values())), families=len(families))]
    pages = {}
    for family, laws in families.items():
        about = _about(family)
        index.append(f"## [{family}](formulas/{family}.md)\n\n{about}\n")
        index.append("| formula | unit | what it gives |\n|---|---|---|")
        index += [
            f"| [`{law.name}`](formulas/{family}.md#{law.name}) | {law.returns.unit} | {_cell(law.summary)} |"
            for law in laws
        ]
        index.append("")
        sheets = [f"# {family}\n\n{about}\n", *("\n".join(_sheet(law)) for law in laws)]
        pages[f"formulas/{family}.md"] = "\n".join(sheets)
    return {"formulas.md": "\n".join(index), **pages}


def _about(family: str) -> str:
    """What a family is, from the docstring of its module."""
    return (import_module(f"perfmodel.formulas.{family}").__doc__ or "").strip()


def _sheet(law: Formula) -> Iterator[str]:
    yield f"## {law.name}\n\n{law.summary}\n"
    if law.equation:
        yield f"$$ {law.equation} $$\n"
    yield "| symbol | argument | unit | meaning | default |\n|---|---|---|---|---|"
    for symbol in law.symbols.values():
        default = "" if symbol.default is None else f"{symbol.default:g}"
        yield f"| ${_cell(symbol.tex)}$ | `{symbol.name}` | {symbol.unit} | {_cell(symbol.meaning)} | {default} |"
    yield f"| | returns | {law.returns.unit} | {_cell(law.returns.meaning)} | |\n"
    for title, text in (
        ("Assumptions", law.assumptions), ("Valid for", law.valid_text), ("Source", law.source),
        ("Checked", law.checked),
    ):  # fmt: skip
        if text:
            yield f"**{title}** {' '.join(text.split())}\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def filled_page(text: str) -> str:
    """A page with its tables of keys written again, each between markers that name a class of `perfmodel.specs`."""
    return _BLOCK.sub(lambda block: block[1] + _keys(block["what"]) + block[3], text)


def _keys(what: str) -> str:
    module, name = what.rsplit(".", 1)
    spec = getattr(import_module(f"perfmodel.specs.{module}"), name)
    schema = spec.model_json_schema(mode="validation")
    about = "\n".join(line.strip() for line in (spec.__doc__ or "").strip().splitlines())
    lines = [f"\n{about}\n", "| key | is | unit | left out |", "|---|---|---|---|"]
    for key, entry in schema["properties"].items():
        default = "needed" if key in schema.get("required", ()) else _default(entry.get("default"))
        lines.append(f"| `{key}` | {_kind(entry)} | {_unit(key)} | {default} |")
    return "\n".join([*lines, "\n"])


def _unit(key: str) -> str:
    return next((unit for end, unit in _UNITS if key.endswith(end)), "")


def _default(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "none"
    if isinstance(value, Mapping) and "value" in value:
        value = value["value"]
    return f"`{value}`"


def _kind(entry: Mapping[str, Any]) -> str:
    """A JSON schema of one key in few words."""
    if "$ref" in entry:
        return entry["$ref"].rsplit("/", 1)[1]
    if "anyOf" in entry:
        kinds = list(dict.fromkeys(_kind(one) for one in entry["anyOf"] if one.get("type") != "null"))
        sourced = any("value" in one.get("properties", {}) for one in entry["anyOf"])
        return "number with its source" if sourced else " or ".join(kinds)
    if "enum" in entry or "const" in entry:
        return "one of " + ", ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    kind = entry.get("type", "anything")
    if kind == "array":
        items: Mapping[str, Any] = entry.get("items") or next(iter(entry.get("prefixItems", ())), {})
        return f"list of {_kind(items)}"
    if kind == "object" and isinstance(entry.get("additionalProperties"), Mapping):
        return f"table of {_kind(entry['additionalProperties'])}"
    return {"integer": "whole number", "boolean": "true or false", "string": "text", "object": "table"}.get(kind, kind)


def main(folder: str) -> None:
    """Write the pages below `folder`; pages of families that are gone go too."""
    docs, pages = Path(folder), formula_pages()
    (docs / "formulas").mkdir(parents=True, exist_ok=True)
    for stale in (docs / "formulas").glob("*.md"):
        if f"formulas/{stale.name}" not in pages:
            stale.unlink()
    for name, text in pages.items():
        (docs / name).write_text(text, encoding="utf-8")
    data = docs / "data.md"
    if data.exists():
        data.write_text(filled_page(data.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m perfmodel.cli.reference FOLDER")
    main(sys.argv[1])
