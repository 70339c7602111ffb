"""`perfmodel estimate serving` and `perfmodel validate --serving`: their documents and their pages."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.cli.commands import DONE, NOT_FEASIBLE
from perfmodel.cli.deployments import deployments_page
from perfmodel.cli.option import parsed
from perfmodel.cli.options import ESTIMATE_SERVING, LAYOUT, SLO
from perfmodel.cli.output import emit, say
from perfmodel.cli.scenario import gather
from perfmodel.errors import PlanError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["estimate_serving", "serving_page", "serving_validation_page", "validate_serving"]


def estimate_serving(args: Namespace) -> int:
    """`perfmodel estimate serving`: 0, also for a deployment that does not fit."""
    import perfmodel as pm

    given = {
        option.name: value if isinstance(value := getattr(args, option.name), bool) else parsed(option, value)
        for option in ESTIMATE_SERVING
        if hasattr(args, option.name)
    }
    scenario = gather(ESTIMATE_SERVING, given, args.file, "estimate serving")
    for note in scenario.notes:
        say(f"note: {note}")
    question = dict(scenario.values)
    layout = {option.name: question.pop(option.name) for option in LAYOUT if option.name in question}
    slo = {name: question.pop(name) for name in SLO if name in question}
    cluster = pm.load_cluster(question.pop("cluster"), accelerators=question.pop("accelerators", None))
    trace = question.pop("trace", None)
    workload = None if trace is None else pm.load_trace(trace)
    document = pm.estimate_serving(
        cluster=cluster, layout=layout, workload=workload, slo=slo or None, **question
    ).to_dict()  # fmt: skip
    emit(document, lambda console: serving_page(console, document), as_json=args.json, file=args.output)
    return DONE


def validate_serving(args: Namespace) -> int:
    """`perfmodel validate --serving`: 1 where a source is over its tolerance."""
    from perfmodel.validation.deployment_scores import run_deployments
    from perfmodel.validation.serving_scores import record_serving, run_serving

    if args.because and not args.record:
        raise PlanError("--because: goes with --record")
    if args.record and args.source:
        raise PlanError("--record: needs every source; leave out --source")
    report = run_serving(args.source)
    if args.record:
        record_serving(report, because=args.because)
        say("recorded serving residuals and tolerances")
        report = run_serving()
    document = report.to_dict()
    if args.source is None:
        document["deployments"] = run_deployments().to_dict()
    emit(document, lambda console: serving_validation_page(console, document), as_json=args.json, file=args.output)
    return NOT_FEASIBLE if document["over_tolerance"] else DONE


def serving_page(console: Console, document: Mapping[str, Any]) -> None:
    """The page of one estimate: latencies with their spread, rates, memory, and where an iteration goes."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import plain_table

    asked = document["request"]
    model, cluster, engine = (fmt.called(asked[key]) for key in ("model", "cluster", "software"))
    console.print(
        Text.assemble(
            (f"{model} on {document['accelerators_used']} of {cluster}: ", "bold"),
            (f"{document['output_tokens_per_s']:,.0f} output tokens/s", "bold green"),
            f", {document['output_tokens_per_s_per_accelerator']:,.0f} per accelerator",
        )
    )
    console.print(
        f"{_tokens(asked['prompt_tokens'])} + {_tokens(asked['output_tokens'])} tokens, {_load(asked)}, "
        f"{asked['batching']}, {asked['weights']} weights, {asked['kv_cache']} cache, {engine}"
    )
    table = plain_table("", "mean", "80 % interval of it", "p50", "p90", "p99")
    for name in ("ttft", "tpot"):
        spread = [fmt.seconds(document[f"{name}_p{percent}_s"]) for percent in (50, 90, 99)]
        interval = fmt.seconds_interval(*document[f"{name}_interval_s"])
        table.add_row(name.upper(), fmt.seconds(document[f"{name}_s"]), interval, *spread)
    table.add_row("request", fmt.seconds(document["request_latency_s"]))
    console.print()
    console.print(table)
    if document["experts"]:
        console.print(Text(fmt.uneven_experts(document["experts"], "a decode step")))
    _limits(console, document)
    _iterations(console, document)
    _capacity(console, document)


def _tokens(tokens: int | Mapping[str, Any]) -> str:
    if not isinstance(tokens, Mapping):
        return str(tokens)
    return f"{tokens['mean']:.0f} (p50 {tokens['p50']:.0f}, p99 {tokens['p99']:.0f})"


def _load(asked: Mapping[str, Any]) -> str:
    """What the load is, and how it comes."""
    cached = f", {100 * asked['prefix_hit']:.0f} % of prompts cached" if asked["prefix_hit"] else ""
    if asked["arrival_rate_per_s"] is None:
        count = f"{asked['concurrency']} at once" if asked["concurrency"] else "every place taken"
        return f"{count}, arrivals {asked['arrivals']}{cached}"
    bursts = "Poisson" if asked["burstiness"] == 1.0 else f"burstiness {asked['burstiness']:.3g}"
    return f"{asked['arrival_rate_per_s']:.3g} requests/s, {bursts}{cached}"


def _limits(console: Console, document: Mapping[str, Any]) -> None:
    """What the deployment can take, and how many requests keep the limits."""
    from rich.text import Text

    from perfmodel.cli import format as fmt

    asked = document["request"]
    if document["max_requests_per_s"] is not None:
        said = "; more come than it can take: the queue grows without end" if document["saturated"] else ""
        console.print(
            f"takes {document['max_requests_per_s']:.3g} requests/s at most; {document['in_flight']:.3g} in flight, "
            f"{document['batch']:.3g} answers in a replica's iteration{said}"
        )
    if document["slo_attainment"] is None:
        return
    slo = asked["slo"]
    limits = [f"{name.upper()[:-2]} {fmt.seconds(slo[name])}" for name in ("ttft_s", "tpot_s") if slo[name]]
    met = document["slo_met"]
    console.print(
        Text.assemble(
            (f"{fmt.percent(document['slo_attainment'])} of the requests", "bold green" if met else "bold red"),
            f" keep {' and '.join(limits) or 'no limit'} ({fmt.percent(slo['percentile'])} asked); "
            f"goodput {document['goodput_requests_per_s']:.3g} requests/s",
        )
    )


def _iterations(console: Console, document: Mapping[str, Any]) -> None:
    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    for term in document["terms"]:
        whole = term["seconds"]
        heading(console, f"One {term['name'].replace('_', ' ')}", fmt.seconds(whole))
        table = plain_table("", fmt.time_unit(whole), "share", "bound by", left=(0, 3))
        for part in term["children"]:
            share = fmt.percent(part["seconds"] / whole) if whole else ""
            table.add_row(
                part["name"].replace("_", " "), fmt.seconds_beside(part["seconds"], whole), share, part["bound_by"]
            )
        console.print(table)


def _capacity(console: Console, document: Mapping[str, Any]) -> None:
    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    memory = document["memory_bytes"]
    fits = "" if document["fits"] else "; does not fit"
    heading(console, "Memory of an accelerator", f"{fmt.bytes_(memory['capacity'])}{fits}")
    table = plain_table("", "")
    for name in ("weights", "kv_cache", "activations", "workspace", "total"):
        table.add_row(name.replace("_", " "), fmt.bytes_(memory[name]))
    console.print(table)
    console.print(
        f"{document['kv_blocks']} blocks of {document['block_tokens']} tokens: "
        f"{document['max_concurrency']} requests of this length at once; "
        f"{fmt.usd(document['cost_usd_per_mtok'])} and {document['energy_j_per_token'] / 3.6:.3g} kWh "
        "per million output tokens"
    )
    console.print(
        f"{fmt.power(document['facility_w'])} at the meter, {document['accelerator_w']:,.0f} W an accelerator "
        f"(prompts {document['prefill_w']:,.0f} W, answers {document['decode_w']:,.0f} W); "
        f"{document['carbon_kg_per_mtok']:.3g} kg CO2e per million output tokens"
    )
    if document["warnings"]:
        heading(console, "Mind")
    for one in document["warnings"]:
        console.print(f"- {one['formula']}: {one['quantity']}: {one['value']} (valid: {one['valid']})", markup=False)


def serving_validation_page(console: Console, report: Mapping[str, Any]) -> None:
    """The page of the report of `run_serving`."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    console.print(Text("Serving against published rows", "bold"))
    remark = "mean |predicted / measured - 1| on rows that fix no number; (rows that do); sheet: peaks alone; "
    console.print(Text(f"{remark}const.: that times one factor fitted on the same rows", "dim"))
    table = plain_table("source", "rows", "error", "(cal.)", "bias", "sheet", "const.", "80 %", "limit", gap=1)
    for id, one in report["sources"].items():
        used, limit = one["calibrated_mape"], one["tolerance_percent"]
        table.add_row(
            id,
            str(one["scored"]),
            Text(fmt.percent(one["mape"]), "bold red" if one["over_tolerance"] else "bold"),
            "-" if used is None else f"({fmt.percent(used)})",
            fmt.percent(one["bias"], signed=True),
            fmt.percent(one["data_sheet_mape"]),
            fmt.percent(one["constant_mape"]),
            fmt.percent(one["coverage"]),
            "-" if limit is None else f"{limit:g} %",
        )
    console.print(table)
    if report["choices"]:
        heading(console, "Choosing the configuration", "time of the choice over that of the fastest, minus 1")
        table = plain_table("campaign", "questions", "regret", "worst", "at random", "most tp")
        for id, one in report["choices"].items():
            shares = (one[name] for name in ("regret", "worst_regret", "random_regret", "most_tp_regret"))
            table.add_row(id, str(one["questions"]), *(fmt.percent(share) for share in shares))
        console.print(table)
    refused = [(id, text) for id, one in report["sources"].items() for text in one["refused"]]
    if refused:
        heading(console, "Refused")
    for id, text in refused:
        console.print(f"- {id}: {text}", markup=False)
    if "deployments" in report:
        deployments_page(console, report["deployments"])
