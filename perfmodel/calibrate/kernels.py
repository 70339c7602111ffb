"""The fits: one law of `perfmodel.formulas` per table, on the rows that may calibrate, scored on those that may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from perfmodel.calibrate.tables import Table, is_calibrate, load_table
from perfmodel.formulas import collectives as links
from perfmodel.formulas.attention import attention_core_flops, flash_attention_time, flash_efficiency
from perfmodel.formulas.elementwise import elementwise_time
from perfmodel.formulas.matmul import matmul_bytes, matmul_flops
from perfmodel.formulas.roofline import roofline_time, smooth_roofline_time
from perfmodel.specs.accelerator import Accelerator

__all__ = [
    "EFA_LINK_BYTE_PER_S",
    "Fitted",
    "Score",
    "fit_attention",
    "fit_collective",
    "fit_elementwise",
    "fit_matmul",
    "fit_network",
]

Floats = NDArray[np.float64]
Law = Callable[[Floats], Floats]

EFA_LINK_BYTE_PER_S = 50e9
"""3.2 Tb/s per p5.48xlarge node over its 8 accelerators, one direction."""
RANKS_PER_NODE = 8
_BYTES_PER_ELEMENT = {"bf16": 2.0, "fp8": 1.0}
_RINGS = {
    "all_reduce": links.ring_all_reduce_time,
    "all_gather": links.ring_all_gather_time,
    "reduce_scatter": links.ring_reduce_scatter_time,
}
_PER_ELEMENT_BYTES = {"input_layernorm": 4.0, "mlp_act": 6.0, "attn_rope": 4.0}
"""16-bit operands read and results written once: norm and rotary 2 + 2 of an element, gated activation 4 + 2."""


@dataclass(frozen=True, slots=True)
class Score:
    """Median and 90th percentile of |ln(law / measured)|."""

    median: float
    p90: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """Constants of one table by name (4 significant digits), the rows fitted, and how well law and roofline do."""

    table: str
    how: str
    constants: dict[str, float]
    rows: int
    fitted: Score
    held_out: Score
    roofline: Score


def fit_matmul(accelerator: Accelerator, dtype: str) -> Fitted | None:
    """Smooth roofline of matrix products in bf16 or fp8 with n, k >= 1024 [s]; None without rows."""
    name = f"gemm_{dtype}"
    rows = load_table(name, accelerator.id)
    rows = rows[(rows["n"] >= 1024) & (rows["k"] >= 1024)]
    if not len(rows):
        return None
    m, n, k = (rows[column].astype(float) for column in ("m", "n", "k"))
    flops, n_bytes = matmul_flops(m, n, k), matmul_bytes(m, n, k, bytes_per_element=_BYTES_PER_ELEMENT[dtype])
    peaks = float(accelerator.peak(dtype)), float(accelerator.hbm_byte_per_s)
    start = {"compute_efficiency": 0.8, "memory_efficiency": 0.8, "exponent": 2.0, "launch_s": 5e-6}
    limits = {"compute_efficiency": 1.0, "memory_efficiency": 1.0, "exponent": 16.0}
    how = "smooth_roofline_time; n, k >= 1024, all m"
    return _fitted(
        name,
        how,
        rows,
        lambda c: smooth_roofline_time(flops, n_bytes, *peaks, *c),
        roofline_time(flops, n_bytes, *peaks),
        start,
        limits,
    )


def fit_attention(accelerator: Accelerator) -> Fitted | None:
    """Fused causal attention of a prefill, forward, bf16 [s]; None without rows."""
    rows = load_table("attention_prefill_bf16", accelerator.id)
    if not len(rows):
        return None
    columns = ("batch", "seq_len", "n_heads", "n_kv_heads", "d_head")
    batch, seq_len, n_heads, n_kv_heads, d_head = (rows[column].astype(float) for column in columns)
    flops = attention_core_flops(batch, seq_len, n_heads, d_head, 0.5)
    n_bytes = _BYTES_PER_ELEMENT["bf16"] * batch * seq_len * d_head * 2 * (n_heads + n_kv_heads)
    peaks = float(accelerator.peak("bf16")), float(accelerator.hbm_byte_per_s)

    def law(c: Floats) -> Floats:
        seconds: Floats = flash_attention_time(
            flops, n_bytes, *peaks, flash_efficiency(seq_len, c[0], c[1]), c[2], c[3]
        )
        return seconds

    start = {"peak_efficiency": 0.6, "half_length": 500.0, "memory_efficiency": 0.6, "launch_s": 1e-5}
    limits = {"peak_efficiency": 1.0, "memory_efficiency": 1.0}
    how = "flash_attention_time with flash_efficiency; causal prefill, 128 to 16384 tokens, d_head 128"
    return _fitted("attention_prefill_bf16", how, rows, law, roofline_time(flops, n_bytes, *peaks), start, limits)


def fit_elementwise(accelerator: Accelerator) -> Fitted | None:
    """Norm, gated activation and rotary embedding of vLLM [s]; None without rows."""
    rows = load_table("elementwise_vllm", accelerator.id)
    if not len(rows):
        return None
    heads, kv_heads = rows["n_heads"] / rows["tp"], np.maximum(rows["n_kv_heads"] / rows["tp"], 1.0)
    width = np.select(
        [rows["operation"] == "input_layernorm", rows["operation"] == "mlp_act"],
        [rows["d_model"].astype(float), rows["d_ff"] / rows["tp"]],
        (heads + kv_heads) * rows["d_model"] / rows["n_heads"],
    )
    n_bytes = np.array([_PER_ELEMENT_BYTES[name] for name in rows["operation"]]) * rows["tokens"] * width
    byte_per_s = float(accelerator.hbm_byte_per_s)
    return _fitted(
        "elementwise_vllm",
        "elementwise_time, one launch; compulsory traffic of norm, gated activation and rotary embedding",
        rows,
        lambda c: elementwise_time(n_bytes, byte_per_s, c[0], 1.0, c[1]),
        n_bytes / byte_per_s,
        {"memory_efficiency": 0.5, "launch_s": 3e-6},
        {"memory_efficiency": 1.0},
    )


def fit_collective(accelerator: Accelerator, in_network: bool) -> Fitted | None:
    """Protocols of all-reduce, all-gather and reduce-scatter on 2 to 8 ranks and the switch's all-reduce [s].

    Constants are named `protocol.constant`. None without rows.
    """
    rows = load_table("nccl_half", accelerator.id)
    rows = rows[np.isin(rows["operation"], list(_RINGS)) & (rows["n_bytes"] >= 1024)]
    if not len(rows):
        return None
    link = float(accelerator.link_byte_per_s)
    n_bytes, ranks = rows["n_bytes"].astype(float), rows["ranks"].astype(float)
    masks = {name: rows["operation"] == name for name in _RINGS}
    switched = masks["all_reduce"] & (ranks > 2)

    def ring(launch_s: float, latency_s: float, link_efficiency: float) -> Floats:
        seconds = np.empty(len(rows))
        for name, law in _RINGS.items():
            at = masks[name]
            seconds[at] = law(n_bytes[at], ranks[at], launch_s, latency_s, link_efficiency * link)
        return seconds

    def law(c: Floats) -> Floats:
        fastest = np.minimum(np.minimum(ring(c[0], c[1], c[2]), ring(c[3], c[4], c[5])), ring(c[6], 0.0, c[7]))
        if in_network:
            switch = links.in_network_all_reduce_time(n_bytes, ranks, c[8], c[9] * link)
            fastest = np.where(switched, np.minimum(fastest, switch), fastest)
        return fastest

    start = {"ll.launch_s": 6e-6, "ll.latency_s": 0.8e-6, "ll.link_efficiency": 0.03}
    start |= {"ll128.launch_s": 8e-6, "ll128.latency_s": 0.8e-6, "ll128.link_efficiency": 0.35}
    start |= {"simple.launch_s": 35e-6, "simple.link_efficiency": 0.7}
    if in_network:
        start |= {"in_network.launch_s": 40e-6, "in_network.link_efficiency": 0.55}
    how = (
        "fastest of three rings, fitted together on all_reduce, all_gather and reduce_scatter, 2 to 8 ranks, "
        "n_bytes >= 1024; Simple hides its steps (latency_s = 0)"
    )
    if in_network:
        how += "; all_reduce on more than 2 ranks also by the switch"
    limits = {name: 1.0 for name in start if name.endswith("efficiency")}
    found = _fitted("nccl_half", how, rows, law, ring(0.0, 0.0, 1.0), start, limits)
    return replace(found, constants=found.constants | {"simple.latency_s": 0.0})


def fit_network() -> Fitted:
    """All-reduce over 2 to 32 nodes of 8 accelerators, against the network link of one accelerator [s]."""
    rows = load_table("efa_all_reduce")
    nodes, ranks = rows["nodes"].astype(float), rows["ranks"].astype(float)
    n_bytes = rows["size_mib"] * float(2**20)
    link = links.ring_link_byte_per_s(np.inf, EFA_LINK_BYTE_PER_S, RANKS_PER_NODE)

    def law(c: Floats) -> Floats:
        # Steps inside a node overlap with the slower ones between nodes: (nodes - 1) of the (ranks - 1) steps count.
        step_s = c[1] * (nodes - 1) / (ranks - 1)
        seconds: Floats = links.ring_all_reduce_time(n_bytes, ranks, c[0], step_s, c[2] * link)
        return seconds

    plain = links.ring_all_reduce_time(n_bytes, ranks, 0.0, 0.0, link)
    measured = n_bytes / (rows["algbw_gb_per_s"] * 1e9)
    start = {"launch_s": 2e-4, "latency_s": 2e-5, "link_efficiency": 0.9}
    how = (
        "ring_all_reduce_time over all rails, steps between nodes only; H100 nodes with EFA, taken for every network "
        "(its 2-node rows pass the ring's bound: a tree carries less between two nodes)"
    )
    return _fitted("efa_all_reduce", how, rows, law, plain, start, {"link_efficiency": 1.0}, measured)


def _fitted(
    table: str,
    how: str,
    rows: Table,
    law: Law,
    plain: Floats,
    start: dict[str, float],
    limits: dict[str, float],
    measured: Floats | None = None,
) -> Fitted:
    """Least squares of ln(law / measured), soft beyond 10 %, over the logarithms of the constants."""
    seconds = rows["latency_us"] * 1e-6 if measured is None else measured
    fit = is_calibrate(table, rows)
    upper = np.log([limits.get(name, np.inf) for name in start])
    lower = np.array([0.0 if name == "exponent" else -np.inf for name in start])

    def residual(logarithms: Floats) -> Floats:
        return np.log(law(np.exp(logarithms)) / seconds)

    found: Any = least_squares(
        lambda x: residual(x)[fit],
        np.log(list(start.values())),
        bounds=(lower, upper),
        loss="soft_l1",
        f_scale=0.1,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    constants = {name: float(f"{value:.4g}") for name, value in zip(start, np.exp(found.x), strict=True)}
    error = np.abs(np.log(law(np.array(list(constants.values()))) / seconds))
    roofline = np.abs(np.log(plain / seconds))[~fit]
    return Fitted(table, how, constants, int(fit.sum()), _score(error[fit]), _score(error[~fit]), _score(roofline))


def _score(errors: Floats) -> Score:
    return Score(float(np.median(errors)), float(np.quantile(errors, 0.9)))
