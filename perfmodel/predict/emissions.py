"""Kilograms of CO2 equivalents of a prediction: of its electricity, and of making its hardware where that is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.power_money import carbon_kg, carbon_kg_in_hour_of_day, embodied_carbon_kg
from perfmodel.predict.cost import Number
from perfmodel.specs.quantity import Quantity
from perfmodel.specs.region import DEFAULT_REGION, HOURS, Region, load_day, load_region
from perfmodel.specs.registry import ids

__all__ = ["Emissions", "check_start_hour", "emissions_of"]

DEFAULT_LIFE_YEARS = 6.0
"""Until hardware is replaced: Luccioni et al. 2022, arXiv:2211.02001, section 4.1."""
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Emissions:
    """Carbon of electricity [kg/kWh], and of making one accelerator with its share of a server [kg]."""

    region: Region
    embodied_kg: float = 0.0
    life_years: float = DEFAULT_LIFE_YEARS

    def kg(self, energy_j: Number, accelerators: Number, seconds: Number, hour: int | None = None) -> Number:
        """Carbon [kg] of so much energy at the meter, in the mean hour or in one of the day, and of accelerators."""
        operation = carbon_kg(energy_j, self.region.mean if hour is None else self.region.by_hour[hour])
        if not self.embodied_kg:
            return operation
        return operation + embodied_carbon_kg(accelerators, seconds, self.embodied_kg, self.life_years)

    @property
    def knows_hours(self) -> bool:
        """Whether intensities of the hours of a day are known."""
        return bool(self.region.carbon_kg_per_kwh_by_hour)

    def kg_of_run(self, energy_j: float, accelerators: float, seconds: float, start_hour: float) -> float:
        """Carbon [kg] of a run at a steady draw that begins at that hour of the day, hour by hour."""
        hours, intensity = np.arange(float(HOURS)), np.array(self.region.by_hour)
        each = carbon_kg_in_hour_of_day(energy_j / seconds, start_hour * _HOUR_S, seconds, hours, intensity)
        return float(each.sum()) + self.kg(0.0, accelerators, seconds)

    def best_start(self, energy_j: float, accelerators: float, seconds: float) -> tuple[float, float]:
        """The hour of the day at which such a run causes least carbon, and how much [kg].

        Between the starts at which a run begins or ends with an hour its carbon is straight, so that these are enough.
        """
        ends = [(hour - seconds / _HOUR_S) % HOURS for hour in range(HOURS)]
        starts = sorted({*map(float, range(HOURS)), *(one for one in ends if one < HOURS)})
        found = [(self.kg_of_run(energy_j, accelerators, seconds, hour), hour) for hour in starts]
        least = min(kg for kg, _ in found)
        # Of starts as good, the first; sums of hours are exact to some digits only.
        return next((hour, kg) for kg, hour in found if kg <= least * (1.0 + 1e-12))

    def request(self) -> dict[str, Any]:
        """The resolved keys: a region from the shelf by its id, else its number."""
        shelved = self.region.id in ids("regions")
        return {
            "region": self.region.id if shelved else None,
            "carbon_kg_per_kwh": None if shelved or self.knows_hours else float(self.region.carbon_kg_per_kwh),
            "carbon_by_hour": list(self.region.by_hour) if self.knows_hours and not shelved else None,
            "embodied_kg": self.embodied_kg or None,
            "life_years": self.life_years,
        }


def emissions_of(
    region: Region | str | Path | Mapping[str, Any] | None = None,
    carbon_kg_per_kwh: float | None = None,
    embodied_kg: float | None = None,
    life_years: float | None = None,
    carbon_by_hour: Sequence[float] | str | Path | None = None,
) -> Emissions:
    """The carbon of a region (default: the world's mean), of a number, or of 24 numbers or their CSV, one an hour.

    Raises `SpecError` and `PlanError`.
    """
    given = {"region": region, "carbon_kg_per_kwh": carbon_kg_per_kwh, "carbon_by_hour": carbon_by_hour}
    several = [name for name, value in given.items() if value is not None]
    if len(several) > 1:
        raise PlanError(f"{', '.join(several)}: give one of the {'two' if len(several) == 2 else 'three'}")
    if carbon_by_hour is not None:
        place = _day(carbon_by_hour)
    elif carbon_kg_per_kwh is None:
        place = load_region(DEFAULT_REGION if region is None else region)
    else:
        place = Region(carbon_kg_per_kwh=Quantity(_number("carbon_kg_per_kwh", carbon_kg_per_kwh)))
    embodied = 0.0 if embodied_kg is None else _number("embodied_kg", embodied_kg)
    years = DEFAULT_LIFE_YEARS if life_years is None else _number("life_years", life_years)
    if years <= 0:
        raise OutOfRangeError(f"life_years: must be a number > 0 (got {life_years!r})")
    return Emissions(place, embodied, years)


def check_start_hour(start_hour: Any, emissions: Emissions, tokens: float | None) -> float | None:
    """A time of the day [hours since midnight] at which a run of known length starts; raises `PlanError`."""
    if start_hour is None:
        return None
    hour = _number("start_hour", start_hour)
    if hour >= HOURS:
        raise OutOfRangeError(f"start_hour: must be a number from 0 to below {HOURS} (got {start_hour!r})")
    if not emissions.knows_hours:
        raise PlanError("start_hour: needs carbon by hour; give carbon_by_hour, or a region that has it")
    if tokens is None:
        raise PlanError("start_hour: needs tokens, which say how long the run is")
    return hour


def _day(given: Sequence[float] | str | Path) -> Region:
    """A region of nothing but its hours."""
    hours = load_day(given) if isinstance(given, (str, Path)) else given
    if not isinstance(hours, (list, tuple)) or len(hours) != HOURS:
        got = len(hours) if isinstance(hours, (list, tuple)) else type(hours).__name__
        raise PlanError(f"carbon_by_hour: must be {HOURS} numbers, one an hour from midnight on (got {got})")
    checked = [_number(f"carbon_by_hour: hour {at}", kg) for at, kg in enumerate(hours)]
    return load_region({"carbon_kg_per_kwh_by_hour": checked})


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PlanError(f"{name}: must be a number >= 0 (got {value!r})")
    if value < 0:
        raise OutOfRangeError(f"{name}: must be a number >= 0 (got {value!r})")
    return float(value)
