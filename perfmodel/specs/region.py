"""Where the electricity comes from: how much carbon a kilowatt-hour carries, over a year or by hour of the day."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from perfmodel.errors import SpecError
from perfmodel.specs import registry
from perfmodel.specs.quantity import Quantity, QuantityOrZero, SourcedSpec

__all__ = ["DEFAULT_REGION", "HOURS", "Region", "load_day", "load_region"]

DEFAULT_REGION = "world"
HOURS = 24
_AGREE = 0.01
"""How far a mean that is given beside the hours may lie from theirs."""


class Region(SourcedSpec):
    """The mean `carbon_kg_per_kwh` [kg CO2e for one kWh] of a region's electricity in `year`. Raises `SpecError`.

    `carbon_kg_per_kwh_by_hour` are 24 intensities of the hours of a day, local time, from midnight on; the mean is then
    theirs and may be left out.
    """

    id: str = "custom"
    name: str = ""
    year: int | None = None
    carbon_kg_per_kwh: QuantityOrZero
    carbon_kg_per_kwh_by_hour: tuple[QuantityOrZero, ...] = ()

    @property
    def mean(self) -> float:
        """Intensity of a steady load [kg for one kWh]."""
        return math.fsum(self.by_hour) / HOURS if self.carbon_kg_per_kwh_by_hour else float(self.carbon_kg_per_kwh)

    @property
    def by_hour(self) -> tuple[float, ...]:
        """Intensity of each hour of the day [kg for one kWh]; the mean where no hours are known."""
        return tuple(map(float, self.carbon_kg_per_kwh_by_hour)) or (float(self.carbon_kg_per_kwh),) * HOURS

    @model_validator(mode="before")
    @classmethod
    def _mean_of_hours(cls, data: Any) -> Any:
        """The mean, where the hours alone are given; what is wrong with them is said by their own check."""
        if not isinstance(data, Mapping) or "carbon_kg_per_kwh" in data:
            return data
        hours = data.get("carbon_kg_per_kwh_by_hour")
        if not hours:
            return data
        given = [one.get("value") if isinstance(one, Mapping) else one for one in _listed(hours)]
        values = [float(one) for one in given if isinstance(one, (int, float)) and 0 <= one < math.inf]
        mean, how = math.fsum(values) / HOURS, "mean of the 24 hours"
        return {**data, "carbon_kg_per_kwh": Quantity(mean, source="perfmodel", kind="derived", derived=how)}

    @field_validator("carbon_kg_per_kwh_by_hour", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"must be {HOURS} numbers, one an hour from midnight on (got {type(value).__name__})")
        if value and len(value) != HOURS:
            raise ValueError(f"must be {HOURS} numbers, one an hour from midnight on (got {len(value)})")
        return tuple(value)

    @model_validator(mode="after")
    def _agrees_with_its_hours(self) -> Region:
        mean, given = self.mean, float(self.carbon_kg_per_kwh)
        if abs(given - mean) > _AGREE * max(mean, given):
            raise ValueError(
                f"carbon_kg_per_kwh: must be the mean of its 24 hours, {mean:.4g} (got {given:g}); leave it out"
            )
        return self


def load_region(what: str | Path | Mapping[str, Any] | Region) -> Region:
    """The region of that id, path or dict; raises `SpecError`.

    >>> float(load_region("france").carbon_kg_per_kwh)
    0.056
    """
    return registry.load("regions", what, Region)


def load_day(file: str | Path) -> tuple[float, ...]:
    """24 intensities from a CSV: a number a line, or an hour and a number, a first line of words being its head.

    Raises `SpecError` naming file and line.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{file}: not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found: list[float] = []
    for at, row in enumerate(csv.reader(io.StringIO(text)), 1):
        cells = [cell.strip() for cell in row if cell.strip()]
        if not cells or cells[0].startswith("#") or (not found and not _is_number(cells[-1])):
            continue
        hour = cells[0] if len(cells) == 2 else str(len(found))
        if len(cells) > 2 or not all(map(_is_number, cells)) or float(hour) != len(found):
            raise SpecError(f"{file}:{at}: must be hour {len(found)} and its kg per kWh (got {','.join(row)[:40]!r})")
        found.append(float(cells[-1]))
    if len(found) != HOURS:
        raise SpecError(f"{file}: must hold {HOURS} numbers, one an hour from midnight on (got {len(found)})")
    return tuple(found)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
