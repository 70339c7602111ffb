"""What a plan may need at most: memory always; watts, dollars and days where the reader says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.predict.training_task import TrainingTask

__all__ = ["Column", "Limit", "limits_of"]

Column = Callable[[str], Any]
"""A layout's `step_time_s`, `memory_bytes`, `cost_usd`, `energy_j`, `carbon_kg` `watts` by name; floats or arrays."""


@dataclass(frozen=True)
class Limit:
    """Candidates need at most `most`; `rule` names those that need more, `needs` is what a candidate needs."""

    name: str
    rule: str
    most: float
    needs: Callable[[Column], Any]
    energetic: bool = False
    """Whether what is needed depends on how busy devices are."""

    def said(self, value: float) -> str:
        """A value in words."""
        return {
            "memory_bytes": f"{value / 1e9:.1f} GB",
            "watts": f"{value:,.0f} W",
            "usd": f"{value:,.0f} USD",
            "days": f"{value:,.1f} days",
        }[self.name]


def limits_of(
    task: TrainingTask, memory_bytes: float, max_watts: float | None, max_usd: float | None, max_days: float | None
) -> tuple[Limit, ...]:
    """The limits that are set, memory first; raises `PlanError`. Watts are the mean over a step, at the facility."""
    given = {"max_watts": max_watts, "max_usd": max_usd, "max_days": max_days}
    for name, value in given.items():
        if value is not None:
            _check(name, value, task.tokens)
    documents, length = task.documents
    steps = (task.tokens or 0.0) / (documents * length)
    found = [Limit("memory_bytes", "memory", memory_bytes, lambda of: of("memory_bytes"))]
    if max_watts is not None:
        found.append(Limit("watts", "watts", max_watts, lambda of: of("watts"), energetic=True))
    if max_usd is not None:
        found.append(Limit("usd", "dollars", max_usd, lambda of: of("cost_usd") * steps))
    if max_days is not None:
        found.append(Limit("days", "days", max_days, lambda of: of("step_time_s") * (steps / 86400.0)))
    return tuple(found)


def _check(name: str, value: Any, tokens: float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise OutOfRangeError(f"{name}: must be a positive number (got {value!r})")
    if name != "max_watts" and tokens is None:
        raise PlanError(f"{name}: limits a whole run; say how long it is with tokens")
