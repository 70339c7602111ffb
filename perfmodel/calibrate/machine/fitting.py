"""From the samples of a machine to the blocks of an efficiency set, through the laws that predictions use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.attention import fit_decode, fit_prefill
from perfmodel.calibrate.collectives import fit_all_to_all, fit_collective
from perfmodel.calibrate.kernels import Fitted, Floats, fitted
from perfmodel.calibrate.machine.operations import KINDS, Operation, Sample
from perfmodel.calibrate.matmul import LIBRARIES, Library, fit_products, free_constants, library_choices
from perfmodel.errors import PlanError
from perfmodel.formulas.elementwise import elementwise_time
from perfmodel.predict.attention import AttentionKernels
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.kernel_constants import Fit, FlashConstants
from perfmodel.specs.quantity import Quantity

__all__ = ["TABLE", "Block", "element_bytes", "fit_blocks", "held_out"]

TABLE = "this machine"
_GROUPED_BY = {"matmul": slice(1, 3), "prefill": slice(2, 5), "backward": slice(2, 5), "decode": slice(2, 5)}
_MESSAGES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
_LEAST_ROWS, _ROWS_PER_CONSTANT, _FEW_CONSTANTS = 12, 3, 2
_BACKWARD_PRODUCTS = 2.5


@dataclass(frozen=True, slots=True)
class Block:
    """A fitted block: its dotted key, the fit, the entries that were chosen and not fitted, and the rows held out."""

    key: str
    found: Fitted
    choices: dict[str, Any]
    held_out_rows: int


def element_bytes(dtype: str) -> float:
    """Size of an element [B] of element-wise operations and caches in a precision."""
    return 4.0 if dtype in ("fp32", "tf32") else 2.0


def held_out(samples: Sequence[Sample]) -> NDArray[np.bool_]:
    """Which samples are not fitted: every third group in ascending order, a group being a shape without its rows.

    Groups are (n, k) of a product, the heads of attention, the size of anything else.
    """
    groups = [_group(sample.operation) for sample in samples]
    kept_out = {
        group
        for kind in {sample.operation.kind for sample in samples}
        for group in sorted({group for group in groups if group[0] == kind})[2::3]
    }
    return np.array([group in kept_out for group in groups], dtype=bool)


def fit_blocks(accelerator: Accelerator, samples: Sequence[Sample], *, on_cpu: bool) -> list[Block]:
    """Every block that the samples determine; raises `PlanError` where there are too few of a kind.

    `on_cpu` operations run one after another over all cores, so nothing is fitted to waves of blocks.
    """
    blocks = [_products(accelerator, rows, dtype) for dtype, rows in _by_dtype(samples, "matmul")]
    share = 1.0
    for dtype, rows in _by_dtype(samples, "prefill"):
        prefill = _prefill(accelerator, rows, on_cpu=on_cpu)
        share = prefill.found.constants["peak_efficiency"]
        blocks += [prefill, *_backward(accelerator, _of(samples, "backward", dtype), prefill)]
    blocks += [_decode(accelerator, rows, share, on_cpu=on_cpu) for _, rows in _by_dtype(samples, "decode")]
    blocks += [_elementwise(accelerator, rows) for _, rows in _by_dtype(samples, "elementwise")]
    return [*blocks, *_messages(accelerator, [one for one in samples if one.operation.kind in _MESSAGES])]


def _products(accelerator: Accelerator, rows: list[Sample], dtype: str) -> Block:
    columns = [*_columns(rows), _seconds(rows)]
    library = _library(accelerator, dtype)
    out = _split(rows, len(free_constants(library)))
    found = fit_products(accelerator, dtype, library, columns, ~out)
    return Block(f"matmul.{dtype}", found, library_choices(library), int(out.sum()))


def _library(accelerator: Accelerator, dtype: str) -> Library:
    """The kernels that PyTorch and NumPy call: cuBLAS's tiles where they are known, else the smooth roofline."""
    for id in (accelerator.id, accelerator.relative):
        known = LIBRARIES.get(str(id), {}).get("bf16" if dtype == "fp16" else dtype)
        # A table of a serving library counts the cast of activations; here operands arrive cast.
        if known is not None and not known.quantises:
            return Library(TABLE, known.name, known.tiles, known.splits)
    return Library(TABLE, "no tiles known", (), (1,))


def _prefill(accelerator: Accelerator, rows: list[Sample], *, on_cpu: bool) -> Block:
    out = _split(rows, 3 if on_cpu else 6)
    # Blocks that follow one another have no lone block to wait for, and their operands stay in the cores' caches.
    fixed = {"lone_share": 0.01, "exponent": 2.0, "memory_efficiency": 1.0} if on_cpu else None
    found = fit_prefill(accelerator, TABLE, _columns(rows), _seconds(rows), ~out, fixed)
    return Block("attention", found, {}, int(out.sum()))


def _backward(accelerator: Accelerator, rows: list[Sample], prefill: Block) -> Iterator[Block]:
    """The share of the forward pass's rate that the backward pass reaches, where it was measured."""
    if not rows:
        return
    out, sizes = _split(rows, 1), _columns(rows)

    def law(constants: Floats) -> Floats:
        block = FlashConstants(
            **prefill.found.constants, backward_efficiency_ratio=Quantity(float(constants[0])), fit=_NO_FIT
        )
        blocks: dict[str, Any] = {"attention": {"own": block}}
        kernels = AttentionKernels(accelerator, Efficiency.model_construct(**blocks))
        seconds: Floats = kernels.flash_attention(*sizes, library="own", backward=True).seconds
        return seconds

    how = "flash_attention backward: five products for two over the forward pass's rate times this ratio"
    start, limits = {"backward_efficiency_ratio": 0.8}, {"backward_efficiency_ratio": 2.0}
    plain = law(np.array([1.0]))
    found = fitted(TABLE, how, np.empty(0, np.void), law, plain, start, limits, _seconds(rows), calibrate=~out)
    yield Block("backward", found, {}, int(out.sum()))


def _decode(accelerator: Accelerator, rows: list[Sample], share: float, *, on_cpu: bool) -> Block:
    out, dtype = _split(rows, 4 if on_cpu else 6), rows[0].operation.dtype
    fixed = {"compute_efficiency": share}
    if on_cpu:  # one stream draws all the bandwidth there is, and every row was measured cold
        fixed |= {"lone_speedup": 2.0 * float(accelerator.n_cores), "cold_s": 1e-9}
    found = fit_decode(accelerator, TABLE, _columns(rows), _seconds(rows), ~out, dtype, fixed, warm=False)
    return Block("decode", found, {}, int(out.sum()))


def _elementwise(accelerator: Accelerator, rows: list[Sample]) -> Block:
    out = _split(rows)
    n_bytes = element_bytes(rows[0].operation.dtype) * np.prod(_columns(rows), axis=0)
    byte_per_s = float(accelerator.hbm_byte_per_s)

    def law(constants: Floats) -> Floats:
        seconds: Floats = elementwise_time(n_bytes, byte_per_s, constants[0], 1.0, constants[1])
        return seconds

    start, limits = {"memory_efficiency": 0.8, "launch_s": 2e-6}, {"memory_efficiency": 1.0}
    found = fitted(
        TABLE, "elementwise_time; one and two operands", np.empty(0, np.void), law, n_bytes / byte_per_s, start, limits,
        _seconds(rows), least={"launch_s": 1e-8}, calibrate=~out,
    )  # fmt: skip
    return Block("elementwise", found, {}, int(out.sum()))


def _messages(accelerator: Accelerator, rows: list[Sample]) -> Iterator[Block]:
    fits: tuple[tuple[str, Callable[..., Fitted | None], tuple[str, ...]], ...] = (
        ("collective", lambda own: fit_collective(accelerator, False, own), _MESSAGES[:3]),
        ("all_to_all", lambda own: fit_all_to_all(accelerator, own), _MESSAGES[3:]),
    )
    for key, fit, kinds in fits:
        chosen = [row for row in rows if row.operation.kind in kinds]
        if not chosen:
            continue
        out = _split(chosen)
        records = [(row.operation.kind, *map(float, row.operation.sizes), 1e6 * row.seconds) for row in chosen]
        columns = [("operation", "U16"), ("ranks", "f8"), ("n_bytes", "f8"), ("latency_us", "f8")]
        found = fit((np.array(records, dtype=columns), ~out))
        if found is not None:
            yield Block(key, found, {}, int(out.sum()))


def _split(rows: Sequence[Sample], constants: int = _FEW_CONSTANTS) -> NDArray[np.bool_]:
    """The held-out rows of one kind; raises `PlanError` where too few are left to find so many constants."""
    out = held_out(rows)
    kind, least = rows[0].operation.kind, max(_LEAST_ROWS, _ROWS_PER_CONSTANT * constants)
    if len(rows) < least or not out.any():
        shapes = len({_group(row.operation) for row in rows})
        raise PlanError(
            f"{kind}: {len(rows)} rows of {shapes} shapes are too few to find {constants} constants and hold some out; "
            f"at least {least} rows of 3 shapes"
        )
    return out


def _group(operation: Operation) -> tuple[Any, ...]:
    part = _GROUPED_BY.get(operation.kind)
    sizes = operation.sizes[part] if part is not None else operation.sizes[-1:]
    if operation.kind == "elementwise":
        sizes = operation.sizes[:1]
    return (operation.kind, *sizes)


def _by_dtype(samples: Iterable[Sample], kind: str) -> Iterator[tuple[str, list[Sample]]]:
    chosen = [sample for sample in samples if sample.operation.kind == kind]
    for dtype in dict.fromkeys(sample.operation.dtype for sample in chosen):
        yield dtype, [sample for sample in chosen if sample.operation.dtype == dtype]


def _of(samples: Iterable[Sample], kind: str, dtype: str) -> list[Sample]:
    return [one for one in samples if (one.operation.kind, one.operation.dtype) == (kind, dtype)]


def _columns(rows: Sequence[Sample]) -> list[Floats]:
    width = len(KINDS[rows[0].operation.kind])
    return [np.array([row.operation.sizes[at] for row in rows], dtype=float) for at in range(width)]


def _seconds(rows: Sequence[Sample]) -> Floats:
    return np.array([row.seconds for row in rows])


_NO_FIT = Fit(source="none", table="none", rows=0, how="a step of the fit")
