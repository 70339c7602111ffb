"""The space of training layouts as axes that broadcast: which degrees go together, and which rule drops the others.

Degrees are arrays of one axis each (tensor, context, expert parallelism, chunks, micro-batch, pipeline), so a formula
of two of them is evaluated on their product alone and only the step itself on all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.ops import ceil_div
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layout import RECOMPUTE, VOCABULARY_CHUNKS, ParallelLayout
from perfmodel.specs.architecture import Architecture

__all__ = ["Block", "Space", "training_space"]

Column = NDArray[np.float64]
Mask = NDArray[np.bool_]
MAX_TP, MAX_CP, MAX_VPP, MAX_MICRO_BATCH = 64, 16, 12, 16
REPLICAS = (2, 4, 8, 16, 32, 64)
"""Groups that each hold all shards of the states, where ZeRO does not cut them over all of data parallelism."""
LEAST_CP_TOKENS = 4096
"""A rank's part of a sequence below which context parallelism only adds messages."""
OVERLAP_RULE = "without overlap a step is never faster and needs no less memory"
GPIPE_RULE = "gpipe takes as long as 1f1b and needs no less memory"
PARTIAL_RULE = "bound: recomputing some of the layers cannot be better"
GROUP_CELLS = 6000
"""Cells that are priced in the time that a group of them costs whatever its size."""
_AXES = ("replicas", "tp", "cp", "ep", "etp", "vpp", "micro_batch", "pp")
_DEGREES = _AXES[1:]


@dataclass(frozen=True)
class Block:
    """Candidates that share their switches: degrees that broadcast to the shape of `allowed`."""

    degrees: Degrees
    allowed: Mask

    @property
    def size(self) -> int:
        """Candidates that no rule dropped."""
        return int(self.allowed.sum())

    @property
    def candidates(self) -> NDArray[np.int64]:
        """Positions, in the flattened shape, of the candidates that no rule dropped."""
        return np.flatnonzero(self.allowed)

    def cropped(self) -> Block:
        """Without the values of every axis that no candidate uses."""
        block = self
        for axis in range(self.allowed.ndim):
            others = tuple(i for i in range(self.allowed.ndim) if i != axis)
            used = np.flatnonzero(block.allowed.any(axis=others))
            if len(used) < block.allowed.shape[axis]:
                block = block.taken(axis, used)
        return block

    def dense(self) -> list[Block]:
        """Parts whose grids hold few candidates that a rule dropped; every candidate is in one of them."""
        return [self._of(part) for part in _split(np.stack(np.nonzero(self.allowed)))]

    def _of(self, coordinates: NDArray[np.int64]) -> Block:
        """The block of some candidates alone."""
        block, mask = self, np.zeros_like(self.allowed)
        mask[tuple(coordinates)] = True
        for axis, line in enumerate(coordinates):
            used = np.unique(line)
            if len(used) < mask.shape[axis]:
                block, mask = block.taken(axis, used), mask.take(used, axis)
        return Block(block.degrees, mask)

    def chunks(self, cells: int) -> Iterator[Block]:
        """Parts of at most `cells` positions where the pipeline axis can be cut that far."""
        parts = min(-(-self.allowed.size // cells), self.allowed.shape[-1])
        for part in np.array_split(np.arange(self.allowed.shape[-1]), parts):
            yield self.taken(self.allowed.ndim - 1, part) if parts > 1 else self

    def taken(self, axis: int, positions: NDArray[np.int64]) -> Block:
        """The block at some positions of one axis."""
        columns = {name: getattr(self.degrees, name) for name in (*_DEGREES, "dp", "shards")}
        changed = {name: column.take(positions, axis) for name, column in columns.items() if column.shape[axis] > 1}
        return Block(replace(self.degrees, **changed), self.allowed.take(positions, axis))

    def picked(self, positions: NDArray[np.int64]) -> Degrees:
        """The degrees of some candidates, by their positions in the flattened shape, as columns."""
        shape = self.allowed.shape
        columns: dict[str, Any] = {
            name: np.broadcast_to(getattr(self.degrees, name), shape)[np.unravel_index(positions, shape)]
            for name in (*_DEGREES, "dp", "shards")
        }
        repeated = self.degrees.recompute_layers
        if repeated is not None:
            columns["recompute_layers"] = np.broadcast_to(repeated, shape)[np.unravel_index(positions, shape)]
        return replace(self.degrees, **columns)

    def recomputing(self, recompute: str) -> Block:
        """The same candidates with another recomputation."""
        return replace(self, degrees=replace(self.degrees, recompute=recompute))

    def layout(self, position: int) -> ParallelLayout:
        """The layout at a position of the flattened shape."""
        return layout_of(self.picked(np.array([position])), 0)


def layout_of(d: Degrees, row: int) -> ParallelLayout:
    """The layout of one row of columns of degrees."""
    numbers = {name: int(getattr(d, name)[row]) for name in (*_DEGREES, "dp")}
    shards = int(d.shards[row]) // numbers["cp"]
    layers = None if d.recompute_layers is None else int(np.asarray(d.recompute_layers)[row])
    return ParallelLayout(
        **numbers,
        zero_stage=d.zero_stage,
        dp_shard=None if shards == numbers["dp"] else shards,
        sequence_parallel=d.sequence_parallel,
        recompute=d.recompute,
        recompute_layers=layers,
        schedule="interleaved" if numbers["vpp"] > 1 else "1f1b",
    )


@dataclass(frozen=True)
class Space:
    """Every candidate in blocks, how many were enumerated, and how many each rule removed."""

    blocks: tuple[Block, ...]
    candidates: int
    pruned: dict[str, int]
    partial: int = 0
    """Candidates beyond those of the blocks: layouts that recompute some layers of a stage, each number of them."""

    @property
    def priced(self) -> int:
        """Candidates that remain to be priced."""
        return sum(block.size for block in self.blocks)


def training_space(
    model: Architecture,
    accelerators: int,
    global_batch: int,
    seq_len: int,
    recomputes: tuple[str, ...] = RECOMPUTE,
    *,
    fewer: bool = False,
) -> Space:
    """Layouts of `model` on at most `accelerators`, over all degrees, micro-batches and switches.

    `dp` takes the largest divisor of the batch that the accelerators left over allow, so a batch that does not divide
    leaves accelerators idle rather than the space empty. With `fewer` it also takes those that half of the cluster
    allows, a quarter, and so on: what is slower may be cheaper.
    """
    pruned: Counter[str] = Counter()
    blocks: list[Block] = []
    candidates = 0
    # Stages of one chunk may have any number of micro-batches, so they fill a grid of their own more densely.
    parts_of_cluster = [accelerators >> halvings for halvings in range(accelerators.bit_length() if fewer else 1)]
    for chunks in ([1], list(range(2, MAX_VPP + 1))):
        for replicas, part in product(([1], [1, *REPLICAS]), parts_of_cluster):
            axes = _axes(model, accelerators, global_batch, seq_len, chunks, replicas)
            # 0 where nothing is left over: such candidates are dropped.
            dp = _largest_divisor(global_batch, np.floor(part / (axes["tp"] * axes["cp"] * axes["pp"])))
            allowed, removed = _allowed(model, part, global_batch, axes, dp, whole=part == accelerators)
            zero_stages = (0,) if len(replicas) == 1 else (1, 2, 3)
            switches = [(z, s) for z in zero_stages for s in (False, True)]
            candidates += allowed.size * len(switches) * len(recomputes)
            for zero_stage, sequence_parallel in switches:
                counts = Counter(removed)
                keep = allowed
                for rule, passes in _switch_rules(axes, dp, seq_len, zero_stage, sequence_parallel):
                    keep = _drop(keep, passes, rule, counts)
                pruned.update({rule: count * len(recomputes) for rule, count in counts.items()})
                if keep.any():
                    varied: dict[str, Any] = {name: axes[name] for name in _DEGREES}
                    degrees = Degrees(
                        **varied,
                        dp=np.maximum(dp, 1.0),
                        shards=np.maximum(dp / axes["replicas"], 1.0) * axes["cp"],
                        zero_stage=zero_stage,
                        sequence_parallel=sequence_parallel,
                    )
                    parts = Block(degrees, keep).cropped().dense()
                    blocks += [part.recomputing(recompute) for recompute in recomputes for part in parts]
    dominated = _dominated(blocks)
    pruned.update(dominated)
    partial = _partial(model.n_layers, blocks) if "full" in recomputes else 0
    candidates += sum(dominated.values()) + partial
    return Space(tuple(blocks), candidates, {rule: n for rule, n in pruned.items() if n}, partial)


def _partial(n_layers: int, blocks: list[Block]) -> int:
    """Numbers of layers of a stage that are neither none nor all."""
    found = 0.0
    for block in blocks:
        d = block.degrees
        if d.recompute == "none":
            found += float(((ceil_div(n_layers, d.pp * d.vpp) * d.vpp - 1.0) * block.allowed).sum())
    return int(found)


def _dominated(blocks: list[Block]) -> dict[str, int]:
    """Twins of candidates that differ in a switch that never helps, by the rule that says so; they are never built.

    Without overlap every transfer is seen whole, of which overlap leaves at most a part; memory is the same. GPipe has
    the bubble of 1F1B and holds all micro-batches where 1F1B holds at most as many as there are stages.
    """
    pipelines = sum(int((block.allowed & (block.degrees.pp > 1) & (block.degrees.vpp < 2)).sum()) for block in blocks)
    return {OVERLAP_RULE: sum(block.size for block in blocks), GPIPE_RULE: pipelines}


def _axes(
    model: Architecture, accelerators: int, global_batch: int, seq_len: int, chunks: list[int], replicas: list[int]
) -> dict[str, Column]:
    ffs = [model.d_ff] if model.experts is None else [model.d_ff, model.experts.shared_d_ff or model.d_ff]
    tensor = [
        tp
        for tp in _divisors(model.n_heads)
        if tp <= min(MAX_TP, accelerators)
        and all(ff % tp == 0 for ff in ffs)
        and (model.n_kv_heads % tp == 0 or tp % model.n_kv_heads == 0)
    ]
    context = [cp for cp in _divisors(seq_len) if cp == 1 or (cp <= MAX_CP and seq_len // cp >= LEAST_CP_TOKENS)]
    values = {
        "replicas": replicas,
        "tp": tensor,
        "cp": context,
        "ep": _divisors(model.n_experts),
        "etp": [1],
        "vpp": chunks,
        "micro_batch": [b for b in _divisors(global_batch) if b <= MAX_MICRO_BATCH],
        "pp": list(range(1, min(model.n_layers, accelerators) + 1)),
    }
    shapes = np.eye(len(_AXES), dtype=int)
    return {
        name: np.array(values[name], dtype=np.float64).reshape(np.where(shapes[i], len(values[name]), 1))
        for i, name in enumerate(_AXES)
    }


def _largest_divisor(number: int, limit: Column) -> Column:
    """The largest divisor of `number` that is at most `limit`, 0 where that is below 1."""
    divisors = np.array([0, *_divisors(number)], dtype=np.float64)
    found: Column = divisors[np.searchsorted(divisors, limit, side="right") - 1]
    return found


def _split(coordinates: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Candidates in groups, by the values of one axis after another, while that saves more cells than a group costs."""
    used = [len(np.unique(line)) for line in coordinates]
    cost, axis = min((_split_cost(coordinates, i), i) for i in range(len(coordinates)))
    if cost > 0.9 * (GROUP_CELLS + np.prod(used)):
        return [coordinates]
    line = coordinates[axis]
    return [part for value in np.unique(line) for part in _split(coordinates[:, line == value])]


def _split_cost(coordinates: NDArray[np.int64], axis: int) -> float:
    """Cells, and what the groups cost beside them, after a split by the values of an axis."""
    values, line = np.unique(coordinates[axis], return_inverse=True)
    cells = np.ones(len(values))
    for other, positions in enumerate(coordinates):
        if other != axis:
            width = int(positions.max()) + 1
            met = np.bincount(line * width + positions, minlength=len(values) * width) > 0
            cells *= met.reshape(len(values), width).sum(axis=1)
    return float(cells.sum() + GROUP_CELLS * len(values))


def _allowed(
    model: Architecture, accelerators: int, global_batch: int, axes: dict[str, Column], dp: Column, *, whole: bool
) -> tuple[Mask, Counter[str]]:
    replicas, tp, cp, ep, etp, vpp, micro_batch, pp = (axes[name] for name in _AXES)
    keep = np.ones(np.broadcast_shapes(*(axis.shape for axis in axes.values())), dtype=bool)
    removed: Counter[str] = Counter()
    sequences = global_batch / np.maximum(dp, 1.0)
    rules = (
        ("more accelerators than there are", dp >= 1),
        ("the same layout on half of these accelerators", whole | (2 * tp * cp * pp * dp > accelerators)),
        ("more chunks than layers", vpp * pp <= model.n_layers + VOCABULARY_CHUNKS),
        ("chunks without a pipeline", (vpp == 1) | (pp > 1)),
        ("micro-batch does not divide a replica's sequences", sequences % micro_batch == 0),
        ("interleaving needs micro-batches in multiples of pp", (vpp == 1) | (sequences / micro_batch % pp == 0)),
        ("replicas do not divide dp", (replicas == 1) | ((dp % replicas == 0) & (dp > replicas))),
        ("ep does not divide dp * cp * tp", (dp * cp * tp) % (ep * etp) == 0),
    )
    for rule, passes in rules:
        keep = _drop(keep, passes, rule, removed)
    return keep, removed


def _switch_rules(
    axes: dict[str, Column], dp: Column, seq_len: int, zero_stage: int, sequence_parallel: bool
) -> list[tuple[str, Mask]]:
    tp, cp, pp = axes["tp"], axes["cp"], axes["pp"]
    rules: list[tuple[str, Mask]] = []
    if sequence_parallel:
        rules.append(("sequence parallelism without tensor parallelism is the same layout", tp > 1))
        rules.append(("tp * cp does not divide seq_len", seq_len % (tp * cp) == 0))
    else:
        rules.append(("experts under tensor parallelism need sequence parallelism", (tp == 1) | (axes["ep"] == 1)))
    if zero_stage:
        rules.append(("ZeRO without data parallelism is the same layout", dp * cp > 1))
    if zero_stage >= 2:
        rules.append(("ZeRO-2 and 3 re-communicate for every micro-batch of a pipeline", pp == 1))
    return rules


def _drop(keep: Mask, passes: Mask, rule: str, removed: Counter[str]) -> Mask:
    left: Mask = keep & passes
    removed[rule] += int(keep.sum()) - int(left.sum())
    return left


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})
