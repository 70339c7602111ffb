"""The document of one priced kernel or message: where it stands under the roofline, what binds, how sure it is."""

from __future__ import annotations

import math
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import PlanError
from perfmodel.predict.kernel_estimates import (
    DECODE_LIBRARY,
    PREFILL_LIBRARY,
    Priced,
    priced_attention,
    priced_collective,
    priced_gemm,
)
from perfmodel.predict.records import Record, Warned
from perfmodel.predict.uncertainty import BEYOND
from perfmodel.specs.cluster import Cluster, cluster_reference, load_cluster
from perfmodel.specs.registry import data_version, reference

__all__ = ["KernelEstimate", "describe_attention", "describe_collective", "describe_gemm"]

_Z80 = 1.2816
# The median of |x| of a normal law is 0.6745 standard deviations.
_SPREAD_OF_MEDIAN = 1 / 0.6745


class KernelEstimate(Record):
    """One kernel or message: seconds, bounds, work, the data sheet beside it, and what binds.

    `roofline_s` is the time at data-sheet peaks without latency, `roofline_share` [1] its share of `seconds`. Keys of
    arithmetic are None for a message; `peak_byte_per_s` is the memory's, or the slowest link's, one direction.
    `algorithm` is the one that a message takes, and its protocol; None for a kernel.
    """

    document: str = "perfmodel/kernel-estimate/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    seconds: float
    lower_s: float
    upper_s: float
    interval_s: tuple[float, float]
    interval_level: float = 0.8
    flops: float
    n_bytes: float
    arithmetic_intensity_flop_per_byte: float | None
    machine_balance_flop_per_byte: float | None
    flop_per_s: float | None
    byte_per_s: float
    peak_flop_per_s: float | None
    peak_byte_per_s: float
    roofline_s: float
    roofline_share: float
    bound_by: str
    algorithm: str | None = None
    compute_s: float
    memory_s: float
    link_s: float
    warnings: tuple[Warned, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def describe_gemm(accelerator: Any, m: float, n: float, k: float, dtype: str = "bf16") -> KernelEstimate:
    """The document of `estimate_gemm`; one product, not arrays. Raises `PlanError` and `SpecError`."""
    priced = priced_gemm(accelerator, m, n, k, dtype)
    part = reference("accelerators", priced.accelerator)
    request = {"kernel": "gemm", "accelerator": part, "m": m, "n": n, "k": k, "dtype": dtype}
    return _described(priced, request, (f"matmul.{'bf16' if dtype == 'fp16' else dtype} ",))


def describe_attention(
    accelerator: Any,
    phase: str = "prefill",
    batch: float = 1,
    seq_len: float = 4096,
    n_heads: float = 32,
    n_kv_heads: float = 8,
    d_head: float = 128,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    library: str | None = None,
) -> KernelEstimate:
    """The document of `estimate_attention`; one kernel, not arrays. Raises `PlanError` and `SpecError`."""
    sizes = (batch, seq_len, n_heads, n_kv_heads, d_head)
    priced = priced_attention(accelerator, phase, *sizes, dtype, kv_dtype, library)
    part = reference("accelerators", priced.accelerator)
    request: dict[str, Any] = {"kernel": "attention", "accelerator": part, "phase": phase}
    request |= dict(zip(("batch", "seq_len", "n_heads", "n_kv_heads", "d_head"), sizes, strict=True))
    request |= {"dtype": dtype, "kv_dtype": kv_dtype, "library": library}
    named = library or (PREFILL_LIBRARY if phase == "prefill" else DECODE_LIBRARY)
    group = "attention" if phase == "prefill" else "decode"
    return _described(priced, request, (f"{group}.{named} ", f"{group}.{named}-{kv_dtype} "))


def describe_collective(
    cluster: Any,
    operation: str,
    n_bytes: float,
    ranks: float,
    ranks_per_node: float | None = None,
    algorithm: str = "auto",
    library: str | None = None,
) -> KernelEstimate:
    """The document of `estimate_collective`; one message, not arrays. Raises `PlanError` and `SpecError`."""
    machine: Cluster = load_cluster(cluster)
    priced = priced_collective(machine, operation, n_bytes, ranks, ranks_per_node, algorithm, library)
    request = {
        "kernel": "collective",
        "cluster": cluster_reference(machine),
        "accelerators": machine.accelerators,
        "operation": operation,
        "n_bytes": n_bytes,
        "ranks": ranks,
        "ranks_per_node": ranks_per_node,
        "algorithm": algorithm,
        "library": library,
    }
    return _described(
        priced, request, ("collective", "all_to_all", "in_network", "network", f"custom_all_reduce.{library} ")
    )


def _described(priced: Priced, request: dict[str, Any], blocks: tuple[str, ...]) -> KernelEstimate:
    cost, work, n_bytes = priced.cost, float(priced.flops), float(priced.n_bytes)
    seconds, peak = float(cost.seconds), priced.peak_flop_per_s
    if not math.isfinite(seconds) or not math.isfinite(work):
        raise PlanError(f"{request['kernel']}: these sizes are too large to price")
    warnings = _warnings(priced, blocks)
    spread = math.hypot(
        (priced.fit.held_out_error or priced.fit.fitted_error or BEYOND) * _SPREAD_OF_MEDIAN,
        BEYOND if warnings else 0.0,
    )
    return KernelEstimate(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=request,
        seconds=seconds,
        lower_s=float(cost.lower),
        upper_s=float(cost.upper),
        interval_s=(seconds * math.exp(-_Z80 * spread), seconds * math.exp(_Z80 * spread)),
        flops=work,
        n_bytes=n_bytes,
        arithmetic_intensity_flop_per_byte=None if peak is None else work / n_bytes,
        machine_balance_flop_per_byte=None if peak is None else peak / priced.peak_byte_per_s,
        flop_per_s=work / seconds if peak is not None else None,
        byte_per_s=n_bytes / seconds if seconds else 0.0,
        peak_flop_per_s=peak,
        peak_byte_per_s=priced.peak_byte_per_s,
        roofline_s=float(priced.roofline_s),
        roofline_share=float(priced.roofline_s) / seconds if seconds else 1.0,
        bound_by=cost.bound_by,
        algorithm=priced.algorithm,
        compute_s=float(cost.compute_s),
        memory_s=float(cost.memory_s),
        link_s=float(cost.link_s),
        warnings=warnings,
        notes=(
            *((f"algorithm: {priced.algorithm}",) if priced.algorithm else ()),
            f"constants: {priced.fit.table}, {priced.fit.how}",
        ),
        sources=_sources(priced),
    )


def _warnings(priced: Priced, blocks: tuple[str, ...]) -> tuple[Warned, ...]:
    """Which of these blocks of constants another accelerator lent, and what no table shows."""
    lent = [note for note in priced.efficiency.inherited if "inherits" in note or note.startswith(blocks)]
    part = priced.accelerator.id
    warned = [Warned(formula="efficiency", quantity=part, value=note, valid="own tables") for note in lent]
    warned += [
        Warned(formula="collective", quantity=what, value=f"no table measures {what}", valid="measured algorithms")
        for what in priced.unmeasured
    ]
    return tuple(warned)


def _sources(priced: Priced) -> tuple[str, ...]:
    own = priced.efficiency.sources.get(priced.fit.source)
    named = [own] if own is not None else []
    sheets = priced.accelerator.sources
    for quantity in (priced.accelerator.hbm_byte_per_s, priced.accelerator.link_byte_per_s):
        if quantity.source in sheets:
            named.append(sheets[quantity.source])
    return tuple(dict.fromkeys(f"{source.title}: {source.url}" for source in named))
