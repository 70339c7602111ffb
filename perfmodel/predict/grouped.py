"""The FFN of a mixture of experts on one rank: gather, gate and up, activation, down, and the sum per token."""

from __future__ import annotations

from typing import Any

from perfmodel.dual import plain
from perfmodel.formulas.grouped import expert_rows, group_tile_count, routed_activation_bytes
from perfmodel.formulas.matmul import matmul_flops, tile_loop_time, tiled_compute_time, tiled_matmul_time
from perfmodel.formulas.roofline import roofline_time
from perfmodel.formulas.sparse import expected_touched_groups, grouped_matmul_bytes
from perfmodel.ops import less, maximum, minimum, where
from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.matmul import matmul_format
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency

__all__ = ["GROUPED_LIBRARY", "GroupedMatmul"]

GROUPED_LIBRARY = "tensorrt-llm"
"""The library whose kernels are calibrated."""


class GroupedMatmul:
    """Routed experts in one format on one accelerator; sizes are floats or float64 arrays that broadcast.

    Raises `PlanError` for an unknown format, and where a library has no constants.
    """

    def __init__(
        self, accelerator: Accelerator, efficiency: Efficiency, dtype: str, library: str = GROUPED_LIBRARY
    ) -> None:
        self.format = matmul_format(dtype)
        self.constants = efficiency.grouped_constants(library, dtype)
        self.product_launch_s = efficiency.matmul_constants(dtype).launch_s
        self.n_cores = float(accelerator.n_cores)
        self.peak_byte_per_s = plain(accelerator.hbm_byte_per_s)
        self.flop_per_s = self.constants.compute_efficiency * plain(accelerator.peak(self.format.peak))
        self.byte_per_s = self.constants.memory_efficiency * self.peak_byte_per_s
        self.core_byte_per_s = self.constants.core_load_ratio * self.peak_byte_per_s / self.n_cores

    def ffn(
        self,
        tokens: Number,
        d_model: Number,
        d_ff: Number,
        local_experts: Number,
        experts_per_token: Number,
        gated: bool = True,
        imbalance: Number = 1.0,
        *,
        touched_experts: Number | None = None,
        summed_tokens: Number | None = None,
        evenness: Number = 0.0,
    ) -> Cost:
        """Forward pass of one rank's routed experts: top k included, the router's product and the exchange left out.

        `tokens` > 0 is the rank's fair share, tokens of all expert-parallel ranks over ranks: it receives `tokens *
        experts_per_token * imbalance` copies. `d_ff` is the width on this rank. `touched_experts` have copies (random
        routing when left out), `summed_tokens` results are written (its own when left out), and `evenness` [1] is 1
        where all touched experts hold equally many copies.
        """
        rows = expert_rows(tokens, experts_per_token, imbalance)
        fair_rows = expert_rows(tokens, experts_per_token)
        touched = expected_touched_groups(rows, local_experts) if touched_experts is None else touched_experts
        fair = (fair_rows, maximum(minimum(fair_rows, local_experts), 1.0))
        load = (rows, touched, evenness)
        inputs = 2.0 if gated else 1.0
        products = self._product(load, fair, inputs * d_ff, d_model) + self._product(load, fair, d_model, d_ff)
        written = tokens if summed_tokens is None else summed_tokens
        n_bytes = routed_activation_bytes(rows, written, d_model, d_ff, inputs - 1.0)
        around_s = self.constants.activation_passes * n_bytes / self.peak_byte_per_s
        around = Cost(around_s, around_s, around_s, 0.0, around_s)
        return self._launched(products + around, self.constants.launch_s)

    def product(self, rows_per_expert: Number, n: Number, k: Number, groups: Number) -> Cost:
        """One launch of `groups` products (rows_per_expert, k) x (k, n), each with weights of its own."""
        rows = rows_per_expert * groups
        return self._launched(self._product((rows, groups, 1.0), (rows, groups), n, k), self.product_launch_s)

    def _launched(self, work: Cost, launch_s: float) -> Cost:
        lower = maximum(work.compute_s, work.memory_s)
        return Cost(work.seconds + launch_s, lower, work.upper + launch_s, work.compute_s, work.memory_s)

    def _product(self, load: tuple[Number, Number, Number], fair: tuple[Number, Number], n: Number, k: Number) -> Cost:
        """One grouped product without its launch; `load` is rows, touched groups and evenness, `fair` rows, groups."""
        form, (rows, touched, _) = self.format, load
        n_bytes = grouped_matmul_bytes(rows, touched, n, k, form.left_bytes, form.right_bytes, form.result_bytes)
        flops = matmul_flops(rows, n, k)
        memory_s, tiled_s = n_bytes / self.byte_per_s, self._tuned_tiling_s(load, (*fair, 1.0), n, k)
        return Cost(
            tiled_matmul_time(tiled_s, memory_s, self.constants.exponent, 0.0),
            roofline_time(flops, n_bytes, self.flop_per_s, self.byte_per_s),
            tiled_s + memory_s,
            flops / self.flop_per_s,
            memory_s,
        )

    def _tuned_tiling_s(
        self, load: tuple[Number, Number, Number], fair: tuple[Number, Number, Number], n: Number, k: Number
    ) -> Any:
        """Arithmetic [s] of `load` with the tile that is fastest for `fair`: libraries are tuned on even loads."""
        best, chosen = None, None
        for tile_m, tile_n in self.constants.tiles:
            tile = float(tile_m), float(tile_n)
            fair_s, load_s = self._tiling_s(fair, n, k, *tile), self._tiling_s(load, n, k, *tile)
            if best is None:
                best, chosen = fair_s, load_s
            else:
                chosen = where(less(fair_s, best), load_s, chosen)
                best = minimum(fair_s, best)
        return chosen

    def _tiling_s(self, load: tuple[Number, Number, Number], n: Number, k: Number, tile_m: float, tile_n: float) -> Any:
        (rows, touched, evenness), form = load, self.format
        tiles = group_tile_count(rows, touched, n, tile_m, tile_n, evenness)
        loop_s = tile_loop_time(
            rows / touched, n, k, tile_m, tile_n,
            self.flop_per_s / self.n_cores, self.core_byte_per_s, form.left_bytes, form.right_bytes,
        )  # fmt: skip
        return tiled_compute_time(tiles, loop_s, 0.0, self.n_cores, 0.0)
