"""Megatron-Bridge: a function that sets what a plan decided on the configuration of a recipe."""

from __future__ import annotations

from typing import Any

from perfmodel.launch.plan import TrainingRun
from perfmodel.launch.tables import Table
from perfmodel.launch.training_flags import OPTIMIZERS, core_flags, precision_word, refuse_unless, sharding_strategy

__all__ = ["bridge_function"]

_PRECISIONS = {
    "bf16": "bf16_mixed",
    "fp16": "fp16_mixed",
    "fp8": "bf16_with_fp8_delayed_scaling_mixed",
    "mxfp8": "bf16_with_mxfp8_mixed",
    "nvfp4": "bf16_with_nvfp4_mixed",
}


def bridge_function(plan: TrainingRun, table: Table) -> str:
    """Python that configures a `ConfigContainer`; raises `PlanError` for what the tool has no key for."""
    layout, asked = plan.layout, plan.scenario
    refuse_unless(
        table,
        plan,
        {"schedule": ("1f1b", "interleaved"), "optimizer": OPTIMIZERS, "overlap": (None, False), "offload": ({},)},
    )
    keys: dict[str, Any] = {f"model.{name}": value for name, value in core_flags(plan).items()}
    if layout.vpp > 1:
        keys["model.virtual_pipeline_model_parallel_size"] = layout.vpp
    keys |= {
        "model.seq_length": asked["seq_len"],
        "dataset.seq_length": asked["seq_len"],
        "train.micro_batch_size": layout.micro_batch,
        "train.global_batch_size": asked["global_batch"],
        "mixed_precision": precision_word(table, _PRECISIONS, asked.get("precision", "bf16")),
        "optimizer.optimizer": OPTIMIZERS[asked.get("optimizer", "adam-mixed")],
        "optimizer.use_distributed_optimizer": layout.zero_stage > 0,
        "ddp.use_distributed_optimizer": layout.zero_stage > 0,
        "ddp.overlap_grad_reduce": layout.overlap is None,
        "ddp.overlap_param_gather": layout.overlap is None and layout.zero_stage > 0,
    }
    if strategy := sharding_strategy(layout):
        keys |= {"dist.use_megatron_fsdp": True, "ddp.use_megatron_fsdp": True}
        keys["ddp.data_parallel_sharding_strategy"] = strategy
    if layout.dp_shard is not None:
        keys["ddp.num_distributed_optimizer_instances"] = layout.dp // layout.dp_shard
    lines = [f"    cfg.{name} = {_python(table.emitted(name, value))}" for name, value in keys.items()]
    about = f"Set a plan on the ConfigContainer of a recipe; launch it with {layout.accelerators} processes."
    return "\n".join(["def configure(cfg):", f'    """{about}"""', *lines, "    return cfg"]) + "\n"


def _python(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)
