"""Exact elasticities: by how many per cent a step grows for one per cent of anything that it was predicted from.

Every number of the descriptions becomes a `Dual` whose slope is its own entry of one vector, seeded in logarithms
(d x / d ln x = x). The step is priced once; its slope over its value is every elasticity d ln t / d ln x.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from perfmodel._version import __version__
from perfmodel.dual import Dual, plain
from perfmodel.errors import PlanError, unknown_name
from perfmodel.predict.layout import ParallelLayout, check_layout, make_layout
from perfmodel.predict.lifting import Lift, lifted_cluster, lifted_constants
from perfmodel.predict.records import Record, TrainingEstimate
from perfmodel.predict.step import StepModel
from perfmodel.predict.training import estimate_training
from perfmodel.predict.training_task import TrainingTask, as_laid_out, degrees_of, training_task
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.registry import data_version
from perfmodel.specs.software import NUMBERS

__all__ = ["StepElasticities", "elasticities", "step_elasticities"]

_GROUPS = ("hardware", "software", "constants", "workload")


class StepElasticities(Record):
    """Elasticities d ln `step_time_s` / d ln x [1], largest first; quantities that the step does not feel are left out.

    `hardware` are data-sheet numbers, `software` the numbers of the software generation, `constants` those of the
    kernel libraries, `workload` the sequences of a batch. Lengths and degrees are under `ceil` in every product: they
    have no slope worth knowing. Where a cluster names no host, its link is a constant of ours and not among them.

    At a kink (another kernel or algorithm just as fast, two links in balance) the slope is that of the branch chosen,
    which holds to one side alone.
    """

    document: str = "perfmodel/elasticities/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    step_time_s: float
    hardware: dict[str, float]
    software: dict[str, float]
    constants: dict[str, float]
    workload: dict[str, float]


def elasticities(of: TrainingEstimate | Mapping[str, Any]) -> StepElasticities:
    """Elasticities of the step time of an estimate, or of a scenario with the keywords of `estimate_training`.

    A scenario may also name `accelerators`, as the request of an estimate does. Raises `SpecError` and `PlanError`.
    """
    scenario = _checked(of.request if isinstance(of, TrainingEstimate) else of)
    layout = make_layout(scenario.pop("layout"))
    accelerators = scenario.pop("accelerators", None)
    if accelerators is not None:
        scenario["cluster"] = load_cluster(scenario["cluster"], accelerators=accelerators)
    task = training_task(**scenario)
    check_layout(layout, task.model, task.cluster, task.global_batch, task.seq_len)
    task = replace(task, steps=as_laid_out(task.steps, layout))
    step = task.steps.price(degrees_of(layout, task.model.n_layers), task.global_batch, task.seq_len)
    return StepElasticities(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=task.request() | {"layout": layout.model_dump(mode="json")},
        step_time_s=step.seconds,
        **step_elasticities(task, layout),
    )


def step_elasticities(task: TrainingTask, layout: ParallelLayout) -> dict[str, dict[str, float]]:
    """Elasticities [1] of the step time by group (as in `StepElasticities`) and quantity, largest first."""
    values: dict[tuple[str, str], float] = {}

    def noted(group: str) -> Lift:
        return lambda name, value: values.setdefault((group, name), value)

    _lifted(task, noted)
    seeds = dict(zip(values, np.eye(len(values)), strict=True))

    def seeded(group: str) -> Lift:
        return lambda name, value: Dual(value, value * seeds[group, name])

    steps, global_batch = _lifted(task, seeded)
    degrees = degrees_of(layout, task.model.n_layers)
    step = Dual.wrap(steps.price(degrees, global_batch, task.seq_len, detail=False).seconds)
    found: dict[str, dict[str, float]] = {group: {} for group in _GROUPS}
    by_size = sorted(zip(values, step.elasticity.tolist(), strict=True), key=lambda entry: -abs(entry[1]))
    for (group, name), elasticity in by_size:
        if elasticity:
            found[group][name] = elasticity
    return found


def _lifted(task: TrainingTask, lift: Callable[[str], Lift]) -> tuple[StepModel, Any]:
    """The step model and the batch of a task, every number replaced by `lift(group)(name, value)`."""
    steps, software = task.steps, lift("software")
    numbers = {name: software(name, plain(getattr(steps.software, name))) for name in NUMBERS}
    lifted = steps.with_(
        cluster=lifted_cluster(steps.cluster, lift("hardware")),
        efficiency=lifted_constants(steps.efficiency, lift("constants")),
        software=steps.software.model_copy(update=numbers),
    )
    return lifted, lift("workload")("global_batch", float(task.global_batch))


def _checked(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the scenario; raises `PlanError` for an unknown or a missing key."""
    takes = inspect.signature(estimate_training).parameters
    for key in scenario:
        if key not in (*takes, "accelerators"):
            raise PlanError(unknown_name("key", key, [*takes, "accelerators"]))
    for key, parameter in takes.items():
        if parameter.default is parameter.empty and key not in scenario:
            raise PlanError(f"{key}: missing; a scenario needs what estimate_training needs")
    return dict(scenario)
