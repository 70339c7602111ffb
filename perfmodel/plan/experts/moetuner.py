"""MoETuner's two programs for small problems: experts into even clusters, then clusters onto ranks.

Go and Mahajan 2025, arXiv:2502.06643. The first makes the clusters of each layer as even as their loads allow, the
second names the ranks of all layers so that the busiest pair of ranks waits least.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perfmodel.plan.experts.exact import RowBuilder
from perfmodel.plan.milp import Solution, solve

__all__ = ["even_clusters", "named_ranks"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def even_clusters(
    loads: Floats, clusters: int, *, equal: bool = True, solver: str = "highs", work_limit: int | None = None
) -> tuple[Ints | None, Solution]:
    """The cluster of every expert, least total distance of clusters from their mean load; the objective is that sum.

    `equal`: as many experts in each, as slots ask; else none is empty.
    """
    experts = len(loads)
    x = np.arange(experts * clusters).reshape(experts, clusters)
    off = experts * clusters + np.arange(clusters)
    build = RowBuilder(experts * clusters + clusters)
    mean = float(loads.sum() / clusters)
    for e in range(experts):
        build.add(x[e], np.ones(clusters), 1, 1)
    for c in range(clusters):
        build.add(
            x[:, c], np.ones(experts), experts // clusters if equal else 1, experts // clusters if equal else experts
        )
        build.add(np.append(x[:, c], off[c]), np.append(loads, -1.0), -np.inf, mean)
        build.add(np.append(x[:, c], off[c]), np.append(loads, 1.0), mean, np.inf)
    low, high = np.zeros(build.columns), np.ones(build.columns)
    high[off] = max(float(loads.sum()), 1.0)
    high[x[0, 1:]] = 0.0  # clusters are alike: the first expert names the first
    cost = np.zeros(build.columns)
    cost[off] = 1.0
    whole = np.ones(build.columns, dtype=bool)
    whole[off] = False
    found = solve(build.program(cost, low, high, whole), solver=solver, work_limit=work_limit)
    if found.values is None:
        return None, found
    return found.values[: experts * clusters].reshape(experts, clusters).argmax(axis=1).astype(np.int64), found


def named_ranks(
    traffic: Floats, byte_per_s: Floats, *, solver: str = "highs", work_limit: int | None = None
) -> tuple[Ints | None, Solution]:
    """`rank[layer, cluster]`: one cluster of each layer on each rank, least sum over steps of the busiest pair's time.

    `traffic[step, i, j]` goes from cluster i of a layer to cluster j of the next; `byte_per_s[g, h]` joins two ranks,
    inf on the diagonal. Ranks of the first layer keep their clusters' numbers where all pairs are alike.
    """
    steps, ranks, _ = traffic.shape
    pairs = [(g, h) for g in range(ranks) for h in range(ranks) if np.isfinite(byte_per_s[g, h])]
    y = np.arange((steps + 1) * ranks * ranks).reshape(steps + 1, ranks, ranks)
    both = y.size + np.arange(steps * ranks**4).reshape(steps, ranks, ranks, ranks, ranks)
    busiest = y.size + both.size + np.arange(steps)
    build = RowBuilder(y.size + both.size + steps)
    ones = np.ones(ranks)
    for layer in range(steps + 1):
        for i in range(ranks):
            build.add(y[layer, i], ones, 1, 1)
            build.add(y[layer, :, i], ones, 1, 1)
    for step in range(steps):
        for i in range(ranks):
            for j in range(ranks):
                for g in range(ranks):  # a transport plan between the ranks of two clusters
                    build.add(np.append(both[step, i, j, g], y[step, i, g]), np.append(ones, -1.0), 0, 0)
                    build.add(np.append(both[step, i, j, :, g], y[step + 1, j, g]), np.append(ones, -1.0), 0, 0)
        for g, h in pairs:
            seconds = traffic[step].ravel() / byte_per_s[g, h]
            build.add(np.append(both[step, :, :, g, h].ravel(), busiest[step]), np.append(seconds, -1.0), -np.inf, 0)
    cost = np.zeros(build.columns)
    cost[busiest] = 1.0
    low, high = np.zeros(build.columns), np.ones(build.columns)
    high[busiest] = np.inf
    alike = len({float(byte_per_s[pair]) for pair in pairs}) <= 1
    if alike:
        low[y[0].ravel()] = np.eye(ranks).ravel()
    whole = np.zeros(build.columns, dtype=bool)
    whole[y.ravel()] = True
    found = solve(build.program(cost, low, high, whole), solver=solver, work_limit=work_limit)
    return (None if found.values is None else found.values[: y.size].reshape(y.shape).argmax(axis=2)), found
