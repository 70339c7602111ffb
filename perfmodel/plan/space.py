"""The space of training layouts: which degrees go together, and by which rule the others fall out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layout import RECOMPUTE, VOCABULARY_CHUNKS, ParallelLayout
from perfmodel.specs.architecture import Architecture

__all__ = ["Block", "Space", "training_space"]

Column = NDArray[np.float64]
MAX_TP, MAX_VPP, MAX_MICRO_BATCH = 64, 12, 16


@dataclass(frozen=True)
class Block:
    """Candidates that share their switches; one row of `degrees` each."""

    degrees: Degrees

    def layout(self, row: int) -> ParallelLayout:
        """The layout of one row."""
        d = self.degrees
        tp, pp, dp, vpp, micro_batch = (int(column[row]) for column in (d.tp, d.pp, d.dp, d.vpp, d.micro_batch))
        return ParallelLayout(
            tp=tp,
            pp=pp,
            dp=dp,
            vpp=vpp,
            micro_batch=micro_batch,
            zero_stage=d.zero_stage,
            sequence_parallel=d.sequence_parallel,
            recompute=d.recompute,
            schedule="interleaved" if vpp > 1 else "1f1b",
        )


@dataclass(frozen=True)
class Space:
    """Every candidate in blocks, how many were enumerated, and how many each rule removed."""

    blocks: tuple[Block, ...]
    candidates: int
    pruned: dict[str, int]

    @property
    def priced(self) -> int:
        """Candidates that remain to be priced."""
        return sum(len(block.degrees.tp) for block in self.blocks)


def training_space(
    model: Architecture, accelerators: int, global_batch: int, seq_len: int, recomputes: tuple[str, ...] = RECOMPUTE
) -> Space:
    """Enumerate layouts of `model` on at most `accelerators`, over tp, pp, dp, vpp, micro-batch and all switches.

    `dp` takes the largest divisor of the batch that the accelerators left over by `tp * pp` allow, so a batch that
    does not divide leaves accelerators idle rather than the space empty.
    """
    pruned: Counter[str] = Counter()
    rows = list(_degree_rows(model, accelerators, global_batch, pruned))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    switches = [(r, z, s) for r in recomputes for z in (0, 1, 2, 3) for s in (False, True)]
    candidates = (len(rows) + sum(pruned.values())) * len(switches)
    removed = Counter({rule: count * len(switches) for rule, count in pruned.items()})
    blocks = []
    for recompute, zero_stage, sequence_parallel in switches:
        tp, pp, dp, *_ = columns
        keep = np.ones(len(tp), dtype=bool)
        if sequence_parallel:
            keep = _drop(keep, tp > 1, "sequence parallelism without tensor parallelism is the same layout", removed)
            keep = _drop(keep, seq_len % tp == 0, "tp does not divide seq_len", removed)
        if zero_stage:
            keep = _drop(keep, dp > 1, "ZeRO without data parallelism is the same layout", removed)
        if zero_stage >= 2:
            keep = _drop(keep, pp == 1, "ZeRO-2 and 3 re-communicate for every micro-batch of a pipeline", removed)
        if keep.any():
            kept = [column[keep] for column in columns]
            blocks.append(Block(_degrees(kept, zero_stage, sequence_parallel, recompute)))
    return Space(tuple(blocks), candidates, dict(removed))


def _degrees(columns: list[Column], zero_stage: int, sequence_parallel: bool, recompute: str) -> Degrees:
    tp, pp, dp, vpp, micro_batch = columns
    return Degrees(
        tp,
        pp,
        dp,
        vpp,
        micro_batch,
        dp,
        zero_stage=zero_stage,
        sequence_parallel=sequence_parallel,
        recompute=recompute,
    )


def _drop(keep: NDArray[np.bool_], passes: NDArray[np.bool_], rule: str, removed: Counter[str]) -> NDArray[np.bool_]:
    removed[rule] += int((keep & ~passes).sum())
    return keep & passes


def _degree_rows(
    model: Architecture, accelerators: int, global_batch: int, pruned: Counter[str]
) -> Iterator[tuple[int, int, int, int, int]]:
    batch_divisors = _divisors(global_batch)
    for tp in _divisors(model.n_heads):
        if tp > min(MAX_TP, accelerators):
            continue
        if model.d_ff % tp or (model.n_kv_heads % tp and tp % model.n_kv_heads):
            pruned["tp does not divide the heads or the MLP"] += 1
            continue
        for pp in range(1, min(model.n_layers, accelerators // tp) + 1):
            room = accelerators // (tp * pp)
            dp = max(d for d in batch_divisors if d <= room)
            if tp * pp * dp <= accelerators // 2 and accelerators > 1:
                pruned["leaves half of the accelerators idle"] += 1
                continue
            yield from _chunk_rows(model, tp, pp, dp, global_batch // dp, pruned)


def _chunk_rows(
    model: Architecture, tp: int, pp: int, dp: int, sequences: int, pruned: Counter[str]
) -> Iterator[tuple[int, int, int, int, int]]:
    for vpp in range(1, min((model.n_layers + VOCABULARY_CHUNKS) // pp, MAX_VPP if pp > 1 else 1) + 1):
        for micro_batch in _divisors(sequences):
            if micro_batch > MAX_MICRO_BATCH:
                break
            if vpp > 1 and (sequences // micro_batch) % pp:
                pruned["interleaving needs micro-batches in multiples of pp"] += 1
                continue
            yield tp, pp, dp, vpp, micro_batch


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})
