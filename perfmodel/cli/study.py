"""`perfmodel compare`, `perfmodel cite` and `perfmodel sweep`."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel._version import __version__
from perfmodel.cli.commands import DONE, NOT_FEASIBLE
from perfmodel.cli.option import Option, parsed
from perfmodel.cli.output import emit, say, write_atomically
from perfmodel.cli.progress import progress
from perfmodel.cli.scenario import read_table
from perfmodel.errors import MissingExtraError, PlanError

if TYPE_CHECKING:
    from pandas import DataFrame

    from perfmodel.study.grid import Grid
    from perfmodel.study.work import Answer

__all__ = ["cite_result", "compare_results", "sweep_grid"]

_FORMATS = (".csv", ".parquet", ".json")
_WORKERS = Option("workers", "whole", "", low=1)


def compare_results(args: Namespace) -> int:
    """`perfmodel compare A B`."""
    from perfmodel.study.compare import compare

    a, b = (_document_or_path(file) for file in (args.a, args.b))
    document = compare(a, b).to_dict()

    def page(console: Any) -> None:
        from perfmodel.cli.render_study import comparison_page

        comparison_page(console, document, args.a, args.b)

    emit(document, page, as_json=args.json, file=args.output)
    return DONE


def cite_result(args: Namespace) -> int:
    """`perfmodel cite DOC`."""
    from perfmodel.study.cite import cite

    document = read_table(args.result)
    if "document" not in document:
        raise PlanError(f"{args.result}: is no result; give the JSON that a command wrote (--json, -o FILE.json)")
    text = cite(document)
    if args.output is not None and args.output != "-":
        write_atomically(args.output, text)
        return DONE
    sys.stdout.write(text)
    sys.stdout.flush()
    return DONE


def _document_or_path(file: str) -> Any:
    """A path, which the library reads with the folder it stands in; standard input as a table."""
    return read_table(file) if file == "-" else file


def sweep_grid(args: Namespace) -> int:
    """`perfmodel sweep`: 1 where no row of the grid could be answered."""
    workers = None if args.workers is None else parsed(_WORKERS, args.workers)
    _check_output(args)
    if args.dask is not None and workers is not None:
        raise PlanError("--workers, --dask: give one of them")
    from perfmodel.study.grid import read_grid

    grid = read_grid(args.grid)
    journal = _journal(args)
    with ExitStack() as stack:
        executor = None
        if args.dask is not None:
            from perfmodel.study.pool import dask_executor

            executor = stack.enter_context(dask_executor(args.dask))
        from perfmodel.study.sweep import answers_of

        count = 1 if executor is not None else min(workers or _cores(), len(grid))
        answers = answers_of(grid, workers=count, executor=executor, resume=journal, progress=progress("rows"))
    failed = sum("error" in answer for answer in answers)
    if failed:
        say(f"{failed:,} of {len(grid):,} rows could not be answered; column error says why")
    _write(args, grid, answers)
    if journal is not None:
        journal.unlink(missing_ok=True)
    return NOT_FEASIBLE if failed == len(grid) else DONE


def _check_output(args: Namespace) -> None:
    if args.output in (None, "-"):
        if args.resume:
            raise PlanError("--resume: goes with -o FILE, whose journal it continues")
        return
    suffix = Path(args.output).suffix.lower()
    if suffix not in _FORMATS:
        raise PlanError(f"-o {args.output}: must end in {', '.join(_FORMATS)}")
    if args.json and suffix != ".json":
        raise PlanError(f"-o {args.output}: --json writes *.json")
    if not Path(args.output).parent.is_dir():
        raise PlanError(f"-o {args.output}: cannot be written: no such folder")
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingExtraError(
                f"-o {args.output}: needs the extra parquet: pip install 'perfmodel[parquet]'"
            ) from None


def _journal(args: Namespace) -> Path | None:
    """Where finished rows are kept until the output is whole; a run that was ended is never begun again unasked."""
    if args.output in (None, "-"):
        return None
    path = Path(args.output)
    journal = path.with_name(f"{path.name}.journal")
    if journal.exists() and not args.resume:
        raise PlanError(
            f"{journal}: a sweep into {args.output} was ended before its end; --resume goes on, or remove it"
        )
    if args.resume and not journal.exists():
        say(f"note: no run to go on with ({journal} is not there); beginning")
    return journal


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(args: Namespace, grid: Grid, answers: list[Answer]) -> None:
    from perfmodel.study.sweep import frame_of

    suffix = "" if args.output is None else Path(args.output).suffix.lower()
    if suffix == ".csv":
        write_atomically(args.output, frame_of(grid, answers).to_csv(index=False, lineterminator="\n"))
        return
    if suffix == ".parquet":
        _write_parquet(frame_of(grid, answers), Path(args.output))
        return
    document = _document(grid, answers)

    def page(console: Any) -> None:
        from perfmodel.cli.render_study import sweep_page

        sweep_page(console, document)

    emit(document, page, as_json=args.json, file=args.output)


def _write_parquet(frame: DataFrame, path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for name in frame:  # a column of a file has one type: what is mixed goes in as words
        if len({type(value) for value in frame[name].dropna()}) > 1:
            frame[name] = frame[name].map(lambda value: None if value is None else str(value))
    try:
        frame.to_parquet(beside, engine="pyarrow", index=False)
        os.replace(beside, path)
    except OSError as error:
        raise PlanError(f"-o {path}: cannot be written: {error.strerror or error}") from None
    finally:
        beside.unlink(missing_ok=True)


def _document(grid: Grid, answers: list[Answer]) -> dict[str, Any]:
    """`perfmodel/sweep/1`: the grid, the names of the columns, and the rows as tables."""
    from perfmodel.specs.registry import data_version
    from perfmodel.study.sweep import table_of

    columns, rows = table_of(grid, answers)
    return {
        "document": "perfmodel/sweep/1",
        "perfmodel_version": __version__,
        "data_version": data_version(),
        "request": grid.request(),
        "keys": list(dict.fromkeys(key for row in range(len(grid)) for key in grid.cells(row))),
        "columns": columns,
        "rows": rows,
    }
