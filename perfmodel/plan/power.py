"""How many servers fit under a row's budget when clocks give way in time: `plan_power`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from perfmodel._version import __version__
from perfmodel.formulas.cost import energy_cost_usd
from perfmodel.formulas.power_limits import breaker_trip_time, continuous_power, redundant_feed_power
from perfmodel.formulas.power_money import carbon_kg
from perfmodel.plan.power_caps import clock_warnings
from perfmodel.plan.power_records import (
    Impact,
    PowerAlternative,
    PowerDecision,
    PowerPlan,
    PowerPrediction,
    PowerSensitivity,
)
from perfmodel.plan.power_task import PowerTask, power_task
from perfmodel.plan.records import Certificate, Constraint
from perfmodel.predict.records import Warned
from perfmodel.predict.row_load import SECONDS_PER_YEAR, LoadStatistics
from perfmodel.predict.row_policy import RowPolicy, quantile_of
from perfmodel.predict.row_power import INTERVAL_LEVEL, RowOutcome, brakes_interval, row_outcome
from perfmodel.specs.quantity import cited
from perfmodel.specs.registry import data_version

__all__ = ["plan_power"]

_SLACK = 1e-9
_WORK_LIMIT, _CLOSED_FORM_COST = 400_000_000, 10_000
_TOP = 5


def plan_power(row: Any, policy: Any, load: Any, limits: Any = None) -> PowerPlan:
    """The most servers a row can hold without breaking its limits, with thresholds, clocks, risk and reasons.

    * `row`: `servers` as it stands, `server` (a cluster id, path or dict whose node is the server), `provisioned_w` [W]
      of the row (a figure that can only be one server's is taken for each); optional `positions` (space), `cooling_w`,
      `feeds`, `spare_feeds`, `feed_va`, `power_factor` (electrical limit), `kg_per_kwh` (carbon), `model` (of a
      workload).
    * `policy`: `priorities` {name: share}, `frequencies_hz` {name: clock past each threshold} [Hz] (searched if left
      out), `thresholds` [1] of the budget (one set, several, or none: then searched), `latencies_s` {frequency, brake};
      optional `hysteresis`, `clock_bound_share`, `brake_hz`.
    * `load`: (seconds, fractions of `provisioned_w`), published statistics {kind, peak, rise, rise_s, days, ...}, or a
      workload.
    * `limits`: {priority: {p50, p99}} slowdown [1] and `brakes_per_year`; by default one brake and medians of 1 % for
      the priority named high, 5 % for others.

    Added servers draw like those that are there. Raises `PlanError` and `SpecError` before any work; a row that does
    not hold as it stands comes back with `feasible=False`.
    """
    task = power_task(row, policy, load, limits)
    search = _Search(task)
    best = search.best
    if best is None:
        return _infeasible(task, search)
    return PowerPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=task.request,
        feasible=True,
        decision=_decision(task, best),
        prediction=_prediction(task, best),
        constraints=tuple(_constraints(task, best)),
        alternatives=tuple(_alternatives(task, search)),
        certificate=search.certificate(),
        sensitivities=tuple(_sensitivities(task, best)),
        infeasible_because=(),
        load_duration=_duration(task),
        warnings=tuple(_warnings(task)),
        notes=(*task.notes, *_notes(task, best)),
        sources=_sources(task),
    )


@dataclass(frozen=True)
class _Candidate:
    """A number of added servers under one policy, and what happens."""

    added: int
    policy: RowPolicy
    outcome: RowOutcome

    @cached_property
    def impacts(self) -> dict[str, Impact]:
        shares = self.outcome.state_shares
        return {
            name: Impact(p50=quantile_of(slowed, shares, 0.5), p99=quantile_of(slowed, shares, 0.99))
            for name, slowed in ((name, self.policy.slowdowns(name)) for name in self.policy.shares)
        }

    def broken(self, task: PowerTask) -> list[str]:
        """What breaks a limit, in words."""
        found = []
        if self.outcome.brakes_per_year > task.brakes_per_year + _SLACK:
            rate = f"{self.outcome.brakes_per_year:.3g}"
            found.append(f"brakes_per_year: {rate} expected, {task.brakes_per_year:g} allowed")
        for name, limits in task.limits.items():
            for key, most in limits.items():
                value = getattr(self.impacts[name], key)
                if value > most + _SLACK:
                    found.append(f"{name}.{key}: {100 * value:.2f} % slower, {100 * most:g} % allowed")
        return found


class _Search:
    """For each policy the number of servers up to which every number holds.

    More servers can reach a threshold earlier and so avoid a brake, so numbers are tried one by one (`exact`); the work
    limit counts samples of a history, or ten thousand for one evaluation of the closed form.
    """

    def __init__(self, task: PowerTask, exact: bool = True) -> None:
        self.task = task
        self.priced = 0
        self.stopped_by: str | None = None
        self.most, self.ceiling = _ceiling(task)
        self.cost = _CLOSED_FORM_COST if isinstance(task.load, LoadStatistics) else len(task.load.levels)
        self.found: list[_Candidate] = []
        for tried, policy in enumerate(task.policies):
            if tried and self.priced * self.cost > _WORK_LIMIT:
                self.stopped_by = "work_limit"
                break
            one = self._up_to(policy) if exact else self._bisected(policy)
            if one is not None:
                self.found.append(one)

    @property
    def best(self) -> _Candidate | None:
        """Most servers; of equals the one that brakes least, then slows least."""
        return min(self.found, key=_rank, default=None)

    def certificate(self) -> Certificate:
        best = self.best
        whole = self.stopped_by is None
        value = None if best is None else best.added / self.task.servers
        bound = value if whole else max(0, self.most) / self.task.servers
        candidates = len(self.task.policies) * max(0, self.most + 1)
        rule = "beyond the first number that breaks a limit" if whole else "not reached"
        return Certificate(
            method=f"every policy, each number of servers until a limit breaks; at most {self.most} ({self.ceiling})",
            optimal=whole and best is not None,
            bound=bound,
            gap=None if value is None or bound is None else bound - value,
            candidates=candidates,
            priced=self.priced,
            pruned={rule: max(0, candidates - self.priced)},
            stopped_by=self.stopped_by,
        )

    def price(self, added: int, policy: RowPolicy) -> _Candidate:
        self.priced += 1
        scale = (self.task.servers + added) / self.task.servers
        return _Candidate(added, policy, row_outcome(self.task.load, scale, policy, self.task.server))

    def _up_to(self, policy: RowPolicy) -> _Candidate | None:
        held = None
        for added in range(self.most + 1):
            one = self.price(added, policy)
            if one.broken(self.task):
                break
            held = one
        return held

    def _bisected(self, policy: RowPolicy) -> _Candidate | None:
        held = self.price(0, policy)
        if held.broken(self.task) or self.most < 0:
            return None
        low, high = held, self.most + 1
        while high - low.added > 1:
            middle = self.price((low.added + high) // 2, policy)
            if middle.broken(self.task):
                high = middle.added
            else:
                low = middle
        return low


def _rank(one: _Candidate) -> tuple[float, ...]:
    slowed = sum(impact.p50 + impact.p99 for impact in one.impacts.values())
    return (-one.added, round(one.outcome.brakes_per_year, 9), slowed, *(-t for t in one.policy.thresholds))


def _ceiling(task: PowerTask) -> tuple[int, str]:
    """The most servers to add, and which limit says so: power with every cap in force, space, cooling or feeds."""
    peak = task.load.peak
    lowest = float(min(policy.kept(task.server)[:-1].min() for policy in task.policies))
    found = {"power with every cap": math.floor(task.servers * 1.5 / max(peak * lowest, 1e-9))}
    for name, watts in _other_budgets(task).items():
        found[name] = math.floor(watts / (peak * task.provisioned_w / task.servers) + _SLACK)
    if task.row.get("positions") is not None:
        found["positions"] = int(task.row["positions"])
    name = min(found, key=lambda key: found[key])
    return found[name] - task.servers, name


def _other_budgets(task: PowerTask) -> dict[str, float]:
    """Limits beside the provisioned power [W]: what may not be passed even for a moment."""
    found = {}
    if task.row.get("cooling_w") is not None:
        found["cooling_w"] = float(task.row["cooling_w"])
    if task.row.get("feed_va") is not None:
        feeds, spare = float(task.row.get("feeds") or 1), float(task.row.get("spare_feeds") or 0)
        one = continuous_power(float(task.row["feed_va"]), float(task.row.get("power_factor") or 0.95))
        found["feed_va"] = redundant_feed_power(feeds, spare, one)
    return found


def _decision(task: PowerTask, best: _Candidate) -> PowerDecision:
    return PowerDecision(
        added_servers=best.added,
        servers=task.servers + best.added,
        added_servers_fraction=best.added / task.servers,
        thresholds=best.policy.thresholds,
        frequencies_hz=_frequencies(task, best.policy),
    )


def _frequencies(task: PowerTask, policy: RowPolicy) -> dict[str, tuple[float, ...]]:
    full = float(task.server.power.clock_hz or 1.0)
    return {name: tuple(round(ratio * full, 3) for ratio in clocks) for name, clocks in policy.clocks.items()}


def _prediction(task: PowerTask, best: _Candidate) -> PowerPrediction:
    out = best.outcome
    shares, levels = task.load.duration_curve()
    kept = best.policy.kept(task.server)
    mean = float((levels[1:] + levels[:-1]).sum() / (2 * (len(shares) - 1)))
    mean *= (task.servers + best.added) / task.servers * float(kept @ out.state_shares)
    joules = mean * task.provisioned_w * SECONDS_PER_YEAR
    pue, intensity = float(task.cluster.pue), task.row.get("kg_per_kwh")
    return PowerPrediction(
        brake_events=out.brakes_per_year,
        brake_events_interval=_interval(task, best),
        interval_level=INTERVAL_LEVEL,
        latency_impact=best.impacts,
        peak_share=out.peak,
        uncapped_peak_share=out.uncapped_peak,
        peak_w=out.peak * task.provisioned_w,
        state_shares=tuple(float(share) for share in out.state_shares),
        overload_trip_s=_trip(out.uncapped_peak),
        energy_j_per_year=joules,
        usd_per_year=energy_cost_usd(joules, float(task.cluster.usd_per_kwh), pue),
        kg_co2e_per_year=None if intensity is None else carbon_kg(joules, float(intensity), pue),
    )


def _interval(task: PowerTask, best: _Candidate) -> tuple[float, float]:
    return brakes_interval(task.load, (task.servers + best.added) / task.servers, best.policy, task.server)


def _trip(uncapped_peak: float) -> float | None:
    """Seconds that a standard inverse relay set to the budget stands the uncapped peak; None: it never trips."""
    overload = uncapped_peak - 1.0
    return float(breaker_trip_time(overload)) if overload > 0.05 else None


def _constraints(task: PowerTask, best: _Candidate) -> Iterable[Constraint]:
    rate = best.outcome.brakes_per_year
    yield Constraint(name="brakes_per_year", limit=task.brakes_per_year, value=rate, slack=task.brakes_per_year - rate)
    for name, limits in task.limits.items():
        for key, most in limits.items():
            value = getattr(best.impacts[name], key)
            yield Constraint(name=f"{name}.{key}", limit=most, value=value, slack=most - value)
    peak = best.outcome.uncapped_peak * task.provisioned_w
    for name, watts in _other_budgets(task).items():
        yield Constraint(name=name, limit=watts, value=peak, slack=watts - peak)
    if task.row.get("positions") is not None:
        positions, used = float(task.row["positions"]), float(task.servers + best.added)
        yield Constraint(name="positions", limit=positions, value=used, slack=positions - used)


def _alternatives(task: PowerTask, search: _Search) -> Iterable[PowerAlternative]:
    for one in sorted(search.found, key=_rank)[1 : 1 + _TOP]:
        yield PowerAlternative(
            added_servers=one.added,
            added_servers_fraction=one.added / task.servers,
            thresholds=one.policy.thresholds,
            frequencies_hz=_frequencies(task, one.policy),
            brake_events=one.outcome.brakes_per_year,
            latency_impact=one.impacts,
        )


def _sensitivities(task: PowerTask, best: _Candidate) -> Iterable[PowerSensitivity]:
    def added(changed: PowerTask) -> float:
        found = _Search(changed, exact=False).best
        return 0.0 if found is None else found.added / task.servers

    faster = replace(best.policy, frequency_s=best.policy.frequency_s / 4)
    yield PowerSensitivity(
        quantity="latencies_s.frequency",
        value=faster.frequency_s,
        added_servers_fraction=added(replace(task, policies=(faster,))),
    )
    uncapped = replace(best.policy, clocks={name: (1.0,) * len(c) for name, c in best.policy.clocks.items()})
    yield PowerSensitivity(
        quantity="no caps", value=0.0, added_servers_fraction=added(replace(task, policies=(uncapped,)))
    )
    for rate in (0.1, 10.0):
        looser = replace(task, policies=(best.policy,), brakes_per_year=task.brakes_per_year * rate)
        yield PowerSensitivity(
            quantity="brakes_per_year", value=looser.brakes_per_year, added_servers_fraction=added(looser)
        )
    if isinstance(task.load, LoadStatistics):
        for shift in (-task.load.peak_sd, task.load.peak_sd):
            moved = replace(task.load, peak=task.load.peak + shift)
            changed = replace(task, load=moved, policies=(best.policy,))
            yield PowerSensitivity(quantity="load.peak", value=moved.peak, added_servers_fraction=added(changed))


def _duration(task: PowerTask) -> dict[str, tuple[float, ...]]:
    shares, levels = task.load.duration_curve(101)
    return {"time_share": tuple(map(float, shares)), "level": tuple(map(float, levels))}


def _warnings(task: PowerTask) -> Iterable[Warned]:
    latency = task.policies[0].frequency_s
    step = 0.0 if isinstance(task.load, LoadStatistics) else task.load.step_s
    if step > latency:
        yield Warned(formula="row_outcome", quantity="step of the history [s]", value=step, valid=f"x <= {latency:g}")
    yield from clock_warnings(task.server.power)


def _notes(task: PowerTask, best: _Candidate) -> Iterable[str]:
    without = 1.0 / task.load.peak - 1.0
    yield f"without any cap the highest level of {100 * task.load.peak:.3g} % leaves room for {100 * without:.1f} %"
    if not isinstance(task.load, LoadStatistics) and best.outcome.brakes_per_year == 0:
        _, high = _interval(task, best)
        yield f"no brake in the history, which is too short to promise fewer than {high:.2g} a year"


def _sources(task: PowerTask) -> tuple[str, ...]:
    found = [f"{source.title} <{source.url}>" for source in cited(task.cluster, task.server.power)]
    return tuple(dict.fromkeys([*found, "Patel et al. 2024, POLCA (ASPLOS'24) <https://arxiv.org/abs/2308.12908>"]))


def _infeasible(task: PowerTask, search: _Search) -> PowerPlan:
    held = min((search.price(0, policy) for policy in task.policies), key=lambda one: one.outcome.brakes_per_year)
    because = held.broken(task)
    if search.most < 0:
        watts = _other_budgets(task).get(search.ceiling, task.provisioned_w)
        fits = task.servers + search.most
        because.append(f"{search.ceiling}: holds {fits} of the {task.servers} servers at their peak ({watts:g} W)")
    peak = task.load.peak
    if peak > 1.0:
        fits = math.floor(task.servers / peak)
        because.append(
            f"the row as it stands reaches {100 * peak:.1f} % of its budget; {fits} servers would fit without caps"
        )
    return PowerPlan(
        perfmodel_version=__version__,
        data_version=data_version(),
        request=task.request,
        feasible=False,
        decision=None,
        prediction=None,
        constraints=tuple(_constraints(task, held)),
        alternatives=(),
        certificate=search.certificate(),
        sensitivities=(),
        infeasible_because=tuple(because),
        load_duration=_duration(task),
        warnings=tuple(_warnings(task)),
        notes=task.notes,
        sources=_sources(task),
    )
