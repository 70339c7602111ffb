"""Exact slopes of a deployment: its figures from numbers that carry their slopes through the predictor itself.

Every number of the descriptions becomes a `DualArray` seeded in logarithms, as training's become a `Dual`. The closed
loop runs its rounds on them; the batch of an arrival rate is found without slopes and given them by the implicit
function theorem. What is whole (blocks, places, chunks, tiles) keeps its value: the slope is that of the branch that
binds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from perfmodel.dual import plain
from perfmodel.dual_array import DualArray
from perfmodel.predict.cost import Number
from perfmodel.predict.lifting import Lift, lifted_cluster, lifted_constants, with_lifted
from perfmodel.predict.serving.draw import draw_of
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.estimate import figures_of, most_requests_per_s, operating_point
from perfmodel.predict.serving.operating import Point
from perfmodel.predict.serving.percentiles import tpot_percentile, ttft_percentile
from perfmodel.predict.serving.task import ServingTask

__all__ = ["Name", "scaled_figures", "serving_slopes"]

# The other two numbers of an engine, and the bytes of an accelerator, make whole blocks of the cache.
_NUMBERS = ("step_s", "sequence_s", "prompt_s", "request_s")
_FACILITY = ("server_overhead_w", "pue")
_POWER = ("limit_w", "idle_w", "active_w", "hbm_w", "tensor_w", "link_w")
_TAIL = 0.99
Name = tuple[str, str]
"""A group (hardware, software, constants, workload) and a quantity in it."""


def scaled_figures(task: ServingTask, factors: Mapping[Name, float]) -> dict[str, float]:
    """The figures of a deployment some of whose quantities are so many times what they were."""
    return _figures(_lifted(task, lambda group: lambda name, value: value * factors.get((group, name), 1.0)))


def serving_slopes(task: ServingTask) -> dict[str, dict[Name, float]]:
    """Elasticities [1] by figure; they are not finite where an arrival rate meets a step of what the replica serves."""
    values: dict[Name, float] = {}

    def noted(group: str) -> Lift:
        return lambda name, value: values.setdefault((group, name), value)

    _lifted(task, noted)
    seeds = dict(zip(values, np.eye(len(values)), strict=True))

    def seeded(group: str) -> Lift:
        return lambda name, value: DualArray(value, value * seeds[group, name])

    solved = None if task.arrival_rate_per_s is None else operating_point(task)[0]
    return {
        key: dict(zip(values, figure.elasticity.tolist(), strict=True)) if isinstance(figure, DualArray) else {}
        for key, figure in _figures(_lifted(task, seeded), solved).items()
    }


def _figures(task: ServingTask, solved: Point | None = None) -> dict[str, Number]:
    point, _ = operating_point(task, solved)
    tails = {"ttft_p99_s": ttft_percentile(point, _TAIL), "tpot_p99_s": tpot_percentile(point, _TAIL)}
    most = most_requests_per_s(task, point)
    found = figures_of(task, point, draw_of(task, point)) | tails
    return found if most is None else found | {"max_requests_per_s": most}


def _lifted(task: ServingTask, lift: Callable[[str], Lift]) -> ServingTask:
    """The same question with every number replaced by `lift(group)(name, value)`; its memory as it is."""
    hardware, workload = lift("hardware"), lift("workload")
    price = hardware("usd_per_hour", plain(task.cluster.accelerator_usd_per_hour))
    cluster = with_lifted(lifted_cluster(task.cluster, hardware), "", _FACILITY, hardware)
    cluster = cluster.model_copy(update={"usd_per_hour": price})
    constants = lifted_constants(task.cluster.accelerator.kernel_constants(), lift("constants"))
    software = with_lifted(task.software, "", _NUMBERS, lift("software"))
    changes: dict[str, Any] = {}
    if task.arrival_rate_per_s is not None:
        changes["arrival_rate_per_s"] = workload("arrival_rate_per_s", task.arrival_rate_per_s)
        burstiness = workload("burstiness", task.workload.burstiness)
        changes["workload"] = task.workload.model_copy(update={"burstiness": burstiness})
    power = with_lifted(task.engine.power.power, "power ", _POWER, hardware)
    engine = Engine(task.model, cluster, constants, software, task.layout, task.precisions, task.engine.routing, power)
    return replace(task, cluster=cluster, engine=engine, **changes)
