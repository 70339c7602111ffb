"""What a validation says: frozen records whose JSON keys are a contract. Shares and errors are fractions."""

from __future__ import annotations

from typing import Any

from perfmodel.predict.records import Record
from perfmodel.validation.sources import OtherTool

__all__ = ["Baselines", "IntervalScore", "Refusal", "RowScore", "SourceScore", "ValidationReport", "WorstRow"]


class Refusal(Record):
    """A row that the model declined to predict, and why."""

    where: str
    reason: str


class WorstRow(Record):
    """The row with the largest error, signed."""

    where: str
    error: float


class RowScore(Record):
    """One row: measured and predicted in base units (seconds, or a share), and the signed error.

    `error` is relative for times and a difference for shares.
    """

    where: str
    measured: float
    predicted: float
    error: float
    interval: tuple[float, float] | None = None
    fits: bool | None = None
    widened_by: tuple[str, ...] = ()
    note: str = ""


class Baselines(Record):
    """MAPE of two predictions without a model: hardware-FLOP utilisation 0.5, and the best one, fitted on the rows."""

    constant_hfu_mape: float
    constant_hfu: float
    fitted_hfu_mape: float
    fitted_hfu: float


class IntervalScore(Record):
    """How honest the intervals are, beside the prediction +- 20 %; `residual_spread` comes from other sources."""

    level: float
    coverage: float
    median_relative_width: float
    score: float
    constant_width: float
    constant_width_coverage: float
    constant_width_score: float


class SourceScore(Record):
    """The score of one source. `headline` is its MAPE, or for shares the mean absolute difference.

    `max_error` is the largest error without its sign; `rank_correlation` is Spearman's of model FLOP/s per accelerator
    (in tokens it would only rank the sizes); `fitting` counts rows predicted to fit in memory, as all of them did.
    """

    title: str
    url: str
    quantity: str
    role: str
    reason: str
    definition: str
    read: str
    given: int
    scored: int
    refused: tuple[Refusal, ...] = ()
    left_out: tuple[str, ...] = ()
    free_constants: tuple[str, ...] = ()
    headline: float | None = None
    median_abs_log: float | None = None
    rms_log: float | None = None
    bias: float | None = None
    max_error: float | None = None
    worst: WorstRow | None = None
    rank_correlation: float | None = None
    fitting: int | None = None
    baselines: Baselines | None = None
    interval: IntervalScore | None = None
    other_tools: tuple[OtherTool, ...] = ()
    tolerance: float | None = None
    over_tolerance: bool = False
    rows: tuple[RowScore, ...] = ()


class ValidationReport(Record):
    """Every source's score; `over_tolerance` is True where `failures` has a line."""

    document: str = "perfmodel/validation/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    over_tolerance: bool
    failures: tuple[str, ...] = ()
    sources: dict[str, SourceScore]
