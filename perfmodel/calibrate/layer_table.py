"""The two constants that the ten layer times of Korthikanti et al. 2022, Table 4, determine.

They are the share of the memory bandwidth that the element-wise kernels of Megatron-LM reach on the A100, and the share
of an overlapped transfer that stays visible. No time of a whole step is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from perfmodel.predict.step import StepModel
from perfmodel.specs import registry
from perfmodel.specs.efficiency import Efficiency, load_efficiency
from perfmodel.specs.quantity import Quantity
from perfmodel.validation.predictions import layer_row_time, layer_steps
from perfmodel.validation.sources import load_sources, measured

__all__ = ["ACCELERATOR", "LayerFit", "fit_layer_table", "write_layer_fit"]

SOURCE = "korthikanti-2022-layer"
ACCELERATOR = "a100-sxm-80gb"


@dataclass(frozen=True)
class LayerFit:
    """Fitted constants, the median |ln(predicted / measured)| with and without the overlap, and the largest."""

    memory_efficiency: float
    exposed_share: float
    median_error: float
    max_error: float
    median_error_without_overlap: float


def fit_layer_table() -> LayerFit:
    """Least squares in the logarithm over the ten times; then once more with nothing hidden, for comparison."""
    fitted = least_squares(_residuals, [0.7, 0.6], bounds=([0.2, 0.0], [1.0, 1.5]))
    serial = least_squares(lambda x: _residuals(np.array([x[0], 1.0])), [0.7], bounds=([0.2], [1.0]))
    errors = np.abs(fitted.fun)
    return LayerFit(
        memory_efficiency=float(f"{fitted.x[0]:.4g}"),
        exposed_share=float(f"{fitted.x[1]:.4g}"),
        median_error=float(np.median(errors)),
        max_error=float(errors.max()),
        median_error_without_overlap=float(np.median(np.abs(serial.fun))),
    )


def write_layer_fit(fit: LayerFit) -> None:
    """Put the two constants into the efficiency set of the A100 and into every software generation that overlaps."""
    efficiency = registry.path_of("efficiency", ACCELERATOR)
    _replace(
        efficiency, r"(\[elementwise\.megatron\]\nmemory_efficiency = )[\d.e-]+", f"\\g<1>{fit.memory_efficiency:.4g}"
    )
    _replace(
        efficiency, r'(korthikanti-2022-layer.csv", rows = 10, fitted_error = )[\d.]+', f"\\g<1>{fit.median_error:.4f}"
    )
    for id in registry.ids("software"):
        pattern = r"(exposed_share = \{ value = )[\d.]+(, source = \"korthikanti\")"
        _replace(registry.path_of("software", id), pattern, f"\\g<1>{fit.exposed_share:.4g}\\g<2>")


def _replace(path: Path, pattern: str, replacement: str) -> None:
    path.write_text(re.sub(pattern, replacement, path.read_text(encoding="utf-8")), encoding="utf-8")


def _residuals(constants: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = _steps(float(constants[0]), float(constants[1]))
    source = load_sources([SOURCE])[SOURCE]
    return np.array([np.log(layer_row_time(steps, row) / measured(row, source, steps.model)) for row in source.rows])


def _steps(memory_efficiency: float, exposed_share: float) -> StepModel:
    base = layer_steps()
    software = base.software.model_copy(update={"exposed_share": Quantity(max(exposed_share, 1e-9))})
    return StepModel(base.model, base.cluster, _efficiency(memory_efficiency), software, dtype=base.dtype, steady=False)


def _efficiency(memory_efficiency: float) -> Efficiency:
    shipped = load_efficiency(ACCELERATOR)
    block = shipped.elementwise["megatron"].model_copy(update={"memory_efficiency": memory_efficiency})
    return shipped.model_copy(update={"elementwise": shipped.elementwise | {"megatron": block}})
