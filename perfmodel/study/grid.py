"""A grid of scenarios: axes multiplied out, the row of any number without listing them, and a digest of the whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perfmodel._version import __version__
from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.predict.records import Record
from perfmodel.specs.registry import data_version, is_path
from perfmodel.study.questions import QUESTIONS, Question, question_of_keys
from perfmodel.study.scenario import Scenario, flat, load_scenario, plain, read_beside

__all__ = ["MOST_ROWS", "Grid", "grid_of", "read_grid"]

MOST_ROWS = 10_000_000
_GRID_KEYS = ("question", "scenario", "axes")
_LABEL = "label"


class Grid:
    """Every combination of the axes over one scenario; the last axis turns fastest.

    `axes` are tuples of settings, and a setting is a table of keys and values (one key, or a group of several that
    change together). `columns[row]` and `values[row]` differ by labels: a group may call its setting by a word.
    """

    def __init__(self, question: Question, base: Mapping[str, Any], axes: Mapping[str, tuple[dict[str, Any], ...]]):
        self.question, self.base, self.axes = question, dict(base), dict(axes)
        self._settings = list(self.axes.values())
        size = prod(len(settings) for settings in self._settings)
        if size > MOST_ROWS:
            raise PlanError(f"axes: {size:,} combinations; a sweep takes at most {MOST_ROWS:,}")
        self._size = size

    def __len__(self) -> int:
        return self._size

    def _at(self, row: int) -> list[dict[str, Any]]:
        found = []
        for settings in reversed(self._settings):
            row, position = divmod(row, len(settings))
            found.append(settings[position])
        return found[::-1]

    def values(self, row: int) -> dict[str, Any]:
        """Every key of the scenario of a row; a setting of None takes the key out."""
        changes = {key: value for one in self._at(row) for key, value in one.items() if key != _LABEL}
        return dict(Scenario(self.question.name, self.base).with_(**changes).values)

    def cells(self, row: int) -> dict[str, Any]:
        """What the row shows of its keys: descriptions by their id, labels of groups by the name of the axis."""
        cells: dict[str, Any] = {}
        for name, one in zip(self.axes, self._at(row), strict=True):
            for key, value in one.items():
                cells[name if key == _LABEL else key] = _shown(value)
        return cells

    def request(self) -> dict[str, Any]:
        """The resolved grid, which `read_grid` reads again."""
        axes = {
            name: plain([one[name] for one in settings])
            if all([*one] == [name] for one in settings)
            else plain(settings)
            for name, settings in self.axes.items()
        }
        return {"question": self.question.name, "scenario": plain(self.base), "axes": axes}

    def digest(self) -> str:
        """A name for this grid as this version and these files answer it."""
        text = json.dumps([self.request(), __version__, data_version(), _files(self)], sort_keys=True, default=str)
        return sha256(text.encode()).hexdigest()[:16]


def grid_of(axes: Mapping[str, Any], base: Any = None) -> Grid:
    """The grid of `axes` over a `base` scenario (anything that `load_scenario` reads, or a table of some keys).

    An axis is a key and its values (one value alone counts as a list of one), or a name of one's own and a list of
    tables of keys that change together, which may carry a `label`. Raises `PlanError` and `SpecError`.
    """
    if not isinstance(axes, Mapping):
        raise PlanError(f"axes: must be a table of keys and their values (got {type(axes).__name__})")
    axes = {name: _listed(values) for name, values in axes.items()}
    for name, values in axes.items():
        if not values:
            raise PlanError(f"axes: {name}: is empty; give at least one value")
    question, values = _asked(axes.pop("question", None), axes, base)
    settings = {name: _settings(question, name, values) for name, values in axes.items()}
    _refuse_twice(settings)
    return Grid(question, values, settings)


def read_grid(file: str | Path) -> Grid:
    """The grid in a TOML or JSON file, or in the document of a sweep; raises `SpecError` and `PlanError`.

    Tables: `axes`; `scenario`, fixed keys or the name of a scenario file; and `question`, where the keys do not tell.
    """
    path = Path(file)
    data = read_beside(path)
    if "document" in data and isinstance(data.get("request"), Mapping):
        data = data["request"]
    for key in data:
        if key not in _GRID_KEYS:
            raise SpecError(f"{file}: {unknown_name('key', key, _GRID_KEYS)}")
    if not isinstance(data.get("axes"), Mapping):
        raise SpecError(f"{file}: axes: missing or not a table; it holds keys and lists of their values")
    base = data.get("scenario", {})
    if isinstance(base, str):
        base = path.parent / base
    axes = dict(data["axes"])
    if "question" in data:
        axes["question"] = data["question"]
    try:
        return grid_of(axes, base)
    except PlanError as error:
        raise SpecError(f"{file}: {error}") from None


def _asked(named: Any, axes: Mapping[str, Any], base: Any) -> tuple[Question, dict[str, Any]]:
    """The question and its fixed values."""
    if isinstance(base, (str, Path)):
        base = read_beside(Path(base))
    if isinstance(base, (Scenario, Record)) or (isinstance(base, Mapping) and "document" in base):
        scenario = load_scenario(base)
        if named is None:
            return scenario.asked, dict(scenario.values)
        return QUESTIONS[scenario.with_(question=named[0]).question], dict(scenario.values)
    fixed = dict(base or {})
    named = fixed.pop("question", None) if named is None else named[0]
    if named is None:
        inner = [key for values in axes.values() for one in values if isinstance(one, Mapping) for key in one]
        return (question := question_of_keys([*fixed, *axes, *inner])), flat(question, fixed)
    if named not in QUESTIONS:
        raise PlanError(unknown_name("question", named, QUESTIONS))
    return QUESTIONS[named], flat(QUESTIONS[named], fixed)


def _listed(values: Any) -> list[Any]:
    if isinstance(values, (str, Path, Mapping, BaseModel)) or not isinstance(values, Iterable):
        return [values]
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _settings(question: Question, name: str, values: list[Any]) -> tuple[dict[str, Any], ...]:
    try:
        question.check(name, "axes: ")
    except PlanError:
        if name not in question.tables and not all(isinstance(value, Mapping) for value in values):
            raise
    else:
        return tuple({name: value} for value in values)
    groups = []
    for value in values:
        own = dict(value if isinstance(value, Mapping) else value.model_dump())
        label = {_LABEL: own.pop(_LABEL)} if _LABEL in own else {}
        groups.append(label | flat(question, {name: own} if name in question.tables else own, f"axes: {name}: "))
    return tuple(groups)


def _refuse_twice(axes: Mapping[str, tuple[dict[str, Any], ...]]) -> None:
    owners: dict[str, str] = {}
    for name, settings in axes.items():
        for key in dict.fromkeys(key for one in settings for key in one if key != _LABEL):
            if key in owners:
                raise PlanError(f"axes: {key}: is in two axes, {owners[key]} and {name}; keep one")
            owners[key] = name


def _shown(value: Any) -> Any:
    """One cell: a description by its id, a list by its items."""
    id = value.get("id") or value.get("name") if isinstance(value, Mapping) else getattr(value, "id", None)
    if isinstance(id, str):
        return id
    value = plain(value)
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _files(grid: Grid) -> dict[str, str]:
    """Digests of the files that values name: another text is another grid."""
    values = [*grid.base.values(), *(one for axis in grid.axes.values() for two in axis for one in two.values())]
    paths = {str(value) for value in values if is_path(value) and Path(value).is_file()}
    return {path: sha256(Path(path).read_bytes()).hexdigest() for path in sorted(paths)}
