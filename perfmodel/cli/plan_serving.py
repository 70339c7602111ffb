"""`perfmodel plan serving`: the question from flags and file, the page with the plan and its launch commands."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.cli.option import checked, parsed
from perfmodel.cli.options import EXPERT_KEYS, PLAN_SERVING, SLO
from perfmodel.cli.output import emit, say
from perfmodel.cli.scenario import beside, read_table
from perfmodel.errors import PerfModelError, PlanError, SpecError, unknown_name
from perfmodel.specs.rivals import replaced

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["plan_serving"]

DONE, NOT_FEASIBLE = 0, 1
_TABLES = ("workload", "slo")
_BESIDE = (*EXPERT_KEYS, "region", "carbon_by_hour")
"""Keys whose paths in a file are relative to it."""
_WORKLOAD = ("prompt_tokens", "output_tokens", "arrival_rate_per_s", "burstiness", "prefix_hit")
_ENGINES = {"vllm-2025": "vllm", "sglang-2025": "sglang", "tensorrt-llm-2025": "tensorrt-llm"}


def plan_serving(args: Namespace) -> int:
    """`perfmodel plan serving`: 0 with a plan, 1 where nothing keeps the limits."""
    import perfmodel as pm

    question = _question(args)
    workload = _workload(question)
    slo = question.pop("slo", {}) | {name: question.pop(name) for name in SLO if name in question}
    document = pm.plan_serving(workload=workload, slo=slo, **question).to_dict()
    emit(document, lambda console: _page(console, document), as_json=args.json, file=args.output)
    return DONE if document["feasible"] else NOT_FEASIBLE


def _question(args: Namespace) -> dict[str, Any]:
    """The keywords of the library: the file's, then the flags' over them."""
    names = {option.name: option for option in PLAN_SERVING}
    question: dict[str, Any] = {}
    if args.file is not None:
        folder = None if args.file == "-" else Path(args.file).parent
        for key, value in _asked(args.file).items():
            if key not in names and key not in _TABLES:
                raise SpecError(f"{args.file}: {unknown_name('key', key, [*names, *_TABLES], shown=30)}")
            if value is None:
                continue
            if key in _TABLES:
                question[key] = value
                continue
            if names[key].kind == "texts" and isinstance(value, str):
                value = [value]
            found = checked(names[key], value, f"{args.file}: {key}")
            question[key] = beside(folder, found, names[key]) if key in _BESIDE else found
    given = {name: parsed(option, getattr(args, name)) for name, option in names.items() if hasattr(args, name)}
    question = replaced(question, given)
    for name in ("model", "cluster"):
        if name not in question:
            raise PlanError(f"--{name}: missing; give it as an option, or as the key {name} of a file (-f)")
    return question


def _asked(file: str) -> Mapping[str, Any]:
    """The table of a file, of an earlier plan what it was asked."""
    table: Mapping[str, Any] = read_table(file)
    if "document" not in table:
        return table
    if table["document"] != "perfmodel/serving-plan/1" or not isinstance(table.get("request"), Mapping):
        raise SpecError(f"{file}: document: must be a serving plan with its request (got {table['document']!r})")
    asked: Mapping[str, Any] = table["request"]
    return asked


def _workload(question: dict[str, Any]) -> Any:
    """The workload of a trace, a table, or keys; keys stand over what a trace or a table says."""
    import perfmodel as pm

    trace, table = question.pop("trace", None), question.pop("workload", None)
    own = {name: question.pop(name) for name in _WORKLOAD if name in question}
    if trace is not None:
        return pm.load_trace(trace).with_(**own)
    if table is not None:
        return pm.Workload(**table).with_(**own)
    for name in ("prompt_tokens", "output_tokens"):
        if name not in own:
            raise PlanError(f"--{name.replace('_', '-')}: missing; give it, or a trace that has lengths (--trace)")
    return pm.Workload(**own)


def _page(console: Console, plan: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import plain_table

    if not plan["feasible"]:
        console.print(Text("No deployment keeps the limits.", "bold red"))
        for reason in plan["infeasible_because"]:
            console.print(Text(f"  {reason}"))
        return
    decision = plan["decision"]
    console.print(
        Text.assemble(
            (f"{decision['mode']}: {fmt.many(decision['replicas'], 'replica')} on "
             f"{fmt.many(decision['accelerators_used'], 'accelerator')}, ", "bold"),
            (f"{decision['usd_per_hour']:.2f} USD an hour", "bold green"),
            f", {fmt.power(decision['facility_w'])} at the meter",
        )
    )  # fmt: skip
    for name in ("serve", "prefill", "decode"):
        if name in decision:
            console.print(Text(f"  {name}: {_role(decision[name])}"))
    _latencies(console, plan)
    if plan["prediction"].get("experts"):
        console.print(Text(f"  {fmt.uneven_experts(plan['prediction']['experts'])}"))
    table = plain_table("limit", "asked", "found", "slack")
    for one in plan["constraints"]:
        table.add_row(one["name"], *(fmt.quantity(one["name"], one[key]) for key in ("limit", "value", "slack")))
    console.print()
    console.print(table)
    _growth(console, plan)
    if plan["alternatives"]:
        table = plain_table("others", "n", "USD/h", "power", "limits kept", "TTFT", "TPOT")
        for one in plan["alternatives"]:
            kept = "" if one["slo_attainment"] is None else fmt.percent(one["slo_attainment"])
            price = f"{one['usd_per_hour']:.2f}" + (" tie" if one["tied"] else "")
            latencies = (fmt.seconds(one[key]) for key in ("ttft_s", "tpot_s"))
            watts = fmt.power(one["facility_w"])
            table.add_row(one["engine"], str(one["replicas"]), price, watts, kept, *latencies)
        console.print()
        console.print(table)
    _commands(console, plan)


def _role(role: Mapping[str, Any]) -> str:
    layout = role["layout"]
    cut = ", ".join(f"{key} {layout[key]}" for key in ("tp", "pp", "ep", "attention_dp") if layout[key] > 1)
    return (
        f"{role['replicas']} x {role['accelerators']} of {role['cluster']} ({cut or 'one accelerator'}), "
        f"{role['weights']} weights, {role['kv_cache']} cache, at most {role['max_batch']} answers at once, "
        f"{role['kv_blocks']:,} blocks of {role['block_tokens']}"
    )


def _latencies(console: Console, plan: Mapping[str, Any]) -> None:
    from perfmodel.cli import format as fmt

    found = plan["prediction"]
    said = [f"TTFT {fmt.seconds(found['ttft_s'])}", f"TPOT {fmt.seconds(found['tpot_s'])}"]
    if "ttft_p90_s" in found:
        said[0] += f" (p90 {fmt.seconds(found['ttft_p90_s'])})"
    rate = f"{found['requests_per_s']:.3g} requests/s, {found['output_tokens_per_s']:,.0f} output tokens/s"
    console.print(f"  {', '.join(said)}; {rate}, {found['cost_usd_per_mtok']:.2f} USD a million output tokens")
    console.print(
        f"  {found['energy_j_per_token']:.3g} J an output token, {found['carbon_kg_per_mtok']:.3g} kg CO2e a million"
    )


def _growth(console: Console, plan: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt

    for one in plan["growth"]:
        if one["traffic_factor"] > 1.0:
            said = f"at {one['traffic_factor']:g} times the rate {fmt.percent(one['slo_attainment'])} keep the limits"
            console.print(Text(said, "" if one["slo_met"] else "yellow"))
    if plan["growth"]:
        console.print(f"the queue has no end beyond {plan['growth'][0]['diverges_at_per_s']:.3g} requests/s")
    if plan["headroom"] is False:
        console.print(Text("no headroom: a fifth more requests breaks the limits", "bold yellow"))
    console.print(f"longest context that fits: {plan['max_fitting_context']:,} tokens")
    if plan["hourly"]:
        counts = ", ".join(str(one["replicas"]) for one in plan["hourly"])
        longest = max(one["start_before_s"] for one in plan["hourly"])
        console.print(f"replicas by the hour: {counts} (start them {longest:.0f} s before)")
    if plan["day"]:
        day = plan["day"]
        console.print(
            f"a day: {day['energy_kwh']:,.0f} kWh, {fmt.carbon(day['carbon_kg'])} hour by hour "
            f"({fmt.carbon(day['mean_hour_carbon_kg'])} at the mean intensity)"
        )


def _commands(console: Console, plan: Mapping[str, Any]) -> None:
    """The launch file of the engine that the plan is for, or why there is none."""
    from rich.text import Text

    from perfmodel.launch import export_plan

    software = plan["request"]["software"]
    tool = _ENGINES.get(software if isinstance(software, str) else software["id"], "vllm")
    try:
        text = export_plan(plan, tool).text
    except PerfModelError as error:
        say(f"note: no launch file for {tool}: {error}")
        return
    console.print()
    console.print(Text(text.rstrip(), "dim"))
