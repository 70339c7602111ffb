"""`perfmodel plan experts` and `perfmodel bench experts`: their documents, mapping files and pages."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.cli.option import checked, parsed
from perfmodel.cli.options import PLAN_EXPERTS
from perfmodel.cli.output import emit, say, write_atomically
from perfmodel.cli.progress import progress
from perfmodel.cli.scenario import read_table
from perfmodel.errors import PlanError, SpecError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["bench_experts", "plan_experts", "validate_experts"]

DONE, NOT_FEASIBLE = 0, 1
_ARRAYS = ("load", "transitions", "previous")


def plan_experts(args: Namespace) -> int:
    """`perfmodel plan experts`: 0 with a plan, 1 where nothing is feasible."""
    import perfmodel as pm

    question = _question(args)
    plan = pm.plan_experts(**question, progress=progress("layers placed")).to_dict()
    for engine in ("sglang", "vllm"):
        file = getattr(args, f"{engine}_map", None)
        if file is not None and plan["decision"] is not None:
            from perfmodel.plan.experts.mapping import mapping_text

            write_atomically(
                file, mapping_text(engine, plan["decision"]["slot_expert"], plan["decision"]["slots_per_rank"])
            )
            say(f"wrote {file}")
    emit(plan, lambda console: _page(console, plan), as_json=args.json, file=args.output)
    return DONE if plan["feasible"] else NOT_FEASIBLE


def bench_experts(args: Namespace) -> int:
    """`perfmodel bench experts`: the table of reach."""
    from perfmodel.plan.experts import bench

    document = bench.bench_experts(progress("cases"))
    emit(document, lambda console: _bench_page(console, document), as_json=args.json, file=args.output)
    return DONE


def validate_experts(args: Namespace) -> int:
    """`perfmodel validate --experts`: 1 where a table is over its tolerance."""
    from perfmodel.validation.expert_scores import run_experts

    for option in ("source", "record", "because"):
        if getattr(args, option):
            raise PlanError(f"--{option}: goes without --experts")
    document = run_experts()
    emit(document, lambda console: _validation_page(console, document), as_json=args.json, file=args.output)
    return NOT_FEASIBLE if document["over_tolerance"] else DONE


def _validation_page(console: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli.render import plain_table

    console.print(Text("Uneven experts against published tables: median |law / published - 1|", "bold"))
    table = plain_table("table", "rows", "fixed", "median", "worst", "bias", "baseline", "limit", gap=1)
    for name, one in document["sources"].items():
        shown = (one[f"{key}_percent"] for key in ("median", "worst", "bias", "baseline_median", "tolerance"))
        table.add_row(name, str(one["scored"]), str(one["constants"]), *(f"{value:.1f} %" for value in shown))
    console.print(table)
    for name, one in document["sources"].items():
        console.print(Text(f"{name}: {one['note']}", "dim"))


def _question(args: Namespace) -> dict[str, Any]:
    """The keywords of the library: the file's, then the flags' over them."""
    names = {option.name: option for option in PLAN_EXPERTS}
    question: dict[str, Any] = {}
    folder = Path()
    if args.file is not None:
        table: Mapping[str, Any] = read_table(args.file)
        if "document" in table:
            table = _request(args.file, table)
        folder = Path() if args.file == "-" else Path(args.file).parent
        for key, value in table.items():
            if key not in names:
                raise SpecError(f"{args.file}: {unknown_name('key', key, names, shown=20)}")
            if value is None:
                continue
            typed = key in _ARRAYS and not isinstance(value, str)
            question[key] = value if typed else checked(names[key], value, f"{args.file}: {key}")
            if key in _ARRAYS and isinstance(value, str) and not value.startswith("generated:"):
                question[key] = str(folder / value)
    for option in PLAN_EXPERTS:
        if hasattr(args, option.name):
            given = getattr(args, option.name)
            question[option.name] = given if isinstance(given, bool) else parsed(option, given)
    for name in ("load", "ranks"):
        if name not in question:
            raise PlanError(f"--{name}: missing; give it as an option, or as the key {name} of a file (-f)")
    return _read(question)


def _request(label: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    request = document.get("request")
    if document["document"] != "perfmodel/experts-plan/1" or not isinstance(request, Mapping):
        raise SpecError(f"{label}: must be a perfmodel/experts-plan/1 document (got {document['document']!r})")
    return request


def _read(question: dict[str, Any]) -> dict[str, Any]:
    """Paths become arrays."""
    from perfmodel.specs.expert_load import load_expert_load

    if isinstance(question["load"], str):
        found = load_expert_load(question["load"])
        question = {"transitions": found.get("transitions")} | question | {"load": found["load"]}
    if isinstance(question.get("transitions"), str):
        path = question["transitions"]
        found = load_expert_load(path)
        if "transitions" not in found:
            raise SpecError(f"{path}: holds no array transitions")
        question["transitions"] = found["transitions"]
    if isinstance(question.get("previous"), str):
        table = read_table(question["previous"])
        decision = table.get("decision") or table
        key = "slot_expert" if "slot_expert" in decision else "physical_to_logical_map"
        if key not in decision:
            raise SpecError(f"{question['previous']}: holds neither a plan's slot_expert nor a physical_to_logical_map")
        question["previous"] = decision[key]
    return question


def _page(console: Console, plan: Mapping[str, Any]) -> None:
    """The page of a plan: the tail, the bound, the traffic, the worst layers, other ways."""
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import heading, plain_table

    asked, said, proof = plan["request"], plan["prediction"], plan["certificate"]
    layers, experts = len(asked["load"]), len(asked["load"][0])
    tail = said["mean_max_over_mean_load"]
    console.print(
        Text.assemble(
            (f"{layers} layers of {experts} experts on {asked['ranks']} ranks: ", "bold"),
            (f"fullest rank {tail:.4f} of the mean", "bold green"),
        )
    )
    rule = f"{asked['groups']} groups, each on one node" if asked["groups"] else "any expert on any rank"
    console.print(
        Text(
            f"{asked['slots']} slots, {plan['decision']['slots_per_rank']} a rank, {asked['nodes']} node(s), {rule}, "
            f"objective {asked['objective']}",
            "dim",
        )
    )
    table = plain_table("", "", left=(0,))
    table.add_row("objective", f"{proof['objective_value']:.4f}")
    bound = "none" if proof["bound"] is None else f"{proof['bound']:.4f}"
    table.add_row("no plan below", bound)
    gap = "-" if proof["gap"] is None else "proven optimal" if proof["optimal"] else f"{100 * proof['gap']:.2f} %"
    table.add_row("gap", gap)
    table.add_row("tokens that change rank", fmt.percent(said["cross_rank_fraction"]))
    table.add_row("tokens that change node", fmt.percent(said["cross_node_fraction"]))
    table.add_row("layer time over balanced, unplaced", f"{said['relative_layer_time']:.3f}")
    if plan["decision"]["moved_slots"] is not None:
        table.add_row("slots moved", f"{plan['decision']['moved_slots']} of {asked['slots'] * layers}")
        table.add_row("fullest rank as it is", f"{said['max_over_mean_load_today']:.4f}")
    console.print(table)
    console.print(Text(proof["method"], "dim"))
    if proof["stopped_by"]:
        console.print(
            Text(f"stopped by the {proof['stopped_by'].replace('_', ' ')}: not the best it could find", "red")
        )
    _layers(console, plan)
    if plan["alternatives"]:
        heading(console, "Other placements")
        others = plain_table("", "fullest/mean", "change rank", "change node", "moved")
        for one in plan["alternatives"]:
            moves = "-" if one["moved_slots"] is None else str(one["moved_slots"])
            others.add_row(
                one["name"],
                f"{one['mean_max_over_mean_load']:.4f}",
                fmt.percent(one["cross_rank_fraction"]),
                fmt.percent(one["cross_node_fraction"]),
                moves,
            )
        console.print(others)


def _layers(console: Console, plan: Mapping[str, Any], shown: int = 6) -> None:
    from perfmodel.cli.render import heading, plain_table

    said = plan["prediction"]
    tails = said["max_over_mean_load"]
    worst = sorted(range(len(tails)), key=lambda layer: -tails[layer])[:shown]
    heading(console, "Layers of the longest tail")
    table = plain_table("layer", "fullest/mean", "no plan below", "most replicas of")
    for layer in worst:
        replicas = plan["decision"]["replicas"][layer]
        most = max(range(len(replicas)), key=replicas.__getitem__)
        table.add_row(
            str(layer),
            f"{tails[layer]:.4f}",
            f"{said['max_over_mean_load_bound'][layer]:.4f}",
            f"expert {most}: {replicas[most]}",
        )
    console.print(table)


def _bench_page(console: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    from perfmodel.cli import format as fmt
    from perfmodel.cli.render import plain_table

    console.print(Text("Expert placement: fullest rank over the mean (mixtral: share of tokens that stay)", "bold"))
    table = plain_table(
        "input", "slots", "ranks", "nodes", "rule", "ours", "bound", "gap", "EPLB/ExFlow", "time", gap=1
    )
    for row in document["cases"]:
        gap = "optimal" if row["optimal"] else f"{100 * row['gap']:.2f} %"
        table.add_row(
            row["input"].removeprefix("v3_"),
            str(row["slots"]),
            str(row["ranks"]),
            str(row["nodes"]),
            "groups" if row["groups"] else "free",
            f"{row['value']:.4f}",
            f"{row['bound']:.4f}",
            gap,
            f"{row['reference']:.4f}",
            fmt.seconds(row["plan_s"]),
        )
    console.print(table)
    console.print(
        f"above EPLB: {document['above_eplb']}; median gap {100 * document['median_gap']:.2f} %, largest "
        f"{100 * document['largest_gap']:.2f} %, at two slots a rank {100 * document['largest_gap_two_slots']:.2f} %; "
        f"slowest {fmt.seconds(document['slowest_s'])}"
    )
