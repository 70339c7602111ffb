"""Which sizes are measured on a CPU and on a GPU: fixed lists, no size chosen by what the model gets right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from perfmodel.calibrate.machine.operations import Operation

__all__ = ["cpu_operations", "cuda_operations", "message_operations"]

_CPU_COPY_BYTES, _CUDA_COPY_BYTES = 1 << 26, 1 << 31
_CPU_PAIRS = (
    (256, 256), (256, 1024), (1024, 256), (512, 512), (512, 2048), (2048, 512), (1024, 1024), (768, 3072), (3072, 768),
)  # fmt: skip
_CPU_QUICK_PAIRS = ((256, 256), (256, 1024), (512, 512), (1024, 512), (1024, 1024), (768, 2048))
_CPU_ROWS, _CPU_QUICK_ROWS = (1, 2, 4, 16, 64, 256, 1024), (1, 4, 16, 128, 256)
_CPU_HEADS = ((2, 2, 128), (4, 4, 64), (8, 2, 64), (8, 8, 64), (16, 4, 128), (16, 16, 64))
_CUDA_PAIRS = (
    (1024, 1024), (1024, 8192), (2048, 2048), (4096, 4096), (4096, 14336), (6144, 4096), (8192, 1024), (8192, 8192),
    (14336, 4096), (16384, 2048), (28672, 8192), (2048, 16384),
)  # fmt: skip
_CUDA_ROWS = (1, 8, 16, 32, 64, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
_CUDA_HEADS = ((8, 8, 64), (16, 16, 128), (32, 4, 128), (32, 8, 128), (32, 32, 128), (64, 8, 128))


def cpu_operations(quick: bool, most_flops: float) -> list[Operation]:
    """Operations of the NumPy path in single precision; products of more than `most_flops` [flop] are left out."""
    pairs, rows = (_CPU_QUICK_PAIRS, _CPU_QUICK_ROWS) if quick else (_CPU_PAIRS, _CPU_ROWS)
    lengths, caches = ((128, 256), (256, 1024)) if quick else ((128, 256, 512, 1024), (256, 1024, 4096))
    elements = [1 << power for power in (range(13, 24, 2) if quick else range(13, 24))]
    return [
        *(one for one in _products("fp32", pairs, rows) if _flops(one) <= most_flops),
        *_attention("prefill", "fp32", _CPU_HEADS, ((1, length) for length in lengths)),
        *_attention("decode", "fp32", _CPU_HEADS, ((batch, length) for batch in (1, 4) for length in caches)),
        *(Operation("elementwise", "fp32", (size, operands)) for size in elements for operands in (2, 3)),
        Operation("copy", "fp32", (_CPU_COPY_BYTES,)),
    ]


def cuda_operations(quick: bool, dtypes: Iterable[str], memory_bytes: float) -> list[Operation]:
    """Operations of the PyTorch path: products in `dtypes`, attention in bf16, copies; within an eighth of memory."""
    pairs, rows = (_CUDA_PAIRS[:9], _CUDA_ROWS[::2]) if quick else (_CUDA_PAIRS, _CUDA_ROWS)
    lengths = (256, 1024, 4096) if quick else (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
    prompts = [(batch, length) for batch in (1, 4) for length in lengths]
    caches = [(batch, length) for batch in (1, 8, 64) for length in (512, 2048, 8192, 32768)]
    elements = [1 << power for power in range(14, 29, 2)]
    found = [
        *(one for dtype in dtypes for one in _products(dtype, pairs, rows)),
        *_attention("prefill", "bf16", _CUDA_HEADS, prompts),
        *_attention("backward", "bf16", _CUDA_HEADS[::2], [p for p in prompts if 1024 <= p[1] <= 8192]),
        *_attention("decode", "bf16", _CUDA_HEADS, caches[::2] if quick else caches),
        *(Operation("elementwise", "bf16", (size, operands)) for size in elements for operands in (2, 3)),
        Operation("copy", "bf16", (_CUDA_COPY_BYTES,)),
    ]
    return [one for one in found if _memory(one) <= memory_bytes / 8]


def message_operations(ranks: int, quick: bool) -> list[Operation]:
    """Messages of 1 KiB to 256 MiB among 2, 4, ... `ranks` devices."""
    groups = [size for size in (2, 4, 8, 16) if size <= ranks]
    powers = range(10, 29, 3 if quick else 1)
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
    return [Operation(kind, "bf16", (size, 1 << power)) for kind in kinds for size in groups for power in powers]


def _products(dtype: str, pairs: Iterable[tuple[int, int]], rows: tuple[int, ...]) -> Iterator[Operation]:
    yield from (Operation("matmul", dtype, (m, n, k)) for n, k in pairs for m in rows)


def _attention(
    kind: str, dtype: str, heads: Iterable[tuple[int, int, int]], lengths: Iterable[tuple[int, int]]
) -> Iterator[Operation]:
    pairs = list(lengths)
    yield from (Operation(kind, dtype, (*pair, *head)) for head in heads for pair in pairs)


def _flops(operation: Operation) -> float:
    m, n, k = operation.sizes
    return 2.0 * m * n * k


def _memory(operation: Operation) -> float:
    """About the bytes [B] that an operation's operands take."""
    sizes = operation.named()
    if operation.kind in ("prefill", "backward", "decode"):
        length = sizes.get("seq_len", sizes.get("kv_len", 0))
        return 16.0 * sizes["batch"] * length * sizes["n_heads"] * sizes["d_head"]
    if operation.kind == "matmul":
        return 4.0 * (sizes["m"] * sizes["k"] + sizes["k"] * sizes["n"] + sizes["m"] * sizes["n"])
    return 8.0 * sizes.get("elements", 0) + 2.0 * sizes.get("n_bytes", 0)
