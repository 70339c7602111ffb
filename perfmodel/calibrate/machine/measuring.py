"""How often an operation is repeated, which sample is kept, and which operations a slow machine leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from perfmodel.calibrate.machine.operations import Device, Operation, Sample
from perfmodel.errors import PlanError

__all__ = ["REPEATS", "Measured", "Progress", "measure", "sample_of"]

REPEATS = 30
_SECOND_TRIES_S = 15.0
"""How long a measurement goes on to repeat what was unsteady: on a machine that stays busy that does not help."""
_UNSTEADY = 2.0
"""90th over 10th percentile beyond which something else ran beside an operation: it is measured once more."""

Progress = Callable[[int, int, str], None]
"""Called with how many operations are done, how many there are, and what comes next."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The samples of a machine in the order of their operations, and remarks on how they were taken."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...]


def measure(
    device: Device, *, quick: bool = False, repeats: int = REPEATS, progress: Progress | None = None
) -> Measured:
    """Every operation of the device, repeated `repeats` times; raises `PlanError` for times that are none."""
    operations = device.operations(quick)
    samples, unsteady = [], 0
    patience = monotonic() + _SECOND_TRIES_S
    for done, operation in enumerate(operations):
        if progress is not None:
            progress(done, len(operations), operation.kind)
        sample = sample_of(operation, device.repetitions(operation, repeats))
        if sample.p90_s > _UNSTEADY * sample.p10_s and monotonic() < patience:
            again = sample_of(operation, device.repetitions(operation, repeats))
            sample = min(sample, again, key=lambda one: one.p90_s / one.p10_s)
        unsteady += sample.p90_s > _UNSTEADY * sample.p10_s
        samples.append(sample)
    if progress is not None:
        progress(len(operations), len(operations), "done")
    notes = []
    if unsteady:
        notes.append(
            f"{unsteady} of {len(samples)} operations took more than {_UNSTEADY:g} times as long at P90 as at P10: "
            "something else ran beside them; repeat on a quiet machine"
        )
    return Measured(tuple(samples), tuple(notes))


def sample_of(operation: Operation, times: Sequence[float]) -> Sample:
    """Median and percentiles of the repetitions [s]; raises `PlanError` where one is not a positive number."""
    if not times or not all(0 < time < math.inf for time in times):
        wrong = next((time for time in times if not 0 < time < math.inf), "none")
        raise PlanError(f"{operation.kind} {operation.named()}: a device gave {wrong} as a time [s]")
    low, middle, high = np.quantile(np.asarray(times, dtype=float), [0.1, 0.5, 0.9]).tolist()
    return Sample(operation, middle, low, high, len(times))
