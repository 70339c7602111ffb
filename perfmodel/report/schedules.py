"""Pipelines small enough to look at: when each rank runs which pass, replayed from a schedule's rules.

These drawings explain a schedule; the step model prices it by closed forms (`predict/schedules.py`). Messages take no
time here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from perfmodel.errors import PlanError, unknown_name

__all__ = ["DRAWN", "Pass", "idle_share", "replay"]

DRAWN = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2")
"""Schedules with a replay. ZB-1p and ZB-2p are searched, not given by rules; V-Half, V-Min and DualPipe have none."""

Key = tuple[str, int, int, int]
"""Kind (F, B, W), micro-batch, chunk, rank."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of one micro-batch: kind "F", "B" (gradients of inputs, or the whole backward pass) or "W"."""

    rank: int
    kind: str
    microbatch: int
    chunk: int
    start_s: float
    end_s: float


def replay(
    schedule: str, pp: int, n_microbatches: int, forward_s: float, inputs_s: float, weights_s: float, vpp: int = 2
) -> list[Pass]:
    """Every pass of a pipeline in the order of its start; times are of one micro-batch on a rank [s].

    Schedules that run the backward pass as one take `inputs_s + weights_s` for it; `vpp` counts the chunks of
    `interleaved`. Raises `PlanError` for a schedule without a replay and for micro-batches that it cannot group.
    """
    if schedule not in DRAWN:
        raise PlanError(unknown_name("schedule with a timeline", schedule, DRAWN))
    if schedule == "interleaved" and n_microbatches % pp:
        raise PlanError(f"n_microbatches: interleaved groups them by pp {pp} (got {n_microbatches})")
    chunks = vpp if schedule == "interleaved" else 1
    split = schedule in ("zb-h1", "zb-h2")
    backward_s = inputs_s if split else inputs_s + weights_s
    times = {"F": forward_s / chunks, "B": backward_s / chunks, "W": weights_s / chunks}
    orders = [list(_order(schedule, pp, n_microbatches, chunks, rank)) for rank in range(pp)]
    return _in_order(orders, times, chunks)


def idle_share(passes: Iterable[Pass], pp: int) -> float:
    """Idle share [1] of the slowest rank's time from its first pass to its last: what the laws call the bubble."""
    found = list(passes)
    spans = [
        max(one.end_s for one in found if one.rank == rank) - min(one.start_s for one in found if one.rank == rank)
        for rank in range(pp)
    ]
    return 1.0 - sum(one.end_s - one.start_s for one in found) / (pp * max(spans))


def _order(schedule: str, pp: int, m: int, chunks: int, rank: int) -> Iterator[Key]:
    """What a rank runs in turn: so many forward passes first, then one backward after each forward pass."""
    if schedule in ("zb-h1", "zb-h2"):
        yield from _split_order(pp, m, rank, 1 if schedule == "zb-h1" else 2)
        return
    forward = [("F", batch, chunk, rank) for batch, chunk in _grouped(pp, m, chunks, range(chunks))]
    backward = [("B", batch, chunk, rank) for batch, chunk in _grouped(pp, m, chunks, reversed(range(chunks)))]
    if schedule == "gpipe":
        ahead = len(forward)
    elif schedule == "interleaved":
        ahead = min(2 * (pp - rank - 1) + (chunks - 1) * pp, len(forward))
    else:
        ahead = min(pp - rank - 1, len(forward))
    yield from forward[:ahead]
    for forth, back in zip(forward[ahead:], backward, strict=False):
        yield forth
        yield back
    yield from backward[len(forward) - ahead :]


def _grouped(pp: int, m: int, chunks: int, order: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Micro-batches with their chunks; with several chunks a rank takes `pp` of one chunk before the next chunk."""
    size, turn = (pp if chunks > 1 else m), tuple(order)
    for first in range(0, m, size):
        for chunk in turn:
            for batch in range(first, min(first + size, m)):
                yield batch, chunk


def _in_order(orders: list[list[Key]], times: dict[str, float], chunks: int) -> list[Pass]:
    pp, done, clock, found = len(orders), dict[Key, float](), [0.0] * len(orders), list[Pass]()
    at = [0] * pp
    while any(at[rank] < len(orders[rank]) for rank in range(pp)):
        ready = [
            (max(clock[rank], begun), rank)
            for rank in range(pp)
            if at[rank] < len(orders[rank])
            and (begun := _ready_s(orders[rank][at[rank]], done, pp, chunks, folded=False)) is not None
        ]
        start, rank = min(ready)
        key = orders[rank][at[rank]]
        at[rank] += 1
        clock[rank] = done[key] = start + times[key[0]]
        found.append(Pass(rank, key[0], key[1], key[2], start, clock[rank]))
    return sorted(found, key=lambda one: (one.start_s, one.rank))


def _ready_s(key: Key, done: dict[Key, float], pp: int, chunks: int, *, folded: bool) -> float | None:
    """When the pass before this one has ended, None where it has not run."""
    before = _before(key, pp, chunks, folded=folded)
    return 0.0 if before is None else done.get(before)


def _before(key: Key, pp: int, chunks: int, *, folded: bool) -> Key | None:
    """The pass that a pass waits for; folded chunks lead down the ranks and back up."""
    kind, batch, chunk, rank = key
    if kind == "W":
        return ("B", batch, chunk, rank)
    step = -1 if folded and chunk == 1 else 1
    stage = rank - step if kind == "F" else rank + step
    if 0 <= stage < pp:
        return (kind, batch, chunk, stage)
    other = chunk - 1 if kind == "F" else chunk + 1
    if other < 0:
        return None
    if other == chunks:
        return ("F", batch, chunk, rank)
    return (kind, batch, other, rank if folded else (stage + pp) % pp)


def _split_order(pp: int, m: int, rank: int, deep: int) -> Iterator[Key]:
    """ZB-H1 (`deep` 1) and ZB-H2 (2): as 1F1B, `deep` times as many ahead, and weight gradients as many pairs late."""
    ahead = min(deep * (pp - rank - 1), m)
    late = deep * rank
    for batch in range(ahead):
        yield ("F", batch, 0, rank)
    for batch in range(m):
        if batch + ahead < m:
            yield ("F", batch + ahead, 0, rank)
        yield ("B", batch, 0, rank)
        if batch >= late:
            yield ("W", batch - late, 0, rank)
    for batch in range(max(m - late, 0), m):
        yield ("W", batch, 0, rank)
