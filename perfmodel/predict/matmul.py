"""One matrix product on one accelerator: the fastest of the tilings that a library offers, and its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel.dual import plain
from perfmodel.errors import PlanError, unknown_name
from perfmodel.formulas.matmul import (
    matmul_flops,
    mixed_matmul_bytes,
    sustained_time,
    tile_count,
    tile_edge_time,
    tile_loop_time,
    tiled_compute_time,
    tiled_matmul_time,
)
from perfmodel.formulas.roofline import roofline_time, serial_roofline_time
from perfmodel.ops import less_equal, minimum, where
from perfmodel.predict.cost import Cost, Number
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.kernel_constants import MatmulConstants

__all__ = ["MATMUL_FORMATS", "MatmulFormat", "TiledMatmul", "matmul_format"]

ROWS_PER_BLOCK = 16384
"""Rows of an array that are worked on together: their intermediate results stay in cache."""
_SMALL_CORES = 16
PARTIAL_BYTES = 4.0
"""Size of a partial sum, single precision."""


@dataclass(frozen=True, slots=True)
class MatmulFormat:
    """Whose peak a product in that format has, and the sizes of its elements [B], scales included."""

    peak: str
    left_bytes: float
    right_bytes: float
    result_bytes: float = 2.0


MATMUL_FORMATS: Mapping[str, MatmulFormat] = {
    "fp32": MatmulFormat("fp32", 4.0, 4.0, 4.0),
    "tf32": MatmulFormat("tf32", 4.0, 4.0, 4.0),
    "fp16": MatmulFormat("fp16", 2.0, 2.0),
    "bf16": MatmulFormat("bf16", 2.0, 2.0),
    "int8": MatmulFormat("int8", 1.0, 1.0),
    "fp8": MatmulFormat("fp8", 1.0, 1.0),
    # One byte of scale for 32 elements.
    "mxfp8": MatmulFormat("fp8", 1.0 + 1.0 / 32, 1.0 + 1.0 / 32),
    # A single-precision scale for 1 x 128 activations and for 128 x 128 weights.
    "fp8-block": MatmulFormat("fp8", 1.0 + 4.0 / 128, 1.0 + 4.0 / 128**2),
    # One byte of scale for 16 elements.
    "nvfp4": MatmulFormat("nvfp4", 0.5 + 1.0 / 16, 0.5 + 1.0 / 16),
    "int8-weight-only": MatmulFormat("fp16", 2.0, 1.0),
    "int4-weight-only": MatmulFormat("fp16", 2.0, 0.5),
}


def matmul_format(dtype: str) -> MatmulFormat:
    """The format of that name; raises `PlanError`."""
    if dtype not in MATMUL_FORMATS:
        raise PlanError(unknown_name("format of a matrix product", dtype, MATMUL_FORMATS))
    return MATMUL_FORMATS[dtype]


class TiledMatmul:
    """Matrix products in one format with the constants of one library; sizes are floats or float64 arrays.

    `steady` leaves the slowdown of a lasting load to the caller, who knows the load.
    """

    def __init__(self, accelerator: Accelerator, dtype: str, constants: MatmulConstants, steady: bool = False) -> None:
        self.format = matmul_format(dtype)
        # In a lasting load the clocks are those of the load, not of the single product.
        self.sustained_slowdown = 0.0 if steady else constants.sustained_slowdown
        self.n_cores = float(accelerator.n_cores)
        # Tiles and their overheads are those of many small cores; a part of a few large ones has arrays of its own.
        few = self.n_cores < _SMALL_CORES
        self.constants = constants = constants.model_copy(update={"tiles": ()}) if few else constants
        self.flop_per_s = constants.compute_efficiency * plain(accelerator.peak(self.format.peak))
        self.byte_per_s = constants.memory_efficiency * plain(accelerator.hbm_byte_per_s)
        self.core_byte_per_s = constants.core_load_ratio * plain(accelerator.hbm_byte_per_s) / self.n_cores

    def cost(self, m: Number, n: Number, k: Number, count: Number, extra_bytes: Number) -> Cost:
        """`count` products (m, k) x (k, n) in one launch that moves `extra_bytes` [B] more."""
        form, constants = self.format, self.constants
        n_bytes = mixed_matmul_bytes(m, n, k, count, form.left_bytes, form.right_bytes, form.result_bytes) + extra_bytes
        flops = matmul_flops(m, n, k, count)
        quantise_s = constants.quantise_bytes * count * m * k / self.byte_per_s
        compute_s, memory_s = flops / self.flop_per_s, n_bytes / self.byte_per_s
        tiled_s = _in_blocks(self.fastest_tiling_s, m, n, k, count)
        floor_s = constants.launch_s + quantise_s
        burst_s = tiled_matmul_time(tiled_s, memory_s, constants.exponent, constants.launch_s, quantise_s)
        serial_s = floor_s + serial_roofline_time(tiled_s, memory_s, 1.0, 1.0)
        settling = self.sustained_slowdown, constants.settle_s
        return Cost(
            sustained_time(burst_s, *settling),
            roofline_time(flops, n_bytes, self.flop_per_s, self.byte_per_s),
            sustained_time(serial_s, *settling),
            compute_s,
            memory_s + quantise_s,
        )

    def fastest_tiling_s(self, m: Number, n: Number, k: Number, count: Number) -> Any:
        """Time of the arithmetic of the best of the library's tile shapes and splits [s]."""
        constants = self.constants
        if not constants.tiles:
            return matmul_flops(m, n, k, count) / self.flop_per_s
        joins = [self._split(m, n, k, count, split) for split in constants.splits]
        seconds = []
        for tile_m, tile_n in constants.tiles:
            tiles = tile_count(m, n, float(tile_m), float(tile_n), count)
            loop_s, edge_s = self._tile(m, n, k, float(tile_m), float(tile_n))
            seconds += [
                tiled_compute_time(tiles, loop_s, edge_s, self.n_cores, constants.wave_quantisation, split, join_s)
                for split, join_s in joins
            ]
        return minimum(*seconds)

    def _tile(self, m: Number, n: Number, k: Number, tile_m: float, tile_n: float) -> tuple[Any, Any]:
        form, constants = self.format, self.constants
        core_flop_per_s = self.flop_per_s / self.n_cores
        loop_s = tile_loop_time(
            m, n, k, tile_m, tile_n, core_flop_per_s, self.core_byte_per_s, form.left_bytes, form.right_bytes
        )
        edge_s = tile_edge_time(
            m,
            tile_m,
            tile_n,
            self.byte_per_s / self.n_cores,
            constants.epilogue_share,
            constants.tile_s,
            form.result_bytes,
        )
        return loop_s, edge_s

    def _split(self, m: Number, n: Number, k: Number, count: Number, split: int) -> tuple[Any, Any]:
        """The parts that `k` allows, and the time to write, read and add them [s]."""
        if split == 1:
            return 1.0, 0.0
        constants = self.constants
        allowed = less_equal(float(split * constants.least_k), k)
        join_s = constants.split_s + 2 * PARTIAL_BYTES * split * count * m * n / self.byte_per_s
        return where(allowed, float(split), 1.0), where(allowed, join_s, 0.0)


def _in_blocks(law: Any, *sizes: Number) -> Any:
    """`law(*sizes)`, long arrays in blocks that stay in cache."""
    shape = np.broadcast_shapes(*(np.shape(size) for size in sizes))
    if int(np.prod(shape)) <= ROWS_PER_BLOCK:
        return law(*sizes)
    flat = [np.broadcast_to(size, shape).reshape(-1) if np.ndim(size) else size for size in sizes]
    seconds = np.empty(int(np.prod(shape)))
    for start in range(0, seconds.size, ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        seconds[rows] = law(*(size[rows] if np.ndim(size) else size for size in flat))
    return seconds.reshape(shape)
