"""Kernel constants from a user's own table: the fits of the shipped tables, on rows that the user measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.collectives import SMALLEST, OwnRows, fit_all_to_all, fit_collective
from perfmodel.calibrate.kernels import Fitted, Floats
from perfmodel.calibrate.matmul import LIBRARIES, Library, fit_products, library_choices
from perfmodel.calibrate.own_csv import ATTENTION_SIZES, PRODUCTS, OwnTable, Row, read_own_table
from perfmodel.calibrate.tables import Table, validate_groups
from perfmodel.calibrate.thin import ACCELERATORS
from perfmodel.calibrate.user_attention import HEADS, fit_attention, of_one_kernel
from perfmodel.calibrate.write import RECIPES, protocol_blocks, provenance, render
from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.predict.matmul import MATMUL_FORMATS
from perfmodel.specs import registry
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.efficiency import load_efficiency

__all__ = [
    "MIN_ROWS",
    "OwnFit",
    "UserCalibration",
    "UserQuestion",
    "calibrate",
    "document_of",
    "fragment_of",
    "question_of",
]

MIN_ROWS = 20
_POOR_MEDIAN = 0.25
_SOURCE = "own-table"
_HEAD = "# Written by `perfmodel calibrate --from-table`; blocks that it lacks are those of `relative`.\n"
_DTYPES = {
    "bfloat16": "bf16",
    "half": "fp16",
    "float16": "fp16",
    "float32": "fp32",
    "sq": "int8",
    "int8-wo": "int8-weight-only",
    "int4-wo": "int4-weight-only",
}
"""Names of aiconfigurator, underscores as dashes."""
_SAME_BLOCK = {"fp16": "bf16"}
_UNTILED = ("fp32", "tf32")
"""Formats in which no table says what tiles a library has: they take the smooth roofline."""
_OPERATIONS = {"alltoall": "all_to_all"}
_KNOWN_OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "alltoall")


@dataclass(frozen=True, slots=True)
class UserQuestion:
    """A table with the accelerator and the rows that are to be fitted; `notes` say what was left out and why."""

    table: OwnTable
    accelerator: Accelerator
    relative: str
    dtype: str | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OwnFit:
    """One fit, the dotted key of its block, the entries of the block that were not fitted, and the rows held out."""

    key: str
    found: Fitted
    choices: dict[str, Any]
    held_out_rows: int


@dataclass(frozen=True, slots=True)
class UserCalibration:
    """Every fit of a question and its remarks."""

    question: UserQuestion
    fits: tuple[OwnFit, ...]
    notes: tuple[str, ...]


def question_of(path: str | Path, accelerator: str | None = None, dtype: str | None = None) -> UserQuestion:
    """Read a table and decide what of it is fitted, before any work; raises `PlanError` or `SpecError`.

    `accelerator` is an id or a file; without it the table's column `system` must name one.
    """
    table = read_own_table(path)
    named = None if accelerator is None else load_accelerator(accelerator)
    part, rows, notes = _of_one_system(table, named)
    relative = _calibrated_relative(part)
    wanted = None if dtype is None else _dtype(dtype)
    if table.kind == PRODUCTS:
        if wanted is not None and wanted not in MATMUL_FORMATS:
            raise PlanError(f"--dtype: {unknown_name('format of a matrix product', dtype, MATMUL_FORMATS)}")
        rows, chosen = _of_one_format(table, rows, wanted)
        _library(part, chosen)
        part.peak(MATMUL_FORMATS[chosen].peak)
    else:
        chosen = None
        of_one = of_one_kernel if table.kind in ATTENTION_SIZES else _of_one_collective_library
        rows, more = of_one(table, rows, wanted)
        notes += more
    if len(rows) < MIN_ROWS:
        raise PlanError(f"{table.name}: has {len(rows)} rows to fit; at least {MIN_ROWS}")
    return UserQuestion(table, part, relative, chosen, tuple(rows), tuple(notes))


def calibrate(question: UserQuestion) -> UserCalibration:
    """The fits of a question; raises `PlanError` where a table cannot be split into fitted and held-out groups."""
    if question.table.kind == PRODUCTS:
        fits, notes = [_fit_products(question)], list[str]()
    elif question.table.kind in ATTENTION_SIZES:
        fits, notes = _fit_attention(question), []
    else:
        fits, notes = _fit_collectives(question)
    for fit in fits:
        if fit.found.held_out.median > _POOR_MEDIAN:
            notes.append(
                f"{fit.key}: held-out median {100 * fit.found.held_out.median:.0f} %: the law is not this table"
            )
        full = [name for name, value in fit.found.constants.items() if name.endswith("efficiency") and value >= 0.9995]
        if full:
            notes.append(
                f"{fit.key}: {', '.join(full)} at the limit of 1: the table does not bind it, or is faster than "
                f"the data sheet of {question.accelerator.id}"
            )
    return UserCalibration(question, tuple(fits), (*question.notes, *notes))


def fragment_of(calibration: UserCalibration) -> tuple[str, tuple[str, ...]]:
    """The TOML text of the fitted blocks, and which blocks `load_efficiency` will take from the relative."""
    document = document_of(calibration)
    return render(document, _HEAD), load_efficiency(document).inherited


def document_of(calibration: UserCalibration) -> dict[str, Any]:
    """The fitted blocks as an efficiency set that inherits the others."""
    question = calibration.question
    digest = sha256(question.table.digest_of).hexdigest()[:12]
    name = re.sub(r"[^ -~]", "?", question.table.name)
    document: dict[str, Any] = {"id": f"{question.accelerator.id}-measured", "relative": question.relative}
    for fit in calibration.fits:
        group, _, block = fit.key.partition(".")
        origin = provenance(fit.found) | {"source": _SOURCE, "table": name}
        if block:
            document.setdefault(group, {})[block] = fit.choices | fit.found.constants | {"fit": origin}
        else:
            document |= protocol_blocks(group, fit.found.constants, origin)
    # A source needs an address; a table of one's own has none, and .invalid says so (RFC 2606).
    address = f"https://own-table.invalid/{digest}"
    document["sources"] = {_SOURCE: {"title": f"own table {name}, unpublished; sha256 {digest}", "url": address}}
    return document


def _of_one_system(table: OwnTable, named: Accelerator | None) -> tuple[Accelerator, list[Row], list[str]]:
    systems = table.values("system")
    if named is None:
        if len(systems) != 1:
            why = f"column system holds {', '.join(systems[:6])}" if systems else "the table has no column system"
            raise PlanError(f"{table.name}: {why}; name the accelerator with --accelerator")
        try:
            return load_accelerator(_id_of(systems[0])), list(table.rows), []
        except SpecError as error:
            raise SpecError(f"{table.name}: column system: {error}; or name it with --accelerator") from None
    if len(systems) <= 1:
        other = [] if not systems or _id_of(systems[0]) == named.id else [f"rows of {systems[0]} taken for {named.id}"]
        return named, list(table.rows), other
    rows = [row for row in table.rows if _id_of(row.words["system"]) == named.id]
    if not rows:
        raise PlanError(f"{table.name}: column system holds {', '.join(systems[:6])}, none of them {named.id}")
    return named, rows, [f"{len(rows)} of {len(table.rows)} rows are of {named.id}"]


def _id_of(system: str) -> str:
    return ACCELERATORS.get(system.lower(), system.lower().replace("_", "-"))


def _calibrated_relative(accelerator: Accelerator) -> str:
    """Itself or the nearest relative that has kernel constants on file, for the blocks the table says nothing of."""
    known = registry.ids("efficiency")
    if accelerator.id in known:
        return accelerator.id
    if accelerator.relative in known:
        return accelerator.relative
    raise PlanError(
        f"{accelerator.id}: has no kernel constants, and names no calibrated relative for those the table does not "
        f"hold; give its file relative = one of {', '.join(known)}"
    )


def _dtype(name: str) -> str:
    plain = name.lower().replace("_", "-")
    return _DTYPES.get(plain, plain)


def _of_one_format(table: OwnTable, rows: list[Row], wanted: str | None) -> tuple[list[Row], str]:
    for row in rows:
        if "dtype" in row.words and _dtype(row.words["dtype"]) not in MATMUL_FORMATS:
            what = unknown_name("format of a matrix product", row.words["dtype"], MATMUL_FORMATS)
            raise PlanError(f"{table.name}:{row.line}: dtype: {what}")
    found = sorted({_dtype(row.words["dtype"]) for row in rows if "dtype" in row.words})
    if not found:
        return rows, wanted or "bf16"
    if wanted is None and len(found) > 1:
        raise PlanError(f"{table.name}: column dtype holds {', '.join(found)}; choose one with --dtype")
    chosen = wanted or found[0]
    if chosen not in found:
        raise PlanError(f"{table.name}: has no rows in {chosen}; column dtype holds {', '.join(found)}")
    return [row for row in rows if _dtype(row.words["dtype"]) == chosen], chosen


def _of_one_collective_library(table: OwnTable, rows: list[Row], wanted: str | None) -> tuple[list[Row], list[str]]:
    """Rows that one library measured with elements of one size: a law of bytes knows neither."""
    notes = []
    for row in rows:
        where = f"{table.name}:{row.line}"
        if row.words["op_name"] not in _KNOWN_OPERATIONS:
            raise PlanError(f"{where}: op_name: {unknown_name('operation', row.words['op_name'], _KNOWN_OPERATIONS)}")
        if row.sizes["num_gpus"] < 2:
            raise PlanError(f"{where}: num_gpus: must be a whole number >= 2 (got {row.sizes['num_gpus']:g})")
    dtypes = sorted({_dtype(row.words["dtype"]) for row in rows if "dtype" in row.words})
    chosen = wanted or next((name for name in ("bf16", "fp16") if name in dtypes), None)
    if dtypes and wanted is not None and wanted not in dtypes:
        raise PlanError(f"{table.name}: has no rows in {wanted}; column dtype holds {', '.join(dtypes)}")
    if len(dtypes) > 1:
        if chosen is None:
            raise PlanError(f"{table.name}: column dtype holds {', '.join(dtypes)}; choose one with --dtype")
        rows = [row for row in rows if _dtype(row.words["dtype"]) == chosen]
        notes.append(f"of {', '.join(dtypes)} the rows in {chosen} are fitted")
    for column in ("lib_path_version", "lib_version"):
        versions = sorted({row.words[column] for row in rows if column in row.words}, key=_version)
        if len(versions) > 1:
            rows = [row for row in rows if row.words[column] == versions[-1]]
            notes.append(f"of {column} {', '.join(versions)} the newest is fitted")
    small = sum(row.sizes["bytes"] < SMALLEST for row in rows)
    if small:
        rows = [row for row in rows if row.sizes["bytes"] >= SMALLEST]
        notes.append(f"{small} rows of messages below {SMALLEST} B are not fitted")
    return rows, notes


def _version(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in text.split(".")]


def _relatives(accelerator: Accelerator) -> Iterator[str]:
    """The accelerator's id and its relatives' ids, nearest first."""
    visited: list[str] = []
    nearest: str | None = accelerator.id
    while nearest is not None and nearest not in visited:
        visited.append(nearest)
        yield nearest
        known = nearest in registry.ids("efficiency")
        nearest = (
            accelerator.relative
            if nearest == accelerator.id and not known
            else None
            if not known
            else (registry.read_toml(registry.path_of("efficiency", nearest)).get("relative"))
        )


def _library(accelerator: Accelerator, dtype: str) -> Library:
    """The kernels behind a table: those known for the accelerator, else its nearest relative's; raises `PlanError`."""
    name = _SAME_BLOCK.get(dtype, dtype)
    for id in _relatives(accelerator):
        if name in LIBRARIES.get(id, {}):
            return LIBRARIES[id][name]
    if name in _UNTILED:
        return Library("own table", "no tiles known", (), (1,))
    known = sorted({dtype for id in _relatives(accelerator) for dtype in LIBRARIES.get(id, {})})
    raise PlanError(
        f"{accelerator.id}: the tiles of no library in {dtype} are known, so none can be fitted; "
        f"known: {', '.join(known)}"
    )


def _fit_products(question: UserQuestion) -> OwnFit:
    rows = _array(question.rows, {"m": "f8", "n": "f8", "k": "f8"})
    held_in = _calibrating(question.table, rows, ["n", "k"])
    dtype = str(question.dtype)
    library = _library(question.accelerator, dtype)
    columns: list[Floats] = [rows["m"], rows["n"], rows["k"], rows["latency_us"] * 1e-6]
    found = fit_products(question.accelerator, dtype, library, columns, held_in)
    return OwnFit(f"matmul.{_SAME_BLOCK.get(dtype, dtype)}", found, library_choices(library), int((~held_in).sum()))


def _fit_attention(question: UserQuestion) -> list[OwnFit]:
    table = question.table
    columns = dict.fromkeys(HEADS, "f8")
    held_in = _calibrating(table, _array(question.rows, columns), list(columns))
    donor = load_efficiency(question.relative)
    keys, found, choices = fit_attention(question.accelerator, donor, table, question.rows, held_in)
    return [OwnFit(key, found, choices, int((~held_in).sum())) for key in keys]


def _fit_collectives(question: UserQuestion) -> tuple[list[OwnFit], list[str]]:
    named = [
        Row(row.line, row.sizes, row.latency_us, {"operation": _OPERATIONS.get(word, word)})
        for row in question.rows
        for word in [row.words["op_name"]]
    ]
    exchanges = [row for row in named if row.words["operation"] == "all_to_all"]
    rings = [row for row in named if row.words["operation"] != "all_to_all"]
    if len(rings) < MIN_ROWS:
        raise PlanError(
            f"{question.table.name}: has {len(rings)} rows of all_reduce, all_gather and reduce_scatter; at least "
            f"{MIN_ROWS}, because a part's protocols are kept together"
        )
    switched = next((RECIPES[id].in_network for id in _relatives(question.accelerator) if id in RECIPES), False)
    own = _own_rows(question.table, rings)
    found = fit_collective(question.accelerator, switched and _has_switched(own[0]), own)
    fits, notes = [OwnFit("collective", _found(found), {}, int((~own[1]).sum()))], []
    if len(exchanges) < MIN_ROWS:
        notes.append(f"{len(exchanges)} rows of all_to_all are too few to fit: it goes by the rings' protocols")
    else:
        own = _own_rows(question.table, exchanges)
        found = fit_all_to_all(question.accelerator, own)
        fits.append(OwnFit("all_to_all", _found(found), {}, int((~own[1]).sum())))
    return fits, notes


def _has_switched(rows: Table) -> bool:
    return bool(((rows["operation"] == "all_reduce") & (rows["ranks"] > 2)).any())


def _found(fit: Fitted | None) -> Fitted:
    if fit is None:  # the rows were counted before
        raise PlanError("the table has no rows to fit")
    return fit


def _own_rows(table: OwnTable, rows: list[Row]) -> OwnRows:
    array = _array(rows, {"operation": "U16", "ranks": "f8", "n_bytes": "f8"})
    return array, _calibrating(table, array, ["n_bytes"])


_SIZE_OF = {"ranks": "num_gpus", "n_bytes": "bytes"}


def _array(rows: tuple[Row, ...] | list[Row], columns: dict[str, str]) -> Table:
    def cell(row: Row, column: str) -> Any:
        return row.words[column] if column == "operation" else row.sizes[_SIZE_OF.get(column, column)]

    records = [(*(cell(row, column) for column in columns), row.latency_us) for row in rows]
    return np.array(records, dtype=[*columns.items(), ("latency_us", "f8")])


def _calibrating(table: OwnTable, rows: Table, group: list[str]) -> NDArray[np.bool_]:
    """Which rows are fitted: of the distinct groups in ascending order every third is held out, as of every table."""
    groups = list(zip(*(rows[column].tolist() for column in group), strict=True))
    held_out = set(validate_groups(rows, group))
    if not held_out:
        what = f"({', '.join(group)}) shapes" if len(group) > 1 else "message sizes"
        raise PlanError(f"{table.name}: has {len(set(groups))} distinct {what}; at least 3, every third is held out")
    return np.array([one not in held_out for one in groups], dtype=bool)
