"""Names that the command line takes, written here again: importing their homes would cost more than `--help`."""

from __future__ import annotations

__all__ = ["BENCHES", "EXPORT_TOOLS", "IMPORT_TOOLS", "LISTS", "SCHEMAS", "SERVER_ROLES"]

LISTS = ("models", "hardware", "software", "formulas", "published", "systems")
SCHEMAS = (
    "training-estimate",
    "training-plan",
    "power-plan",
    "clocks-plan",
    "pools-plan",
    "pool-clocks-plan",
    "rows-plan",
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
    "region",
    "software",
)
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
BENCHES = ("training", "serving", "experts", "test-time", "kernels", "sweep")
