"""How sure a time is: an interval from the residuals of validation, wider where nothing was calibrated."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from perfmodel.formulas import get_formula
from perfmodel.predict.records import Warned
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.software import Software

__all__ = ["extrapolations", "interval_of", "residual_spread", "residuals", "widenings"]

_RESIDUALS = Path(__file__).parent.parent / "data" / "residuals.toml"
_Z80 = 1.2816  # normal quantile that leaves 10 % on each side

# Extra relative uncertainty, in quadrature: an uncalibrated stack ran 20-40 % slower than a calibrated one predicts
# (nanotron and SimuMax with a foreign set), constants carried to a relative were 10-20 % off.
UNCALIBRATED_SOFTWARE = 0.20
INHERITED_CONSTANTS = 0.10
EXTRAPOLATION = 0.10
# The mean errors of two sources of one generation lie a few percent apart: no other source shows the next one's.
BETWEEN_SOURCES = 0.03


@cache
def residuals() -> dict[str, Any]:
    """The recorded residuals; `residuals.cache_clear()` after recording new ones."""
    return tomllib.loads(_RESIDUALS.read_text())


def residual_spread(leave_out: str | None = None) -> float:
    """Standard deviation of ln(predicted / measured) to expect, from the validated sources but `leave_out`."""
    rows = [(s["rows"], s["rms_log"]) for name, s in residuals()["training"].items() if name != leave_out]
    pooled = math.sqrt(sum(n * rms**2 for n, rms in rows) / sum(n for n, _ in rows))
    return math.hypot(pooled, BETWEEN_SOURCES)


def widenings(cluster: Cluster, software: Software, precision: str, notes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Warning records for what this prediction rests on without calibration."""
    if not software.calibrated_on:
        yield {"formula": "software", "quantity": software.id, "value": precision, "valid": "no calibration of its own"}
    for note in notes:
        if "inherit" in note or note.startswith(("matmul", "attention", "elementwise", "collective", "network")):
            yield {"formula": "efficiency", "quantity": cluster.accelerator.id, "value": note, "valid": "own tables"}
            return


def extrapolations(software: Software, accelerators: int, seq_len: int) -> Iterator[dict[str, Any]]:
    """Warning records for the laws of a step that are used outside their published or calibrated range."""
    yield from get_formula("straggler_slowdown").out_of_range(ranks=accelerators)
    if software.attention == "flash":
        yield from get_formula("tiled_attention_compute_time").out_of_range(seq_len=seq_len)


def interval_of(seconds: float, warnings: Sequence[Warned], leave_out: str | None = None) -> tuple[float, float]:
    """The 80 % interval [s] around an estimate; asymmetric where only slower is likely."""
    spread = residual_spread(leave_out)
    kinds = {warning.formula for warning in warnings}
    beyond = EXTRAPOLATION if kinds - {"software", "efficiency"} else 0.0
    spread = math.hypot(spread, beyond)
    spread = math.hypot(spread, INHERITED_CONSTANTS if "efficiency" in kinds else 0.0)
    slower = math.hypot(spread, UNCALIBRATED_SOFTWARE if "software" in kinds else 0.0)
    return seconds * math.exp(-_Z80 * spread), seconds * math.exp(_Z80 * slower)
