"""Published figures of power that need the training and serving models: pools under latency limits, a node at work."""

from __future__ import annotations

from typing import Any

from perfmodel.predict.power import server_power_of
from perfmodel.predict.serving.iso import compare_at_budget
from perfmodel.predict.training import estimate_training
from perfmodel.specs.cluster import load_cluster

__all__ = ["node_training_watts", "pools_within_limits"]

_A100: dict[str, Any] = {"cluster": "dgx-a100-80gb", "layout": {"tp": 8}, "weights": "fp16"}
_H100: dict[str, Any] = _A100 | {"cluster": "dgx-h100"}
_LOAD: dict[str, Any] = {"prompt_tokens": 1155, "output_tokens": 211, "aggregated_count": 40}
"""Mean lengths of the conversations in the Azure trace of 2023, and the servers of Splitwise's baselines."""
_LIMITS: dict[str, Any] = {"ttft_s": 0.586, "tpot_s": 0.0266}
"""At p90: 3 times the TTFT and 1.5 times the TPOT of a request alone on a DGX-A100, as the serving ledger has them."""


def pools_within_limits() -> dict[str, float]:
    """Requests of split pools over those of 40 mixed machines, each as many as keep the limits (Llama 2 70B)."""
    asked: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
        "iso-power": (_A100, _A100, _A100, {"budget_by": "accelerators"}),
        "80 % of the cost": (_H100, _H100, _H100, {"budget_by": "usd_per_hour", "budget_share": 0.8}),
        "H100 for prompts, A100 for tokens": (_H100, _A100, _H100, {"budget_by": "provisioned_w"}),
    }
    return {
        name: compare_at_budget("llama-2-70b", prefill, decode, mixed, **(_LOAD | _LIMITS | budget)).ratio
        for name, (prefill, decode, mixed, budget) in asked.items()
    }


def node_training_watts(model: str = "llama-2-13b") -> float:
    """A DGX-H100 that trains, without its facility [W]: the draw of its longest term, all else at full load."""
    node = load_cluster("dgx-h100", 8)
    one = estimate_training(
        model, node, layout={"tp": 2, "dp": 4, "zero_stage": 1}, global_batch=32, seq_len=4096, software="fsdp-2024"
    )
    rest = server_power_of(node).max_w - 8 * float(node.accelerator.tdp_w)
    return 8 * max(one.accelerator_w_by_term.values()) + rest
