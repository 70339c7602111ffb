"""Tables that commands read: CSV with a line of column names, or a list of tables in TOML or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel.cli.scenario import read_table
from perfmodel.errors import SpecError

__all__ = ["read_rows"]

_NAMES = ("task", "method", "machine", "pool", "option", "load", "row")


def read_rows(file: str, key: str) -> list[dict[str, Any]]:
    """The rows of a CSV file, or of the list `key` in a TOML or JSON file; raises `SpecError` naming file and line.

    Columns of names stay text, other cells become numbers where they can.
    """
    if file.lower().endswith((".toml", ".json")):
        found = read_table(file).get(key)
        if not isinstance(found, list):
            raise SpecError(f"{file}: {key}: missing or not a list of tables")
        return found
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{file}: not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise SpecError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    reader = csv.DictReader(io.StringIO(text))
    rows = [_row(file, reader.line_num, row) for row in reader]
    if not rows:
        raise SpecError(f"{file}: holds no rows; the first line names the columns")
    return rows


def _row(file: str, line: int, row: Mapping[str | None, Any]) -> dict[str, Any]:
    if None in row:
        raise SpecError(f"{file}:{line}: has more cells than the first line has names")
    cells = {str(name).strip(): (cell or "").strip() for name, cell in row.items()}
    return {name: cell if name in _NAMES else _cell(cell) for name, cell in cells.items() if cell}


def _cell(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
