"""What a deployment draws: its iterations of prompts, its other iterations, and the time in which nobody is there."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.dual import plain
from perfmodel.formulas.serving import concurrency_of_rate
from perfmodel.ops import exp
from perfmodel.predict.cost import Node
from perfmodel.predict.power import DevicePower
from perfmodel.predict.serving.operating import Point
from perfmodel.predict.serving.task import ServingTask
from perfmodel.specs.cluster import Cluster

__all__ = ["ServingDraw", "busy_share", "draw_of", "facility_w", "mean_w"]


@dataclass(frozen=True)
class ServingDraw:
    """Watts of one accelerator on average, in iterations with prompts and in the others; and of the deployment."""

    accelerator_w: float
    prefill_w: float
    decode_w: float
    facility_w: float


def draw_of(task: ServingTask, point: Point) -> ServingDraw:
    """The draw of a deployment at an operating point."""
    power = task.engine.power
    # The prefill of a static batch is one iteration for all of its requests.
    prompts_per_s = point.requests_per_s / (point.batch if task.batching == "static" else 1.0)
    busy = 1.0 if point.traffic is None else busy_share(point.requests_per_s, point.latency_s)
    mean = mean_w(power, point.prefill, point.decode, prompts_per_s, busy)
    whole = facility_w(task.cluster, task.layout.accelerators, mean)
    return ServingDraw(mean, power.mean_w(point.prefill), power.mean_w(point.decode), whole)


def mean_w(power: DevicePower, prefill: Node, decode: Node, prompts_per_s: float, busy: float) -> float:
    """Mean draw [W] of an accelerator of a replica that is busy for a share of the time.

    Iterations with prompts take as much of the time as the prompts that come; the rest is decode steps or waiting.
    """
    prompts = min(1.0, prompts_per_s * plain(prefill.cost.seconds))
    busy = max(busy, prompts)
    working = prompts * power.mean_w(prefill) + (busy - prompts) * power.mean_w(decode)
    return working + (1.0 - busy) * power.idle_w


def busy_share(requests_per_s: float, latency_s: float) -> float:
    """Share of the time in which somebody is there, where requests come by themselves [1]."""
    return 1.0 - exp(-plain(concurrency_of_rate(requests_per_s, latency_s)))


def facility_w(cluster: Cluster, accelerators: float, accelerator_w: float) -> float:
    """Watts at the meter: accelerators, their share of servers that are always on, cooling and losses."""
    return accelerators * (accelerator_w + plain(cluster.server_overhead_w)) * plain(cluster.pue)
