"""Kernels and messages against the shipped tables: held-out errors, the data sheet beside them, and transfer.

A family is one table of one accelerator (and one library or operation). Its error is |ln(predicted / measured)| over
rows whose group may not calibrate. Transfer predicts an accelerator with another's constants and its own data sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel._version import __version__
from perfmodel.errors import PerfModelError
from perfmodel.formulas.attention import attention_core_flops
from perfmodel.formulas.collectives import ring_all_gather_time, ring_all_reduce_time
from perfmodel.formulas.matmul import matmul_flops, mixed_matmul_bytes
from perfmodel.formulas.roofline import roofline_time
from perfmodel.predict.attention import CACHE_BYTES_PER_ELEMENT, AttentionKernels
from perfmodel.predict.communication import Links
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.records import Record
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.efficiency import Efficiency, load_efficiency
from perfmodel.specs.registry import data_version, ids
from perfmodel.validation.kernel_tables import Table, is_calibrate, load_roles, load_table, table_names
from perfmodel.validation.layer_ops import OPERATIONS, data_sheet_seconds, layer_op_seconds, measured_seconds
from perfmodel.validation.moe_scores import moe_families

__all__ = ["KernelReport", "KernelScore", "run_kernels"]

Floats = NDArray[np.float64]
_LIMITS = {"attention_prefill_bf16": 1024, "mla_prefill": 1024}
"""Shortest prefill [tokens] that a score counts."""
LARGE_CACHE_BYTES = 64e6


class KernelScore(Record):
    """One family on one accelerator; errors are medians and 90th percentiles of |ln(predicted / measured)|.

    `rows` are held out, `calibrated_rows` may have been fitted; `data_sheet_*` is the roofline or the ring at peak
    without latency; `transfer_*` has the constants of `transfer_from`. `refused` says why nothing was predicted.
    """

    table: str
    family: str
    accelerator: str
    scope: str = ""
    rows: int
    calibrated_rows: int
    median: float | None = None
    p90: float | None = None
    bias: float | None = None
    calibrated_median: float | None = None
    data_sheet_median: float | None = None
    data_sheet_p90: float | None = None
    transfer_from: str | None = None
    transfer_median: float | None = None
    refused: str = ""


class KernelReport(Record):
    """Every family of the shipped kernel tables."""

    document: str = "perfmodel/kernel-validation/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    families: tuple[KernelScore, ...]


@dataclass(frozen=True)
class _Family:
    """Rows of one kind, how they are predicted with some constants, and what the data sheet alone says [s]."""

    name: str
    scope: str
    rows: Table
    predict: Callable[[Efficiency], Floats]
    data_sheet: Floats
    measured: Floats


def run_kernels(table: str | None = None) -> KernelReport:
    """Score every shipped kernel table, or one; raises `SpecError` for a broken accelerator."""
    names = [name for name in table_names() if table in (None, name)]
    scores = [score for name in names for score in _scores(name)]
    return KernelReport(
        perfmodel_version=__version__, data_version=data_version(), request={"tables": names}, families=tuple(scores)
    )


def _scores(table: str) -> Iterator[KernelScore]:
    every = load_table(table)
    for id in sorted(set(every["accelerator"].tolist())):
        accelerator = load_accelerator(id)
        for family in _families(table, accelerator, every[every["accelerator"] == id]):
            yield _score(table, accelerator, family)


def _score(table: str, accelerator: Accelerator, family: _Family) -> KernelScore:
    fit = is_calibrate(table, family.rows) if table in load_roles() else np.zeros(len(family.rows), dtype=bool)
    counts = {"rows": int((~fit).sum()), "calibrated_rows": int(fit.sum())}
    facts = {"table": table, "family": family.name, "accelerator": accelerator.id, "scope": family.scope} | counts
    plain = np.abs(np.log(family.data_sheet / family.measured))[~fit]
    sheet = {"data_sheet_median": float(np.median(plain)), "data_sheet_p90": float(np.quantile(plain, 0.9))}
    try:
        own = accelerator.kernel_constants()
        predicted = family.predict(own)
    except PerfModelError as problem:
        return KernelScore(**facts, **sheet, refused=str(problem))
    error = np.log(predicted / family.measured)
    held_out = np.abs(error)[~fit]
    return KernelScore(
        **facts,
        **sheet,
        median=float(np.median(held_out)),
        p90=float(np.quantile(held_out, 0.9)),
        bias=float(np.median(error[~fit])),
        calibrated_median=float(np.median(np.abs(error)[fit])) if fit.any() else None,
        **_transfer(accelerator, family, fit, predicted),
    )


def _transfer(accelerator: Accelerator, family: _Family, fit: NDArray[np.bool_], predicted: Floats) -> dict[str, Any]:
    """The nearest stranger with other constants: the relative, else an accelerator whose relative this is."""
    own = accelerator.kernel_constants()
    others = [own.relative] if own.relative else []
    others += [id for id in ids("efficiency") if load_efficiency(id).relative == accelerator.id]
    for other in others:
        try:
            seconds = family.predict(load_efficiency(str(other)))
        except PerfModelError:
            continue
        if np.allclose(seconds, predicted, rtol=1e-9, atol=0):
            continue
        error = np.abs(np.log(seconds / family.measured))[~fit]
        return {"transfer_from": other, "transfer_median": float(np.median(error))}
    return {}


def _families(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    for prefix, make in _MAKERS.items():
        if table.startswith(prefix):
            yield from (family for family in make(table, accelerator, rows) if len(family.rows))
            return


def _columns(rows: Table, *names: str) -> list[Floats]:
    return [rows[name].astype(np.float64) for name in names]


def _seconds(rows: Table) -> Floats:
    return np.asarray(rows["latency_us"] * 1e-6, dtype=np.float64)


def _moe(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    for name, mine, predict, sheet in moe_families(accelerator, rows):
        yield _Family(name, "without rows marked slow", mine, predict, sheet, _seconds(mine))


def _gemm(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    short = accelerator.id.split("-")[0]
    dtype = table.removeprefix("gemm_").removeprefix(f"{short}_").replace("_", "-")
    m, n, k = _columns(rows, "m", "n", "k")
    form = matmul_format(dtype)
    n_bytes = mixed_matmul_bytes(m, n, k, 1.0, form.left_bytes, form.right_bytes, form.result_bytes)
    peaks = float(accelerator.peak(form.peak)), float(accelerator.hbm_byte_per_s)

    def predict(efficiency: Efficiency) -> Floats:
        return np.asarray(Kernels(accelerator, efficiency, dtype).matmul(m, n, k).seconds)

    sheet = roofline_time(matmul_flops(m, n, k), n_bytes, *peaks)
    yield _Family(f"matrix products, {dtype}", "all m, n, k", rows, predict, sheet, _seconds(rows))


def _prefill(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    for library in sorted(set(rows["library"].tolist())):
        mine = rows[(rows["library"] == library) & (rows["seq_len"] >= _LIMITS[table])]
        sizes = _columns(mine, "batch", "seq_len", "n_heads", "n_kv_heads", "d_head")
        # The newest FlashAttention is what vLLM's rows measured.
        block = "flash-3" if library == "vllm" else library

        def predict(efficiency: Efficiency, sizes: list[Floats] = sizes, block: str = block) -> Floats:
            return np.asarray(AttentionKernels(accelerator, efficiency).flash_attention(*sizes, library=block).seconds)

        batch, seq_len, n_heads, n_kv_heads, d_head = sizes
        flops = attention_core_flops(batch, seq_len, n_heads, d_head, 0.5)
        n_bytes = 4 * batch * seq_len * d_head * (n_heads + n_kv_heads)
        sheet = _attention_sheet(accelerator, flops, n_bytes)
        yield _Family(f"attention, prefill, {library}", "from 1024 tokens", mine, predict, sheet, _seconds(mine))


def _decode(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    for library, kv_dtype in sorted(set(zip(rows["library"].tolist(), rows["kv_dtype"].tolist(), strict=True))):
        mine = rows[(rows["library"] == library) & (rows["kv_dtype"] == kv_dtype)]
        batch, kv_len, n_heads, n_kv_heads, d_head = _columns(
            mine, "batch", "kv_len", "n_heads", "n_kv_heads", "d_head"
        )
        kv_bytes = 2 * CACHE_BYTES_PER_ELEMENT[kv_dtype] * batch * kv_len * n_kv_heads * d_head
        large = kv_bytes >= LARGE_CACHE_BYTES
        sizes = [column[large] for column in (batch, kv_len, n_heads, n_kv_heads, d_head)]

        def predict(
            efficiency: Efficiency, sizes: list[Floats] = sizes, kv_dtype: str = kv_dtype, library: str = library
        ) -> Floats:
            kernels = AttentionKernels(accelerator, efficiency)
            return np.asarray(kernels.decode_attention(*sizes, kv_dtype=kv_dtype, library=library).seconds)

        flops = (attention_core_flops(batch, kv_len, n_heads, d_head, 1.0) / kv_len)[large]
        sheet = _attention_sheet(accelerator, flops, (kv_bytes + 4 * batch * n_heads * d_head)[large])
        name = f"attention, decode, {library}, {kv_dtype} cache"
        yield _Family(name, "caches from 64 MB", mine[large], predict, sheet, _seconds(mine[large]))


def _mla(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    """Latent attention with the widths of DeepSeek-V3: 576 cached elements, heads of 192 and 128 when expanded."""
    decode = table == "mla_decode"
    for kv_dtype in sorted(set(rows["kv_dtype"].tolist())):
        mine = rows[rows["kv_dtype"] == kv_dtype]
        batch, length, n_heads = _columns(mine, "batch", "kv_len" if decode else "seq_len", "n_heads")
        element = CACHE_BYTES_PER_ELEMENT[kv_dtype]
        kv_bytes = 576 * element * batch * length
        keep = kv_bytes >= LARGE_CACHE_BYTES if decode else length >= _LIMITS[table]
        if decode:
            flops, n_bytes = 2 * (576 + 512) * batch * length * n_heads, kv_bytes + 2 * batch * n_heads * (576 + 512)
        else:
            flops, n_bytes = (192 + 128) * batch * length**2 * n_heads, 4 * (192 + 128) * batch * length * n_heads
        sizes = [column[keep] for column in (batch, length, n_heads)]

        def predict(efficiency: Efficiency, sizes: list[Floats] = sizes, kv_dtype: str = kv_dtype) -> Floats:
            kernels = AttentionKernels(accelerator, efficiency)
            law = kernels.mla_decode if decode else kernels.mla_prefill
            return np.asarray(law(*sizes, kv_dtype=kv_dtype, library="tensorrt-llm").seconds)

        sheet = _attention_sheet(accelerator, flops[keep], n_bytes[keep])
        scope = "caches from 64 MB" if decode else "from 1024 tokens"
        name = f"latent attention, {'decode' if decode else 'prefill'}, {kv_dtype} cache"
        yield _Family(name, scope, mine[keep], predict, sheet, _seconds(mine[keep]))


def _attention_sheet(accelerator: Accelerator, flops: Floats, n_bytes: Floats) -> Floats:
    return np.asarray(roofline_time(flops, n_bytes, float(accelerator.peak("bf16")), float(accelerator.hbm_byte_per_s)))


def _layer_ops(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    for operation in OPERATIONS:

        def predict(efficiency: Efficiency, operation: str = operation) -> Floats:
            return layer_op_seconds(operation, accelerator, efficiency, rows)

        sheet, measured = data_sheet_seconds(operation, accelerator, rows), measured_seconds(operation, rows)
        yield _Family(f"layer of vLLM, {operation}", "1 to 4096 tokens, 1 to 8 ranks", rows, predict, sheet, measured)


def _node(accelerator: Accelerator, accelerators: int = 8) -> Cluster:
    """The shipped cluster of this accelerator, scaled."""
    named = (load_cluster(id, accelerators=accelerators) for id in ids("clusters"))
    return next(cluster for cluster in named if cluster.accelerator.id == accelerator.id)


def _nccl(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    cluster, link = _node(accelerator), float(accelerator.link_byte_per_s)
    for operation in sorted(set(rows["operation"].tolist())):
        mine = rows[(rows["operation"] == operation) & (rows["n_bytes"] >= 1024)]
        n_bytes, ranks = _columns(mine, "n_bytes", "ranks")

        def predict(
            efficiency: Efficiency, operation: str = operation, n: Floats = n_bytes, p: Floats = ranks
        ) -> Floats:
            return np.asarray(Links(cluster, efficiency).collective(operation, n, p).seconds)

        ring = ring_all_reduce_time if operation == "all_reduce" else ring_all_gather_time
        sheet = ring(n_bytes, ranks, 0.0, 0.0, link)
        yield _Family(f"NCCL, {operation}", "2 to 8 ranks, from 1 KB", mine, predict, sheet, _seconds(mine))


def _custom(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    cluster, link = _node(accelerator), float(accelerator.link_byte_per_s)
    for engine in sorted(set(rows["engine"].tolist())):
        mine = rows[(rows["engine"] == engine) & (rows["n_bytes"] >= 1024)]
        n_bytes, ranks = _columns(mine, "n_bytes", "ranks")

        def predict(efficiency: Efficiency, engine: str = engine, n: Floats = n_bytes, p: Floats = ranks) -> Floats:
            return np.asarray(Links(cluster, efficiency).collective("all_reduce", n, p, library=engine).seconds)

        sheet = ring_all_reduce_time(n_bytes, ranks, 0.0, 0.0, link)
        yield _Family(f"all-reduce of {engine}", "2 to 8 ranks, from 1 KB", mine, predict, sheet, _seconds(mine))


def _efa(table: str, accelerator: Accelerator, rows: Table) -> Iterator[_Family]:
    n_bytes, ranks = rows["size_mib"] * float(2**20), rows["ranks"].astype(float)
    cluster = _node(accelerator, int(ranks.max()))
    rails = cluster.accelerators_per_node * float(cluster.tiers[1].link_byte_per_s)

    def predict(efficiency: Efficiency) -> Floats:
        return np.asarray(Links(cluster, efficiency).collective("all_reduce", n_bytes, ranks).seconds)

    sheet = ring_all_reduce_time(n_bytes, ranks, 0.0, 0.0, rails)
    measured = n_bytes / (rows["algbw_gb_per_s"] * 1e9)
    yield _Family("NCCL, all_reduce between nodes", "2 to 32 nodes, from 32 MiB", rows, predict, sheet, measured)


_MAKERS: dict[str, Callable[[str, Accelerator, Table], Iterator[_Family]]] = {
    "gemm_": _gemm,
    "attention_prefill": _prefill,
    "attention_decode": _decode,
    "mla_": _mla,
    "moe_": _moe,
    "vidur_layer": _layer_ops,
    "nccl": _nccl,
    "custom_all_reduce": _custom,
    "efa": _efa,
}
