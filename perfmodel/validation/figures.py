"""The figures of a set of predicted rows: errors, trivial baselines, layout choice and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perfmodel.validation import score
from perfmodel.validation.predictions import Prediction
from perfmodel.validation.records import Baselines, IntervalScore, LayoutChoice, MemoryBaselines, WorstRow
from perfmodel.validation.sources import Row, model_of

__all__ = ["LEVEL", "Predicted", "constant_hfu", "figures_of", "headline_of", "layout_choice", "layout_groups"]

LEVEL = 0.8
CONSTANT_HFU = 0.5
CONSTANT_WIDTH = 0.20
# Weights, gradients and the two moments of Adam in mixed precision.
STATE_BYTES_PER_PARAM = 16.0
Groups = list[tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Predicted:
    """A row that the model priced; `measured` in base units."""

    row: Row
    measured: float
    prediction: Prediction

    @property
    def is_share(self) -> bool:
        """True where an error is a difference of shares, in points."""
        return self.row.unit == "%"

    @property
    def error(self) -> float:
        """Relative, negative is too small; of shares the difference."""
        if self.is_share:
            return self.prediction.value - self.measured
        return self.prediction.value / self.measured - 1.0


def headline_of(rows: Sequence[Predicted]) -> float | None:
    """The mean absolute error; None without rows."""
    return sum(abs(one.error) for one in rows) / len(rows) if rows else None


def figures_of(quantity: str, rows: Sequence[Predicted]) -> dict[str, object]:
    """Every figure of a `SourceScore` but the headline; none of them without rows."""
    if not rows:
        return {}
    worst = max(rows, key=lambda one: abs(one.error))
    figures: dict[str, object] = {
        "bias": sum(one.error for one in rows) / len(rows),
        "max_error": abs(worst.error),
        "worst": WorstRow(where=worst.row.where, error=worst.error),
    }
    predicted, truth = [one.prediction.value for one in rows], [one.measured for one in rows]
    if not rows[0].is_share:
        figures |= {
            "median_abs_log": score.median_abs_log(predicted, truth),
            "rms_log": score.rms_log(predicted, truth),
        }
    if quantity == "step time":
        figures |= _step_figures(rows, predicted, truth)
    if quantity == "peak memory":
        figures["memory_baselines"] = _memory_baselines(rows, truth)
    return figures


def constant_hfu(rows: Sequence[Predicted]) -> Baselines:
    """Steps at half the peak, and at the best constant share of it, fitted on these rows."""
    peak_s, truth = [one.prediction.peak_s or 0.0 for one in rows], [one.measured for one in rows]
    fitted = score.best_constant(peak_s, truth)
    return Baselines(
        constant_hfu_mape=score.mape([seconds / CONSTANT_HFU for seconds in peak_s], truth),
        constant_hfu=CONSTANT_HFU,
        fitted_hfu_mape=score.mape([seconds * fitted for seconds in peak_s], truth),
        fitted_hfu=1.0 / fitted,
    )


def layout_groups(rows: Sequence[Predicted]) -> Groups:
    """Predicted and measured times of rows that differ in their layout alone, where there is a choice."""
    groups: dict[str, list[Predicted]] = {}
    for one in rows:
        if one.row.group:
            groups.setdefault(one.row.group, []).append(one)
    return [
        ([one.prediction.value for one in group], [one.measured for one in group])
        for group in groups.values()
        if len({repr(one.row.layout()) for one in group}) > 1
    ]


def layout_choice(groups: Groups) -> LayoutChoice | None:
    """How good the model's choices are; None where there was none to make."""
    if not groups:
        return None
    return LayoutChoice(
        groups=len(groups),
        rows=sum(len(measured) for _, measured in groups),
        mean_regret=score.mean_regret(groups),
        rank_correlation=score.rank_correlation_inside(groups),
    )


def _step_figures(rows: Sequence[Predicted], predicted: list[float], truth: list[float]) -> dict[str, object]:
    rates = [one.prediction.model_flop_per_s or 0.0 for one in rows]
    measured_rates = [rate * p / m for rate, p, m in zip(rates, predicted, truth, strict=True)]
    return {
        "rank_correlation": score.spearman(rates, measured_rates),
        "layout_choice": layout_choice(layout_groups(rows)),
        "baselines": constant_hfu(rows),
        "interval": _intervals([one.prediction.interval or (0.0, 0.0) for one in rows], predicted, truth),
    }


def _memory_baselines(rows: Sequence[Predicted], truth: list[float]) -> MemoryBaselines:
    per_byte = [float(model_of(one.row).n_params) / (one.row.tp * one.row.pp) for one in rows]
    fitted = score.best_constant(per_byte, truth)
    return MemoryBaselines(
        states_mape=score.mape([STATE_BYTES_PER_PARAM * n for n in per_byte], truth),
        fitted_mape=score.mape([fitted * n for n in per_byte], truth),
        fitted_bytes_per_param=fitted,
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
