"""The fits of the attention kernels, through the same code that predicts with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.kernels import Fitted, Floats, fitted
from perfmodel.calibrate.tables import Table, is_calibrate, load_table
from perfmodel.formulas.attention import attention_core_flops
from perfmodel.formulas.decode_attention import latent_decode_flops
from perfmodel.formulas.roofline import roofline_time
from perfmodel.predict.attention import CACHE_BYTES_PER_ELEMENT, AttentionKernels
from perfmodel.predict.cost import Cost
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.kernel_constants import DecodeConstants, Fit, FlashConstants, TileConstants, UnsplitLatentConstants
from perfmodel.specs.quantity import Quantity

__all__ = ["fit_attention_kernels", "fit_decode", "fit_prefill", "is_useful"]

_UNSPLIT_LATENT = ("a100-sxm-80gb",)
"""Where the tables show latent decode without a split over the keys: one sequence takes as long as thirty-two."""
_UNSPLIT_UNGROUPED = ("a100-sxm-80gb",)
"""FlashAttention-2 splits keys only after it has folded query groups, so heads of their own stay unsplit (Ampere)."""
LARGE, SMALL = 64e6, 4e6
"""Caches [B] from which a table measures memory, and up to which it measures the floor; between them a cache stays in
L2 from one repetition to the next, as it never does between the layers of a model."""
_TILES = {
    "peak_efficiency": 0.6,
    "block_tiles": 1.0,
    "lone_share": 0.7,
    "exponent": 2.0,
    "memory_efficiency": 0.5,
    "launch_s": 1e-5,
}
_STREAMS = {
    "memory_efficiency": 0.85,
    "lone_speedup": 1.5,
    "block_s": 1e-6,
    "cold_s": 4e-6,
    "launch_s": 1e-5,
}
_PAIRS = {"compute_efficiency": 0.4, "pair_slowdown": 1.4, "block_s": 1e-6, "launch_s": 1e-5}
_LIMITS = {
    "peak_efficiency": 1.0,
    "compute_efficiency": 1.0,
    "lone_share": 1.0,
    "exponent": 16.0,
    "memory_efficiency": 1.0,
    "ungrouped_efficiency": 1.0,
    "lone_speedup": 100.0,
    "pair_slowdown": 2.0,
    "block_tiles": 20.0,
}
_SUSTAINED = {"memory_efficiency": 0.95, "ungrouped_efficiency": 0.95}
"""No row streams at more than 0.93 of the data sheet; a law that needs more has mistaken a floor for a rate."""
_LEAST = {
    "exponent": 1.0,
    "lone_speedup": 1.0,
    "pair_slowdown": 1.0,
    "block_tiles": 0.01,
    "launch_s": 1e-7,
    "block_s": 1e-9,
    "cold_s": 1e-9,
}
_SCORED = "errors over caches of at least 64 MB"


@dataclass(frozen=True, slots=True)
class Measured:
    """Measured seconds by row, which rows may be fitted, and those whose errors count."""

    seconds: Floats
    calibrate: NDArray[np.bool_]
    scored: Any


def fit_attention_kernels(accelerator: Accelerator) -> dict[str, Fitted]:
    """Every attention fit of an accelerator by the dotted key it fills: prefill, decode, and latent in both phases."""
    found: dict[str, Fitted | None] = {
        "attention": _prefill(accelerator, "vllm"),
        "attention.tensorrt-llm": _prefill(accelerator, "tensorrt-llm"),
    }
    for library, prefill in (("vllm", found["attention"]), ("tensorrt-llm", found["attention.tensorrt-llm"])):
        share = 1.0 if prefill is None else prefill.constants["peak_efficiency"]
        found[f"decode.{library}"] = _decode(accelerator, library, "bf16", share)
        found[f"decode.{library}-fp8"] = _decode(accelerator, library, "fp8", share)
    for name, kv_dtype in (("tensorrt-llm", "bf16"), ("tensorrt-llm-fp8", "fp8")):
        found[f"mla_decode.{name}"] = _mla_decode(accelerator, kv_dtype)
        found[f"mla_prefill.{name}"] = _mla_prefill(accelerator, kv_dtype)
    return {key: fit for key, fit in found.items() if fit is not None}


def _prefill(accelerator: Accelerator, library: str) -> Fitted | None:
    table = "attention_prefill_bf16"
    rows = load_table(table, accelerator.id)
    rows = rows[rows["library"] == library] if len(rows) else rows
    if not len(rows):
        return None
    sizes = _columns(rows, "batch", "seq_len", "n_heads", "n_kv_heads", "d_head")
    return fit_prefill(accelerator, table, sizes, rows["latency_us"] * 1e-6, is_calibrate(table, rows))


def fit_prefill(
    accelerator: Accelerator, table: str, sizes: list[Floats], seconds: Floats, calibrate: NDArray[np.bool_],
    fixed: dict[str, float] | None = None,
) -> Fitted:  # fmt: skip
    """The law of prefill attention on rows `sizes` (batch, seq_len, n_heads, n_kv_heads, d_head) [s].

    `fixed` are the constants that the table cannot tell apart, and their values.
    """
    ratio = Quantity(1.0)

    def cost(c: dict[str, float]) -> Cost:
        block = FlashConstants(**c, backward_efficiency_ratio=ratio, fit=_NO_FIT)
        return _kernels(accelerator, attention={"own": block}).flash_attention(*sizes, library="own")

    flops = attention_core_flops(sizes[0], sizes[1], sizes[2], sizes[4], 0.5)
    n_bytes = 4.0 * sizes[0] * sizes[1] * sizes[4] * (sizes[2] + sizes[3])
    low, high = int(sizes[1].min()), int(sizes[1].max())
    scored_from = 1024 if high > 1024 else low
    how = f"tiled_attention_compute_time in fused_attention_time; {low} to {high} tokens, errors from {scored_from} on"
    rows = Measured(seconds, calibrate, sizes[1] >= scored_from)
    return _fit(accelerator, table, how, rows, cost, flops, n_bytes, _TILES, fixed)


def _decode(accelerator: Accelerator, library: str, kv_dtype: str, share: float) -> Fitted | None:
    table = "attention_decode"
    rows = load_table(table, accelerator.id)
    rows = rows[(rows["library"] == library) & (rows["kv_dtype"] == kv_dtype)] if len(rows) else rows
    if not len(rows):
        return None
    sizes = _columns(rows, "batch", "kv_len", "n_heads", "n_kv_heads", "d_head")
    useful = is_useful(sizes, kv_dtype)
    fixed = {"compute_efficiency": share}
    if library == "vllm" and accelerator.id in _UNSPLIT_UNGROUPED:
        fixed["max_splits_ungrouped"] = 1.0
    seconds, calibrate = rows["latency_us"] * 1e-6, is_calibrate(table, rows)
    sizes = [column[useful] for column in sizes]
    return fit_decode(accelerator, table, sizes, seconds[useful], calibrate[useful], kv_dtype, fixed)


def fit_decode(
    accelerator: Accelerator, table: str, sizes: list[Floats], seconds: Floats, calibrate: NDArray[np.bool_],
    kv_dtype: str, fixed: dict[str, float], *, warm: bool = True,
) -> Fitted:  # fmt: skip
    """The law of decode attention on rows `sizes` (batch, kv_len, n_heads, n_kv_heads, d_head) [s].

    `fixed` are the constants that the table cannot tell apart, and their values; `warm` tables repeat one cache, so
    their errors are those of caches that no last-level cache holds.
    """
    kv_bytes = _kv_bytes(sizes, kv_dtype)

    def cost(c: dict[str, float]) -> Cost:
        c = {"ungrouped_efficiency": c["memory_efficiency"]} | c
        kernels = _kernels(accelerator, decode={"own": DecodeConstants(**(c | fixed), fit=_NO_FIT)})
        return kernels.decode_attention(*sizes, kv_dtype=kv_dtype, library="own")

    flops = latent_decode_flops(sizes[0], sizes[1], sizes[2], sizes[4], sizes[4])
    n_bytes = kv_bytes + 4.0 * sizes[0] * sizes[2] * sizes[4]
    start = _STREAMS | {"ungrouped_efficiency": 0.8}
    known = "compute_efficiency is the prefill's"
    how = f"decode_attention_time; caches up to 4 MB or from 64 MB on, {_SCORED}; {known}"
    scored = kv_bytes >= LARGE if warm else kv_bytes > 0
    rows = Measured(seconds, calibrate, scored)
    return _fit(
        accelerator, table, how if warm else f"decode_attention_time; caches not in any cache; {known}", rows, cost,
        flops, n_bytes, start, fixed,
    )  # fmt: skip


def is_useful(sizes: list[Floats], kv_dtype: str) -> Any:
    """Rows of a table that repeats one cache which measure memory or the floor, by their columns."""
    return _useful(_kv_bytes(sizes, kv_dtype))


def _kv_bytes(sizes: list[Floats], kv_dtype: str) -> Floats:
    n_bytes: Floats = 2 * CACHE_BYTES_PER_ELEMENT[kv_dtype] * sizes[0] * sizes[3] * sizes[4] * sizes[1]
    return n_bytes


def _mla_decode(accelerator: Accelerator, kv_dtype: str) -> Fitted | None:
    table = "mla_decode"
    rows = load_table(table, accelerator.id)
    rows = rows[rows["kv_dtype"] == kv_dtype] if len(rows) else rows
    if not len(rows):
        return None
    unsplit = accelerator.id in _UNSPLIT_LATENT
    kv_bytes = (2.0 if kv_dtype == "bf16" else 1.0) * 576 * rows["batch"] * rows["kv_len"].astype(float)
    if not unsplit:
        rows, kv_bytes = rows[_useful(kv_bytes)], kv_bytes[_useful(kv_bytes)]
    sizes = _columns(rows, "batch", "kv_len", "n_heads")
    measured = Measured(rows["latency_us"] * 1e-6, is_calibrate(table, rows), kv_bytes >= LARGE)

    def cost(c: dict[str, float]) -> Cost:
        block: Any = (
            UnsplitLatentConstants(**c, fit=_NO_FIT)
            if unsplit
            else DecodeConstants(**c, ungrouped_efficiency=c["memory_efficiency"], fit=_NO_FIT)
        )
        return _kernels(accelerator, mla_decode={"own": block}).mla_decode(*sizes, kv_dtype=kv_dtype, library="own")

    flops = latent_decode_flops(sizes[0], sizes[1], sizes[2])
    n_bytes = kv_bytes + 2.0 * sizes[0] * sizes[2] * (576 + 512)
    if unsplit:
        how = f"unsplit_latent_decode_time; all caches, {_SCORED}"
        return _fit(accelerator, table, how, measured, cost, flops, n_bytes, _PAIRS)
    start = _STREAMS | {"compute_efficiency": 0.7, "exponent": 3.0}
    how = f"decode_attention_time with 64 padded heads; caches up to 4 MB or from 64 MB on, {_SCORED}"
    found = _fit(accelerator, table, how, measured, cost, flops, n_bytes, start)
    found.constants["ungrouped_efficiency"] = found.constants["memory_efficiency"]
    return found


def _mla_prefill(accelerator: Accelerator, kv_dtype: str) -> Fitted | None:
    table = "mla_prefill"
    rows = load_table(table, accelerator.id)
    rows = rows[rows["kv_dtype"] == kv_dtype] if len(rows) else rows
    if not len(rows):
        return None
    sizes = _columns(rows, "batch", "seq_len", "n_heads")

    def cost(c: dict[str, float]) -> Cost:
        kernels = _kernels(accelerator, mla_prefill={"own": TileConstants(**c, fit=_NO_FIT)})
        return kernels.mla_prefill(*sizes, library="own")

    flops = attention_core_flops(sizes[0], sizes[1], sizes[2], (192 + 128) / 2, 0.5)
    n_bytes = 2.0 * 2 * sizes[0] * sizes[1] * sizes[2] * (192 + 128)
    how = "tiled_attention_compute_time in fused_attention_time; 16 tokens and more, errors from 1024 on"
    measured = Measured(rows["latency_us"] * 1e-6, is_calibrate(table, rows), sizes[1] >= 1024)
    return _fit(accelerator, table, how, measured, cost, flops, n_bytes, _TILES)


_NO_FIT = Fit(source="none", table="none", rows=0, how="a step of the fit")


def _fit(
    accelerator: Accelerator, table: str, how: str, rows: Measured, cost: Callable[[dict[str, float]], Cost],
    flops: Floats, n_bytes: Floats, start: dict[str, float], fixed: dict[str, float] | None = None,
) -> Fitted:  # fmt: skip
    peak = float(_kernels(accelerator).attention_flop_per_s)
    plain = roofline_time(flops, n_bytes, peak, float(accelerator.hbm_byte_per_s))
    fixed = fixed or {}
    limits = _LIMITS | (_SUSTAINED if "lone_speedup" in start else {})
    free = {name: value for name, value in start.items() if name not in fixed}

    def law(constants: Floats) -> Floats:
        named = {name: float(value) for name, value in zip(free, constants, strict=True)}
        # The bounds of the search are open by a rounding error.
        named = {name: min(value, limits.get(name, value)) for name, value in named.items()}
        named = {name: max(value, _LEAST.get(name, value)) for name, value in named.items()}
        seconds: Floats = cost({name: value for name, value in fixed.items() if name in start} | named).seconds
        return seconds

    found = fitted(
        table, how, np.empty(0, np.void), law, plain, free, limits, rows.seconds, _LEAST, rows.scored, rows.calibrate
    )
    found.constants.update(fixed)
    return found


def _useful(kv_bytes: Floats) -> Any:
    return (kv_bytes >= LARGE) | (kv_bytes <= SMALL)


def _columns(rows: Table, *names: str) -> list[Floats]:
    return [rows[name].astype(float) for name in names]


def _kernels(accelerator: Accelerator, **blocks: Any) -> AttentionKernels:
    return AttentionKernels(accelerator, Efficiency.model_construct(**blocks))
