"""A user's table of measured kernels as CSV: which of the layouts it is, and its rows with their line numbers."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from perfmodel.errors import PlanError, unknown_name

__all__ = ["ATTENTION_SIZES", "COLLECTIVES", "DECODE", "PREFILL", "PRODUCTS", "OwnTable", "Row", "read_own_table"]

PRODUCTS, COLLECTIVES = "matrix products", "collectives"
PREFILL, DECODE = "attention of prompts", "attention of decode steps"
ATTENTION_SIZES = {
    PREFILL: ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"),
    DECODE: ("batch_size", "kv_len", "num_heads", "num_key_value_heads", "head_dim"),
}
_WHOLE = {PRODUCTS: ("m", "n", "k"), COLLECTIVES: ("num_gpus", "bytes"), **ATTENTION_SIZES}
_KEYS = _WHOLE | {COLLECTIVES: ("op_name", "num_gpus", "bytes")}
_PRODUCT_WORDS = ("gemm", "matmul")
"""What a column `op` may say of a matrix product."""
_VERSIONS = ("lib_path_version", "lib_version")
_WORDS = ("system", "dtype", "op_name", "op", "engine", "attn_dtype", "kv_cache_dtype", *_VERSIONS)
_TIMES = {"latency_us": 1e-6, "latency_ms": 1e-3, "seconds": 1.0}
_WORDS = (
    "system",
    "dtype",
    "op_name",
    "lib_path_version",
    "lib_version",
    "op",
    "engine",
    "attn_dtype",
    "kv_cache_dtype",
)
_LARGEST_FILE = 256 * 2**20
_LARGEST_COUNT = 1e15
_SHORTEST_S, _LONGEST_S = 1e-9, 3600.0
_COMMENT = "#"


@dataclass(frozen=True, slots=True)
class Row:
    """One measured row: its line in the file, its sizes, its time [us] and the words beside them."""

    line: int
    sizes: dict[str, float]
    latency_us: float
    words: dict[str, str]


@dataclass(frozen=True, slots=True)
class OwnTable:
    """A table as it was read: `kind` is one of the four of this module; `digest_of` are the bytes of the file."""

    name: str
    kind: str
    rows: tuple[Row, ...]
    digest_of: bytes

    def values(self, word: str) -> list[str]:
        """The distinct entries of a column of words, sorted; empty where the table has no such column."""
        return sorted({row.words[word] for row in self.rows if word in row.words})


def read_own_table(path: str | Path) -> OwnTable:
    """The table in a CSV file, plain or gzipped, lines that begin with # left out; raises `PlanError` with the line."""
    name = Path(path).name
    raw = _bytes(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = raw.count(b"\n", 0, error.start) + 1
        raise PlanError(f"{name}:{at}: not UTF-8 text") from None
    lines = [(at, line) for at, line in enumerate(io.StringIO(text), 1) if line.strip()]
    lines = [(at, line) for at, line in lines if not line.startswith(_COMMENT)]
    if not lines:
        raise PlanError(f"{name}: is empty; the first line must name the columns")
    columns = [column.strip().lower() for column in _cells(name, *lines[0])]
    kind = _kind(name, columns)
    time = _time_column(name, columns)
    rows = []
    for at, line in lines[1:]:
        cells = [cell.strip() for cell in _cells(name, at, line)]
        if len(cells) != len(columns):
            raise PlanError(f"{name}:{at}: has {len(cells)} cells; the header names {len(columns)} columns")
        rows.append(_row(f"{name}:{at}", at, kind, time, dict(zip(columns, cells, strict=True))))
    return OwnTable(name, kind, tuple(rows), raw)


def _bytes(path: str | Path) -> bytes:
    try:
        with open(path, "rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        if raw[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(raw)) as packed:
                raw = packed.read(_LARGEST_FILE + 1)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise PlanError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > _LARGEST_FILE:
        raise PlanError(f"{Path(path).name}: holds more than {_LARGEST_FILE // 2**20} MiB of text; give a part of it")
    return raw


def _cells(name: str, at: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise PlanError(f"{name}:{at}: not a line of CSV: {error}") from None


def _kind(name: str, columns: list[str]) -> str:
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise PlanError(f"{name}: names the column {twice[0]!r} twice")
    found = {kind: sum(key in columns for key in keys) for kind, keys in _KEYS.items()}
    kind = max(found, key=lambda one: found[one])
    if found[kind] == 0:
        wanted = " or ".join(f"{', '.join(keys)} ({kind})" for kind, keys in _KEYS.items())
        raise PlanError(f"{name}: must have the columns {wanted}; has {_listed(columns)}")
    for key in _KEYS[kind]:
        if key not in columns:
            unused = [column for column in columns if column not in (*_KEYS[kind], *_TIMES, *_WORDS)]
            raise PlanError(f"{name}: a table of {kind} lacks the column {key!r}{_nearest(key, unused or columns)}")
    return kind


def _time_column(name: str, columns: list[str]) -> str:
    found = [column for column in _TIMES if column in columns]
    if len(found) > 1:
        raise PlanError(f"{name}: has {' and '.join(found)}; keep one column of times")
    if not found:
        near = next((near for time in _TIMES for near in get_close_matches(time, columns, n=1, cutoff=0.6)), None)
        hint = f"; nearest: {near!r}" if near else f"; has {_listed(columns)}"
        raise PlanError(f"{name}: lacks a column of times, {' or '.join(_TIMES)}{hint}")
    return found[0]


def _row(where: str, at: int, kind: str, time: str, cells: Mapping[str, str]) -> Row:
    sizes = {}
    for key in _WHOLE[kind]:
        size = _number(where, key, cells[key])
        if size % 1 or size > _LARGEST_COUNT:
            raise PlanError(f"{where}: {key}: must be a whole number from 1 to {_LARGEST_COUNT:g} (got {cells[key]!r})")
        sizes[key] = size
    seconds = _number(where, time, cells[time]) * _TIMES[time]
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise PlanError(f"{where}: {time}: {seconds:.3g} s is no time of a kernel (1 ns to 1 h); is the unit right?")
    words = {word: cells[word] for word in _WORDS if word in cells}
    empty = [word for word, text in words.items() if not text and word not in _VERSIONS]
    if empty:
        raise PlanError(f"{where}: {empty[0]}: is empty")
    if kind == PRODUCTS and words.get("op", "gemm").lower() not in _PRODUCT_WORDS:
        raise PlanError(f"{where}: op: {unknown_name('matrix product', words['op'], _PRODUCT_WORDS)}")
    return Row(at, sizes, seconds * 1e6, words)


def _number(where: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf or "_" in text:  # false for NaN too
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise PlanError(f"{where}: {key}: must be a number > 0 (got {shown!r})")
    return value


def _nearest(key: str, columns: list[str]) -> str:
    near = get_close_matches(key, columns, n=1, cutoff=0.4)
    # A name of one letter is close to nothing by letters shared: a name that begins with it is meant.
    begins = [column for column in columns if column.startswith(key)]
    return f"; nearest: {(near or begins)[0]!r}" if near or begins else f"; has {_listed(columns)}"


def _listed(columns: list[str]) -> str:
    return ", ".join(repr(column[:40]) for column in columns[:12]) + (", ..." if len(columns) > 12 else "")
