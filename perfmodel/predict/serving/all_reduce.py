"""The all-reduce of a serving engine after its own projections: its kernel, or NCCL."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from perfmodel.dual_array import flat
from perfmodel.formulas.serving import rounds_all_reduce_time
from perfmodel.ops import ceil, ceil_div, less, less_equal, maximum, minimum, where
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Number
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.serving_software import ServingSoftware

__all__ = ["EngineAllReduce", "two_shot_blocks"]

_ELEMENT_BYTES = 2.0
# What TensorRT-LLM 0.8 and 0.9 compile in: elements of one load, threads of a block and of a warp
# (cpp/tensorrt_llm/kernels/customAllReduceKernels.h).
_ELEMENTS_PER_THREAD, _THREADS, _WARP = 8.0, 1024, 32
# Longer messages go to NCCL; messages below these are read whole from every rank
# (AllreducePlugin::selectImplementation, the same versions).
_OWN_BYTES_OF_A_PAIR, _OWN_BYTES = 16e6, 8e6
_ONE_SHOT_BYTES_OF_FOUR, _ONE_SHOT_BYTES = 1e6, 5e5
# One block over NVLink: NCCL's limit for a channel (src/graph/tuning.cc, perChMaxRingLL128Bws).
_BLOCK_BYTE_PER_S = {"Ampere": 20e9, "Hopper": 36.7e9, "Blackwell": 40e9}


class EngineAllReduce:
    """Sums of 16-bit hidden states over tensor-parallel ranks; sizes are floats or float64 arrays."""

    def __init__(
        self, links: Links, accelerator: Accelerator, efficiency: Efficiency, software: ServingSoftware
    ) -> None:
        self._links, self._library, self._most = links, software.all_reduce_library, software.all_reduce_blocks
        self._block_byte_per_s = _BLOCK_BYTE_PER_S.get(accelerator.architecture)
        self._own = efficiency.custom_all_reduce_constants(self._library) if self._library else None

    def cost(self, tokens: Number, width: Number, ranks: Number) -> Cost:
        """The sum of (tokens, width) over `ranks`."""
        n_bytes = _ELEMENT_BYTES * tokens * width
        fastest = self._links.collective("all_reduce", n_bytes, ranks, library=self._library)
        if self._most is None or self._own is None or self._block_byte_per_s is None:
            return fastest
        rounds_s = self._rounds_s(n_bytes, ranks, float(self._most))
        other = self._links.collective("all_reduce", n_bytes, ranks)
        mine = less_equal(n_bytes, where(less(ranks, 2.5), _OWN_BYTES_OF_A_PAIR, _OWN_BYTES))
        seconds = where(less(ranks, 1.5), 0.0, where(mine, maximum(fastest.seconds, rounds_s), other.seconds))
        return Cost(seconds, minimum(fastest.lower, seconds), seconds, 0.0, 0.0, minimum(fastest.link_s, seconds))

    def _rounds_s(self, n_bytes: Number, ranks: Number, most: float) -> Number:
        assert self._own is not None
        latency_s = self._own.one_shot_launch_s + (ranks - 1) * self._own.one_shot_latency_s
        loads = ceil(n_bytes / (_ELEMENT_BYTES * _ELEMENTS_PER_THREAD))
        whole = minimum(most, ceil_div(loads, float(_THREADS)))
        blocks, rounds = two_shot_blocks(flat(ceil(loads / ranks)), int(most))
        one_shot_s = rounds_all_reduce_time(
            (ranks - 1) * n_bytes, whole, ceil_div(loads, whole * _THREADS), latency_s, self._block_byte_per_s
        )
        two_shot_s = rounds_all_reduce_time(
            2 * (ranks - 1) / ranks * n_bytes, blocks, rounds, latency_s, self._block_byte_per_s
        )
        small = where(less(ranks, 4.5), _ONE_SHOT_BYTES_OF_FOUR, _ONE_SHOT_BYTES)
        # A pair always reads the message whole.
        return where(less(n_bytes, where(less(ranks, 2.5), np.inf, small)), one_shot_s, two_shot_s)


def two_shot_blocks(loads: Number, most: int) -> tuple[Any, Any]:
    """Blocks of the two-shot kernel and the rounds of each, for `loads` of 16 bytes on a rank.

    Blocks must share the loads evenly: the fewest of at most 1024 threads that do, and if those are more than `most`,
    the largest of their divisors that is not. A prime factor above `most` thus stays in the rounds: 29 of 29 blocks'
    work on one block for the hidden size of Falcon-180B, 14848 = 2^9 * 29.

    >>> [float(one) for one in two_shot_blocks(128 * 14848 / 8 / 8, 24)]
    [1.0, 29.0]
    """
    found = np.vectorize(_shared_evenly, otypes=[float, float])(loads, most)
    return (float(found[0]), float(found[1])) if np.ndim(loads) == 0 else found


@lru_cache(maxsize=65536)
def _shared_evenly(loads: float, most: int) -> tuple[float, float]:
    threads = max(_WARP, _WARP * -(-int(loads) // _WARP))
    wanted = -(-threads // _THREADS)
    while threads % wanted:
        wanted += 1
    blocks = max(one for one in range(1, min(wanted, most) + 1) if wanted % one == 0)
    return float(blocks), float(wanted // blocks)
