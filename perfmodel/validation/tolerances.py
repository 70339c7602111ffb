"""The ratchet: a source may not get worse than its last landed figure plus half a point, unless physics says why."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from perfmodel.errors import PlanError
from perfmodel.predict import uncertainty
from perfmodel.specs.quantity import validated
from perfmodel.specs.registry import read_toml
from perfmodel.validation.records import SourceScore, ValidationReport
from perfmodel.validation.sources import load_sources

__all__ = ["RESIDUALS", "TOLERANCES", "Tolerance", "load_tolerances", "record"]

TOLERANCES = Path(__file__).parent / "tolerances.toml"
RESIDUALS = Path(uncertainty.__file__).parent.parent / "data" / "residuals.toml"
MARGIN_PERCENT = 0.5
_HEAD = "# Written by `perfmodel validate --record`; the headline figures of the last record, in percent.\n"
_RESIDUALS_HEAD = (
    "# Written by `perfmodel validate --record`: ln(measured / predicted) of the validated step times, by class of\n"
    "# step (predict/uncertainty.py) and source; they set the width of intervals. Rows that fixed constants stay out.\n"
)


class Tolerance(BaseModel):
    """The last landed headline figure of a source, what it may reach, and why it was last raised (else empty)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    landed_percent: Annotated[float, Field(ge=0)]
    tolerance_percent: Annotated[float, Field(gt=0)]
    raised_because: str = ""


def load_tolerances(path: Path = TOLERANCES) -> dict[str, Tolerance]:
    """The tolerance of each source that landed once; raises `SpecError`."""
    if not path.is_file():
        return {}
    return {id: validated(f"{path.name}: {id}", table, Tolerance) for id, table in read_toml(path).items()}


def record(
    report: ValidationReport,
    *,
    because: str | None = None,
    tolerances: Path = TOLERANCES,
    residuals: Path = RESIDUALS,
) -> None:
    """Land the figures of a report: tolerances follow them down, residuals set the width of later intervals.

    Raises `PlanError`, writing nothing, where a tolerance would rise and `because` does not name the physics (the
    same sentence belongs in CHANGELOG.md), where rows were refused, or where the report is not of every source.
    Intervals change with the residuals: run again for the figures that stand afterwards.
    """
    if missing := load_sources().keys() - report.sources.keys():
        raise PlanError(f"record: needs a report of every source (missing {', '.join(sorted(missing))})")
    if not report.request.get("rows"):
        raise PlanError("record: needs a report with its rows (got rows=False)")
    landed = _next_tolerances(report, load_tolerances(tolerances), because)
    spreads = _residuals_text(report.sources)
    tolerances.write_text(_HEAD + "".join(_table(id, one) for id, one in landed.items()), encoding="utf-8")
    residuals.write_text(_RESIDUALS_HEAD + spreads, encoding="utf-8")
    uncertainty.forget_residuals()


def _next_tolerances(
    report: ValidationReport, old: Mapping[str, Tolerance], because: str | None
) -> dict[str, Tolerance]:
    landed = {}
    for id, one in report.sources.items():
        if one.headline is None or one.refused:
            raise PlanError(f"record: {id}: {len(one.refused)} rows refused; nothing is landed with refusals")
        figure = round(100.0 * one.headline, 2)
        limit, reason = round(figure + MARGIN_PERCENT, 2), ""
        if id in old:
            limit, reason = min(limit, old[id].tolerance_percent), old[id].raised_because
        if figure > limit:
            if not because:
                raise PlanError(
                    f"record: {id}: {figure:.2f} % is over the tolerance of {limit:.2f} %; raising it needs because= "
                    "with the physics, and the same line in CHANGELOG.md"
                )
            limit, reason = round(figure + MARGIN_PERCENT, 2), because
        landed[id] = Tolerance(landed_percent=figure, tolerance_percent=limit, raised_because=reason)
    return landed


def _table(id: str, one: Tolerance) -> str:
    lines = [f"\n[{id}]", f"landed_percent = {one.landed_percent}", f"tolerance_percent = {one.tolerance_percent}"]
    if one.raised_because:
        # A JSON string of printable text is a TOML basic string.
        lines.append(f"raised_because = {json.dumps(' '.join(one.raised_because.split()), ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _residuals_text(scores: Mapping[str, SourceScore]) -> str:
    text, counted_elsewhere = "", {id for id, source in load_sources().items() if source.same_study_as}
    for kind in uncertainty.CLASSES:
        text += f"\n[{kind}]\n"
        for id, one in scores.items():
            if one.role != "validate" or one.quantity != "step time" or id in counted_elsewhere:
                continue
            rows = [row for row in one.rows if row.residual_class == kind and not row.calibrates]
            logs = sorted(math.log(row.measured / row.predicted) for row in rows)
            if logs:
                text += f"{id} = [{', '.join(f'{value:.4f}' for value in logs)}]\n"
    return text
