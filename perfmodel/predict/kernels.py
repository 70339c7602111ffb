"""What a kernel costs on one accelerator: formulas with the constants of that part."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from perfmodel.dual import plain
from perfmodel.errors import PlanError
from perfmodel.formulas.elementwise import elementwise_time
from perfmodel.formulas.matmul import steady_slowdown
from perfmodel.predict.attention import AttentionKernels
from perfmodel.predict.cost import Cost, Number, total
from perfmodel.predict.grouped import GroupedMatmul
from perfmodel.predict.matmul import TiledMatmul, matmul_format
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency

__all__ = ["Kernels"]


_ACTIVATION_BYTES = {"fp32": 4.0, "tf32": 4.0}


class Kernels(AttentionKernels):
    """The kernels of one accelerator in one precision; sizes are floats or float64 arrays that broadcast.

    `steady` leaves the slowdown of a lasting load out of the products: `slowdown` says how much it is.
    `casts_apart` prices products whose operands arrive in their precision: a stack that casts in other kernels counts
    that traffic there, where the tables of serving libraries count it in the product.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        efficiency: Efficiency,
        dtype: str,
        *,
        steady: bool = False,
        casts_apart: bool = False,
    ) -> None:
        super().__init__(accelerator, efficiency)
        self.accelerator, self.dtype, self.steady = accelerator, dtype, steady
        form = matmul_format(dtype)
        # Between products activations are 16 bits wide, whatever the products' own precision.
        self.activation_bytes = _ACTIVATION_BYTES.get(dtype, 2.0)
        self.flop_per_s = plain(accelerator.peak(form.peak))
        constants = efficiency.matmul_constants(dtype)
        if casts_apart and constants.quantise_bytes:
            # The table's floor is that of two launches, the cast's and the product's.
            launch_s = min(constants.launch_s, efficiency.matmul_constants("bf16").launch_s)
            constants = constants.model_copy(update={"quantise_bytes": 0.0, "launch_s": launch_s})
        self._matmul = TiledMatmul(accelerator, dtype, constants, steady)

    @cached_property
    def _grouped(self) -> GroupedMatmul | None:
        """Grouped products, where a table of them was calibrated; elsewhere they are a batch of plain ones."""
        try:
            return GroupedMatmul(self.accelerator, self.efficiency, self.dtype)
        except PlanError:
            return None

    @property
    def is_narrow(self) -> bool:
        """Whether operands of products are cast to less than 16 bits."""
        return matmul_format(self.dtype).left_bytes < self.activation_bytes

    @property
    def reached(self) -> tuple[float, float]:
        """Shares of the data-sheet peaks that products reach at best: of arithmetic, of memory bandwidth [1]."""
        constants = self._matmul.constants
        return plain(constants.compute_efficiency), plain(constants.memory_efficiency)

    def in_sixteen_bits(self) -> Kernels:
        """The same accelerator in bf16, where this is a narrower precision: products that stacks leave in 16 bits."""
        if self.dtype in ("fp32", "tf32", "fp16", "bf16"):
            return self
        return Kernels(self.accelerator, self.efficiency, "bf16", steady=self.steady)

    def matmul(self, m: Number, n: Number, k: Number, count: Number = 1.0, extra_bytes: Number = 0.0) -> Cost:
        """`count` products (m, k) x (k, n) in one launch, moving `extra_bytes` [B] beyond operands and result."""
        return self._matmul.cost(m, n, k, count, extra_bytes)

    def products(self, m: Number, shapes: Sequence[tuple[float, float]]) -> Cost:
        """Products (m, k) x (k, n) of several (n, k), one after the other; many `m` price them in one call."""
        if not shapes or not isinstance(m, np.ndarray):
            return total(self.matmul(m, n, k) for n, k in shapes)
        n, k = np.array(shapes, dtype=float).T.reshape(2, -1, *(1,) * m.ndim)
        return self.matmul(m, n, k).summed()

    def slowdown(self, products_s: Number, all_s: Number) -> Number:
        """Time of a product over its burst time [1], in a lasting load of which products take their part."""
        return steady_slowdown(products_s / all_s, self._matmul.constants.sustained_slowdown)

    def grouped_matmul(self, m: Number, n: Number, k: Number, groups: Number) -> Cost:
        """`groups` products (m, k) x (k, n), each with weights of its own, in one launch."""
        if self._grouped is None:
            return self._matmul.cost(m, n, k, groups, 0.0)
        return self._grouped.product(m, n, k, groups)

    def elementwise(self, n_bytes: Number, library: str, launches: float = 1.0) -> Cost:
        """`launches` memory-bound kernels that move `n_bytes` [B] together."""
        constants = self.efficiency.elementwise_constants(library)
        seconds = elementwise_time(n_bytes, self.byte_per_s, constants.memory_efficiency, launches, constants.launch_s)
        busy = n_bytes / (constants.memory_efficiency * self.byte_per_s)
        return Cost(seconds, busy, seconds, 0.0, busy)
