"""How often an operation is repeated, which sample is kept, and which operations a slow machine leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from perfmodel.calibrate.machine.operations import Device, Operation, Sample
from perfmodel.errors import PlanError

__all__ = ["ENOUGH", "REPEATS", "Measured", "Progress", "measure", "sample_of"]

REPEATS = 30
_SECOND_TRIES_S = 15.0
"""How long a measurement goes on to repeat what was unsteady: on a machine that stays busy that does not help."""
_PATIENCE = 4.0
ENOUGH = 14
"""Operations of a kind with which a fit of few constants can hold some out."""
_GOLDEN = 0.6180339887498949
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
    device: Device,
    *,
    quick: bool = False,
    repeats: int = REPEATS,
    limit_s: float = 50.0,
    progress: Progress | None = None,
) -> Measured:
    """Every operation of the device, repeated `repeats` times; raises `PlanError` for times that are none.

    Operations are taken in an order that spreads over kinds and sizes: where `limit_s` [s] ends it early, what is left
    out is thinned evenly, and a note says so. Kinds that a fit could not do with go on for some times that limit.
    """
    operations = device.operations(quick)
    began, taken, unsteady = monotonic(), dict[int, Sample](), 0
    for done, at in enumerate(_spread(operations)):
        operation = operations[at]
        spent = monotonic() - began
        if spent > _PATIENCE * limit_s:
            break
        if spent > limit_s and sum(one.operation.kind == operation.kind for one in taken.values()) >= ENOUGH:
            continue
        if progress is not None:
            progress(done, len(operations), operation.kind)
        sample = sample_of(operation, device.repetitions(operation, repeats))
        if sample.p90_s > _UNSTEADY * sample.p10_s and monotonic() - began < _SECOND_TRIES_S:
            again = sample_of(operation, device.repetitions(operation, repeats))
            sample = min(sample, again, key=lambda one: one.p90_s / one.p10_s)
        unsteady += sample.p90_s > _UNSTEADY * sample.p10_s
        taken[at] = sample
    if progress is not None:
        progress(len(operations), len(operations), "done")
    return Measured(tuple(taken[at] for at in sorted(taken)), tuple(_notes(len(operations), len(taken), unsteady)))


def _notes(asked: int, taken: int, unsteady: int) -> Iterator[str]:
    if taken < asked:
        yield f"the time was up after {taken} of {asked} operations: the others are not in the fit"
    if unsteady:
        yield (
            f"{unsteady} of {taken} operations took more than {_UNSTEADY:g} times as long at P90 as at P10: something "
            "else ran beside them; repeat on a quiet machine, on a CPU with fewer threads (OMP_NUM_THREADS)"
        )


def _spread(operations: Sequence[Operation]) -> list[int]:
    """The positions of the operations, the copy first, then by multiples of the golden ratio: any beginning is even."""
    return sorted(range(len(operations)), key=lambda at: (operations[at].kind != "copy", at * _GOLDEN % 1))


def sample_of(operation: Operation, times: Sequence[float]) -> Sample:
    """Median and percentiles of the repetitions [s]; raises `PlanError` where one is not a positive number."""
    if not times or not all(0 < time < math.inf for time in times):
        wrong = next((time for time in times if not 0 < time < math.inf), "none")
        raise PlanError(f"{operation.kind} {operation.named()}: a device gave {wrong} as a time [s]")
    low, middle, high = np.quantile(np.asarray(times, dtype=float), [0.1, 0.5, 0.9]).tolist()
    return Sample(operation, middle, low, high, len(times))
