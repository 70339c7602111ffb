"""How sure a TTFT or a TPOT is: from the residuals of the serving validation."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from perfmodel.predict.serving.task import ServingTask
from perfmodel.predict.uncertainty import BEYOND, SAME_ARCHITECTURE, between_sources, pooled_quantile
from perfmodel.specs.accelerator import load_accelerator

__all__ = ["RESIDUAL_KINDS", "SERVING_RESIDUALS", "forget_serving_residuals", "serving_interval", "serving_widenings"]

SERVING_RESIDUALS = Path(__file__).parents[2] / "data" / "serving_residuals.toml"
_LOOP, _STATIC = ("ttft", "tpot"), ("static-ttft", "answer")
RESIDUAL_KINDS = (*_LOOP, *_STATIC)
"""Figures that scatter alike: TTFT and TPOT in a loop, the first token of a static batch, whole answers and rates."""
_Z80 = 1.2816
# Half-width in ln(time) where nothing was ever recorded.
_UNKNOWN = 0.3


@cache
def _residuals() -> Mapping[str, Mapping[str, Sequence[float]]]:
    """ln(measured / predicted) by kind and source."""
    if not SERVING_RESIDUALS.is_file():
        return {}
    kept: dict[str, Any] = tomllib.loads(SERVING_RESIDUALS.read_text(encoding="utf-8"))
    return kept


def forget_serving_residuals() -> None:
    """Read the residuals again: others were recorded."""
    _residuals.cache_clear()


def serving_widenings(task: ServingTask) -> Iterator[dict[str, Any]]:
    """Warning records for what an estimate rests on without calibration."""
    if not task.software.calibrated_on:
        yield {"formula": "software", "quantity": task.software.id, "value": "serving", "valid": "no calibration"}
    part = task.cluster.accelerator
    product = task.precisions.product
    for note in task.notes:
        if note.startswith((f"{part.id} inherits every", f"matmul.{product} of {part.id} ")):
            donor = load_accelerator(part.relative) if part.relative else None
            same = donor is not None and donor.architecture == part.architecture
            formula = "efficiency of the same architecture" if same else "efficiency"
            yield {"formula": formula, "quantity": part.id, "value": note, "valid": "own tables"}
            return


def serving_interval(
    seconds: float, quantity: str, formulas: Sequence[str], leave_out: str | None = None
) -> tuple[float, float]:
    """The 80 % interval [s] of the mean; wider for a software or an accelerator without calibration of its own."""
    low, high = _reach(quantity, leave_out)
    extra = 0.0
    for formula in formulas:
        own = SAME_ARCHITECTURE if formula == "efficiency of the same architecture" else BEYOND
        extra = math.hypot(extra, own)
    below, above = math.hypot(min(low, 0.0), _Z80 * extra), math.hypot(max(high, 0.0), _Z80 * extra)
    return seconds * math.exp(-below), seconds * math.exp(above)


def _reach(kind: str, leave_out: str | None) -> tuple[float, float]:
    """ln(time) between which 80 % of the measurements of a new source lie.

    The middle 80 % of the other sources of the kind, and in quadrature what so few of them miss of the variance between
    sources: 2 / n of it for n sources, from the means of every kind with the same batching (predict/uncertainty.py).
    """
    siblings = _LOOP if kind in _LOOP else _STATIC
    seen = {
        one: {source: rows for source, rows in _residuals().get(one, {}).items() if source != leave_out and rows}
        for one in siblings
    }
    pool = list(seen[kind].values())
    if not pool:
        return -_UNKNOWN, _UNKNOWN
    missing = _Z80 * between_sources(seen) * math.sqrt(2.0 / len(pool))
    low, middle, high = (pooled_quantile(pool, share) for share in (0.1, 0.5, 0.9))
    return middle - math.hypot(middle - low, missing), middle + math.hypot(high - middle, missing)
