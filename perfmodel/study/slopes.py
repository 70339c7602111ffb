"""Elasticities of a deployment: how its figures answer to a little more of each quantity of hardware and load.

They are exact (`perfmodel.predict.serving.slopes`). Beside each of hardware and load stands a central difference over
two per cent: where the two disagree, a step or a kink lies that close, and the quantity is named among `uneven`.
What whole numbers stand on (bytes of memory, cached tokens) has no derivative worth knowing; its slopes are differences
of two sizes, and `differences` names them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import PlanError, unknown_name
from perfmodel.predict.records import Record
from perfmodel.predict.serving.estimate import estimate_serving, task_of
from perfmodel.predict.serving.records import ServingEstimate
from perfmodel.predict.serving.slopes import Name, scaled_figures, serving_slopes
from perfmodel.predict.serving.task import ServingTask
from perfmodel.specs.registry import data_version
from perfmodel.study.quantities import Question, estimate_of, names_of, question_of, resolved, written

__all__ = ["ServingElasticities", "scenario_task", "serving_elasticities"]

_STEPS = (0.02, 0.01)
_APART = 0.02  # slopes further apart than this show a step or a kink
_NONE = 5e-4  # a difference smaller than this is noise
_ROUNDING = 1e-12
_WHOLE = ("hbm_bytes", "prefix_hit")
Slopes = dict[str, dict[str, float]]


class ServingElasticities(Record):
    """Elasticities d ln figure / d ln quantity [1] by figure, largest first; what a figure does not feel is left out.

    `figures` are the values that stand. `elasticities` are those by quantities of the hardware ("power ..." are of its
    power set) and of the load, `software` by the numbers of the engine, `constants` by those of the kernel libraries.
    All are exact but those by the quantities of `differences`. At a kink the slope is that of the branch chosen, which
    holds to one side alone. `uneven` names by figure the quantities along which it does not follow its slope for two
    per cent, because it moves in steps or has a kink there; one without a slope has none. Whole numbers (concurrency,
    lengths, degrees) are not among the quantities: `perfmodel solve` asks those.
    """

    document: str = "perfmodel/serving-elasticities/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    figures: dict[str, float]
    elasticities: Slopes
    software: Slopes
    constants: Slopes
    uneven: dict[str, tuple[str, ...]]
    differences: tuple[str, ...]
    evaluations: int


def serving_elasticities(of: ServingEstimate | Mapping[str, Any]) -> ServingElasticities:
    """Elasticities of the figures of an estimate, or of a scenario with the keywords of `estimate_serving`.

    A scenario may also name `accelerators`, as the request of an estimate does. Raises `SpecError` and `PlanError`.
    """
    scenario = of.request if isinstance(of, ServingEstimate) else of
    if "global_batch" in scenario:
        raise PlanError("scenario: describes training; perfmodel.elasticities gives its exact slopes")
    asked = resolved(scenario)
    task, now = scenario_task(asked), estimate_of(asked)
    exact = serving_slopes(task)
    figures = {key: float(now[key]) for key in exact if now[key]}
    found = _Found(figures)
    given = names_of(asked)
    for name in next(iter(exact.values())):
        # Poisson arrivals are a kink of bursts: asked for only where they are given.
        if name == ("workload", "burstiness") and "burstiness" not in given:
            continue
        found.add_exact(task, name, {key: exact[key].get(name, 0.0) for key in figures})
    questions = [question_of(asked, name)[0] for name in _WHOLE if name in given]
    for question in questions:
        found.add_differences(question)
    return ServingElasticities(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=written(scenario),
        figures=figures,
        elasticities=_sorted(found.slopes["hardware"]),
        software=_sorted(found.slopes["software"]),
        constants=_sorted(found.slopes["constants"]),
        uneven={key: tuple(names) for key, names in found.uneven.items()},
        differences=tuple(question.quantity for question in questions),
        evaluations=found.evaluations,
    )


def scenario_task(scenario: Mapping[str, Any]) -> ServingTask:
    """The checked question of a scenario with the keywords of `estimate_serving`; raises `SpecError`, `PlanError`."""
    asked, takes = resolved(scenario), inspect.signature(estimate_serving).parameters
    for key in asked:
        if key not in takes:
            raise PlanError(unknown_name("key", key, [*takes, "accelerators"]))
    return task_of(**{key: parameter.default for key, parameter in takes.items()} | asked)


class _Found:
    """Slopes by group, figure and quantity, and what is uneven, as they are found."""

    def __init__(self, figures: Mapping[str, float]) -> None:
        self.figures = figures
        self.slopes: dict[str, Slopes] = {
            group: {key: {} for key in figures} for group in ("hardware", "software", "constants")
        }
        self.uneven: dict[str, list[str]] = {}
        self.evaluations = 1

    def add_exact(self, task: ServingTask, name: Name, slopes: Mapping[str, float]) -> None:
        """Exact slopes by one quantity; of hardware and load beside a difference."""
        group, quantity = name
        checked = group in ("hardware", "workload")
        wide = self._wide(task, name) if checked else slopes
        for key, slope in slopes.items():
            if math.isfinite(slope) and abs(slope) > _ROUNDING:
                self.slopes["hardware" if checked else group][key][quantity] = slope
            if not abs(slope - wide[key]) <= _APART * max(1.0, abs(slope)):
                self.uneven.setdefault(key, []).append(quantity)

    def _wide(self, task: ServingTask, name: Name) -> dict[str, float]:
        step = _STEPS[0]
        low, high = (scaled_figures(task, {name: math.exp(sign * step)}) for sign in (-1, 1))
        self.evaluations += 2
        return {key: math.log(high[key] / low[key]) / (2 * step) for key in self.figures}

    def add_differences(self, question: Question) -> None:
        """Differences along one quantity; where two disagree, it has no slope."""
        for key, slope in _differences(question, self.figures):
            if slope is None:
                self.uneven.setdefault(key, []).append(question.quantity)
            elif abs(slope) > _NONE:
                self.slopes["hardware"][key][question.quantity] = slope
        self.evaluations += question.evaluations


def _sorted(slopes: Slopes) -> Slopes:
    return {key: dict(sorted(found.items(), key=lambda pair: -abs(pair[1]))) for key, found in slopes.items()}


def _differences(question: Question, figures: Mapping[str, float]) -> Iterator[tuple[str, float | None]]:
    """By figure, the slope along one quantity, or None where it moves in steps."""
    if not question.now:
        return
    sides = [[question.estimate(question.now * math.exp(sign * step)) for sign in (-1, 1)] for step in _STEPS]
    if any(side is None for pair in sides for side in pair):
        return
    for key in figures:
        wide, narrow = (
            (math.log(high[key]) - math.log(low[key])) / (2 * step)  # type: ignore[index]
            for (low, high), step in zip(sides, _STEPS, strict=True)
        )
        yield key, narrow if abs(wide - narrow) <= _APART * max(1.0, abs(narrow)) else None
