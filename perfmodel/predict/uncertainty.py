"""How sure a time is: an interval from the residuals of validation, wider where nothing was calibrated."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, pvariance, variance
from typing import Any

from perfmodel.formulas import get_formula
from perfmodel.predict.records import Warned
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.software import Software

__all__ = [
    "CLASSES",
    "between_sources",
    "extrapolations",
    "forget_residuals",
    "interval_of",
    "pooled_quantile",
    "residual_class",
    "residual_reach",
    "residual_spread",
    "residuals",
    "widenings",
]

_RESIDUALS = Path(__file__).parent.parent / "data" / "residuals.toml"
_Z80 = 1.2816  # normal quantile that leaves 10 % on each side
# What a step is, as far as its residuals differ: experts wait for routing and launches; a stack that fixed no constant,
# and an accelerator whose collectives nobody measured, are mostly slower. Formats of 8 and 4 bits are no class of their
# own: their rows scatter like the others.
CLASSES = ("dense", "dense-uncalibrated", "experts")
_UNCALIBRATED = frozenset({"software", "collectives"})
Residuals = Mapping[str, Mapping[str, Sequence[float]]]  # [class][source] ln(measured / predicted)

# Four numbers that the pools of residuals do not give, as standard deviations of ln(time).
# Constants of the same architecture: Megatron-Bridge's dense rows on GB200, priced with the constants of the B200, lie
# 3 % from its rows on the B200.
SAME_ARCHITECTURE = 0.03
# Constants of another architecture of the same vendor, or a law outside its range: the median error of matrix products
# and prefill attention with another accelerator's constants is 5 to 16 % (`perfmodel validate --kernels`, transfer).
BEYOND = 0.10
# Constants of another vendor, upwards only: matrix products of the MI300X reach 51 to 60 % of their peak where those of
# the H100 reach 80 % (hardware_specs/accelerators/mi300x.toml): ln(80 / 55) = .37 is taken as the 80 % reach.
FOREIGN_CONSTANTS = 0.37 / _Z80
# The least for models with experts: how far 13 equal configurations of Megatron-Bridge move between the releases of one
# stack (published/training/megatron-bridge-moe.csv; .02 for its 15 dense ones). No prediction knows the release.
EXPERT_RELEASES = 0.18
_BORROWED = {
    "efficiency of the same architecture": SAME_ARCHITECTURE,
    "efficiency": BEYOND,
    "efficiency of another vendor": BEYOND,
}


@cache
def residuals() -> Residuals:
    """ln(measured / predicted) of the recorded rows, by class and source."""
    kept: dict[str, Any] = tomllib.loads(_RESIDUALS.read_text(encoding="utf-8"))
    return kept


def forget_residuals() -> None:
    """Read the residuals again: others were recorded."""
    residuals.cache_clear()
    residual_reach.cache_clear()


def residual_class(kinds: Iterable[str], *, experts: bool) -> str:
    """The class whose residuals a prediction with warnings of these `kinds` may expect."""
    return "experts" if experts else "dense-uncalibrated" if _UNCALIBRATED.intersection(kinds) else "dense"


def residual_spread(leave_out: str | None = None) -> float:
    """Standard deviation of ln(measured / predicted) inside a source: what tells layouts of one run apart."""
    pool = _others("dense", leave_out)
    return math.sqrt(fmean(pvariance(rows) for rows in pool.values()))


def between_sources(recorded: Residuals) -> float:
    """Standard deviation of the mean residual of a source around the mean of its class; 0 where it has no sibling.

    The scatter of the means, less what the scatter inside sources puts into them (moments of a one-way layout).
    """
    squares, free, noise = 0.0, 0, []
    for sources in recorded.values():
        means = [fmean(rows) for rows in sources.values()]
        squares += sum((mean - fmean(means)) ** 2 for mean in means)
        free += max(0, len(means) - 1)
        noise += [variance(rows) / len(rows) for rows in sources.values() if len(rows) > 1]
    return math.sqrt(max(0.0, squares / free - fmean(noise or [0.0]))) if free else 0.0


def pooled_quantile(pool: Sequence[Sequence[float]], share: float) -> float:
    """The value below which `share` of the residuals lie when every source counts alike; linear between rows."""
    weighted = sorted((value, 1.0 / len(rows)) for rows in pool for value in rows)
    wanted, below = share * len(pool), 0.0
    last_value, last_middle = weighted[0][0], 0.0
    for value, weight in weighted:
        middle = below + weight / 2.0
        if middle >= wanted:
            part = (wanted - last_middle) / (middle - last_middle)
            return last_value + part * (value - last_value)
        last_value, last_middle, below = value, middle, below + weight
    return weighted[-1][0]


@cache
def residual_reach(kind: str, leave_out: str | None = None) -> tuple[float, float]:
    """How far below and above the estimate, in ln(time), 80 % of the measurements of a new source lie.

    The middle 80 % of the residuals of all other sources of the class, each source counting alike. So few sources show
    too little of how far a new one lies: pooling n holds (n - 1) / n of the variance between sources where a
    prediction meets (n + 1) / n of it. The missing 2 / n, from the means of all classes, is added in quadrature.
    """
    # A class of one source lends nothing when that one is left out.
    pool = _others(kind, leave_out) or _others("dense", leave_out)
    seen = {one: _others(one, leave_out) for one in CLASSES}
    missing = _Z80 * between_sources(seen) * math.sqrt(2.0 / len(pool))
    low, middle, high = (pooled_quantile(list(pool.values()), share) for share in (0.1, 0.5, 0.9))
    least = _Z80 * EXPERT_RELEASES if kind == "experts" else 0.0
    below = math.hypot(max(middle - low, least), missing) - middle
    above = math.hypot(max(high - middle, least), missing) + middle
    return max(0.0, below), max(0.0, above)


def widenings(cluster: Cluster, software: Software, precision: str, notes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Warning records for what this prediction rests on without calibration.

    `notes` are those of the efficiency set: constants of another accelerator widen the interval when they are all of
    them, those of the step's matrix products or those of its messages; other borrowed kernels are in the residuals.
    """
    if not software.calibrated_on:
        yield {"formula": "software", "quantity": software.id, "value": precision, "valid": "no calibration of its own"}
    accelerator = cluster.accelerator
    for note in notes:
        if note.startswith((f"{accelerator.id} inherits every", f"matmul.{precision} of {accelerator.id} ")):
            yield {"formula": _borrowed(cluster), "quantity": accelerator.id, "value": note, "valid": "own tables"}
            break
    for note in notes:
        if note.startswith("collective of "):
            yield {"formula": "collectives", "quantity": accelerator.id, "value": note, "valid": "own tables"}


def extrapolations(software: Software, accelerators: int, seq_len: int) -> Iterator[dict[str, Any]]:
    """Warning records for the laws of a step that are used outside their published or calibrated range."""
    yield from get_formula("straggler_slowdown").out_of_range(ranks=accelerators)
    if software.attention == "flash":
        yield from get_formula("tiled_attention_compute_time").out_of_range(seq_len=seq_len)


def interval_of(
    seconds: float, warnings: Sequence[Warned], leave_out: str | None = None, *, experts: bool = False
) -> tuple[float, float]:
    """The 80 % interval [s] around an estimate; asymmetric where only slower is likely.

    `leave_out` is a source whose residuals may not be used; `experts` says that the model is a mixture of experts.
    """
    kinds = {warning.formula for warning in warnings}
    below, above = residual_reach(residual_class(kinds, experts=experts), leave_out)
    known = residual_reach("dense", leave_out)
    # A handful of residuals may not make experts or a stack without calibration surer than what is known best.
    below, above = max(below, known[0]), max(above, known[1])
    if experts and "software" in kinds:
        # No source shows both at once: as much slower as on dense models.
        above += max(0.0, residual_reach("dense-uncalibrated", leave_out)[1] - known[1])
    extra = math.hypot(
        max(_BORROWED.get(kind, 0.0) for kind in ("", *kinds)),
        BEYOND if kinds - {*_UNCALIBRATED, *_BORROWED} else 0.0,
    )
    slower_still = math.hypot(extra, FOREIGN_CONSTANTS if "efficiency of another vendor" in kinds else 0.0)
    below, above = math.hypot(below, _Z80 * extra), math.hypot(above, _Z80 * slower_still)
    return seconds * math.exp(-below), seconds * math.exp(above)


def _others(kind: str, leave_out: str | None) -> dict[str, Sequence[float]]:
    return {source: rows for source, rows in residuals().get(kind, {}).items() if source != leave_out}


def _borrowed(cluster: Cluster) -> str:
    """How near the accelerator is whose constants this one borrows."""
    own = cluster.accelerator
    if not own.vendor or own.relative is None:
        return "efficiency"
    donor = load_accelerator(own.relative)
    if donor.vendor != own.vendor:
        return "efficiency of another vendor"
    return "efficiency of the same architecture" if donor.architecture == own.architecture else "efficiency"
