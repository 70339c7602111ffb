"""`Scenario`: a question as a value, from a file or from the document that answered it, and what changes in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.predict.records import Record
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.huggingface import model_reference
from perfmodel.specs.registry import is_path, read_json, read_toml
from perfmodel.specs.rivals import replaced
from perfmodel.study.questions import QUESTIONS, Question, question_of_document, question_of_keys

__all__ = ["Scenario", "flat", "load_scenario", "plain", "read_beside"]

_SPECS = ("model", "cluster", "accelerator", "software", "trace")


@dataclass(frozen=True)
class Scenario:
    """One question with its values by key, nested keys by their own last name; `None` is the same as not given.

    `question` is a name of `QUESTIONS`, such as "estimate training". Hardware quantities are keys too
    (`hbm_byte_per_s`, `infiniband.link_byte_per_s`). Raises `SpecError` for an unknown question, `PlanError` for an
    unknown key.
    """

    question: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.question not in QUESTIONS:
            raise SpecError(unknown_name("question", self.question, QUESTIONS))
        values = {key: value for key, value in self.values.items() if value is not None}
        for key in values:
            self.asked.check(key)
        object.__setattr__(self, "values", MappingProxyType(values))

    def __reduce__(self) -> tuple[Any, ...]:
        return Scenario, (self.question, dict(self.values))

    @property
    def asked(self) -> Question:
        """The entry of `QUESTIONS`."""
        return QUESTIONS[self.question]

    def with_(self, **changes: Any) -> Scenario:
        """The same question with other values; `None` takes a key out, `question=` asks another of what is left.

        Of keys that exclude each other (`specs.rivals`: `concurrency`, `arrival_rate_per_s`, `load`, ...) the new one
        stays. Names with a dot go in as `with_(**{"infiniband.latency_s": 1e-6})`. Raises `PlanError`.
        """
        named = changes.pop("question", self.question)
        if named not in QUESTIONS:
            raise SpecError(unknown_name("question", named, QUESTIONS))
        question = QUESTIONS[named]
        changes = flat(question, changes)
        values = replaced(self.values, changes)
        if question.name != self.question:
            values = {key: value for key, value in values.items() if key in question.keys or key in changes}
        return Scenario(question.name, values)

    def run(self) -> Any:
        """The frozen record that answers; raises `SpecError` and `PlanError` as the library call does."""
        return self.asked.answer(self.values)

    def to_dict(self) -> dict[str, Any]:
        """What `load_scenario` reads again: `question`, then the values, descriptions as ids or written out."""
        return {"question": self.question} | {key: plain(value) for key, value in self.values.items()}

    def to_json(self, indent: int | None = 2) -> str:
        """The same as JSON, the text of a scenario file."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)


def load_scenario(what: Scenario | Record | Mapping[str, Any] | str | Path) -> Scenario:
    """The scenario in a file (TOML or JSON, also a result document), a result, or a table of keys.

    A table names its `question`, or its keys tell: with a layout a step is estimated, without one it is planned.
    Raises `SpecError` and `PlanError`.
    """
    if isinstance(what, Scenario):
        return what
    if isinstance(what, (str, Path)):
        return _scenario_of(str(what), read_beside(Path(what)))
    if isinstance(what, Record):
        what = what.to_dict()
    if not isinstance(what, Mapping):
        raise SpecError(f"scenario: must be a path, a result or a table (got {type(what).__name__})")
    return _scenario_of("scenario", what)


def _scenario_of(label: str, data: Mapping[str, Any]) -> Scenario:
    if "document" in data:
        question = question_of_document(data, label)
        data = {key: value for key, value in data["request"].items() if key != "kernel"}
    else:
        data = dict(data)
        named = data.pop("question", None)
        if named is not None and named not in QUESTIONS:
            raise SpecError(f"{label}: {unknown_name('question', named, QUESTIONS)}")
        question = QUESTIONS[named] if named is not None else question_of_keys(data, f"{label}: ")
    return Scenario(question.name, flat(question, data, f"{label}: "))


def flat(question: Question, data: Mapping[str, Any], label: str = "") -> dict[str, Any]:
    """Values with the keys of nested tables by their own last name; raises `PlanError` for what is unknown or twice."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        table = question.tables.get(key)
        if table is None:
            question.check(key, label)
        nested = value.model_dump() if isinstance(value, BaseModel) else value
        inner = {key: value} if table is None else nested or {}
        if not isinstance(inner, Mapping):
            raise PlanError(f"{label}{key}: must be a table (got {type(value).__name__})")
        for name, one in inner.items():
            if table is not None and name not in table:
                raise PlanError(f"{label}{key}: {unknown_name('key', name, table, shown=30)}")
            if name in found:
                raise PlanError(f"{label}{name}: given twice, alone and under {key}; keep one")
            found[name] = one
    return found


def read_beside(file: Path) -> dict[str, Any]:
    """The table in a TOML or JSON file, relative paths of descriptions taken from its folder; raises `SpecError`."""
    data = read_toml(file) if file.suffix.lower() == ".toml" else read_json(file)
    return {key: beside(file.parent, key, value) for key, value in data.items()}


def beside(folder: Path, key: str, value: Any) -> Any:
    """A relative path in a file means: relative to that file."""
    if isinstance(value, list):
        return [beside(folder, key, one) for one in value]
    if key not in _SPECS:
        return {name: beside(folder, name, one) for name, one in value.items()} if isinstance(value, dict) else value
    named = isinstance(value, str) and is_path(value) and not value.startswith("hf:")
    return str(folder / value) if named else value


def plain(value: Any) -> Any:
    """A value as JSON holds it: models by their reference, other descriptions written out."""
    if isinstance(value, Architecture):
        return model_reference(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "item") and not hasattr(value, "__len__"):  # a NumPy number
        return value.item()
    return str(value) if isinstance(value, Path) else value
