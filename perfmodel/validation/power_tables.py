"""The tables of published power that ship with the package, as columns."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["POWER_FOLDER", "ml_energy_shares", "power_figures", "power_table"]

POWER_FOLDER = Path(__file__).parent / "published" / "power"
Table = NDArray[np.void]


@cache
def power_table(name: str) -> Table:
    """The table of that name: zeus, mlenergy-h100 or splitwise, one named column per quantity."""
    lines = (POWER_FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    rows: Table = np.genfromtxt(lines[1:], delimiter=",", names=True, dtype=None, encoding="utf-8")
    return rows


@cache
def power_figures() -> dict[str, Any]:
    """Published single figures: POLCA, Splitwise, caps; each with its source."""
    import tomllib

    return tomllib.loads((POWER_FOLDER / "figures.toml").read_text(encoding="utf-8"))


def ml_energy_shares(rows: Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the memory bandwidth and of the dense peak [1] of each H100 while it serves a row's batch.

    From measured tokens a second: an iteration gives one token to each request of the batch, reads the weights once (of
    experts those that at least one token of the batch asks for, chosen evenly) and computes 2 flop a weight and token.
    The cache and the prompts are left out: the table says how long neither is.
    """
    from perfmodel.specs.accelerator import load_accelerator

    part = load_accelerator("h100-sxm")
    narrow = rows["precision"] == "fp8"
    iterations_per_s = rows["tokens_per_s"] / rows["batch"]
    sparse = rows["active_params"] / rows["params"]
    read = rows["params"] * (1.0 - (1.0 - sparse) ** rows["batch"])
    weight_bytes = np.where(narrow, 1.0, 2.0)
    memory = read * weight_bytes * iterations_per_s / rows["gpus"] / float(part.hbm_byte_per_s)
    peak = np.where(narrow, float(part.peak("fp8")), float(part.peak("bf16")))
    compute = 2.0 * rows["active_params"] * rows["tokens_per_s"] / rows["gpus"] / peak
    return memory, compute
