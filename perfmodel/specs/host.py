"""One host: the processors, memory and storage that a node's accelerators lean on, as numbers with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from perfmodel.specs import registry
from perfmodel.specs.quantity import Quantity, SourcedSpec

__all__ = ["Host", "load_host"]

_PAIRS = (("nvme_bytes", "nvme_byte_per_s"), ("cxl_bytes", "cxl_byte_per_s"))


class Host(SourcedSpec):
    """A host in base units; bare numbers are taken as the user's assumptions. Raises `SpecError`.

    `dram_byte_per_s`, `nvme_byte_per_s` and `cxl_byte_per_s` [B/s] are of the whole host, reading, shared by its
    accelerators; `pcie_byte_per_s` [B/s] is one direction of one accelerator's own way to the host (PCIe or C2C).
    `peak_flop_per_s` [flop/s] is fp32 of all `n_cores`, for an optimizer step that stays on the host. A size and its
    speed (NVMe, CXL) come together or not at all.
    """

    id: str = "custom"
    name: str = ""
    n_cores: Quantity
    dram_bytes: Quantity
    dram_byte_per_s: Quantity
    pcie_byte_per_s: Quantity
    nvme_bytes: Quantity | None = None
    nvme_byte_per_s: Quantity | None = None
    cxl_bytes: Quantity | None = None
    cxl_byte_per_s: Quantity | None = None
    peak_flop_per_s: Quantity | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Host:
        if not self.n_cores.is_integer():
            raise ValueError(f"n_cores: must be a whole number (got {float(self.n_cores):g})")
        for pair in _PAIRS:
            given = [key for key in pair if getattr(self, key) is not None]
            if len(given) == 1:
                missing = pair[1] if given[0] == pair[0] else pair[0]
                raise ValueError(f"{missing}: missing; {given[0]} needs it")
        return self


def load_host(what: str | Path | Mapping[str, Any] | Host) -> Host:
    """The host named by an id, a path or a dict; raises `SpecError`.

    >>> load_host({"n_cores": 64, "dram_bytes": 1e12, "dram_byte_per_s": 4e11, "pcie_byte_per_s": 32e9}).id
    'custom'
    """
    return registry.load("hosts", what, Host)
