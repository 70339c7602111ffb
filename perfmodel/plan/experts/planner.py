"""`plan_experts`: replicas and placement of the experts of every layer, with a bound on how much better any plan is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel._version import __version__
from perfmodel.plan.experts.budget import Budget
from perfmodel.plan.experts.counts import replica_count_bound
from perfmodel.plan.experts.groups import balanced_groups
from perfmodel.plan.experts.joint import exchanged
from perfmodel.plan.experts.moetuner import even_clusters, named_ranks
from perfmodel.plan.experts.moves import laid_over, moved, relieved
from perfmodel.plan.experts.pool import Pool, Search, Settings, balanced_pool
from perfmodel.plan.experts.records import (
    ExpertAlternative,
    ExpertCertificate,
    ExpertDecision,
    ExpertPlan,
    ExpertPrediction,
)
from perfmodel.plan.experts.task import OBJECTIVES, ExpertTask, Outcome, expert_task
from perfmodel.plan.experts.traffic import aligned, chained, stay_bound
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.registry import data_version

__all__ = ["OBJECTIVES", "plan_experts", "stale_load"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_PROVEN, _ASK_BELOW = 1e-9, 5e-4
_SMALL, _SMALL_PAIRS, _NODES = 128, 600, 200
"""Up to so many choices MoETuner's programs are solved, in so many nodes."""
MOETUNER_EXCHANGE_SHARE = 0.357


@dataclass(frozen=True)
class _Candidate:
    name: str
    experts: Ints
    outcome: Outcome
    moves: int | None


def plan_experts(
    load: Any,
    ranks: int,
    nodes: int = 1,
    slots: int | None = None,
    groups: int | None = None,
    transitions: Any = None,
    cluster: Cluster | str | dict[str, Any] | None = None,
    objective: str = "balance",
    work_limit: int | None = None,
    time_limit_s: float | None = 60,
    *,
    duplicates: bool = False,
    previous: Any = None,
    move_cost: float = 0.0,
    exchange_share: float = MOETUNER_EXCHANGE_SHARE,
    progress: Callable[[int, int], None] | None = None,
) -> ExpertPlan:
    """Place the experts of `load[layer][expert]` (tokens) on `slots` slots of `ranks` ranks in `nodes` nodes.

    `objective` "balance" makes the fullest rank least, "traffic" the tokens that change rank between layers
    (`transitions[layer][i][j]`, shares), "both" the time of a layer, of which dispatch and combine take
    `exchange_share` when balanced and unplaced (MoETuner's measurement by default); with a `cluster` its links say what
    copies cost that change rank or node. `groups` equal runs of experts
    each stay on one node. `slots` defaults to one an expert, rounded up to the ranks. `duplicates` allows replicas of
    one expert on one rank. With `previous` (slot_expert of a running plan) ranks are named for few moves, and each
    layer weighs a moved share of its slots at `move_cost` in units of load over the mean. `work_limit` counts packings
    and programs; `progress(done, layers)` is called after each layer. Raises `PlanError` for bad arguments.
    """
    task = expert_task(
        load, ranks, nodes, slots, groups, transitions, cluster, objective, duplicates, previous, move_cost,
        exchange_share, work_limit, time_limit_s, progress,
    )  # fmt: skip
    budget = Budget(work_limit, time_limit_s)
    pools = _balanced(task, budget)
    candidates, exact_traffic = _candidates(task, pools, budget)
    best = min(candidates, key=lambda one: _cost(task, one))
    return _written(task, pools, candidates, best, budget, exact_traffic)


def stale_load(plan: ExpertPlan, load: Any) -> tuple[float, ...]:
    """Load of the fullest rank over the mean, per layer, when a plan meets another load than it was made for.

    `load[layer][expert]`: raises `PlanError` where its shape is not that of the plan's.
    """
    from perfmodel.errors import PlanError
    from perfmodel.specs.expert_load import checked_load

    if plan.decision is None:
        raise PlanError("plan: it is not feasible and places nothing")
    loads = checked_load(load, error=PlanError)
    shape = (len(plan.decision.replicas), len(plan.decision.replicas[0]))
    if loads.shape != shape:
        raise PlanError(f"load: must have the shape {shape} of the plan (got {loads.shape})")
    fullest = []
    for layer, slots in zip(loads, plan.decision.slot_expert, strict=True):
        held = np.array(slots)
        each = (layer / np.bincount(held, minlength=len(layer)))[held].reshape(-1, plan.decision.slots_per_rank)
        fullest.append(float(each.sum(axis=1).max() / each.sum(axis=1).mean()))
    return tuple(fullest)


def _balanced(task: ExpertTask, budget: Budget) -> list[Pool]:
    settings = Settings(duplicates=task.duplicates)
    known: dict[bytes, Pool] = {}
    pools, raised = [], 1.0
    for done, load in enumerate(task.load, 1):
        order = np.argsort(-load, kind="stable") if task.groups is None else np.arange(task.experts)
        key = load[order].tobytes()
        if key not in known:  # layers of equal loads are tied
            known[key] = _pool(task, load[order], settings, budget, raised)
        pool = known[key]
        if pool.relaxation == "replica size":
            most = task.slots if task.duplicates else task.ranks
            raised = pool.bound / replica_count_bound(load, task.slots, task.ranks, most) * (1 - _ASK_BELOW)
        pools.append(Pool(order[pool.experts], pool.fullest, pool.bound, pool.relaxation))
        if task.progress is not None:
            task.progress(done, len(task.load))
    return pools


def _pool(task: ExpertTask, load: Floats, settings: Settings, budget: Budget, raised: float) -> Pool:
    if task.groups is None:
        return balanced_pool(load, task.slots, task.ranks, Search(settings, budget, raised=raised))
    return balanced_groups(load, task.slots, task.ranks, task.nodes, task.groups, settings, budget)


def _candidates(task: ExpertTask, pools: list[Pool], budget: Budget) -> tuple[list[_Candidate], bool]:
    """Placements to choose from, and whether the one for traffic is proven."""
    grouped = task.groups is not None
    balanced = np.array([pool.experts for pool in pools])
    exact = False
    found: list[tuple[str, Ints]] = []
    if task.flow is None:
        found.append(("balanced", balanced))
    else:
        found.append(("balanced, ranks named for traffic", aligned(balanced, task.flow, task.nodes, grouped)))
        if task.objective != "balance" and task.slots == task.experts and not grouped:
            chain = chained(task.flow, task.ranks, task.nodes, budget)
            exact = chain.optimal
            found.append((chain.method, chain.experts))
            if task.objective == "both":
                starts = [experts for _, experts in found] + _two_programs(task, budget)
                found += [("exchanges on the layer's time", _exchanged(task, one, budget)) for one in starts]
    if task.previous is not None:
        found = [(name, _over(task, experts)) for name, experts in found]
        found += [("as it is", task.previous), ("as it is, relieved by exchanges", _relieved(task))]
        found = [(name, experts) for name, experts in found if _allowed(task, experts)]
        if task.move_cost > 0 and task.objective == "balance":
            found.append(("layer by layer, the better of these", _mixed(task, [experts for _, experts in found])))
    return [_candidate(task, name, experts) for name, experts in found], exact


def _exchanged(task: ExpertTask, experts: Ints, budget: Budget) -> Ints:
    assert task.flow is not None
    return exchanged(experts, task.load, task.flow, task.nodes, task.layer_time, budget, grouped=False)


def _two_programs(task: ExpertTask, budget: Budget) -> list[Ints]:
    """MoETuner's placement, where its programs are small."""
    layers, experts = task.load.shape
    if (
        task.flow is None
        or task.ranks < 2
        or experts * task.ranks > _SMALL
        or (layers - 1) * task.ranks**4 > _SMALL_PAIRS
    ):
        return []
    clusters = []
    for load in task.load:
        if not budget.spend():
            return []
        cluster, _ = even_clusters(load, task.ranks, work_limit=_NODES)
        if cluster is None:
            return []
        clusters.append(np.argsort(cluster, kind="stable").reshape(task.ranks, -1))
    member = np.zeros((layers, experts, task.ranks))
    for layer, parts in enumerate(clusters):
        for part, held in enumerate(parts):
            member[layer, held, part] = 1.0
    between = np.einsum("lei,lef,lfj->lij", member[:-1], task.flow, member[1:])
    at = np.arange(task.ranks) // (task.ranks // task.nodes)
    near, far = task.links or (1.0, 1.0)
    speed = np.where(at[:, None] == at[None], 1.0, far / near)
    np.fill_diagonal(speed, np.inf)
    ranks, _ = named_ranks(between, speed, work_limit=_NODES) if budget.spend() else (None, None)
    if ranks is None:
        return []
    return [np.array([parts[np.argsort(order)] for parts, order in zip(clusters, ranks, strict=True)])]


def _allowed(task: ExpertTask, experts: Ints) -> bool:
    """A running plan may break rules that a new one keeps: groups on one node, no twins on a rank."""
    if not task.duplicates and any(len(set(row)) < len(row) for layer in experts.tolist() for row in layer):
        return False
    if task.groups is None:
        return True
    group = experts.reshape(len(experts), task.nodes, -1) // (task.experts // task.groups)
    homes = [sum(len(set(node)) for node in layer) for layer in group.tolist()]
    return all(count == task.groups for count in homes)


def _over(task: ExpertTask, experts: Ints) -> Ints:
    assert task.previous is not None
    pairs = zip(task.previous, experts, strict=True)
    return np.array([laid_over(old, new, task.nodes, task.groups is not None) for old, new in pairs])


def _relieved(task: ExpertTask) -> Ints:
    """The running plan after exchanges that pay; where groups keep to nodes, inside nodes."""
    assert task.previous is not None
    price = task.move_cost * task.load.sum(axis=1) / task.ranks / task.slots
    parts = 1 if task.groups is None else task.nodes
    layers = zip(task.previous, task.load, price, strict=True)
    return np.array(
        [
            np.concatenate([relieved(part, load, float(cost), task.duplicates) for part in np.split(old, parts)])
            for old, load, cost in layers
        ]
    )


def _mixed(task: ExpertTask, choices: list[Ints]) -> Ints:
    assert task.previous is not None
    costs = [
        task.outcome(one).max_over_mean
        + task.move_cost * np.array([moved(a, b) for a, b in zip(task.previous, one, strict=True)]) / task.slots
        for one in choices
    ]
    pick = np.argmin(costs, axis=0)
    return np.array([choices[choice][layer] for layer, choice in enumerate(pick)])


def _candidate(task: ExpertTask, name: str, experts: Ints) -> _Candidate:
    moves = None
    if task.previous is not None:
        moves = sum(moved(old, new) for old, new in zip(task.previous, experts, strict=True))
    return _Candidate(name, experts, task.outcome(experts), moves)


def _cost(task: ExpertTask, one: _Candidate) -> float:
    share = 0.0 if one.moves is None else one.moves / (task.slots * len(task.load))
    return task.value(one.outcome) + task.move_cost * share


def _bound(task: ExpertTask, pools: list[Pool], exact_traffic: bool, best: Outcome) -> tuple[float | None, str]:
    """The least value of the objective, and the relaxation it comes from."""
    mean = task.load.sum(axis=1) / task.ranks
    balance = float(np.mean([pool.bound / m for pool, m in zip(pools, mean, strict=True)]))
    if task.objective == "balance":
        return balance, "replica counts and sizes of every layer"
    assert task.flow is not None
    if task.slots != task.experts:  # replicas may keep any token where it is
        crossing = 0.0
    elif exact_traffic and task.objective == "traffic":
        return task.value(best), "exact chain"
    else:
        crossing = 1 - stay_bound(task.flow, task.slots_per_rank)
    if task.objective == "traffic":
        return crossing, "each step alone, experts matched to as many followers as a rank holds"
    return task.least_time(balance, crossing), "bounds of balance and of traffic together"


def _written(
    task: ExpertTask,
    pools: list[Pool],
    candidates: list[_Candidate],
    best: _Candidate,
    budget: Budget,
    exact_traffic: bool,
) -> ExpertPlan:
    bound, relaxation = _bound(task, pools, exact_traffic, best.outcome)
    value = task.value(best.outcome)
    # Moves cost something only where there is a plan to move from; their least number is 0.
    total = _cost(task, best)
    gap = None if not bound else max(total / bound - 1, 0.0)
    certificate = ExpertCertificate(
        method=f"{best.name}; bound: {relaxation}",
        optimal=gap is not None and gap <= _PROVEN,
        bound=bound,
        gap=gap,
        candidates=len(candidates),
        priced=budget.spent,
        pruned={},
        stopped_by=budget.stopped_by,
        objective_value=value,
        relaxations=dict(sorted(Counter(pool.relaxation for pool in pools).items())),
    )
    return ExpertPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=task.request(),
        feasible=True,
        decision=_decision(task, best),
        prediction=_prediction(task, pools, best.outcome),
        alternatives=tuple(_alternative(one) for one in candidates if one is not best),
        certificate=certificate,
        sources=_SOURCES,
    )


_SOURCES = (
    "DeepSeek-AI EPLB, github.com/deepseek-ai/EPLB (the problem: replicas share a load evenly, equal slots on ranks)",
    "Yao et al. 2024, ExFlow, arXiv:2401.08383 (affinity of experts between layers)",
    "Go and Mahajan 2025, MoETuner, arXiv:2502.06643 (clusters onto ranks; all-to-all takes 35.7 % of the time)",
)


def _decision(task: ExpertTask, best: _Candidate) -> ExpertDecision:
    flat = best.experts.reshape(len(best.experts), -1)
    return ExpertDecision(
        slot_expert=tuple(tuple(row) for row in flat.tolist()),
        replicas=tuple(tuple(np.bincount(row, minlength=task.experts).tolist()) for row in flat),
        slots_per_rank=task.slots_per_rank,
        ranks_per_node=task.ranks // task.nodes,
        moved_slots=best.moves,
    )


def _prediction(task: ExpertTask, pools: list[Pool], outcome: Outcome) -> ExpertPrediction:
    mean = task.load.sum(axis=1) / task.ranks
    today = None if task.previous is None else float(task.outcome(task.previous).max_over_mean.mean())
    return ExpertPrediction(
        max_over_mean_load=tuple(outcome.max_over_mean.tolist()),
        max_over_mean_load_bound=tuple(pool.bound / float(m) for pool, m in zip(pools, mean, strict=True)),
        max_over_mean_node_load=tuple(outcome.node_max_over_mean.tolist()),
        mean_max_over_mean_load=float(outcome.max_over_mean.mean()),
        max_over_mean_load_today=today,
        cross_rank_fraction=outcome.cross_rank,
        cross_node_fraction=outcome.cross_node,
        relative_layer_time=outcome.relative_time,
    )


def _alternative(one: _Candidate) -> ExpertAlternative:
    return ExpertAlternative(
        name=one.name,
        mean_max_over_mean_load=float(one.outcome.max_over_mean.mean()),
        cross_rank_fraction=one.outcome.cross_rank,
        cross_node_fraction=one.outcome.cross_node,
        relative_layer_time=one.outcome.relative_time,
        moved_slots=one.moves,
    )
