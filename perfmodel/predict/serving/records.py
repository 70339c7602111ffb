"""What a serving estimate says: its JSON keys are a contract (DESIGN section 4)."""

from __future__ import annotations

from typing import Any

from perfmodel.predict.records import Record, Term, Warned

__all__ = ["ServingEstimate", "ServingMemoryBytes"]


class ServingMemoryBytes(Record):
    """Bytes [B] on the fullest rank; `kv_cache` is what the engine gives to its blocks."""

    weights: float
    kv_cache: float
    activations: float
    workspace: float
    total: float
    capacity: float


class ServingEstimate(Record):
    """Latencies over requests, rates of the deployment, memory of a rank; `*_interval_s` is of the mean.

    `ttft_s` is under the arrival protocol that the request names.
    """

    document: str = "perfmodel/serving-estimate/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    ttft_s: float
    tpot_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p90_s: float
    tpot_p99_s: float
    ttft_interval_s: tuple[float, float]
    tpot_interval_s: tuple[float, float]
    interval_level: float = 0.8
    ttft_lower_s: float
    ttft_upper_s: float
    tpot_lower_s: float
    tpot_upper_s: float
    request_latency_s: float
    requests_per_s: float
    output_tokens_per_s: float
    output_tokens_per_s_per_accelerator: float
    batch: float
    max_concurrency: int
    kv_blocks: int
    block_tokens: int
    memory_bytes: ServingMemoryBytes
    fits: bool
    accelerators_used: int
    energy_j_per_token: float
    cost_usd_per_mtok: float
    saturated: bool
    terms: tuple[Term, ...]
    warnings: tuple[Warned, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
