"""What a worker does: rows in, answers out, and a process that is one thread wide and dies with its parent.

This module imports nothing heavy, so that a new process is pinned before NumPy is loaded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["Answer", "answer_rows", "one_thread_each", "pin", "ready"]

Answer = dict[str, Any]
"""Result columns of a row, or `{"error": "Kind: text"}`."""
_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip


def answer_rows(question: str, rows: Sequence[Mapping[str, Any]], made_by: tuple[str, str]) -> list[Answer]:
    """Answers in the order of `rows`; a row that raises answers with its error.

    Raises `PlanError` where this worker's perfmodel or its data differ from `made_by`.
    """
    from perfmodel._version import __version__
    from perfmodel.errors import PlanError
    from perfmodel.specs.registry import data_version

    here = (__version__, data_version())
    if here != tuple(made_by):
        raise PlanError(f"worker: has perfmodel {' with data '.join(here)}, the sweep {' with data '.join(made_by)}")
    return [_answer(question, row) for row in rows]


def _answer(question: str, row: Mapping[str, Any]) -> Answer:
    from perfmodel.predict.frames import document_of, row_of
    from perfmodel.study.questions import QUESTIONS

    try:
        return row_of(document_of(QUESTIONS[question].answer(row)))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def pin() -> None:
    """Prepare a new worker process: one thread for BLAS, Ctrl-C left to the parent, no life without it."""
    import multiprocessing

    os.environ.update(dict.fromkeys(_THREADS, "1"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def ready() -> bool:
    """Whether a worker came up at all."""
    return True


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes started in here see one thread for BLAS from their first instruction on."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
