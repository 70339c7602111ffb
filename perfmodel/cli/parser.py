"""The commands and their options as an argparse tree; nothing heavy is imported here.

Options stay text until the command runs: `options.parsed` reads them, so flags and files are refused alike.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from perfmodel._version import __version__
from perfmodel.cli.options import (
    CALIBRATE,
    ESTIMATE_ATTENTION,
    ESTIMATE_COLLECTIVE,
    ESTIMATE_GEMM,
    ESTIMATE_MEMORY,
    ESTIMATE_SERVING,
    ESTIMATE_TRAINING,
    LAYOUT,
    PLAN_EXPERTS,
    PLAN_POWER,
    PLAN_SERVING,
    PLAN_TEST_TIME,
    PLAN_TRAINING,
    PLAN_TRAINING_BUDGET,
    Option,
)
from perfmodel.errors import PlanError, unknown_name

__all__ = ["EXPORT_TOOLS", "IMPORT_TOOLS", "LISTS", "SCHEMAS", "SERVER_ROLES", "build_parser", "parse"]

LISTS = ("models", "hardware", "software", "formulas", "published", "systems")
SCHEMAS = (
    "training-estimate",
    "training-plan",
    "power-plan",
    "experts-plan",
    "serving-estimate",
    "serving-plan",
    "test-time-plan",
    "training-budget-plan",
    "solution",
    "explanation",
    "elasticities",
    "serving-elasticities",
    "law-fit",
    "memory-estimate",
    "kernel-estimate",
    "comparison",
    "scenario",
    "accelerator",
    "cluster",
    "host",
    "model",
    "software",
)
# The names of perfmodel.launch, written again: importing it would cost more than the whole of `perfmodel --help`.
EXPORT_TOOLS = (
    "vllm",
    "sglang",
    "tensorrt-llm",
    "megatron",
    "megatron-bridge",
    "torchtitan",
    "deepspeed",
    "slurm",
    "kubernetes",
)
IMPORT_TOOLS = ("megatron", "deepspeed", "torchtitan", "vllm", "sglang")
SERVER_ROLES = ("serve", "prefill", "decode")
_METAVARS = {
    "whole": "N",
    "number": "X",
    "spec": "ID",
    "text": "NAME",
    "tokens": "N",
    "texts": "NAMES",
    "wholes": "N,N",
    "shares": "NAME=X",
}
_COMMANDS = "perfmodel.cli.commands"
_CATALOGUE = "perfmodel.cli.catalogue"
_KERNELS = "perfmodel.cli.kernels"
_LAUNCH = "perfmodel.cli.launch"
_STUDY = "perfmodel.cli.study"
BENCHES = ("training", "serving", "experts", "test-time", "kernels", "sweep")
_EPILOG = """\
examples:
  perfmodel plan training --model llama-3.1-405b --cluster dgx-h100 --accelerators 16384 \\
      --global-batch 2048 --seq-len 8192 --precision bf16 --tokens 15.6e12
  perfmodel plan training -f scenario.toml --json -o plan.json
  perfmodel estimate training -f plan.json --micro-batch 2
  perfmodel export plan.json --to megatron -o train.sh
  perfmodel report plan.json -o plan.html
  perfmodel plot plan.json --figure roofline -o roofline.svg
  perfmodel explain ring_all_reduce_time
  perfmodel list models

exit codes: 0 done, 1 nothing feasible or a validation over its tolerance, 2 bad input, 3 something to install,
70 a defect of perfmodel, 130 interrupted

tab completion (bash, zsh): eval "$(register-python-argcomplete perfmodel)"
"""


class _Parser(argparse.ArgumentParser):
    """argparse that raises one-line errors with the nearest match instead of printing its usage."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        # "--tokens -1e12" and "--tp -inf" hold a value, not an option.
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf$|nan$)", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (-[^:/]*/)?", "", message)
        raise PlanError(re.sub(r"^the following arguments are required: (.*)", rf"{self._said()}: missing \1", message))

    def _said(self) -> str:
        return self.prog.removeprefix("perfmodel ")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):
            prefix = self.prog.removeprefix("perfmodel").strip()
            names = [f"{prefix} {name}".strip() for name in action.choices]
            raise PlanError(unknown_name("command", f"{prefix} {value}".strip(), names, shown=20))
        raise PlanError(f"{self._said()}: {unknown_name(str(action.metavar).lower(), value, action.choices)}")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="perfmodel",
        description="How should this model be trained on this hardware, how long, how much, how sure, and why.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"perfmodel {__version__}")
    _debug(parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, text, fill in (
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
    ):
        fill(_command(commands, parser, name, text))
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The namespace of a command line; raises `PlanError` for what no command knows."""
    namespace, extra = parser.parse_known_args(argv)
    if extra:
        at: argparse.ArgumentParser = getattr(namespace, "parser", parser)
        raise PlanError(_unknown_argument(at, extra))
    return namespace


def _unknown_argument(parser: argparse.ArgumentParser, extra: list[str]) -> str:
    word = next((word for word in extra if word.startswith("-") and word != "-"), None)
    said = parser.prog.removeprefix("perfmodel").strip()
    if word is None:
        return f"{said or 'perfmodel'}: unexpected argument {extra[0]!r}"
    word = word.split("=", 1)[0]
    if said == "plan training" and word.replace("--no-", "--", 1) in {option.flag for option in LAYOUT}:
        return f"unknown option {word!r}: plan training chooses the layout itself; estimate training prices a given one"
    near = get_close_matches(word, parser._option_string_actions, n=1, cutoff=0.5)
    hint = f"; nearest: {near[0]!r}" if near else ""
    return f"unknown option {word!r}{hint}; see {parser.prog} --help"


def _command(commands: Any, above: argparse.ArgumentParser, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.prog = f"{above.prog} {name}"
    parser.set_defaults(parser=parser)
    _debug(parser)
    return parser


def _debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )


def _json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def _output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    _json(group)
    group.add_argument(
        "-o", "--output", metavar="FILE", help="write there instead (*.json: as JSON), whole or not at all"
    )


def _scenario(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    scenario = parser.add_argument_group("scenario")
    scenario.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        help="TOML or JSON with the same keys, or an earlier result; - is standard input",
    )
    layout = parser.add_argument_group("layout")
    for option in options:
        if option.kind != "rows":  # rows of numbers belong in a file
            _add(layout if option in LAYOUT else scenario, option)
    _output(parser)


def _add(group: Any, option: Option) -> None:
    default = "" if option.default is None else f" (default: {option.default})"
    if option.kind == "switch":
        group.add_argument(
            option.flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=option.help
        )
        return
    choices = f": {', '.join(option.choices)}" if option.choices else ""
    action = group.add_argument(
        option.flag,
        metavar=_METAVARS[option.kind],
        default=argparse.SUPPRESS,
        help=f"{option.help}{choices}{default}",
    )
    action.completer = _completer(option)


def _completer(option: Option) -> Callable[..., Iterable[str]]:
    def complete(prefix: str = "", **_: Any) -> Iterable[str]:
        if option.kind == "texts":  # after a comma comes another name
            before, comma, _last = prefix.rpartition(",")
            return [f"{before}{comma}{name}" for name in option.choices]
        if option.kind == "shares":
            return [f"{name}=" for name in option.choices]
        if not option.complete:
            return option.choices
        if option.complete == "traces":
            from perfmodel.specs.trace import trace_ids

            return trace_ids()
        from perfmodel.specs.registry import ids

        return ids(option.complete)

    return complete


def _plan(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(metavar="WHAT", title="what")
    training = _command(what, parser, "training", "the best parallel layout of a training run")
    training.set_defaults(run=f"{_COMMANDS}:plan_training")
    _scenario(training, PLAN_TRAINING)
    serving = _command(what, parser, "serving", "which engines, how many, cut how, for this traffic and these limits")
    serving.set_defaults(run="perfmodel.cli.plan_serving:plan_serving")
    _scenario(serving, PLAN_SERVING)
    experts = _command(what, parser, "experts", "replicas and ranks of the experts of every layer")
    experts.set_defaults(run="perfmodel.cli.experts:plan_experts")
    _scenario(experts, PLAN_EXPERTS)
    maps = experts.add_argument_group("mapping files")
    maps.add_argument("--sglang-map", metavar="FILE", help="write what SGLang's --init-expert-location reads")
    maps.add_argument("--vllm-map", metavar="FILE", help="write the expert map that vLLM's loaders of placements read")
    power = _command(what, parser, "power", "how many servers a row can hold when clocks give way in time")
    power.set_defaults(run="perfmodel.cli.power:plan_power")
    _scenario(power, PLAN_POWER)
    power.add_argument("--plot", metavar="FILE", help="draw the load duration curve with the thresholds there")
    _plan_test_time(_command(what, parser, "test-time", "how many samples of which method each task gets"))
    lifetime = _command(what, parser, "training-budget", "parameters, tokens and bits of a model for its whole life")
    lifetime.set_defaults(run="perfmodel.cli.test_time:plan_training_budget")
    group = lifetime.add_argument_group("question")
    for option in PLAN_TRAINING_BUDGET:
        _add(group, option)
    _output(lifetime)


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
        _add(group, option)
    _output(parser)


def _estimate(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(metavar="WHAT", title="what")
    training = _command(what, parser, "training", "time, memory, energy and cost of one training step")
    training.set_defaults(run=f"{_COMMANDS}:estimate_training")
    _scenario(training, ESTIMATE_TRAINING)
    memory = _command(what, parser, "memory", "bytes on the fullest accelerator at the peak of a training step")
    memory.set_defaults(run=f"{_COMMANDS}:estimate_memory")
    _scenario(memory, ESTIMATE_MEMORY)
    serving = _command(what, parser, "serving", "latency, rate, memory and cost of a deployment under a load")
    serving.set_defaults(run="perfmodel.cli.serving:estimate_serving")
    _scenario(serving, ESTIMATE_SERVING)
    for name, options, text in (
        ("gemm", ESTIMATE_GEMM, "time of one matrix product, and its place under the roofline"),
        ("attention", ESTIMATE_ATTENTION, "time of attention of one layer, prefill or decode"),
        ("collective", ESTIMATE_COLLECTIVE, "time of one collective or message"),
    ):
        kernel = _command(what, parser, name, text)
        kernel.set_defaults(run=f"{_KERNELS}:estimate_{name}")
        group = kernel.add_argument_group("kernel")
        for option in options:
            _add(group, option)
        _output(kernel)


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
    _output(parser)


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
    _json(forms)


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
    _scenario(parser, seen.values())


def _list(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_CATALOGUE}:list_shelf")
    parser.add_argument("kind", metavar="KIND", choices=LISTS, help=", ".join(LISTS))
    _output(parser)


def _show(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_CATALOGUE}:show")
    action: Any = parser.add_argument("id", metavar="ID", help="model, accelerator, cluster, host, software or formula")
    action.completer = _every_id
    _output(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_STUDY}:compare_results")
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="JSON of a result, or a scenario file, which is run first")
    _output(parser)


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
    _json(output)
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
    _output(parser)


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
        _add(group, option)
    group.add_argument("--law", metavar="NAME", help="fit this law of scaling to the table; see --laws")
    group.add_argument("--laws", action="store_true", help="the laws that can be fitted, and the columns they need")
    group.add_argument("--shipped", action="store_true", help="where the shipped constants come from, and their errors")
    output = parser.add_argument_group("output")
    _json(output)
    output.add_argument("-o", "--output", metavar="FILE", help="write the constants there as TOML, whole or not at all")


def _schema(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_COMMANDS}:schema")
    parser.add_argument("name", metavar="NAME", choices=SCHEMAS, help=", ".join(SCHEMAS))
    _output(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=f"{_COMMANDS}:bench")
    parser.add_argument("name", metavar="WHAT", nargs="?", choices=BENCHES, default="training", help=", ".join(BENCHES))
    _output(parser)


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
