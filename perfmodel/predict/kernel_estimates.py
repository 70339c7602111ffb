"""One kernel or one message in seconds: `estimate_gemm`, `estimate_attention`, `estimate_collective`.

Sizes are numbers or arrays that broadcast; the answer is a float, or a float64 array when any size is an array.
`perfmodel.predict.kernel_documents` says the same at length for one kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.formulas.attention import attention_core_flops
from perfmodel.formulas.matmul import matmul_flops, mixed_matmul_bytes
from perfmodel.formulas.roofline import roofline_time
from perfmodel.ops import ceil_div, less, maximum, minimum, where
from perfmodel.predict.attention import CACHE_BYTES_PER_ELEMENT, AttentionKernels
from perfmodel.predict.communication import OPERATIONS, UNMEASURED, Links
from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.matmul import MATMUL_FORMATS, matmul_format
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.kernel_constants import Fit
from perfmodel.specs.quantity import Quantity

__all__ = ["PHASES", "Priced", "estimate_attention", "estimate_collective", "estimate_gemm"]

PHASES = ("prefill", "decode")
Seconds = float | NDArray[np.float64]
_Spec = str | Path | Mapping[str, Any]
PREFILL_LIBRARY, DECODE_LIBRARY = "flash-3", "vllm"
"""Kernels taken when none are named; both stand for every calibrated accelerator."""
_OPERANDS = ("fp16", "bf16")
"""Softmax and both products of attention run in 16 bits; only the cache has other precisions."""
_CAUSAL = 0.5
_LARGEST = 1e15


@dataclass(frozen=True, slots=True)
class Priced:
    """A priced kernel: its cost, its work [flop, B], the peaks that bound it, and where its constants are from.

    `roofline_s` is the time of the data sheet: peaks reached, no latency. For one message (no arrays) `algorithm` is
    the one that won, and `unmeasured` says what of it no table shows.
    """

    cost: Cost
    flops: Number
    n_bytes: Number
    roofline_s: Number
    peak_flop_per_s: float | None
    peak_byte_per_s: float
    fit: Fit
    efficiency: Efficiency
    accelerator: Accelerator
    algorithm: str | None = None
    unmeasured: tuple[str, ...] = ()


def estimate_gemm(accelerator: _Spec | Accelerator, m: Any, n: Any, k: Any, dtype: str = "bf16") -> Seconds:
    """Seconds of one matrix product (m, k) x (k, n) in `dtype`; raises `PlanError` and `SpecError`.

    >>> 1e-3 < estimate_gemm("h100-sxm", 8192, 8192, 8192) < 2e-3
    True
    """
    return _answer(priced_gemm(accelerator, m, n, k, dtype).cost.seconds)


def estimate_attention(
    accelerator: _Spec | Accelerator,
    phase: str = "prefill",
    batch: Any = 1,
    seq_len: Any = 4096,
    n_heads: Any = 32,
    n_kv_heads: Any = 8,
    d_head: Any = 128,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
    *,
    library: str | None = None,
) -> Seconds:
    """Seconds of causal attention of one layer: a prefill of `seq_len` tokens, or one decoded token over that many.

    `library` names the kernels (flash-3 for a prefill, vllm for decode by default). Raises `PlanError` and `SpecError`.
    """
    sizes = (batch, seq_len, n_heads, n_kv_heads, d_head)
    return _answer(priced_attention(accelerator, phase, *sizes, dtype, kv_dtype, library).cost.seconds)


def estimate_collective(
    cluster: _Spec | Cluster,
    operation: str,
    n_bytes: Any,
    ranks: Any,
    ranks_per_node: Any = None,
    algorithm: str = "auto",
    *,
    library: str | None = None,
) -> Seconds:
    """Seconds of one collective of `n_bytes` (DESIGN section 3 says of what) over `ranks` of a cluster.

    Ranks fill whole nodes unless `ranks_per_node` spreads them; a `send_recv` goes to the next rank, out of the node
    where the group leaves it. `algorithm` is "auto", the fastest of what libraries run (ring, tree, in_network; torus
    on a torus), or one of them, or for all_reduce also halving_doubling, star or hierarchical, which no table measures.
    `library` names a serving engine (vllm, sglang, tensorrt-llm) that brings its own all_reduce. Raises `PlanError`
    and `SpecError`.
    """
    return _answer(
        priced_collective(cluster, operation, n_bytes, ranks, ranks_per_node, algorithm, library).cost.seconds
    )


def priced_gemm(accelerator: _Spec | Accelerator, m: Any, n: Any, k: Any, dtype: str) -> Priced:
    """`estimate_gemm` with its work and its bounds."""
    m, n, k = _count("m", m), _count("n", n), _count("k", k)
    part, efficiency = _part(accelerator)
    if dtype not in MATMUL_FORMATS:
        raise PlanError(f"dtype: {unknown_name('precision', dtype, MATMUL_FORMATS)}")
    form, kernels = matmul_format(dtype), Kernels(part, efficiency, dtype)
    sizes = form.left_bytes, form.right_bytes, form.result_bytes
    return _priced(
        kernels.matmul(m, n, k),
        matmul_flops(m, n, k),
        mixed_matmul_bytes(m, n, k, 1.0, *sizes),
        kernels.flop_per_s,
        efficiency.matmul_constants(dtype).fit,
        efficiency,
        part,
    )


def priced_attention(
    accelerator: _Spec | Accelerator,
    phase: str,
    batch: Any,
    seq_len: Any,
    n_heads: Any,
    n_kv_heads: Any,
    d_head: Any,
    dtype: str,
    kv_dtype: str,
    library: str | None,
) -> Priced:
    """`estimate_attention` with its work and its bounds."""
    if phase not in PHASES:
        raise PlanError(unknown_name("phase", phase, PHASES))
    batch, seq_len = _count("batch", batch), _count("seq_len", seq_len)
    n_heads, n_kv_heads, d_head = _count("n_heads", n_heads), _count("n_kv_heads", n_kv_heads), _count("d_head", d_head)
    if np.any(np.mod(n_heads, n_kv_heads) != 0):
        raise PlanError(f"n_kv_heads: must divide n_heads, {_shown(n_heads)} (got {_shown(n_kv_heads)})")
    for name, value, known in (("dtype", dtype, _OPERANDS), ("kv_dtype", kv_dtype, CACHE_BYTES_PER_ELEMENT)):
        if value not in known:
            raise PlanError(f"{name}: {unknown_name('precision of attention', value, known)}")
    part, efficiency = _part(accelerator)
    kernels = AttentionKernels(part, efficiency)
    own_bytes, kv_bytes = CACHE_BYTES_PER_ELEMENT[dtype], CACHE_BYTES_PER_ELEMENT[kv_dtype]
    if phase == "prefill":
        library = library or PREFILL_LIBRARY
        fit = efficiency.attention_constants(library).fit
        cost = kernels.flash_attention(batch, seq_len, n_heads, n_kv_heads, d_head, library=library)
        flops = attention_core_flops(batch, seq_len, n_heads, d_head, _CAUSAL)
        n_bytes = batch * seq_len * d_head * 2 * (own_bytes * n_heads + kv_bytes * n_kv_heads)
    else:
        library = library or DECODE_LIBRARY
        fit = efficiency.decode_constants(library, kv_dtype).fit
        sizes = (batch, seq_len, n_heads, n_kv_heads, d_head)
        cost = kernels.decode_attention(*sizes, kv_dtype=kv_dtype, library=library)
        # One query instead of as many as keys.
        flops = attention_core_flops(batch, seq_len, n_heads, d_head, 1.0) / seq_len
        n_bytes = 2 * batch * d_head * (own_bytes * n_heads + kv_bytes * n_kv_heads * seq_len)
    return _priced(cost, flops, n_bytes, kernels.attention_flop_per_s, fit, efficiency, part)


def priced_collective(
    cluster: _Spec | Cluster,
    operation: str,
    n_bytes: Any,
    ranks: Any,
    ranks_per_node: Any,
    algorithm: str,
    library: str | None,
) -> Priced:
    """`estimate_collective` with its bounds; the data-sheet time has every link at its peak and no latency."""
    if operation not in OPERATIONS:
        raise PlanError(unknown_name("operation", operation, OPERATIONS))
    if algorithm not in (known := Links.algorithms(operation)):
        raise PlanError(unknown_name(f"algorithm of {operation}", algorithm, known))
    n_bytes, ranks = _positive("n_bytes", n_bytes), _count("ranks", ranks)
    machine = load_cluster(cluster)
    part = machine.accelerator
    efficiency = part.kernel_constants()
    stride = _stride(machine, ranks, ranks_per_node)
    if library is not None:
        efficiency.custom_all_reduce_constants(library)

    def price(links: Links, library: str | None) -> Cost:
        if operation != "send_recv":
            return links.collective(operation, n_bytes, ranks, stride, algorithm=algorithm, library=library)
        domain = float(machine.tiers[0].domain_accelerators or machine.accelerators)
        distance = where(less(domain + 0.5, ranks * stride), maximum(stride, domain), stride)
        return links.send_recv(n_bytes, distance) * minimum(ranks - 1, 1)

    links, ideal = Links(machine, efficiency), Links(_without_latency(machine), _data_sheet(efficiency))
    crossed = _tiers_crossed(machine, ranks * stride)
    inside = efficiency.all_to_all if operation == "all_to_all" and efficiency.all_to_all else efficiency.collective
    custom = efficiency.custom_all_reduce[library] if library is not None else None
    unmeasured = tuple(
        f"{tier.name}: {tier.routing} routing, {tier.spine_oversubscription:g} to 1"
        for tier in machine.tiers[1 : crossed + 1]
        if tier.congested
    )
    won = None
    if operation == "send_recv":
        won = "direct"
    elif np.ndim(n_bytes) == np.ndim(ranks) == np.ndim(stride) == 0:
        won = links.winner(operation, n_bytes, ranks, stride, algorithm=algorithm, library=library)
        unmeasured += tuple(f"{won} {operation}" for name in UNMEASURED if won.startswith(name))
    return Priced(
        cost=price(links, library),
        flops=0.0,
        n_bytes=n_bytes,
        roofline_s=price(ideal, None).seconds,
        peak_flop_per_s=None,
        peak_byte_per_s=float(machine.tiers[crossed].link_byte_per_s),
        fit=(efficiency.network if crossed else custom or inside["simple"]).fit,
        efficiency=efficiency,
        accelerator=part,
        algorithm=won,
        unmeasured=unmeasured,
    )


def _tiers_crossed(machine: Cluster, span: Number) -> int:
    """Position of the outermost tier that a group of so many accelerators (the largest of an array) uses."""
    sizes = [float(tier.domain_accelerators or machine.accelerators) for tier in machine.tiers[:-1]]
    return sum(1 for size in sizes if float(np.max(span)) > size)


def _without_latency(machine: Cluster) -> Cluster:
    none = Quantity(0.0, source="perfmodel")
    return machine.model_copy(
        update={"tiers": tuple(tier.model_copy(update={"latency_s": none}) for tier in machine.tiers)}
    )


def _priced(
    cost: Cost, flops: Number, n_bytes: Number, peak: float, fit: Fit, efficiency: Efficiency, part: Accelerator
) -> Priced:
    byte_per_s = float(part.hbm_byte_per_s)
    roofline_s = roofline_time(flops, n_bytes, peak, byte_per_s)
    return Priced(cost, flops, n_bytes, roofline_s, peak, byte_per_s, fit, efficiency, part)


def _part(what: _Spec | Accelerator) -> tuple[Accelerator, Efficiency]:
    accelerator = load_accelerator(what)
    return accelerator, accelerator.kernel_constants()


def _stride(machine: Cluster, ranks: Number, ranks_per_node: Any) -> Number:
    """The distance between neighbours, in accelerators; raises `PlanError` where the group does not fit."""
    per_node = float(machine.accelerators_per_node)
    inside: Number = per_node
    if ranks_per_node is not None:
        inside = _count("ranks_per_node", ranks_per_node)
        if np.any(inside > per_node):
            raise PlanError(
                f"ranks_per_node: {machine.id} has {per_node:g} accelerators in a node (got {_shown(inside)})"
            )
    # A node is only left when it is full.
    filled = ceil_div(ranks, inside) * per_node
    if np.any(np.where(np.asarray(ranks) <= inside, ranks, filled) > machine.accelerators):
        spread = "" if ranks_per_node is None else f", {_shown(inside)} in a node,"
        raise PlanError(
            f"ranks: {_shown(ranks)}{spread} do not fit into {machine.accelerators} accelerators; "
            f"scale the cluster: load_cluster({machine.id!r}, accelerators=N)"
        )
    return where(less(ranks, inside + 0.5), 1.0, per_node / inside)


def _data_sheet(efficiency: Efficiency) -> Efficiency:
    """The same part with every link at its peak and no latency."""
    perfect = {"launch_s": 0.0, "latency_s": 0.0, "link_efficiency": 1.0}
    simple = efficiency.collective["simple"].model_copy(update=perfect)
    network = perfect | {"tree_latency_s": 0.0, "tree_link_efficiency": 1.0}
    switch = efficiency.in_network
    return efficiency.model_copy(
        update={
            "collective": dict.fromkeys(efficiency.collective, simple),
            "all_to_all": {},
            "in_network": switch and switch.model_copy(update={"launch_s": 0.0, "link_efficiency": 1.0}),
            "network": efficiency.network.model_copy(update=network),
        }
    )


def _count(name: str, value: Any) -> Number:
    number = _number(name, value, "a whole number >= 1")
    if np.any(np.asarray(number) % 1 != 0) or np.any(np.asarray(number) < 1) or np.any(np.asarray(number) > _LARGEST):
        raise OutOfRangeError(f"{name}: must be a whole number >= 1 and at most {_LARGEST:g} (got {_shown(value)})")
    return number


def _positive(name: str, value: Any) -> Number:
    number = _number(name, value, "a number > 0")
    if np.any(np.asarray(number) <= 0):
        raise OutOfRangeError(f"{name}: must be a number > 0 (got {_shown(value)})")
    return number


def _number(name: str, value: Any, wanted: str) -> Number:
    """A float, or a float64 array; NaN, infinities, booleans and text are refused."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise OutOfRangeError(f"{name}: must be {wanted} (got {_shown(value)})")
    return array.astype(np.float64) if isinstance(value, (list, tuple, np.ndarray)) else float(value)


def _shown(value: Any) -> str:
    text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _answer(seconds: Any) -> Seconds:
    return np.asarray(seconds, dtype=np.float64) if isinstance(seconds, np.ndarray) else float(seconds)
