"""`perfmodel validate --serving`: published serving rows, the model's errors beside trivial baselines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from perfmodel._version import __version__
from perfmodel.errors import PerfModelError, PlanError
from perfmodel.predict.records import Record
from perfmodel.predict.serving.intervals import (
    RESIDUAL_KINDS,
    SERVING_RESIDUALS,
    forget_serving_residuals,
    serving_interval,
)
from perfmodel.predict.serving.intervals import serving_widenings as _widenings
from perfmodel.specs.registry import data_version
from perfmodel.validation.score import best_constant, bias, mape, median_abs_log, spearman
from perfmodel.validation.serving_choice import ChoiceScore, choice_scores
from perfmodel.validation.serving_rows import (
    ServingRow,
    data_sheet_value,
    load_serving_rows,
    predicted_value,
    serving_sources,
    serving_task_of,
)
from perfmodel.validation.tolerances import MARGIN_PERCENT, Tolerance, load_tolerances

__all__ = ["SERVING_TOLERANCES", "ServingReport", "ServingScore", "record_serving", "run_serving", "score_rows"]

SERVING_TOLERANCES = Path(__file__).parent / "serving_tolerances.toml"
MOST_REFUSED = 0.02
_HEAD = "# Written by `perfmodel validate --serving --record`; headline figures of the last record, in percent.\n"
_RESIDUALS_HEAD = (
    "# Written by `perfmodel validate --serving --record`: ln(measured / predicted) of validated rows, by quantity\n"
    "# and source; they set the width of serving intervals. Rows that fixed constants stay out.\n"
)


def _quantity(row: ServingRow) -> str:
    """Whose residuals give a figure its interval: those of a loop's TTFT or TPOT, or of static batches."""
    if row.batching == "continuous" and not row.is_rate:
        return row.metric.removesuffix("_s")
    return "static-ttft" if row.metric == "ttft_s" else "answer"


class ServingRowScore(Record):
    """One row: what was measured and predicted, in the unit of its metric."""

    row: dict[str, Any]
    measured: float
    predicted: float
    data_sheet: float
    interval: tuple[float, float]
    calibrates: bool
    fits: bool


class ServingScore(Record):
    """Errors of one source; shares [1] unless said. `mape` is over rows that calibrate nothing."""

    source: str
    metric: str
    given: int
    scored: int
    calibrating: int
    refused: tuple[str, ...]
    mape: float
    median_log: float
    bias: float
    worst: float
    rank_correlation: float | None
    calibrated_mape: float | None
    data_sheet_mape: float
    constant_mape: float
    coverage: float
    relative_width: float
    fits: int
    landed_percent: float | None
    tolerance_percent: float | None
    over_tolerance: bool
    rows: tuple[ServingRowScore, ...] = ()


class ServingReport(Record):
    """Scores of all sources."""

    document: str = "perfmodel/serving-validation/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    sources: dict[str, ServingScore]
    choices: dict[str, ChoiceScore]
    over_tolerance: tuple[str, ...]


def run_serving(source: str | None = None, *, rows: bool = True) -> ServingReport:
    """Score every source, or one; raises `PlanError` for an unknown one."""
    known = serving_sources()
    if source is not None and source not in known:
        raise PlanError(f"source: unknown serving source {source!r}; known: {', '.join(known)}")
    tolerances = load_tolerances(SERVING_TOLERANCES)
    scores = {id: score_rows(id, load_serving_rows(id), tolerances.get(id)) for id in known if source in (None, id)}
    over = tuple(id for id, one in scores.items() if one.over_tolerance)
    choices = choice_scores(scores)
    if not rows:
        scores = {id: one.model_copy(update={"rows": ()}) for id, one in scores.items()}
    return ServingReport(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={"source": source, "rows": rows},
        sources=scores,
        over_tolerance=over,
        choices=choices,
    )


def score_rows(id: str, rows: Sequence[ServingRow], tolerance: Tolerance | None) -> ServingScore:
    """Errors of these rows."""
    scored: list[ServingRowScore] = []
    refused: list[str] = []
    for row in rows:
        try:
            scored.append(_scored(row))
        except PerfModelError as error:
            refused.append(str(error))
    held = [one for one in scored if not one.calibrates]
    used = [one for one in scored if one.calibrates]
    measured, predicted = [one.measured for one in held], [one.predicted for one in held]
    sheet = [one.data_sheet for one in held]
    constant, headline = best_constant(sheet, measured), mape(predicted, measured)
    allowed = tolerance.tolerance_percent if tolerance else None
    late = len(refused) > MOST_REFUSED * len(rows) or (allowed is not None and round(100 * headline, 2) > allowed)
    return ServingScore(
        source=id,
        metric=rows[0].metric,
        given=len(rows),
        scored=len(held),
        calibrating=len(used),
        refused=tuple(refused),
        mape=headline,
        median_log=median_abs_log(predicted, measured),
        bias=bias(predicted, measured),
        worst=max((one.predicted / one.measured - 1.0 for one in held), key=abs),
        rank_correlation=spearman(predicted, measured),
        calibrated_mape=mape([one.predicted for one in used], [one.measured for one in used]) if used else None,
        data_sheet_mape=mape(sheet, measured),
        constant_mape=mape([constant * value for value in sheet], measured),
        coverage=fmean(float(one.interval[0] <= one.measured <= one.interval[1]) for one in held),
        relative_width=median((one.interval[1] - one.interval[0]) / one.predicted for one in held),
        fits=sum(one.fits for one in scored),
        landed_percent=tolerance.landed_percent if tolerance else None,
        tolerance_percent=allowed,
        over_tolerance=late,
        rows=tuple(scored),
    )


def _scored(row: ServingRow) -> ServingRowScore:
    predicted, fits = predicted_value(row)
    kinds = [one["formula"] for one in _widenings(serving_task_of(row))]
    interval = serving_interval(predicted, _quantity(row), kinds, leave_out=row.source)
    if row.is_rate:
        # A rate is the inverse of a time.
        interval = predicted**2 / interval[1], predicted**2 / interval[0]
    shown = {name: getattr(row, name) for name in row.__dataclass_fields__ if name not in ("measured", "calibrates")}
    return ServingRowScore(
        row=shown, measured=row.measured, predicted=predicted, data_sheet=data_sheet_value(row), interval=interval,
        calibrates=row.calibrates, fits=fits,
    )  # fmt: skip


def record_serving(report: ServingReport, *, because: str | None = None) -> None:
    """Land the figures: tolerances follow them down; raising one needs `because`. Raises `PlanError`."""
    if report.request["source"] is not None or not report.request["rows"]:
        raise PlanError("record: needs a report of every source, with its rows")
    old, text = load_tolerances(SERVING_TOLERANCES), _HEAD
    for id, one in report.sources.items():
        text += _landed(id, one, old.get(id), because)
    SERVING_TOLERANCES.write_text(text, encoding="utf-8")
    SERVING_RESIDUALS.write_text(_RESIDUALS_HEAD + _residuals_text(report.sources), encoding="utf-8")
    forget_serving_residuals()


def _landed(id: str, one: ServingScore, old: Tolerance | None, because: str | None) -> str:
    figure = round(100.0 * one.mape, 2)
    limit, reason = round(figure + MARGIN_PERCENT, 2), ""
    if old is not None:
        limit, reason = min(limit, old.tolerance_percent), old.raised_because
    if figure > limit:
        if not because:
            raise PlanError(f"record: {id}: {figure:.2f} % is over its tolerance of {limit:.2f} %; needs because=")
        limit, reason = round(figure + MARGIN_PERCENT, 2), because
    raised = f"raised_because = {json.dumps(reason)}\n" if reason else ""
    return f"\n[{id}]\nlanded_percent = {figure}\ntolerance_percent = {limit}\n{raised}"


def _residuals_text(scores: Mapping[str, ServingScore]) -> str:
    text = ""
    for quantity in RESIDUAL_KINDS:
        text += f"\n[{quantity}]\n"
        for id, one in scores.items():
            if _quantity(load_serving_rows(id)[0]) != quantity:
                continue
            sign = -1.0 if one.metric.startswith("output_tokens") else 1.0
            logs = sorted(sign * math.log(row.measured / row.predicted) for row in one.rows if not row.calibrates)
            text += f'"{id}" = [{", ".join(f"{value:.4f}" for value in logs)}]\n'
    return text
