"""Words that the command-line tests share: a small scenario as a table, as flags and as TOML."""

from __future__ import annotations

import json
from typing import NamedTuple

SCENARIO = {
    "model": "llama-3.1-8b",
    "cluster": "dgx-h100",
    "accelerators": 64,
    "global_batch": 128,
    "seq_len": 4096,
    "precision": "bf16",
}
FLAGS = [word for key, value in SCENARIO.items() for word in (f"--{key.replace('_', '-')}", str(value))]
LAYOUT = ["--tp", "2", "--dp", "32"]
TOML = "".join(f"{key} = {json.dumps(value)}\n" for key, value in SCENARIO.items())


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def without(flag: str) -> list[str]:
    at = FLAGS.index(flag)
    return FLAGS[:at] + FLAGS[at + 2 :]


def replaced(flag: str, value: str) -> list[str]:
    return [*without(flag), flag, value]


PLAN, ESTIMATE = ["plan", "training"], ["estimate", "training"]
EXPORT, IMPORT = ["export"], ["import"]
TOOLS = (
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
READ_BACK = ("megatron", "deepspeed", "torchtitan", "vllm", "sglang")
SERVED = (
    "--model llama-3.1-70b --cluster dgx-h100 --tp 4 --dp 2 --prompt-tokens 1024 --output-tokens 256 --concurrency 64"
)
