"""The pages of `perfmodel compare` and `perfmodel sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from perfmodel.cli import format as fmt
from perfmodel.cli.render import heading, plain_table

__all__ = ["comparison_page", "sweep_page"]

Document = Mapping[str, Any]
_INVISIBLE_SHARE = 0.0005
_ROWS, _GAP = 40, 2
_WORDS = ("bound_by", "mode")
# The few results that a page has room for; a file has them all.
_HEADLINES = (
    "feasible", "mode", "replicas", "usd_per_hour", "accelerators_used", "tp", "pp", "dp", "micro_batch", "step_time_s",
    "ttft_s", "tpot_s", "seconds", "mfu", "roofline_share", "bound_by", "fits", "memory_total_bytes",
    "output_tokens_per_s_per_accelerator", "cost_usd_per_step", "cost_usd_per_mtok",
)  # fmt: skip
_SHORT = {
    "accelerators_used": "used",
    "usd_per_hour": "USD/h",
    "micro_batch": "mb",
    "step_time_s": "step",
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "output_tokens_per_s_per_accelerator": "tokens/s each",
    "memory_total_bytes": "memory",
    "cost_usd_per_mtok": "USD/Mtok",
    "cost_usd_per_step": "USD/step",
    "roofline_share": "roofline",
}
_SHARES = ("mfu", "mfu_causal", "hfu", "roofline_share", "slo_attainment", "prompt_load")


def comparison_page(console: Console, comparison: Document, a: str, b: str) -> None:
    """What was asked differently, what came of it, and the difference term by term."""
    console.print(Text.assemble(("B against A", "bold"), f": {b} against {a}"))
    for note in comparison["notes"]:
        console.print(Text(f"mind: {note}", "yellow"))
    heading(console, "Asked", "" if comparison["changes"] else "the same question")
    table = plain_table("", "A", "B", left=(0, 1, 2))
    for change in comparison["changes"]:
        table.add_row(change["key"], _word(change["a"]), _word(change["b"]))
    if comparison["changes"]:
        console.print(table)
    heading(console, "Results")
    table = plain_table("", "A", "B", "B / A")
    for one in comparison["quantities"]:
        ratio = "-" if one["ratio"] is None else f"{one['ratio']:.3f}"
        name = Text(one["name"], "bold" if one["difference"] else "dim")
        table.add_row(name, _number(one["name"], one["a"]), _number(one["name"], one["b"]), ratio)
    console.print(table)
    _terms(console, comparison["terms"])


def _terms(console: Console, terms: Any) -> None:
    shown = [term for term in terms if abs(term["difference_s"]) > _INVISIBLE_SHARE * max(term["a_s"], term["b_s"])]
    if not terms:
        return
    heading(
        console, "Term by term", f"{len(terms) - len(shown)} terms differ by less than {fmt.percent(_INVISIBLE_SHARE)}"
    )
    table = plain_table("", "A", "B", "B - A", "share", "bound by", left=(0, 5), gap=2)
    for term in shown:
        bound = [term["a_bound_by"], term["b_bound_by"]]
        sign = "+" if term["difference_s"] > 0 else ""
        table.add_row(
            f"{'  ' * (term['depth'] - 1)}{term['name'].replace('_', ' ')}",
            fmt.seconds(term["a_s"]),
            fmt.seconds(term["b_s"]),
            f"{sign}{fmt.seconds(term['difference_s'])}",
            "-" if term["share"] is None else fmt.percent(term["share"]),
            " -> ".join(dict.fromkeys(word for word in bound if word)),
        )
    console.print(table)


def sweep_page(console: Console, sweep: Document) -> None:
    """The first rows of a sweep: the keys that vary, and as many headline results as the page is wide."""
    rows, count = sweep["rows"][:_ROWS], len(sweep["rows"])
    varying = [key for key in sweep["keys"] if any(row[key] != rows[0][key] for row in rows)]
    keys = [key for key in varying if key not in _labelled(sweep)] or sweep["keys"]
    answered = [row for row in rows if row["error"] is None]
    results = [name for name in _HEADLINES if name not in sweep["keys"] and any(_given(row, name) for row in answered)]
    console.print(Text.assemble((sweep["request"]["question"], "bold"), f", {count:,} scenarios"))
    console.print()
    cells = {name: [_cell(row, name, name in keys) for row in rows] for name in (*keys, *results)}
    widths = {name: max(map(len, (_SHORT.get(name, name), *cells[name]))) + _GAP for name in cells}
    while len(results) > 1 and sum(widths[name] for name in (*keys, *results)) > console.width:
        results.pop()
    words = [key for key in keys if any(isinstance(row[key], str) for row in rows)]
    left = [position for position, name in enumerate([*keys, *results]) if name in words or name in _WORDS]
    table = plain_table(*(_SHORT.get(name, name) for name in (*keys, *results)), left=left, gap=_GAP)
    for position, row in enumerate(rows):
        shown = [Text(cells[key][position]) for key in keys]
        if row["error"] is None:
            shown += [Text(cells[name][position]) for name in results]
        elif results:
            shown.append(Text("error", "red"))
        table.add_row(*shown)
    console.print(table)
    more = f"and {count - _ROWS:,} more rows; " if count > _ROWS else ""
    console.print(Text(f"{more}-o FILE.csv has all {len(sweep['columns'])} columns", "dim"))
    for error in list(dict.fromkeys(row["error"] for row in sweep["rows"] if row["error"]))[:5]:
        console.print(f"- {error}", markup=False)


def _labelled(sweep: Document) -> set[str]:
    """Keys of groups whose settings go by a word of their own."""
    groups = [axis for axis in sweep["request"]["axes"].values() if all(isinstance(one, Mapping) for one in axis)]
    return {key for axis in groups if all("label" in one for one in axis) for one in axis for key in one}


def _given(row: Document, name: str) -> bool:
    return row.get(name) is not None


def _cell(row: Document, name: str, key: bool) -> str:
    return _word(row[name]) if key else _number(name, row.get(name))


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return str(value.get("id", "written out"))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(name: str, value: Any) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return _word(value)
    if name in _SHARES:
        return fmt.percent(value)
    for part, shown in (("usd", fmt.usd), ("energy_j", fmt.energy), ("flop_per_s", fmt.flop_rate)):
        if part in name:
            return shown(value)
    return fmt.quantity(name, value)
