"""Traces of real requests: read from the public formats or from the package, measured, kept for a replay."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from perfmodel.errors import SpecError, unknown_name
from perfmodel.specs.workload import HOURS, Workload, binned

__all__ = ["TRACE_FOLDER", "Requests", "Trace", "load_trace", "trace_ids", "trace_of"]

TRACE_FOLDER = Path(__file__).parents[1] / "data" / "traces"
# Windows [s] in which arrivals are counted; the longest still fits eight times.
_WINDOWS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
_LEAST_WINDOWS = 8
_PHASES = 4
_HEADLINE_WINDOW_S = 10.0
_MOONCAKE_BLOCK = 512
_DAY_S = 86400.0
# Column names of the public CSV formats: Azure (2023, 2024) and NanoFlow; BurstGPT.
_TIME, _PROMPT = ("timestamp",), ("contexttokens", "request tokens")
_OUTPUT = ("generatedtokens", "response tokens")
_MILLISECONDS = 1000.0


@dataclass(frozen=True, eq=False)
class Requests:
    """The requests of a trace as arrays [request]; `arrival_s` is empty where the trace has no times.

    `cached_tokens` are those of a prompt that stand in an unbounded prefix cache when it arrives.
    """

    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    cached_tokens: np.ndarray

    @property
    def duration_s(self) -> float:
        """First to last arrival [s]."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self.arrival_s) > 1 else 0.0


class Trace(Workload):
    """A workload measured on `requests`, which a replay serves one by one."""

    requests: Any = Field(default=None, exclude=True, repr=False)

    def day_profile(self) -> tuple[float, ...]:
        """24 rates [1/s]: by hour where the trace spans a day, else its span in 24 equal parts, as a day in small."""
        return _day_profile(self.requests)


def trace_ids(folder: Path = TRACE_FOLDER) -> list[str]:
    """The traces that travel with the package."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def load_trace(what: str | Path, *, max_tokens: int | None = None) -> Trace:
    """The trace of a shipped id or a file, and what it says of a workload: lengths, rate, burstiness, prefix hits.

    Reads CSV with columns TIMESTAMP, ContextTokens and GeneratedTokens (Azure LLM inference; NanoFlow, whose times are
    "XXX"), or Timestamp, Request tokens and Response tokens (BurstGPT), and JSON lines of timestamp [ms], input_length,
    output_length and hash_ids (Mooncake, blocks of 512 tokens); either may end in .gz. `max_tokens` clips prompts, as a
    model's context does. Raises `SpecError` naming file and line.
    """
    if isinstance(what, str) and what in trace_ids():
        return trace_of(_shipped(what), what, max_tokens)
    path = Path(what)
    if isinstance(what, str) and not path.exists() and not any(sign in what for sign in "/\\."):
        raise SpecError(unknown_name("trace", what, trace_ids()) + "; or give a file")
    text = _text(path)
    json_lines = text.lstrip()[:1] == "{"
    requests = (_json_lines if json_lines else _csv)(str(path), text)
    return trace_of(requests, path.name.split(".")[0], max_tokens)


def trace_of(requests: Requests, name: str, max_tokens: int | None = None) -> Trace:
    """A trace of these requests, measured."""
    if max_tokens is not None:
        kept = np.minimum(requests.prompt_tokens, max_tokens)
        cached = np.minimum(requests.cached_tokens, kept)
        requests = Requests(requests.arrival_s, kept, requests.output_tokens, cached)
    span = requests.duration_s
    dispersion = _dispersion(requests) if span else ()
    day = _day_profile(requests) if span >= _DAY_S else ()
    return Trace(
        name=name,
        prompt_tokens=binned(requests.prompt_tokens),
        output_tokens=binned(requests.output_tokens),
        arrival_rate_per_s=(len(requests.arrival_s) - 1) / span if span else None,
        burstiness=_headline(dispersion),
        dispersion=dispersion,
        prefix_hit=float(requests.cached_tokens.sum() / requests.prompt_tokens.sum()),
        hourly_rates_per_s=day,
        requests=requests,
    )


# Reading


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}:{line}: not UTF-8 text (byte {error.object[error.start]:#04x})") from None
    except (OSError, EOFError, ValueError) as error:
        raise SpecError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _csv(label: str, text: str) -> Requests:
    rows = list(csv.reader(text.splitlines()))
    if not rows:
        raise SpecError(f"{label}: is empty; it should hold a header and one request a line")
    header = [name.strip().lower() for name in rows[0]]
    columns = [_column(label, header, names) for names in (_TIME, _PROMPT, _OUTPUT)]
    lines = [(number, row) for number, row in enumerate(rows[1:], start=2) if row]
    if not lines:
        raise SpecError(f"{label}: is empty; it holds no request after its header")
    for number, row in lines:
        if len(row) <= max(columns):
            raise SpecError(f"{label}:{number}: {len(row)} columns, the header has {len(header)}")
    numbers = [number for number, _ in lines]
    stamps, prompts, outputs = ([row[column] for _, row in lines] for column in columns)
    return _requests(
        label, numbers, _seconds(label, numbers, stamps),
        _lengths(label, numbers, prompts, rows[0][columns[1]]), _lengths(label, numbers, outputs, rows[0][columns[2]]),
    )  # fmt: skip


def _column(label: str, header: Sequence[str], names: Sequence[str]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise SpecError(f"{label}:1: no column {' or '.join(names)} (got {', '.join(header)[:80]})")


def _seconds(label: str, numbers: Sequence[int], stamps: Sequence[str]) -> np.ndarray:
    """Times [s] from dates or numbers; nothing where every line says that its time is not given."""
    if set(stamps) == {"XXX"}:
        return np.array([])
    for read in (_as_numbers, _as_dates):
        try:
            found = read(stamps)
        except ValueError:
            continue
        if np.isfinite(found).all():
            return found
    for number, stamp in zip(numbers, stamps, strict=True):
        for read in (_as_numbers, _as_dates):
            try:
                if np.isfinite(read([stamp])).all():
                    break
            except ValueError:
                continue
        else:
            raise SpecError(f"{label}:{number}: timestamp: must be a date or a number of seconds (got {stamp!r})")
    raise SpecError(f"{label}: timestamps: some are dates, others numbers; keep one")


def _as_numbers(stamps: Sequence[str]) -> np.ndarray:
    return np.array(stamps, dtype=float)


def _as_dates(stamps: Sequence[str]) -> np.ndarray:
    plain = [stamp.removesuffix("Z").removesuffix("+00:00") for stamp in stamps]
    dates = np.array(plain, dtype="datetime64[ns]")
    if np.isnat(dates).any():
        raise ValueError("not a date")
    return np.asarray((dates - dates[0]).astype(np.int64) * 1e-9)


def _lengths(label: str, numbers: Sequence[int], texts: Sequence[str], key: str) -> np.ndarray:
    try:
        return np.array(texts, dtype=np.int64)
    except ValueError:
        pass
    for number, text in zip(numbers, texts, strict=True):
        if not text.strip().lstrip("+-").isdigit():
            got = "nothing" if not text.strip() else repr(text)
            raise SpecError(f"{label}:{number}: {key}: must be a whole number >= 1 (got {got})")
    return np.array([int(text) for text in texts], dtype=np.int64)


def _json_lines(label: str, text: str) -> Requests:
    numbers: list[int] = []
    table: list[tuple[float, int, int]] = []
    cached: list[int] = []
    seen: set[Any] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        row = _object(f"{label}:{number}", line)
        numbers.append(number)
        values = [_value(f"{label}:{number}", row, key) for key in ("timestamp", "input_length", "output_length")]
        table.append((values[0] / _MILLISECONDS, int(values[1]), int(values[2])))
        cached.append(_hits(f"{label}:{number}", row.get("hash_ids", ()), seen, int(values[1])))
    columns = [np.array(column) for column in zip(*table, strict=True)]
    return _requests(label, numbers, columns[0].astype(float), columns[1], columns[2], np.array(cached))


def _object(where: str, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise SpecError(f"{where}: not valid JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(row, dict):
        raise SpecError(f"{where}: must be one JSON object a line (got {type(row).__name__})")
    return row


def _value(where: str, row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e15 < value < 1e15:
        got = "nothing" if value is None else repr(value)
        raise SpecError(f"{where}: {key}: must be a number (got {got})")
    return float(value)


def _hits(where: str, blocks: Any, seen: set[Any], prompt: int) -> int:
    """Tokens of the leading blocks that earlier requests brought; all blocks are then in the cache."""
    if not isinstance(blocks, (list, tuple)):
        raise SpecError(f"{where}: hash_ids: must be a list (got {type(blocks).__name__})")
    found = 0
    for block in blocks:
        if block not in seen:
            break
        found += 1
    seen.update(blocks)
    # The last token is computed in any case: its output is the first token of the answer.
    return max(0, min(found * _MOONCAKE_BLOCK, prompt - 1))


def _requests(
    label: str, numbers: Sequence[int], arrival_s: np.ndarray, prompts: np.ndarray, outputs: np.ndarray,
    cached: np.ndarray | None = None,
) -> Requests:  # fmt: skip
    for key, values in (("prompt tokens", prompts), ("output tokens", outputs)):
        wrong = np.flatnonzero((values < 1) | (values > 10**9))
        if len(wrong):
            at = wrong[0]
            raise SpecError(f"{label}:{numbers[at]}: {key}: must be a whole number >= 1 (got {values[at]:g})")
    back = np.flatnonzero(np.diff(arrival_s) < 0)
    if len(back):
        line = numbers[int(back[0]) + 1]
        raise SpecError(f"{label}:{line}: timestamp: lies before that of the line above; sort the trace by time")
    if len(arrival_s):
        arrival_s = arrival_s - arrival_s[0]
    cached = np.zeros(len(prompts), dtype=np.int64) if cached is None else cached
    return Requests(arrival_s, prompts.astype(np.int64), outputs.astype(np.int64), cached)


@cache
def _shipped(id: str) -> Requests:
    """A trace of the package: arrivals in milliseconds as differences, lengths as whole numbers."""
    with np.load(TRACE_FOLDER / f"{id}.npz") as kept:
        arrival_s = np.cumsum(kept["gap_ms"].astype(np.int64)) / _MILLISECONDS
        prompts, outputs = kept["prompt_tokens"].astype(np.int64), kept["output_tokens"].astype(np.int64)
        cached = kept["cached_tokens"].astype(np.int64) if "cached_tokens" in kept else np.zeros_like(prompts)
    return Requests(arrival_s, prompts, outputs, cached)


# Measuring


def _dispersion(requests: Requests) -> tuple[tuple[float, float, float], ...]:
    """(window [s], index of requests, index of computed prompt tokens) for every window that fits often enough."""
    computed = (requests.prompt_tokens - requests.cached_tokens).astype(float)
    rows = []
    for window in _WINDOWS:
        if window * _LEAST_WINDOWS > requests.duration_s:
            break
        counts, tokens = _window_sums(requests.arrival_s, computed, window)
        # Poisson arrivals of n requests a window vary by n, of tokens p by n * mean(p^2).
        ratio = float((computed**2).mean())
        rows.append((window, _index(counts, 1.0), _index(tokens, ratio / computed.mean())))
    return tuple(rows)


def _window_sums(arrival_s: np.ndarray, tokens: np.ndarray, window: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums [phase, window] over windows that begin at a few phases."""
    span = float(arrival_s[-1])
    count = int(span / window) - 1
    sums = []
    for weights in (np.ones_like(tokens), tokens):
        before = np.concatenate([[0.0], np.cumsum(weights)])
        edges = np.arange(count + 1) * window + (np.arange(_PHASES) / _PHASES * window)[:, None]
        sums.append(np.diff(before[np.searchsorted(arrival_s, edges)], axis=1))
    return sums[0], sums[1]


def _index(sums: np.ndarray, of_poisson: float) -> float:
    return round(float(sums.var(axis=1, ddof=1).mean() / (sums.mean() * of_poisson)), 4)


def _headline(dispersion: Sequence[tuple[float, float, float]]) -> float:
    """One number for a table: the index of requests in windows of 10 s, between a prefill and an answer's length."""
    if not dispersion:
        return 1.0
    return min(dispersion, key=lambda row: abs(row[0] - _HEADLINE_WINDOW_S))[1]


def _day_profile(requests: Requests) -> tuple[float, ...]:
    span = requests.duration_s
    if not span:
        return ()
    whole_days = span >= _DAY_S
    hour = requests.arrival_s % _DAY_S / (_DAY_S / HOURS) if whole_days else requests.arrival_s / span * HOURS
    counts = np.bincount(np.minimum(hour.astype(int), HOURS - 1), minlength=HOURS)
    seconds = np.full(HOURS, span / HOURS)
    if whole_days:
        edges = np.arange(HOURS) * (_DAY_S / HOURS)
        length = _DAY_S / HOURS
        rest = np.clip(span % _DAY_S - edges, 0.0, length)
        seconds = span // _DAY_S * length + rest
    return tuple(float(value) for value in counts / seconds)
