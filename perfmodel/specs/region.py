"""Where the electricity comes from: how much carbon a kilowatt-hour of one region carries, in one year."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel.specs import registry
from perfmodel.specs.quantity import QuantityOrZero, SourcedSpec

__all__ = ["DEFAULT_REGION", "Region", "load_region"]

DEFAULT_REGION = "world"


class Region(SourcedSpec):
    """The mean `carbon_kg_per_kwh` [kg CO2e for one kWh] of a region's electricity in `year`. Raises `SpecError`."""

    id: str = "custom"
    name: str = ""
    year: int | None = None
    carbon_kg_per_kwh: QuantityOrZero


def load_region(what: str | Path | Mapping[str, Any] | Region) -> Region:
    """The region of that id, path or dict; raises `SpecError`.

    >>> float(load_region("france").carbon_kg_per_kwh)
    0.056
    """
    return registry.load("regions", what, Region)
