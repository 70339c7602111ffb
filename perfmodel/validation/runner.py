"""`run`: predict every published row, score whole sources, hold them against their tolerances."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import fmean, median

from perfmodel._version import __version__
from perfmodel.errors import PerfModelError
from perfmodel.predict.uncertainty import residual_class
from perfmodel.specs.registry import data_version, read_toml
from perfmodel.validation.figures import (
    Predicted,
    constant_hfu,
    figures_of,
    headline_of,
    layout_choice,
    layout_groups,
)
from perfmodel.validation.predictions import predict
from perfmodel.validation.records import (
    Calibrated,
    LeftOut,
    Pooled,
    Refusal,
    RowScore,
    SourceScore,
    Summary,
    ValidationReport,
)
from perfmodel.validation.sources import Source, load_sources, measured, model_of
from perfmodel.validation.tolerances import Tolerance, load_tolerances

__all__ = ["LEFT_OUT", "MAX_REFUSED", "failures_of", "run", "score_source"]

MAX_REFUSED = 0.02
LEFT_OUT = Path(__file__).parent / "leave_one_out.toml"


@dataclass(frozen=True)
class _Priced:
    """The rows of a source: those that are scored, those that fixed constants, and those that were declined."""

    source: Source
    scored: tuple[Predicted, ...]
    calibrating: tuple[Predicted, ...]
    refused: tuple[Refusal, ...]


def run(sources: str | Iterable[str] | None = None, *, rows: bool = True) -> ValidationReport:
    """Score the published sources (all, or those named); `rows=False` leaves the single rows out of the report.

    Raises `PlanError` for an unknown source and `SpecError` for a broken table; a row that the model declines is
    counted as refused with its reason.
    """
    wanted = [sources] if isinstance(sources, str) else sources
    tolerances = load_tolerances()
    priced = {id: _price(source) for id, source in load_sources(wanted).items()}
    scores = {id: _score(one, tolerances.get(id)) for id, one in priced.items()}
    failures = tuple(line for id, one in scores.items() for line in failures_of(id, one))
    return ValidationReport(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={"sources": list(scores), "rows": rows},
        over_tolerance=bool(failures),
        failures=failures,
        summary=_summary(scores, priced),
        pooled=_pooled(priced),
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
    """The score of one source against its measured rows; rows that fixed constants stay out of its figures."""
    return _score(_price(source), tolerance)


def _price(source: Source) -> _Priced:
    done, refused = [], []
    for row in source.rows:
        try:
            prediction = predict(row, source.same_study_as or source.id)
            if not math.isfinite(prediction.value) or prediction.value <= 0:
                raise PerfModelError(f"the prediction is {prediction.value!r}")
            done.append(Predicted(row, measured(row, source, model_of(row)), prediction))
        except PerfModelError as error:
            refused.append(Refusal(where=row.where, reason=str(error)))
    return _Priced(
        source,
        tuple(one for one in done if not one.row.calibrates),
        tuple(one for one in done if one.row.calibrates),
        tuple(refused),
    )


def _score(priced: _Priced, tolerance: Tolerance | None) -> SourceScore:
    source, scored = priced.source, priced.scored
    headline = headline_of(scored)
    limit = tolerance.tolerance_percent / 100.0 if tolerance else None
    facts = ("title", "url", "quantity", "role", "reason", "definition", "read", "left_out", "free_constants")
    everything = (*scored, *priced.calibrating)
    steps = source.quantity == "step time"
    return SourceScore(
        **{name: getattr(source, name) for name in facts},
        given=len(source.rows),
        scored=len(scored),
        predicted=len(everything),
        refused=priced.refused,
        other_tools=source.others,
        tolerance=limit,
        over_tolerance=headline is not None and limit is not None and headline > limit,
        headline=headline,
        calibrated=_calibrated(priced),
        without_it=_without_it(source.id),
        fitting=sum(one.prediction.fits is True for one in everything) if steps else None,
        rows=tuple(_row_score(one, steps) for one in everything),
        **figures_of(source.quantity, scored),
    )


def _calibrated(priced: _Priced) -> Calibrated | None:
    headline = headline_of(priced.calibrating)
    if headline is None:
        return None
    constants = len(priced.source.free_constants)
    return Calibrated(rows=len(priced.calibrating), constants=constants, headline=headline)


def _without_it(id: str) -> LeftOut | None:
    """What `python -m perfmodel.calibrate.leave_one_out --write` wrote down for this source."""
    found = read_toml(LEFT_OUT).get(id) if LEFT_OUT.is_file() else None
    return LeftOut(headline=found["error_percent"] / 100.0, fitted_on=found["fitted_on"]) if found else None


def _row_score(one: Predicted, steps: bool) -> RowScore:
    prediction = one.prediction
    kind = None
    if steps:
        kind = residual_class(prediction.widened_by, experts=model_of(one.row).n_experts > 1)
    return RowScore(
        where=one.row.where,
        measured=one.measured,
        predicted=prediction.value,
        error=one.error,
        interval=prediction.interval,
        fits=prediction.fits,
        widened_by=prediction.widened_by,
        residual_class=kind,
        calibrates=one.row.calibrates,
        note=one.row.note,
    )


def _pooled(priced: Mapping[str, _Priced]) -> dict[str, Pooled]:
    """Step times of sources that stand on one page, scored as one table."""
    pages: dict[str, list[_Priced]] = {}
    for one in priced.values():
        if one.source.quantity == "step time" and one.source.role == "validate" and one.scored:
            pages.setdefault(one.source.url, []).append(one)
    found = {}
    for tables in pages.values():
        rows = [row for one in tables for row in one.scored]
        if len(tables) > 1:
            ids = tuple(one.source.id for one in tables)
            found[_shared_name(ids)] = Pooled(
                sources=ids,
                given=sum(len(one.source.rows) for one in tables),
                scored=len(rows),
                headline=headline_of(rows) or 0.0,
                baselines=constant_hfu(rows),
            )
    return found


def _shared_name(ids: Sequence[str]) -> str:
    words = zip(*(id.split("-") for id in ids), strict=False)
    return "-".join(first for first, *_ in takewhile(lambda at: len(set(at)) == 1, words))


def _summary(scores: Mapping[str, SourceScore], priced: Mapping[str, _Priced]) -> Summary:
    valid = {id: one for id, one in scores.items() if one.role == "validate" and one.headline is not None}
    trivial = {id: _trivial(one) for id, one in valid.items()}
    beating = sum(
        bool(figures) and all((valid[id].headline or 0.0) < figure for figure in figures)
        for id, figures in trivial.items()
    )
    intervals = [one.interval for one in valid.values() if one.interval]
    # The rows of one study are wide or narrow together: a study counts once.
    studies = [one for id, one in valid.items() if not priced[id].source.same_study_as]
    widths = [width for one in studies for width in _half_widths(one.rows)]
    groups = [group for id in valid for group in _groups(priced[id])]
    return Summary(
        compared=sum(bool(figures) for figures in trivial.values()),
        beating=beating,
        intervals=len(intervals),
        mean_coverage=fmean(one.coverage for one in intervals) if intervals else None,
        median_half_width=median(widths) if widths else None,
        interval_score=fmean(one.score for one in intervals) if intervals else None,
        constant_width_score=fmean(one.constant_width_score for one in intervals) if intervals else None,
        layout_choice=layout_choice(groups),
    )


def _groups(priced: _Priced) -> list[tuple[list[float], list[float]]]:
    return layout_groups(priced.scored) if priced.source.quantity == "step time" else []


def _half_widths(rows: Sequence[RowScore]) -> list[float]:
    return [
        (row.interval[1] - row.interval[0]) / (2.0 * row.predicted)
        for row in rows
        if row.interval and row.residual_class != "experts" and not row.calibrates
    ]


def _trivial(one: SourceScore) -> tuple[float, ...]:
    if one.baselines:
        return one.baselines.constant_hfu_mape, one.baselines.fitted_hfu_mape
    if one.memory_baselines:
        return one.memory_baselines.states_mape, one.memory_baselines.fitted_mape
    return ()
