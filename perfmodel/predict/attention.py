"""What attention costs on one accelerator: prefill and training, decode, and latent attention (MLA) in both phases.

Sizes are floats or float64 arrays that broadcast. Softmax and both products run at the 16-bit rate, whatever the
precision of the matrix products; a cache in fp8 changes the bytes that decode reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.dual import plain
from perfmodel.errors import PlanError, unknown_name
from perfmodel.formulas.attention import (
    attention_traffic_bytes,
    fused_attention_time,
    tiled_attention_compute_time,
)
from perfmodel.formulas.decode_attention import (
    decode_attention_time,
    latent_decode_flops,
    unsplit_latent_decode_time,
)
from perfmodel.ops import ceil_div, maximum, minimum, where
from perfmodel.predict.cost import Cost, Number
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.kernel_constants import DecodeConstants, TileConstants, UnsplitLatentConstants

__all__ = ["CACHE_BYTES_PER_ELEMENT", "AttentionKernels"]

CACHE_BYTES_PER_ELEMENT = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0}
_OPERAND_BYTES = 2.0
LATENT_WIDTH, ROTARY_WIDTH = 512.0, 64.0
"""Compressed cache of DeepSeek-V2 and V3: latent and rotary elements of a token."""
EXPANDED_KEY_WIDTH, EXPANDED_VALUE_WIDTH = 192.0, 128.0
"""Widths of a head of the same models in a prefill, where keys and values are expanded."""
HEAD_ROWS = 64.0
"""Heads that a latent decode kernel computes together, padded."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """A pass over the tiles against the forward one: time of the products, traffic of queries and of keys [1]."""

    work: float
    query_traffic: float
    key_traffic: float


_FORWARD = _Pass(1.0, 1.0, 1.0)


def _backward(efficiency_ratio: float) -> _Pass:
    """Five products for two; Q, O, dO, a 32-bit dQ written and read, dQ for Q, O; K, V, dK, dV for K, V.

    Dao 2023, "FlashAttention-2", arXiv:2307.08691, Algorithm 2.
    """
    return _Pass(2.5 / efficiency_ratio, 4.0, 2.0)


class AttentionKernels:
    """The attention kernels of one accelerator, with the constants of its libraries."""

    def __init__(self, accelerator: Accelerator, efficiency: Efficiency) -> None:
        self.efficiency = efficiency
        self.byte_per_s = plain(accelerator.hbm_byte_per_s)
        self.attention_flop_per_s = _sixteen_bit_peak(accelerator)
        self.n_cores = float(accelerator.n_cores)
        self.l2_bytes = plain(accelerator.l2_bytes)

    def flash_attention(
        self,
        batch: Number,
        seq_len: Number,
        n_heads: Number,
        n_kv_heads: Number,
        d_head: Number,
        *,
        library: str,
        backward: bool = False,
        past_len: Number = 0.0,
        window: Number | None = None,
        value_width: Number | None = None,
    ) -> Cost:
        """Fused causal attention of `seq_len` queries after `past_len` keys, forward or backward.

        `window` [tokens] bounds what a query sees; `value_width` [1] of a head is `d_head` unless given.
        """
        constants = self.efficiency.attention_constants(library)
        pass_ = _backward(plain(constants.backward_efficiency_ratio)) if backward else _FORWARD
        values = d_head if value_width is None else value_width
        return self._tiled(constants, batch, seq_len, past_len, window, n_heads, n_kv_heads, d_head, values, pass_)

    def mla_prefill(
        self, batch: Number, seq_len: Number, n_heads: Number, *, library: str, kv_dtype: str = "bf16",
        past_len: Number = 0.0, key_width: Number = EXPANDED_KEY_WIDTH, value_width: Number = EXPANDED_VALUE_WIDTH,
    ) -> Cost:  # fmt: skip
        """Causal latent attention of `seq_len` queries with expanded keys and values."""
        _cache_bytes(kv_dtype)
        constants = self.efficiency.mla_prefill_constants(library, kv_dtype)
        return self._tiled(
            constants, batch, seq_len, past_len, None, n_heads, n_heads, key_width, value_width, _FORWARD
        )

    def decode_attention(
        self, batch: Number, kv_len: Number, n_heads: Number, n_kv_heads: Number, d_head: Number, *,
        kv_dtype: str = "bf16", library: str, window: Number | None = None,
    ) -> Cost:  # fmt: skip
        """One new token per sequence over `kv_len` cached tokens, of which `window` are read if it is given."""
        constants = self.efficiency.decode_constants(library, kv_dtype)
        read = kv_len if window is None else minimum(kv_len, window)
        kv_bytes = 2 * _cache_bytes(kv_dtype) * batch * read * n_kv_heads * d_head
        io_bytes = 2 * _OPERAND_BYTES * batch * n_heads * d_head
        flops = latent_decode_flops(batch, read, n_heads, d_head, d_head)
        ungrouped = np.less_equal(n_heads, n_kv_heads)
        ungrouped = bool(ungrouped) if np.ndim(ungrouped) == 0 else ungrouped
        efficiency = where(ungrouped, constants.ungrouped_efficiency, constants.memory_efficiency)
        max_splits = where(ungrouped, constants.max_splits_ungrouped, 128.0)
        return self._decoded(constants, kv_bytes, io_bytes, flops, batch * n_kv_heads, read, efficiency, max_splits)

    def mla_decode(
        self, batch: Number, kv_len: Number, n_heads: Number, *, kv_dtype: str = "bf16", library: str,
        latent_width: Number = LATENT_WIDTH, rotary_width: Number = ROTARY_WIDTH,
    ) -> Cost:  # fmt: skip
        """One new token per sequence over a compressed cache, up-projections absorbed into queries and results."""
        constants = self.efficiency.mla_decode_constants(library, kv_dtype)
        key_width = latent_width + rotary_width
        kv_bytes = _cache_bytes(kv_dtype) * batch * kv_len * key_width
        io_bytes = _OPERAND_BYTES * batch * n_heads * (key_width + latent_width)
        groups = ceil_div(n_heads, HEAD_ROWS)
        flops = latent_decode_flops(batch, kv_len, HEAD_ROWS * groups, key_width, latent_width)
        if isinstance(constants, UnsplitLatentConstants):
            return self._unsplit(constants, batch, kv_len, n_heads, kv_bytes + io_bytes, flops, key_width, latent_width)
        efficiency = constants.memory_efficiency
        return self._decoded(constants, kv_bytes, io_bytes, flops, batch * groups, kv_len, efficiency, 128.0)

    def _tiled(
        self, constants: TileConstants, batch: Number, seq_len: Number, past_len: Number, window: Number | None,
        n_heads: Number, n_kv_heads: Number, key_width: Number, value_width: Number, pass_: _Pass,
    ) -> Cost:  # fmt: skip
        keys = seq_len + past_len
        seen = keys if window is None else window
        n_bytes = attention_traffic_bytes(
            batch, seq_len, minimum(keys, seq_len + seen), pass_.query_traffic * n_heads,
            pass_.key_traffic * n_kv_heads, key_width, value_width, self.l2_bytes, _OPERAND_BYTES,
        )  # fmt: skip
        memory_s = n_bytes / (constants.memory_efficiency * self.byte_per_s)

        def compute_s(exponent: float) -> Any:
            return tiled_attention_compute_time(
                batch, seq_len, past_len, seen, n_heads, key_width, value_width, self.n_cores,
                self.attention_flop_per_s / pass_.work, constants.peak_efficiency, constants.block_tiles,
                constants.lone_share, exponent,
            )  # fmt: skip

        def law(tiles_s: Any) -> Any:
            return fused_attention_time(
                tiles_s, n_bytes, self.byte_per_s, constants.memory_efficiency, constants.launch_s
            )

        tiles_s = compute_s(constants.exponent)
        return Cost(law(tiles_s), maximum(tiles_s, memory_s), law(compute_s(1.0)), tiles_s, memory_s)

    def _decoded(
        self, constants: DecodeConstants, kv_bytes: Number, io_bytes: Number, flops: Number, units: Number,
        kv_len: Number, efficiency: Number, max_splits: Number,
    ) -> Cost:  # fmt: skip
        compute_s = flops / (constants.compute_efficiency * self.attention_flop_per_s)
        memory_s = (kv_bytes + io_bytes) / (efficiency * self.byte_per_s)

        def law(exponent: float) -> Number:
            return decode_attention_time(
                kv_bytes, io_bytes, compute_s, units, kv_len, self.n_cores, self.l2_bytes, self.byte_per_s, efficiency,
                constants.lone_speedup, constants.block_s, constants.cold_s, constants.launch_s, max_splits,
                exponent=exponent,
            )  # fmt: skip

        return Cost(law(constants.exponent), maximum(compute_s, memory_s), law(1.0), compute_s, memory_s)

    def _unsplit(
        self, constants: UnsplitLatentConstants, batch: Number, kv_len: Number, n_heads: Number, n_bytes: Number,
        flops: Number, key_width: Number, value_width: Number,
    ) -> Cost:  # fmt: skip
        memory_s = n_bytes / self.byte_per_s
        kernel_s = unsplit_latent_decode_time(
            batch, kv_len, n_heads, self.n_cores, self.attention_flop_per_s, constants.compute_efficiency,
            constants.pair_slowdown, constants.block_s, constants.launch_s, HEAD_ROWS,
            key_width=key_width, value_width=value_width,
        )  # fmt: skip
        seconds = maximum(kernel_s, constants.launch_s + memory_s)
        compute_s = flops / self.attention_flop_per_s
        return Cost(seconds, maximum(compute_s, memory_s), kernel_s + memory_s, seconds - constants.launch_s, memory_s)


def _cache_bytes(kv_dtype: str) -> float:
    if kv_dtype not in CACHE_BYTES_PER_ELEMENT:
        raise PlanError(unknown_name("precision of the cache", kv_dtype, CACHE_BYTES_PER_ELEMENT))
    return CACHE_BYTES_PER_ELEMENT[kv_dtype]


def _sixteen_bit_peak(accelerator: Accelerator) -> float:
    known = accelerator.peak_flop_per_s
    return plain(accelerator.peak("bf16" if "bf16" in known else "fp16" if "fp16" in known else "fp32"))
