"""A number that knows where it comes from, and the base of every description built from such numbers."""

from __future__ import annotations

import datetime
import math
import numbers
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import core_schema

from perfmodel.errors import SpecError, unknown_name

__all__ = ["KINDS", "Quantity", "QuantityOrZero", "Source", "SourcedSpec", "Spec", "cited", "quantities", "validated"]

KINDS = ("published", "measured", "derived", "assumed")
_REQUIRED = ("value", "source", "where", "kind", "checked")
_KEYS = (*_REQUIRED, "derived", "note")
# A bare number belongs to whoever typed it; a default that nobody typed belongs to perfmodel.
_SELF_EXPLAINING = ("user", "perfmodel")


class Quantity(float):
    """A float in base units that carries its provenance; arithmetic with it gives plain floats.

    `kind` is published, measured, derived (then `derived` says how) or assumed; `source` names an entry of the
    `sources` table of the description that holds it; `checked` is an ISO date. Raises `SpecError`.

    >>> Quantity(3.35e12, source="data-sheet", where="table 1", kind="published", checked="2026-11-21").kind
    'published'
    """

    __slots__ = ("checked", "derived", "kind", "note", "source", "where")
    source: str
    where: str
    kind: str
    checked: str
    derived: str
    note: str

    def __new__(
        cls,
        value: float,
        *,
        source: str = "user",
        where: str = "",
        kind: str = "assumed",
        checked: str = "",
        derived: str = "",
        note: str = "",
    ) -> Quantity:
        table = {"value": value, "source": source, "where": where, "kind": kind, "checked": checked}
        try:
            return cls._new(table | {"derived": derived, "note": note})
        except ValueError as error:
            raise SpecError(f"Quantity: {error}") from None

    @classmethod
    def _new(cls, table: Mapping[str, Any]) -> Quantity:
        self = super().__new__(cls, _finite(table["value"], "value: "))
        for key in _KEYS[1:]:
            text = table.get(key, "")
            if not isinstance(text, str):
                raise ValueError(f"{key}: must be text (got {_shown(text)})")
            object.__setattr__(self, key, text)
        if self.kind not in KINDS:
            raise ValueError(f"kind: {unknown_name('kind', self.kind, KINDS)}")
        if self.kind == "derived" and not self.derived:
            raise ValueError("derived: missing; a derived number must say how it was derived")
        if self.derived and self.kind != "derived":
            raise ValueError(f"derived: allowed only where kind is 'derived' (got kind {self.kind!r})")
        if self.source not in _SELF_EXPLAINING:
            _iso_date(self.checked)
        return self

    @classmethod
    def _read(cls, data: Any, *, zero: bool = False) -> Quantity:
        """A Quantity from itself, a provenance table or a bare number; `ValueError` says what is wrong."""
        if isinstance(data, Mapping):
            for key in data:
                if key not in _KEYS:
                    raise ValueError(unknown_name("key", key, _KEYS))
            needed = ("value", "source") if data.get("source") in _SELF_EXPLAINING else _REQUIRED
            missing = [key for key in needed if key not in data or data[key] == ""]
            if missing:
                raise ValueError(f"missing {', '.join(missing)}; a number needs {', '.join(_REQUIRED)}")
            data = cls._new({"kind": "assumed"} | dict(data))
        elif not isinstance(data, Quantity):
            data = cls._new({"value": _finite(data), "source": "user", "kind": "assumed"})
        if data < 0 or (data == 0 and not zero):
            raise ValueError(f"must be {'zero or more' if zero else 'more than zero'} (got {float(data):g})")
        return data

    def as_dict(self) -> dict[str, float | str]:
        """The provenance table, without empty entries."""
        texts = {key: getattr(self, key) for key in _KEYS[1:]}
        return {"value": float(self)} | {key: text for key, text in texts.items() if text}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Quantity is frozen (tried to set {name!r})")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Quantity is frozen (tried to delete {name!r})")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.as_dict(),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return _schema(zero=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return _json_schema(zero=False)


class _ZeroAllowed:
    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return _schema(zero=True)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return _json_schema(zero=True)


QuantityOrZero = Annotated[Quantity, _ZeroAllowed()]


def _restore(table: dict[str, Any]) -> Quantity:
    return Quantity(table.pop("value"), **table)


def _schema(*, zero: bool) -> core_schema.CoreSchema:
    return core_schema.no_info_plain_validator_function(
        lambda data: Quantity._read(data, zero=zero),
        serialization=core_schema.plain_serializer_function_ser_schema(Quantity.as_dict, when_used="json"),
    )


def _json_schema(*, zero: bool) -> dict[str, Any]:
    number = {"type": "number", "minimum" if zero else "exclusiveMinimum": 0}
    texts: dict[str, Any] = {key: {"type": "string"} for key in _KEYS[1:]} | {"kind": {"enum": list(KINDS)}}
    table = {
        "type": "object",
        "properties": {"value": number} | texts,
        "required": ["value", "source"],
        "additionalProperties": False,
    }
    return {"anyOf": [number, table]}


def _finite(value: object, label: str = "") -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{label}must be a number (got {_shown(value)})")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{label}must be finite (got {_shown(value)})")
    return number


def _iso_date(text: str) -> None:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"checked: must be an ISO date such as '2026-11-21' (got {text!r})") from None


def _shown(value: object) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."


class Spec(BaseModel):
    """The base of every description: frozen, strict, unknown keys refused; its constructor raises `SpecError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise SpecError(_one_line(type(self).__name__, error, type(self))) from None

    # Without this mark pydantic would call the constructor for nested descriptions too and lose where they stand.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class Source(Spec):
    """A publication, page or commit that a stranger can open."""

    title: str
    url: str

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        if isinstance(data, str):
            found = re.search(r"https?://\S+", data)
            if found is None:
                raise ValueError(f"a source needs a URL (got {_shown(data)}); write text with a URL, or {{title, url}}")
            return {"title": data.replace(found[0], "").strip(" ,;:()<>") or found[0], "url": found[0].rstrip(">),;")}
        return data

    @model_validator(mode="after")
    def _has_url(self) -> Source:
        if not re.match(r"https?://[^\s/]+", self.url):
            raise ValueError(f"url: must start with http:// or https:// (got {_shown(self.url)})")
        return self


class SourcedSpec(Spec):
    """A description whose every number names one of its `sources`."""

    sources: dict[str, Source] = {}

    @model_validator(mode="after")
    def _sources_resolve(self) -> Any:
        for where, quantity in quantities(self):
            if quantity.source not in self.sources and quantity.source not in _SELF_EXPLAINING:
                raise ValueError(f"{where}: source: {unknown_name('source', quantity.source, self.sources)}")
        return self


def quantities(spec: Spec) -> Iterator[tuple[str, Quantity]]:
    """Every Quantity of a description with its dotted key; nested descriptions with sources of their own excepted."""
    for name in type(spec).model_fields:
        yield from _quantities_in(name, getattr(spec, name))


def cited(*specs: SourcedSpec) -> list[Source]:
    """The sources that a number of these descriptions names, in their order."""
    found = []
    for spec in specs:
        named = {quantity.source for _, quantity in quantities(spec)}
        found += [source for key, source in spec.sources.items() if key in named]
    return found


def _quantities_in(where: str, value: object) -> Iterator[tuple[str, Quantity]]:
    if isinstance(value, Quantity):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _quantities_in(f"{where}.{key}", item)
    elif isinstance(value, (tuple, list)):
        for position, item in enumerate(value):
            yield from _quantities_in(f"{where}.{position}", item)
    elif isinstance(value, Spec) and not isinstance(value, SourcedSpec):
        for key, quantity in quantities(value):
            yield f"{where}.{key}", quantity


_Model = TypeVar("_Model", bound=BaseModel)


def validated(label: str, data: object, model: type[_Model], context: dict[str, Any] | None = None) -> _Model:
    """`data` as a `model`; raises `SpecError("label: key: what is wrong (got X); what is allowed; nearest match")`."""
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise SpecError(_one_line(label, error, model)) from None
    except SpecError as error:  # from a description that this one names, e.g. the accelerator of a cluster
        raise SpecError(f"{label}: {error}") from None


def _one_line(label: str, error: ValidationError, model: type[BaseModel]) -> str:
    faults = error.errors()
    # A misspelt key is also a missing key: the misspelling is the better news.
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    loc = tuple(part for part in fault["loc"] if part != "[key]")
    got, context = fault.get("input"), fault.get("ctx", {})
    if fault["type"] == "extra_forbidden":
        what = unknown_name("key", loc[-1], _model_at(model, loc[:-1]).model_fields, shown=30)
    elif fault["type"] == "literal_error":
        what = unknown_name("value", got, re.findall(r"'([^']*)'", str(context["expected"])))
    elif fault["type"] == "missing":
        what = "key is missing; it is required"
    elif "error" in context:
        what = str(context["error"])
    else:
        what = f"{fault['msg'][0].lower()}{fault['msg'][1:]} (got {_shown(got)})"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return ": ".join(part for part in (label, ".".join(map(str, loc)), what) if part) + more


def _model_at(model: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel]:
    for part in loc:
        if part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner)) is not None), None)
