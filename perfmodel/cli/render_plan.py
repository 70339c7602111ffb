"""The page of a training plan: the layout, what else was close, what would help, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from perfmodel.cli import format as fmt
from perfmodel.cli.render import (
    LAYOUT_WORDS,
    ROOMY,
    Document,
    breakdown,
    cell,
    heading,
    headline,
    layout_table,
    memory_table,
    plain_table,
    remarks,
    subject_of,
)

__all__ = ["plan_page"]

_SHORT = {"micro_batch": "mb", "sequence_parallel": "sp"}
_DEGREES = ("tp", "pp", "dp", "micro_batch")


def plan_page(console: Console, plan: Document, names: Document) -> None:
    """The page of `plan training`."""
    request, prediction = plan["request"], plan["prediction"]
    if prediction is None:
        _nothing_fits(console, plan, names)
        return
    headline(console, request, prediction, names)
    layout_table(console, f"Best layout for {request.get('objective', 'time')}", plan["decision"]["layout"], prediction)
    breakdown(console, prediction)
    limits = {constraint["name"]: constraint for constraint in plan["constraints"]}
    memory_table(console, prediction["memory_bytes"], limits.get("memory_bytes"))
    _alternatives(console, plan)
    _layerwise(console, plan.get("layerwise"))
    _sensitivities(console, plan["sensitivities"], prediction["step_time_s"])
    _certificate(console, plan["certificate"])
    remarks(console, prediction)


def _alternatives(console: Console, plan: Document) -> None:
    prediction, others = plan["prediction"], plan["alternatives"]
    if not others:
        heading(console, "Alternatives", "none: no other layout is as fast, as lean or as cheap")
        return
    ties = sum(bool(other["tied"]) for other in others)
    remark = f"= tied with the best within the error of the model ({ties})" if ties else "none within the model's error"
    heading(console, "Alternatives on the frontier", remark)
    best = prediction | plan["decision"] | {"memory_bytes": prediction["memory_bytes"]["total"], "tied": True}
    rows = [best, *others]
    keys = [key for key in LAYOUT_WORDS if key in _DEGREES or (key != "schedule" and _differs(key, rows))]
    fewer = len({row["accelerators_used"] for row in rows}) > 1
    heads = [_SHORT.get(key, LAYOUT_WORDS[key]) for key in keys]
    unit = fmt.time_unit(best["step_time_s"])
    gap = 2 if console.width >= ROOMY else 1
    table = plain_table(
        "", *heads, f"step {unit}", "80 %", "MFU", "memory", "USD/step", *(["used"] if fewer else []), gap=gap
    )
    for row in rows:
        ends = (fmt.seconds_beside(end, best["step_time_s"], 3) for end in row["step_time_interval_s"])
        cells = [cell(row["layout"].get(key)) for key in keys]
        cells += [fmt.seconds_beside(row["step_time_s"], best["step_time_s"], 3), "-".join(ends)]
        cells += [fmt.percent(row["mfu"]), fmt.bytes_(row["memory_bytes"]), fmt.usd(row["cost_usd_per_step"])]
        cells += [f"{row['accelerators_used']:,}"] if fewer else []
        mark = "best" if row is best else "=" if row["tied"] else ""
        table.add_row(mark, *cells, style="bold" if row is best else "")
    console.print(table)


def _layerwise(console: Console, found: Document | None) -> None:
    """What choosing layers and recomputation stage by stage would gain; older documents do not know."""
    if found is None or found["layout"] is None:
        return
    layout = found["layout"]
    gain = fmt.percent(-found["step_change"])
    heading(console, "Stage by stage", f"{gain} faster, where a framework can be told so")
    degrees = (key for key in LAYOUT_WORDS if key in _DEGREES or (key in ("cp", "ep") and layout[key] > 1))
    mesh = ", ".join(f"{LAYOUT_WORDS[key]} {cell(layout[key])}" for key in degrees)
    took = f"{fmt.seconds(found['step_time_s'])} per step, {fmt.bytes_(found['memory_bytes'])}"
    console.print(f"{took}: {mesh}; layers by stage: {cell(layout['stage_layers'])}", markup=False)
    again = layout["recompute_layers"]
    console.print(f"recomputed of them: {cell(again) if again else 'none'}", markup=False)


def _differs(key: str, rows: Sequence[Document]) -> bool:
    return any(row["layout"].get(key) != rows[0]["layout"].get(key) for row in rows)


def _sensitivities(console: Console, found: Sequence[Document], step: float) -> None:
    shares = [(entry, entry["if_doubled_step_time_s"] / step - 1.0) for entry in found]
    telling = [(entry, share) for entry, share in shares if abs(share) >= 0.005]
    if not telling:
        return
    heading(console, "What would help most", "the step if one quantity doubled, all else as it is")
    table = plain_table("twice the", "step", "change", "1 % more gives")
    for entry, share in telling:
        table.add_row(
            _hardware_words(entry["quantity"]),
            fmt.seconds(entry["if_doubled_step_time_s"]),
            Text(fmt.percent(share, signed=True), "green" if share < 0 else "red"),
            f"{entry['elasticity']:+.2f} %",
        )
    console.print(table)


def _hardware_words(quantity: str) -> str:
    key, _, of = quantity.partition(".")
    words = key.replace("_byte_per_s", " bandwidth").replace("_flop_per_s", " FLOP/s").replace("_s", "")
    return f"{of} {words}".strip().replace("_", " ").replace("hbm", "HBM")


def _certificate(console: Console, certificate: Document) -> None:
    pruned = {rule: n for rule, n in certificate["pruned"].items() if n}
    heading(console, "How sure that nothing better was missed")
    proof = "optimal within the space" if certificate["optimal"] else "not proven optimal"
    if certificate.get("gap"):
        proof += f", gap {fmt.percent(certificate['gap'])}"
    if certificate["stopped_by"]:
        proof += f", stopped by the {certificate['stopped_by'].replace('_', ' ')}"
    console.print(
        f"{certificate['candidates']:,} candidates, {certificate['priced']:,} priced: {certificate['method']}; {proof}"
    )
    table = plain_table("pruned", "because", left=(1,))
    for rule, n in sorted(pruned.items(), key=lambda item: -item[1]):
        table.add_row(f"{n:,}", rule, style="dim")
    if pruned:
        console.print(table)


def _nothing_fits(console: Console, plan: Document, names: Document) -> None:
    subject = subject_of(plan["request"], names, plan["request"]["accelerators"])
    console.print(Text.assemble(("No feasible layout", "bold red"), (f" for {subject}", "bold")))
    for reason in plan["infeasible_because"]:
        console.print(f"- {reason}", markup=False)
    for constraint in plan["constraints"]:
        value, limit = (fmt.quantity(constraint["name"], constraint[part]) for part in ("value", "limit"))
        console.print(Text(f"{constraint['name']}: {value} needed at least, {limit} allowed", "dim"))
    _certificate(console, plan["certificate"])
