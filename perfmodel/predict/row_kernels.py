"""Memory-bound kernels of a serving layer, one block of threads a token: norm, gated activation, rotary embedding."""

from __future__ import annotations

from typing import Any

from perfmodel.dual import plain
from perfmodel.formulas.row_kernels import block_steps, resident_blocks, row_kernel_time, uncached_bytes
from perfmodel.ops import maximum, minimum
from perfmodel.predict.cost import Cost, Number
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency

__all__ = ["RowKernels"]

THREADS_PER_CORE = 2048.0
"""Of every data-centre GPU since 2016 (CUDA compute capabilities 6.0, 7.0, 8.0, 9.0, 10.0)."""
THREADS_PER_WARP = 32.0
# What vLLM launches: one thread an element, or a pair of elements of the rotary embedding, up to these.
NORM_THREADS, ACTIVATION_THREADS, ROTARY_THREADS = 1024.0, 1024.0, 512.0


class RowKernels:
    """vLLM's kernels on one accelerator, 16-bit elements unless said; sizes are floats or float64 arrays.

    `vector_elements` [1] that a thread loads at once: 1 in the measured kernels of 2024. With more a block needs fewer
    passes, and the traffic streams as that of matrix products does.
    """

    def __init__(
        self, accelerator: Accelerator, efficiency: Efficiency, library: str = "vllm", vector_elements: float = 1.0
    ) -> None:
        self.efficiency, self.library, self.vector_elements = efficiency, library, vector_elements
        self.byte_per_s = plain(accelerator.hbm_byte_per_s)
        self.cache_bytes = plain(accelerator.l2_bytes)
        self.n_cores = float(accelerator.n_cores)

    def norm(self, tokens: Number, d_model: Number, bytes_per_element: float = 2.0) -> Cost:
        """Root-mean-square norm: every element is read (the second time from cache) and written."""
        n_bytes = 2 * bytes_per_element * tokens * d_model
        threads = minimum(d_model, NORM_THREADS)
        return self._rows("norm", tokens, block_steps(d_model, threads), threads, n_bytes)

    def gated_activation(self, tokens: Number, d_ff: Number, bytes_per_element: float = 2.0) -> Cost:
        """SiLU of the gate times the other half, `d_ff` columns of this rank each: two are read, one is written."""
        n_bytes = 3 * bytes_per_element * tokens * d_ff
        threads = minimum(d_ff, ACTIVATION_THREADS)
        return self._rows("activation", tokens, block_steps(d_ff, threads), threads, n_bytes)

    def rotary_embedding(
        self, tokens: Number, n_heads: Number, n_kv_heads: Number, d_head: Number, bytes_per_element: float = 2.0
    ) -> Cost:
        """Rotary embedding of queries and keys in place, the heads of this rank, all of `d_head` rotated."""
        n_bytes = 2 * bytes_per_element * tokens * (n_heads + n_kv_heads) * d_head
        query_pairs, key_pairs = n_heads * d_head / 2, n_kv_heads * d_head / 2
        threads = minimum(query_pairs, ROTARY_THREADS)
        steps = block_steps(query_pairs, threads) + block_steps(key_pairs, threads)
        return self._rows("rope", tokens, steps, threads, n_bytes)

    def _rows(self, kernel: str, rows: Number, steps: Number, threads: Number, n_bytes: Any) -> Cost:
        constants = self.efficiency.elementwise_constants(f"{self.library}-{kernel}")
        share = constants.memory_efficiency
        if self.vector_elements > 1.0:
            steps = block_steps(steps, self.vector_elements)
            share = max(share, self.efficiency.matmul_constants("bf16").memory_efficiency)
        blocks = resident_blocks(self.n_cores, THREADS_PER_CORE, maximum(threads, THREADS_PER_WARP))
        from_memory = uncached_bytes(n_bytes, self.cache_bytes, constants.cached_share)
        seconds = row_kernel_time(
            rows, steps, blocks, constants.step_s, from_memory,
            self.byte_per_s, share, constants.launch_s,
        )  # fmt: skip
        busy = from_memory / (share * self.byte_per_s)
        return Cost(seconds, busy, seconds, 0.0, busy)
