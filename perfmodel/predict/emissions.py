"""Kilograms of CO2 equivalents of a prediction: of its electricity, and of making its hardware where that is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.power_money import carbon_kg, embodied_carbon_kg
from perfmodel.predict.cost import Number
from perfmodel.specs.quantity import Quantity
from perfmodel.specs.region import DEFAULT_REGION, Region, load_region
from perfmodel.specs.registry import ids

__all__ = ["Emissions", "emissions_of"]

DEFAULT_LIFE_YEARS = 6.0
"""Until hardware is replaced: Luccioni et al. 2022, arXiv:2211.02001, section 4.1."""


@dataclass(frozen=True)
class Emissions:
    """Carbon of electricity [kg/kWh], and of making one accelerator with its share of a server [kg]."""

    region: Region
    embodied_kg: float = 0.0
    life_years: float = DEFAULT_LIFE_YEARS

    def kg(self, energy_j: Number, accelerators: Number, seconds: Number) -> Number:
        """Carbon [kg] of so much energy at the meter, and of accelerators for that time."""
        operation = carbon_kg(energy_j, float(self.region.carbon_kg_per_kwh))
        if not self.embodied_kg:
            return operation
        return operation + embodied_carbon_kg(accelerators, seconds, self.embodied_kg, self.life_years)

    def request(self) -> dict[str, Any]:
        """The resolved keys: a region from the shelf by its id, else its number."""
        shelved = self.region.id in ids("regions")
        return {
            "region": self.region.id if shelved else None,
            "carbon_kg_per_kwh": None if shelved else float(self.region.carbon_kg_per_kwh),
            "embodied_kg": self.embodied_kg or None,
            "life_years": self.life_years,
        }


def emissions_of(
    region: Region | str | Path | Mapping[str, Any] | None = None,
    carbon_kg_per_kwh: float | None = None,
    embodied_kg: float | None = None,
    life_years: float | None = None,
) -> Emissions:
    """The carbon of a region (default: the world's mean) or of a number; raises `SpecError` and `PlanError`."""
    if region is not None and carbon_kg_per_kwh is not None:
        raise PlanError("region, carbon_kg_per_kwh: give one of the two")
    if carbon_kg_per_kwh is None:
        place = load_region(DEFAULT_REGION if region is None else region)
    else:
        place = Region(carbon_kg_per_kwh=Quantity(_number("carbon_kg_per_kwh", carbon_kg_per_kwh)))
    embodied = 0.0 if embodied_kg is None else _number("embodied_kg", embodied_kg)
    years = DEFAULT_LIFE_YEARS if life_years is None else _number("life_years", life_years)
    if years <= 0:
        raise OutOfRangeError(f"life_years: must be a number > 0 (got {life_years!r})")
    return Emissions(place, embodied, years)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PlanError(f"{name}: must be a number >= 0 (got {value!r})")
    if value < 0:
        raise OutOfRangeError(f"{name}: must be a number >= 0 (got {value!r})")
    return float(value)
