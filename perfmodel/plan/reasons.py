"""Why nothing fits, by how much, and what would."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.plan.limits import Limit
from perfmodel.plan.pricing import Query
from perfmodel.plan.search import search
from perfmodel.plan.space import Space, space_of
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.training_task import TrainingTask

__all__ = ["Nearest", "nearest_of", "reasons"]


@dataclass(frozen=True)
class Nearest:
    """The first limit that no layout passes, the least that any within the limits before needs, and which one it is."""

    limit: Limit
    value: float
    layout: ParallelLayout


def nearest_of(task: TrainingTask, space: Space, limits: tuple[Limit, ...]) -> Nearest | None:
    """What misses the limits by least; None where the space is empty."""
    for position, limit in enumerate(limits):
        found = search(task, space, Query(task, limit.needs, limits[:position], energetic=limit.energetic))
        if not found.fitting:
            return None
        if found.columns["value"][0] > limit.most:
            return Nearest(limit, float(found.columns["value"][0]), found.layout(0))
    return None


def reasons(task: TrainingTask, space: Space, nearest: Nearest | None, limits: tuple[Limit, ...]) -> list[str]:
    """The tightest limit, by how much it is missed, and what would be enough."""
    if nearest is None:
        rules = "; ".join(f"{rule}: {count}" for rule, count in space.dropped.items() if count)
        return [f"no layout passes the rules of the space ({rules or 'none enumerated'})"]
    if nearest.limit.name != "memory_bytes":
        return _beyond(nearest, limits)
    allowed = nearest.limit.most
    capacity = float(task.cluster.accelerator.capacity_bytes)
    said = [
        f"memory: the leanest layout ({_named(nearest)}) needs {nearest.value / 1e9:.1f} GB, "
        f"{allowed / 1e9:.1f} GB are allowed of {capacity / 1e9:.1f}"
    ]
    enough = _accelerators_that_fit(task, limits[0])
    if enough is not None:
        said.append(f"would fit: {enough[0]} accelerators of the same kind would need {enough[1] / 1e9:.1f} GB")
    return [*said, f"would fit: an accelerator with {nearest.value / allowed:.2f} times the memory"]


def _beyond(nearest: Nearest, limits: tuple[Limit, ...]) -> list[str]:
    """A limit that is no limit of the machine: the plan that is nearest says what to allow."""
    limit = nearest.limit
    before = [one.rule for one in limits[: limits.index(limit)]]
    needs, has = limit.said(nearest.value), limit.said(limit.most)
    return [
        f"{limit.rule}: of the layouts within the limit of {' and '.join(before)}, the nearest ({_named(nearest)}) "
        f"needs {needs}, has {has}",
        f"would fit: {limit.name} of {needs}, {nearest.value / limit.most:.2f} times the limit",
    ]


def _named(nearest: Nearest) -> str:
    layout = nearest.layout
    return (
        f"tp {layout.tp}, pp {layout.pp}, dp {layout.dp}, micro-batch {layout.micro_batch}, "
        f"ZeRO-{layout.zero_stage}, recompute {layout.recompute}"
    )


def _accelerators_that_fit(task: TrainingTask, memory: Limit) -> tuple[int, float] | None:
    """The smallest doubling of the cluster on which something fits, and what its leanest layout needs [B]."""
    if task.cluster.tiers[-1].domain_accelerators is not None:
        return None
    for doubling in range(1, 9):
        accelerators = task.cluster.accelerators * 2**doubling
        larger = task.on(task.cluster.model_copy(update={"accelerators": accelerators}))
        found = search(larger, space_of(larger), "memory", (memory,))
        if found.fitting:
            return accelerators, float(found.columns["memory_bytes"][0])
    return None
