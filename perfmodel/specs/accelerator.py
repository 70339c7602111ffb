"""One accelerator: the device that one process drives, as ten numbers with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from perfmodel.errors import PlanError, unknown_name
from perfmodel.specs import registry
from perfmodel.specs.efficiency import Efficiency, OwnConstants, load_efficiency
from perfmodel.specs.quantity import Quantity, QuantityOrZero, SourcedSpec

__all__ = ["PRECISIONS", "Accelerator", "Precision", "load_accelerator"]

Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "mxfp8", "nvfp4", "mxfp4", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16", "fp8", "mxfp8", "nvfp4", "mxfp4", "int8", "int4")


class Accelerator(SourcedSpec):
    """An accelerator in base units; bare numbers are taken as the user's assumptions. Raises `SpecError`.

    Peaks are dense, in flop/s (integer precisions: op/s). `sram_bytes` is the shared memory and L1 of one core (SM),
    the fast memory of the attention I/O law; `reported_bytes` is what the driver reports where a data sheet's GB are
    GiB; `link_byte_per_s` is scale-up, one direction; prices per accelerator.
    """

    id: str = "custom"
    name: str = ""
    vendor: str = ""
    architecture: str = ""
    relative: str | None = None
    """Id of the nearest accelerator with calibrated kernel constants, for one that has none."""
    efficiency: OwnConstants | None = None
    """Kernel constants of its own (`perfmodel calibrate`), a table or a file; shipped ones are found by the id."""
    peak_flop_per_s: dict[Precision, Quantity]
    sparse_peak_flop_per_s: dict[Precision, Quantity] | None = None
    hbm_byte_per_s: Quantity
    hbm_bytes: Quantity
    reported_bytes: Quantity | None = None
    sram_bytes: Quantity
    l2_bytes: Quantity
    n_cores: Quantity
    link_byte_per_s: Quantity
    tdp_w: Quantity
    idle_w: Quantity
    usd_per_hour: QuantityOrZero

    @property
    def capacity_bytes(self) -> Quantity:
        """Memory that a framework finds [B]: what the driver reports, else the data sheet's."""
        return self.hbm_bytes if self.reported_bytes is None else self.reported_bytes

    def kernel_constants(self) -> Efficiency:
        """Its kernel constants, its own before the shipped ones, missing blocks from relatives; raises `SpecError`."""
        return load_efficiency(self.id if self.efficiency is None else self.efficiency, self.relative)

    def peak(self, dtype: str) -> Quantity:
        """Dense peak of a precision [flop/s]; raises `PlanError` where the accelerator has none."""
        for precision, value in self.peak_flop_per_s.items():
            if precision == dtype:
                return value
        raise PlanError(f"{self.id}: {unknown_name('precision', dtype, self.peak_flop_per_s)}")

    @field_validator("efficiency", mode="before")
    @classmethod
    def _named_efficiency(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, (str, Path)):
            return value
        folder = (info.context or {}).get("folder")
        if registry.is_path(value) and folder is not None:
            value = folder / value  # relative to the file that names it
        return registry.load("efficiency", value, OwnConstants)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Accelerator:
        if not self.peak_flop_per_s:
            raise ValueError("peak_flop_per_s: is empty; give the dense peak of at least one precision")
        if not self.n_cores.is_integer():
            raise ValueError(f"n_cores: must be a whole number (got {float(self.n_cores):g})")
        if self.idle_w > self.tdp_w:
            raise ValueError(f"idle_w: must be at most tdp_w, {float(self.tdp_w):g} (got {float(self.idle_w):g})")
        for dtype, sparse in (self.sparse_peak_flop_per_s or {}).items():
            dense = self.peak_flop_per_s.get(dtype)
            if dense is None or sparse < dense:
                known = "none" if dense is None else f"{float(dense):g}"
                raise ValueError(
                    f"sparse_peak_flop_per_s.{dtype}: needs a dense peak that is not larger (dense peak: {known})"
                )
        return self


def load_accelerator(what: str | Path | Mapping[str, Any] | Accelerator) -> Accelerator:
    """The accelerator named by an id, a path or a dict, of a cluster its accelerator; raises `SpecError`.

    >>> float(load_accelerator("h100-sxm").hbm_byte_per_s)
    3350000000000.0
    """
    if registry.is_path(what):
        document = registry.read_description(str(what))
        if "tiers" in document and isinstance(document.get("accelerator"), (str, Mapping)):
            return load_accelerator(document["accelerator"])
    return registry.load("accelerators", what, Accelerator)
