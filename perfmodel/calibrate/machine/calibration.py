"""`calibrate_machine`: measure a device, fit its efficiency set, test it on a block, and describe the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perfmodel._version import __version__
from perfmodel.calibrate.kernels import Score
from perfmodel.calibrate.machine.block import CPU_BLOCK, CUDA_BLOCK, predicted_block
from perfmodel.calibrate.machine.description import accelerator_of, cluster_document, constants_of, toml
from perfmodel.calibrate.machine.fitting import Block, element_bytes, fit_blocks, held_out
from perfmodel.calibrate.machine.measuring import REPEATS, Measured, Progress, measure, sample_of
from perfmodel.calibrate.machine.operations import Device, Facts, Operation, Sample
from perfmodel.errors import PlanError
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.records import Record
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.registry import data_version

__all__ = [
    "BlockCheck",
    "FittedBlock",
    "MachineCalibration",
    "MeasuredOperation",
    "ShapeClass",
    "calibrate_machine",
    "describe_machine",
]

_LONGEST_NOTE = 400
_POOR_MEDIAN = 0.25
_LIMITS_S = {("cpu", False): 45.0, ("cpu", True): 20.0, ("cuda", False): 400.0, ("cuda", True): 100.0}
"""Guards, by device and whether it is to be quick: a quiet machine is done in half of it."""


class FittedBlock(Record):
    """One block of constants: rows fitted and held out, median and P90 of |ln(law / measured)|, and the roofline's."""

    block: str
    how: str
    constants: dict[str, float]
    rows: int
    held_out_rows: int
    fitted_median: float
    fitted_p90: float
    held_out_median: float
    held_out_p90: float
    roofline_median: float
    roofline_p90: float


class ShapeClass(Record):
    """Held-out rows of one kind of shape: median and P90 of |ln(predicted / measured)|, and the median bias."""

    block: str
    shapes: str
    rows: int
    median: float
    p90: float
    bias: float


class BlockCheck(Record):
    """Forward pass of a transformer block that no fit has seen: seconds, predicted over measured, and its parts [s]."""

    shape: dict[str, int | str]
    measured_s: float
    measured_p10_s: float
    measured_p90_s: float
    predicted_s: float
    ratio: float
    parts: dict[str, float]


class MeasuredOperation(Record):
    """One operation as it was measured: median, 10th and 90th percentile [s]."""

    kind: str
    dtype: str
    sizes: dict[str, int]
    seconds: float
    p10_s: float
    p90_s: float
    repeats: int
    held_out: bool


class MachineCalibration(Record):
    """What was measured, what was fitted and how well it holds; `description` is the cluster file as a table."""

    document: str = "perfmodel/machine-calibration/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    device: dict[str, Any]
    blocks: tuple[FittedBlock, ...]
    classes: tuple[ShapeClass, ...]
    check: BlockCheck
    samples: tuple[MeasuredOperation, ...]
    inherited: tuple[str, ...]
    notes: tuple[str, ...]
    description: dict[str, Any]

    def to_toml(self) -> str:
        """The text of the hardware description."""
        return toml(self.description)


@dataclass(frozen=True, slots=True)
class _Machine:
    """The measured machine as an accelerator with constants of its own."""

    accelerator: Accelerator
    blocks: Sequence[Block]
    document: Mapping[str, Any]

    def kernels(self, dtype: str) -> Kernels:
        return Kernels(self.accelerator, self.accelerator.kernel_constants(), dtype, casts_apart=True)


def calibrate_machine(
    device: Device,
    *,
    quick: bool = False,
    note: str = "",
    repeats: int = REPEATS,
    progress: Progress | None = None,
) -> MachineCalibration:
    """Measure, fit, hold out, check. `note` goes into the description, for a date or the state of the machine.

    Raises `PlanError` for a wrong argument before any work, and where the samples do not determine the constants.
    """
    if len(note) > _LONGEST_NOTE or not note.isprintable():
        raise PlanError(f"note: must be one line of at most {_LONGEST_NOTE} printable characters (got {note[:40]!r})")
    if not REPEATS <= repeats <= 10_000:
        raise PlanError(f"repeats: must be from {REPEATS} to 10000 (got {repeats})")
    facts = device.facts()
    limit_s = _LIMITS_S[device.kind, quick]
    measured = measure(device, quick=quick, repeats=repeats, limit_s=limit_s, progress=progress)
    try:
        machine = describe_machine(facts, measured, note, on_cpu=device.kind == "cpu")
    except PlanError as error:
        raise PlanError("; ".join([str(error), *measured.notes])) from None
    check = _check(device, machine, repeats)
    return MachineCalibration(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={"device": device.kind, "quick": quick, "repeats": repeats, "note": note},
        device={"name": facts.name, "stack": facts.stack, "cores": facts.n_cores, "count": facts.count},
        blocks=tuple(map(_fitted_block, machine.blocks)),
        classes=tuple(_classes(machine, measured.samples)),
        check=check,
        samples=tuple(_samples(measured.samples)),
        inherited=machine.accelerator.kernel_constants().inherited,
        notes=(*facts.notes, *measured.notes, *_remarks(machine.blocks)),
        description=dict(machine.document),
    )


def describe_machine(facts: Facts, measured: Measured, note: str = "", *, on_cpu: bool) -> _Machine:
    """The samples of a device as an accelerator and as its cluster file; raises `PlanError` and `SpecError`."""
    samples = measured.samples
    entries = accelerator_of(facts, samples)
    bare = load_accelerator(entries)
    blocks = fit_blocks(bare, samples, on_cpu=on_cpu)
    repeats = min(sample.repeats for sample in samples)
    constants = constants_of(bare, blocks, _title(facts, samples, note), repeats, on_cpu=on_cpu)
    document = cluster_document(entries, constants, facts)
    return _Machine(load_cluster(document).accelerator, blocks, document)


def _title(facts: Facts, samples: Sequence[Sample], note: str) -> str:
    spreads = np.array([(sample.p10_s / sample.seconds, sample.p90_s / sample.seconds) for sample in samples])
    low, high = np.median(spreads, axis=0).tolist()
    said = f"; {note}" if note else ""
    return (
        f"perfmodel {__version__} calibrate on {facts.name} ({facts.stack}): {len(samples)} operations, medians "
        f"of {min(sample.repeats for sample in samples)} repetitions, p10 at {low:.3f} and p90 at {high:.3f} of the "
        f"median (medians over operations), widest p90 {spreads[:, 1].max():.2f}{said}"
    )


def _check(device: Device, machine: _Machine, repeats: int) -> BlockCheck:
    shape = CPU_BLOCK if device.kind == "cpu" else CUDA_BLOCK
    size = {
        name: getattr(shape, name) for name in ("batch", "seq_len", "d_model", "d_ff", "n_heads", "d_head", "dtype")
    }
    timed = sample_of(Operation("block", shape.dtype, ()), device.block(shape, repeats))
    parts = predicted_block(machine.kernels(shape.dtype), shape, "flash-2", "megatron")
    predicted = sum(parts.values())
    return BlockCheck(
        shape=size,
        measured_s=timed.seconds,
        measured_p10_s=timed.p10_s,
        measured_p90_s=timed.p90_s,
        predicted_s=predicted,
        ratio=predicted / timed.seconds,
        parts=parts,
    )


def _fitted_block(block: Block) -> FittedBlock:
    found = block.found
    return FittedBlock(
        block=block.key,
        how=found.how,
        constants=found.constants,
        rows=found.rows,
        held_out_rows=block.held_out_rows,
        fitted_median=found.fitted.median,
        fitted_p90=found.fitted.p90,
        held_out_median=found.held_out.median,
        held_out_p90=found.held_out.p90,
        roofline_median=found.roofline.median,
        roofline_p90=found.roofline.p90,
    )


def _samples(samples: Sequence[Sample]) -> Iterator[MeasuredOperation]:
    for sample, out in zip(samples, held_out(samples).tolist(), strict=True):
        one = sample.operation
        yield MeasuredOperation(
            kind=one.kind, dtype=one.dtype, sizes=one.named(), seconds=sample.seconds, p10_s=sample.p10_s,
            p90_s=sample.p90_s, repeats=sample.repeats, held_out=out,
        )  # fmt: skip


_CLASSES: Mapping[str, tuple[str, tuple[tuple[float, str], ...]]] = {
    "matmul": ("m", ((16, "m <= 16"), (128, "m 17 to 128"), (np.inf, "m > 128"))),
    "prefill": ("seq_len", ((512, "up to 512 tokens"), (2048, "513 to 2048 tokens"), (np.inf, "over 2048 tokens"))),
    "decode": ("kv_len", ((1024, "up to 1024 keys"), (8192, "1025 to 8192 keys"), (np.inf, "over 8192 keys"))),
    "elementwise": ("elements", ((2**18, "up to 2^18 elements"), (np.inf, "over 2^18 elements"))),
}


def _classes(machine: _Machine, samples: Sequence[Sample]) -> Iterator[ShapeClass]:
    """Held-out errors by class of shape, predicted by the description that is written, not by the fit."""
    errors: dict[tuple[str, str], list[float]] = {}
    for sample, out in zip(samples, held_out(samples).tolist(), strict=True):
        one = sample.operation
        if out and one.kind in _CLASSES:
            size, classes = _CLASSES[one.kind]
            shapes = next(name for limit, name in classes if one.named()[size] <= limit)
            kernels = machine.kernels(one.dtype)
            key = f"matmul.{one.dtype}" if one.kind == "matmul" else one.kind
            errors.setdefault((key, shapes), []).append(float(np.log(_predicted(kernels, one) / sample.seconds)))
    for (block, shapes), found in errors.items():
        score = Score(float(np.median(np.abs(found))), float(np.quantile(np.abs(found), 0.9)))
        yield ShapeClass(
            block=block,
            shapes=shapes,
            rows=len(found),
            median=score.median,
            p90=score.p90,
            bias=float(np.median(found)),
        )


def _predicted(kernels: Kernels, operation: Operation) -> float:
    sizes = [float(size) for size in operation.sizes]
    if operation.kind == "matmul":
        return float(kernels.matmul(*sizes).seconds)
    if operation.kind == "prefill":
        return float(kernels.flash_attention(*sizes, library="flash-2").seconds)
    if operation.kind == "decode":
        return float(kernels.decode_attention(*sizes, library="vllm", kv_dtype=operation.dtype).seconds)
    return float(kernels.elementwise(element_bytes(operation.dtype) * sizes[0] * sizes[1], "megatron").seconds)


def _remarks(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        median = block.found.held_out.median
        if median > _POOR_MEDIAN:
            yield f"{block.key}: held-out median {100 * median:.0f} %: the law is not this machine"
        full = [
            name for name, value in block.found.constants.items() if name.endswith("efficiency") and value >= 0.9995
        ]
        if full:
            yield f"{block.key}: {', '.join(full)} at the limit of 1: the measured rows do not bind it"
