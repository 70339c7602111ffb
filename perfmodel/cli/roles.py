"""`perfmodel estimate disaggregated` and `estimate speculation`: their questions and their pages."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfmodel.cli.commands import DONE
from perfmodel.cli.output import emit
from perfmodel.cli.question import question_of
from perfmodel.cli.role_options import DEGREES, ESTIMATE_DISAGGREGATED, ESTIMATE_SPECULATION

if TYPE_CHECKING:
    from rich.console import Console

    from perfmodel.cli.render import Document

__all__ = ["estimate_disaggregated", "estimate_speculation"]


def estimate_disaggregated(args: Namespace) -> int:
    """`perfmodel estimate disaggregated`: 0, also for pools that do not fit."""
    import perfmodel as pm

    question = question_of(args, ESTIMATE_DISAGGREGATED, "perfmodel/disaggregated-estimate/1")
    roles = {name: _role(question.pop(name)) for name in ("prefill", "decode")}
    document = pm.estimate_disaggregated(**question, **roles).to_dict()
    emit(document, lambda console: _disaggregated_page(console, document), as_json=args.json, file=args.output)
    return DONE


def estimate_speculation(args: Namespace) -> int:
    """`perfmodel estimate speculation`: 0."""
    import perfmodel as pm

    question = question_of(args, ESTIMATE_SPECULATION, "perfmodel/speculation-estimate/1")
    cluster = pm.load_cluster(question.pop("cluster"), accelerators=question.pop("accelerators", None))
    layout = question.pop("layout", {}) | {name: question.pop(name) for name in DEGREES if name in question}
    document = pm.estimate_speculation(cluster=cluster, layout=layout, **question).to_dict()
    emit(document, lambda console: _speculation_page(console, document), as_json=args.json, file=args.output)
    return DONE


def _role(given: Mapping[str, Any]) -> dict[str, Any]:
    """A role as the library takes it: degrees stand in its layout."""
    words = {"true": True, "false": False}
    role: dict[str, Any] = {
        key: words.get(value, value) if isinstance(value, str) else value for key, value in given.items()
    }
    degrees = {key: role.pop(key) for key in DEGREES if key in role}
    layout = role.pop("layout", None) or {}
    return {key: value for key, value in role.items() if value is not None} | {"layout": layout | degrees}


def _disaggregated_page(console: Console, document: Document) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table, remarks

    asked = document["request"]
    console.print(
        Text.assemble(
            (f"{fmt.called(asked['model'])} on {document['accelerators_used']}: ", "bold"),
            (f"{document['output_tokens_per_s']:,.0f} output tokens/s", "bold green"),
            f", {document['output_tokens_per_s_per_accelerator']:,.0f} per accelerator",
        )
    )
    load = f"{document['requests_per_s']:.3g} of {document['max_requests_per_s']:.3g} requests/s that they take"
    console.print(
        f"{asked['prompt_tokens']:g} + {asked['output_tokens']:g} tokens, {load}, {asked['transfer']} transfer"
    )
    if not document["fits"]:
        console.print(Text("DOES NOT FIT in the memory of a role", "bold red"))
    elif document["saturated"]:
        console.print(Text("more come than it can take: the queue grows without end", "bold red"))
    parts = (("queue", "queue_s"), ("prefill", "prefill_s"), ("transfer seen", "transfer_exposed_s"))
    ttft = ", ".join(f"{name} {fmt.seconds(document[key])}" for name, key in parts)
    console.print(f"TTFT {fmt.seconds(document['ttft_s'])} (90 %: {fmt.seconds(document['ttft_p90_s'])}): {ttft}")
    console.print(f"TPOT {fmt.seconds(document['tpot_s'])}, request {fmt.seconds(document['request_latency_s'])}")
    cache, rate = fmt.bytes_(document["kv_bytes_per_request"]), fmt.bytes_(document["transfer_link_byte_per_s"])
    console.print(f"{cache} of cache a request at {rate}/s, {fmt.seconds(document['transfer_s'])} in all")
    heading(console, "Pools", f"{document['bottleneck']} is the scarcer; {_matched(document)}")
    table = plain_table(
        "", "on", "replicas", "accelerators", "batch", "iteration", "takes", "busy", "weights", left=(0, 1)
    )
    for name in ("prefill", "decode"):
        role = document[name]
        table.add_row(
            name,
            fmt.called(asked[name]["cluster"]),
            f"{role['replicas']}",
            f"{role['accelerators']}",
            f"{role['batch']:,.4g}",
            fmt.seconds(role["iteration_s"]),
            f"{role['requests_per_s']:.3g}/s",
            fmt.percent(role["utilisation"]),
            f"{fmt.bytes_(role['weights_bytes'])} of {fmt.bytes_(role['capacity_bytes'])}",
        )
    console.print(table)
    console.print(
        f"{fmt.power(document['facility_w'])}, {document['energy_j_per_token']:.3g} J a token, "
        f"{fmt.usd(document['usd_per_hour'])} an hour, {fmt.usd(document['cost_usd_per_mtok'])} a million output tokens"
    )
    remarks(console, {"warnings": (), "notes": document["notes"]})


def _matched(document: Document) -> str:
    from perfmodel.cli import format as fmt

    return f"matched where {fmt.percent(document['matched_prefill_share'])} of the accelerators prefill"


def _speculation_page(console: Console, document: Document) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import remarks

    asked, faster = document["request"], document["speedup"] > 1
    draft = "its own module" if asked["draft"] == "mtp" else fmt.called(asked["draft"])
    console.print(
        Text.assemble(
            (f"{fmt.called(asked['model'])}, {draft} drafts {asked['draft_tokens']}: ", "bold"),
            (f"{fmt.seconds(document['tpot_s'])} per token", "bold green" if faster else "bold red"),
            f", {document['speedup']:.2f} times as fast as without ({fmt.seconds(document['plain_tpot_s'])})",
        )
    )
    console.print(
        f"batch {asked['batch']}, {asked['kv_len']} tokens in the cache, acceptance {asked['acceptance']:g}: "
        f"{document['tokens_per_round']:.3g} tokens a round of {fmt.seconds(document['round_s'])}"
    )
    console.print(
        f"draft token {fmt.seconds(document['draft_s'])} ({fmt.percent(document['draft_cost_ratio'])} of a step), "
        f"verification {fmt.seconds(document['verify_s'])} ({document['verify_cost_ratio']:.2f} steps); "
        f"{document['output_tokens_per_s']:,.0f} output tokens/s; the draft's weights hold "
        f"{fmt.bytes_(document['draft_weights_bytes'])}"
    )
    remarks(console, {"warnings": (), "notes": document["notes"]})
