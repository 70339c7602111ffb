"""Elasticities of a deployment: how its figures answer to a little more of each quantity of hardware and load.

A training step carries exact derivatives (`perfmodel.predict.elasticities`). A deployment has queues, blocks and whole
numbers of requests on its way; its slopes are central differences, taken twice with different steps, and a quantity
on which the two disagree stands among `uneven` instead of being given a slope that it does not have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import PlanError
from perfmodel.predict.records import Record
from perfmodel.specs.registry import data_version
from perfmodel.study.quantities import Question, names_of, question_of, resolved, written

__all__ = ["ServingElasticities", "serving_elasticities"]

_FIGURES = ("ttft_s", "tpot_s", "output_tokens_per_s", "energy_j_per_token", "cost_usd_per_mtok")
_STEPS = (0.02, 0.01)
_APART = 0.02  # two differences further apart than this show a step, not a slope
_NONE = 5e-4


class ServingElasticities(Record):
    """Elasticities d ln figure / d ln quantity [1] by figure, largest first; what a figure does not feel is left out.

    `figures` are the values that stand. `uneven` names by figure the quantities along which it moves in steps here.
    """

    document: str = "perfmodel/serving-elasticities/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    figures: dict[str, float]
    elasticities: dict[str, dict[str, float]]
    uneven: dict[str, tuple[str, ...]]
    evaluations: int


def serving_elasticities(scenario: Mapping[str, Any]) -> ServingElasticities:
    """Elasticities of the figures of a deployment, keywords of `estimate_serving` and `accelerators`.

    Whole quantities (concurrency, lengths) are not among them: `perfmodel solve` asks those. Raises `SpecError` and
    `PlanError`.
    """
    if "global_batch" in scenario:
        raise PlanError("scenario: describes training; perfmodel.elasticities gives its exact slopes")
    asked = resolved(scenario)
    questions = [question_of(asked, name)[0] for name in names_of(asked)]
    now = questions[0].estimate(questions[0].now or 1.0)
    if now is None:
        raise PlanError(f"scenario: {questions[0].refused}")
    figures = {key: float(now[key]) for key in _FIGURES if now.get(key)}
    slopes: dict[str, dict[str, float]] = {key: {} for key in figures}
    uneven: dict[str, list[str]] = {}
    for question in questions:
        for key, slope in _slopes(question, figures):
            if slope is None:
                uneven.setdefault(key, []).append(question.quantity)
            elif abs(slope) > _NONE:
                slopes[key][question.quantity] = slope
    return ServingElasticities(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=written(scenario),
        figures=figures,
        elasticities={
            key: dict(sorted(found.items(), key=lambda pair: -abs(pair[1]))) for key, found in slopes.items()
        },
        uneven={key: tuple(names) for key, names in uneven.items()},
        evaluations=sum(question.evaluations for question in questions),
    )


def _slopes(question: Question, figures: Mapping[str, float]) -> Iterator[tuple[str, float | None]]:
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
