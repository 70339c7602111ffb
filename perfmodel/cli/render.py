"""Training estimates as pages that a person reads; everything is taken from the document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfmodel.cli import format as fmt

__all__ = [
    "LAYOUT_WORDS",
    "ROOMY",
    "Document",
    "breakdown",
    "cell",
    "estimate_page",
    "heading",
    "headline",
    "layout_table",
    "memory_page",
    "memory_table",
    "plain_table",
    "remarks",
    "subject_of",
]

Document = Mapping[str, Any]
_COLOURS = {"compute": "green", "memory": "magenta", "link": "yellow"}
_WAITING = "red"  # latency, host, dependency: nothing works
_SMALLEST_SHARE, _INVISIBLE_SHARE = 0.01, 0.0005
_DEEPEST, _BAR, ROOMY = 3, 20, 100
LAYOUT_WORDS = {
    "tp": "tp",
    "pp": "pp",
    "dp": "dp",
    "cp": "cp",
    "ep": "ep",
    "etp": "etp",
    "attention_dp": "attn dp",
    "vpp": "vpp",
    "micro_batch": "micro-batch",
    "zero_stage": "ZeRO",
    "dp_shard": "shard",
    "sequence_parallel": "seq. par.",
    "recompute": "recompute",
    "schedule": "schedule",
    "vocab_parallel": "vocabulary",
}
_PIECES = {
    "recompute_modules": "modules computed again",
    "recompute_layers": "layers of a stage computed again",
    "stage_layers": "layers by stage",
    "offload": "in host memory",
    "overlap": "overlap of communication",
    "cp_exchange": "context parallel ranks share by",
}
"""Parts of a layout that are too long for a column, or seldom given."""
_ALWAYS = ("tp", "pp", "dp", "micro_batch", "zero_stage", "recompute")
_OFF: dict[str, tuple[Any, ...]] = {
    "dp_shard": (None,),
    "sequence_parallel": (),
    "schedule": (),
    "vocab_parallel": ("none", None),
}


def estimate_page(console: Console, estimate: Document, names: Document) -> None:
    """The page of `estimate training`; `names` may give better names than the ids of `model` and `accelerator`."""
    headline(console, estimate["request"], estimate, names)
    layout_table(console, "Layout", estimate["request"]["layout"], estimate)
    breakdown(console, estimate)
    memory_table(console, estimate["memory_bytes"], None)
    remarks(console, estimate)


def memory_page(console: Console, estimate: Document, names: Document) -> None:
    """The page of `estimate memory`."""
    request, memory = estimate["request"], estimate["memory_bytes"]
    subject = subject_of(request, names, estimate["accelerators_used"])
    held = _of(memory["total"], memory["capacity"])
    console.print(Text.assemble((f"{subject}: ", "bold"), (held, "bold green" if estimate["fits"] else "bold red")))
    if not estimate["fits"]:
        console.print(Text(f"DOES NOT FIT: {fmt.bytes_(memory['total'] - memory['capacity'])} too much", "bold red"))
    console.print(Text(_question(request), "dim"))
    layout_table(console, "Layout", request["layout"], estimate)
    memory_table(console, memory, None)
    remarks(console, estimate)


def heading(console: Console, text: str, remark: str = "") -> None:
    """The title of a block, after an empty line."""
    console.print()
    console.print(Text.assemble((text, "bold cyan"), (f"  {remark}" if remark else "", "dim")))


def plain_table(*columns: str, left: Sequence[int] = (0,), gap: int = 2) -> Table:
    """A table without lines; the columns at `left` are text, the others numbers."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, gap, 0, 0), show_header=any(columns))
    for position, column in enumerate(columns):
        side: Any = "left" if position in left else "right"
        table.add_column(column, justify=side, no_wrap=position not in left, overflow="fold")
    return table


def headline(console: Console, request: Document, estimate: Document, names: Document) -> None:
    low, high = estimate["step_time_interval_s"]
    memory = estimate["memory_bytes"]
    console.print(
        Text.assemble(
            (f"{subject_of(request, names, estimate['accelerators_used'])}: ", "bold"),
            (f"{fmt.seconds(estimate['step_time_s'])} per step", "bold green"),
            f" ({fmt.seconds_interval(low, high)}), ",
            (f"{fmt.percent(estimate['mfu'])} MFU", "bold green"),
            f", {_of(memory['total'], memory['capacity'])}",
        )
    )
    if not estimate["fits"]:
        console.print(Text(f"DOES NOT FIT: {fmt.bytes_(memory['total'] - memory['capacity'])} too much", "bold red"))
    level = f"{100 * estimate.get('interval_level', 0.8):.0f} % interval"
    console.print(Text(f"{_question(request)}; {level} in brackets", "dim"))
    console.print(
        f"{fmt.count(estimate['tokens_per_s'])} tokens/s, "
        f"{fmt.flop_rate(estimate['model_flop_per_s_per_accelerator'])} per accelerator, "
        f"{fmt.energy(estimate['energy_j_per_step'])} and {fmt.usd(estimate['cost_usd_per_step'])} per step"
    )
    if "facility_w" in estimate:
        _power(console, request, estimate)
    if estimate.get("run"):
        _run(console, estimate["run"])


def _power(console: Console, request: Document, estimate: Document) -> None:
    console.print(
        f"{fmt.power(estimate['facility_w'])} ({estimate['accelerator_w']:,.0f} W an accelerator), "
        f"{estimate['energy_j_per_token']:.3g} J a token; a million tokens {fmt.usd(estimate['cost_usd_per_mtok'])}, "
        f"{estimate['carbon_kg_per_mtok']:.3g} kg CO2e ({_carbon_of(request)})"
    )


def _carbon_of(request: Document) -> str:
    if request.get("carbon_by_hour") is not None:
        return "mean hour"
    if request.get("carbon_kg_per_kwh") is not None:
        return f"{request['carbon_kg_per_kwh']:g} kg/kWh"
    region = request.get("region") or "world"
    return region if isinstance(region, str) else str(region.get("name", "custom"))


def _question(request: Document) -> str:
    """The batch, its documents, and the stack, on one line."""
    text = f"{fmt.count(request['global_batch'])} sequences of {fmt.count(request['seq_len'])} tokens"
    if request.get("mean_seq_len"):
        text += f" ({request['packing']} documents of {fmt.count(request['mean_seq_len'])})"
    text += f", {request['precision']}, {fmt.called(request.get('software'))}, {request.get('optimizer')}"
    trainable = request.get("trainable", "all")
    return text if trainable == "all" else f"{text}, {trainable}"


def subject_of(request: Document, names: Document, accelerators: int) -> str:
    model = names.get("model") or request["model"]
    accelerator = names.get("accelerator") or f"accelerators of {fmt.called(request['cluster'])}"
    of = "" if accelerators == request["accelerators"] else f" of {request['accelerators']:,}"
    return f"{model} on {accelerators:,}{of} {accelerator}"


def _run(console: Console, run: Document) -> None:
    console.print(
        Text.assemble(
            f"Whole run of {fmt.count(run['tokens'])} tokens: ",
            (fmt.seconds(run["run_days"] * 86400.0), "bold"),
            f" in {fmt.count(round(run['steps']), 4)} steps, ",
            (fmt.usd(run["cost_usd"]), "bold"),
            ", ",
            (fmt.energy(run["energy_kwh"] * 3.6e6), "bold"),
            f", {fmt.count(run['accelerator_hours'])} accelerator hours",
            f", {fmt.carbon(run['carbon_kg'])}" if "carbon_kg" in run else "",
        )
    )
    if "best_start_hour" in run:
        _start(console, run)


def _start(console: Console, run: Document) -> None:
    """Carbon by the hour in which the run starts: the best one, and what it saves."""
    best, asked = run["best_start_carbon_kg"], run["carbon_kg"]
    hours, minutes = divmod(round(run["best_start_hour"] * 60.0), 60)
    saved = fmt.percent(1.0 - best / asked) if asked else fmt.percent(0.0)
    console.print(
        f"carbon by hour: {fmt.carbon(best)} if it starts at {hours % 24}:{minutes:02d} ({saved} less), "
        f"{fmt.carbon(run['mean_hour_carbon_kg'])} at the mean intensity"
    )


def layout_table(console: Console, title: str, layout: Document, estimate: Document) -> None:
    heading(console, title)
    shown = [key for key in LAYOUT_WORDS if key in layout and (key in _ALWAYS or not _is_off(key, layout[key]))]
    gap = 2 if console.width >= ROOMY else 1
    table = plain_table(*(LAYOUT_WORDS[key] for key in shown), "micro-batches", left=(), gap=gap)
    table.add_row(*(cell(layout[key]) for key in shown), fmt.count(estimate["n_microbatches"]))
    console.print(table)
    pieces = [(word, layout.get(key)) for key, word in _PIECES.items()]
    text = "; ".join(f"{word}: {cell(value)}" for word, value in pieces if value not in (None, [], {}))
    if text:
        console.print(Text(text, "dim"))


def _is_off(key: str, value: Any) -> bool:
    return value in _OFF.get(key, (1, None))


def cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return _runs(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('activation_', '')} {number:g}" for key, number in value.items())
    return "" if value is None else str(value)


def _runs(items: Sequence[Any]) -> str:
    """A list with equal neighbours counted: `3, 2 x 4, 3`."""
    runs = [(item, len(list(same))) for item, same in groupby(items)]
    return ", ".join(str(item) if count == 1 else f"{count} x {item}" for item, count in runs)


def breakdown(console: Console, estimate: Document) -> None:
    heading(console, "Where the step goes", "exposed time; busy: what the resource works")
    step = estimate["step_time_s"]
    table = plain_table("", fmt.time_unit(step), "", "share", "bound by", "busy", left=(0, 2, 4))
    _rows(table, estimate["terms"], step, 0, console.options.ascii_only)
    lower, upper = estimate["step_time_lower_s"], estimate["step_time_upper_s"]
    table.add_row(Text("step", "bold"), Text(fmt.seconds_beside(step, step), "bold"))
    console.print(table)
    console.print(Text(f"if everything overlapped {fmt.seconds(lower)}, if nothing did {fmt.seconds(upper)}", "dim"))
    if estimate["experts"]:
        console.print(Text(fmt.uneven_experts(estimate["experts"], "the step")))


def _rows(table: Table, terms: Sequence[Document], step: float, depth: int, plain: bool) -> None:
    if depth:
        terms = [term for term in terms if term["seconds"] >= _INVISIBLE_SHARE * step]
    large = [term for term in terms if term["seconds"] >= _SMALLEST_SHARE * step]
    small = [term for term in terms if term["seconds"] < _SMALLEST_SHARE * step]
    # One small term is named; several are one line.
    if len(small) == 1:
        large, small = list(terms), []
    for term in large:
        _row(table, term, step, depth, plain)
        if depth + 1 < _DEEPEST:
            _rows(table, term.get("children", ()), step, depth + 1, plain)
    if small:
        names = f"{len(small)} smaller terms"
        seconds, busy = (sum(term[key] for term in small) for key in ("seconds", "busy_seconds"))
        _row(table, {"name": names, "seconds": seconds, "busy_seconds": busy, "bound_by": ""}, step, depth, plain)


def _row(table: Table, term: Document, step: float, depth: int, plain: bool) -> None:
    share = term["seconds"] / step if step else 0.0
    colour = _COLOURS.get(term["bound_by"], _WAITING) if term["bound_by"] else "default"
    # The bar of a part is thinner, so that the eye adds only the bars of one depth.
    mark = fmt.bar(share, _BAR, plain=plain) if depth == 0 else ("." if plain else "·") * round(share * _BAR)
    table.add_row(
        Text("  " * depth + str(term["name"]).replace("_", " "), "bold" if depth == 0 else ""),
        fmt.seconds_beside(term["seconds"], step),
        Text(mark, colour),
        fmt.percent(share),
        Text(term["bound_by"], colour),
        Text(fmt.seconds_beside(term["busy_seconds"], step) if term["busy_seconds"] else "", "dim"),
    )


def memory_table(console: Console, memory: Document, limit: Document | None) -> None:
    capacity, total = memory["capacity"], memory["total"]
    spare = capacity - total
    room = f"{fmt.bytes_(spare)} free" if spare >= 0 else f"{fmt.bytes_(-spare)} too much"
    heading(console, "Memory of the fullest accelerator", f"{_of(total, capacity)}, {room}")
    table = plain_table("", "bytes", "", "share", left=(0, 2))
    for name in (key for key in memory if key not in ("total", "capacity")):
        share = memory[name] / capacity
        bar = Text(fmt.bar(share, 2 * _BAR, plain=console.options.ascii_only), "magenta")
        table.add_row(name, fmt.bytes_(memory[name]), bar, fmt.percent(share))
    full = Text(fmt.bar(total / capacity, 2 * _BAR, plain=console.options.ascii_only), "red" if spare < 0 else "green")
    table.add_row(Text("total", "bold"), Text(fmt.bytes_(total), "bold"), full, fmt.percent(total / capacity))
    console.print(table)
    if limit is not None and limit["limit"] < capacity:
        margin = fmt.percent(1 - limit["limit"] / capacity)
        kept = f"the plan may use {fmt.bytes_(limit['limit'])} ({margin} kept free), {fmt.bytes_(limit['slack'])} left"
        console.print(Text(kept, "dim"))


def _of(total: float, capacity: float) -> str:
    number, unit = fmt.bytes_(capacity).split()
    used, used_unit = fmt.bytes_(total).split()
    return f"{used} of {number} {unit}" if used_unit == unit else f"{used} {used_unit} of {number} {unit}"


def remarks(console: Console, estimate: Document) -> None:
    warnings = estimate["warnings"]
    if warnings:
        heading(console, "Mind", "each of these widens the interval")
    for warning in warnings:
        value = warning["value"]
        shown = f"{value:.4g}" if isinstance(value, float) else value
        console.print(
            f"- {warning['formula']}: {warning['quantity']}: {shown} (valid: {warning['valid']})", markup=False
        )
    notes = [note for note in estimate.get("notes", ()) if note not in {warning["value"] for warning in warnings}]
    if notes:
        heading(console, "Notes")
    for note in notes:
        console.print(f"- {note}", markup=False)
