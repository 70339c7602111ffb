"""Where the shipped descriptions live, how one is found by its id, and how a file is read with a useful error."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from perfmodel.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from pydantic import BaseModel

    _Model = TypeVar("_Model", bound=BaseModel)

__all__ = [
    "KIND_FOLDERS", "data_folder", "data_version", "ids", "is_path", "load", "path_of", "read_description", "read_json",
    "read_toml", "reference",
]  # fmt: skip

KIND_FOLDERS = {
    "accelerators": ("hardware_specs", "accelerators"),
    "clusters": ("hardware_specs", "clusters"),
    "hosts": ("hardware_specs", "hosts"),
    "efficiency": ("hardware_specs", "efficiency"),
    "power": ("hardware_specs", "power"),
    "software": ("hardware_specs", "software"),
    "regions": ("hardware_specs", "regions"),
    "models": ("models_zoo",),
}
_SINGULAR = {
    "accelerators": "accelerator",
    "clusters": "cluster",
    "hosts": "host",
    "models": "model",
    "power": "power set",
    "regions": "region",
}
_PACKAGE = Path(__file__).resolve().parents[1]


def data_folder(kind: str) -> Path:
    """The folder of a kind: inside the installed package, else beside it in a checkout. Raises `SpecError`."""
    if kind not in KIND_FOLDERS:
        raise SpecError(unknown_name("kind of description", kind, KIND_FOLDERS))
    parts = KIND_FOLDERS[kind]
    installed = _PACKAGE.joinpath("_data", *parts)
    return installed if installed.is_dir() else _PACKAGE.parent.joinpath(*parts)


@cache
def data_version() -> str:
    """A digest of every shipped description: the same version and digest give the same answers."""
    digest = sha256()
    for kind in KIND_FOLDERS:
        folder = data_folder(kind)
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".toml", ".json")):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def ids(kind: str) -> list[str]:
    """The sorted ids of a kind (accelerators, clusters, hosts, efficiency, software, models). Raises `SpecError`."""
    folder = data_folder(kind)
    return list(_ids(folder, folder.stat().st_mtime_ns)) if folder.is_dir() else []


@lru_cache(maxsize=64)
def _ids(folder: Path, stamp: int) -> tuple[str, ...]:
    """The ids in a folder as of the time at which an entry was last added or removed."""
    found = [entry.parent.name for entry in folder.glob("*/config.json")]
    return tuple(sorted(found or [entry.stem for entry in folder.glob("*.toml")]))


def path_of(kind: str, id: str) -> Path:
    """The file of an id (for a model its `config.json`); raises `SpecError` with the nearest id."""
    known = ids(kind)
    if id not in known:
        raise SpecError(unknown_name(_SINGULAR.get(kind, kind), id, known))
    return data_folder(kind) / id / "config.json" if kind == "models" else data_folder(kind) / f"{id}.toml"


def is_path(argument: object) -> bool:
    """Whether an argument names a file rather than an id: a `Path`, a separator in it, or ending .toml or .json."""
    if isinstance(argument, Path):
        return True
    return isinstance(argument, str) and (
        any(separator in argument for separator in "/\\") or argument.lower().endswith((".toml", ".json"))
    )


def read_toml(path: str | Path) -> dict[str, Any]:
    """The table in a TOML file; raises `SpecError` naming path, line and cause."""
    text = _read_text(path)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        # The parser gives no line where the text ends too early: the fault is in the last one.
        line = found[1] if found else str(len(text.splitlines()) or 1)
        raise SpecError(f"{path}:{line}: not valid TOML: {error}") from None
    except RecursionError:
        raise SpecError(f"{path}: nested too deeply") from None


def read_description(path: str | Path) -> dict[str, Any]:
    """The table in a .toml or .json file; raises `SpecError` naming path, line and cause."""
    return _read_unchanged(Path(path), _stamp(Path(path)))


@lru_cache(maxsize=256)
def _read_unchanged(path: Path, stamp: int) -> dict[str, Any]:
    """A description as of the time of its last change: sweeps load the same few over and over."""
    return read_json(path) if path.suffix.lower() == ".json" else read_toml(path)


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file; raises `SpecError` naming path, line and cause (NaN and Infinity are refused)."""
    try:
        data = json.loads(_read_text(path), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise SpecError(f"{path}:{error.lineno}: not valid JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise SpecError(f"{path}: nested too deeply") from None
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise SpecError(f"{path}: must hold one JSON object (got {type(data).__name__})")
    return data


def load(
    kind: str,
    what: str | Path | Mapping[str, Any] | BaseModel,
    model: type[_Model],
    **changes: Any,
) -> _Model:
    """The description named by an id, a path (.toml or .json) or a dict, as a `model`; `changes` replace its keys.

    A file without `id` gets its own stem. Raises `SpecError("path: key: what is wrong (got X); ...")`.
    """
    from perfmodel.specs.quantity import validated

    context: dict[str, Any] = {}
    word = _SINGULAR.get(kind, kind)
    if isinstance(what, model):
        if not changes:
            return what
        label, data = word, {name: getattr(what, name) for name in type(what).model_fields}
    elif isinstance(what, Mapping):
        label, data = word, dict(what)
    elif isinstance(what, (str, Path)):
        path = Path(what) if is_path(what) else path_of(kind, str(what))
        data = {"id": path.stem} | _read_unchanged(path, _stamp(path))
        # An id is a better name for a shipped file than the place where this machine keeps it.
        label, context = str(what), {"folder": path.parent}
    else:
        raise SpecError(f"{word}: must be an id, a path or a dict (got {type(what).__name__})")
    return validated(label, data | changes, model, context)


def reference(kind: str, spec: BaseModel, **changes: Any) -> str | dict[str, Any]:
    """What loads this description again: its id where the shelf holds just it but for `changes`, else all of it."""
    id = getattr(spec, "id", None)
    if id in ids(kind) and load(kind, id, type(spec), **changes) == spec:
        return str(id)
    return spec.model_dump(mode="json")


def _stamp(path: Path) -> int:
    """When a file was last changed [ns]; 0 where it is missing, so that reading it says so."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


def _read_text(path: str | Path) -> str:
    try:
        raw = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{path}: cannot be read: {reason}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}:{line}: not UTF-8 text (byte {raw[error.start]:#04x} at {error.start})") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"numbers must be finite (got {name})")
