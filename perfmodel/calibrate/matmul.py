"""The fit of the tiled matrix product: what each library chooses among is written down, what it reaches is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from perfmodel.calibrate.kernels import Fitted, Score
from perfmodel.calibrate.tables import is_calibrate, load_table
from perfmodel.formulas.matmul import matmul_flops, mixed_matmul_bytes
from perfmodel.formulas.roofline import roofline_time
from perfmodel.predict.matmul import TiledMatmul, matmul_format
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.kernel_constants import MatmulConstants

__all__ = [
    "LIBRARIES",
    "Library",
    "choices",
    "error_of",
    "fit_matmul",
    "fit_products",
    "free_constants",
    "library_choices",
    "sizes",
]

Floats = NDArray[np.float64]
Tiles = tuple[tuple[int, int], ...]

# 256 x 256 on a100 stands for two resident tiles that share the start of their pipelines.
_AMPERE: Tiles = ((256, 256), (256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))
_HOPPER: Tiles = ((256, 256), (256, 128), (128, 256), (128, 128), (128, 64), (128, 32))
_BLACKWELL: Tiles = ((256, 256), (256, 128), (128, 256), (128, 128), (128, 64))
_PAIRED: Tiles = ((256, 256), (256, 128))
_NARROW: Tiles = ((128, 256), (128, 128), (64, 128), (32, 128), (16, 128))
_NARROW_HALVES: Tiles = (*_NARROW, (64, 64), (32, 64), (16, 64))
_SMALL: Tiles = (*_AMPERE[1:], (64, 32), (32, 128), (32, 64))


@dataclass(frozen=True, slots=True)
class Library:
    """What the kernels behind one table choose among: tiles [rows, columns] and splits of the summed dimension.

    `quantises`: the rows include a kernel that quantises the activations.
    """

    table: str
    name: str
    tiles: Tiles
    splits: tuple[int, ...] = (1, 2, 4, 8)
    quantises: bool = False


# Which family of tiles stands for a table, and whether it splits, was chosen among some ten by the error of fits to two
# thirds of the shapes of the full tables; that split is not the shipped one, so the choice has seen held-out shapes.
LIBRARIES: dict[str, dict[str, Library]] = {
    "a100-sxm-80gb": {
        "bf16": Library("gemm_bf16", "cuBLAS", _AMPERE),
        "int8": Library("gemm_a100_int8", "SmoothQuant, CUTLASS", _SMALL, (1,), True),
        "int8-weight-only": Library("gemm_a100_int8_weight_only", "TensorRT-LLM, CUTLASS", _NARROW_HALVES),
        "int4-weight-only": Library("gemm_a100_int4_weight_only", "TensorRT-LLM, CUTLASS", _NARROW_HALVES),
    },
    "h100-sxm": {
        "bf16": Library("gemm_bf16", "cuBLAS", _HOPPER),
        "fp8": Library("gemm_fp8", "cuBLAS, activations quantised before it", _HOPPER, quantises=True),
        "fp8-block": Library("gemm_h100_fp8_block", "DeepGEMM, activations quantised before it", _NARROW, (1,), True),
    },
    "b200-sxm": {
        "bf16": Library("gemm_b200_bf16", "cuBLAS", _BLACKWELL),
        "fp8": Library("gemm_b200_fp8", "cuBLAS, activations quantised before it", _BLACKWELL, quantises=True),
        "fp8-block": Library("gemm_b200_fp8_block", "activations quantised before it", _BLACKWELL, (1,), True),
        "nvfp4": Library("gemm_b200_nvfp4", "pairs of cores, activations quantised before it", _PAIRED, (1,), True),
    },
}


@dataclass(frozen=True, slots=True)
class _Constant:
    """A fitted constant: start, bounds, whether its logarithm is fitted, the decimals that are kept of it."""

    start: float
    low: float
    high: float
    logarithm: bool = True
    decimals: int | None = None
    unit: float = 1.0


_CONSTANTS = {
    "compute_efficiency": _Constant(0.8, 0.05, 1.0),
    "memory_efficiency": _Constant(0.8, 0.05, 1.0),
    "exponent": _Constant(2.5, 1.0, 8.0),
    "launch_s": _Constant(4e-6, 1e-7, 1e-3),
    "core_load_ratio": _Constant(4.0, 0.2, 16.0),
    "wave_quantisation": _Constant(0.5, 0.0, 1.0, False, 3),
    "epilogue_share": _Constant(0.4, 0.0, 1.0, False, 3),
    "tile_s": _Constant(0.1, 0.0, 20.0, False, 3, 1e-6),
    "split_s": _Constant(2.0, 0.0, 100.0, False, 2, 1e-6),
    "quantise_bytes": _Constant(4.0, 0.5, 30.0),
    "sustained_slowdown": _Constant(0.1, 0.0, 0.6, False, 3),
}
_SMOOTH = ("compute_efficiency", "memory_efficiency", "exponent", "launch_s")
"""The constants that a library without known tiles has: those of the smooth roofline."""
SETTLE_S = 0.02
"""After how long half of a power limit's slowdown is felt [s]: one number for all parts, since no table holds enough
long kernels for both it and the slowdown. Where a table does (H100, 16 bits, kernels up to 0.16 s) it fits 0.017."""
# The pipeline's start and the tail of a tile are alike: the fit begins once with either and keeps the better end.
_STARTS: tuple[dict[str, float], ...] = ({}, {"tile_s": 3.0, "epilogue_share": 0.01})


def choices(accelerator_id: str, dtype: str) -> dict[str, Any]:
    """The entries of a matmul block that are not fitted."""
    library = LIBRARIES[accelerator_id].get(dtype)
    return {} if library is None else library_choices(library)


def library_choices(library: Library) -> dict[str, Any]:
    """The entries of a matmul block that its fit takes as given."""
    tiles = [list(tile) for tile in library.tiles]
    return {"tiles": tiles, "splits": list(library.splits), "settle_s": SETTLE_S}


def sizes(table: str, accelerator_id: str) -> tuple[Any, Floats, Floats, Floats, Floats]:
    """Rows of a table, its m, n and k, and the measured seconds."""
    rows = load_table(table, accelerator_id)
    m, n, k = (rows[column].astype(float) for column in ("m", "n", "k"))
    return rows, m, n, k, rows["latency_us"] * 1e-6


def error_of(accelerator: Accelerator, dtype: str, table: str, constants: MatmulConstants) -> Floats:
    """ln(law / measured) of every row of a table on that accelerator; raises `PlanError`."""
    _, m, n, k, seconds = sizes(table, accelerator.id)
    predicted = TiledMatmul(accelerator, dtype, constants).cost(m, n, k, 1.0, 0.0).seconds
    error: Floats = np.log(predicted / seconds)
    return error


def fit_matmul(accelerator: Accelerator, dtype: str) -> Fitted | None:
    """The tiled law of one format with all n, k and m of its table [s]; None where no library is known."""
    library = LIBRARIES.get(accelerator.id, {}).get(dtype)
    if library is None:
        return None
    rows, *columns = sizes(library.table, accelerator.id)
    return fit_products(accelerator, dtype, library, columns, is_calibrate(library.table, rows))


def fit_products(
    accelerator: Accelerator, dtype: str, library: Library, columns: Sequence[Floats], calibrate: NDArray[np.bool_]
) -> Fitted:
    """The tiled law on the rows `columns` (m, n, k and measured seconds) of a library's table [s]."""
    m, n, k, seconds = columns
    names = free_constants(library)
    ends = [_fit(accelerator, dtype, library, names, start, (m, n, k, seconds), calibrate) for start in _STARTS]
    cost, constants = min(ends, key=lambda end: end[0])
    law = TiledMatmul(accelerator, dtype, _block(library, constants))
    error = np.abs(np.log(law.cost(m, n, k, 1.0, 0.0).seconds / seconds))
    form = matmul_format(dtype)
    n_bytes = mixed_matmul_bytes(m, n, k, 1.0, form.left_bytes, form.right_bytes, form.result_bytes)
    peaks = float(accelerator.peak(form.peak)), float(accelerator.hbm_byte_per_s)
    roofline = np.abs(np.log(roofline_time(matmul_flops(m, n, k), n_bytes, *peaks) / seconds))
    return Fitted(
        library.table,
        _how(library),
        constants,
        int(calibrate.sum()),
        _score(error[calibrate]),
        _score(error[~calibrate]),
        _score(roofline[~calibrate]),
        cost,
    )


def _how(library: Library) -> str:
    if not library.tiles:
        return f"smooth roofline ({library.name}); all m, n, k"
    return (
        f"tiled_matmul_time, fastest of {len(library.tiles)} tiles and splits {list(library.splits)} "
        f"({library.name}); all m, n, k"
    )


def free_constants(library: Library) -> list[str]:
    """The names of the constants that a table of the library fits."""
    return list(_free(library))


def _free(library: Library) -> Iterator[str]:
    for name in _CONSTANTS:
        if not library.tiles and name not in _SMOOTH:
            continue
        unused = (name == "split_s" and library.splits == (1,)) or (name == "quantise_bytes" and not library.quantises)
        if not unused:
            yield name


def _fit(
    accelerator: Accelerator,
    dtype: str,
    library: Library,
    names: list[str],
    start: dict[str, float],
    table: tuple[Floats, Floats, Floats, Floats],
    calibrate: NDArray[np.bool_],
) -> tuple[float, dict[str, float]]:
    """Least squares of ln(law / measured), soft beyond 10 %: the loss and the constants as they are kept."""
    m, n, k, seconds = (column[calibrate] for column in table)
    shapes = [_CONSTANTS[name] for name in names]

    def position(value: float, shape: _Constant) -> float:
        return float(np.log(value)) if shape.logarithm else value

    def values(x: Floats) -> dict[str, float]:
        pairs = zip(names, x, shapes, strict=True)
        return {name: (float(np.exp(at)) if shape.logarithm else float(at) * shape.unit) for name, at, shape in pairs}

    def residual(x: Floats) -> Floats:
        law = TiledMatmul(accelerator, dtype, _block(library, values(x)))
        error: Floats = np.log(law.cost(m, n, k, 1.0, 0.0).seconds / seconds)
        return error

    found: Any = least_squares(
        residual,
        [position(start.get(name, shape.start), shape) for name, shape in zip(names, shapes, strict=True)],
        bounds=([position(s.low, s) for s in shapes], [position(s.high, s) for s in shapes]),
        loss="soft_l1",
        f_scale=0.1,
    )
    kept = {}
    for name, at, shape in zip(names, found.x, shapes, strict=True):
        if shape.logarithm:
            kept[name] = float(f"{np.exp(at):.4g}")
        else:
            kept[name] = float(f"{round(float(at), shape.decimals) * shape.unit:.4g}")
    return float(found.cost), kept


def _block(library: Library, constants: dict[str, float]) -> MatmulConstants:
    # Without validation: an optimiser stands on its bounds.
    fields: dict[str, Any] = {
        "tiles": library.tiles,
        "splits": library.splits,
        "settle_s": SETTLE_S,
        **constants,
    }
    return MatmulConstants.model_construct(**fields)


def _score(errors: Floats) -> Score:
    return Score(float(np.median(errors)), float(np.quantile(errors, 0.9)))
