"""What a document says, as rows of text for a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel.cli import format as fmt
from perfmodel.report.documents import kind_of, prediction_of
from perfmodel.report.figures.choices import quantity_words

__all__ = [
    "Table",
    "alternatives_table",
    "certificate_table",
    "constraints_table",
    "decision_rows",
    "decision_table",
    "headline",
    "layout_text",
    "leftover_tables",
    "sensitivities_table",
    "shown",
    "term_rows",
    "title_of",
    "words",
]

_HEADLINES = {
    "step_time_s": "step time",
    "mfu": "MFU",
    "tokens_per_s": "tokens a second",
    "tokens_per_s_per_accelerator": "tokens/s an accelerator",
    "ttft_s": "mean TTFT",
    "tpot_s": "mean TPOT",
    "output_tokens_per_s": "output tokens/s",
    "output_tokens_per_s_per_accelerator": "output tokens/s an accelerator",
    "request_latency_s": "latency of a request",
    "max_concurrency": "most requests at once",
    "accuracy": "expected accuracy",
    "cost_usd": "cost",
    "brake_events": "expected brakes a year",
    "peak_share": "peak of the budget",
    "mean_max_over_mean_load": "fullest rank over the mean",
    "cross_rank_fraction": "tokens that change rank",
    "cross_node_fraction": "tokens that change node",
    "energy_j_per_step": "energy a step",
    "energy_j_per_token": "energy an output token",
    "cost_usd_per_step": "cost a step",
    "cost_usd_per_mtok": "cost of a million output tokens",
    "accelerators_used": "accelerators",
    "added_servers": "servers added",
    "n_params": "parameters",
    "tokens": "tokens",
    "loss": "loss",
}
_SHARES = ("mfu", "mfu_causal", "hfu", "accuracy", "slo_attainment", "gap", "interval_level", "prompt_load")
_CLOSE = ("loss", "bound", "objective_value", "mean_max_over_mean_load")
"""Numbers that differ late."""
_DEGREES = ("tp", "pp", "dp", "cp", "ep", "etp", "attention_dp", "vpp")
_SHOWN_ROWS = 40
_PLACED = (
    "document", "perfmodel_version", "data_version", "request", "decision", "prediction", "alternatives", "certificate",
    "constraints", "sensitivities", "terms", "warnings", "notes", "sources", "infeasible_because", "feasible",
    "load_duration", "memory_bytes",
)  # fmt: skip
"""Keys with a place of their own on the page."""


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; `more` says what was left out."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    more: str = ""


def shown(key: str, value: Any) -> str:
    """A value for people, in the unit that its key names."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if key in _CLOSE:
            return fmt.significant(value, 5)
        if key in _SHARES or key.endswith(("_fraction", "_share", "_rate_hit")):
            return fmt.percent(value)
        if key.endswith("_hz"):
            return f"{value / 1e6:,.0f} MHz"
        if key == "memory_bytes":
            return fmt.bytes_(value)
        if key.endswith(("usd_per_mtok", "usd_per_step", "usd_per_hour")):
            return fmt.usd(value)
        if "_j_per_" in key:
            return fmt.energy(value)
        if key.startswith("if_doubled_"):
            return shown(key.removeprefix("if_doubled_"), value)
        return fmt.quantity(key, value) if abs(value) >= 1e-9 or value == 0 else f"{value:.3g}"
    if isinstance(value, Mapping) and "tp" in value:
        return layout_text(value)
    if isinstance(value, Mapping):
        parts = (f"{words(name)} {shown(key if key.endswith('_hz') else name, one)}" for name, one in value.items())
        return ", ".join(parts) or "–"
    if isinstance(value, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in value):
        return f"{len(value)} lists of {' or '.join(map(str, sorted({len(one) for one in value})))}, in the document"
    if isinstance(value, (list, tuple)):
        text = ", ".join(shown(key, one) for one in value[:12])
        return f"{text}, … ({len(value)} in all)" if len(value) > 12 else text or "–"
    return str(value)


def layout_text(layout: Mapping[str, Any]) -> str:
    """The degrees that are on, and the switches beside them: `tp 8, pp 16, dp 4, micro-batch 1, interleaved`."""
    parts = [f"{name} {layout[name]}" for name in _DEGREES if layout.get(name, 1) != 1]
    parts += [f"micro-batch {layout['micro_batch']}"] if "micro_batch" in layout else []
    parts += [f"ZeRO-{layout['zero_stage']}"] if layout.get("zero_stage") and layout.get("dp", 1) > 1 else []
    parts += [str(layout["schedule"])] if layout.get("pp", 1) > 1 and "schedule" in layout else []
    if layout.get("recompute", "none") != "none":
        some = layout.get("recompute_layers")
        some = ", ".join(map(str, some)) if isinstance(some, (list, tuple)) else some
        parts.append(f"{layout['recompute']} recomputation{f' of {some} layers' if some else ''}")
    return ", ".join(parts) or "one accelerator"


def title_of(document: Mapping[str, Any]) -> tuple[str, str]:
    """What the page is about, and of what."""
    kind = kind_of(document).replace("-", " ")
    request = document["request"]
    parts = [fmt.called(request[key]) for key in ("model", "cluster", "accelerator") if request.get(key)]
    row = request.get("row")
    if isinstance(row, Mapping) and "servers" in row:
        parts.append(f"{row['servers']} x {row.get('server', 'servers')}")
    subject = " on ".join(parts)
    count = request.get("accelerators")
    return f"{kind[0].upper()}{kind[1:]}", f"{subject}, {fmt.count(count)} accelerators" if count else subject


def headline(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers a reader looks for: name, value, and the interval below it where there is one."""
    said = {**(document.get("decision") or {}), **prediction_of(document)}
    found = []
    for key, name in _HEADLINES.items():
        if isinstance(said.get(key), (int, float)):
            found.append((name, shown(key, said[key]), _interval(said, key)))
    return found


def _interval(said: Mapping[str, Any], key: str) -> str:
    ends = said.get(f"{key.removesuffix('_s')}_interval{'_s' if key.endswith('_s') else ''}")
    if not ends:
        return ""
    level = f"{100 * said.get('interval_level', 0.8):.0f} %"
    if key.endswith("_s"):
        return f"{fmt.seconds_interval(*ends)} ({level})"
    return f"{shown(key, ends[0])} to {shown(key, ends[1])} ({level})"


def decision_table(document: Mapping[str, Any]) -> Table | None:
    """What was decided, or what an estimate was asked to price."""
    decision = document.get("decision")
    if "decision" in document and not decision:
        return None
    made = decision or {"layout": document["request"].get("layout")}
    if kind_of(document).startswith("serving"):
        made = _of_roles(made)
    rows = tuple(
        (words(key), shown(key.rpartition(": ")[2], value))
        for key, value in made.items()
        if value is not None and not _is_rows(value)
    )
    return Table(("", ""), rows) if rows else None


def decision_rows(document: Mapping[str, Any]) -> list[Table]:
    """What a decision lists: who gets what, by task or by class."""
    made = document.get("decision") or {}
    found = [_rows_table(value, caption=words(key)) for key, value in made.items() if _is_rows(value)]
    return sorted(found, key=lambda one: len(one.rows))


def _of_roles(made: Mapping[str, Any]) -> dict[str, Any]:
    """A deployment with what each role has in rows of its own; how to train and recompute means nothing there."""
    found: dict[str, Any] = {}
    for key, value in made.items():
        if key == "layout" and isinstance(value, Mapping):
            found[key] = {name: degree for name, degree in value.items() if name in _DEGREES}
        elif isinstance(value, Mapping):
            found |= {f"{key}: {name}": part for name, part in _of_roles(value).items()}
        else:
            found[key] = value
    return found


def constraints_table(document: Mapping[str, Any]) -> Table | None:
    """Each limit, what is used and what is left; the tightest first."""
    found = document.get("constraints") or ()
    if not found:
        return None
    tightest = sorted(found, key=lambda one: one["slack"] / one["limit"] if one["limit"] else one["slack"])
    rows = tuple(
        (words(one["name"]), *(shown(one["name"], one[key]) for key in ("limit", "value", "slack")),
         fmt.percent(one["slack"] / one["limit"]) if one["limit"] else "–")
        for one in tightest
    )  # fmt: skip
    return Table(("limit on", "limit", "value", "slack", "slack of limit"), rows)


def alternatives_table(document: Mapping[str, Any]) -> Table | None:
    """Every alternative with all its scalars, numbered as in the figure."""
    found = document.get("alternatives") or ()
    return _rows_table(found, numbered=True) if found else None


def sensitivities_table(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """Each quantity and how the answer moves with it."""
    if not found:
        return None
    keys = list(found[0])
    rows = tuple(
        tuple(f"{one[key]:+.4f}" if key == "elasticity" else _sensed(key, one[key]) for key in keys) for one in found
    )
    return Table(tuple(words(key) for key in keys), rows)


def _sensed(key: str, value: Any) -> str:
    if key == "quantity":
        return quantity_words(value)
    return f"{value:.4g}" if key == "value" and isinstance(value, (int, float)) else shown(key, value)


def certificate_table(document: Mapping[str, Any]) -> tuple[Table, Table | None] | None:
    """How the plan was found and what that proves; and what each rule left out."""
    found = document.get("certificate")
    if not found:
        return None
    rows = tuple((words(key), shown(key, value)) for key, value in found.items() if not isinstance(value, Mapping))
    rules = [(rule, fmt.count(count)) for key, value in found.items() if isinstance(value, Mapping)
             for rule, count in value.items()]  # fmt: skip
    return Table(("", ""), rows), Table(("left out by", "candidates"), tuple(rules)) if rules else None


def term_rows(terms: Sequence[Mapping[str, Any]], depth: int = 0) -> Iterator[tuple[int, str, str, str, str]]:
    """The tree of terms, depth first: depth, name, exposed and busy seconds, what binds."""
    for term in terms:
        yield (
            depth,
            words(term["name"]),
            fmt.seconds(term["seconds"]),
            fmt.seconds(term["busy_seconds"]),
            term["bound_by"],
        )
        yield from term_rows(term.get("children", ()), depth + 1)


def leftover_tables(document: Mapping[str, Any]) -> list[Table]:
    """Everything else that the document says, so that nothing is hidden: scalars first, then each list of rows."""
    tables = []
    for label, part in {"": document, "prediction": document.get("prediction")}.items():
        if not isinstance(part, Mapping):
            continue
        rest = {key: value for key, value in part.items() if key not in _PLACED}
        plain = tuple((words(key), shown(key, value)) for key, value in rest.items()
                      if not _is_rows(value))  # fmt: skip
        if plain:
            tables.append(Table(("key", "value"), plain, caption=label or "document"))
        tables += [_rows_table(value, caption=words(key)) for key, value in rest.items() if _is_rows(value)]
    return tables


def _is_rows(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _rows_table(found: Sequence[Mapping[str, Any]], *, numbered: bool = False, caption: str = "") -> Table:
    keys = list(dict.fromkeys(key for one in found for key in one))
    rows = tuple(
        (*((str(number),) if numbered else ()), *(shown(key, one.get(key)) for key in keys))
        for number, one in enumerate(found[:_SHOWN_ROWS], 1)
    )
    more = f"{len(found) - _SHOWN_ROWS} more rows in the document" if len(found) > _SHOWN_ROWS else ""
    return Table((*(("",) if numbered else ()), *(words(key) for key in keys)), rows, caption, more)


def words(key: Any) -> str:
    """A key without the unit that its value is written with."""
    text = re.sub(r"_(?:usd|j)_per_", "_per_", str(key))
    text = text if text.endswith("per_s") else re.sub(r"_(?:s|j|w|usd|bytes|hz)$", "", text)
    return text.replace("_", " ").strip()
