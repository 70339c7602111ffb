"""Choosing the best measured configuration: what is lost by running the one that the model ranks first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from perfmodel.predict.records import Record

if TYPE_CHECKING:
    from perfmodel.validation.serving_scores import ServingRowScore, ServingScore

__all__ = ["ChoiceScore", "choice_scores"]

NODE = 8.0
"""Accelerators among which replicas are laid out; of rows with fewer ranks several replicas share the load."""


class ChoiceScore(Record):
    """Regret over the questions of one campaign; shares [1].

    A question has a model, an accelerator, lengths, a load for all accelerators and at least two measured answers.
    Regret is the time of the configuration that was chosen over that of the fastest one, minus 1, mean over questions;
    `random_regret` that of a choice at random, `most_tp_regret` of the highest tensor-parallel degree.
    """

    questions: int
    configurations: int
    regret: float
    worst_regret: float
    best_found: float
    random_regret: float
    most_tp_regret: float


@dataclass(frozen=True)
class _Option:
    tp: int
    measured_s: float
    predicted_s: float


_Questions = dict[tuple[Any, ...], list[_Option]]


def choice_scores(sources: Mapping[str, ServingScore]) -> dict[str, ChoiceScore]:
    """The scores of every campaign that measured several configurations of one question."""
    found: dict[str, ChoiceScore] = {}
    for name, questions in (
        *((name, _latencies(sources, name)) for name in ("wide-llama-70b", "wide-qwen3-32b")),
        ("argonne", _static(sources, ("argonne-vllm", "argonne-trtllm"))),
        ("trtllm-maximum-load", _rates(sources, "trtllm-maximum-load")),
    ):
        asked = [options for options in questions.values() if len(options) > 1]
        if asked:
            found[name] = _score(asked)
    return found


def _score(asked: Sequence[Sequence[_Option]]) -> ChoiceScore:
    chosen = [_regret(options, min(options, key=lambda one: one.predicted_s)) for options in asked]
    return ChoiceScore(
        questions=len(asked),
        configurations=sum(len(options) for options in asked),
        regret=fmean(chosen),
        worst_regret=max(chosen),
        best_found=fmean(float(one == 0.0) for one in chosen),
        random_regret=fmean(fmean(_regret(options, one) for one in options) for options in asked),
        most_tp_regret=fmean(_most_tp(options) for options in asked),
    )


def _regret(options: Sequence[_Option], chosen: _Option) -> float:
    return chosen.measured_s / min(one.measured_s for one in options) - 1.0


def _most_tp(options: Sequence[_Option]) -> float:
    """Regret of the highest degree; several engines or precisions of it are taken at random."""
    most = max(one.tp for one in options)
    return fmean(_regret(options, one) for one in options if one.tp == most)


def _latencies(sources: Mapping[str, ServingScore], name: str) -> _Questions:
    """Time of a whole answer, the load of eight accelerators shared among as many replicas as fit on them."""
    if f"{name}-ttft" not in sources or f"{name}-tpot" not in sources:
        return {}
    first = {_deployment(one): one for one in _rows(sources, f"{name}-ttft")}
    pairs = [(one, first[_deployment(one)]) for one in _rows(sources, f"{name}-tpot") if _deployment(one) in first]

    def answer_s(tpot: ServingRowScore, ttft: ServingRowScore, value: Callable[[Any], float]) -> float:
        return value(ttft) + (tpot.row["output_tokens"] - 1) * value(tpot)

    questions: _Questions = {}
    for tpot, ttft in pairs:
        load = tpot.row["concurrency"] * NODE / tpot.row["tp"]
        option = _Option(tpot.row["tp"], answer_s(tpot, ttft, _measured), answer_s(tpot, ttft, _predicted))
        questions.setdefault((*_question(tpot), load), []).append(option)
    return questions


def _static(sources: Mapping[str, ServingScore], names: Sequence[str]) -> _Questions:
    """Time of a static batch, the sequences of eight accelerators shared in the same way; engines are a choice too."""
    questions: _Questions = {}
    for one in (row for name in names if name in sources for row in _rows(sources, name)):
        ranks = one.row["tp"] * one.row["pp"]
        load = one.row["concurrency"] * NODE / ranks
        questions.setdefault((*_question(one), load), []).append(_Option(one.row["tp"], one.measured, one.predicted))
    return questions


def _rates(sources: Mapping[str, ServingScore], name: str) -> _Questions:
    """Inverse rate of an accelerator at the highest load."""
    questions: _Questions = {}
    for one in _rows(sources, name) if name in sources else ():
        questions.setdefault(_question(one), []).append(_Option(one.row["tp"], 1 / one.measured, 1 / one.predicted))
    return questions


def _rows(sources: Mapping[str, ServingScore], name: str) -> Iterator[ServingRowScore]:
    return iter(sources[name].rows)


def _question(one: ServingRowScore) -> tuple[Any, ...]:
    return tuple(one.row[key] for key in ("model", "cluster", "prompt_tokens", "output_tokens"))


def _deployment(one: ServingRowScore) -> tuple[Any, ...]:
    keys = ("tp", "pp", "concurrency", "weights", "kv_cache", "software", "version")
    return (*_question(one), *(one.row[key] for key in keys))


def _measured(one: ServingRowScore) -> float:
    return one.measured


def _predicted(one: ServingRowScore) -> float:
    return one.predicted
