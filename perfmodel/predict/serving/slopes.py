"""Exact slopes of a deployment: its figures from numbers that carry their slopes through the predictor itself.

Every number of the descriptions becomes a `DualArray` seeded in logarithms, as training's become a `Dual`. The closed
loop runs its rounds on them; the batch of an arrival rate is found without slopes and given them by the implicit
function theorem. What is whole (blocks, places, chunks, tiles) keeps its value: the slope is that of the branch that
binds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from perfmodel.dual import Dual, plain
from perfmodel.dual_array import DualArray
from perfmodel.predict.lifting import Lift, lifted_cluster, lifted_constants, with_lifted
from perfmodel.predict.serving.draw import draw_of
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.estimate import figures_of, operating_point
from perfmodel.predict.serving.task import ServingTask

__all__ = ["GROUPS", "serving_figures", "serving_slopes"]

GROUPS = ("hardware", "software", "constants", "workload")
# The other two numbers of an engine, and the bytes of an accelerator, make whole blocks of the cache.
_NUMBERS = ("step_s", "sequence_s", "prompt_s", "request_s")
_PRICES = ("server_overhead_w", "pue")
Group = str


def serving_figures(task: ServingTask, factors: dict[tuple[Group, str], float] | None = None) -> dict[str, float]:
    """The figures of a deployment, quantities of that group and name multiplied."""
    lifted = _lifted(task, lambda group: lambda name, value: value * (factors or {}).get((group, name), 1.0))
    point, _ = operating_point(lifted)
    return figures_of(lifted, point, draw_of(lifted, point))


def serving_slopes(task: ServingTask) -> dict[str, dict[tuple[Group, str], float]]:
    """Elasticities [1] by figure, then by group and name; one that is not finite stands where the figure jumps."""
    values: dict[tuple[Group, str], float] = {}

    def noted(group: Group) -> Lift:
        return lambda name, value: values.setdefault((group, name), value)

    _lifted(task, noted)
    seeds = dict(zip(values, np.eye(len(values)), strict=True))

    def seeded(group: Group) -> Lift:
        return lambda name, value: DualArray(value, value * seeds[group, name])

    lifted = _lifted(task, seeded)
    solved = operating_point(task)[0] if task.arrival_rate_per_s is not None else None
    point, _ = operating_point(lifted, solved)
    figures = figures_of(lifted, point, draw_of(lifted, point))
    return {
        key: dict(zip(values, figure.elasticity.tolist(), strict=True)) if isinstance(figure, Dual) else {}
        for key, figure in figures.items()
    }


def _lifted(task: ServingTask, lift: Callable[[Group], Lift]) -> ServingTask:
    """The same question with every number replaced by `lift(group)(name, value)`; its memory as it is."""
    hardware, workload = lift("hardware"), lift("workload")
    price = hardware("usd_per_hour", plain(task.cluster.accelerator_usd_per_hour))
    cluster = with_lifted(lifted_cluster(task.cluster, hardware), "", _PRICES, hardware)
    cluster = cluster.model_copy(update={"usd_per_hour": price})
    constants = lifted_constants(task.cluster.accelerator.kernel_constants(), lift("constants"))
    software = with_lifted(task.software, "", _NUMBERS, lift("software"))
    changes = {}
    if task.arrival_rate_per_s is not None:
        changes["arrival_rate_per_s"] = workload("arrival_rate_per_s", task.arrival_rate_per_s)
        burstiness = workload("burstiness", task.workload.burstiness)
        changes["workload"] = task.workload.model_copy(update={"burstiness": burstiness})
    engine = Engine(task.model, cluster, constants, software, task.layout, task.precisions, task.engine.routing)
    return replace(task, cluster=cluster, engine=engine, **changes)
