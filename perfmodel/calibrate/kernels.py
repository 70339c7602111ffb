"""The fits: one law of `perfmodel.formulas` per table, on the rows that may calibrate, scored on those that may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from perfmodel.calibrate.tables import Table, is_calibrate

__all__ = [
    "Fitted",
    "Score",
    "fitted",
]

Floats = NDArray[np.float64]
Law = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Score:
    """Median and 90th percentile of |ln(law / measured)|."""

    median: float
    p90: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """Constants of one table by name (4 significant digits), the rows fitted, and how well law and roofline do."""

    table: str
    how: str
    constants: dict[str, float]
    rows: int
    fitted: Score
    held_out: Score
    roofline: Score
    cost: float = 0.0
    """The robust loss that was made least: what decides between laws on the rows that may calibrate."""


def fitted(
    table: str,
    how: str,
    rows: Table,
    law: Law,
    plain: Floats,
    start: dict[str, float],
    limits: dict[str, float],
    measured: Floats | None = None,
    least: dict[str, float] | None = None,
    scored: NDArray[np.bool_] | None = None,
    calibrate: NDArray[np.bool_] | None = None,
) -> Fitted:
    """Least squares of ln(law / measured), soft beyond 10 %, over the logarithms of the constants.

    Errors are those of the `scored` rows, all when left out; `least` are lower limits of constants; `calibrate` says
    which rows are fitted where the table is not a shipped one.
    """
    seconds = rows["latency_us"] * 1e-6 if measured is None else measured
    fit = is_calibrate(table, rows) if calibrate is None else calibrate
    upper = np.log([limits.get(name, np.inf) for name in start])
    floors = {"exponent": 1.0} | (least or {})
    lower = np.array([np.log(floors[name]) if name in floors else -np.inf for name in start])

    def residual(logarithms: Floats) -> Floats:
        return np.log(law(np.exp(logarithms)) / seconds)

    found: Any = least_squares(
        lambda x: residual(x)[fit],
        np.log(list(start.values())),
        bounds=(lower, upper),
        loss="soft_l1",
        f_scale=0.1,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    constants = {name: float(f"{value:.4g}") for name, value in zip(start, np.exp(found.x), strict=True)}
    error = np.abs(np.log(law(np.array(list(constants.values()))) / seconds))
    plain_error = np.abs(np.log(plain / seconds))
    rows_fitted = int(fit.sum())
    if scored is not None:
        error, plain_error, fit = error[scored], plain_error[scored], fit[scored]
    scores = _score(error[fit]), _score(error[~fit]), _score(plain_error[~fit])
    return Fitted(table, how, constants, rows_fitted, *scores, found.cost)


def _score(errors: Floats) -> Score:
    return Score(float(np.median(errors)), float(np.quantile(errors, 0.9)))
