"""Published training tables: what was printed, under which definition, and what each source is for."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.formulas.transformer import training_flops_sc21
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.huggingface import load_model
from perfmodel.specs.quantity import validated
from perfmodel.specs.registry import read_toml

__all__ = [
    "MAX_CALIBRATED",
    "METRICS",
    "PUBLISHED",
    "UNITS",
    "OtherTool",
    "Row",
    "Source",
    "load_sources",
    "measured",
    "model_of",
]

PUBLISHED = Path(__file__).parent / "published"
# A printed unit in base units.
UNITS = {
    "s": 1.0,
    "ms": 1e-3,
    "TFLOP/s": 1e12,
    "%": 0.01,
    "tokens/s": 1.0,
    "samples/s": 1.0,
    "GB": 1e9,
    "GiB": 2.0**30,
}
# The largest share of a source's rows that may fix constants while the others validate.
MAX_CALIBRATED = 0.1
_RATES = ("hardware_flop_per_s_per_accelerator", "model_flop_per_s_per_accelerator")
# The quantity that each metric measures, and the units it may be printed in.
METRICS = {
    "step_time": ("step time", ("s", "ms")),
    "hardware_flop_per_s_per_accelerator": ("step time", ("TFLOP/s",)),
    "model_flop_per_s_per_accelerator": ("step time", ("TFLOP/s",)),
    "tokens_per_s_per_accelerator": ("step time", ("tokens/s",)),
    "samples_per_s_per_accelerator": ("step time", ("samples/s",)),
    "layer_forward_time": ("layer time", ("s", "ms")),
    "layer_backward_time": ("layer time", ("s", "ms")),
    "activation_share_of_tensor_parallel": ("activation memory", ("%",)),
    "peak_memory": ("peak memory", ("GB", "GiB")),
}
_DEGREES = ("tp", "pp", "dp", "vpp", "micro_batch", "zero_stage", "sequence_parallel", "recompute", "schedule")
_MORE_LAYOUT = ("cp", "ep", "etp", "dp_shard", "recompute_modules", "recompute_layers", "offload", "overlap")
Count = Annotated[int, Field(ge=1)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OtherTool(_Data):
    """What another tool scores on the same rows, with its stock description of the accelerator."""

    tool: str
    mape: Annotated[float, Field(gt=0)]


class Row(_Data):
    """One printed number with everything needed to predict it; `value` and `digits` as printed, `unit` beside it.

    `model_changes` are fields of the architecture that the run changed, `n_layers=12;max_seq_len=8192` in the table.
    `recompute_modules` (`moe_act;layernorm` in the table) are recomputed on every layer, or on `recompute_layers` of
    each stage; `offload` (`activation_layers=40`) says what lives in host memory; `overlap` is None where the stack
    overlaps communication as it always does. Rows of one `group` differ in their layout alone. `calibrates` rows may
    fix constants and stay out of the headline; roles.toml says which.
    """

    source: str
    where: str
    model: str
    model_changes: dict[str, int] = Field(default_factory=dict)
    cluster: str
    accelerators: Count
    tp: Count
    pp: Count
    dp: Count
    cp: Count = 1
    ep: Count = 1
    etp: Count = 1
    vpp: Count
    micro_batch: Count
    global_batch: Count
    seq_len: Count
    precision: str
    optimizer: str = "adam-mixed"
    recompute: Literal["none", "selective", "full"]
    recompute_modules: tuple[str, ...] = ()
    recompute_layers: Count | None = None
    offload: dict[str, float] = Field(default_factory=dict)
    sequence_parallel: bool
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    dp_shard: Count | None = None
    overlap: bool | None = None
    schedule: str
    software: str
    metric: str
    value: Annotated[float, Field(gt=0)]
    unit: Literal["s", "ms", "TFLOP/s", "%", "tokens/s", "samples/s", "GB", "GiB"]
    digits: Count
    group: str = ""
    note: str = ""
    calibrates: bool = False

    @field_validator("model_changes", "offload", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return dict(_pair(part) for part in value.split(";")) if isinstance(value, str) else value

    @field_validator("recompute_modules", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(value.split(";")) if isinstance(value, str) else value

    def layout(self) -> dict[str, Any]:
        """The keys of `ParallelLayout`; those that few sources use only where they differ from their default."""
        fields = type(self).model_fields
        more = [
            name for name in _MORE_LAYOUT if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]
        return {name: getattr(self, name) for name in (*_DEGREES, *more)}


class Source(_Data):
    """A published table with its role (see `published/roles.toml`).

    `calibrate_rows` selects whole groups of rows, each by the values of some columns, that may fix constants although
    the source validates; `calibrate_rule` says by what rule they were chosen before fitting, and for which constants.
    `same_study_as` names the source that stands for the study (code, models, machines) in the width of intervals.
    """

    id: str
    title: str
    url: str
    quantity: Literal["step time", "layer time", "activation memory", "peak memory"]
    role: Literal["validate", "calibrate"]
    decided: str
    reason: str
    flops: Literal["hardware-sc21", "model-full", "none"]
    read: str
    definition: str
    left_out: tuple[str, ...] = ()
    calibrate_rows: tuple[dict[str, str | int], ...] = ()
    calibrate_rule: str = ""
    free_constants: tuple[str, ...] = ()
    others: tuple[OtherTool, ...] = ()
    same_study_as: str = ""
    rows: tuple[Row, ...] = ()


def load_sources(only: Iterable[str] | None = None, folder: Path = PUBLISHED) -> dict[str, Source]:
    """The sources of `folder` by id, in the order of roles.toml; `only` selects. Raises `SpecError`, `PlanError`."""
    roles = read_toml(folder / "roles.toml")
    tables = {path.stem: path for path in (folder / "training").glob("*.csv")}
    if strangers := sorted(tables.keys() ^ roles.keys()):
        raise SpecError(f"roles.toml: {strangers[0]}: needs both a table in training/ and a role (got one of the two)")
    wanted = list(roles) if only is None else list(dict.fromkeys(only))
    for name in wanted:
        if name not in roles:
            raise PlanError(unknown_name("source", name, roles))
    return {name: _source(name, roles[name], tables[name]) for name in roles if name in wanted}


def model_of(row: Row) -> Architecture:
    """The model that a row ran: that of the zoo with the row's `model_changes`. Raises `SpecError`."""
    return _changed_model(row.model, tuple(row.model_changes.items()))


def measured(row: Row, source: Source, model: Architecture) -> float:
    """The printed number in base units: seconds for times and rates, bytes for memory, a fraction for shares."""
    printed = row.value * UNITS[row.unit]
    if row.metric == "samples_per_s_per_accelerator":
        return row.global_batch / (row.accelerators * printed)
    if row.metric == "tokens_per_s_per_accelerator":
        return row.global_batch * row.seq_len / (row.accelerators * printed)
    if row.metric not in _RATES:
        return printed
    if source.flops == "hardware-sc21":
        flops = training_flops_sc21(row.global_batch, row.seq_len, model.n_layers, model.d_model, model.vocab_padded)
    else:
        flops = 3.0 * model.forward_flops(row.global_batch, row.seq_len, attention="full")
    return float(flops) / (row.accelerators * printed)


@cache
def _changed_model(name: str, changes: tuple[tuple[str, int], ...]) -> Architecture:
    model = load_model(name)
    if not changes:
        return model
    return validated(f"{name}: model_changes", model.model_dump() | dict(changes), Architecture)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"must be name=number, several parted by ';' (got {text!r})")
    return name.strip(), value.strip()


def _source(name: str, role: dict[str, Any], table: Path) -> Source:
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            cells = list(csv.DictReader(lines, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"{table.name}: cannot be read: {error}") from None
    # None as a key or a value is csv's word for a line with too many or too few cells; an empty cell is not given.
    rows = tuple(
        validated(f"{table.name}:{line}", {str(key): value for key, value in row.items() if value}, Row)
        for line, row in enumerate(cells, start=2)
    )
    if len({row.where for row in rows}) < len(rows):
        raise SpecError(f"{table.name}: where: two rows stand at the same place")
    source = validated(f"roles.toml: {name}", role | {"id": name, "rows": rows}, Source)
    for row in rows:
        _check_metric(table.name, row, source)
    return source.model_copy(update={"rows": _marked(source)}) if source.calibrate_rows else source


def _check_metric(table: str, row: Row, source: Source) -> None:
    place = f"{table}: {row.where}: metric"
    if row.metric not in METRICS:
        raise SpecError(f"{place}: {unknown_name('metric', row.metric, METRICS)}")
    if (row.metric in _RATES) != (source.flops != "none"):
        raise SpecError(f"{place} {row.metric!r} in {row.unit!r} against flops {source.flops!r}")
    quantity, units = METRICS[row.metric]
    if quantity != source.quantity:
        raise SpecError(f"{place} {row.metric!r} measures {quantity!r}; the source's quantity is {source.quantity!r}")
    if row.unit not in units:
        raise SpecError(f"{place} {row.metric!r} in {row.unit!r}; allowed: {', '.join(units)}")


def _marked(source: Source) -> tuple[Row, ...]:
    """The rows with `calibrates` set by the role's selectors; a selector must find rows, and not too many in all."""
    place = f"roles.toml: {source.id}: calibrate_rows"
    for selector in source.calibrate_rows:
        for key in selector:
            if key not in Row.model_fields:
                raise SpecError(f"{place}: {unknown_name('column', key, Row.model_fields, shown=40)}")
        if not any(_selects(selector, row) for row in source.rows):
            raise SpecError(f"{place}: no row has {selector}")
    chosen = [any(_selects(selector, row) for selector in source.calibrate_rows) for row in source.rows]
    if sum(chosen) > MAX_CALIBRATED * len(chosen):
        raise SpecError(
            f"{place}: {sum(chosen)} of {len(chosen)} rows would calibrate; at most {MAX_CALIBRATED:.0%} may"
        )
    if not source.calibrate_rule:
        raise SpecError(f"roles.toml: {source.id}: calibrate_rule: missing; say by what rule the rows were chosen")
    return tuple(
        row.model_copy(update={"calibrates": True}) if one else row
        for row, one in zip(source.rows, chosen, strict=True)
    )


def _selects(selector: Mapping[str, str | int], row: Row) -> bool:
    return all(getattr(row, key) == value for key, value in selector.items())
