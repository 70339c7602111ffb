"""The laws of uneven experts against published tables of ranks, stale plans and rerouting."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from perfmodel._version import __version__
from perfmodel.formulas.moe import hot_rank_over_mean, max_over_mean_of_experts, max_over_mean_of_spread

__all__ = ["TOLERANCES", "run_experts"]

Floats = NDArray[np.float64]
_TABLES = Path(__file__).parent / "published" / "moe"
_RANKS = 8
# Median error in percent as landed, plus half a point.
TOLERANCES = {
    "rank imbalance": 1.1,
    "experts in order": 1.2,
    "stale plans": 5.9,
    "rerouting, as a limit": 57.7,
}


def run_experts() -> dict[str, Any]:
    """Per table: rows scored, rows that set a constant, median and worst error, bias, and a trivial baseline's median.

    Errors are |law / published - 1|. "experts in order" and "stale plans" take one spread from the 32-rank row of each
    data set (and cadence), which is not scored; their baseline is that row's value for every number of ranks.
    """
    sources = {name: _score(name, *table()) for name, table in _SOURCES.items()}
    return {
        "document": "perfmodel/validation-experts/1",
        "perfmodel_version": __version__,
        "sources": sources,
        "over_tolerance": [name for name, one in sources.items() if one["over_tolerance"]],
    }


def _score(name: str, said: Floats, published: Floats, trivial: Floats, constants: int, note: str) -> dict[str, Any]:
    error, baseline = said / published - 1, trivial / published - 1
    median = 100 * float(np.median(np.abs(error)))
    return {
        "scored": len(said),
        "constants": constants,
        "median_percent": median,
        "worst_percent": 100 * float(np.abs(error).max()),
        "bias_percent": 100 * float(error.mean()),
        "baseline_median_percent": 100 * float(np.median(np.abs(baseline))),
        "tolerance_percent": TOLERANCES[name],
        "over_tolerance": median > TOLERANCES[name],
        "note": note,
    }


def _rows(name: str) -> list[dict[str, str]]:
    lines = (_TABLES / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def _imbalance() -> tuple[Floats, Floats, Floats, int, str]:
    rows = _rows("rank_imbalance")
    ranks, deviation, mean, published = (_column(rows, key) for key in ("ranks", "deviation", "mean", "imbalance"))
    said = max_over_mean_of_spread(ranks, deviation / mean)
    two_sigma = 1 + 2 * deviation / mean
    return said, 1 + published, two_sigma, 0, "baseline: two standard deviations above the mean"


def _in_order() -> tuple[Floats, Floats, Floats, int, str]:
    return _spread_over(_rows("stale_plans"), ("default",), lambda ranks: 256 / ranks)


def _stale() -> tuple[Floats, Floats, Floats, int, str]:
    cadences = [key for key in _rows("stale_plans")[0] if key.startswith("eplb_")]
    return _spread_over(_rows("stale_plans"), tuple(cadences), lambda ranks: (256 + ranks) / ranks)


def _spread_over(
    rows: list[dict[str, str]], keys: tuple[str, ...], each: Callable[[float], float]
) -> tuple[Floats, Floats, Floats, int, str]:
    said, published, trivial, constants = [], [], [], 0
    for key in keys:
        for data in dict.fromkeys(row["dataset"] for row in rows):
            mine = {float(row["ep"]): float(row[key]) for row in rows if row["dataset"] == data}
            spread = _spread_of(32.0, each(32.0), mine[32.0])
            constants += 1
            for ranks, value in mine.items():
                if ranks > 32:
                    said.append(max_over_mean_of_experts(ranks, each(ranks), spread))
                    published.append(value)
                    trivial.append(mine[32.0])
    return np.array(said), np.array(published), np.array(trivial), constants, "baseline: the 32-rank value"


def _spread_of(ranks: float, experts: float, value: float) -> float:
    return float(brentq(lambda spread: max_over_mean_of_experts(ranks, experts, spread) - value, 1e-3, 1.5))


def _rerouting() -> tuple[Floats, Floats, Floats, int, str]:
    rows = [row for row in _rows("least_loaded") if row["imbalance_pct"] != "0"]
    share, hot, experts, published = (
        _column(rows, key) for key in ("imbalance_pct", "imbal_experts", "experts", "speedup")
    )
    said = hot_rank_over_mean(_RANKS, share / 100, hot, experts)
    note = "the most that evening out can gain; measured reaches 48 to 80 % of it; baseline: no gain"
    return said, published, np.ones_like(said), 0, note


def _column(rows: list[dict[str, str]], key: str) -> Floats:
    return np.array([float(row[key]) for row in rows])


_SOURCES: Mapping[str, Callable[[], tuple[Floats, Floats, Floats, int, str]]] = {
    "rank imbalance": _imbalance,
    "experts in order": _in_order,
    "stale plans": _stale,
    "rerouting, as a limit": _rerouting,
}
