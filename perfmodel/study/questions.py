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
from perfmodel.specs.workload import Slo, Workload
from perfmodel.study.hardware import HARDWARE_KEYS, changed_accelerator, changed_cluster, is_tier_key

__all__ = ["QUESTIONS", "Question", "question_of_document", "question_of_keys"]

_TABLES: dict[str, Collection[str]] = {
    "layout": tuple(ParallelLayout.model_fields),
    "slo": tuple(Slo.model_fields),
    "workload": tuple(Workload.model_fields),
}


@dataclass(frozen=True)
class Question:
    """One question. `home` and `call` name the function that answers it, `machine` what hardware it takes: an
    accelerator, a cluster, or clusters to choose from. `said_by` are keys that together mean this question where nobody
    names it, if one of `priced_by` (where it has some) is among them: what has a layout is priced, else it is planned.
    """

    name: str
    document: str
    home: str
    call: str
    said_by: tuple[str, ...]
    machine: str = "cluster"
    kernel: str | None = None
    priced_by: tuple[str, ...] = ()

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
        if key in self.keys or (self.machine != "accelerator" and is_tier_key(key)):
            return
        if self.name.startswith("plan ") and key in _TABLES["layout"]:
            priced = self.name.replace("plan", "estimate")
            raise PlanError(f"{label}{key}: a plan chooses its layout; ask {priced!r} (the plan's prediction is one)")
        raise PlanError(f"{label}{self.name}: {unknown_name('key', key, self.keys, shown=60)}")

    def answer(self, values: Mapping[str, Any]) -> Any:
        """The result for flat `values`; raises what the function raises, and `PlanError` for a missing key."""
        keywords = dict(values)
        hardware = {key: keywords.pop(key) for key in values if key in HARDWARE_KEYS or is_tier_key(key)}
        parameters = _parameters(self)
        for name, keys in self.tables.items():
            # What the function takes by itself stays outside of the table.
            table = {key: _frozen(keywords.pop(key)) for key in keys if key in keywords and key not in parameters}
            if table or name == "layout":
                keywords[name] = table
        if "workload" in parameters:
            trace, table = keywords.pop("trace", None), keywords.pop("workload", {})
            if trace is not None or parameters["workload"].default is inspect.Parameter.empty:
                keywords["workload"] = _workload(trace, table)
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in keywords:
                raise PlanError(f"{name}: missing; {self.name} needs it")
        if self.machine == "accelerator":
            keywords["accelerator"] = changed_accelerator(keywords["accelerator"], hardware)
        elif self.machine == "clusters":
            asked = keywords["cluster"]
            several = asked if isinstance(asked, (list, tuple)) else [asked]
            keywords["cluster"] = [changed_cluster(one, None, hardware) for one in several]
        else:
            accelerators = keywords.pop("accelerators", None)
            keywords["cluster"] = changed_cluster(keywords["cluster"], accelerators, hardware)
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
                 "estimate_serving", ("model", "output_tokens"), priced_by=(*_TABLES["layout"], "concurrency", "load")),
        Question("plan serving", "perfmodel/serving-plan/1", "perfmodel.plan.serving.planner", "plan_serving",
                 ("model", "output_tokens"), "clusters"),
        Question("estimate training", _TRAINING, "perfmodel.predict.training", "estimate_training",
                 ("model", "global_batch", "seq_len"), priced_by=(*_TABLES["layout"],)),
        Question("plan training", "perfmodel/training-plan/1", "perfmodel.plan.training", "plan_training",
                 ("model", "global_batch", "seq_len")),
    )
}  # fmt: skip
"""By name; a new kind of question is one more entry."""


def question_of_keys(keys: Collection[str], label: str = "") -> Question:
    """The question that these keys ask; raises `PlanError` where they fit none."""
    asked = {*keys}.union(*(inner for name, inner in _TABLES.items() if name in keys))
    if "trace" in asked:
        asked.add("output_tokens")
    for question in QUESTIONS.values():
        priced = not question.priced_by or asked.intersection(question.priced_by)
        if priced and asked.issuperset(question.said_by):
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
    own = [name for name in parameters if name not in _TABLES]
    own += ["trace"] if "workload" in parameters else []
    own += ["accelerators"] if question.machine == "cluster" else []
    nested = [key for keys in question.tables.values() for key in keys]
    return tuple(dict.fromkeys([*own, *nested, *HARDWARE_KEYS]))


def _workload(trace: Any, keys: Mapping[str, Any]) -> Workload:
    """Of a trace, of keys, or of a trace with other keys."""
    if trace is None:
        for key in ("prompt_tokens", "output_tokens"):
            if key not in keys:
                raise PlanError(f"{key}: missing; give it, or a trace that has lengths")
        return Workload(**keys)
    from perfmodel.specs.trace import load_trace

    return load_trace(trace).with_(**keys)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
