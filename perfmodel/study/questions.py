"""The questions that a scenario can ask: whom it calls, which keys it takes, which document answers it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.predict.layout import ParallelLayout
from perfmodel.specs.workload import Slo
from perfmodel.study.hardware import HARDWARE_KEYS, changed_accelerator, changed_cluster, is_tier_key

__all__ = ["QUESTIONS", "Question", "question_of_document", "question_of_keys"]

_TABLES: dict[str, Collection[str]] = {"layout": tuple(ParallelLayout.model_fields), "slo": tuple(Slo.model_fields)}


@dataclass(frozen=True)
class Question:
    """One question. `home` and `call` name the function that answers it, `machine` what hardware it takes;
    `said_by` are keys that together mean this question where nobody names it."""

    name: str
    document: str
    home: str
    call: str
    said_by: tuple[str, ...]
    machine: str = "cluster"
    kernel: str | None = None

    def function(self) -> Callable[..., Any]:
        """The function of the library that answers."""
        found: Callable[..., Any] = getattr(import_module(self.home), self.call)
        return found

    @property
    def tables(self) -> dict[str, Collection[str]]:
        """Nested arguments, whose keys a scenario holds by their own last names."""
        return {name: keys for name, keys in _TABLES.items() if name in _parameters(self)}

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key of such a scenario, hardware quantities last."""
        return _keys(self)

    def check(self, key: str, label: str = "") -> None:
        """Refuse a key that this question does not take; raises `PlanError`."""
        if key in self.keys or (self.machine == "cluster" and is_tier_key(key)):
            return
        if self.name == "plan training" and key in _TABLES["layout"]:
            raise PlanError(
                f"{label}{key}: a plan chooses its layout; ask 'estimate training' (the plan's prediction is one)"
            )
        raise PlanError(f"{label}{self.name}: {unknown_name('key', key, self.keys, shown=60)}")

    def answer(self, values: Mapping[str, Any]) -> Any:
        """The result for flat `values`; raises what the function raises, and `PlanError` for a missing key."""
        keywords = dict(values)
        hardware = {key: keywords.pop(key) for key in values if key in HARDWARE_KEYS or is_tier_key(key)}
        for name, keys in self.tables.items():
            table = {key: _frozen(keywords.pop(key)) for key in keys if key in keywords}
            if table or name == "layout":
                keywords[name] = table
        for name, parameter in _parameters(self).items():
            if parameter.default is parameter.empty and name not in keywords:
                raise PlanError(f"{name}: missing; {self.name} needs it")
        if self.machine == "cluster":
            accelerators = keywords.pop("accelerators", None)
            keywords["cluster"] = changed_cluster(keywords["cluster"], accelerators, hardware)
        else:
            keywords["accelerator"] = changed_accelerator(keywords["accelerator"], hardware)
        if "trace" in keywords:
            from perfmodel.specs.trace import load_trace

            keywords["workload"] = load_trace(keywords.pop("trace"))
        return self.function()(**keywords)


_KERNELS = "perfmodel.predict.kernel_documents"
_KERNEL = "perfmodel/kernel-estimate/1"
_TRAINING = "perfmodel/training-estimate/1"
QUESTIONS = {
    question.name: question
    for question in (
        Question("estimate gemm", _KERNEL, _KERNELS, "describe_gemm", ("m", "n", "k"), "accelerator", "gemm"),
        Question("estimate collective", _KERNEL, _KERNELS, "describe_collective", ("n_bytes", "ranks"), "cluster",
                 "collective"),
        Question("estimate attention", _KERNEL, _KERNELS, "describe_attention", ("accelerator", "seq_len"),
                 "accelerator", "attention"),
        Question("estimate serving", "perfmodel/serving-estimate/1", "perfmodel.predict.serving.estimate",
                 "estimate_serving", ("model", "output_tokens")),
        Question("estimate training", _TRAINING, "perfmodel.predict.training", "estimate_training",
                 ("model", "global_batch", "seq_len")),
        Question("plan training", "perfmodel/training-plan/1", "perfmodel.plan.training", "plan_training",
                 ("model", "global_batch", "seq_len")),
    )
}  # fmt: skip
"""By name; a new kind of question is one more entry."""


def question_of_keys(keys: Collection[str], label: str = "") -> Question:
    """The question that these keys ask; raises `PlanError` where they fit none."""
    asked = {*keys} | ({*_TABLES["layout"]} if "layout" in keys else set())
    if "trace" in asked:
        asked.add("output_tokens")
    for question in QUESTIONS.values():
        if not asked.issuperset(question.said_by):
            continue
        # What has a layout is priced, what has none is planned.
        if question.name == "estimate training" and not asked.intersection(_TABLES["layout"]):
            continue
        return question
    raise PlanError(f"{label}question: missing, and the keys tell none; one of {', '.join(QUESTIONS)}")


def question_of_document(document: Mapping[str, Any], label: str) -> Question:
    """The question that a result document answers; raises `SpecError`."""
    kind, request = document.get("document"), document.get("request")
    if not isinstance(request, Mapping):
        raise SpecError(f"{label}: request: missing or not a table; it says what the document answers")
    if kind == "perfmodel/memory-estimate/1":  # the memory of an estimate of a step
        kind = _TRAINING
    for question in QUESTIONS.values():
        if question.document == kind and question.kernel in (None, request.get("kernel")):
            return question
    known = dict.fromkeys(question.document for question in QUESTIONS.values())
    raise SpecError(f"{label}: {unknown_name('document', kind, known)}")


@cache
def _parameters(question: Question) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(question.function()).parameters)


@cache
def _keys(question: Question) -> tuple[str, ...]:
    parameters = _parameters(question)
    own = [name for name in parameters if name not in (*_TABLES, "workload")]
    own += ["trace"] if "workload" in parameters else []
    own += ["accelerators"] if question.machine == "cluster" else []
    nested = [key for keys in question.tables.values() for key in keys]
    return tuple(dict.fromkeys([*own, *nested, *HARDWARE_KEYS]))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
