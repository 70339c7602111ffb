"""The fits of a serving layer's operations: three row kernels, and what the framework leaves of matrix products.

`python -m perfmodel.calibrate.layer_ops` prints the held-out errors of the shipped constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from perfmodel.calibrate.kernels import Fitted, Floats, fitted
from perfmodel.calibrate.tables import is_calibrate, load_table
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.efficiency import Efficiency, load_efficiency
from perfmodel.specs.kernel_constants import ElementwiseConstants, Fit, FrameworkConstants, MatmulConstants
from perfmodel.validation.layer_ops import (
    FRAMEWORK,
    OPERATIONS,
    PRODUCTS,
    TABLE,
    beyond_rounding,
    data_sheet_seconds,
    layer_op_seconds,
    measured_seconds,
)

__all__ = ["KERNELS", "fit_framework", "fit_row_kernels", "held_out_errors", "main"]

KERNELS = {
    "norm": ("input_layernorm", "post_attention_layernorm"),
    "activation": ("mlp_act",),
    "rope": ("attn_rope",),
}
"""The kernels of the library and the operations of a layer that run them."""
CACHED_SHARE = {"norm": 0.7}
"""Of the last cache that operands fill and stay from one repetition to the next. Every value from 0.65 to 0.79 gives
the calibrating rows of both accelerators the same times; activation and rotary embedding fit best without."""
_START = {"launch_s": 1.5e-6, "step_s": 6e-7, "memory_efficiency": 0.45}
_LIMITS = {"memory_efficiency": 1.0}
_LEAST = {"launch_s": 1e-8, "step_s": 1e-9}
_NO_FIT = Fit(source="none", table="none", rows=0, how="a step of the fit")


def fit_row_kernels(accelerator: Accelerator) -> dict[str, Fitted]:
    """Norm, gated activation and rotary embedding by the dotted key they fill; empty without rows."""
    if not len(load_table(TABLE, accelerator.id)):
        return {}
    return {f"elementwise.{FRAMEWORK}-{kernel}": _fit_row_kernel(accelerator, kernel) for kernel in KERNELS}


def fit_framework(accelerator: Accelerator, matmul: MatmulConstants) -> Fitted | None:
    """The share of the tables' arithmetic rate that a framework sees, for these constants of products in 16 bits."""
    if not len(load_table(TABLE, accelerator.id)):
        return None

    def law(c: dict[str, float]) -> Efficiency:
        framework = {FRAMEWORK: FrameworkConstants(**c, fit=_NO_FIT)}
        return _blocks(matmul={"bf16": matmul}, framework=framework)

    how = "compute_efficiency of the kernel table times compute_share, in the four projections of a layer; whole models"
    return _fitted(accelerator, how, PRODUCTS, law, {"compute_share": 0.9}, {"compute_share": 1.0})


def _fit_row_kernel(accelerator: Accelerator, kernel: str) -> Fitted:
    fixed = {"cached_share": CACHED_SHARE[kernel]} if kernel in CACHED_SHARE else {}

    def law(c: dict[str, float]) -> Efficiency:
        block = ElementwiseConstants(**c, **fixed, fit=_NO_FIT)
        return _blocks(elementwise={f"{FRAMEWORK}-{kernel}": block})

    how = "row_kernel_time; whole models"
    how += "; cached_share chosen on the rows that calibrate" if fixed else ""
    found = _fitted(accelerator, how, KERNELS[kernel], law, _START, _LIMITS)
    found.constants.update(fixed)
    return found


def _fitted(
    accelerator: Accelerator, how: str, operations: tuple[str, ...],
    law: Callable[[dict[str, float]], Efficiency], start: dict[str, float], limits: dict[str, float],
) -> Fitted:  # fmt: skip
    """One fit over several columns of the table, one below the other."""
    rows = load_table(TABLE, accelerator.id)

    def seconds(constants: Floats) -> Floats:
        named = {name: float(value) for name, value in zip(start, constants, strict=True)}
        # The bounds of the search are open by a rounding error.
        efficiency = law({name: min(value, limits.get(name, value)) for name, value in named.items()})
        return _stacked(operations, lambda one: layer_op_seconds(one, accelerator, efficiency, rows))

    return fitted(
        TABLE,
        how,
        np.concatenate([rows] * len(operations)),
        seconds,
        _stacked(operations, lambda one: data_sheet_seconds(one, accelerator, rows)),
        start,
        limits,
        measured=_stacked(operations, lambda one: measured_seconds(one, rows)),
        least=_LEAST,
    )


def _blocks(**blocks: Any) -> Efficiency:
    return Efficiency.model_construct(**blocks)


def _stacked(operations: tuple[str, ...], column: Callable[[str], Floats]) -> Floats:
    return np.concatenate([column(operation) for operation in operations])


def held_out_errors(accelerator: Accelerator, efficiency: Efficiency) -> dict[str, dict[str, float]]:
    """By operation: median and 90th percentile of |ln(law / measured)| on held-out models.

    `beyond_rounding` is the median outside the half microsecond that the source rounds, `rounding_share` [1] of the
    mean error lies inside it; `roofline` and `roofline_p90` are the data sheet's.
    """
    rows = load_table(TABLE, accelerator.id)
    rows = rows[~is_calibrate(TABLE, rows)]
    found = {}
    for operation in OPERATIONS:
        measured = measured_seconds(operation, rows)
        predicted = layer_op_seconds(operation, accelerator, efficiency, rows)
        error = np.abs(np.log(predicted / measured))
        outside = beyond_rounding(predicted, measured)
        sheet = np.abs(np.log(data_sheet_seconds(operation, accelerator, rows) / measured))
        found[operation] = {
            "median": float(np.median(error)),
            "p90": float(np.quantile(error, 0.9)),
            "beyond_rounding": float(np.median(outside)),
            "rounding_share": float(1 - outside.mean() / error.mean()),
            "roofline": float(np.median(sheet)),
            "roofline_p90": float(np.quantile(sheet, 0.9)),
        }
    return found


def main() -> None:
    """Print the held-out table of every accelerator that vidur measured."""
    every: Any = load_table(TABLE)
    print("held-out models, |ln(law / measured)|: median / 90th percentile; rounding is the source's half microsecond")
    for id in sorted(set(every["accelerator"].tolist())):
        errors = held_out_errors(load_accelerator(id), load_efficiency(id))
        for operation, e in errors.items():
            print(
                f"{id:14} {operation:25} {100 * e['median']:5.1f} / {100 * e['p90']:5.1f} %   beyond rounding "
                f"{100 * e['beyond_rounding']:4.1f} %, rounding is {100 * e['rounding_share']:3.0f} % of the error   "
                f"data sheet {100 * e['roofline']:5.1f} / {100 * e['roofline_p90']:5.1f} %"
            )


if __name__ == "__main__":
    main()
