"""What every candidate of a block needs at least, from a few operations: enough to leave most of them unpriced."""

from __future__ import annotations

from typing import Any

from perfmodel.formulas.cost import energy_j
from perfmodel.ops import less, where
from perfmodel.predict.cost import total
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layer import Layer
from perfmodel.predict.recompute import repeated_costs
from perfmodel.predict.training import TrainingTask, step_cost_usd
from perfmodel.predict.weights import Weights

__all__ = ["least"]

_ROUNDING = 1.0 - 1e-9
"""A bound that sums in another order may exceed what it bounds by the last digits."""


def least(task: TrainingTask, degrees: Degrees, layers: Layer, column: str) -> Any:
    """A value that `column` (step_time_s, memory_bytes, cost_usd or energy_j) is never below."""
    if column == "memory_bytes":
        return _least_bytes(task, degrees) * _ROUNDING
    seconds = _least_seconds(task, degrees, layers) * _ROUNDING
    if column == "cost_usd":
        return step_cost_usd(task, degrees.accelerators, seconds)
    if column == "energy_j":
        return _least_energy(task, degrees, seconds)
    return seconds


def _least_seconds(task: TrainingTask, d: Degrees, layers: Layer) -> Any:
    """Even stages without embedding and head, and transfers between ranks that all are hidden.

    The slowest stage takes at least as long as the mean one: it holds `n_layers / pp` layers or more, or is the last
    and takes longer still with its head. The bubble is that of the mean stage, of which the ends are left out. All
    other terms are waiting and never negative.
    """
    repeated = repeated_costs(task.software, layers, d, 1.0)
    one = total([*layers.forward.values(), *layers.backward.values(), *repeated.values()]).seconds
    stage = one * (task.model.n_layers / d.pp)
    return stage * (task.global_batch / (d.dp * d.micro_batch) + (d.pp - 1.0) / d.vpp)


def _least_bytes(task: TrainingTask, d: Degrees) -> Any:
    """Weights, gradients and optimizer of a stage with the mean number of layers; some stage has as many or more.

    Several stages: one that is not the first holds them, so it needs no embedding but has no leading dense layers.
    """
    steps = task.steps
    weights = Weights(task.model, task.software, d, task.precision, task.optimizer, steps.trainable)
    layers = task.model.n_layers / d.pp
    only, one_of = weights.of_stage(layers, True, 1.0), weights.of_stage(layers, False, 0.0)
    alone = less(d.pp, 2)
    state = sum(where(alone, getattr(only, part), getattr(one_of, part)) for part in only.__dataclass_fields__)
    return state + float(task.software.workspace_bytes) + weights.largest_gradient_bytes


def _least_energy(task: TrainingTask, d: Degrees, seconds: Any) -> Any:
    """Accelerators that idle all the time."""
    accelerator, cluster = task.cluster.accelerator, task.cluster
    idle = energy_j(0.0, seconds, float(accelerator.tdp_w), float(accelerator.idle_w))
    return (idle + float(cluster.server_overhead_w) * seconds) * d.accelerators * float(cluster.pue)
