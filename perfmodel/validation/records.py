"""What a validation says: frozen records whose JSON keys are a contract. Shares and errors are fractions."""

from __future__ import annotations

from typing import Any

from perfmodel.predict.records import Record
from perfmodel.validation.sources import OtherTool

__all__ = [
    "Baselines",
    "Calibrated",
    "IntervalScore",
    "LayoutChoice",
    "LeftOut",
    "MemoryBaselines",
    "Pooled",
    "Refusal",
    "RowScore",
    "SourceScore",
    "Summary",
    "ValidationReport",
    "WorstRow",
]


class Refusal(Record):
    """A row that the model declined to predict, and why."""

    where: str
    reason: str


class WorstRow(Record):
    """The row with the largest error, signed."""

    where: str
    error: float


class RowScore(Record):
    """One row: measured and predicted in base units (seconds, bytes, or a share), and the signed error.

    `error` is relative for times and bytes and a difference for shares; `calibrates` rows fixed constants; of steps,
    `residual_class` says whose residuals the interval rests on (`predict/uncertainty.py`).
    """

    where: str
    measured: float
    predicted: float
    error: float
    interval: tuple[float, float] | None = None
    fits: bool | None = None
    widened_by: tuple[str, ...] = ()
    residual_class: str | None = None
    calibrates: bool = False
    note: str = ""


class Calibrated(Record):
    """The rows of a source that fixed constants, their MAPE, and how many constants they touched."""

    rows: int
    constants: int
    headline: float


class LeftOut(Record):
    """The MAPE of a source when its generation was fitted without it, and what that fit rested on instead."""

    headline: float
    fitted_on: str


class LayoutChoice(Record):
    """Does the model choose the right layout? Over groups of rows that differ in their layout alone.

    `mean_regret` is how much longer its choices ran than the best ones; `rank_correlation` is Spearman's, pooled
    over the groups.
    """

    groups: int
    rows: int
    mean_regret: float
    rank_correlation: float | None


class Baselines(Record):
    """MAPE of two predictions without a model: hardware-FLOP utilisation 0.5, and the best one, fitted on the rows."""

    constant_hfu_mape: float
    constant_hfu: float
    fitted_hfu_mape: float
    fitted_hfu: float


class MemoryBaselines(Record):
    """MAPE of two predictions without a model: 16 bytes a parameter over tp * pp ranks, and the best multiple of it."""

    states_mape: float
    fitted_mape: float
    fitted_bytes_per_param: float


class IntervalScore(Record):
    """How honest the intervals are, beside the prediction +- 20 %; their width comes from other sources."""

    level: float
    coverage: float
    median_relative_width: float
    score: float
    constant_width: float
    constant_width_coverage: float
    constant_width_score: float


class SourceScore(Record):
    """The score of one source. `headline` is its MAPE, or for shares the mean absolute difference.

    Every figure is over the `scored` rows, which fixed no constant; those that did are in `calibrated`, and
    `scored + calibrated.rows + refused = given`. `max_error` is the largest error without its sign;
    `rank_correlation` is Spearman's of model FLOP/s per accelerator (in tokens it would only rank the sizes).
    `fitting` of all `predicted` rows are predicted to fit in memory, as all of them did.
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
    predicted: int = 0
    refused: tuple[Refusal, ...] = ()
    left_out: tuple[str, ...] = ()
    free_constants: tuple[str, ...] = ()
    headline: float | None = None
    calibrated: Calibrated | None = None
    without_it: LeftOut | None = None
    median_abs_log: float | None = None
    rms_log: float | None = None
    bias: float | None = None
    max_error: float | None = None
    worst: WorstRow | None = None
    rank_correlation: float | None = None
    fitting: int | None = None
    layout_choice: LayoutChoice | None = None
    baselines: Baselines | None = None
    memory_baselines: MemoryBaselines | None = None
    interval: IntervalScore | None = None
    other_tools: tuple[OtherTool, ...] = ()
    tolerance: float | None = None
    over_tolerance: bool = False
    rows: tuple[RowScore, ...] = ()


class Pooled(Record):
    """Tables of one publication scored as one; `given` counts all their rows, the figures those that fixed nothing."""

    sources: tuple[str, ...]
    given: int
    scored: int
    headline: float
    baselines: Baselines


class Summary(Record):
    """Over validated sources, each counting alike. `beating` of `compared` are nearer than both trivial baselines.

    `interval_score` and `constant_width_score` are means over the sources with intervals; `median_half_width` is over
    their dense rows, relative to the prediction; `layout_choice` over their groups.
    """

    compared: int
    beating: int
    intervals: int
    mean_coverage: float | None = None
    median_half_width: float | None = None
    interval_score: float | None = None
    constant_width_score: float | None = None
    layout_choice: LayoutChoice | None = None


class ValidationReport(Record):
    """Every source's score; `over_tolerance` is True where `failures` has a line."""

    document: str = "perfmodel/validation/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    over_tolerance: bool
    failures: tuple[str, ...] = ()
    summary: Summary
    pooled: dict[str, Pooled]
    sources: dict[str, SourceScore]
