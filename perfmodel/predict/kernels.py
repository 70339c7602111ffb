"""What a kernel costs on one accelerator: formulas with the constants of that part."""

from __future__ import annotations

from typing import Any

from perfmodel.formulas.attention import attention_core_flops, flash_attention_time, flash_efficiency
from perfmodel.formulas.elementwise import elementwise_time
from perfmodel.formulas.matmul import matmul_bytes, matmul_flops
from perfmodel.formulas.roofline import roofline_time, serial_roofline_time, smooth_roofline_time
from perfmodel.predict.cost import Cost, Number
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency

__all__ = ["BYTES_PER_ELEMENT", "Kernels"]

BYTES_PER_ELEMENT = {"fp32": 4.0, "tf32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0}


class Kernels:
    """The kernels of one accelerator in one precision; sizes are floats or float64 arrays that broadcast."""

    def __init__(self, accelerator: Accelerator, efficiency: Efficiency, dtype: str) -> None:
        self.dtype = dtype
        self.bytes_per_element = BYTES_PER_ELEMENT[dtype]
        self.flop_per_s = float(accelerator.peak(dtype))
        self.byte_per_s = float(accelerator.hbm_byte_per_s)
        self.efficiency = efficiency
        self._matmul = efficiency.matmul_constants(dtype)

    def matmul(self, m: Number, n: Number, k: Number, count: Number = 1.0, extra_bytes: Number = 0.0) -> Cost:
        """`count` products (m, k) x (k, n) in one launch, moving `extra_bytes` [B] beyond operands and result."""
        constants = self._matmul
        flops = matmul_flops(m, n, k, count)
        n_bytes = matmul_bytes(m, n, k, count, self.bytes_per_element) + extra_bytes
        flop_per_s = constants.compute_efficiency * self.flop_per_s
        byte_per_s = constants.memory_efficiency * self.byte_per_s
        seconds = smooth_roofline_time(
            flops,
            n_bytes,
            self.flop_per_s,
            self.byte_per_s,
            constants.compute_efficiency,
            constants.memory_efficiency,
            constants.exponent,
            constants.launch_s,
        )
        return Cost(
            seconds,
            roofline_time(flops, n_bytes, flop_per_s, byte_per_s),
            constants.launch_s + serial_roofline_time(flops, n_bytes, flop_per_s, byte_per_s),
            flops / flop_per_s,
            n_bytes / byte_per_s,
        )

    def elementwise(self, n_bytes: Number, library: str, launches: float = 1.0) -> Cost:
        """`launches` memory-bound kernels that move `n_bytes` [B] together."""
        constants = self.efficiency.elementwise_constants(library)
        seconds = elementwise_time(n_bytes, self.byte_per_s, constants.memory_efficiency, launches, constants.launch_s)
        busy = n_bytes / (constants.memory_efficiency * self.byte_per_s)
        return Cost(seconds, busy, seconds, 0.0, busy)

    def flash_attention(
        self,
        batch: Number,
        seq_len: Number,
        n_heads: Number,
        n_kv_heads: Number,
        d_head: float,
        *,
        library: str,
        backward: bool = False,
    ) -> Cost:
        """Fused causal attention over `seq_len`, forward or backward (2.5 times the arithmetic, five products)."""
        constants = self.efficiency.attention_constants(library)
        products: float = 2.5 if backward else 1.0
        slower: float = constants.backward_efficiency_ratio if backward else 1.0
        flops = products * attention_core_flops(batch, seq_len, n_heads, d_head, 0.5)
        n_bytes = products * self.bytes_per_element * batch * seq_len * d_head * 2 * (n_heads + n_kv_heads)
        efficiency = flash_efficiency(seq_len, constants.peak_efficiency * slower, constants.half_length)
        seconds: Any = flash_attention_time(
            flops,
            n_bytes,
            self.flop_per_s,
            self.byte_per_s,
            efficiency,
            constants.memory_efficiency,
            constants.launch_s,
        )
        compute_s = flops / (efficiency * self.flop_per_s)
        memory_s = n_bytes / (constants.memory_efficiency * self.byte_per_s)
        lower = roofline_time(compute_s, memory_s, 1.0, 1.0)
        return Cost(seconds, lower, constants.launch_s + compute_s + memory_s, compute_s, memory_s)
