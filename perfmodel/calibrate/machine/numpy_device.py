"""The CPU of this machine through NumPy and its BLAS, single precision."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.machine import sensors
from perfmodel.calibrate.machine.block import BlockShape, forward
from perfmodel.calibrate.machine.operations import Facts, Operation
from perfmodel.calibrate.machine.shapes import cpu_operations

__all__ = ["NumpyDevice", "causal_attention", "repeated"]

_SHORTEST_REPETITION_S = 5e-5
_LONGEST_PRODUCT_S = 0.025
_ROWS = 128
Array = NDArray[np.float32]


class NumpyDevice:
    """`np.matmul` of the installed BLAS, causal attention in blocks of 128 rows, and element-wise ufuncs."""

    kind = "cpu"

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._last_cache_bytes = sensors.cpu_cache_bytes()[1]

    def facts(self) -> Facts:
        core_cache, last_cache = sensors.cpu_cache_bytes()
        vendor, name = sensors.cpu_name()
        limit_w, idle_w = sensors.cpu_watts()
        return Facts(
            name=name,
            vendor=vendor,
            architecture="CPU",
            n_cores=sensors.cores(),
            memory_bytes=sensors.memory_bytes(),
            last_cache_bytes=last_cache,
            core_cache_bytes=core_cache,
            stack=f"NumPy {np.__version__}, {_blas()}, {sensors.cores()} threads",
            relative="host-cpu",
            limit_w=limit_w,
            idle_w=idle_w,
        )

    def operations(self, quick: bool) -> Sequence[Operation]:
        """The list of `cpu_operations` up to products of some 25 ms, by the rate of one probe."""
        side = 768
        probe = sorted(self.repetitions(Operation("matmul", "fp32", (side, side, side)), 9))[4]
        return cpu_operations(quick, _LONGEST_PRODUCT_S * 2.0 * side**3 / probe)

    def repetitions(self, operation: Operation, repeats: int) -> Sequence[float]:
        return repeated(getattr(self, f"_{operation.kind}")(**operation.named()), repeats)

    def block(self, shape: BlockShape, repeats: int) -> Sequence[float]:
        """Seconds of one forward pass of a block in each repetition."""
        weights = [self._array(*size) * np.float32(size[0] ** -0.5) for size in shape.weights]
        tokens = self._array(shape.batch, shape.seq_len, shape.d_model)
        return repeated(lambda: forward(tokens, weights, shape, causal_attention, np.exp), repeats)

    def _matmul(self, m: int, n: int, k: int) -> Callable[[], Any]:
        left, out = self._array(m, k), np.empty((m, n), np.float32)
        return _in_turn([partial(np.matmul, left, right, out) for right in self._cold(k, n)])

    def _prefill(self, batch: int, seq_len: int, n_heads: int, n_kv_heads: int, d_head: int) -> Callable[[], Any]:
        queries = self._array(batch, n_kv_heads, n_heads // n_kv_heads, seq_len, d_head)
        keys, values = (self._array(batch, n_kv_heads, 1, seq_len, d_head) for _ in range(2))
        return lambda: causal_attention(queries, keys, values)

    def _decode(self, batch: int, kv_len: int, n_heads: int, n_kv_heads: int, d_head: int) -> Callable[[], Any]:
        query = self._array(batch, n_kv_heads, n_heads // n_kv_heads, d_head)
        caches = self._cold(2, batch, n_kv_heads, kv_len, d_head)
        return _in_turn([partial(_decoded, query, cache[0], cache[1]) for cache in caches])

    def _elementwise(self, elements: int, operands: int) -> Callable[[], Any]:
        sets = self._cold(3, elements)
        if operands == 2:
            return _in_turn([partial(np.exp, one[0], one[2]) for one in sets])
        return _in_turn([partial(np.add, one[0], one[1], one[2]) for one in sets])

    def _copy(self, n_bytes: int) -> Callable[[], Any]:
        one, out = self._array(n_bytes // 4), np.empty(n_bytes // 4, np.float32)
        return lambda: np.copyto(out, one)

    def _array(self, *shape: int) -> Array:
        return self._random.random(shape, dtype=np.float32)

    def _cold(self, *shape: int) -> list[Array]:
        """As many operands of that shape as overflow the last cache: the weights of a model are not there either."""
        one = self._array(*shape)
        copies = min(512, 1 + int(2 * self._last_cache_bytes / one.nbytes))
        return [one, *(one.copy() for _ in range(copies - 1))]


def causal_attention(queries: Array, keys: Array, values: Array) -> Array:
    """Causal attention in blocks of 128 rows over the keys they see; arrays are [..., sequence, d_head]."""
    seq_len, d_head = queries.shape[-2:]
    out = np.empty_like(queries)
    turned = np.swapaxes(keys, -1, -2)
    for start in range(0, seq_len, _ROWS):
        stop = min(start + _ROWS, seq_len)
        scores = np.matmul(queries[..., start:stop, :], turned[..., :stop])
        scores *= np.float32(d_head**-0.5)
        scores[..., start:] += np.triu(np.full((stop - start, stop - start), -np.inf, np.float32), 1)
        np.matmul(_softmax(scores), values[..., :stop, :], out=out[..., start:stop, :])
    return out


def repeated(call: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of one call in each of `repeats` repetitions of at least 50 microseconds, after two to warm up."""
    call()
    began = perf_counter()
    call()
    inner = max(1, int(_SHORTEST_REPETITION_S / max(perf_counter() - began, 1e-9)))
    times = []
    for _ in range(repeats):
        began = perf_counter()
        for _ in range(inner):
            call()
        times.append((perf_counter() - began) / inner)
    return times


def _decoded(query: Array, keys: Array, values: Array) -> Array:
    scores = np.matmul(query, np.swapaxes(keys, -1, -2))
    return np.matmul(_softmax(scores), values)


def _softmax(scores: Array) -> Array:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def _in_turn(calls: list[Callable[[], Any]]) -> Callable[[], Any]:
    turn = -1

    def call() -> Any:
        nonlocal turn
        turn = (turn + 1) % len(calls)
        return calls[turn]()

    return call


def _blas() -> str:
    build: Any = np.show_config(mode="dicts")
    library = build.get("Build Dependencies", {}).get("blas", {})
    pinned = os.environ.get("OPENBLAS_CORETYPE", "")
    return " ".join(filter(None, (library.get("name", "BLAS"), library.get("version", ""), pinned)))
