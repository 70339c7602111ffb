"""`sweep`: a grid of scenarios as one tidy table, on this process, on several, or on anybody's executor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel._version import __version__
from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.specs.registry import data_version
from perfmodel.study.grid import Grid, grid_of
from perfmodel.study.journal import Journal
from perfmodel.study.pool import Chunk, here, over, over_processes
from perfmodel.study.work import Answer, answer_rows

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["answers_of", "frame_of", "sweep", "table_of"]

_MOST_TOGETHER, _CHUNKS_PER_WORKER, _WORKERS_UNKNOWN = 32, 16, 8


def sweep(
    axes: Mapping[str, Any],
    *,
    base: Any = None,
    workers: int = 1,
    executor: Executor | None = None,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataFrame:
    """Every combination of the axes as a table: a column for each key of an axis, then the results, then `error`.

    `axes` maps keys to values, `{"tp": [1, 2, 4], "cluster": ["dgx-h100", "dgx-h200"]}`, or a name of one's own to
    tables of keys that change together; nested keys (of layout and slo, of the accelerator and the cluster) go by their
    own last name. `base` holds what stays the same: a scenario, a result, a file, or a table of keys. Rows come in the
    order of the axes, the last one fastest. A row that cannot be answered has the reason in `error`.

    `workers` processes share the rows (1: this process alone; scripts then need `if __name__ == "__main__":`), or any
    `concurrent.futures` executor does. `resume` names a journal: rows found there are not run again. `progress(done,
    all)` is called as rows finish. Raises `PlanError` and `SpecError` before any work.
    """
    grid = grid_of(axes, base)
    return frame_of(grid, answers_of(grid, workers=workers, executor=executor, resume=resume, progress=progress))


def answers_of(
    grid: Grid,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    own_processes: bool = False,
) -> list[Answer]:
    """The answer of every row of a grid, in order; the arguments and errors of `sweep`.

    With `own_processes` one worker is a process too.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise OutOfRangeError(f"workers: must be a whole number >= 1 (got {workers!r})")
    if executor is not None and workers != 1:
        raise PlanError("workers, executor: give one of them")
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(resume, grid.digest(), len(grid))) if resume is not None else None
        answers: dict[int, Answer] = {} if journal is None else dict(journal.done)
        report = progress or (lambda done, total: None)
        report(len(answers), len(grid))
        left = [row for row in range(len(grid)) if row not in answers]
        for chunk, found in _finished(grid, left, workers, executor, own_processes or workers > 1):
            finished = list(zip(chunk, found, strict=True))
            if journal is not None:
                journal.add(finished)
            answers |= finished
            report(len(answers), len(grid))
    return [answers[row] for row in range(len(grid))]


def frame_of(grid: Grid, answers: list[Answer]) -> DataFrame:
    """The table of a grid and its answers."""
    from pandas import DataFrame

    columns, rows = table_of(grid, answers)
    frame = DataFrame(rows, columns=columns)
    # A row without an answer must not turn the whole numbers of the others into floats.
    for name in columns:
        given = [row[name] for row in rows if row[name] is not None]
        if 0 < len(given) < len(rows):
            if all(type(value) is bool for value in given):
                frame[name] = frame[name].astype("boolean")
            elif all(type(value) is int for value in given):
                frame[name] = frame[name].astype("Int64")
    return frame


def table_of(grid: Grid, answers: list[Answer]) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns (keys of the axes, results, `error`) and a complete row for each answer.

    A key of an axis stands over a result of the same name.
    """
    cells = [grid.cells(row) for row in range(len(answers))]
    keys = dict.fromkeys(key for one in cells for key in one)
    results = dict.fromkeys(key for answer in answers for key in answer if key not in keys and key != "error")
    columns = [*keys, *results, "error"]
    rows = [dict.fromkeys(columns) | answer | own for answer, own in zip(answers, cells, strict=True)]
    return columns, rows


def _finished(
    grid: Grid, left: list[int], workers: int, executor: Executor | None, processes: bool
) -> Iterator[tuple[Chunk, list[Answer]]]:
    made_by = (__version__, data_version())
    question = grid.question.name
    known = getattr(executor, "_max_workers", None)
    size = _together(grid, len(left), known or _WORKERS_UNKNOWN if executor is not None else workers)
    chunks = [left[first : first + size] for first in range(0, len(left), size)]

    def submit(on: Executor, chunk: Chunk) -> Future[list[Answer]]:
        return on.submit(answer_rows, question, [grid.values(row) for row in chunk], made_by)

    if executor is not None:
        return over(executor, deque(chunks), submit)
    if processes and len(left) > 1:
        return over_processes(chunks, submit, workers)
    return here(chunks, lambda chunk: answer_rows(question, [grid.values(row) for row in chunk], made_by))


def _together(grid: Grid, rows: int, workers: int) -> int:
    """How many rows travel together: one plan, or so many estimates that nobody waits long for the last worker."""
    if grid.question.name.startswith("plan"):
        return 1
    return max(1, min(_MOST_TOGETHER, rows // (workers * _CHUNKS_PER_WORKER)))
