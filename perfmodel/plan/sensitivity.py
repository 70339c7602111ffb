"""What would help most: how the chosen layout's step time answers to each hardware quantity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from perfmodel.dual import Dual, plain
from perfmodel.plan.records import Sensitivity
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.training_task import TrainingTask, degrees_of
from perfmodel.specs.cluster import Cluster

__all__ = ["step_sensitivities"]

# A float scales the quantity; a `Dual` with the slope 1 differentiates by it.
Factor = float | Dual
Change = Callable[[Factor], Cluster]


def step_sensitivities(task: TrainingTask, layout: ParallelLayout) -> tuple[Sensitivity, ...]:
    """Exact elasticities of the step time by hardware quantity, and the step time if it doubled; shortest step first.

    At a kink (another kernel or algorithm just as fast) the elasticity is that of the branch that was chosen.
    """
    found = []
    for quantity, change in _changes(task.cluster, task.precision):
        now, doubled = (_seconds(task, layout, change(factor)) for factor in (Dual(1.0, 1.0), 2.0))
        elasticity = float(Dual.wrap(now).elasticity)
        found.append(Sensitivity(quantity=quantity, elasticity=elasticity, if_doubled_step_time_s=float(doubled)))
    return tuple(sorted(found, key=lambda s: s.if_doubled_step_time_s))


def _seconds(task: TrainingTask, layout: ParallelLayout, cluster: Cluster) -> Any:
    return (
        task.on(cluster).steps.price(degrees_of(layout, task.model.n_layers), task.global_batch, task.seq_len).seconds
    )


def _changes(cluster: Cluster, precision: str) -> Iterator[tuple[str, Change]]:
    accelerator, peak = cluster.accelerator, matmul_format(precision).peak

    def with_peak(factor: Factor) -> Cluster:
        peaks = accelerator.peak_flop_per_s | {peak: plain(accelerator.peak(peak)) * factor}
        return _with_accelerator(cluster, peak_flop_per_s=peaks)

    def with_memory(factor: Factor) -> Cluster:
        return _with_accelerator(cluster, hbm_byte_per_s=plain(accelerator.hbm_byte_per_s) * factor)

    yield f"peak_flop_per_s.{peak}", with_peak
    yield "hbm_byte_per_s", with_memory
    for position, tier in enumerate(cluster.tiers):
        for key in ("link_byte_per_s", "latency_s"):
            yield f"{tier.name} {key}", _tier_change(cluster, position, key)


def _tier_change(cluster: Cluster, position: int, key: str) -> Change:
    def change(factor: Factor) -> Cluster:
        tiers = list(cluster.tiers)
        scaled = plain(getattr(tiers[position], key)) * factor
        tiers[position] = tiers[position].model_copy(update={key: scaled})
        return cluster.model_copy(update={"tiers": tuple(tiers)})

    return change


def _with_accelerator(cluster: Cluster, **update: object) -> Cluster:
    return cluster.model_copy(update={"accelerator": cluster.accelerator.model_copy(update=update)})
