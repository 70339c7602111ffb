"""The kernel tables that ship with the package, and which of their groups may calibrate."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FOLDER", "Table", "is_calibrate", "load_roles", "load_table", "table_names", "validate_groups"]

FOLDER = Path(__file__).resolve().parent / "published" / "kernels"

Table = NDArray[np.void]
"""A structured array: one named column per quantity, one entry per measured row."""


def table_names() -> list[str]:
    """The names of the shipped tables, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def load_table(name: str, accelerator: str | None = None) -> Table:
    """The shipped table of that name, of one accelerator if given; raises `FileNotFoundError`."""
    lines = (FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    data = [line for line in lines if not line.startswith("#")]
    rows: Table = np.atleast_1d(np.genfromtxt(data, delimiter=",", names=True, dtype=None, encoding="utf-8"))
    return rows if accelerator is None else rows[rows["accelerator"] == accelerator]


def load_roles() -> dict[str, dict[str, Any]]:
    """For each table its `group` columns, the `rule` in words and the groups that `validate`; all others calibrate."""
    return tomllib.loads((FOLDER / "roles.toml").read_text(encoding="utf-8"))


def is_calibrate(name: str, rows: Table) -> NDArray[np.bool_]:
    """Which rows of a table may be fitted."""
    role = load_roles()[name]
    held_out = {tuple(group) for group in role["validate"]}
    return np.array([group not in held_out for group in _groups(rows, role["group"])], dtype=bool)


def validate_groups(rows: Table, columns: list[str]) -> list[tuple[Any, ...]]:
    """The rule of the roles: of the distinct groups in sorted order, every third validates."""
    return sorted(set(_groups(rows, columns)))[2::3]


def _groups(rows: Table, columns: list[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(rows[column].tolist() for column in columns), strict=True))
