"""`plan_rows`: where loads stand, so that the fullest row is least full and every row is fed and cooled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from perfmodel._version import __version__
from perfmodel.plan.power_milp import LoadPlacement, place_loads
from perfmodel.plan.records import Certificate, Plan
from perfmodel.plan.tables import table_of
from perfmodel.predict.records import Record
from perfmodel.specs.registry import data_version

__all__ = ["PlacedLoad", "RowUse", "RowsPlan", "plan_rows"]

_METHOD = "mixed-integer program: least share of the fullest row (HiGHS); optimal within a ten-thousandth"


class PlacedLoad(Record):
    """A load and its row."""

    load: str
    row: str
    watts: float
    heat_w: float


class RowUse(Record):
    """What stands in a row, and the shares of its power and of its cooling that this takes [1]."""

    row: str
    loads: int
    watts: float
    power_w: float
    power_share: float
    heat_w: float
    cooling_w: float
    cooling_share: float


class RowsPlan(Plan):
    """A placement of loads in rows; `feasible` is False where none is known."""

    document: str = "perfmodel/rows-plan/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    feasible: bool
    placement: tuple[PlacedLoad, ...]
    rows: tuple[RowUse, ...]
    peak_share: float | None
    certificate: Certificate
    infeasible_because: tuple[str, ...]
    sources: tuple[str, ...] = ()


def plan_rows(loads: Any, rows: Any, *, work_limit: int = 1000, time_limit_s: float = 60.0) -> RowsPlan:
    """Loads [{load, watts, heat_w}] into rows [{row, power_w, cooling_w}] so that the fullest row is least full.

    `heat_w` [W] is what a load gives to the air of its row (default: all of its watts), `cooling_w` [W] what a row can
    remove (default: its power). Limits as in Stojkovic et al. 2025, "TAPAS", arXiv:2501.02600. Raises `PlanError`;
    where nothing is found the plan says why.
    """
    asked = table_of("loads", loads, name="load", needed=("watts",), more=("heat_w",))
    given = table_of("rows", rows, name="row", needed=("power_w",), more=("cooling_w",))
    watts = [one["watts"] for one in asked]
    heat = [one.get("heat_w", one["watts"]) for one in asked]
    power = [one["power_w"] for one in given]
    cooling = [one.get("cooling_w", one["power_w"]) for one in given]
    found = place_loads(watts, power, cooling, load_heat_w=heat, work_limit=work_limit, time_limit_s=time_limit_s)
    placed = tuple(
        PlacedLoad(load=one["load"], row=given[at]["row"], watts=one["watts"], heat_w=warm)
        for one, at, warm in zip(asked, found.row_of, heat, strict=False)
    )
    return RowsPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={"loads": asked, "rows": given, "work_limit": work_limit, "time_limit_s": time_limit_s},
        feasible=found.feasible,
        placement=placed,
        rows=tuple(_use(one["row"], placed, *limits) for one, *limits in zip(given, power, cooling, strict=True)),
        peak_share=found.peak_share if found.feasible else None,
        certificate=_certificate(found, len(asked), len(given)),
        infeasible_because=(*found.infeasible_because, *(_too_large(asked, power) if not found.feasible else ())),
    )


def _use(row: str, placed: tuple[PlacedLoad, ...], power: float, cooling: float) -> RowUse:
    here = [one for one in placed if one.row == row]
    watts, heat = sum(one.watts for one in here), sum(one.heat_w for one in here)
    return RowUse(
        row=row, loads=len(here), watts=watts, power_w=power, power_share=watts / power, heat_w=heat,
        cooling_w=cooling, cooling_share=heat / cooling,
    )  # fmt: skip


def _certificate(found: LoadPlacement, loads: int, rows: int) -> Certificate:
    """A limit that ended the search is told, the gap is what it left open; candidates are places of single loads."""
    gap = (found.peak_share - found.bound) / found.peak_share if found.feasible else None
    return Certificate(
        method=_METHOD, optimal=found.optimal, bound=found.bound if found.feasible else None, gap=gap,
        candidates=loads * rows, priced=loads * rows, pruned={}, stopped_by=found.stopped_by,
    )  # fmt: skip


def _too_large(loads: list[dict[str, Any]], power: list[float]) -> Iterator[str]:
    for one in loads:
        if one["watts"] > max(power):
            yield f"loads: {one['load']}: needs {one['watts']:g} W, no row has more than {max(power):g} W"
