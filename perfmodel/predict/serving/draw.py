"""What a deployment draws: its iterations of prompts, its other iterations, and the time in which nobody is there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from perfmodel.formulas.serving import concurrency_of_rate
from perfmodel.predict.serving.operating import Point
from perfmodel.predict.serving.task import ServingTask
from perfmodel.specs.cluster import Cluster

__all__ = ["ServingDraw", "draw_of", "facility_w"]


@dataclass(frozen=True)
class ServingDraw:
    """Watts of one accelerator on average, in iterations with prompts and in the others; and of the deployment."""

    accelerator_w: float
    prefill_w: float
    decode_w: float
    facility_w: float


def draw_of(task: ServingTask, point: Point) -> ServingDraw:
    """The draw of a deployment at an operating point.

    Iterations with prompts take as much of the time as the prompts that come; the rest goes to decode steps, or to
    waiting: the chance that nobody is there, where requests come by themselves.
    """
    power = task.engine.power
    prefill_w, decode_w = power.mean_w(point.prefill), power.mean_w(point.decode)
    # The prefill of a static batch is one iteration for all of its requests.
    prompts_per_s = point.requests_per_s / (point.batch if task.batching == "static" else 1.0)
    prompts = min(1.0, prompts_per_s * float(point.prefill.cost.seconds))
    busy = 1.0
    if point.traffic is not None:
        busy = 1.0 - math.exp(-float(concurrency_of_rate(point.requests_per_s, point.latency_s)))
    busy = max(busy, prompts)
    mean = prompts * prefill_w + (busy - prompts) * decode_w + (1.0 - busy) * power.idle_w
    return ServingDraw(mean, prefill_w, decode_w, facility_w(task.cluster, task.layout.accelerators, mean))


def facility_w(cluster: Cluster, accelerators: float, accelerator_w: float) -> float:
    """Watts at the meter: accelerators, their share of servers that are always on, cooling and losses."""
    return accelerators * (accelerator_w + float(cluster.server_overhead_w)) * float(cluster.pue)
