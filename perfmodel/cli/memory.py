"""The document of `perfmodel estimate memory`: what an estimate of a step says of memory alone."""

from __future__ import annotations

from typing import Any

from perfmodel.predict.records import MemoryBytes, Record, TrainingEstimate, Warned

__all__ = ["MemoryEstimate", "memory_estimate"]


class MemoryEstimate(Record):
    """Bytes [B] on the fullest rank at the peak of a training step, and whether they fit."""

    document: str = "perfmodel/memory-estimate/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    memory_bytes: MemoryBytes
    fits: bool
    accelerators_used: int
    n_microbatches: int
    warnings: tuple[Warned, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def memory_estimate(estimate: TrainingEstimate) -> MemoryEstimate:
    """What the estimate of a step says of its memory."""
    kept = MemoryEstimate.model_fields.keys() - {"document"}
    return MemoryEstimate(**{name: getattr(estimate, name) for name in kept})
