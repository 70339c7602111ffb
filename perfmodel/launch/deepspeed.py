"""DeepSpeed: the JSON configuration of a training run, and a scenario from such a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfmodel.errors import SpecError
from perfmodel.launch.plan import TrainingRun
from perfmodel.launch.tables import Table
from perfmodel.launch.training_flags import precision_word, refuse_unless

__all__ = ["deepspeed_keys", "deepspeed_scenario", "in_script"]

_PRECISIONS = {"bf16": "bf16.enabled", "fp16": "fp16.enabled"}
_OPTIMIZERS = {"adam-mixed": "AdamW", "sgd": "SGD"}


def deepspeed_keys(plan: TrainingRun, table: Table) -> dict[str, Any]:
    """The keys of a configuration by their dotted names; raises `PlanError` for what it has no key for."""
    layout, asked = plan.layout, plan.scenario
    off = {"pp": (1,), "cp": (1,), "ep": (1,), "etp": (1,), "vpp": (1,), "attention_dp": (1,), "offload": ({},)}
    refuse_unless(table, plan, off | {"dp_shard": (None,), "overlap": (None, True, False), "optimizer": _OPTIMIZERS})
    keys: dict[str, Any] = {
        "train_batch_size": asked["global_batch"],
        "train_micro_batch_size_per_gpu": layout.micro_batch,
        "gradient_accumulation_steps": plan.n_microbatches,
        precision_word(table, _PRECISIONS, asked.get("precision", "bf16")): True,
        "optimizer.type": _OPTIMIZERS[asked.get("optimizer", "adam-mixed")],
        "zero_optimization.stage": layout.zero_stage,
    }
    if layout.overlap is not None:
        keys["zero_optimization.overlap_comm"] = layout.overlap
    if layout.tp > 1:
        keys["tensor_parallel.autotp_size"] = layout.tp
    return {name: table.emitted(name, value) for name, value in keys.items()}


def in_script(plan: TrainingRun) -> str:
    """What the configuration cannot say and the training script must do."""
    layout = plan.layout
    does = [f"model {plan.model.id}", f"sequences of {plan.scenario['seq_len']}", f"{layout.accelerators} processes"]
    if layout.recompute != "none":
        does.append(f"recompute {layout.recompute}")
    if layout.tp > 1:
        does.append(f"sequence parallel {'on' if layout.sequence_parallel else 'off'}")
    return f"the training script sets: {', '.join(does)}"


def deepspeed_scenario(got: Mapping[str, Any], label: str) -> tuple[dict[str, Any], list[str]]:
    """The scenario of a configuration, with remarks on what it leaves open; raises `SpecError` for batches that do not
    multiply.
    """
    notes = ["model, cluster, seq_len and recompute are set by the training script; add them as options"]
    whole, micro = got.get("train_batch_size"), got.get("train_micro_batch_size_per_gpu")
    steps = got.get("gradient_accumulation_steps")
    tp = got.get("tensor_parallel.autotp_size", 1)
    layout: dict[str, Any] = {"tp": tp, "zero_stage": got.get("zero_optimization.stage", 0)}
    scenario: dict[str, Any] = {}
    if whole is not None and micro is not None and steps is not None:
        if whole % (micro * steps):
            raise SpecError(
                f"{label}: train_batch_size: {whole} is not train_micro_batch_size_per_gpu {micro} * "
                f"gradient_accumulation_steps {steps} * a whole number of data-parallel ranks"
            )
        layout["dp"] = whole // (micro * steps)
    else:
        notes.append("two of the three batch sizes: the number of data-parallel ranks is not said; add it as --dp")
    if micro is not None:
        layout["micro_batch"] = micro
    if whole is not None:
        scenario["global_batch"] = whole
    if layout.get("dp") == 1:
        layout["zero_stage"] = 0
    if "zero_optimization.overlap_comm" in got:
        layout["overlap"] = got["zero_optimization.overlap_comm"]
    if got.get("bf16.enabled") and got.get("fp16.enabled"):
        raise SpecError(f"{label}: bf16, fp16: only one can be enabled")
    scenario["precision"] = "fp16" if got.get("fp16.enabled") else "bf16"
    known = {word.lower(): key for key, word in _OPTIMIZERS.items()} | {"adam": "adam-mixed"}
    if (word := got.get("optimizer.type")) is not None:
        if word.lower() not in known:
            notes.append(f"optimizer.type {word}: not priced; taken as AdamW")
        scenario["optimizer"] = known.get(word.lower(), "adam-mixed")
    return scenario | {"layout": layout}, notes
