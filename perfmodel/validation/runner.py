"""`run`: predict every published row, score whole sources, hold them against their tolerances."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from perfmodel._version import __version__
from perfmodel.errors import PerfModelError
from perfmodel.specs.huggingface import load_model
from perfmodel.specs.registry import data_version
from perfmodel.validation import score
from perfmodel.validation.predictions import Prediction, predict
from perfmodel.validation.records import (
    Baselines,
    IntervalScore,
    Refusal,
    RowScore,
    SourceScore,
    ValidationReport,
    WorstRow,
)
from perfmodel.validation.sources import Row, Source, load_sources, measured
from perfmodel.validation.tolerances import Tolerance, load_tolerances

__all__ = ["MAX_REFUSED", "failures_of", "run", "score_source"]

MAX_REFUSED = 0.02
LEVEL = 0.8
CONSTANT_HFU = 0.5
CONSTANT_WIDTH = 0.20


@dataclass(frozen=True)
class _Scored:
    row: Row
    measured: float
    prediction: Prediction


def run(sources: str | Iterable[str] | None = None, *, rows: bool = True) -> ValidationReport:
    """Score the published sources (all, or those named); `rows=False` leaves the single rows out of the report.

    Raises `PlanError` for an unknown source and `SpecError` for a broken table; a row that the model declines is
    counted as refused with its reason.
    """
    wanted = [sources] if isinstance(sources, str) else sources
    tolerances = load_tolerances()
    scores = {id: score_source(source, tolerances.get(id)) for id, source in load_sources(wanted).items()}
    failures = tuple(line for id, one in scores.items() for line in failures_of(id, one))
    return ValidationReport(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={"sources": list(scores), "rows": rows},
        over_tolerance=bool(failures),
        failures=failures,
        sources=scores if rows else {id: one.model_copy(update={"rows": ()}) for id, one in scores.items()},
    )


def failures_of(id: str, one: SourceScore) -> list[str]:
    """Why a source fails, one line each: over its tolerance, or too much refused."""
    lines = []
    if one.over_tolerance and one.headline is not None and one.tolerance is not None:
        lines.append(f"{id}: {100 * one.headline:.2f} % is over the tolerance of {100 * one.tolerance:.2f} %")
    if len(one.refused) > MAX_REFUSED * one.given:
        first = one.refused[0]
        lines.append(f"{id}: {len(one.refused)} of {one.given} rows refused, first {first.where}: {first.reason}")
    return lines


def score_source(source: Source, tolerance: Tolerance | None = None) -> SourceScore:
    """The score of one source against its measured rows."""
    scored, refused = _predict_all(source)
    headline = _headline(source, scored)
    limit = tolerance.tolerance_percent / 100.0 if tolerance else None
    facts = ("title", "url", "quantity", "role", "reason", "definition", "read", "left_out", "free_constants")
    return SourceScore(
        **{name: getattr(source, name) for name in facts},
        given=len(source.rows),
        scored=len(scored),
        refused=tuple(refused),
        other_tools=source.others,
        tolerance=limit,
        over_tolerance=headline is not None and limit is not None and headline > limit,
        headline=headline,
        rows=tuple(_row_score(source, one) for one in scored),
        **_figures(source, scored),
    )


def _predict_all(source: Source) -> tuple[list[_Scored], list[Refusal]]:
    scored, refused = [], []
    for row in source.rows:
        try:
            prediction = predict(row, source.id)
            if not math.isfinite(prediction.value) or prediction.value <= 0:
                raise PerfModelError(f"the prediction is {prediction.value!r}")
            scored.append(_Scored(row, measured(row, source, load_model(row.model)), prediction))
        except PerfModelError as error:
            refused.append(Refusal(where=row.where, reason=str(error)))
    return scored, refused


def _is_share(source: Source) -> bool:
    return source.quantity == "activation memory"


def _error(source: Source, one: _Scored) -> float:
    if _is_share(source):
        return one.prediction.value - one.measured
    return one.prediction.value / one.measured - 1.0


def _headline(source: Source, scored: Sequence[_Scored]) -> float | None:
    return sum(abs(_error(source, one)) for one in scored) / len(scored) if scored else None


def _row_score(source: Source, one: _Scored) -> RowScore:
    prediction = one.prediction
    return RowScore(
        where=one.row.where,
        measured=one.measured,
        predicted=prediction.value,
        error=_error(source, one),
        interval=prediction.interval,
        fits=prediction.fits,
        widened_by=prediction.widened_by,
        note=one.row.note,
    )


def _figures(source: Source, scored: Sequence[_Scored]) -> dict[str, object]:
    """Every figure but the headline; none of them where nothing was scored."""
    if not scored:
        return {}
    predicted, truth = [one.prediction.value for one in scored], [one.measured for one in scored]
    worst = max(scored, key=lambda one: abs(_error(source, one)))
    figures: dict[str, object] = {
        "bias": sum(_error(source, one) for one in scored) / len(scored),
        "max_error": abs(_error(source, worst)),
        "worst": WorstRow(where=worst.row.where, error=_error(source, worst)),
    }
    if not _is_share(source):
        figures["median_abs_log"] = score.median_abs_log(predicted, truth)
        figures["rms_log"] = score.rms_log(predicted, truth)
    if source.quantity == "step time":
        figures |= _step_figures(scored, predicted, truth)
    return figures


def _step_figures(scored: Sequence[_Scored], predicted: list[float], truth: list[float]) -> dict[str, object]:
    rates = [one.prediction.model_flop_per_s or 0.0 for one in scored]
    measured_rates = [rate * p / m for rate, p, m in zip(rates, predicted, truth, strict=True)]
    return {
        "rank_correlation": score.spearman(rates, measured_rates),
        "fitting": sum(one.prediction.fits is True for one in scored),
        "baselines": _baselines([one.prediction.peak_s or 0.0 for one in scored], truth),
        "interval": _intervals([one.prediction.interval or (0.0, 0.0) for one in scored], predicted, truth),
    }


def _baselines(peak_s: list[float], truth: list[float]) -> Baselines:
    fitted = score.best_constant(peak_s, truth)
    return Baselines(
        constant_hfu_mape=score.mape([seconds / CONSTANT_HFU for seconds in peak_s], truth),
        constant_hfu=CONSTANT_HFU,
        fitted_hfu_mape=score.mape([seconds * fitted for seconds in peak_s], truth),
        fitted_hfu=1.0 / fitted,
    )


def _intervals(intervals: list[tuple[float, float]], predicted: list[float], truth: list[float]) -> IntervalScore:
    plain = [(seconds * (1.0 - CONSTANT_WIDTH), seconds * (1.0 + CONSTANT_WIDTH)) for seconds in predicted]
    return IntervalScore(
        level=LEVEL,
        coverage=score.coverage(intervals, truth),
        median_relative_width=score.median_relative_width(intervals, truth),
        score=score.interval_score(intervals, truth, LEVEL),
        constant_width=CONSTANT_WIDTH,
        constant_width_coverage=score.coverage(plain, truth),
        constant_width_score=score.interval_score(plain, truth, LEVEL),
    )
