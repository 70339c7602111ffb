"""How fast planning is, as rates and as ratios measured in one run (machines are shared and noisy)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from perfmodel._version import __version__
from perfmodel.plan.limits import limits_of
from perfmodel.plan.search import search
from perfmodel.plan.space import training_space
from perfmodel.plan.training import plan_training
from perfmodel.predict.training import degrees_of, training_task
from perfmodel.specs.cluster import load_cluster

__all__ = ["bench_training"]


def bench_training(repeats: int = 5) -> dict[str, Any]:
    """Seconds to plan Llama-3.1-405B on 16,384 H100, candidates priced a second, and the gain over a float loop."""
    cluster = load_cluster("dgx-h100", 16384)
    task = training_task("llama-3.1-405b", cluster, global_batch=2048, seq_len=8192)
    space = training_space(task.model, 16384, 2048, 8192)
    limits = limits_of(task, float(cluster.accelerator.capacity_bytes), None, None, None)
    array_s = _best(lambda: search(task, space, "time", limits, bounds=False, partial=False), repeats)
    sample = [space.blocks[-1].layout(int(position)) for position in space.blocks[-1].candidates[::7]][:200]
    degrees = [degrees_of(layout, task.model.n_layers) for layout in sample]
    loop_s = _best(lambda: [task.steps.price(one, 2048, 8192) for one in degrees], repeats)
    plan_s = _best(lambda: plan_training("llama-3.1-405b", cluster, global_batch=2048, seq_len=8192), repeats)
    return {
        "document": "perfmodel/bench-training/1",
        "perfmodel_version": __version__,
        "candidates": space.candidates,
        "priced": space.priced,
        "priced_per_s": space.priced / array_s,
        "plan_s": plan_s,
        "array_over_float_loop": (loop_s / len(sample)) / (array_s / space.priced),
    }


def _best(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
