"""Lists, descriptions and formulas as pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from perfmodel.cli import format as fmt
from perfmodel.cli.render import heading, plain_table

__all__ = ["formula_page", "list_page", "spec_page"]

Entry = Mapping[str, Any]
_ROOMY = 100
_FOR_WIDE_PAGES = ("d_model", "heads", "host")


def list_page(console: Console, kind: str, entries: Sequence[Entry]) -> None:
    """One line per thing."""
    if not entries:
        console.print(f"no {kind} yet")
        return
    group = {"hardware": "kind", "formulas": "family"}.get(kind, "")
    for part in dict.fromkeys(entry.get(group, "") for entry in entries):
        columns = _COLUMNS[part if kind == "hardware" else kind]
        if console.width < _ROOMY:
            columns = tuple(column for column in columns if column[0] not in _FOR_WIDE_PAGES)
        left = [position for position, (_, aligned, _) in enumerate(columns) if aligned == "left"]
        table = plain_table(*(head for head, _, _ in columns), left=left)
        table.columns[0].no_wrap = True
        for entry in entries:
            if entry.get(group, "") == part:
                table.add_row(*(shown(entry) for _, _, shown in columns))
        if part:
            heading(console, part.replace("_", " ").capitalize())
        console.print(table)
    console.print()
    what = "perfmodel explain NAME" if kind == "formulas" else "perfmodel show ID"
    hint = f"{what} says where every number comes from"
    if kind == "systems":
        hint = "--json shows the claims, their sources and the commands that check them"
    if kind == "published":
        hint = "perfmodel validate scores the tables, perfmodel explain shows the checks of a formula"
    console.print(Text(f"{len(entries)} in all; {hint}", "dim"))


def _text(key: str) -> Any:
    return lambda entry: str(entry[key])


def _number(key: str) -> Any:
    return lambda entry: fmt.quantity(key, entry[key])


def _peak(entry: Entry) -> str:
    peaks = entry["peak_flop_per_s"]
    dtype = next((name for name in ("bf16", "fp16") if name in peaks), next(iter(peaks)))
    return f"{fmt.flop_rate(peaks[dtype])} {dtype}"


def _tiers(entry: Entry) -> str:
    return ", ".join(_one_tier(tier) for tier in entry["tiers"])


def _one_tier(tier: Entry) -> str:
    shape = f" {' x '.join(map(str, tier['torus_shape']))}" if tier["torus_shape"] else ""
    return f"{tier['name']}{shape} {fmt.byte_rate(tier['link_byte_per_s'])}"


def _experts(entry: Entry) -> str:
    experts = entry["experts"]
    if not experts:
        return ""
    shared = f"+{experts['n_shared']}" if experts["n_shared"] else ""
    return f"{experts['experts_per_token']}{shared}/{experts['n_experts']}"


def _kinds(entry: Entry) -> str:
    """How layers mix tokens, with how many there are of each kind where there are several."""
    mixers: dict[str, int] = {}
    for kind, count in entry["layers"].items():
        name = kind.split(" + ")[0]
        if name not in ("dense", "experts", "none"):
            mixers[name] = mixers.get(name, 0) + count
    return next(iter(mixers), "") if len(mixers) == 1 else ", ".join(f"{n} {name}" for name, n in mixers.items())


def _billions(key: str) -> Any:
    return lambda entry: fmt.significant(entry[key] / 1e9)


def _maybe(key: str) -> Any:
    return lambda entry: "" if entry[key] is None else fmt.quantity(key, entry[key])


def _calibration(entry: Entry) -> str:
    if entry["calibrated_on"]:
        return f"calibrated on {', '.join(entry['calibrated_on'])}"
    return "; ".join(entry["inherits"]) or "no calibration of its own"


_COLUMNS: dict[str, tuple[tuple[str, str, Any], ...]] = {
    "models": (
        ("id", "left", _text("id")),
        ("billion", "right", _billions("n_params")),
        ("active", "right", lambda e: _billions("n_active_params")(e) if e["experts"] else ""),
        ("layers", "right", _text("n_layers")),
        ("d_model", "right", _text("d_model")),
        ("heads", "right", lambda e: f"{e['n_heads']}/{e['n_kv_heads']}"),
        ("context", "right", lambda e: f"{e['max_seq_len'] / 1024:.0f} Ki"),
        ("experts", "right", _experts),
        ("tokens mix by", "left", _kinds),
    ),
    "accelerator": (
        ("id", "left", _text("id")),
        ("dense peak", "right", _peak),
        ("memory", "right", _number("hbm_bytes")),
        ("bandwidth", "right", _number("hbm_byte_per_s")),
        ("link", "right", _number("link_byte_per_s")),
        ("power", "right", _number("tdp_w")),
        ("USD/h", "right", lambda e: f"{e['usd_per_hour']:.2f}"),
    ),
    "cluster": (
        ("id", "left", _text("id")),
        ("accelerator", "left", _text("accelerator")),
        ("a node", "right", _text("accelerators_per_node")),
        ("host", "left", lambda e: e["host"] or ""),
        ("network, one direction of one accelerator", "left", _tiers),
    ),
    "host": (
        ("id", "left", _text("id")),
        ("cores", "right", _number("n_cores")),
        ("memory", "right", _number("dram_bytes")),
        ("bandwidth", "right", _number("dram_byte_per_s")),
        ("to an accelerator", "right", _number("pcie_byte_per_s")),
        ("NVMe", "right", _maybe("nvme_bytes")),
        ("CXL", "right", _maybe("cxl_bytes")),
    ),
    "region": (
        ("id", "left", _text("id")),
        ("year", "right", _text("year")),
        ("kg CO2e per kWh", "right", lambda e: f"{e['carbon_kg_per_kwh']:.3f}"),
    ),
    "software": (
        ("id", "left", _text("id")),
        ("for", "left", _text("kind")),
        ("name", "left", _text("name")),
        ("", "left", _calibration),
    ),
    "formulas": (
        ("name", "left", _text("id")),
        ("gives", "left", lambda e: f"[{e['returns']}]"),
        ("", "left", _text("summary")),
    ),
    "systems": (
        ("id", "left", _text("id")),
        ("capability", "left", _text("capability")),
        ("error", "right", lambda entry: "-" if entry["error"] is None else f"{100 * entry['error']:+.1f} %"),
        ("status", "left", _text("status")),
    ),
    "published": (
        ("id", "left", _text("id")),
        ("rows", "right", _text("rows")),
        ("quantity", "left", _text("quantity")),
        ("role", "left", _text("role")),
        ("title", "left", _text("title")),
    ),
}


def spec_page(console: Console, entry: Entry) -> None:
    """Facts, then every number with where it comes from, then the sources."""
    console.print(Text.assemble((str(entry.get("name") or entry["id"]), "bold"), f"  {entry['kind']} {entry['id']}"))
    inner = entry.get("accelerator")
    own = {key: value for key, value in entry.items() if key not in ("id", "kind", "name", "accelerator")}
    numbers = list(_numbers("", own))
    facts = list(_facts("", own))
    if inner:
        facts.insert(0, ("accelerator", f"{inner['id']} (perfmodel show {inner['id']})"))
    table = plain_table("", "", left=(0, 1))
    for key, value in facts:
        table.add_row(key, value)
    if facts:
        console.print()
        console.print(table)
    if numbers:
        heading(console, "Numbers", "each with its kind and source")
    for key, number in numbers:
        shown, exact = fmt.quantity(key, number["value"]), f"{number['value']:g}"
        console.print(Text.assemble((key, "bold"), f"  {shown}", ("" if shown == exact else f"  ({exact})", "dim")))
        console.print(Padding(Text(_provenance(number), "dim"), (0, 0, 0, 4)))
    sources = list(_sources(own))
    if sources:
        heading(console, "Sources")
    for key, source in sources:
        console.print(f"- {key}: {source['title']}, {source['url']}", markup=False, soft_wrap=True)


def _provenance(number: Entry) -> str:
    parts = [number.get("kind", ""), number.get("source", ""), number.get("where", "")]
    text = ", ".join(part for part in parts if part)
    for key in ("derived", "note"):
        text += f"; {number[key]}" if number.get(key) else ""
    return text + (f"; checked {number['checked']}" if number.get("checked") else "")


def _is_number(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value and "source" in value


def _children(where: str, value: Any) -> Iterator[tuple[str, Any]]:
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value, start=1)
    for key, item in pairs:
        if key != "sources":
            yield f"{where}.{key}" if where else str(key), item


def _numbers(where: str, value: Any) -> Iterator[tuple[str, Entry]]:
    if _is_number(value):
        yield where, value
    elif isinstance(value, (Mapping, list)):
        for key, item in _children(where, value):
            yield from _numbers(key, item)


def _facts(where: str, value: Any) -> Iterator[tuple[str, str]]:
    if _is_number(value) or value in (None, "", [], {}):
        return
    if isinstance(value, list) and not any(isinstance(item, (Mapping, list)) for item in value):
        yield where, ", ".join(map(str, value))
    elif isinstance(value, (Mapping, list)):
        for key, item in _children(where, value):
            yield from _facts(key, item)
    elif isinstance(value, bool):
        yield where, "yes" if value else "no"
    else:
        yield where, f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _sources(value: Any) -> Iterator[tuple[str, Entry]]:
    if isinstance(value, Mapping):
        for key, source in (value.get("sources") or {}).items():
            yield key, source
        for key, item in value.items():
            if key != "sources":
                yield from _sources(item)
    elif isinstance(value, list):
        for item in value:
            yield from _sources(item)


def formula_page(console: Console, entry: Entry) -> None:
    """The data sheet of a formula."""
    console.print(Text.assemble((entry["id"], "bold"), f"  {entry['summary']}"))
    for title, text in (
        ("Equation", entry["equation"]),
        ("As computed", entry["expression"]),
        ("LaTeX", entry["latex"]),
    ):
        if text:
            heading(console, title)
            console.print(text, markup=False)
    heading(console, "Symbols")
    table = plain_table("", "unit", "meaning", "default", left=(0, 1, 2))
    for symbol in entry["symbols"]:
        default = "" if symbol["default"] is None else f"{symbol['default']:g}"
        meaning = symbol["meaning"] + (f" ({symbol['tex']})" if symbol["tex"] != symbol["name"] else "")
        table.add_row(symbol["name"], Text(f"[{symbol['unit']}]"), Text(meaning.strip()), default)
    result = entry["returns"]
    table.add_row(Text("returns", "bold"), Text(f"[{result['unit']}]"), Text(result["meaning"]))
    console.print(table)
    for title, key in (
        ("Assumptions", "assumptions"),
        ("Valid for", "valid"),
        ("Source", "source"),
        ("Checked", "checked"),
    ):
        if entry[key]:
            heading(console, title)
            console.print(entry[key], markup=False)
    if entry["published"]:
        heading(console, "Published checks")
        checks = plain_table("where", "published", "formula", "error")
        for check in entry["published"]:
            error = check["relative_error"]
            checks.add_row(
                Text(check["where"]),
                f"{check['value']:.4g}",
                f"{check['formula_value']:.4g}",
                "" if error is None else fmt.percent(error, signed=True),
            )
        console.print(checks)
