"""One small result of each kind, made once, for the tests of figures and reports."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import perfmodel as pm
from perfmodel.cli.memory import memory_estimate
from perfmodel.specs.expert_load import generated_load

LAYOUT = {"tp": 2, "pp": 4, "dp": 8, "vpp": 2, "schedule": "interleaved", "zero_stage": 1}
DAY = [20 * (1.2 + math.sin((hour - 8) / 24 * 2 * math.pi)) for hour in range(24)]
ROW = {"servers": 40, "server": "dgx-a100-80gb", "provisioned_w": 260e3}
POLICY = {
    "thresholds": [0.8, 0.89],
    "frequencies_hz": {"low": [1275e6, 1110e6], "high": [1305e6]},
    "priorities": {"low": 0.5, "high": 0.5},
}
MACHINES = [
    {"machine": "old", "prompt_requests_per_s": 5.0, "token_requests_per_s": 4.0, "watts": 6e3, "usd_per_hour": 10.0},
    {"machine": "new", "prompt_requests_per_s": 15.0, "token_requests_per_s": 7.0, "watts": 9e3, "usd_per_hour": 30.0},
]


def _step(**changes: Any) -> Any:
    asked = {"layout": LAYOUT, "global_batch": 128, "seq_len": 4096, "precision": "bf16", **changes}
    return pm.estimate_training("llama-3.1-8b", pm.load_cluster("dgx-h100", accelerators=64), **asked)


def _served(**changes: Any) -> Any:
    day = pm.Workload(prompt_tokens=1024, output_tokens=256, arrival_rate_per_s=24.0, hourly_rates_per_s=DAY)
    return pm.plan_serving("llama-3.1-8b", "dgx-h100", day, pm.Slo(ttft_s=1.0, tpot_s=0.03), **changes)


def _test_time() -> Any:
    tasks = [{"task": f"t{number}", "samples": 32, "correct": number} for number in range(0, 33, 2)]
    methods = [{"method": "small", "tokens": 1000, "usd_per_mtok_in": 0.1, "usd_per_mtok_out": 1.0}]
    return pm.plan_test_time(tasks, methods, {"usd": 0.2})


def _training(accelerators: int) -> Any:
    cluster = pm.load_cluster("dgx-h100", accelerators=accelerators)
    model = "llama-3.1-8b" if accelerators > 1 else "llama-3.1-405b"
    return pm.plan_training(model, cluster, global_batch=64, seq_len=4096, precision="bf16")


_MADE: dict[str, Callable[[], Any]] = {
    "training-plan": lambda: _training(16),
    "nothing-feasible": lambda: _training(1),
    "training-estimate": _step,
    "memory-estimate": lambda: memory_estimate(_step()),
    "elasticities": lambda: pm.elasticities(_step()),
    "serving-estimate": lambda: pm.estimate_serving(
        "llama-3.1-8b", pm.load_cluster("dgx-h100"), layout={"tp": 2}, prompt_tokens=512, output_tokens=128,
        concurrency=16, weights="fp8",
    ),
    "serving-plan": lambda: _served(modes="aggregated"),
    "disaggregated-plan": lambda: _served(modes="disaggregated"),
    "disaggregated-estimate": lambda: result("disaggregated-plan").prediction,
    "experts-plan": lambda: pm.plan_experts(generated_load(3, 64, seed=4), 16, nodes=2, slots=80),
    "speculation-estimate": lambda: pm.estimate_speculation(
        "llama-3.1-70b", "dgx-h100", layout={"tp": 4}, draft="llama-3.1-8b", acceptance=0.7, draft_tokens=4
    ),
    "serving-elasticities": lambda: pm.serving_elasticities(result("serving-estimate")),
    "clocks-plan": lambda: pm.plan_clocks(
        "llama-3.1-8b", pm.load_cluster("dgx-h100", accelerators=64), layout=LAYOUT, global_batch=128, seq_len=4096
    ),
    "pools-plan": lambda: pm.plan_pools(machines=MACHINES, watts=1e5),
    "rows-plan": lambda: pm.plan_rows([{"load": "a", "watts": 3e3}], [{"row": "r", "power_w": 4e3}]),
    "power-plan": lambda: pm.plan_power(ROW, POLICY, {"peak": 0.79, "rise": 0.118}),
    "test-time-plan": _test_time,
    "training-budget-plan": lambda: pm.plan_training_budget(
        {"usd": 1e6}, served_tokens=1e12, cluster="dgx-h100", precisions=["bf16", "fp8"]
    ),
}  # fmt: skip
KINDS = tuple(_MADE)


@cache
def result(kind: str) -> Any:
    """The result of that name."""
    return _MADE[kind]()
