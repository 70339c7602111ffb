"""The space of training layouts as tables: which degrees go together, and which rule drops the others.

A row is a mesh with its micro-batch; every row stands for all switches (ZeRO stage, sequence parallelism), numbers of
shards and numbers of recomputed layers that it may have, which pricing unfolds as axes of an array.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.splits import splits_of
from perfmodel.predict.layout import VOCABULARY_CHUNKS
from perfmodel.predict.schedules import DUALPIPE, V_SHAPED
from perfmodel.predict.training_task import TrainingTask
from perfmodel.specs.architecture import Architecture

__all__ = [
    "DEGREES",
    "SPLIT",
    "Block",
    "Rows",
    "Space",
    "Switches",
    "divisors",
    "replica_counts",
    "space_of",
    "training_space",
]

Column = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = dict[str, Column]
"""Columns of `DEGREES` and of what a row stands for, by name."""
DEGREES = ("tp", "cp", "ep", "etp", "pp", "dp", "vpp", "micro_batch")
SPLIT = ("full", "first", "last")
"""Columns of rows whose stages are placed by hand: layers of the fullest stage, the first and the last."""
PLAIN = "1f1b"
SEARCHED = (PLAIN, "interleaved", "zb-h1", "zb-h2", "zb-2p", *V_SHAPED, DUALPIPE)
"""Schedules that may be best; `GPIPE_RULE` and `ZB_1P_RULE` say why the others are not."""
MAX_TP, MAX_CP, MAX_VPP, MAX_MICRO_BATCH = 64, 16, 12, 16
LEAST_CP_TOKENS = 4096
"""A rank's part of a sequence below which context parallelism only adds messages."""
OVERLAP_RULE = "without overlap a step is never faster, and with the same stages needs the same memory"
ZERO_RULE = "ZeRO-2 and 3 communicate again for every micro-batch of a pipeline"
ZB_1P_RULE = "zb-1p takes as long as zb-h1 and needs no less memory"
GPIPE_RULE = "gpipe takes as long as 1f1b and needs no less memory"


class Switches(NamedTuple):
    """What is not a number; of the schedules `PLAIN` is 1F1B, interleaved where a rank holds several chunks."""

    zero_stage: int
    sequence_parallel: bool
    schedule: str


@dataclass(frozen=True)
class Block:
    """The rows of one context and expert parallelism: positions in a table that blocks share."""

    base: Rows
    index: NDArray[np.intp]
    cp: float
    ep: float
    etp: float

    def rows(self, index: NDArray[np.intp] | None = None) -> Rows:
        """Columns of some rows of the shared table, or of all of this block."""
        index = self.index if index is None else index
        chosen = {name: column[index] for name, column in self.base.items()}
        return chosen | {name: np.full(len(index), getattr(self, name)) for name in ("cp", "ep", "etp")}


@dataclass(frozen=True)
class Space:
    """Every layout, in blocks of rows; `dropped` counts combinations of degrees that break a rule, by rule.

    `recomputes` are kinds of recomputation, of which "full" comes with every number of layers from none to all.
    `legal` counts layouts, `uneven` those among them whose first and last stages hold fewer layers by choice, and
    `dominated` their twins that differ in a switch that never helps, by the rule that says so: they are never built.
    """

    model: Architecture
    global_batch: int
    seq_len: int
    blocks: tuple[Block, ...]
    recomputes: tuple[str, ...]
    schedules: tuple[str, ...]
    dropped: dict[str, int]
    legal: int = 0
    uneven: int = 0
    dominated: dict[str, int] = field(default_factory=dict)

    @property
    def candidates(self) -> int:
        """Everything that was enumerated, whether a rule dropped it or not."""
        return self.legal + sum(self.dropped.values()) + sum(self.dominated.values())

    def switches(self) -> Iterator[Switches]:
        """ZeRO stages, sequence parallelism off and on, and schedules; 1F1B stands for interleaved too."""
        schedules = dict.fromkeys(PLAIN if one == "interleaved" else one for one in self.schedules)
        yield from (Switches(*one) for one in product((0, 1, 2, 3), (False, True), schedules))

    def under(self, rows: Rows, switches: Switches) -> tuple[Rows, Mask]:
        """The rows for which these switches are a layout of its own that can run, and which of all rows they are."""
        keep = self._allows(rows, switches)
        rows = {name: column[keep] for name, column in rows.items()}
        if switches.schedule != PLAIN:
            chunks = 2.0 if switches.schedule in V_SHAPED else 1.0
            rows |= {"vpp": rows["vpp"] * chunks, "uneven": 0.0 * rows["uneven"]}
            rows["default"] = _options(_stage_layers(self.model.n_layers, rows), self.recomputes)
        return rows, keep

    def _allows(self, rows: Rows, switches: Switches) -> Mask:
        tp, ranks, pp = rows["tp"], rows["dp"] * rows["cp"], rows["pp"]
        if switches.sequence_parallel:
            keep: Mask = (tp > 1) & (self.seq_len % (tp * rows["cp"]) == 0)
        else:
            # Experts under tensor parallelism need sequence parallelism.
            keep = (tp == 1) | (rows["ep"] == 1)
        if switches.zero_stage:
            keep = keep & (ranks > 1)
        if switches.zero_stage >= 2:
            keep = keep & (pp == 1)
        m = self.global_batch / (rows["dp"] * rows["micro_batch"])
        if switches.schedule == PLAIN:
            chunked = rows["vpp"] > 1
            return keep & (chunked | (PLAIN in self.schedules)) & (~chunked | ("interleaved" in self.schedules))
        keep = keep & (rows["vpp"] == 1) & (pp > 1)
        if switches.schedule in V_SHAPED:
            return keep & (2 * pp <= self.model.n_layers + VOCABULARY_CHUNKS) & (m >= pp)
        if switches.schedule == DUALPIPE:
            return keep & (pp % 2 == 0) & (m % 2 == 0) & (m >= 2 * pp)
        return keep

    def layouts(self, rows: Rows, zero_stage: int) -> tuple[Column, Column]:
        """Layouts that a row stands for under one set of switches: with default stages, and with uneven ones."""
        shards = rows["ways"] if zero_stage else 1.0
        return rows["default"] * shards, rows["uneven"] * shards

    def stage_layers(self, rows: Rows) -> Column:
        """Layers of the fullest stage where nobody places them by hand."""
        return _stage_layers(self.model.n_layers, rows)


def space_of(task: TrainingTask, schedules: tuple[str, ...] | None = None) -> Space:
    """Every layout of a task, by default with the schedules that its software offers.

    Selective recomputation repeats unfused attention, or the cheap modules that the software can name.
    """
    selective = task.software.attention == "unfused" or task.steps.planned_modules
    recomputes = ("full", "selective") if selective else ("full",)
    offered = schedules or task.software.schedules
    return training_space(task.model, task.cluster.accelerators, task.global_batch, task.seq_len, recomputes, offered)


def training_space(
    model: Architecture,
    accelerators: int,
    global_batch: int,
    seq_len: int,
    recomputes: tuple[str, ...] = ("full", "selective"),
    schedules: tuple[str, ...] = SEARCHED,
) -> Space:
    """Layouts of `model` on at most `accelerators`, over all degrees, micro-batches and switches.

    `dp` takes every divisor of the batch that leaves accelerators for the other degrees, so a batch that does not
    divide leaves accelerators idle rather than the space empty. A combination that a rule drops counts once, whatever
    switches it might have had.
    """
    dropped: Counter[str] = Counter()
    blocks = tuple(
        block
        for cp in _contexts(seq_len)
        for base in [_counted(_base(model, accelerators // cp, global_batch, dropped), model.n_layers, recomputes)]
        for block in _blocks(model, base, float(cp), dropped)
    )
    searched = tuple(one for one in schedules if one in SEARCHED)
    space = Space(model, global_batch, seq_len, blocks, recomputes, searched, {})
    counts: Counter[str] = Counter()
    for block, switches in product(blocks, space.switches()):
        rows, _ = space.under(block.rows(), switches)
        default, by_hand = space.layouts(rows, switches.zero_stage)
        counts["legal"] += int(default.sum() + by_hand.sum())
        counts["uneven"] += int(by_hand.sum())
        counts[switches.schedule] += int((default * (rows["pp"] > 1) * (rows["vpp"] == 1) + by_hand).sum())
        if switches.zero_stage >= 2 and switches.schedule == PLAIN:
            whole = block.rows()
            dropped[ZERO_RULE] += int(((whole["pp"] > 1) & (whole["dp"] * whole["cp"] > 1)).sum())
    # Without overlap every transfer is seen whole, of which overlap leaves at most a part; memory is the same. GPipe
    # has the bubble of 1F1B and holds all micro-batches where 1F1B holds at most as many as there are stages.
    dominated = {OVERLAP_RULE: counts["legal"]}
    for name, rule, twin in (("gpipe", GPIPE_RULE, PLAIN), ("zb-1p", ZB_1P_RULE, "zb-h1")):
        if name in schedules and counts[twin]:
            dominated[rule] = counts[twin]
    return replace(
        space,
        dropped={rule: count for rule, count in dropped.items() if count},
        legal=counts["legal"],
        uneven=counts["uneven"],
        dominated=dominated,
    )


def replica_counts(dp: Column) -> Column:
    """In how many ways `dp` ranks may each hold part of a ZeRO shard: all of them, or equal groups of at least two."""
    values, inverse = np.unique(dp, return_inverse=True)
    ways: Column = np.array([max(1.0, len(divisors(int(value))) - 1.0) for value in values])[inverse]
    return ways


def _base(model: Architecture, accelerators: int, global_batch: int, dropped: Counter[str]) -> Rows:
    """Rows of tensor, pipeline and data parallelism, micro-batch and chunks on so many accelerators."""
    rows: Rows = {}
    dp = [dp for dp in divisors(global_batch) if dp <= accelerators]
    rows = _crossed(rows, "tp", _tensor(model, accelerators))
    rows = _crossed(rows, "pp", list(range(1, min(model.n_layers, accelerators) + 1)))
    rows = _crossed(rows, "dp", dp)
    rows = _kept(
        rows, rows["tp"] * rows["pp"] * rows["dp"] <= accelerators, "more accelerators than there are", dropped
    )
    rows = _crossed(rows, "micro_batch", [b for b in divisors(global_batch) if b <= MAX_MICRO_BATCH])
    whole = global_batch / rows["dp"] % rows["micro_batch"] == 0
    rows = _kept(rows, whole, "micro-batch does not divide a replica's sequences", dropped)
    rows = _crossed(rows, "vpp", list(range(1, MAX_VPP + 1)))
    fits = (rows["vpp"] == 1) | ((rows["pp"] > 1) & (rows["vpp"] * rows["pp"] <= model.n_layers + VOCABULARY_CHUNKS))
    rows = _kept(rows, fits, "chunks without a pipeline, or more of them than layers", dropped)
    n_microbatches = global_batch / (rows["dp"] * rows["micro_batch"])
    whole = (rows["vpp"] == 1) | (n_microbatches % rows["pp"] == 0)
    return _kept(rows, whole, "interleaving needs micro-batches in multiples of pp", dropped)


def _counted(rows: Rows, n_layers: int, recomputes: tuple[str, ...]) -> Rows:
    """The rows with how many layouts each stands for, as `Space.layouts` takes them."""
    by_pp = np.array([_options(splits_of(n_layers, pp)[0], recomputes).sum() for pp in range(n_layers + 1)])
    return rows | {
        "ways": replica_counts(rows["dp"]),
        "default": _options(_stage_layers(n_layers, rows), recomputes),
        "uneven": np.where(rows["vpp"] == 1, by_pp[rows["pp"].astype(int)], 0.0),
    }


def _options(layers: Column, recomputes: tuple[str, ...]) -> Column:
    """Ways to recompute stages of so many layers: every number of them, and other kinds."""
    numbers = layers + 1.0 if "full" in recomputes else 0.0 * layers
    return numbers + len([kind for kind in recomputes if kind != "full"])


def _stage_layers(n_layers: int, rows: Rows) -> Column:
    layers: Column = np.ceil(n_layers / (rows["pp"] * rows["vpp"])) * rows["vpp"]
    return layers


def _blocks(model: Architecture, base: Rows, cp: float, dropped: Counter[str]) -> Iterator[Block]:
    """The rows on which each expert parallelism fits."""
    ranks = base["dp"] * cp * base["tp"]
    for ep in divisors(model.n_experts):
        for etp in _expert_tensor(model):
            fits = ranks % (ep * etp) == 0
            dropped["ep * etp does not divide dp * cp * tp"] += int((~fits).sum())
            # Cutting experts further than the layer around them only adds messages.
            narrow = etp <= base["tp"]
            dropped["etp above tp"] += int((fits & ~narrow).sum())
            index = np.flatnonzero(fits & narrow)
            if len(index):
                yield Block(base, index, cp, float(ep), float(etp))


def _crossed(rows: Rows, name: str, values: list[int]) -> Rows:
    """Every row with every value."""
    n = len(next(iter(rows.values()))) if rows else 1
    return {key: np.repeat(column, len(values)) for key, column in rows.items()} | {
        name: np.tile(np.array(values, dtype=np.float64), n)
    }


def _kept(rows: Rows, passes: Mask, rule: str, dropped: Counter[str]) -> Rows:
    dropped[rule] += int((~passes).sum())
    return {name: column[passes] for name, column in rows.items()}


def _contexts(seq_len: int) -> list[int]:
    return [cp for cp in divisors(seq_len) if cp == 1 or (cp <= MAX_CP and seq_len // cp >= LEAST_CP_TOKENS)]


def _tensor(model: Architecture, accelerators: int) -> list[int]:
    ffs = [model.d_ff] if model.experts is None else [model.d_ff, model.experts.shared_d_ff or model.d_ff]
    return [
        tp
        for tp in divisors(model.n_heads)
        if tp <= min(MAX_TP, accelerators)
        and all(ff % tp == 0 for ff in ffs)
        and (model.n_kv_heads % tp == 0 or tp % model.n_kv_heads == 0)
    ]


def _expert_tensor(model: Architecture) -> list[int]:
    if model.experts is None:
        return [1]
    return [etp for etp in (1, 2, 4, 8) if model.experts.d_ff % etp == 0]


@lru_cache(maxsize=4096)
def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return tuple(dict.fromkeys([*small, *(number // d for d in reversed(small))]))
