"""How many kernels are priced a second, each family in one call over arrays."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from perfmodel._version import __version__
from perfmodel.predict.kernel_estimates import estimate_collective, estimate_gemm
from perfmodel.specs.cluster import load_cluster

__all__ = ["bench_kernels"]

_CALLS = 1_000_000
_RANKS = 64


def bench_kernels(repeats: int = 3) -> dict[str, Any]:
    """Seconds of a million matrix products of drawn sizes, and of as many all-reduces over 64 ranks."""
    cluster = load_cluster("dgx-h100", _RANKS)
    m, n, k = np.exp(np.random.default_rng(3).uniform(np.log(1), np.log(32768), (3, _CALLS))).round()
    n_bytes = np.logspace(3, 10, _CALLS)
    families: dict[str, Callable[[], object]] = {
        "matrix_products": lambda: estimate_gemm(cluster.accelerator, m, n, k, "bf16"),
        "all_reduces": lambda: estimate_collective(cluster, "all_reduce", n_bytes, _RANKS),
    }
    found: dict[str, Any] = {"document": "perfmodel/bench-kernels/1", "perfmodel_version": __version__, "calls": _CALLS}
    for name, price in families.items():
        found[f"{name}_s"] = min(_seconds(price) for _ in range(repeats))
    return found


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
