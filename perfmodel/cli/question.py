"""The question of commands whose keys are their own: a file or an earlier result, and flags over it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel.cli.option import Option, checked, parsed
from perfmodel.cli.scenario import beside, read_table
from perfmodel.cli.tables import read_rows
from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.specs.rivals import replaced

__all__ = ["question_of"]


def question_of(args: Namespace, options: tuple[Option, ...], document: str, *, rows: bool = False) -> dict[str, Any]:
    """The keywords of the library: the file's (or those of an earlier `document`), then the flags' over them.

    With `rows`, arrays are tables, read from where they stand. Raises `SpecError` and `PlanError`.
    """
    names = {option.name: option for option in options}
    written: dict[str, Any] = {}
    if args.file is not None:
        folder = None if args.file == "-" else Path(args.file).parent
        for key, value in _of_file(args.file, document).items():
            if key not in names:
                raise SpecError(f"{args.file}: {unknown_name('key', key, names, shown=30)}")
            if value is not None:
                written[key] = _value(names[key], value, f"{args.file}: {key}", folder, rows=rows)
    given = {name: parsed(option, getattr(args, name)) for name, option in names.items() if hasattr(args, name)}
    if rows:
        given |= {name: read_rows(given[name], name) for name in given if names[name].kind == "array"}
    question = replaced(written, given)
    for option in options:
        if option.required and option.name not in question:
            raise PlanError(f"{option.flag}: missing; give it as an option, or as the key {option.name} of a file (-f)")
    return question


def _of_file(file: str, document: str) -> Mapping[str, Any]:
    """The table of a file, of an earlier result what it was asked."""
    table: Mapping[str, Any] = read_table(file)
    if "document" not in table:
        return table
    if table["document"] != document or not isinstance(table.get("request"), Mapping):
        raise SpecError(f"{file}: {unknown_name('document', table['document'], [document])}")
    request: Mapping[str, Any] = table["request"]
    return request


def _value(option: Option, value: Any, label: str, folder: Path | None, *, rows: bool) -> Any:
    if option.kind == "texts":
        several = value if isinstance(value, list) else [value]
        described = any(isinstance(one, Mapping) for one in several)  # a cluster that is on no shelf
        return several if described else checked(option, several, label)
    if rows and option.kind == "array" and isinstance(value, str):
        return read_rows(str((folder or Path()) / value), option.name)
    return beside(folder, checked(option, value, label), option)
