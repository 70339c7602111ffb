"""The reach of expert placement: every saved load and shape, beside EPLB's result and with the proven gap."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel._version import __version__
from perfmodel.plan.experts.planner import plan_experts

__all__ = ["bench_experts", "eplb_baseline", "saved_loads", "saved_transitions"]

_DATA = Path(__file__).parents[2] / "data" / "experts"
# Stay shares of ExFlow's own Mixtral solution: 22.166 of 31 steps change rank on 8 ranks, 17.495 on 4.
EXFLOW_STAY = {8: 1 - 22.166 / 31, 4: 1 - 17.495 / 31}


@cache
def saved_loads() -> Mapping[str, NDArray[np.float64]]:
    """Loads [layers, experts] by name: the README example of EPLB, and four spreads of 58 layers of 256 experts."""
    with np.load(_DATA / "eplb_loads.npz") as saved:
        return {name: saved[name].astype(np.float64) for name in saved.files}


@cache
def saved_transitions() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Load [32, 8] and transition shares [31, 8, 8] drawn for Mixtral (Dirichlet rows, concentration 7, one seed)."""
    with np.load(_DATA / "mixtral_transitions.npz") as saved:
        return saved["load"].astype(np.float64), saved["transitions"].astype(np.float64)


def eplb_baseline() -> list[dict[str, str]]:
    """The 45 rows of EPLB's results: input, slots, groups, nodes, ranks, policy, eplb_max_over_mean."""
    lines = (_DATA / "eplb_baseline.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def bench_experts(progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Plan every case; `above_eplb` counts those worse than EPLB, gaps are against bounds proven in the same run."""
    cases = list(_cases())
    rows = []
    for done, case in enumerate(cases, 1):
        rows.append(case())
        if progress is not None:
            progress(done, len(cases))
    gaps = [row["gap"] for row in rows if row["input"] not in ("readme", "mixtral")]
    two = [row["gap"] for row in rows if row["slots_per_rank"] == 2 and row["input"].startswith("v3")]
    return {
        "document": "perfmodel/bench-experts/1",
        "perfmodel_version": __version__,
        "cases": rows,
        "above_eplb": sum(row["value"] > row["reference"] * (1 + 1e-6) for row in rows if row["input"] != "mixtral"),
        "median_gap": float(np.median(gaps)),
        "largest_gap": max(gaps),
        "largest_gap_two_slots": max(two),
        "slowest_s": max(row["plan_s"] for row in rows),
    }


def _cases() -> Iterator[Callable[[], dict[str, Any]]]:
    for row in eplb_baseline():
        yield lambda row=row: _balance(row)  # type: ignore[misc]
    for ranks in (8, 4):
        yield lambda ranks=ranks: _traffic(ranks)  # type: ignore[misc]


def _balance(row: Mapping[str, str]) -> dict[str, Any]:
    """One row of the baseline; EPLB drops the group rule where groups do not divide by nodes, and so do we."""
    groups = int(row["groups"]) if row["policy"] == "hierarchical" else None
    nodes = int(row["nodes"]) if groups else 1
    slots, ranks = int(row["slots"]), int(row["ranks"])
    load = saved_loads()[row["input"]]
    began = time.perf_counter()
    plan = plan_experts(load, ranks, nodes=nodes, slots=slots, groups=groups, time_limit_s=None)
    taken = time.perf_counter() - began
    assert plan.prediction is not None
    return {
        "input": row["input"],
        "slots": slots,
        "ranks": ranks,
        "nodes": int(row["nodes"]),
        "groups": groups,
        "slots_per_rank": slots // ranks,
        "value": plan.prediction.mean_max_over_mean_load,
        "bound": plan.certificate.bound,
        "gap": plan.certificate.gap,
        "optimal": plan.certificate.optimal,
        "reference": float(row["eplb_max_over_mean"]),
        "relaxations": plan.certificate.relaxations,
        "plan_s": taken,
    }


def _traffic(ranks: int) -> dict[str, Any]:
    load, transitions = saved_transitions()
    began = time.perf_counter()
    plan = plan_experts(load, ranks, transitions=transitions, objective="traffic", time_limit_s=None)
    taken = time.perf_counter() - began
    assert plan.prediction is not None
    return {
        "input": "mixtral",
        "slots": plan.request["slots"],
        "ranks": ranks,
        "nodes": 1,
        "groups": None,
        "slots_per_rank": plan.request["slots"] // ranks,
        "value": 1 - plan.prediction.cross_rank_fraction,
        "bound": 1 - (plan.certificate.bound or 0.0),
        "gap": plan.certificate.gap,
        "optimal": plan.certificate.optimal,
        "reference": EXFLOW_STAY[ranks],
        "relaxations": {"exact chain": 1},
        "plan_s": taken,
    }
