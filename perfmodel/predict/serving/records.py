"""What a serving estimate says: its JSON keys are a contract (DESIGN section 4)."""

from __future__ import annotations

from typing import Any

from perfmodel.predict.records import Record, Term, UnevenExperts, Warned

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

    `ttft_s` is under the arrival protocol that the request names. `batch` answers run in an iteration of a replica,
    `in_flight` requests are in the deployment, waiting ones too. With an arrival rate, `max_requests_per_s` is what the
    deployment can take and `prompt_load` [1] the share of time that prompts add to iterations. With limits,
    `slo_attainment` [1] is the share of requests within them, `goodput_requests_per_s` so many a second, and `slo_met`
    says whether the percentile asked for is reached. `experts.slowdown` is that of a decode step.
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
    in_flight: float
    max_requests_per_s: float | None = None
    waiting_s: float
    prompt_load: float | None = None
    slo_attainment: float | None = None
    slo_met: bool | None = None
    goodput_requests_per_s: float | None = None
    max_concurrency: int
    kv_blocks: int
    block_tokens: int
    memory_bytes: ServingMemoryBytes
    fits: bool
    accelerators_used: int
    energy_j_per_token: float
    energy_j_per_token_total: float
    """Per token read or written."""
    accelerator_w: float
    """Mean draw of one accelerator; `prefill_w` and `decode_w` in the iterations of prompts and in the others."""
    prefill_w: float
    decode_w: float
    facility_w: float
    """Mean draw of the deployment, servers and facility included."""
    carbon_kg_per_mtok: float
    cost_usd_per_mtok: float
    saturated: bool
    experts: UnevenExperts | None = None
    terms: tuple[Term, ...]
    warnings: tuple[Warned, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
