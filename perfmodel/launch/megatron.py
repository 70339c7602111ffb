"""Megatron-LM: a command line under torchrun from a training run, and a scenario from such a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfmodel.errors import PlanError, SpecError
from perfmodel.launch.megatron_model import model_flags, model_from_flags
from perfmodel.launch.pipeline import parse_layout_string
from perfmodel.launch.plan import TrainingRun
from perfmodel.launch.shell import Command
from perfmodel.launch.tables import Table
from perfmodel.launch.training_flags import (
    CP_EXCHANGE,
    OPTIMIZERS,
    core_flags,
    precision_word,
    refuse_unless,
    sharding_strategy,
)

__all__ = ["megatron_environment", "megatron_flags", "megatron_scenario"]

_PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16": {"--bf16": True},
    "fp16": {"--fp16": True},
    "fp8": {"--bf16": True, "--fp8-format": "hybrid"},
    "mxfp8": {"--bf16": True, "--fp8-format": "e4m3", "--fp8-recipe": "mxfp8"},
    "nvfp4": {"--bf16": True, "--fp4-format": "e2m1"},
}
_STAGES = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}


def megatron_flags(plan: TrainingRun, table: Table) -> dict[str, Any]:
    """The flags behind `pretrain_gpt.py`, in the order in which people read them; raises `PlanError`."""
    layout, asked = plan.layout, plan.scenario
    refuse_unless(
        table,
        plan,
        {"schedule": ("1f1b", "interleaved"), "optimizer": OPTIMIZERS, "overlap": (None, False)}
        | {"attention_dp": (1,)},
    )
    _check_as_megatron_does(table, plan)
    flags = {f"--{name.replace('_', '-')}": value for name, value in core_flags(plan).items()}
    if layout.vpp > 1 and "--pipeline-model-parallel-layout" not in flags:  # which says it too
        flags["--num-virtual-stages-per-pipeline-rank"] = layout.vpp
    if offloaded := dict(layout.offload):
        flags |= _offload(table, plan, offloaded)
    flags |= {
        "--micro-batch-size": layout.micro_batch,
        "--global-batch-size": asked["global_batch"],
        "--seq-length": asked["seq_len"],
        **precision_word(table, _PRECISIONS, asked.get("precision", "bf16")),
        "--optimizer": OPTIMIZERS[asked.get("optimizer", "adam-mixed")],
        **_sharding(plan),
        **_overlap(plan),
        **model_flags(plan.model, asked["seq_len"], layout.tp),
    }
    if plan.model.experts is not None:
        flags["--moe-token-dispatcher-type"] = "alltoall"
        flags["--moe-grouped-gemm"] = asked.get("precision") != "fp16"
    return {name: table.emitted(name, value) for name, value in flags.items()}


def megatron_environment(plan: TrainingRun) -> list[str]:
    """What stands before the command: tensor and context parallelism want one queue to the device, sharding more."""
    layout = plan.layout
    one_queue = (layout.tp > 1 or layout.cp > 1) and not sharding_strategy(layout)
    return ["env", "CUDA_DEVICE_MAX_CONNECTIONS=1"] if one_queue else []


def _check_as_megatron_does(table: Table, plan: TrainingRun) -> None:
    """Raise `PlanError` for what Megatron's own checks of its arguments refuse."""
    layout, asked = plan.layout, plan.scenario
    if layout.cp > 1 and asked["seq_len"] % (2 * layout.cp):
        raise PlanError(
            f"{table.label}: seq_len: must be a multiple of 2 * cp = {2 * layout.cp} (got {asked['seq_len']})"
        )
    if layout.ep > 1 and asked.get("precision") == "fp16":
        raise PlanError(f"{table.label}: precision: fp16 goes without expert parallelism (got ep {layout.ep})")
    if layout.overlap is False and layout.vpp > 1 and layout.pp < 3:
        raise PlanError(f"{table.label}: overlap: false with chunks needs pp of 3 or more (got {layout.pp})")


def _offload(table: Table, plan: TrainingRun, offloaded: dict[str, float]) -> dict[str, Any]:
    layers = offloaded.pop("activation_layers", 0.0)
    refuse_unless(table, plan, {"offload": ({}, {"activation_layers": layers})})
    if layers:
        refuse_unless(table, plan, {"pp": (1,)})  # Megatron-Core offloads without a pipeline only
    return {"--cpu-offloading-num-layers": int(layers)} if layers else {}


def _sharding(plan: TrainingRun) -> dict[str, Any]:
    layout = plan.layout
    if not layout.zero_stage:
        return {}
    flags: dict[str, Any] = {"--use-distributed-optimizer": True}
    if strategy := sharding_strategy(layout):
        flags |= {"--use-megatron-fsdp": True, "--data-parallel-sharding-strategy": strategy}
        flags["--ckpt-format"] = "fsdp_dtensor"  # the only one that it takes
    if layout.dp_shard is not None:
        flags["--num-distributed-optimizer-instances"] = layout.dp // layout.dp_shard
    return flags


def _overlap(plan: TrainingRun) -> dict[str, Any]:
    if plan.layout.overlap is False:
        return {"--no-overlap-p2p-communication": True}
    gather = {"--overlap-param-gather": True} if plan.layout.zero_stage else {}
    return {"--overlap-grad-reduce": True} | gather


def megatron_scenario(read: Command, said: Mapping[str, Any], label: str) -> tuple[dict[str, Any], list[str]]:
    """The scenario of a Megatron command line, with remarks on what it leaves open; `said` holds our comments.

    Raises `SpecError` for flags that contradict each other.
    """
    got, notes = read.values, []
    layout: dict[str, Any] = {
        "tp": got.get("--tensor-model-parallel-size", 1),
        "pp": got.get("--pipeline-model-parallel-size", 1),
        "cp": got.get("--context-parallel-size", 1),
        "ep": got.get("--expert-model-parallel-size", 1),
        "micro_batch": got.get("--micro-batch-size", 1),
        "sequence_parallel": "--sequence-parallel" in got,
        "overlap": None if "--overlap-grad-reduce" in got else False,
    }
    experts = "--num-experts" in got or "--expert-tensor-parallel-size" in got
    layout["etp"] = got.get("--expert-tensor-parallel-size", layout["tp"] if experts else 1)
    if "--cp-comm-type" in got:
        words = {word: key for key, word in CP_EXCHANGE.items()}
        layout["cp_exchange"] = words.get(got["--cp-comm-type"])
    model, model_notes = model_from_flags(got, said, label)
    notes += model_notes
    layout |= _chunks(got, model, said, layout["pp"], label)
    layout |= _recompute(got, layout["vpp"], label)
    layout["dp"], world_notes = _data_parallel(got, layout, label)
    notes += world_notes
    layout |= _zero(got, layout)
    if "--cpu-offloading-num-layers" in got:
        layout["offload"] = {"activation_layers": float(got["--cpu-offloading-num-layers"])}
    scenario: dict[str, Any] = {} if model is None else {"model": model}
    for key, flag in (("global_batch", "--global-batch-size"), ("seq_len", "--seq-length")):
        if flag in got:
            scenario[key] = got[flag]
    scenario |= {"precision": _precision(got), "optimizer": _optimizer(got, notes)}
    return scenario | {"layout": {key: value for key, value in layout.items() if value is not None}}, notes


def _chunks(got: Mapping[str, Any], model: Any, said: Mapping[str, Any], pp: int, label: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    n_layers = got.get("--num-layers")
    vpp = got.get("--num-virtual-stages-per-pipeline-rank", 1)
    if (each := got.get("--num-layers-per-virtual-pipeline-stage")) is not None:
        ends = ("--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split")
        n_layers = None if n_layers is None else n_layers + sum(flag in got for flag in ends)
        if n_layers is None or n_layers % (pp * each):
            raise SpecError(
                f"{label}: --num-layers-per-virtual-pipeline-stage: {each} layers on {pp} stages must divide "
                f"--num-layers (got {n_layers})"
            )
        vpp = n_layers // (pp * each)
    if "--pipeline-model-parallel-layout" in got:
        chunks = parse_layout_string(
            got["--pipeline-model-parallel-layout"], f"{label}: --pipeline-model-parallel-layout"
        )
        if len(chunks) % pp:
            raise SpecError(f"{label}: --pipeline-model-parallel-layout: {len(chunks)} chunks on {pp} stages")
        vpp = len(chunks) // pp
        found["stage_layers"] = chunks if vpp == 1 else None
    elif n_layers is not None and pp > 1:
        first, last = got.get("--decoder-first-pipeline-num-layers"), got.get("--decoder-last-pipeline-num-layers")
        if first is not None or last is not None:
            found["stage_layers"] = _ends(n_layers, pp, first, last, label)
    return found | {"vpp": vpp, "schedule": "interleaved" if vpp > 1 else "1f1b"}


def _ends(n_layers: int, pp: int, first: int | None, last: int | None, label: str) -> tuple[int, ...]:
    inner = pp - (first is not None) - (last is not None)
    rest = n_layers - (first or 0) - (last or 0)
    if rest < 0 or (inner == 0 and rest) or (inner and rest % inner):
        raise SpecError(f"{label}: --num-layers: {rest} layers left for {inner} stages do not divide")
    middle = (rest // inner,) * inner if inner else ()
    return (*(() if first is None else (first,)), *middle, *(() if last is None else (last,)))


def _recompute(got: Mapping[str, Any], vpp: int, label: str) -> dict[str, Any]:
    granularity = got.get("--recompute-granularity")
    if granularity is None and "--recompute-activations" in got:
        granularity = "selective"
    if granularity != "full":
        modules = {"recompute_modules": tuple(got["--recompute-modules"])} if "--recompute-modules" in got else {}
        return {"recompute": granularity or "none"} | (modules if granularity else {})
    method = got.get("--recompute-method")
    if method is None:
        raise SpecError(f"{label}: --recompute-granularity full: needs --recompute-method uniform or block")
    if method == "uniform":
        return {"recompute": "full"}
    return {"recompute": "full", "recompute_layers": got.get("--recompute-num-layers", 1) * vpp}


def _data_parallel(got: Mapping[str, Any], layout: Mapping[str, Any], label: str) -> tuple[int, list[str]]:
    """Data-parallel ranks of the world that torchrun starts; a line without torchrun does not say."""
    share = layout["tp"] * layout["pp"] * layout["cp"]
    if "--nproc-per-node" not in got:
        return 1, ["no torchrun options: data parallelism is not said; add it as --dp"]
    world = got["--nproc-per-node"] * got.get("--nnodes", 1)
    if world % share:
        raise SpecError(f"{label}: {world} processes are no multiple of tp * pp * cp = {share}")
    dp, batch = world // share, got.get("--global-batch-size")
    if batch is not None and batch % (dp * layout["micro_batch"]):
        raise SpecError(
            f"{label}: --global-batch-size: {batch} is not --micro-batch-size {layout['micro_batch']} * dp {dp} * a "
            "whole number of accumulation steps"
        )
    return dp, []


def _zero(got: Mapping[str, Any], layout: Mapping[str, Any]) -> dict[str, Any]:
    stage = 1 if "--use-distributed-optimizer" in got else 0
    if "--use-megatron-fsdp" in got:
        stage = _STAGES[got.get("--data-parallel-sharding-strategy", "no_shard")]
    copies = got.get("--num-distributed-optimizer-instances", 1)
    shard = {"dp_shard": layout["dp"] // copies} if copies > 1 and layout["dp"] % copies == 0 else {}
    return {"zero_stage": stage if layout["dp"] > 1 else 0} | shard


def _precision(got: Mapping[str, Any]) -> str:
    if "--fp4-format" in got:
        return "nvfp4"
    if "--fp8-format" in got:
        return "mxfp8" if got.get("--fp8-recipe") == "mxfp8" else "fp8"
    return "fp16" if "--fp16" in got else "bf16"


def _optimizer(got: Mapping[str, Any], notes: list[str]) -> str:
    word = got.get("--optimizer", "adam")
    if word not in OPTIMIZERS.values():
        notes.append(f"--optimizer {word}: not priced; taken as adam")
        word = "adam"
    return {value: key for key, value in OPTIMIZERS.items()}[word]
