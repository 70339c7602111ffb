"""The commands and their options; nothing heavy is imported here.

Options stay text until the command runs: `option.parsed` reads them, so flags and files are refused alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from perfmodel.cli.arguments import add_command, add_json, add_option, add_output, add_scenario
from perfmodel.cli.options import (
    CALIBRATE,
    ESTIMATE_ATTENTION,
    ESTIMATE_COLLECTIVE,
    ESTIMATE_GEMM,
    ESTIMATE_MEMORY,
    ESTIMATE_SERVING,
    ESTIMATE_TRAINING,
    PLAN_CLOCKS,
    PLAN_EXPERTS,
    PLAN_POWER,
    PLAN_SERVING,
    PLAN_TEST_TIME,
    PLAN_TRAINING,
    PLAN_TRAINING_BUDGET,
)
from perfmodel.cli.pool_options import PLAN_POOL_CLOCKS, PLAN_POOLS, PLAN_ROWS
from perfmodel.cli.role_options import ESTIMATE_DISAGGREGATED, ESTIMATE_SPECULATION
from perfmodel.cli.words import BENCHES, EXPORT_TOOLS, IMPORT_TOOLS, LISTS, SCHEMAS, SERVER_ROLES

__all__ = ["COMMANDS"]

_COMMANDS = "perfmodel.cli.commands"
_CATALOGUE = "perfmodel.cli.catalogue"
_KERNELS = "perfmodel.cli.kernels"
_LAUNCH = "perfmodel.cli.launch"
_STUDY = "perfmodel.cli.study"


def _plan(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(metavar="WHAT", title="what")
    training = add_command(what, parser, "training", "the best parallel layout of a training run")
    training.set_defaults(run=f"{_COMMANDS}:plan_training")
    add_scenario(training, PLAN_TRAINING)
    serving = add_command(
        what, parser, "serving", "which engines, how many, cut how, for this traffic and these limits"
    )
    serving.set_defaults(run="perfmodel.cli.plan_serving:plan_serving")
    add_scenario(serving, PLAN_SERVING)
    experts = add_command(what, parser, "experts", "replicas and ranks of the experts of every layer")
    experts.set_defaults(run="perfmodel.cli.experts:plan_experts")
    add_scenario(experts, PLAN_EXPERTS)
    maps = experts.add_argument_group("mapping files")
    maps.add_argument("--sglang-map", metavar="FILE", help="write what SGLang's --init-expert-location reads")
    maps.add_argument("--vllm-map", metavar="FILE", help="write the expert map that vLLM's loaders of placements read")
    power = add_command(what, parser, "power", "how many servers a row can hold when clocks give way in time")
    power.set_defaults(run="perfmodel.cli.power:plan_power")
    add_scenario(power, PLAN_POWER)
    power.add_argument("--plot", metavar="FILE", help="draw the load duration curve with the thresholds there")
    for name, options, text in (
        ("clocks", PLAN_CLOCKS, "clocks by pipeline stage: what waits for the slowest stage runs slower"),
        ("pools", PLAN_POOLS, "which machines prompt and which answer, under one budget of watts or dollars"),
        ("pool-clocks", PLAN_POOL_CLOCKS, "engines, degrees and clocks of pools of requests, at least power"),
        ("rows", PLAN_ROWS, "which row each load stands in, within power and cooling"),
    ):
        capped = add_command(what, parser, name, text)
        capped.set_defaults(run=f"perfmodel.cli.pools:plan_{name.replace('-', '_')}")
        add_scenario(capped, options)
    _plan_test_time(add_command(what, parser, "test-time", "how many samples of which method each task gets"))
    lifetime = add_command(what, parser, "training-budget", "parameters, tokens and bits of a model for its whole life")
    lifetime.set_defaults(run="perfmodel.cli.test_time:plan_training_budget")
    group = lifetime.add_argument_group("question")
    for option in PLAN_TRAINING_BUDGET:
        add_option(group, option)
    add_output(lifetime)


def _plan_test_time(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run="perfmodel.cli.test_time:plan_test_time")
    group = parser.add_argument_group("question")
    group.add_argument(
        "-f", "--file", metavar="FILE", help="TOML or JSON with these keys, or an earlier plan; - is stdin"
    )
    group.add_argument(
        "--tasks",
        metavar="FILE",
        help="CSV: task, samples, correct (or success_rate, or alpha, beta); method, weight, count",
    )
    group.add_argument("--methods", metavar="FILE", help="CSV, TOML or JSON: method, tokens, usd_per_mtok_out, ...")
    for option in PLAN_TEST_TIME:
        add_option(group, option)
    add_output(parser)


def _estimate(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(metavar="WHAT", title="what")
    training = add_command(what, parser, "training", "time, memory, energy and cost of one training step")
    training.set_defaults(run=f"{_COMMANDS}:estimate_training")
    add_scenario(training, ESTIMATE_TRAINING)
    memory = add_command(what, parser, "memory", "bytes on the fullest accelerator at the peak of a training step")
    memory.set_defaults(run=f"{_COMMANDS}:estimate_memory")
    add_scenario(memory, ESTIMATE_MEMORY)
    serving = add_command(what, parser, "serving", "latency, rate, memory and cost of a deployment under a load")
    serving.set_defaults(run="perfmodel.cli.serving:estimate_serving")
    add_scenario(serving, ESTIMATE_SERVING)
    for name, options, text in (
        (
            "disaggregated",
            ESTIMATE_DISAGGREGATED,
            "latency, rates and cost of a pool that prefills and one that decodes",
        ),
        ("speculation", ESTIMATE_SPECULATION, "time per token when drafted tokens are verified at once"),
    ):
        part = add_command(what, parser, name, text)
        part.set_defaults(run=f"perfmodel.cli.roles:estimate_{name}")
        add_scenario(part, options)
    for name, options, text in (
        ("gemm", ESTIMATE_GEMM, "time of one matrix product, and its place under the roofline"),
        ("attention", ESTIMATE_ATTENTION, "time of attention of one layer, prefill or decode"),
        ("collective", ESTIMATE_COLLECTIVE, "time of one collective or message"),
    ):
        kernel = add_command(what, parser, name, text)
        kernel.set_defaults(run=f"{_KERNELS}:estimate_{name}")
        group = kernel.add_argument_group("kernel")
        for option in options:
            add_option(group, option)
        add_output(kernel)


def _export(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_LAUNCH}:export_plan")
    parser.add_argument("plan", metavar="PLAN", help="JSON of plan or estimate training|serving; - is standard input")
    _tool(parser, "--to", "to", EXPORT_TOOLS)
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead, whole or not at all")


def _import(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_LAUNCH}:import_launch")
    parser.add_argument(
        "launch_file", metavar="FILE", help="script, command line, TOML or JSON of the tool; - is standard input"
    )
    _tool(parser, "--from", "origin", IMPORT_TOOLS)
    parser.add_argument(
        "--role", metavar="ROLE", choices=SERVER_ROLES, help=f"server of a split deployment: {', '.join(SERVER_ROLES)}"
    )
    add_output(parser)


def _report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run="perfmodel.cli.report:report")
    parser.add_argument("plan", metavar="PLAN", help="JSON of a plan or an estimate; - is standard input")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE.html",
        required=True,
        help="write there, or to standard output (-)",
    )


def _plot(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run="perfmodel.cli.report:plot")
    parser.add_argument("plan", metavar="PLAN", help="JSON of a plan or an estimate; - is standard input")
    action: Any = parser.add_argument(
        "--figure", metavar="NAME", default="", help="left out with -o, the names that the result has are printed"
    )
    action.completer = _figure_names
    parser.add_argument("-o", "--output", metavar="FILE", help="*.svg, *.png or *.pdf")


def _tool(parser: argparse.ArgumentParser, flag: str, dest: str, names: tuple[str, ...]) -> None:
    parser.add_argument(flag, dest=dest, metavar="TOOL", choices=names, required=True, help=", ".join(names))
    action: Any = parser.add_argument(
        "--version", dest="version_of", metavar="V", help="version of the tool; the written file names it"
    )
    action.completer = _tool_versions


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run="perfmodel.cli.explain:explain")
    what = "its name, see perfmodel list formulas; or a result (JSON) or scenario (TOML), - is standard input"
    action: Any = parser.add_argument("id", metavar="FORMULA|FILE", help=what)
    action.completer = _formula_names
    asked = parser.add_argument_group("questions to a formula")
    asked.add_argument(
        "--at",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        help="numbers, plain in base units or with the unit: n_bytes=64MB link_byte_per_s=450GB/s",
    )
    asked.add_argument("-f", "--file", metavar="FILE", help="the numbers that this result or scenario puts into it")
    asked.add_argument("--elasticities", action="store_true", help="d ln value / d ln quantity; also of a whole result")
    asked.add_argument("--solve", metavar="NAME", help="which value of this quantity gives the result of --for")
    asked.add_argument("--for", dest="value", metavar="VALUE", help="with --solve: the result wanted")
    asked.add_argument("--between", metavar="LOW,HIGH", help="where to look (default: the validity range)")
    asked.add_argument("--over", metavar="NAME", help="where a maximum turns as this quantity varies")
    asked.add_argument("--crossover", metavar="FORMULA", help="with --over: where this other formula gives the same")
    asked.add_argument("--limit", metavar="NAME=END", help="what it becomes as a quantity goes to inf or 0")
    parser.add_argument("--term", metavar="NAME", help="of a result: the formulas behind a term, with their numbers")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--latex", action="store_true", help="print the equation as LaTeX and nothing else")
    add_json(forms)


def _solve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run="perfmodel.cli.solve:solve")
    asked = parser.add_argument_group("question")
    asked.add_argument(
        "--for",
        dest="quantity",
        metavar="NAME",
        required=True,
        help="link_byte_per_s, hbm_bytes, peak_flop_per_s, concurrency, global_batch, ...",
    )
    asked.add_argument(
        "--so-that",
        metavar="TARGET",
        required=True,
        help="step_time_s=5, bound_by=compute, decode_step.bound_by=compute, fits",
    )
    asked.add_argument("--between", metavar="LOW,HIGH", help="where to look (default: a thousandth to a thousandfold)")
    seen = {option.name: option for option in (*ESTIMATE_TRAINING, *ESTIMATE_SERVING)}
    add_scenario(parser, seen.values())


def _list(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_CATALOGUE}:list_shelf")
    parser.add_argument("kind", metavar="KIND", choices=LISTS, help=", ".join(LISTS))
    add_output(parser)


def _show(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_CATALOGUE}:show")
    action: Any = parser.add_argument("id", metavar="ID", help="model, accelerator, cluster, host, software or formula")
    action.completer = _every_id
    add_output(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_STUDY}:compare_results")
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="JSON of a result, or a scenario file, which is run first")
    add_output(parser)


def _cite(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_STUDY}:cite_result")
    parser.add_argument("result", metavar="DOC", help="JSON of a result")
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead, whole or not at all")


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_STUDY}:sweep_grid")
    parser.add_argument("grid", metavar="GRID", help="TOML or JSON: tables axes (keys and values) and scenario")
    how = parser.add_argument_group("how")
    how.add_argument("--workers", metavar="N", help="processes of this machine (default: its cores; 1: this process)")
    how.add_argument("--dask", metavar="ADDRESS", help="scheduler of a Dask cluster instead (extra dask)")
    how.add_argument("--resume", action="store_true", help="go on with the run that -o FILE was begun by")
    output = parser.add_argument_group("output")
    add_json(output)
    output.add_argument(
        "-o", "--output", metavar="FILE", help="*.csv, *.parquet (extra parquet) or *.json, whole or not at all"
    )


def _validate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_COMMANDS}:validate")
    parser.add_argument("--source", metavar="ID", help="this source alone; see perfmodel list published")
    parser.add_argument("--kernels", action="store_true", help="kernels and messages instead of whole steps")
    parser.add_argument("--serving", action="store_true", help="serving instead of training")
    parser.add_argument("--traffic", action="store_true", help="queueing against a replay of real traces")
    parser.add_argument("--power", action="store_true", help="watts, caps and rows instead of times")
    parser.add_argument("--experts", action="store_true", help="uneven experts instead of training")
    parser.add_argument("--record", action="store_true", help="write the residuals and tolerances that this run gives")
    parser.add_argument("--because", metavar="TEXT", help="with --record: the physics why a tolerance rises")
    add_output(parser)


def _calibrate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run="perfmodel.cli.calibrate:calibrate")
    group = parser.add_argument_group("this machine")
    group.add_argument("--device", metavar="NAME", help="auto, cpu or cuda (default: cuda where PyTorch finds a GPU)")
    group.add_argument("--quick", action="store_true", help="fewer sizes, less time")
    group.add_argument("--note", metavar="TEXT", help="one line for the description: a date, the state of the machine")
    group = parser.add_argument_group("table")
    group.add_argument(
        "--from-table",
        metavar="FILE",
        help="CSV, plain or .gz: m, n, k, or batch_size, isl or kv_len, num_heads, num_key_value_heads, head_dim, "
        "or op_name, num_gpus, bytes; and latency_us, latency_ms or seconds",
    )
    group.add_argument("--cluster", metavar="ID|FILE", help="with -o: write this cluster with the constants in it")
    for option in CALIBRATE:
        add_option(group, option)
    group.add_argument("--law", metavar="NAME", help="fit this law of scaling to the table; see --laws")
    group.add_argument("--laws", action="store_true", help="the laws that can be fitted, and the columns they need")
    group.add_argument("--shipped", action="store_true", help="where the shipped constants come from, and their errors")
    output = parser.add_argument_group("output")
    add_json(output)
    output.add_argument("-o", "--output", metavar="FILE", help="write the constants there as TOML, whole or not at all")


def _schema(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_COMMANDS}:schema")
    parser.add_argument("name", metavar="NAME", choices=SCHEMAS, help=", ".join(SCHEMAS))
    add_output(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_COMMANDS}:bench")
    parser.add_argument("name", metavar="WHAT", nargs="?", choices=BENCHES, default="training", help=", ".join(BENCHES))
    add_output(parser)


def _tool_versions(parsed_args: Any = None, **_: Any) -> Iterable[str]:
    from perfmodel.launch.tables import tools, versions

    chosen = getattr(parsed_args, "to", None) or getattr(parsed_args, "origin", None)
    return versions(chosen) if chosen in tools() else ()


def _formula_names(**_: Any) -> Iterable[str]:
    from perfmodel.formulas import all_formulas

    return all_formulas()


def _figure_names(**_: Any) -> Iterable[str]:
    from perfmodel.report import figures

    return figures.__all__


def _every_id(**_: Any) -> Iterable[str]:
    from perfmodel.specs.registry import ids

    shelves = (ids(kind) for kind in ("models", "accelerators", "clusters", "hosts", "software", "regions"))
    return [*(id for shelf in shelves for id in shelf), *_formula_names()]


COMMANDS = (
    ("plan", "find the best way to do it", _plan),
    ("estimate", "price one given way to do it", _estimate),
    ("export", "a plan as the launch file of another tool", _export),
    ("import", "the launch file of another tool as a scenario", _import),
    ("report", "a result as one self-contained page with figures", _report),
    ("plot", "one figure of a result", _plot),
    ("explain", "a formula: equation, units, validity, source, what it gives; or a result in words", _explain),
    ("solve", "which value of one quantity makes a prediction so", _solve),
    ("list", "what is on the shelf", _list),
    ("show", "one thing from the shelf, with the source of every number", _show),
    ("compare", "two results or scenarios, term by term", _compare),
    ("sweep", "a grid of scenarios as one table", _sweep),
    ("cite", "the sources of a result as BibTeX", _cite),
    ("validate", "compare with published numbers", _validate),
    (
        "calibrate",
        "kernel constants of this machine, of a table you measured, or how good the shipped are",
        _calibrate,
    ),
    ("schema", "the JSON schema of a document or a file", _schema),
    ("bench", "how fast perfmodel itself is", _bench),
)
"""Name, what it does in a few words, and the function that adds its options."""
