"""One GPU through PyTorch, imported when it is needed: cuBLAS, the fused attention of PyTorch, copies, messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from perfmodel.calibrate.machine import sensors
from perfmodel.calibrate.machine.block import BlockShape, forward
from perfmodel.calibrate.machine.operations import Facts, Operation
from perfmodel.calibrate.machine.shapes import cuda_operations, message_operations
from perfmodel.calibrate.machine.torch_messages import message_times
from perfmodel.errors import MissingExtraError, PlanError

__all__ = ["MESSAGES", "TorchDevice", "finds_gpu", "known_part", "torch_module"]

MESSAGES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
_SHORTEST_REPETITION_S = 1e-3
_MOST_CALLS = 200
_COLD_BYTES = 2.56e8
_MOST_COPIES = 64
_PARTS = {
    "a100-sxm4-80gb": "a100-sxm-80gb", "a100-sxm4-40gb": "a100-sxm-40gb", "h100 80gb hbm3": "h100-sxm",
    "h100 pcie": "h100-pcie", "h200": "h200-sxm", "h800": "h800-sxm", "b200": "b200-sxm", "b300": "b300-sxm",
    "gb200": "gb200", "gb300": "gb300", "gh200 480gb": "gh200", "l40s": "l40s", "l4": "l4", "a40": "a40",
    "rtx a6000": "a6000", "v100-sxm2-32gb": "v100-sxm2-32gb", "geforce rtx 3090": "rtx-3090",
    "geforce rtx 4090": "rtx-4090", "geforce rtx 4070": "rtx-4070",
}  # fmt: skip
"""The driver's name of a part, without the vendor, and its data sheet."""
_NEAREST = ((10, "b200-sxm"), (9, "h100-sxm"), (0, "a100-sxm-80gb"))
"""Least compute capability, and whose kernel constants stand for what is not measured."""


def torch_module() -> Any:
    """PyTorch; raises `MissingExtraError`."""
    try:
        import torch  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise MissingExtraError("--device cuda: needs PyTorch; install it with: pip install torch") from None
    return torch


def finds_gpu() -> bool:
    """Whether PyTorch finds a GPU; raises `MissingExtraError`."""
    return bool(torch_module().cuda.is_available())


def known_part(name: str) -> str | None:
    """The shipped data sheet of a part by the name its driver gives; None where there is none."""
    return _PARTS.get(name.lower().removeprefix("nvidia "))


class TorchDevice:
    """GPU 0; short kernels run in captured graphs, so that launches do not hide them. Raises `PlanError` without one.

    `device` "cpu" runs the same code without a GPU, for tests.
    """

    kind = "cuda"

    def __init__(self, device: str = "cuda") -> None:
        self._torch = torch_module()
        if device == "cuda" and not self._torch.cuda.is_available():
            raise PlanError("--device cuda: PyTorch finds no GPU here")
        self._device = device
        self._watts = sensors.gpu_watts() if device == "cuda" else (None, None)
        self._dtypes = {"bf16": self._torch.bfloat16, "fp16": self._torch.float16, "tf32": self._torch.float32}

    def facts(self) -> Facts:
        cuda = self._torch.cuda
        part = cuda.get_device_properties(0)
        known = known_part(part.name)
        limit_w, idle_w = self._watts
        return Facts(
            name=part.name,
            vendor="NVIDIA" if self._torch.version.cuda else "AMD",
            architecture=f"compute capability {part.major}.{part.minor}",
            n_cores=part.multi_processor_count,
            memory_bytes=float(part.total_memory),
            last_cache_bytes=float(getattr(part, "L2_cache_size", 0) or 40 * 2**20),
            core_cache_bytes=float(getattr(part, "shared_memory_per_multiprocessor", 0) or 96 * 2**10),
            stack=f"PyTorch {self._torch.__version__}, CUDA {self._torch.version.cuda}",
            relative=known or next(id for least, id in _NEAREST if part.major >= least),
            is_relative=known is not None,
            limit_w=limit_w,
            idle_w=idle_w,
            count=cuda.device_count(),
            notes=("fp8 products are not measured: the tables of serving libraries count the cast with them",),
        )

    def operations(self, quick: bool) -> Sequence[Operation]:
        cuda = self._torch.cuda
        memory_bytes = float(cuda.mem_get_info()[0])
        messages = message_operations(cuda.device_count(), quick) if cuda.device_count() > 1 else []
        return [*cuda_operations(quick, ("bf16", "tf32"), memory_bytes), *messages]

    def repetitions(self, operation: Operation, repeats: int) -> Sequence[float]:
        if operation.kind in MESSAGES:
            return message_times(operation, repeats)
        with _Tf32(self._torch, operation.dtype == "tf32"):
            calls = getattr(self, f"_{operation.kind}")(operation.dtype, **operation.named())
            if operation.kind == "backward":
                return self._timed_backward(calls, repeats)
            return self._timed(calls, repeats)

    def block(self, shape: BlockShape, repeats: int) -> Sequence[float]:
        weights = [self._random(*size, dtype=shape.dtype) * size[0] ** -0.5 for size in shape.weights]
        tokens = self._random(shape.batch, shape.seq_len, shape.d_model, dtype=shape.dtype)
        with self._torch.no_grad():
            return self._timed(
                [lambda: forward(tokens, weights, shape, self._attention, self._torch.exp)], repeats, captured=False
            )

    def _matmul(self, dtype: str, m: int, n: int, k: int) -> list[Callable[[], Any]]:
        left, out = self._random(m, k, dtype=dtype), self._random(m, n, dtype=dtype)
        rights = self._cold(dtype, k, n)
        return [partial(self._torch.mm, left, right, out=out) for right in rights]

    def _prefill(
        self, dtype: str, batch: int, seq_len: int, n_heads: int, n_kv_heads: int, d_head: int
    ) -> list[Callable[[], Any]]:
        queries = self._random(batch, n_heads, seq_len, d_head, dtype=dtype)
        keys, values = (self._random(batch, n_kv_heads, seq_len, d_head, dtype=dtype) for _ in range(2))
        return [lambda: self._attention(queries, keys, values)]

    def _backward(
        self, dtype: str, batch: int, seq_len: int, n_heads: int, n_kv_heads: int, d_head: int
    ) -> list[Callable[[], Any]]:
        """Two calls: the forward pass, and the forward pass with its gradient."""
        shapes = (n_heads, n_kv_heads, n_kv_heads)
        inputs = [self._random(batch, h, seq_len, d_head, dtype=dtype).requires_grad_() for h in shapes]
        ones = self._random(batch, n_heads, seq_len, d_head, dtype=dtype)

        def whole() -> Any:
            return self._torch.autograd.grad(self._attention(*inputs), inputs, ones)

        return [lambda: self._attention(*inputs), whole]

    def _decode(
        self, dtype: str, batch: int, kv_len: int, n_heads: int, n_kv_heads: int, d_head: int
    ) -> list[Callable[[], Any]]:
        query = self._random(batch, n_heads, 1, d_head, dtype=dtype)
        caches = self._cold(dtype, 2, batch, n_kv_heads, kv_len, d_head)
        return [partial(self._attention, query, cache[0], cache[1], causal=False) for cache in caches]

    def _elementwise(self, dtype: str, elements: int, operands: int) -> list[Callable[[], Any]]:
        sets = self._cold(dtype, 3, elements)
        if operands == 2:
            return [partial(self._torch.exp, one[0], out=one[2]) for one in sets]
        return [partial(self._torch.add, one[0], one[1], out=one[2]) for one in sets]

    def _copy(self, dtype: str, n_bytes: int) -> list[Callable[[], Any]]:
        one, out = (self._random(n_bytes // 2, dtype=dtype) for _ in range(2))
        return [lambda: out.copy_(one)]

    def _attention(self, queries: Any, keys: Any, values: Any, causal: bool = True) -> Any:
        grouped = {"enable_gqa": True} if queries.shape[1] != keys.shape[1] else {}
        return self._torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=causal, **grouped
        )

    def _random(self, *shape: int, dtype: str) -> Any:
        return self._torch.randn(*shape, device=self._device, dtype=self._dtypes[dtype])

    def _cold(self, dtype: str, *shape: int) -> list[Any]:
        """As many operands of that shape as overflow the last cache, up to 64."""
        one = self._random(*shape, dtype=dtype)
        copies = min(_MOST_COPIES, 1 + int(_COLD_BYTES / (one.numel() * one.element_size())))
        return [one, *(one.clone() for _ in range(copies - 1))]

    def _timed_backward(self, calls: list[Callable[[], Any]], repeats: int) -> list[float]:
        forward_s, whole_s = (self._timed([call], repeats, captured=False) for call in calls)
        middle = sorted(forward_s)[len(forward_s) // 2]
        return [max(one - middle, 1e-9) for one in whole_s]

    def _timed(self, calls: list[Callable[[], Any]], repeats: int, *, captured: bool = True) -> list[float]:
        """Seconds of one call in each repetition of at least a millisecond, the calls in turn."""
        for call in calls[:3]:
            call()
        one_s = self._seconds_of(calls[0], 1)
        inner = min(_MOST_CALLS, max(len(calls) if captured else 1, int(_SHORTEST_REPETITION_S / max(one_s, 1e-6))))
        turns = [calls[turn % len(calls)] for turn in range(inner)]

        def run() -> None:
            for call in turns:
                call()

        run = self._captured(run) if captured else run
        run()
        return [self._seconds_of(run, inner) for _ in range(repeats)]

    def _captured(self, run: Callable[[], None]) -> Callable[[], None]:
        """The calls as one graph, so that the time is the device's; as they are where they cannot be captured."""
        if self._device != "cuda":
            return run
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.no_grad(), self._torch.cuda.graph(graph):
                run()
        except RuntimeError:
            self._torch.cuda.synchronize()
            return run
        replay: Callable[[], None] = graph.replay
        return replay

    def _seconds_of(self, run: Callable[[], Any], calls: int) -> float:
        if self._device != "cuda":
            began = perf_counter()
            run()
            return (perf_counter() - began) / calls
        start, stop = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) * 1e-3 / calls


class _Tf32:
    """Whether products of single precision may use TensorFloat-32, until the end of a block."""

    def __init__(self, torch: Any, allowed: bool) -> None:
        self._switch, self._allowed = torch.backends.cuda.matmul, allowed

    def __enter__(self) -> None:
        self._before, self._switch.allow_tf32 = self._switch.allow_tf32, self._allowed

    def __exit__(self, *_: object) -> None:
        self._switch.allow_tf32 = self._before
