"""What would help most: how the chosen layout's step time answers to each hardware quantity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from perfmodel.plan.records import Sensitivity
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.training import TrainingTask, degrees_of
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.quantity import Quantity

__all__ = ["step_sensitivities"]

_STEP = 0.01  # relative step of the central difference
Change = Callable[[float], Cluster]


def step_sensitivities(task: TrainingTask, layout: ParallelLayout) -> tuple[Sensitivity, ...]:
    """Elasticities of the step time by hardware quantity, and the step time if it doubled; largest first."""
    found = []
    for quantity, change in _changes(task.cluster, task.precision):
        low, high, doubled = (_seconds(task, layout, change(factor)) for factor in (1 - _STEP, 1 + _STEP, 2.0))
        elasticity = (math.log(high) - math.log(low)) / (math.log1p(_STEP) - math.log1p(-_STEP))
        found.append(Sensitivity(quantity=quantity, elasticity=elasticity, if_doubled_step_time_s=doubled))
    return tuple(sorted(found, key=lambda s: s.if_doubled_step_time_s))


def _seconds(task: TrainingTask, layout: ParallelLayout, cluster: Cluster) -> float:
    return float(
        task.on(cluster).steps.price(degrees_of(layout, task.model.n_layers), task.global_batch, task.seq_len).seconds
    )


def _changes(cluster: Cluster, precision: str) -> Iterator[tuple[str, Change]]:
    accelerator, peak = cluster.accelerator, matmul_format(precision).peak

    def with_peak(factor: float) -> Cluster:
        peaks = accelerator.peak_flop_per_s | {peak: Quantity(accelerator.peak(peak) * factor)}
        return _with_accelerator(cluster, peak_flop_per_s=peaks)

    def with_memory(factor: float) -> Cluster:
        return _with_accelerator(cluster, hbm_byte_per_s=Quantity(accelerator.hbm_byte_per_s * factor))

    yield f"peak_flop_per_s.{peak}", with_peak
    yield "hbm_byte_per_s", with_memory
    for position, tier in enumerate(cluster.tiers):
        for key in ("link_byte_per_s", "latency_s"):
            yield f"{tier.name} {key}", _tier_change(cluster, position, key)


def _tier_change(cluster: Cluster, position: int, key: str) -> Change:
    def change(factor: float) -> Cluster:
        tiers = list(cluster.tiers)
        scaled = Quantity(float(getattr(tiers[position], key)) * factor)
        tiers[position] = tiers[position].model_copy(update={key: scaled})
        return cluster.model_copy(update={"tiers": tuple(tiers)})

    return change


def _with_accelerator(cluster: Cluster, **update: object) -> Cluster:
    return cluster.model_copy(update={"accelerator": cluster.accelerator.model_copy(update=update)})
