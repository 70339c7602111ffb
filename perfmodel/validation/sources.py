"""Published training tables: what was printed, under which definition, and what each source is for."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.formulas.transformer import training_flops_sc21
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.quantity import validated
from perfmodel.specs.registry import read_toml

__all__ = ["PUBLISHED", "UNITS", "OtherTool", "Row", "Source", "load_sources", "measured"]

PUBLISHED = Path(__file__).parent / "published"
# A printed unit in base units.
UNITS = {"s": 1.0, "ms": 1e-3, "TFLOP/s": 1e12, "%": 0.01}
_RATES = ("hardware_flop_per_s_per_accelerator", "model_flop_per_s_per_accelerator")
Count = Annotated[int, Field(ge=1)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OtherTool(_Data):
    """What another tool scores on the same rows, with its stock description of the accelerator."""

    tool: str
    mape: Annotated[float, Field(gt=0)]


class Row(_Data):
    """One printed number with everything needed to predict it; `value` and `digits` as printed, `unit` beside it."""

    source: str
    where: str
    model: str
    cluster: str
    accelerators: Count
    tp: Count
    pp: Count
    dp: Count
    vpp: Count
    micro_batch: Count
    global_batch: Count
    seq_len: Count
    precision: str
    recompute: Literal["none", "selective", "full"]
    sequence_parallel: bool
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    schedule: str
    software: str
    metric: str
    value: Annotated[float, Field(gt=0)]
    unit: Literal["s", "ms", "TFLOP/s", "%"]
    digits: Count
    note: str = ""

    def layout(self) -> dict[str, Any]:
        """The keys of `ParallelLayout`."""
        degrees = ("tp", "pp", "dp", "vpp", "micro_batch", "zero_stage", "sequence_parallel", "recompute", "schedule")
        return {name: getattr(self, name) for name in degrees}


class Source(_Data):
    """A published table with the role of the whole of it (see `published/roles.toml`)."""

    id: str
    title: str
    url: str
    quantity: Literal["step time", "layer time", "activation memory"]
    role: Literal["validate", "calibrate"]
    decided: str
    reason: str
    flops: Literal["hardware-sc21", "model-full", "none"]
    read: str
    definition: str
    left_out: tuple[str, ...] = ()
    free_constants: tuple[str, ...] = ()
    others: tuple[OtherTool, ...] = ()
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


def measured(row: Row, source: Source, model: Architecture) -> float:
    """The printed number in base units: seconds for times and rates, a fraction for shares."""
    printed = row.value * UNITS[row.unit]
    if row.metric not in _RATES:
        return printed
    if source.flops == "hardware-sc21":
        flops = training_flops_sc21(row.global_batch, row.seq_len, model.n_layers, model.d_model, model.vocab_padded)
    else:
        flops = 3.0 * model.forward_flops(row.global_batch, row.seq_len, attention="full")
    return float(flops) / (row.accelerators * printed)


def _source(name: str, role: dict[str, Any], table: Path) -> Source:
    try:
        with table.open(encoding="utf-8", newline="") as lines:
            cells = list(csv.DictReader(lines, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError(f"{table.name}: cannot be read: {error}") from None
    # None as a key or a value is csv's word for a line with too many or too few cells.
    rows = tuple(
        validated(f"{table.name}:{line}", {str(key): value for key, value in row.items() if value is not None}, Row)
        for line, row in enumerate(cells, start=2)
    )
    if len({row.where for row in rows}) < len(rows):
        raise SpecError(f"{table.name}: where: two rows stand at the same place")
    source = validated(f"roles.toml: {name}", role | {"id": name, "rows": rows}, Source)
    for row in rows:
        if (row.metric in _RATES) != (source.flops != "none") or (row.metric in _RATES) != (row.unit == "TFLOP/s"):
            raise SpecError(
                f"{table.name}: {row.where}: metric {row.metric!r} in {row.unit!r} against flops {source.flops!r}"
            )
    return source
