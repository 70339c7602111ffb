"""The journal of a sweep: finished rows as JSON lines, so that a run that was killed goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from perfmodel._version import __version__
from perfmodel.errors import PlanError
from perfmodel.specs.registry import data_version
from perfmodel.study.work import Answer

__all__ = ["Journal"]

_DOCUMENT = "perfmodel/sweep-journal/1"


class Journal:
    """Answers by row in a file that one run writes at a time; `done` holds those of earlier runs of the same grid.

    A line that was cut short by a kill is dropped and its row runs again. Raises `PlanError` for the journal of another
    grid, version or data, for one that another run is writing, and for a file that is no journal.
    """

    def __init__(self, file: str | Path, grid: str, rows: int) -> None:
        self.path, self.done = Path(file), dict[int, Answer]()
        self._header = {
            "document": _DOCUMENT, "perfmodel_version": __version__, "data_version": data_version(), "grid": grid,
            "rows": rows,
        }  # fmt: skip
        try:
            self._out: IO[bytes] = self.path.open("a+b")
        except OSError as error:
            raise PlanError(f"{self.path}: cannot be written: {error.strerror}") from None
        try:
            _lock(self._out, self.path)
            self._read()
        except BaseException:
            self._out.close()
            raise

    def add(self, answers: Iterable[tuple[int, Answer]]) -> None:
        """Write finished rows down before anything else happens to them; safe on disk when this returns."""
        lines = [json.dumps({"row": row, "answer": answer}, allow_nan=False) for row, answer in answers]
        self._out.write("".join(f"{line}\n" for line in lines).encode())
        self._out.flush()
        os.fsync(self._out.fileno())

    def _read(self) -> None:
        self._out.seek(0)
        whole, header = 0, None
        for line in self._out:
            if not line.endswith(b"\n"):  # killed while writing
                break
            try:
                entry = json.loads(line)
            except ValueError:
                raise PlanError(f"{self.path}: is no journal of a sweep; name another file") from None
            if header is None:
                header = entry
                self._check(header)
            else:
                self.done.setdefault(entry["row"], entry["answer"])
            whole += len(line)
        self._out.seek(whole)
        self._out.truncate()
        if header is None:
            self._out.write(f"{json.dumps(self._header)}\n".encode())
            self._out.flush()

    def _check(self, header: Any) -> None:
        if not isinstance(header, dict) or header.get("document") != _DOCUMENT:
            raise PlanError(f"{self.path}: is no journal of a sweep; name another file")
        for key, wanted in self._header.items():
            if header.get(key) != wanted:
                raise PlanError(
                    f"{self.path}: holds rows of another sweep ({key}: {header.get(key)}, now {wanted}); remove it, or "
                    "name another file"
                )

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._out.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _lock(file: IO[bytes], path: Path) -> None:
    with contextlib.suppress(ImportError):  # not on Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PlanError(f"{path}: another run is writing it") from None
