"""Scores of predictions against measurements: plain functions of two equally long sequences of positive numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

__all__ = [
    "best_constant",
    "bias",
    "coverage",
    "interval_score",
    "mape",
    "mean_regret",
    "median_abs_log",
    "median_relative_width",
    "rank_correlation_inside",
    "relative_errors",
    "rms_log",
    "spearman",
]

Interval = tuple[float, float]


def relative_errors(predicted: Sequence[float], measured: Sequence[float]) -> list[float]:
    """Predicted over measured, less one."""
    return [p / m - 1.0 for p, m in zip(predicted, measured, strict=True)]


def mape(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Mean of |predicted / measured - 1|."""
    return fmean(abs(error) for error in relative_errors(predicted, measured))


def bias(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Mean of predicted / measured - 1; for times, negative is too fast."""
    return fmean(relative_errors(predicted, measured))


def median_abs_log(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Median of |ln(predicted / measured)|."""
    return median(abs(math.log(p / m)) for p, m in zip(predicted, measured, strict=True))


def rms_log(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Root mean square of ln(predicted / measured)."""
    return math.sqrt(fmean(math.log(p / m) ** 2 for p, m in zip(predicted, measured, strict=True)))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Rank correlation, ties at their mean rank; None for fewer than three rows or where all are equal."""
    if len(first) < 3:
        return None
    a, b = _ranks(first), _ranks(second)
    middle = fmean(a)
    spread = math.sqrt(sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b))
    return sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True)) / spread if spread else None


def best_constant(shape: Sequence[float], measured: Sequence[float]) -> float:
    """The factor c that minimises the MAPE of c * shape: fitted on the rows that it is scored on."""
    candidates = [m / s for s, m in zip(shape, measured, strict=True)]
    # The MAPE is convex and piecewise linear in c, with a corner at each row's own ratio.
    return min(candidates, key=lambda c: mape([c * s for s in shape], measured))


def coverage(intervals: Sequence[Interval], measured: Sequence[float]) -> float:
    """Share of measurements that their interval holds."""
    return fmean(float(low <= m <= high) for (low, high), m in zip(intervals, measured, strict=True))


def median_relative_width(intervals: Sequence[Interval], measured: Sequence[float]) -> float:
    """Median of interval width over measurement."""
    return median((high - low) / m for (low, high), m in zip(intervals, measured, strict=True))


def interval_score(intervals: Sequence[Interval], measured: Sequence[float], level: float) -> float:
    """Mean of (width + misses times 2 / (1 - level)) over the measurement; smaller is better.

    Gneiting and Raftery 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation", section 6.2.
    """
    penalty = 2.0 / (1.0 - level)
    return fmean(
        (high - low + penalty * (max(0.0, low - m) + max(0.0, m - high))) / m
        for (low, high), m in zip(intervals, measured, strict=True)
    )


def mean_regret(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """How much longer the choices with the shortest prediction ran than the best ones, mean over (predicted, measured).

    Every group holds the choices that could be made; the first of equal predictions is taken.
    """
    return fmean(
        measured[min(range(len(predicted)), key=predicted.__getitem__)] / min(measured) - 1.0
        for predicted, measured in groups
    )


def rank_correlation_inside(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """Rank correlation pooled over groups, each ranked by itself; None where nothing differs inside any group."""
    shared = first = second = 0.0
    for predicted, measured in groups:
        middle = (len(predicted) + 1) / 2
        a, b = [x - middle for x in _ranks(predicted)], [x - middle for x in _ranks(measured)]
        shared += sum(x * y for x, y in zip(a, b, strict=True))
        first, second = first + sum(x * x for x in a), second + sum(y * y for y in b)
    return shared / math.sqrt(first * second) if first and second else None


def _ranks(values: Sequence[float]) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]
