"""Clocks and degrees by pool under latency limits, and where loads stand: two small integer programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.plan.milp import LinearProgram, Solution, solve

__all__ = ["LoadPlacement", "PoolChoice", "PoolOption", "place_loads", "plan_pool_clocks"]

_TIME_LIMIT_S, _WORK_LIMIT = 60.0, 1000
_GAP, _PLACED_GAP = 1e-6, 1e-4
"""Within which a plan counts as optimal: rows that are full to a ten-thousandth alike are not told apart."""


@dataclass(frozen=True)
class PoolOption:
    """One way to run an instance of a pool: requests a second within the latency limit, watts, accelerators.

    Raises `OutOfRangeError`.
    """

    name: str
    requests_per_s: float
    watts: float
    accelerators: int

    def __post_init__(self) -> None:
        for key in ("requests_per_s", "watts"):
            _positive(f"{self.name}: {key}", getattr(self, key), "a positive number")
        count = self.accelerators
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise OutOfRangeError(f"{self.name}: accelerators: must be a whole number >= 1 (got {count!r})")


@dataclass(frozen=True)
class PoolChoice:
    """Instances by pool and option, total watts, and what the solver proved: no choice draws less than `bound_w`.

    `stopped_by` is None, "work_limit" or "time_limit".
    """

    feasible: bool
    instances: dict[str, dict[str, int]]
    watts: float
    bound_w: float
    optimal: bool
    infeasible_because: tuple[str, ...] = ()
    stopped_by: str | None = None


@dataclass(frozen=True)
class LoadPlacement:
    """Which row each load stands in, the highest share of a row's power used, and whether that is proved least.

    No placement has a peak share below `bound`; `stopped_by` is None, "work_limit" or "time_limit".
    """

    feasible: bool
    row_of: tuple[int, ...]
    peak_share: float
    optimal: bool
    infeasible_because: tuple[str, ...] = ()
    bound: float = 0.0
    stopped_by: str | None = None


def plan_pool_clocks(
    pools: Mapping[str, Sequence[PoolOption]],
    demand: Mapping[str, float],
    accelerators: int,
    *,
    work_limit: int = _WORK_LIMIT,
    time_limit_s: float = _TIME_LIMIT_S,
    solver: str = "highs",
) -> PoolChoice:
    """Least power that meets every pool's requests a second with so many accelerators (DynamoLLM's inner problem).

    Options must already meet the latency limit at their rate. `work_limit` is a number of branch-and-bound nodes, the
    time limit a guard. Raises `PlanError` for pools and demands that differ.
    """
    if set(pools) != set(demand):
        raise PlanError(f"demand: must name the pools {', '.join(sorted(pools))} (got {', '.join(sorted(demand))})")
    for name, rate in demand.items():
        _positive(f"demand: {name}", rate, "positive requests a second")
    flat = [(pool, option) for pool, options in pools.items() for option in options]
    if not flat:
        raise PlanError("pools: no options; give at least one")
    at = {name: row for row, name in enumerate(pools)}
    entries = [(at[pool], j, option.requests_per_s) for j, (pool, option) in enumerate(flat)]
    entries += [(len(at), j, float(option.accelerators)) for j, (_, option) in enumerate(flat)]
    program = _program(
        [option.watts for _, option in flat], entries, [float(demand[name]) for name in pools] + [-math.inf],
        [math.inf] * len(at) + [float(accelerators)], [math.inf] * len(flat), len(flat),
    )  # fmt: skip
    found = solve(program, solver=solver, work_limit=work_limit, time_limit_s=time_limit_s, gap=_GAP)
    if found.values is None:
        least = _least_accelerators(pools, demand)
        because = _unfound(found, f"accelerators: {least:.1f} needed at least, {accelerators} given")
        return PoolChoice(False, {}, 0.0, max(0.0, _finite(found)), False, because, found.stopped_by)
    counts = [round(float(count)) for count in found.values]
    instances: dict[str, dict[str, int]] = {name: {} for name in pools}
    for (pool, option), count in zip(flat, counts, strict=True):
        if count:
            instances[pool][option.name] = count
    watts = sum(count * option.watts for (_, option), count in zip(flat, counts, strict=True))
    proved = found.status == "optimal"
    return PoolChoice(True, instances, watts, min(watts, _finite(found)), proved, (), found.stopped_by)


def _least_accelerators(pools: Mapping[str, Sequence[PoolOption]], demand: Mapping[str, float]) -> float:
    """Accelerators that the demand needs even in parts: every pool at its best rate for each of them."""
    return sum(
        demand[name] / max((o.requests_per_s / o.accelerators for o in options), default=1e-300)
        for name, options in pools.items()
    )


def place_loads(
    loads_w: Sequence[float],
    power_w: Sequence[float],
    heat_w: Sequence[float] | None = None,
    *,
    load_heat_w: Sequence[float] | None = None,
    work_limit: int = _WORK_LIMIT,
    time_limit_s: float = _TIME_LIMIT_S,
    solver: str = "highs",
) -> LoadPlacement:
    """Loads into rows so that the fullest row is least full, within each row's power and cooling (TAPAS's limits).

    `power_w` and `heat_w` [W] are what rows can feed and cool (cooling: their power); `load_heat_w` [W] what loads give
    to the air of their row (default: all of `loads_w`). `work_limit` is a number of branch-and-bound nodes, the time
    limit a guard. Raises `PlanError`.
    """
    cooled = list(power_w) if heat_w is None else list(heat_w)
    heat = list(loads_w) if load_heat_w is None else list(load_heat_w)
    if not loads_w or not power_w or len(cooled) != len(power_w) or len(heat) != len(loads_w):
        raise PlanError("loads_w, power_w, heat_w: give loads, and power and heat limits of the same rows")
    for label, values in (("loads_w", loads_w), ("power_w", power_w), ("heat_w", cooled), ("load_heat_w", heat)):
        for value in values:
            _positive(label, value, "positive watts")
    loads, rows = len(loads_w), len(power_w)
    n = loads * rows  # one column for each load in each row, and the peak share behind them
    entries = [(load, load * rows + row, 1.0) for load in range(loads) for row in range(rows)]
    for load in range(loads):
        for row in range(rows):
            entries.append((loads + row, load * rows + row, loads_w[load] / power_w[row]))
            entries.append((loads + rows + row, load * rows + row, heat[load] / cooled[row]))
    entries += [(loads + row, n, -1.0) for row in range(rows)]
    low = [1.0] * loads + [-math.inf] * (2 * rows)
    high = [1.0] * loads + [0.0] * rows + [1.0] * rows
    program = _program([0.0] * n + [1.0], entries, low, high, [1.0] * (n + 1), n)
    found = solve(program, solver=solver, work_limit=work_limit, time_limit_s=time_limit_s, gap=_PLACED_GAP)
    if found.values is None:
        room = sum(min(a, b) for a, b in zip(power_w, cooled, strict=True))
        because = _unfound(found, f"rows: {sum(loads_w):g} W of loads, {room:g} W of room in {rows} rows")
        return LoadPlacement(False, (), 0.0, False, because, max(0.0, _finite(found)), found.stopped_by)
    row_of = tuple(int(np.argmax(found.values[load * rows : (load + 1) * rows])) for load in range(loads))
    used = np.bincount(row_of, weights=np.asarray(loads_w, float), minlength=rows) / np.asarray(power_w, float)
    peak = float(used.max())
    bound = min(peak, max(0.0, _finite(found)))
    return LoadPlacement(True, row_of, peak, found.status == "optimal", (), bound, found.stopped_by)


def _positive(label: str, value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise OutOfRangeError(f"{label}: must be {what} (got {value!r})")


def _finite(found: Solution) -> float:
    return found.bound if math.isfinite(found.bound) else 0.0


def _unfound(found: Solution, why: str) -> tuple[str, ...]:
    """A limit that ended the search proves nothing."""
    if found.status == "infeasible":
        return (why,)
    return (f"{found.stopped_by or 'solver'}: reached before any plan was found; none is proved impossible", why)


def _program(
    cost: Sequence[float], entries: Sequence[tuple[int, int, float]], low: Sequence[float], high: Sequence[float],
    upper: Sequence[float], whole: int,
) -> LinearProgram:  # fmt: skip
    """Least cost @ x with low <= rows @ x <= high and 0 <= x <= upper, the first `whole` of x whole numbers."""
    at, of, values = (list(column) for column in zip(*entries, strict=True))
    matrix = coo_matrix((values, (at, of)), shape=(len(low), len(cost))).tocsr()
    integer = np.arange(len(cost)) < whole
    return LinearProgram(
        np.array(cost), matrix, np.array(low), np.array(high), np.zeros(len(cost)), np.array(upper), integer
    )
