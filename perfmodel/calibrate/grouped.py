"""The fit of the FFN of routed experts: the tiles of each library are written down, what it reaches is fitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.kernels import Fitted, fitted
from perfmodel.calibrate.tables import load_table
from perfmodel.predict.grouped import GROUPED_LIBRARY, GroupedMatmul
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency, load_efficiency
from perfmodel.specs.kernel_constants import GroupedConstants
from perfmodel.validation.moe_scores import MOE_TABLE, ffn_seconds, moe_calibrates, moe_data_sheet_seconds, moe_loads

__all__ = ["GROUPED_FORMATS", "fit_grouped", "grouped_choices"]

GROUPED_FORMATS = {"a100-sxm-80gb": ("bf16",), "h100-sxm": ("bf16", "fp8", "fp8-block")}
# Few rows are the rule: products are computed transposed where that fits the tile better, hence 16 and 32 rows.
_TILES = ((16, 128), (32, 128), (64, 128), (128, 128), (128, 256), (256, 128))
_START = {
    "compute_efficiency": 0.6,
    "memory_efficiency": 0.8,
    "exponent": 2.0,
    "launch_s": 2e-5,
    "core_load_ratio": 4.0,
    "activation_passes": 1.5,
}


@dataclass(frozen=True, slots=True)
class _Trial:
    """What `GroupedMatmul` asks of an efficiency set, while the constants are still moving."""

    efficiency: Efficiency
    constants: GroupedConstants

    def grouped_constants(self, library: str, dtype: str) -> GroupedConstants:
        return self.constants

    def matmul_constants(self, dtype: str) -> Any:
        return self.efficiency.matmul_constants(dtype)


def grouped_choices() -> dict[str, Any]:
    """The entries of a block that are not fitted."""
    return {"tiles": [list(tile) for tile in _TILES]}


def fit_grouped(accelerator: Accelerator) -> Iterator[tuple[str, Fitted]]:
    """Each format's fit by the key of its block, nothing where the table has no rows; raises `SpecError`.

    Rows that the table marks slow are neither fitted nor scored.
    """
    for dtype in GROUPED_FORMATS.get(accelerator.id, ()):
        yield f"grouped.{GROUPED_LIBRARY}-{dtype}", _fit(accelerator, dtype)


def _fit(accelerator: Accelerator, dtype: str) -> Fitted:
    table = load_table(MOE_TABLE, accelerator.id)
    rows = table[(table["dtype"] == dtype) & (table["slow"] == 0)]
    efficiency, loads = load_efficiency(accelerator.id), moe_loads(rows)

    def law(constants: NDArray[np.float64]) -> NDArray[np.float64]:
        # Without validation: an optimiser stands on its bounds.
        fields: dict[str, Any] = {"tiles": _TILES, **dict(zip(_START, constants.tolist(), strict=True))}
        trial: Any = _Trial(efficiency, GroupedConstants.model_construct(**fields))
        return ffn_seconds(GroupedMatmul(accelerator, trial, dtype), loads)

    return fitted(
        MOE_TABLE,
        f"GroupedMatmul.ffn, {len(_TILES)} tiles, chosen for even loads (CUTLASS); whole shapes, without slow rows",
        rows,
        law,
        moe_data_sheet_seconds(accelerator, dtype, rows),
        _START,
        {
            "compute_efficiency": 1.0,
            "memory_efficiency": 1.0,
            "exponent": 16.0,
            "core_load_ratio": 30.0,
        },
        least={"core_load_ratio": 0.5},
        calibrate=moe_calibrates(rows),
    )
