"""The commands that compute: each takes parsed arguments, calls the library, writes one result, returns a code."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from perfmodel.cli.option import Option, parsed
from perfmodel.cli.options import ESTIMATE_MEMORY, ESTIMATE_TRAINING, LAYOUT, PLAN_TRAINING, json_schema
from perfmodel.cli.output import emit, say
from perfmodel.cli.scenario import gather
from perfmodel.errors import PlanError

if TYPE_CHECKING:
    from rich.console import Console

    from perfmodel.predict.records import TrainingEstimate

__all__ = ["bench", "estimate_memory", "estimate_training", "plan_training", "schema", "validate"]

DONE, NOT_FEASIBLE = 0, 1
_SCHEMAS = {
    "training-estimate": ("perfmodel.predict.records", "TrainingEstimate", "serialization"),
    "training-plan": ("perfmodel.plan.records", "TrainingPlan", "serialization"),
    "power-plan": ("perfmodel.plan.power_records", "PowerPlan", "serialization"),
    "clocks-plan": ("perfmodel.plan.clocks", "ClocksPlan", "serialization"),
    "pools-plan": ("perfmodel.plan.pools", "PoolsPlan", "serialization"),
    "pool-clocks-plan": ("perfmodel.plan.pool_clocks", "PoolClocksPlan", "serialization"),
    "rows-plan": ("perfmodel.plan.rows", "RowsPlan", "serialization"),
    "serving-plan": ("perfmodel.plan.serving.records", "ServingPlan", "serialization"),
    "experts-plan": ("perfmodel.plan.experts.records", "ExpertPlan", "serialization"),
    "serving-estimate": ("perfmodel.predict.serving.records", "ServingEstimate", "serialization"),
    "test-time-plan": ("perfmodel.plan.test_time_records", "TestTimePlan", "serialization"),
    "training-budget-plan": ("perfmodel.plan.training_budget", "TrainingBudgetPlan", "serialization"),
    "solution": ("perfmodel.study.solve", "Solution", "serialization"),
    "explanation": ("perfmodel.study.words", "DocumentInWords", "serialization"),
    "elasticities": ("perfmodel.predict.elasticities", "StepElasticities", "serialization"),
    "serving-elasticities": ("perfmodel.study.slopes", "ServingElasticities", "serialization"),
    "law-fit": ("perfmodel.calibrate.laws", "LawFit", "serialization"),
    "memory-estimate": ("perfmodel.cli.memory", "MemoryEstimate", "serialization"),
    "kernel-estimate": ("perfmodel.predict.kernel_documents", "KernelEstimate", "serialization"),
    "comparison": ("perfmodel.study.compare", "Comparison", "serialization"),
    "accelerator": ("perfmodel.specs.accelerator", "Accelerator", "validation"),
    "cluster": ("perfmodel.specs.cluster", "Cluster", "validation"),
    "host": ("perfmodel.specs.host", "Host", "validation"),
    "model": ("perfmodel.specs.architecture", "Architecture", "validation"),
    "region": ("perfmodel.specs.region", "Region", "validation"),
    "software": ("perfmodel.specs.software", "Software", "validation"),
}
_BENCHES = {
    "training": "perfmodel.plan.bench",
    "serving": "perfmodel.plan.serving.bench",
    "test-time": "perfmodel.plan.test_time_bench",
    "kernels": "perfmodel.predict.bench",
    "sweep": "perfmodel.study.bench",
}


def plan_training(args: Namespace) -> int:
    """`perfmodel plan training`: 0 with a plan, 1 where nothing is feasible (the document is printed all the same)."""
    import perfmodel as pm

    question, names = _question(args, PLAN_TRAINING, "plan training")
    plan = pm.plan_training(**question).to_dict()

    def page(console: Console) -> None:
        from perfmodel.cli.render_plan import plan_page

        plan_page(console, plan, names)

    _emit(args, plan, page)
    return DONE if plan["feasible"] else NOT_FEASIBLE


def estimate_training(args: Namespace) -> int:
    """`perfmodel estimate training`: 0, also for an estimate that does not fit."""
    estimate, names = _estimated(args, ESTIMATE_TRAINING, "estimate training")
    document = estimate.to_dict()

    def page(console: Console) -> None:
        from perfmodel.cli.render import estimate_page

        estimate_page(console, document, names)

    _emit(args, document, page)
    return DONE


def estimate_memory(args: Namespace) -> int:
    """`perfmodel estimate memory`: 0, also for what does not fit."""
    from perfmodel.cli.memory import memory_estimate

    estimate, names = _estimated(args, ESTIMATE_MEMORY, "estimate memory")
    document = memory_estimate(estimate).to_dict()

    def page(console: Console) -> None:
        from perfmodel.cli.render import memory_page

        memory_page(console, document, names)

    _emit(args, document, page)
    return DONE


def _estimated(args: Namespace, options: tuple[Option, ...], command: str) -> tuple[TrainingEstimate, dict[str, str]]:
    """The estimate of a step, and names of its model and accelerator for people."""
    import perfmodel as pm

    question, names = _question(args, options, command)
    layout = {option.name: question.pop(option.name) for option in LAYOUT if option.name in question}
    return pm.estimate_training(layout=layout, **question), names


def validate(args: Namespace) -> int:
    """`perfmodel validate`: 1 where a source is over its tolerance."""
    from perfmodel import validation

    asked = [name for name in ("kernels", "serving", "traffic", "power", "experts") if getattr(args, name)]
    if len(asked) > 1:
        raise PlanError(f"{', '.join('--' + name for name in asked)}: give one of them")
    if args.traffic:
        from perfmodel.cli.traffic import validate_traffic

        return validate_traffic(args)
    if args.power:
        from perfmodel.cli.power import validate_power

        return validate_power(args)
    if args.experts:
        from perfmodel.cli.experts import validate_experts

        return validate_experts(args)
    if args.serving:
        from perfmodel.cli.serving import validate_serving

        return validate_serving(args)
    if args.kernels:
        return _validate_kernels(args)
    if args.because and not args.record:
        raise PlanError("--because: goes with --record")
    if args.record and args.source:
        raise PlanError("--record: needs every source; leave out --source")
    report = validation.run(args.source)
    if args.record:
        validation.record(report, because=args.because)
        say("recorded residuals and tolerances")
        report = validation.run()  # intervals follow the residuals
    document = report.to_dict()

    def page(console: Console) -> None:
        from perfmodel.cli.render_validation import validation_page

        validation_page(console, document)

    _emit(args, document, page)
    return NOT_FEASIBLE if document["over_tolerance"] else DONE


def _validate_kernels(args: Namespace) -> int:
    """`perfmodel validate --kernels`: held-out errors of the kernel tables."""
    from perfmodel.validation.kernel_scores import run_kernels

    for option in ("source", "record", "because"):
        if getattr(args, option):
            raise PlanError(f"--{option}: goes without --kernels")
    document = run_kernels().to_dict()

    def page(console: Console) -> None:
        from perfmodel.cli.render_kernels import kernel_validation_page

        kernel_validation_page(console, document)

    _emit(args, document, page)
    return DONE


def schema(args: Namespace) -> int:
    """`perfmodel schema NAME`: JSON in any case."""
    if args.name == "scenario":
        document = json_schema()
    else:
        module, name, mode = _SCHEMAS[args.name]
        document = getattr(import_module(module), name).model_json_schema(mode=mode)
    args.json = True
    _emit(args, document, lambda console: None)
    return DONE


def bench(args: Namespace) -> int:
    """`perfmodel bench`: how fast pricing, planning and sweeping are, or how far expert placement reaches."""
    if args.name == "experts":
        from perfmodel.cli.experts import bench_experts

        return bench_experts(args)
    measure: Callable[[], Mapping[str, Any]] = getattr(
        import_module(_BENCHES[args.name]), f"bench_{args.name.replace('-', '_')}"
    )
    document = dict(measure())

    def page(console: Console) -> None:
        from perfmodel.cli import format as fmt
        from perfmodel.cli.render import plain_table

        table = plain_table("", "")
        for key, value in document.items():
            if isinstance(value, (int, float)):
                table.add_row(key.replace("_", " "), fmt.quantity(key, value))
        console.print(table)

    _emit(args, document, page)
    return DONE


def _question(args: Namespace, options: tuple[Option, ...], command: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The keyword arguments of the library call, model and cluster loaded, and their names for people."""
    import perfmodel as pm

    given = {option.name: _parsed(option, args) for option in options if hasattr(args, option.name)}
    scenario = gather(options, given, args.file, command)
    for note in scenario.notes:
        say(f"note: {note}")
    question = dict(scenario.values)
    model = pm.load_model(question["model"])
    cluster = pm.load_cluster(question["cluster"], accelerators=question.pop("accelerators", None))
    names = {
        "model": model.name or model.id,
        "accelerator": _short(cluster.accelerator.name) or cluster.accelerator.id,
    }
    return question | {"model": model, "cluster": cluster}, names


def _short(name: str) -> str:
    """An accelerator's name without its maker and its memory, which stands elsewhere on the page."""
    return re.sub(r"^(NVIDIA|AMD|Google|Intel) | \d+ ?Gi?B$", "", name)


def _parsed(option: Option, args: Namespace) -> Any:
    value = getattr(args, option.name)
    return value if isinstance(value, bool) else parsed(option, value)


def _emit(args: Namespace, document: Any, page: Callable[[Console], None]) -> None:
    emit(document, page, as_json=args.json, file=args.output)
