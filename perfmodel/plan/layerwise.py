"""Stage by stage: how many layers each holds and how many of them it recomputes, as an exact program on tied layers.

Early stages keep the activations of more micro-batches than late ones, so memory asks recomputation of them first, and
a stage that recomputes can hold fewer layers (Sun et al. 2024, "AdaPipe"). The layers of a model are alike, so a stage
is two numbers. All meshes are bounded at once by the pace that their memory allows; those that can still beat the plan
are solved one by one: for every pace of the slowest stage, a dynamic program over the stages recomputes least.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.loads import Loads
from perfmodel.plan.pricing import Query, columns_of
from perfmodel.plan.space import DEGREES, PLAIN, Rows, Switches, divisors
from perfmodel.predict.cost import total
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layer import Turn
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.memory import StageMemory
from perfmodel.predict.step import Load
from perfmodel.predict.training import step_cost_usd
from perfmodel.predict.training_task import TrainingTask, degrees_of
from perfmodel.predict.weights import Weights

__all__ = ["LINEAR", "Layered", "Open", "stage_by_stage"]

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Open = Sequence[tuple[Switches, Rows]]
"""Rows of one chunk a stage that could beat the plan if every stage were as fast as the mean one."""
LINEAR = ("time", "cost")
"""Objectives in which every second of the same accelerators is worth the same."""
_HALVINGS = 16
_CELLS = 1 << 21
_NEVER = 1 << 40
"""Recomputed layers where no number of them is enough."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Layered:
    """The best layout beside a plan, if one is better; of `meshes` whose pace might allow it, so many were `solved`."""

    layout: ParallelLayout | None
    meshes: int
    solved: int


@dataclass(frozen=True)
class _Mesh:
    """A mesh with one micro-batch's seconds: of a layer, of recomputing it, of the head, and of both ends.

    Stage `s` with `n` layers must recompute `needs[s, n]` of them, at which all layers find a place no sooner than at
    `pace_s`; `per_s` is the value of a second.
    """

    layout: ParallelLayout
    load: Load
    n_microbatches: float
    layer_s: float
    again_s: float
    head_s: float
    ends_s: float
    pace_s: float
    needs: Whole
    per_s: float

    @property
    def stage_s(self) -> Floats:
        """Seconds of every stage by its layers [s]; infinite where memory does not suffice."""
        layers = np.arange(self.needs.shape[1])
        return _stage_seconds(self.needs, layers, self.layer_s, self.again_s, self.head_s, last=-1)

    def pipeline_s(self, n_layers: int, slowest_s: float, recomputed: float) -> float:
        """All micro-batches on the slowest stage, and the bubble of the mean one [s]."""
        stages = len(self.needs)
        mean = (n_layers * self.layer_s + recomputed * self.again_s + self.ends_s) / stages
        return self.n_microbatches * slowest_s + (stages - 1.0) * mean


def stage_by_stage(query: Query, loads: Loads, rows: Open, best: float) -> Layered:
    """The layout of least time in its pipeline among those of value below `best`; the value is time or cost."""
    n_layers = query.task.model.n_layers
    found = [mesh for switches, some in rows for mesh in _meshes(query, loads, switches, some, best)]
    floors = [mesh.pipeline_s(n_layers, mesh.pace_s, 0.0) * mesh.per_s for mesh in found]
    chosen, solved = None, 0
    best *= 1.0 - _ROUNDING
    for at in np.argsort(floors, kind="stable").tolist():
        if floors[at] >= best:
            break
        solved, mesh = solved + 1, found[at]
        for layout in _placed(mesh, n_layers, best / mesh.per_s):
            value = _value(query, layout, mesh.load)
            if value < best:
                chosen, best = layout, value
    return Layered(chosen, len(found), solved)


def _value(query: Query, layout: ParallelLayout, load: Load) -> float:
    """What a layout is worth; infinite beyond a limit."""
    task = query.task
    degrees = degrees_of(layout, task.model.n_layers)
    step = task.steps.price(degrees, task.global_batch, task.seq_len, detail=False, load=load)
    of = columns_of(task, degrees, step)
    return float(query.value(of)) if all(limit.needs(of) <= limit.most for limit in query.limits) else np.inf


def _placed(mesh: _Mesh, n_layers: int, most_s: float) -> Iterator[ParallelLayout]:
    """Layouts of a mesh by rising pace, each with less recomputation than all faster ones and a shorter pipeline."""
    seconds, fewest = mesh.stage_s, _NEVER
    for pace in np.unique(seconds[(seconds >= mesh.pace_s * (1.0 - _ROUNDING)) & (seconds < np.inf)]):
        if mesh.pipeline_s(n_layers, pace, 0.0) >= most_s:
            return
        found = _least_recomputed(np.where(seconds <= pace * (1.0 + _ROUNDING), mesh.needs, _NEVER), n_layers)
        if found is None or sum(found[1]) >= fewest:
            continue
        fewest = sum(found[1])
        taken = mesh.pipeline_s(n_layers, float(pace), fewest)
        if taken < most_s:
            most_s = taken
            stages, recomputed = found
            changes = {"recompute": "full", "recompute_layers": recomputed} if fewest else {"recompute": "none"}
            yield mesh.layout.model_copy(update={"stage_layers": stages, **changes})


def _least_recomputed(needs: Whole, n_layers: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Layers of each stage and how many it recomputes, in all as few as can be (None: it cannot be)."""
    stages, options = needs.shape
    before = np.arange(n_layers + 1)[:, None] - np.arange(options)
    least = np.full(n_layers + 1, _NEVER)
    least[0] = 0
    picks = []
    for row in needs:
        table = np.where(before >= 0, least[before], _NEVER) + row
        picks.append(table.argmin(axis=1))
        least = np.minimum(table.min(axis=1), _NEVER)
    if least[n_layers] >= _NEVER:
        return None
    layers: list[int] = []
    for pick in reversed(picks):
        layers.append(int(pick[n_layers - sum(layers)]))
    layers.reverse()
    return tuple(layers), tuple(int(needs[stage, layers[stage]]) for stage in range(stages))


# All meshes at once: of each the first stage, the last, and those between, as many as the longest pipeline has


@dataclass(frozen=True)
class _Paced:
    """Rows with what a `_Mesh` takes, as columns; `open` says which can still be best."""

    rows: Rows
    columns: dict[str, Floats]
    needs: Whole
    open: NDArray[np.bool_]

    def needs_of(self, row: int) -> Whole:
        """The table of one row's stages, in their order."""
        between = np.arange(2, int(self.rows["pp"][row]))
        return self.needs[row, [0, *between, 1]]


def _meshes(query: Query, loads: Loads, switches: Switches, rows: Rows, best: float) -> Iterator[_Mesh]:
    """The meshes of rows, with every number of shards, that the pace which memory allows leaves below `best`."""
    for widest in _cuts(query, loads, switches, rows, best):
        # Shards over all ranks need least memory: what is too slow with them is too slow.
        some = {**widest, "shards": widest["dp"] * widest["cp"], "dp_shard": widest["dp"]}
        still = _paced(query, loads, switches, some, best).open
        if not still.any():
            continue
        left = {name: column[still] for name, column in some.items()}
        paced = _paced(query, loads, switches, _with_replicas(left) if switches.zero_stage else left, best)
        for at in np.flatnonzero(paced.open).tolist():
            row = {name: float(column[at]) for name, column in paced.rows.items()}
            load = loads.of(row, switches.sequence_parallel, 1)
            one = {name: float(column[at]) for name, column in paced.columns.items()}
            yield _Mesh(_layout(row, switches), load, **one, needs=paced.needs_of(at))


def _cuts(query: Query, loads: Loads, switches: Switches, rows: Rows, best: float) -> Iterator[Rows]:
    """Rows that are bounded together: pipelines of like length, as many as memory likes."""
    if not rows or not len(rows["pp"]):
        return
    order = np.argsort(rows["pp"], kind="stable")
    cells = rows["pp"][order] * (1 + _most_layers(query, loads, switches, rows, best))
    part = (np.cumsum(cells) // _CELLS).astype(int)
    for cut in np.split(order, np.flatnonzero(np.diff(part)) + 1):
        yield {name: column[cut] for name, column in rows.items()}


def _most_layers(query: Query, loads: Loads, switches: Switches, rows: Rows, best: float) -> int:
    """Layers of a stage that alone would take as long as the best layout known, of the mesh with the fastest layer."""
    layer_s = Turn.of(loads.of(rows, switches.sequence_parallel, 1).layer, {}).all.seconds
    turns = query.task.global_batch / (rows["dp"] * rows["micro_batch"])
    return int(min(query.task.model.n_layers, np.max(best / _per_second(query, rows) / turns / layer_s)))


def _paced(query: Query, loads: Loads, switches: Switches, rows: Rows, best: float) -> _Paced:
    """The pace at which all layers find a place, within a few parts in 1e5 from below."""
    task, load = query.task, loads.of(rows, switches.sequence_parallel, 3)
    n_layers = task.model.n_layers
    degrees, per_s = _degrees(rows, switches), _per_second(query, rows).reshape(-1, 1, 1)
    m = task.global_batch / (degrees.dp * degrees.micro_batch)
    layer_s, again_s = Turn.of(load.layer, {}).all.seconds, total(load.repeated["full"].values()).seconds
    head_s, ends_s = load.ends[0].seconds, load.ends[0].seconds + load.ends[1].seconds
    layers = np.arange(1.0 + _most_layers(query, loads, switches, rows, best))
    needs = _needs(task, degrees, m, layers, query.limits[0].most)
    seconds = _stage_seconds(needs, layers, layer_s, again_s, head_s, last=1)
    # The pace lies between the mean stage's, and where it alone would take as long as the best layout known.
    low, high = n_layers * layer_s / degrees.pp, best / per_s / m
    enough = _held(seconds, high) >= n_layers
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        holds = _held(seconds, middle) >= n_layers
        low, high = np.where(holds, low, middle), np.where(holds, middle, high)
    floor = m * low + (degrees.pp - 1.0) * (n_layers * layer_s + ends_s) / degrees.pp
    columns = {
        "n_microbatches": m,
        "layer_s": layer_s,
        "again_s": again_s,
        "head_s": head_s,
        "ends_s": ends_s,
        "pace_s": low,
        "per_s": per_s,
    }
    flat = {name: np.broadcast_to(column, m.shape).ravel() for name, column in columns.items()}
    return _Paced(rows, flat, needs, (enough & (floor * per_s < best)).ravel())


def _needs(task: TrainingTask, d: Degrees, m: Any, layers: Floats, most: float) -> Whole:
    """Layers that the first stage, the last and those between must recompute, by mesh, stage and its layers."""
    weights = Weights(task.model, task.software, d, task.precision, task.optimizer, task.steps.trainable)
    memory = StageMemory(task.software, weights, d, task.steps.share(d, task.seq_len), m)
    between = np.arange(1.0, d.pp.max() - 1.0).reshape(-1, 1)
    last = layers + task.model.mtp_layers
    places = ((layers, 0.0, True, 0.0), (last, d.pp - 1.0, False, 1.0), (layers, between, False, 0.0))

    def held(recomputed: Any) -> Floats:
        parts = [
            np.broadcast_to(memory.of(*place, recomputed).total, (len(m), width, len(layers)))
            for place, width in zip(places, (1, 1, len(between)), strict=True)
        ]
        return np.concatenate(parts, axis=1)

    none, one, every = held(0.0), held(1.0), held(layers)
    # From the first recomputed layer on memory falls evenly.
    falls = (one - every) / np.maximum(layers - 1.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        more = np.ceil(np.maximum(one - most, 0.0) / falls - 1e-9)
    needs = np.where(none <= most, 0.0, 1.0 + np.where(one <= most, 0.0, more))
    stage = np.concatenate([[[0.0], [0.0]], between])
    return np.where((needs <= layers) & (stage < d.pp - 1.0), needs, _NEVER).astype(np.int64)


def _stage_seconds(needs: Whole, layers: Any, layer_s: Any, again_s: Any, head_s: Any, last: int) -> Floats:
    """Seconds of stages by their layers [s]; the `last` of them also has the head."""
    seconds: Floats = np.where(needs < _NEVER, layers * layer_s + needs * again_s, np.inf)
    seconds[..., [last], :] += head_s
    return seconds


def _held(seconds: Floats, pace: Any) -> Any:
    """Layers that all stages together can hold at a pace."""
    most = ((seconds <= pace) * np.arange(1.0, seconds.shape[-1] + 1.0)).max(axis=-1, keepdims=True)
    return np.maximum(most - 1.0, 0.0).sum(axis=-2, keepdims=True)


def _degrees(rows: Rows, switches: Switches) -> Degrees:
    d: dict[str, Any] = {name: rows[name].reshape(-1, 1, 1) for name in DEGREES}
    return Degrees(
        **d,
        shards=rows["shards"].reshape(-1, 1, 1),
        zero_stage=switches.zero_stage,
        sequence_parallel=switches.sequence_parallel,
        recompute="full",
    )


def _whole(rows: Rows) -> Rows:
    """The rows with shards over all ranks that hold the same weights."""
    return {**rows, "shards": rows["dp"] * rows["cp"], "dp_shard": rows["dp"]}


def _with_replicas(rows: Rows) -> Rows:
    """The rows once for every number of ranks that share a shard."""
    ways = [[float(one) for one in divisors(int(dp)) if one > 1] or [1.0] for dp in rows["dp"]]
    at = np.repeat(np.arange(len(ways)), [len(one) for one in ways])
    inside = np.array([one for some in ways for one in some])
    rows = {name: column[at] for name, column in rows.items()}
    return {**rows, "shards": inside * rows["cp"], "dp_shard": inside}


def _per_second(query: Query, rows: Rows) -> Any:
    """Value of a second, which is the same however many of them a step takes."""
    accelerators = rows["tp"] * rows["pp"] * rows["dp"] * rows["cp"]
    one = {"step_time_s": np.ones(len(accelerators)), "cost_usd": step_cost_usd(query.task, accelerators, 1.0)}
    return query.value(one.__getitem__)


def _layout(row: dict[str, float], switches: Switches) -> ParallelLayout:
    return ParallelLayout(
        **{name: int(row[name]) for name in DEGREES},
        zero_stage=switches.zero_stage,
        dp_shard=None if row["dp_shard"] == row["dp"] else int(row["dp_shard"]),
        sequence_parallel=switches.sequence_parallel,
        recompute="none",
        schedule=PLAIN,
    )
