"""Loads of experts: read from CSV, NPZ, JSON or an engine's dump, checked, or drawn from published spreads."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import SpecError, unknown_name

__all__ = ["checked_load", "checked_transitions", "generated_load", "generated_transitions", "load_expert_load"]

Floats = NDArray[np.float64]
_KEYS = ("load", "logical_count", "expert_load", "weight", "weights", "physical_to_logical_load")
_LARGEST = 1e15
_DRAWN = "generated:"
_DRAWS = ("tokens", "experts_per_token", "spread", "spread_deviation", "seed", "concentration")


def load_expert_load(path: str | Path) -> dict[str, Floats]:
    """`load` [layers, experts] and, where the file has them, `transitions` [layers - 1, experts, experts].

    CSV: one layer a line, or columns layer, expert, tokens. NPZ and JSON: `load` (and `transitions`), the arrays of a
    vLLM or SGLang dump (`expert_load`, `logical_count`; leading axes of steps and ranks are summed), or a bare array.
    PyTorch dumps (.pt): export `logical_count` with numpy.savez first. "generated:58x256,spread=1,seed=3" draws loads,
    with `concentration=7` transitions too. Raises `SpecError` naming file and fault.
    """
    if str(path).startswith(_DRAWN):
        return _drawn(str(path))
    path = Path(path)
    label = str(path)
    try:
        if path.suffix.lower() in (".npz", ".npy"):
            found = _from_numpy(path, label)
        elif path.suffix.lower() == ".json":
            found = _from_json(json.loads(path.read_text(encoding="utf-8-sig")), label)
        elif path.suffix.lower() in (".pt", ".pth"):
            raise SpecError(f"{label}: a PyTorch dump; write its logical_count with numpy.savez(FILE, load=...) first")
        elif path.suffix.lower() in (".csv", ".txt"):
            found = {"load": _from_csv(path.read_text(encoding="utf-8-sig"), label)}
        else:
            raise SpecError(f"{label}: must end in .csv, .npz, .npy or .json (got {path.suffix or 'no ending'!r})")
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise SpecError(f"{label}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found["load"] = checked_load(found["load"], label)
    if "transitions" in found:
        found["transitions"] = checked_transitions(found["transitions"], found["load"].shape, f"{label}: transitions")
    return found


def checked_load(load: Any, label: str = "load", *, error: type[Exception] = SpecError) -> Floats:
    """`load` as float64 [layers, experts]; raises `error` for NaN, negative numbers, wrong shapes and empty layers."""
    array = _array(load, label, error)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or not array.size:
        raise error(f"{label}: must be load[layer][expert], two axes (got shape {array.shape})")
    _finite(array, label, error)
    empty = np.flatnonzero(array.sum(axis=1) == 0)
    if len(empty):
        raise error(f"{label}: layer {empty[0]}: every expert has load 0; leave out layers that route nothing")
    return array


def checked_transitions(
    transitions: Any, shape: tuple[int, ...], label: str = "transitions", *, error: type[Exception] = SpecError
) -> Floats:
    """Shares of tokens [layers - 1, experts, experts], each layer scaled to sum 1; raises `error`."""
    array = _array(transitions, label, error)
    wanted = (shape[0] - 1, shape[1], shape[1])
    if array.shape != wanted:
        raise error(f"{label}: must have shape {wanted} for a load of shape {tuple(shape)} (got {array.shape})")
    _finite(array, label, error)
    total = array.sum(axis=(1, 2), keepdims=True)
    if (total == 0).any():
        raise error(
            f"{label}: layer {int(np.flatnonzero(total.ravel() == 0)[0])}: no token moves; shares must sum above 0"
        )
    return np.asarray(array / total)


def _array(values: Any, label: str, error: type[Exception]) -> Floats:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iuf":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise error(f"{label}: must be an array of numbers with rows of equal length") from None


def _finite(array: Floats, label: str, error: type[Exception]) -> None:
    wrong = ~np.isfinite(array) | (array < 0) | (array > _LARGEST)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise error(
            f"{label}: {'['.join(('', *(f'{i}]' for i in at)))}: must be a number from 0 to 1e15 (got {array[at]})"
        )


def _drawn(text: str) -> dict[str, Floats]:
    """Loads of "generated:LAYERSxEXPERTS,KEY=X,...", keys those of `generated_load` and `generated_transitions`."""
    shape, *pairs = text.removeprefix(_DRAWN).split(",")
    layers, _, experts = shape.partition("x")
    if not (layers.isdecimal() and experts.isdecimal() and int(layers) and 1 < int(experts) <= 4096):
        raise SpecError(f"{text}: must begin with LAYERSxEXPERTS, as generated:58x256 (got {shape!r})")
    given: dict[str, float] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in _DRAWS:
            raise SpecError(f"{text}: {unknown_name('key', key, _DRAWS)}")
        try:
            given[key] = float(value)
        except ValueError:
            raise SpecError(f"{text}: {key}: must be a number (got {value!r})") from None
        if not 0 <= given[key] < _LARGEST or (key not in ("spread", "spread_deviation", "seed") and not given[key]):
            raise SpecError(f"{text}: {key}: must be a number above 0 (got {value!r})")
    concentration, size = given.pop("concentration", None), (int(layers), int(experts))
    whole = {key: int(given[key]) for key in ("tokens", "experts_per_token", "seed") if key in given}
    if whole.get("experts_per_token", 8) > size[1]:
        raise SpecError(f"{text}: experts_per_token: must be at most the {size[1]} experts (default: 8)")
    found = {"load": generated_load(*size, **(given | whole))}  # type: ignore[arg-type]
    if concentration is not None:
        found["transitions"] = generated_transitions(*size, concentration=concentration, seed=whole.get("seed", 0))
    return found


def _from_numpy(path: Path, label: str) -> dict[str, Floats]:
    try:
        data = np.load(path, allow_pickle=False)
        arrays = {"load": data} if isinstance(data, np.ndarray) else {name: data[name] for name in data.files}
    except ValueError as error:
        raise SpecError(f"{label}: cannot be read: {error}") from None
    return _named(arrays, label)


def _from_json(data: Any, label: str) -> dict[str, Floats]:
    if isinstance(data, list) and data and isinstance(data[0], Mapping):  # one record a step, as engines append them
        steps = [_named(record, label)["load"] for record in data]
        if len({step.shape for step in steps}) > 1:
            raise SpecError(f"{label}: records differ in shape")
        return {"load": np.sum(steps, axis=0)}
    return _named({"load": data} if isinstance(data, list) else data, label)


def _named(arrays: Mapping[str, Any], label: str) -> dict[str, Floats]:
    if not isinstance(arrays, Mapping):
        raise SpecError(f"{label}: must hold an array or a table of arrays (got {type(arrays).__name__})")
    name = next((key for key in _KEYS if key in arrays), None)
    if name == "physical_to_logical_load":
        name = None
    if name is None:
        raise SpecError(f"{label}: {unknown_name('array', next(iter(arrays), None), ('load', *_KEYS[1:-1]))}")
    load = _array(arrays[name], f"{label}: {name}", SpecError)
    if load.ndim > 2:  # steps and ranks before layers and experts
        load = load.sum(axis=tuple(range(load.ndim - 2)))
    found = {"load": load}
    if arrays.get("transitions") is not None:
        found["transitions"] = _array(arrays["transitions"], f"{label}: transitions", SpecError)
    return found


def _from_csv(text: str, label: str) -> Floats:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = list(csv.reader(io.StringIO("\n".join(lines))))
    if not rows:
        raise SpecError(f"{label}: is empty; it should hold one line of loads a layer")
    header = [name.strip().lower() for name in rows[0]]
    if "layer" in header:
        return _from_columns(header, rows[1:], label)
    try:
        values = [[float(cell) for cell in row] for row in rows]
    except ValueError as error:
        raise SpecError(f"{label}: {error}; lines of numbers, or columns layer, expert, tokens") from None
    if len({len(row) for row in values}) > 1:
        raise SpecError(f"{label}: lines differ in length; every layer needs one load an expert")
    return np.array(values)


def _from_columns(header: list[str], rows: list[list[str]], label: str) -> Floats:
    tokens = next((name for name in ("tokens", "load", "count") if name in header), None)
    if tokens is None or "expert" not in header:
        raise SpecError(f"{label}: columns must be layer, expert, tokens (got {', '.join(header)})")
    at = [header.index(name) for name in ("layer", "expert", tokens)]
    try:
        parsed = [(int(row[at[0]]), int(row[at[1]]), float(row[at[2]])) for row in rows]
    except (ValueError, IndexError) as error:
        raise SpecError(f"{label}: {error}; columns layer and expert are whole numbers, {tokens} a number") from None
    layers = sorted({layer for layer, _, _ in parsed})
    experts = max((expert for _, expert, _ in parsed), default=-1) + 1
    load = np.full((len(layers), experts), np.nan)
    for layer, expert, value in parsed:
        if expert < 0 or not np.isnan(load[layers.index(layer), expert]):
            raise SpecError(f"{label}: layer {layer}, expert {expert}: given twice, or below 0")
        load[layers.index(layer), expert] = value
    if np.isnan(load).any():
        layer, expert = np.argwhere(np.isnan(load))[0]
        raise SpecError(f"{label}: layer {layers[layer]}, expert {expert}: missing; every layer needs every expert")
    return load


def generated_load(
    layers: int,
    experts: int,
    *,
    tokens: int = 4096,
    experts_per_token: int = 8,
    spread: float = 1.0,
    spread_deviation: float = 0.45,
    seed: int = 0,
) -> Floats:
    """Loads as DeepSeek-R1's: popularity lognormal in each layer, no expert above one choice of a token's k.

    `spread` and `spread_deviation` are mean and deviation over layers of the logarithm's deviation: 1.0 and 0.45 give
    the spread of a translation workload (TensorRT-LLM blog 4, Table 1), 0.6 and 0 that of chat traces. Shape
    (layers, experts), sums tokens * experts_per_token.
    """
    draws = np.random.default_rng(seed)
    sigma = np.maximum(draws.normal(spread, spread_deviation, layers), 0.0)
    popularity = np.exp(sigma[:, None] * draws.normal(size=(layers, experts)))
    share = popularity / popularity.sum(axis=1, keepdims=True)
    for _ in range(20):
        share = np.minimum(share, 1 / experts_per_token)
        share /= share.sum(axis=1, keepdims=True)
    return np.array([draws.multinomial(tokens * experts_per_token, row) for row in share], dtype=np.float64)


def generated_transitions(layers: int, experts: int, *, concentration: float = 7.0, seed: int = 0) -> Floats:
    """Transition shares [layers - 1, experts, experts]: rows Dirichlet around the next layer's popularity.

    `concentration` 7 gives the stay shares that ExFlow's plans of Mixtral-8x7B reach (arXiv:2401.08383).
    """
    draws = np.random.default_rng(seed)
    share = np.full(experts, 1 / experts)
    steps = []
    for _ in range(layers - 1):
        rows = draws.dirichlet(concentration * np.full(experts, 1 / experts), size=experts)
        steps.append(share[:, None] * rows)
        share = np.asarray(steps[-1].sum(axis=0))
    return np.array(steps)
