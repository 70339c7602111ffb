"""Rows over executors: this process, a pool of our own that survives its workers, or anybody's executor."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from typing import Any

from perfmodel.errors import PerfModelError, PlanError
from perfmodel.study.work import Answer, one_thread_each, pin, ready

__all__ = ["Chunk", "Submit", "dask_executor", "here", "over", "over_processes"]

Chunk = Sequence[int]
"""Numbers of rows that travel together."""
Submit = Callable[[Executor, Chunk], "Future[list[Answer]]"]
_AHEAD, _AHEAD_UNKNOWN = 3, 64
_TRIES = 2


def here(chunks: Sequence[Chunk], work: Callable[[Chunk], list[Answer]]) -> Iterator[tuple[Chunk, list[Answer]]]:
    """Chunks one after the other in this process."""
    for chunk in chunks:
        yield chunk, work(chunk)


def over(
    executor: Executor, waiting: deque[Chunk], submit: Submit, ahead: int | None = None
) -> Iterator[tuple[Chunk, list[Answer]]]:
    """Chunks as an executor finishes them, `ahead` under way at a time; `waiting` is emptied.

    A chunk that fails as a whole goes back row by row; a row that fails alone answers with its error. Where the
    executor itself breaks, what was under way is back in `waiting` when the `BrokenExecutor` is raised.
    """
    most = ahead or _AHEAD_UNKNOWN
    under_way: dict[Future[list[Answer]], Chunk] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < most:
                chunk = waiting.popleft()
                under_way[_submitted(executor, submit, chunk, waiting)] = chunk
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    answers = future.result()
                except (BrokenExecutor, PerfModelError):
                    raise
                except ImportError as error:
                    raise PlanError(f"executor: its workers cannot import perfmodel ({error})") from None
                except Exception as error:
                    chunk = under_way.pop(future)
                    if len(chunk) > 1:
                        waiting.extendleft([row] for row in reversed(chunk))
                        continue
                    yield chunk, [{"error": f"{type(error).__name__}: {error}"}]
                else:
                    yield under_way.pop(future), answers
    except BrokenExecutor:
        waiting.extendleft(reversed(under_way.values()))
        raise
    finally:
        for future in under_way:
            future.cancel()


def _submitted(executor: Executor, submit: Submit, chunk: Chunk, waiting: deque[Chunk]) -> Future[list[Answer]]:
    try:
        return submit(executor, chunk)
    except BrokenExecutor:
        waiting.appendleft(chunk)
        raise


def over_processes(chunks: Sequence[Chunk], submit: Submit, workers: int) -> Iterator[tuple[Chunk, list[Answer]]]:
    """Chunks over processes of our own. A worker that is killed costs nothing but its time: what was under way runs
    again row by row, each alone, and a row that kills its worker twice answers with that as its error."""
    waiting: deque[Chunk] = deque(chunks)
    ahead = _AHEAD * workers
    while waiting:
        try:
            with _pool(min(workers, len(waiting))) as pool:
                yield from over(pool, waiting, submit, ahead)
        except BrokenExecutor:
            # What was under way stands in front again.
            suspects = [waiting.popleft() for _ in range(min(ahead, len(waiting)))]
            yield from _one_by_one(deque(row for chunk in suspects for row in chunk), submit)


def _one_by_one(rows: deque[int], submit: Submit) -> Iterator[tuple[Chunk, list[Answer]]]:
    tries = 0
    while rows:
        try:
            with _pool(1) as pool:
                while rows:
                    answers = submit(pool, [rows[0]]).result()
                    yield [rows.popleft()], answers
                    tries = 0
        except BrokenExecutor:
            tries += 1
            if tries == _TRIES:
                text = f"WorkerDied: the process was killed {_TRIES} times on this row (out of memory?)"
                yield [rows.popleft()], [{"error": text}]
                tries = 0


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned, not forked: a fork inherits a BLAS that has its threads already.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=pin)
    with one_thread_each():
        try:
            _check_start(pool)
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _check_start(pool: ProcessPoolExecutor) -> None:
    try:
        pool.submit(ready).result()
    except BrokenExecutor:
        raise PlanError(
            "workers: no worker process came up; a script that sweeps with workers needs its calls under "
            "`if __name__ == '__main__':`"
        ) from None


@contextlib.contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """An executor over the Dask cluster at `address`; its workers' nannies pin BLAS to one thread by default.

    Raises `MissingExtraError` without the extra, `PlanError` where nothing answers.
    """
    from perfmodel.errors import MissingExtraError

    try:
        from distributed import Client
    except ImportError:
        raise MissingExtraError("--dask: needs the extra dask: pip install 'perfmodel[dask]'") from None
    try:
        client: Any = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise PlanError(f"--dask {address}: nothing answers there ({error})") from None
    with client:
        yield client.get_executor(pure=False)
