"""How a sweep scales: the same scenarios on one worker and on two, in turn, for machines are shared and noisy."""

from __future__ import annotations

import os
import time
from statistics import median
from typing import Any

from perfmodel._version import __version__
from perfmodel.study.grid import Grid, grid_of
from perfmodel.study.sweep import answers_of
from perfmodel.study.work import Answer

__all__ = ["bench_sweep"]

_AXES: dict[str, Any] = {
    "model": ["llama-3.1-8b", "llama-3.1-70b"],
    "cluster": ["dgx-a100-80gb", "dgx-h100", "dgx-h200", "dgx-b200", "dgx-h800"],
    "seq_len": [2048, 4096, 8192, 16384, 32768],
    "global_batch": [256, 512, 1024, 2048, 4096],
    "tp": [1, 2, 4, 8],
}
_BASE = {"accelerators": 256, "dp": 32, "recompute": "full"}


def bench_sweep(repeats: int = 3) -> dict[str, Any]:
    """Seconds of 1,000 training estimates on one and on two worker processes, their start included, run in turn.

    `speedup` is the median of the ratios of each pair of runs; `in_process_s` is the same sweep without a pool.
    """
    grid = grid_of(_AXES, _BASE)
    ratios: list[float] = []
    times: dict[int, list[float]] = {1: [], 2: []}
    start = time.perf_counter()
    expected = answers_of(grid)
    in_process_s = time.perf_counter() - start
    for _ in range(repeats):
        for workers in (1, 2):
            seconds, answers = _timed(grid, workers)
            if answers != expected:
                raise AssertionError(f"a sweep on {workers} workers differs from one in this process")
            times[workers].append(seconds)
        ratios.append(times[1][-1] / times[2][-1])
    return {
        "document": "perfmodel/bench-sweep/1",
        "perfmodel_version": __version__,
        "scenarios": len(grid),
        "scenarios_with_an_error": sum("error" in answer for answer in expected),
        "one_worker_s": median(times[1]),
        "two_workers_s": median(times[2]),
        "speedup": median(ratios),
        "speedup_least": min(ratios),
        "speedup_most": max(ratios),
        "in_process_s": in_process_s,
        "scenarios_per_s": len(grid) / median(times[2]),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }


def _timed(grid: Grid, workers: int) -> tuple[float, list[Answer]]:
    start = time.perf_counter()
    answers = answers_of(grid, workers=workers, own_processes=True)
    return time.perf_counter() - start, answers
