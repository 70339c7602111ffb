"""What every layout of a row needs at least, from a few operations: enough to leave most of them unpriced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from perfmodel.ops import less, maximum, minimum, where
from perfmodel.predict.cost import Cost, total
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.exchanges import side_by_side
from perfmodel.predict.memory import StageMemory
from perfmodel.predict.schedules import DUALPIPE, SPLIT_BACKWARD
from perfmodel.predict.stages import Stages
from perfmodel.predict.step import Load
from perfmodel.predict.training import step_carbon_kg, step_cost_usd
from perfmodel.predict.training_task import TrainingTask
from perfmodel.predict.weights import Weights

__all__ = ["least"]

_ROUNDING = 1.0 - 1e-9
"""A bound that sums in another order may exceed what it bounds by the last digits."""


def least(task: TrainingTask, degrees: Degrees, load: Load) -> Callable[[str], Any]:
    """Values that step_time_s, memory_bytes, cost_usd, energy_j, watts and carbon_kg are never below, by name.

    `degrees` has the most shards that a row may have; neither its recomputation nor its stages matter unless the
    stages are placed by hand.
    """
    known: dict[str, Any] = {}
    if degrees.schedule == DUALPIPE:
        # Hiding both passes together takes no longer with less to do, so leaving recomputation out stays a bound.
        forward, backward = side_by_side([load.layer.forward, load.layer.backward], task.software)
        load = replace(load, layer=replace(load.layer, forward=forward, backward=backward))

    def of(name: str) -> Any:
        if name not in known:
            known[name] = _MAKERS[name](task, degrees, load, of)
        return known[name]

    return of


def _least_seconds(task: TrainingTask, d: Degrees, load: Load, _: Any) -> Any:
    """Stages without recomputation, and transfers between ranks that all are hidden.

    The bubble is that of the mean stage, of which the ends are left out, or none where weight gradients fill it. Other
    terms are waiting and never negative.
    """
    if d.schedule in SPLIT_BACKWARD:
        return _slowest_seconds(task, d, load) * _ROUNDING
    mean = _layer(load).seconds * (task.model.n_layers / d.pp)
    return (_slowest_seconds(task, d, load) + mean * ((d.pp - 1.0) / d.vpp)) * _ROUNDING


def _slowest_seconds(task: TrainingTask, d: Degrees, load: Load) -> Any:
    """All micro-batches on the slowest stage, which is no faster than the mean one with its part of the head."""
    one, head = _layer(load).seconds, load.ends[0].seconds
    n_microbatches = task.global_batch / (d.dp * d.micro_batch)
    if isinstance(d.stage_layers, Stages):
        return maximum(one * d.stage_layers.full, one * d.stage_layers.last + head) * n_microbatches
    return (one * task.model.n_layers + head) * (n_microbatches / d.pp)


def _layer(load: Load) -> Cost:
    """A layer and a micro-batch, both passes."""
    return total([*load.layer.forward.values(), *load.layer.backward.values()])


def _least_bytes(task: TrainingTask, d: Degrees, *_: Any) -> Any:
    """A stage with the mean number of layers, all of them recomputed: the second, or the only one.

    The fullest stage has as many layers or more, and memory grows with them. Recomputing all layers needs least: every
    micro-batch in flight then keeps less of each, and while one is recomputed it needs what others keep anyway.
    """
    if d.schedule in SPLIT_BACKWARD:
        # What waits for weight gradients may outweigh what recomputation frees.
        return minimum(*(_stage_bytes(task, replace(d, recompute=kind)) for kind in ("none", "full"))) * _ROUNDING
    return _stage_bytes(task, replace(d, recompute="full")) * _ROUNDING


def _stage_bytes(task: TrainingTask, d: Degrees) -> Any:
    steps = task.steps
    share = steps.share(d, task.seq_len)
    weights = Weights(task.model, task.software, d, task.precision, task.optimizer, steps.trainable)
    n_microbatches = task.global_batch / (d.dp * d.micro_batch)
    layers, alone = task.model.n_layers / d.pp, less(d.pp, 2)
    places = ((layers, 0.0, True, 1.0), (layers, 1.0, False, 0.0))
    memory = StageMemory(task.software, weights, d, share, n_microbatches)
    only, second = (memory.of(*place).total for place in places)
    return where(alone, only, second)


def _least_cost(task: TrainingTask, d: Degrees, _: Load, of: Callable[[str], Any]) -> Any:
    return step_cost_usd(task, d.accelerators, of("step_time_s"))


def _least_energy(task: TrainingTask, d: Degrees, load: Load, of: Callable[[str], Any]) -> Any:
    """The slowest stage draws at least as much of the limit as the least of what it consists of.

    Only waiting for the host runs no kernel, and the bound on time has none of that.
    """
    power, cluster, seconds = task.steps.device_power, task.cluster, of("step_time_s")
    again = [total(costs.values()) for costs in load.repeated.values() if costs]
    parts = [_layer(load), load.ends[0], *again]
    loaded = minimum(*(part.loaded_s / part.seconds for part in parts)) * _slowest_seconds(task, d, load) * _ROUNDING
    joules = power.energy_j(seconds, 0.0, loaded)
    return (joules + float(cluster.server_overhead_w) * seconds) * d.accelerators * float(cluster.pue)


def _least_watts(task: TrainingTask, d: Degrees, *_: Any) -> Any:
    """Everything idle."""
    cluster = task.cluster
    one = task.steps.device_power.idle_w + float(cluster.server_overhead_w)
    return one * d.accelerators * float(cluster.pue)


def _least_carbon(task: TrainingTask, d: Degrees, _: Load, of: Callable[[str], Any]) -> Any:
    return step_carbon_kg(task, d.accelerators, of("step_time_s"), of("energy_j"))


_MAKERS: dict[str, Callable[..., Any]] = {
    "step_time_s": _least_seconds,
    "memory_bytes": _least_bytes,
    "cost_usd": _least_cost,
    "energy_j": _least_energy,
    "watts": _least_watts,
    "carbon_kg": _least_carbon,
}
