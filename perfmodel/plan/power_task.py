"""Row, policy, load and limits of a power plan, checked and in base units; raises `PlanError` before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.plan.power_workload import statistics_of_workload
from perfmodel.predict.power import ServerPower, server_power_of
from perfmodel.predict.row_load import History, LoadStatistics, history_of, training_history
from perfmodel.predict.row_policy import RowPolicy
from perfmodel.specs.cluster import Cluster, load_cluster

__all__ = ["DEFAULT_CLOCK_BOUND_SHARE", "PowerTask", "power_task"]

ROW_KEYS = ("servers", "server", "provisioned_w", "feeds", "spare_feeds", "feed_va", "power_factor", "positions",
            "cooling_w", "kg_per_kwh", "model")  # fmt: skip
POLICY_KEYS = (
    "thresholds",
    "frequencies_hz",
    "priorities",
    "latencies_s",
    "hysteresis",
    "clock_bound_share",
    "brake_hz",
)
LATENCIES = ("frequency", "brake")
STATISTICS = ("kind", "peak", "rise", "rise_s", "days", "memory_s", "peak_over_valley", "idle")
PERCENTILES = ("p50", "p99")
_POLCA_THRESHOLDS = tuple((a / 100, b / 100) for a in (72, 74, 76, 78, 80, 82, 84) for b in (83, 85, 87, 89, 91, 93))
DEFAULT_CLOCK_BOUND_SHARE = 0.25
"""Share of an inference request's time that follows the clock: 7 % slower at 1.1 of 1.41 GHz (POLCA)."""
_MOST_SERVERS = 100_000


@dataclass(frozen=True)
class PowerTask:
    """A checked question. `policies` are the candidates; `limits` by priority and percentile [1]; counts of servers."""

    cluster: Cluster
    server: ServerPower
    servers: int
    provisioned_w: float
    row: dict[str, Any]
    policies: tuple[RowPolicy, ...]
    load: History | LoadStatistics
    limits: dict[str, dict[str, float]]
    brakes_per_year: float
    request: dict[str, Any]
    notes: tuple[str, ...]


def power_task(row: Any, policy: Any, load: Any, limits: Any) -> PowerTask:
    """The question of `plan_power`; raises `PlanError`, and `SpecError` for an unknown server."""
    row = _table("row", row, ROW_KEYS, needed=("servers", "server", "provisioned_w"))
    cluster = row["server"] if isinstance(row["server"], Cluster) else load_cluster(row["server"])
    server = server_power_of(cluster)
    servers = _whole("row.servers", row["servers"])
    provisioned, notes = _provisioned(row["provisioned_w"], servers, server)
    _check_row(row)
    if row.get("positions") is not None and _whole("row.positions", row["positions"]) < servers:
        raise PlanError(f"row.positions: must hold the {servers} servers of the row (got {row['positions']})")
    given = _table("policy", policy, POLICY_KEYS, needed=("priorities",))
    shares = _priorities(given["priorities"])
    choices = [
        _clocks(clocks, shares, server) for clocks in _clock_choices(given.get("frequencies_hz"), shares, server)
    ]
    policies = tuple(policy for clocks in choices for policy in _policies(given, shares, clocks, server))
    levels = _load(load, cluster, servers, provisioned, row)
    allowed, brakes = _limits(limits, shares)
    request = {
        "row": {k: v for k, v in row.items() if v is not None and k != "server"}
        | {"server": cluster.id, "servers": servers, "provisioned_w": provisioned},
        "policy": _policy_request(policies, choices, given),
        "load": _load_request(levels),
        "limits": allowed | {"brakes_per_year": brakes},
    }
    return PowerTask(cluster, server, servers, provisioned, row, policies, levels, allowed, brakes, request, notes)


def _check_row(row: Mapping[str, Any]) -> None:
    for key, high in (("feed_va", math.inf), ("cooling_w", math.inf), ("kg_per_kwh", math.inf), ("power_factor", 1.0)):
        if row.get(key) is not None:
            _number(f"row.{key}", row[key], 0.0, high, zero=key == "kg_per_kwh")
    feeds = 1 if row.get("feeds") is None else _whole("row.feeds", row["feeds"])
    spare = row.get("spare_feeds")
    if spare is not None and not _number("row.spare_feeds", spare, 0.0, math.inf, zero=True) < feeds:
        raise OutOfRangeError(f"row.spare_feeds: must be fewer than the {feeds} feeds (got {spare!r})")


def _provisioned(value: Any, servers: int, server: ServerPower) -> tuple[float, tuple[str, ...]]:
    """The budget of the whole row [W]; a number that could only be one server's is taken for each of them, and said."""
    watts = _number("row.provisioned_w", value, 0.0, math.inf)
    idle = servers * server.idle_w
    if watts < idle and server.idle_w <= watts <= 2.0 * server.max_w:
        note = f"provisioned_w {watts:g} W is one server's: {watts * servers:g} W for the row of {servers}"
        return watts * servers, (note,)
    if watts < idle:
        raise OutOfRangeError(
            f"row.provisioned_w: must be at least the idle power of {servers} x {server.id}, {idle:g} W "
            f"(got {watts:g} W)"
        )
    return watts, ()


def _priorities(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not value:
        raise PlanError(f"policy.priorities: must be shares of the servers by priority, summing to 1 (got {value!r})")
    shares = {
        str(name): _number(f"policy.priorities.{name}", share, 0.0, 1.0, zero=True) for name, share in value.items()
    }
    if abs(sum(shares.values()) - 1.0) > 1e-6:
        raise PlanError(f"policy.priorities: must sum to 1 (got {sum(shares.values()):g})")
    return shares


def _clock_choices(value: Any, shares: Mapping[str, float], server: ServerPower) -> list[Any]:
    """The clocks given, or those to choose from: who yields first at 90 % and then less, the others at 93 % or less."""
    if value is not None or server.power.clock_hz is None:
        return [value]
    full = float(server.power.clock_hz)
    return [
        {name: [0.9 * full, late * full] if yields else [high * full] for name, yields in _last_first(shares)}
        for late in (0.8, 0.7, 0.6)
        for high in (0.93, 0.85)
    ]


def _clocks(value: Any, shares: Mapping[str, float], server: ServerPower) -> dict[str, tuple[float, ...]]:
    """Clocks [Hz] by priority, one for each threshold; a shorter list belongs to the last thresholds."""
    full = server.power.clock_hz
    if full is None:
        raise PlanError(f"row.server: the power set of {server.power.id} has no clocks, so nothing can be capped")
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = _polca_order(value, shares)
    if not isinstance(value, Mapping):
        raise PlanError(f"policy.frequencies_hz: must be clocks [Hz] by priority (got {value!r})")
    for name in value:
        if name not in shares:
            raise PlanError(f"policy.frequencies_hz: {unknown_name('priority', name, shares)}")
    lists = {name: _list(value.get(name)) for name in shares}
    steps = max((len(clocks) for clocks in lists.values()), default=0)
    if not steps:
        raise PlanError("policy.frequencies_hz: is empty; give at least one clock [Hz] of one priority")
    result = {}
    for name, clocks in lists.items():
        padded = [None] * (steps - len(clocks)) + list(clocks)
        hz = tuple(float(full) if clock is None else _hz(name, clock, server) for clock in padded)
        if any(later > earlier for earlier, later in pairwise(hz)):
            raise PlanError(f"policy.frequencies_hz.{name}: clocks must not rise from one threshold to the next")
        result[name] = hz
    return result


def _hz(name: str, clock: Any, server: ServerPower) -> float:
    key = f"policy.frequencies_hz.{name}"
    hz = _number(key, clock, 0.0, math.inf)
    server.clock_ratio(hz, key)
    return hz


def _last_first(shares: Mapping[str, float]) -> list[tuple[str, bool]]:
    """Each priority, and whether it yields first: the one named low, else the last one named."""
    yields = "low" if "low" in shares else list(shares)[-1]
    return [(name, name == yields) for name in shares]


def _polca_order(value: Sequence[Any], shares: Mapping[str, float]) -> dict[str, Any]:
    if len(shares) != 2 or len(value) != 3:
        raise PlanError(
            "policy.frequencies_hz: a plain list is (low past T1, low past T2, high past T2) of two priorities; "
            f"else give a table by priority (got {len(value)} clocks for {len(shares)} priorities)"
        )
    (first,) = (name for name, yields in _last_first(shares) if yields)
    (other,) = (name for name in shares if name != first)
    return {first: [value[0], value[1]], other: [value[2]]}


def _policies(
    given: Mapping[str, Any], shares: dict[str, float], clocks_hz: dict[str, tuple[float, ...]], server: ServerPower
) -> tuple[RowPolicy, ...]:
    steps = len(next(iter(clocks_hz.values())))
    ratios = {
        name: tuple(server.clock_ratio(hz, f"policy.frequencies_hz.{name}") for hz in clocks)
        for name, clocks in clocks_hz.items()
    }
    latencies = _latencies(given.get("latencies_s"))
    extra: dict[str, Any] = {}
    if given.get("hysteresis") is not None:
        extra["hysteresis"] = _number("policy.hysteresis", given["hysteresis"], 0.0, 0.5, zero=True)
    brake = 288e6 if given.get("brake_hz") is None else _number("policy.brake_hz", given["brake_hz"], 0.0, math.inf)
    full, lowest = float(server.power.clock_hz or 1.0), float(server.power.min_clock_hz or 0.0)
    if not lowest <= brake <= full:
        raise OutOfRangeError(f"policy.brake_hz: must be {lowest:g} to {full:g} Hz (got {brake:g})")
    bound = _bound_shares(given.get("clock_bound_share"), shares)
    return tuple(
        RowPolicy(
            thresholds,
            shares,
            ratios,
            bound,
            frequency_s=latencies["frequency"],
            brake_s=latencies["brake"],
            brake_clock=brake / full,
            **extra,
        )
        for thresholds in _thresholds(given.get("thresholds"), steps)
    )


def _thresholds(value: Any, steps: int) -> tuple[tuple[float, ...], ...]:
    if value is None:
        if steps == 1:
            return tuple((t / 100,) for t in range(70, 96, 2))
        if steps == 2:
            return _POLCA_THRESHOLDS
        raise PlanError(f"policy.thresholds: missing; give {steps}, one for each clock")
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    rows = _list(value)
    rows = rows if rows and all(isinstance(one, (list, tuple)) for one in rows) else [rows]
    return tuple(_one_thresholds(row, steps) for row in rows)


def _one_thresholds(row: Sequence[Any], steps: int) -> tuple[float, ...]:
    numbers = tuple(_number("policy.thresholds", one, 0.0, 1.0) for one in row)
    if len(numbers) != steps:
        raise PlanError(f"policy.thresholds: must be {steps}, one for each clock of a priority (got {len(numbers)})")
    if any(b <= a for a, b in pairwise(numbers)):
        raise PlanError(f"policy.thresholds: must rise (got {', '.join(f'{one:g}' for one in numbers)})")
    return numbers


def _latencies(value: Any) -> dict[str, float]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        value = dict(zip(LATENCIES, value, strict=True))
    given = {} if value is None else _table("policy.latencies_s", value, LATENCIES)
    seconds = {"frequency": 40.0, "brake": 5.0} | given
    return {name: _number(f"policy.latencies_s.{name}", one, 0.0, 86400.0) for name, one in seconds.items()}


def _bound_shares(value: Any, shares: Mapping[str, float]) -> dict[str, float]:
    if isinstance(value, Mapping):
        for name in value:
            if name not in shares:
                raise PlanError(f"policy.clock_bound_share: {unknown_name('priority', name, shares)}")
        given = {name: value.get(name, DEFAULT_CLOCK_BOUND_SHARE) for name in shares}
    else:
        given = dict.fromkeys(shares, DEFAULT_CLOCK_BOUND_SHARE if value is None else value)
    return {name: _number(f"policy.clock_bound_share.{name}", one, 0.0, 1.0, zero=True) for name, one in given.items()}


def _load(load: Any, cluster: Cluster, servers: int, provisioned_w: float, row: Mapping[str, Any]) -> Any:
    if isinstance(load, (History, LoadStatistics)):
        return load
    if hasattr(load, "arrival_rate_per_s"):
        return statistics_of_workload(load, cluster, servers, provisioned_w, row.get("model"))
    if isinstance(load, Mapping):
        given = _table("load", load, STATISTICS, needed=("peak", "rise"))
        kind = given.pop("kind", "inference")
        if kind == "training":
            return training_history(
                _number("load.peak", given["peak"], 0.0, 1.5), _number("load.rise", given["rise"], 0.0, 1.5)
            )
        if kind != "inference":
            raise PlanError(f"load.kind: {unknown_name('kind', kind, ('inference', 'training'))}")
        return LoadStatistics(**given)
    return history_of(load)


def _limits(limits: Any, shares: Mapping[str, float]) -> tuple[dict[str, dict[str, float]], float]:
    if limits is None:
        # POLCA promises the high priority less than 1 % at its median; 5 % for the others and one brake are our choice.
        limits = {"brakes_per_year": 1.0} | {name: {"p50": 0.01 if name == "high" else 0.05} for name in shares}
    table = _table("limits", limits, (*shares, "brakes_per_year"))
    brakes = _number("limits.brakes_per_year", table.pop("brakes_per_year", 1.0), 0.0, math.inf, zero=True)
    allowed = {}
    for name, one in table.items():
        inner = _table(f"limits.{name}", one, PERCENTILES)
        allowed[name] = {key: _number(f"limits.{name}.{key}", x, 0.0, math.inf, zero=True) for key, x in inner.items()}
    return allowed, brakes


def _policy_request(
    policies: Sequence[RowPolicy], choices: Sequence[Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The policy as asked; what was left to the search is null."""
    one = policies[0]
    searched = given.get("thresholds") is None
    thresholds = None if searched else [list(policy.thresholds) for policy in policies]
    clocks = None if len(choices) > 1 else {name: list(hz) for name, hz in choices[0].items()}
    return {
        "thresholds": thresholds[0] if thresholds and len(thresholds) == 1 else thresholds,
        "frequencies_hz": clocks,
        "priorities": one.shares,
        "latencies_s": {"frequency": one.frequency_s, "brake": one.brake_s},
        "hysteresis": one.hysteresis,
        "clock_bound_share": one.clock_bound_share,
    }


def _load_request(load: History | LoadStatistics) -> dict[str, Any]:
    if isinstance(load, LoadStatistics):
        return {name: getattr(load, name) for name in load.__dataclass_fields__}
    seconds = float(load.weights_s.sum())
    return {"samples": len(load.levels), "seconds": seconds, "step_s": load.step_s, "peak": load.peak}


def _table(label: str, value: Any, keys: Sequence[str], needed: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise PlanError(f"{label}: must be a table with {', '.join(keys)} (got {type(value).__name__})")
    for key in value:
        if key not in keys:
            raise PlanError(f"{label}: {unknown_name('key', key, keys, shown=20)}")
    missing = [key for key in needed if value.get(key) is None]
    if missing:
        raise PlanError(f"{label}.{missing[0]}: missing")
    return dict(value)


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _whole(label: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 or not 1 <= value <= _MOST_SERVERS:
        raise OutOfRangeError(f"{label}: must be a whole number from 1 to {_MOST_SERVERS} (got {value!r})")
    return int(value)


def _number(label: str, value: Any, low: float, high: float, *, zero: bool = False) -> float:
    wanted = f"a number {'>=' if zero else '>'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PlanError(f"{label}: must be {wanted} (got {value!r})")
    if not (low <= value if zero else low < value) or not value <= high or math.isinf(value):
        raise OutOfRangeError(f"{label}: must be {wanted} (got {value!r})")
    return float(value)
