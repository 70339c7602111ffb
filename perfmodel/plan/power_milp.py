"""Clocks and degrees by pool under latency limits, and where loads stand: two small integer programs.

`_solved` is the only line that knows the solver (HiGHS through SciPy); it belongs behind the one door to solvers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import OutOfRangeError, PlanError

__all__ = ["LoadPlacement", "PoolChoice", "PoolOption", "place_loads", "plan_pool_clocks"]

_TIME_LIMIT_S = 10.0


@dataclass(frozen=True)
class PoolOption:
    """One way to run an instance of a pool: requests a second within the latency limit, watts, accelerators."""

    name: str
    requests_per_s: float
    watts: float
    accelerators: int


@dataclass(frozen=True)
class PoolChoice:
    """Instances by pool and option, total watts, and what the solver proved."""

    feasible: bool
    instances: dict[str, dict[str, int]]
    watts: float
    bound_w: float
    optimal: bool
    infeasible_because: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadPlacement:
    """Which row each load stands in, the highest share of a row's power used, and whether that is proved least."""

    feasible: bool
    row_of: tuple[int, ...]
    peak_share: float
    optimal: bool
    infeasible_because: tuple[str, ...] = ()


def plan_pool_clocks(
    pools: Mapping[str, Sequence[PoolOption]], demand: Mapping[str, float], accelerators: int
) -> PoolChoice:
    """Least power that meets every pool's requests a second with so many accelerators (DynamoLLM's inner problem).

    Options must already meet the latency limit at their rate. Raises `PlanError` for pools and demands that differ.
    """
    if set(pools) != set(demand):
        raise PlanError(f"demand: must name the pools {', '.join(sorted(pools))} (got {', '.join(sorted(demand))})")
    flat = [(pool, option) for pool, options in pools.items() for option in options]
    if not flat:
        raise PlanError("pools: no options; give at least one")
    cost = np.array([option.watts for _, option in flat])
    rates = [[option.requests_per_s if pool == name else 0.0 for pool, option in flat] for name in pools]
    sizes = [[float(option.accelerators) for _, option in flat]]
    low = [float(demand[name]) for name in pools] + [-math.inf]
    high = [math.inf] * len(pools) + [float(accelerators)]
    found = _solved(cost, np.array(rates + sizes), low, high, np.full(len(flat), math.inf))
    if found is None:
        least = _least_accelerators(pools, demand)
        return PoolChoice(
            False, {}, 0.0, 0.0, False, (f"accelerators: {least:.1f} needed at least, {accelerators} given",)
        )
    x, bound, optimal = found
    instances: dict[str, dict[str, int]] = {name: {} for name in pools}
    for (pool, option), count in zip(flat, x, strict=True):
        if round(count):
            instances[pool][option.name] = round(count)
    return PoolChoice(True, instances, float(cost @ x), bound, optimal)


def _least_accelerators(pools: Mapping[str, Sequence[PoolOption]], demand: Mapping[str, float]) -> float:
    """Accelerators that the demand needs even in parts: every pool at its best rate for each of them."""
    return sum(
        demand[name] / max((o.requests_per_s / o.accelerators for o in options), default=1e-300)
        for name, options in pools.items()
    )


def place_loads(
    loads_w: Sequence[float], power_w: Sequence[float], heat_w: Sequence[float] | None = None
) -> LoadPlacement:
    """Loads into rows so that the fullest row is least full, within each row's power and cooling (TAPAS's limits)."""
    heat = list(power_w) if heat_w is None else list(heat_w)
    if not loads_w or not power_w or len(heat) != len(power_w):
        raise PlanError("loads_w, power_w, heat_w: give loads, and power and heat limits of the same rows")
    for label, values in (("loads_w", loads_w), ("power_w", power_w), ("heat_w", heat)):
        for value in values:
            if isinstance(value, bool) or not 0 < value < math.inf:
                raise OutOfRangeError(f"{label}: must be positive watts (got {value!r})")
    loads, rows = len(loads_w), len(power_w)
    n = loads * rows
    once = np.zeros((loads, n + 1))
    filled, cooled = np.zeros((rows, n + 1)), np.zeros((rows, n + 1))
    for load, watts in enumerate(loads_w):
        once[load, load * rows : (load + 1) * rows] = 1.0
        for row in range(rows):
            filled[row, load * rows + row] = watts / power_w[row]
            cooled[row, load * rows + row] = watts / heat[row]
    filled[:, n] = -1.0
    cost = np.append(np.zeros(n), 1.0)
    low = [1.0] * loads + [-math.inf] * (2 * rows)
    high = [1.0] * loads + [0.0] * rows + [1.0] * rows
    found = _solved(cost, np.vstack([once, filled, cooled]), low, high, np.ones(n + 1), whole=n)
    if found is None:
        room = sum(min(a, b) for a, b in zip(power_w, heat, strict=True))
        return LoadPlacement(
            False, (), 0.0, False, (f"rows: {sum(loads_w):g} W of loads, {room:g} W of room in {rows} rows",)
        )
    x, _, optimal = found
    row_of = tuple(int(np.argmax(x[load * rows : (load + 1) * rows])) for load in range(loads))
    return LoadPlacement(True, row_of, float(x[n]), optimal)


def _solved(
    cost: NDArray[np.float64], matrix: NDArray[np.float64], low: Any, high: Any, upper: NDArray[np.float64],
    whole: int | None = None,
) -> tuple[NDArray[np.float64], float, bool] | None:  # fmt: skip
    """Least cost @ x, low <= matrix @ x <= high, the first `whole` x integers: x, bound, proved; None: impossible."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    integral = np.ones(cost.size)
    if whole is not None:
        integral[whole:] = 0
    found = milp(
        cost, constraints=LinearConstraint(matrix, low, high), bounds=Bounds(0.0, upper), integrality=integral,
        options={"time_limit": _TIME_LIMIT_S, "mip_rel_gap": 1e-9},
    )  # fmt: skip
    if found.x is None:
        return None
    return found.x, float(found.mip_dual_bound), found.status == 0
