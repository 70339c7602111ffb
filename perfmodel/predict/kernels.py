"""What a kernel costs on one accelerator: formulas with the constants of that part."""

from __future__ import annotations

from perfmodel.formulas.elementwise import elementwise_time
from perfmodel.predict.attention import AttentionKernels
from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.matmul import TiledMatmul, matmul_format
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency

__all__ = ["BYTES_PER_ELEMENT", "STEADY_LOAD_S", "Kernels"]

STEADY_LOAD_S = 0.04
"""How far the 16-bit tables of all accelerators see clocks settle: each holds five kernels that take longer."""

BYTES_PER_ELEMENT = {"fp32": 4.0, "tf32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0}


class Kernels(AttentionKernels):
    """The kernels of one accelerator in one precision; sizes are floats or float64 arrays that broadcast.

    `load_s` [s] is how long the device has been at full load: 0 for a kernel alone, `STEADY_LOAD_S` inside a step.
    """

    def __init__(self, accelerator: Accelerator, efficiency: Efficiency, dtype: str, load_s: float = 0.0) -> None:
        super().__init__(accelerator, efficiency)
        self.dtype = dtype
        form = matmul_format(dtype)
        self.bytes_per_element = BYTES_PER_ELEMENT.get(dtype, form.left_bytes)
        self.flop_per_s = float(accelerator.peak(form.peak))
        self._matmul = TiledMatmul(accelerator, dtype, efficiency.matmul_constants(dtype), load_s)

    def matmul(self, m: Number, n: Number, k: Number, count: Number = 1.0, extra_bytes: Number = 0.0) -> Cost:
        """`count` products (m, k) x (k, n) in one launch, moving `extra_bytes` [B] beyond operands and result."""
        return self._matmul.cost(m, n, k, count, extra_bytes)

    def elementwise(self, n_bytes: Number, library: str, launches: float = 1.0) -> Cost:
        """`launches` memory-bound kernels that move `n_bytes` [B] together."""
        constants = self.efficiency.elementwise_constants(library)
        seconds = elementwise_time(n_bytes, self.byte_per_s, constants.memory_efficiency, launches, constants.launch_s)
        busy = n_bytes / (constants.memory_efficiency * self.byte_per_s)
        return Cost(seconds, busy, seconds, 0.0, busy)
