"""Which rank a token must change to between layers: affinity of experts of consecutive layers, and chains that keep it.

`flow[l, i, j]` is the share of tokens at expert i of layer l that goes to expert j of layer l + 1, normalised to sum 1
for every l. Leaving a node costs two hops, leaving a rank one, so a kept rank is worth two and a kept node one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from perfmodel.plan.experts.budget import Budget

__all__ = ["Chain", "aligned", "chained", "crossings", "stay_bound"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_STARTS, _SWEEPS, _STATES = 6, 20, 320


@dataclass(frozen=True)
class Chain:
    """`experts[layer, rank, slot]`, whether it is proven best, and by which method it was found."""

    experts: Ints
    optimal: bool
    method: str


def crossings(shares: Floats, flow: Floats, nodes: int) -> tuple[float, float]:
    """Mean shares of tokens that change rank and node between layers; `shares[layer, expert, rank]` sums to 1 a row.

    A replica is drawn evenly at every layer, as a balanced dispatch does.
    """
    by_node = shares.reshape(*shares.shape[:2], nodes, -1).sum(axis=-1)
    return 1 - _stay(shares, flow), 1 - _stay(by_node, flow)


def _stay(shares: Floats, flow: Floats) -> float:
    return float(np.mean(np.einsum("lir,lij,ljr->l", shares[:-1], flow, shares[1:], optimize=True)))


def chained(flow: Floats, ranks: int, nodes: int, budget: Budget) -> Chain:
    """One copy of every expert, as many on each rank, so that the fewest tokens change rank (and node).

    One expert a rank: ranks are alike, so every step is an assignment problem of its own (Hungarian method, exact).
    Few experts: the best path over all ways to part them, exact. Else layer after layer, repeated from several starts.
    """
    experts = flow.shape[1]
    each = experts // ranks
    if nodes == 1 and each == 1:
        return Chain(_assigned(flow)[:, :, None], True, "chain of assignment problems")
    if nodes == 1 and _partition_count(experts, each) <= _STATES and budget.spend():
        return Chain(_best_path(flow, each), True, "best path over all partitions")
    return Chain(_swept(flow, ranks, nodes, budget), False, "layer-wise assignment, repeated")


def _assigned(flow: Floats) -> Ints:
    placed = [np.arange(flow.shape[1])]
    for step in flow:
        _, following = linear_sum_assignment(step, maximize=True)
        placed.append(following[placed[-1]])
    return np.array(placed)


def _partition_count(experts: int, each: int) -> float:
    parts = experts // each
    return factorial(experts) / (factorial(each) ** parts * factorial(parts)) if experts <= 16 else np.inf


def _best_path(flow: Floats, each: int) -> Ints:
    states = [np.array(parts) for parts in _partitions(tuple(range(flow.shape[1])), each)]
    members = np.zeros((len(states), flow.shape[1], len(states[0])))
    for member, state in zip(members, states, strict=True):
        for part, experts in enumerate(state):
            member[experts, part] = 1.0
    value = np.zeros(len(states))
    back = []
    for step in flow:
        # Affinity of every part of every state with every part of every other, then the best way to match parts.
        between = np.einsum("aip,ij,bjq->abpq", members, step, members, optimize=True)
        gain = np.array([[_matched(pair) for pair in row] for row in between])
        back.append((value[:, None] + gain).argmax(axis=0))
        value = (value[:, None] + gain).max(axis=0)
    path = [int(value.argmax())]
    for pointer in reversed(back):
        path.append(int(pointer[path[-1]]))
    return aligned(np.array([states[state] for state in path[::-1]]), flow, 1, False)


def _matched(affinity: Floats) -> float:
    return float(affinity[linear_sum_assignment(affinity, maximize=True)].sum())


def _partitions(items: tuple[int, ...], each: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    if not items:
        yield ()
        return
    first, rest = items[0], items[1:]
    for others in combinations(rest, each - 1):
        left = tuple(item for item in rest if item not in others)
        for partition in _partitions(left, each):
            yield ((first, *others), *partition)


def _swept(flow: Floats, ranks: int, nodes: int, budget: Budget) -> Ints:
    layers, experts = len(flow) + 1, flow.shape[1]
    draws = np.random.default_rng(0)
    best, kept = None, -np.inf
    for _ in range(_STARTS):
        if best is not None and not budget.spend():
            break
        home = np.zeros((layers, experts), dtype=np.int64)
        home[0] = draws.permutation(experts) * ranks // experts
        value = -np.inf
        for sweep in range(_SWEEPS):
            for layer in range(1 if sweep == 0 else 0, layers):
                gain = _gain(flow, home, layer, ranks, nodes, ahead=sweep > 0)
                home[layer] = _seated(gain, experts // ranks)
            now = _kept(flow, home, ranks, nodes)
            if now <= value + 1e-12:
                break
            value = now
        if value > kept:
            best, kept = home.copy(), value
    assert best is not None
    return np.array([np.argsort(row, kind="stable").reshape(ranks, -1) for row in best])


def _gain(flow: Floats, home: Ints, layer: int, ranks: int, nodes: int, *, ahead: bool) -> Floats:
    """Worth of each expert of a layer on each rank, given where the layers beside it are."""
    on_rank = np.zeros((flow.shape[1], ranks))
    at = np.arange(flow.shape[1])
    if layer > 0:
        seat = np.zeros_like(on_rank)
        seat[at, home[layer - 1]] = 1.0
        on_rank += flow[layer - 1].T @ seat
    if ahead and layer < len(flow):
        seat = np.zeros_like(on_rank)
        seat[at, home[layer + 1]] = 1.0
        on_rank += flow[layer] @ seat
    if nodes == 1:
        return on_rank
    on_node = on_rank.reshape(len(at), nodes, -1).sum(axis=2)
    return on_rank + np.repeat(on_node, ranks // nodes, axis=1)


def _seated(gain: Floats, each: int) -> Ints:
    rows, columns = linear_sum_assignment(np.repeat(gain, each, axis=1), maximize=True)
    home = np.empty(len(gain), dtype=np.int64)
    home[rows] = columns // each
    return home


def _kept(flow: Floats, home: Ints, ranks: int, nodes: int) -> float:
    per_node = ranks // nodes
    total = 0.0
    for step, here, there in zip(flow, home[:-1], home[1:], strict=True):
        total += float(step[here[:, None] == there[None]].sum())
        if nodes > 1:
            total += float(step[here[:, None] // per_node == there[None] // per_node].sum())
    return total


def aligned(experts: Ints, flow: Floats, nodes: int, grouped: bool) -> Ints:
    """Rename the ranks of every layer so that its clusters follow those before it; loads do not change.

    `grouped`: ranks of one node keep together. With one node every step is an assignment problem of its own, exact.
    """
    layers, ranks, _ = experts.shape
    placed = [experts[0]]
    per_node = ranks // nodes
    for layer in range(1, layers):
        before = _cluster_shares(placed[-1], flow.shape[1])
        after = _cluster_shares(experts[layer], flow.shape[1])
        between = before.T @ flow[layer - 1] @ after  # axes: rank before, cluster
        if nodes > 1:
            of_nodes = between.reshape(nodes, per_node, ranks).sum(axis=1)
            between = between + np.repeat(of_nodes, per_node, axis=0)
        if not grouped or nodes == 1:
            order = linear_sum_assignment(between, maximize=True)[1]
        else:
            order = _node_order(between, nodes)
        placed.append(experts[layer][order])
    return np.array(placed)


def _node_order(between: Floats, nodes: int) -> Ints:
    ranks = len(between)
    blocks = between.reshape(nodes, ranks // nodes, nodes, ranks // nodes).transpose(0, 2, 1, 3)
    of_node = linear_sum_assignment(blocks.sum(axis=(2, 3)), maximize=True)[1]
    inner = [
        linear_sum_assignment(blocks[a, b], maximize=True)[1] + b * (ranks // nodes) for a, b in enumerate(of_node)
    ]
    return np.concatenate(inner)


def _cluster_shares(placed: Ints, experts: int) -> Floats:
    """Share of each expert's tokens that a rank takes, shape (experts, ranks)."""
    held = np.zeros((experts, len(placed)))
    for rank, row in enumerate(placed):
        np.add.at(held[:, rank], row, 1.0)
    return held / held.sum(axis=1, keepdims=True)


def stay_bound(flow: Floats, per_rank: int) -> float:
    """No plan of one copy keeps more: every expert keeps its rank's number of followers, chosen at each step alone."""
    kept = []
    for step in flow:
        if per_rank >= len(step):
            kept.append(1.0)
            continue
        # A b-matching: rows and columns with `per_rank` partners each; bounded by rows and by columns apart.
        rows = np.sort(step, axis=1)[:, -per_rank:].sum()
        columns = np.sort(step, axis=0)[-per_rank:].sum()
        exact = _matched(step) if per_rank == 1 else np.inf
        kept.append(min(rows, columns, exact))
    return float(np.mean(kept))
