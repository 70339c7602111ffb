"""The question of a plan of experts, checked before any work, and what a placement gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.formulas.moe import imbalanced_layer_time
from perfmodel.formulas.moe_exchange import placed_exchange_share
from perfmodel.plan.experts.traffic import crossings
from perfmodel.predict.scale_out import carrying_tiers
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.expert_load import checked_load, checked_transitions

__all__ = ["OBJECTIVES", "ExpertTask", "Outcome", "expert_task"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
OBJECTIVES = ("balance", "traffic", "both")


@dataclass(frozen=True)
class Outcome:
    """What a placement gives: per layer the fullest rank and node over the mean, mean shares of tokens that change."""

    max_over_mean: Floats
    node_max_over_mean: Floats
    cross_rank: float
    cross_node: float
    relative_time: float


@dataclass(frozen=True)
class ExpertTask:
    """A checked question; `load[layer, expert]`, `flow[layer, i, j]` (None: layers are independent)."""

    load: Floats
    flow: Floats | None
    ranks: int
    nodes: int
    slots: int
    groups: int | None
    objective: str
    duplicates: bool
    previous: Ints | None
    move_cost: float
    exchange_share: float
    work_limit: int | None
    time_limit_s: float | None
    cluster: str | None
    links: tuple[float, float] | None = None
    """Bytes a second of a rank's link inside its node and out of it, where a cluster is given."""
    progress: Callable[[int, int], None] | None = field(default=None, compare=False)

    @property
    def slots_per_rank(self) -> int:
        return self.slots // self.ranks

    @property
    def experts(self) -> int:
        return int(self.load.shape[1])

    def request(self) -> dict[str, Any]:
        """The resolved question; it gives the same plan again."""
        return {
            "load": self.load.tolist(),
            "ranks": self.ranks,
            "nodes": self.nodes,
            "slots": self.slots,
            "groups": self.groups,
            "transitions": None if self.flow is None else self.flow.tolist(),
            "cluster": self.cluster,
            "objective": self.objective,
            "duplicates": self.duplicates,
            "previous": None if self.previous is None else self.previous.tolist(),
            "move_cost": self.move_cost,
            "exchange_share": self.exchange_share,
            "work_limit": self.work_limit,
            "time_limit_s": self.time_limit_s,
        }

    def outcome(self, experts: Ints) -> Outcome:
        """Price `experts[layer, rank, slot]` by the laws, from nothing but the placement."""
        shares = np.zeros((*self.load.shape, self.ranks))
        for share, layer in zip(shares, experts, strict=True):
            for rank, row in enumerate(layer):
                np.add.at(share[:, rank], row, 1.0)
        shares /= shares.sum(axis=2, keepdims=True)
        on_ranks = np.einsum("le,ler->lr", self.load, shares)
        on_nodes = on_ranks.reshape(len(on_ranks), self.nodes, -1).sum(axis=2)
        cross_rank, cross_node = self._crossings(shares, on_ranks, on_nodes)
        fullest = _over_mean(on_ranks)
        return Outcome(
            fullest, _over_mean(on_nodes), cross_rank, cross_node,
            float(np.mean(self.layer_time(fullest, cross_rank, cross_node))),
        )  # fmt: skip

    def layer_time(self, fullest: Any, cross_rank: Any, cross_node: Any) -> Any:
        """Time of a layer over that of a balanced, unplaced one; arrays broadcast.

        Without a cluster an exchange takes as long as copies change rank, with one as long as its slower link works.
        """
        crossing = cross_rank
        if self.links is not None and self.ranks > 1:
            crossing = placed_exchange_share(
                cross_rank - cross_node, cross_node, self.ranks, self.ranks // self.nodes, *self.links
            )  # fmt: skip
        return imbalanced_layer_time(1 - self.exchange_share, self.exchange_share, fullest, crossing)

    def least_time(self, fullest: float, crossing: float) -> float:
        """No placement of this tail and this share of crossing copies is faster: the links share them best."""
        far = 0.0
        if self.links is not None and self.nodes > 1:
            far = crossing * self.links[1] / sum(self.links)
        return float(self.layer_time(fullest, crossing, far))

    def _crossings(self, shares: Floats, on_ranks: Floats, on_nodes: Floats) -> tuple[float, float]:
        if len(shares) == 1:  # nothing comes after the only layer: a token's next rank is drawn anew
            on_ranks, on_nodes = np.repeat(on_ranks, 2, axis=0), np.repeat(on_nodes, 2, axis=0)
        elif self.flow is not None:
            return crossings(shares, self.flow, self.nodes)
        return _independent(on_ranks), _independent(on_nodes)

    def value(self, outcome: Outcome) -> float:
        """What the objective makes least."""
        if self.objective == "balance":
            return float(outcome.max_over_mean.mean())
        return outcome.cross_rank if self.objective == "traffic" else outcome.relative_time


def _over_mean(loads: Floats) -> Floats:
    return np.asarray(loads.max(axis=1) / loads.mean(axis=1))


def _independent(loads: Floats) -> float:
    share = loads / loads.sum(axis=1, keepdims=True)
    return float(1 - np.mean((share[:-1] * share[1:]).sum(axis=1)))


def expert_task(
    load: Any,
    ranks: int,
    nodes: int,
    slots: int | None,
    groups: int | None,
    transitions: Any,
    cluster: Cluster | str | dict[str, Any] | None,
    objective: str,
    duplicates: bool,
    previous: Any,
    move_cost: float,
    exchange_share: float,
    work_limit: int | None,
    time_limit_s: float | None,
    progress: Callable[[int, int], None] | None,
) -> ExpertTask:
    """Check every argument; raises `PlanError` naming key, value and what is allowed."""
    if objective not in OBJECTIVES:
        raise PlanError(unknown_name("objective", objective, OBJECTIVES))
    loads = checked_load(load, error=PlanError)
    experts = loads.shape[1]
    flow = None if transitions is None else checked_transitions(transitions, loads.shape, error=PlanError)
    _whole("ranks", ranks)
    _whole("nodes", nodes)
    _divides("nodes", nodes, "ranks", ranks)
    slots = ranks * -(-experts // ranks) if slots is None else _whole("slots", slots)
    if slots < experts:
        raise PlanError(f"slots: must hold every expert once, at least {experts} (got {slots})")
    if slots % ranks:
        near = slots - slots % ranks
        raise PlanError(f"slots: must divide by ranks {ranks} (got {slots}); nearest: {near} or {near + ranks}")
    if groups is not None:
        _whole("groups", groups)
        _divides("groups", groups, "experts", experts)
        _divides("nodes", nodes, "groups", groups)
    if slots // ranks > experts and not duplicates:
        raise PlanError(
            f"slots: {slots // ranks} on a rank but only {experts} experts; fewer slots, or duplicates=True for "
            "several replicas of an expert on one rank"
        )
    if objective != "balance" and flow is None:
        raise PlanError(f"transitions: missing; objective {objective!r} needs them, or use objective 'balance'")
    _share("move_cost", move_cost, np.inf)
    _share("exchange_share", exchange_share, 1.0)
    if work_limit is not None:
        _whole("work_limit", work_limit)
    if time_limit_s is not None:
        _share("time_limit_s", time_limit_s, np.inf, above=True)
    machine = None if cluster is None else (cluster if isinstance(cluster, Cluster) else load_cluster(cluster))
    if machine is not None and machine.accelerators < ranks:
        raise PlanError(f"ranks: must be at most the {machine.accelerators} accelerators of {machine.id} (got {ranks})")
    before = None if previous is None else _previous(previous, loads.shape, slots, ranks)
    return ExpertTask(
        loads, flow, ranks, nodes, slots, groups, objective, bool(duplicates), before, float(move_cost),
        float(exchange_share), work_limit, time_limit_s, None if machine is None else machine.id,
        None if machine is None else _links(machine), progress,
    )  # fmt: skip


def _links(machine: Cluster) -> tuple[float, float]:
    """What a rank's link carries inside its node and out of it [B/s]."""
    tiers = carrying_tiers(machine)
    return tiers[0].byte_per_s, tiers[min(1, len(tiers) - 1)].byte_per_s


def _previous(previous: Any, shape: tuple[int, ...], slots: int, ranks: int) -> Ints:
    try:
        array = np.asarray(previous, dtype=np.int64)
    except (TypeError, ValueError):
        raise PlanError("previous: must be slot_expert[layer][slot] of an earlier plan, whole numbers") from None
    if array.shape != (shape[0], slots):
        raise PlanError(f"previous: must have shape {(shape[0], slots)} (layers, slots) (got {array.shape})")
    for layer, row in enumerate(array):
        missing = np.setdiff1d(np.arange(shape[1]), row)
        if len(missing) or row.min() < 0 or row.max() >= shape[1]:
            raise PlanError(f"previous: layer {layer}: must hold each of the {shape[1]} experts, and no other")
    return array.reshape(shape[0], ranks, -1)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise OutOfRangeError(f"{name}: must be a whole number >= 1 (got {value!r})")
    return int(value)


def _divides(name: str, divisor: int, whole_name: str, whole: int) -> None:
    if whole % divisor:
        raise PlanError(f"{name}: must divide {whole_name} {whole} (got {divisor})")


def _share(name: str, value: Any, high: float, *, above: bool = False) -> None:
    fine = not isinstance(value, bool) and isinstance(value, (int, float)) and 0 <= value <= high and value < np.inf
    if not fine or (above and value <= 0):
        wanted = "a number > 0" if above else f"a number >= 0{'' if high == np.inf else f' and <= {high:g}'}"
        raise OutOfRangeError(f"{name}: must be {wanted} (got {value!r})")
