"""`export_plan`: the document of a plan or an estimate as the launch file of a tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import PlanError, unknown_name
from perfmodel.launch.bridge import bridge_function
from perfmodel.launch.deepspeed import deepspeed_keys, in_script
from perfmodel.launch.engines import engine_script, model_name, role_command
from perfmodel.launch.megatron import megatron_environment, megatron_flags
from perfmodel.launch.megatron_model import is_written
from perfmodel.launch.plan import Deployment, TrainingRun, read_plan
from perfmodel.launch.skeletons import kubernetes_role, kubernetes_training, slurm_role, slurm_training
from perfmodel.launch.tables import Table, load_table
from perfmodel.launch.text import command, header, tables_of, toml_text
from perfmodel.launch.torchtitan import torchtitan_keys
from perfmodel.launch.training_flags import uncarried

__all__ = ["EXPORTS", "Exported", "export_plan"]

_ENGINES = ("vllm", "sglang", "tensorrt-llm")
_TRAINERS = ("megatron", "megatron-bridge", "torchtitan", "deepspeed")
_SKELETONS = ("slurm", "kubernetes")
EXPORTS = (*_ENGINES, *_TRAINERS, *_SKELETONS)
"""Tools that a plan can be exported to."""
_SERVING_KEYS = (
    "cluster", "accelerators", "software", "prompt_tokens", "output_tokens", "concurrency", "arrival_rate_per_s",
    "batching", "arrivals",
)  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """A launch file, and remarks on what it cannot say."""

    text: str
    notes: tuple[str, ...] = ()


def export_plan(document: Mapping[str, Any], tool: str, version: str | None = None, label: str = "plan") -> Exported:
    """The launch file of a tool for what a document decided; every flag is one of the tool's version (`load_table`).

    `document` is what a plan or an estimate of training or serving gives (`to_dict`). Raises `SpecError` for another
    document and `PlanError` for an unknown tool or version, a plan of the wrong kind, one that cannot run, or a
    decision that the tool has no flag for.
    """
    if tool not in EXPORTS:
        raise PlanError(f"--to: {unknown_name('tool', tool, EXPORTS)}")
    table = load_table(tool, version)
    plan = read_plan(document, label)
    if isinstance(plan, TrainingRun):
        if tool in _ENGINES:
            raise PlanError(f"{label}: plans training; {tool} serves; a training plan goes to {', '.join(_TRAINERS)}")
        return _TRAINING[tool](plan, table)
    if tool in _TRAINERS:
        raise PlanError(f"{label}: plans serving; {tool} trains; a serving plan goes to {', '.join(_ENGINES)}")
    return _served(plan, table) if tool in _ENGINES else _serving_skeleton(plan, table)


def _megatron(plan: TrainingRun, table: Table) -> Exported:
    nodes, per_node = plan.nodes
    launch = {
        "--nnodes": table.emitted("--nnodes", nodes),
        "--nproc-per-node": table.emitted("--nproc-per-node", per_node),
    }
    words = [
        *megatron_environment(plan),
        "torchrun",
        *(f"{name}={value}" for name, value in launch.items()),
        "pretrain_gpt.py",
    ]
    notes = ["data, tokenizer, learning rate and checkpoints are yours to add"]
    if not is_written(plan.model):
        notes.append(f"model {plan.model.id}: its architecture flags are not written; take those of its recipe")
    text = header(table, uncarried(plan), [_batch_line(plan)]) + command(words, megatron_flags(plan, table))
    return Exported(text, tuple(notes))


def _batch_line(plan: TrainingRun) -> str:
    batch, layout = plan.scenario["global_batch"], plan.layout
    return (
        f"{layout.accelerators} accelerators; global batch {batch} = micro-batch {layout.micro_batch} * "
        f"dp {layout.dp} * {plan.n_microbatches} accumulated"
    )


def _bridge(plan: TrainingRun, table: Table) -> Exported:
    return Exported(header(table, uncarried(plan), [_batch_line(plan)]) + bridge_function(plan, table))


def _torchtitan(plan: TrainingRun, table: Table) -> Exported:
    nested = tables_of(torchtitan_keys(plan, table))
    said = {key: value for key, value in uncarried(plan).items() if key != "model"}
    return Exported(header(table, said, [_batch_line(plan)]) + toml_text(nested))


def _deepspeed(plan: TrainingRun, table: Table) -> Exported:
    text = json.dumps(tables_of(deepspeed_keys(plan, table)), indent=2) + "\n"
    return Exported(text, (in_script(plan),))


def _training_skeleton(plan: TrainingRun, table: Table) -> Exported:
    inner = load_table("megatron")
    if str(plan.scenario.get("software", "")).startswith("torchtitan"):
        flags = {f"--{key}": value for key, value in torchtitan_keys(plan, load_table("torchtitan")).items()}
        words, before = ["-m", "torchtitan.train"], []
    else:
        flags, words, before = megatron_flags(plan, inner), ["pretrain_gpt.py"], megatron_environment(plan)
    write = {"slurm": slurm_training, "kubernetes": kubernetes_training}[table.tool]
    notes = ("data, image and storage are yours to add" if table.tool == "kubernetes" else "account and partition too",)
    return Exported(_commented(table, plan, write(plan, table, before, words, flags)), notes)


_TRAINING: dict[str, Callable[[TrainingRun, Table], Exported]] = {
    "megatron": _megatron,
    "megatron-bridge": _bridge,
    "torchtitan": _torchtitan,
    "deepspeed": _deepspeed,
    "slurm": _training_skeleton,
    "kubernetes": _training_skeleton,
}


def _served(plan: Deployment, table: Table) -> Exported:
    text, notes = engine_script(plan, table)
    if not str(plan.scenario["software"]).startswith(table.tool):
        notes.append(f"priced as {plan.scenario['software']}, not as {table.tool}")
    return Exported(header(table, _said(plan)) + text, tuple(notes))


def _said(plan: Deployment) -> dict[str, Any]:
    """What no flag of an engine carries: the model's id, the load, the cluster, and how many replicas there are."""
    said = {"model": plan.scenario["model"]}
    said |= {key: plan.scenario[key] for key in _SERVING_KEYS if key in plan.scenario} | plan.precisions
    # An estimate prices replicas as data parallelism; the roles of a split deployment may have different numbers.
    return said | ({"layout.dp": plan.roles[0].replicas} if len(plan.roles) == 1 else {})


def _serving_skeleton(plan: Deployment, table: Table) -> Exported:
    engine = str(plan.scenario["software"]).rpartition("-")[0]
    inner = load_table(engine if engine in _ENGINES else "vllm")
    write = {"slurm": slurm_role, "kubernetes": kubernetes_role}[table.tool]
    name = model_name(plan.model, plan.scenario["model"])
    parts, notes = [], []
    for role in plan.roles:
        words, flags, files = role_command(plan, role, inner, name)
        notes += [f"{role.name}: needs the file {file} of export --to {inner.tool}" for file in files]
        parts.append(write(plan, role, table, words, flags))
    if table.tool == "slurm" and len(parts) > 1:
        notes.append("one batch script for each role: cut the file at the #! lines")
    text = ("---\n" if table.tool == "kubernetes" else "\n").join(parts)
    return Exported(_commented(table, plan, text), tuple(notes))


def _commented(table: Table, plan: TrainingRun | Deployment, text: str) -> str:
    """A skeleton with its comment: behind the first line of a script, which the system reads."""
    about = header(table, {}, [_batch_line(plan)] if isinstance(plan, TrainingRun) else [])
    if not text.startswith("#!"):
        return about + text
    first, _, rest = text.partition("\n")
    return f"{first}\n{about}{rest}"
