"""`plan_power`: the POLCA row, the closed form against the simulator, brute force, and bad input."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.errors import PlanError
from perfmodel.plan.power_task import power_task
from perfmodel.predict.replay_power import generated_days, replay_row
from perfmodel.predict.row_load import History, LoadStatistics, history_of
from perfmodel.predict.row_power import row_outcome, states_of
from perfmodel.validation.power_report import POLCA_LOAD, POLCA_POLICY, POLCA_ROW

TIMES = np.arange(0.0, 3600.0, 5.0)
WAVE = 0.6 + 0.15 * np.sin(TIMES / 300.0)


def planned(load: Any = POLCA_LOAD, limits: Any = None, **changes: Any) -> Any:
    return pm.plan_power(POLCA_ROW | changes, POLCA_POLICY, load, limits)


def test_polca_row_takes_twelve_servers() -> None:
    plan = planned()
    assert plan.feasible
    assert plan.decision.added_servers == 12
    assert plan.prediction.latency_impact["high"].p50 < 0.01
    assert plan.prediction.brake_events <= 1.0
    low, high = plan.prediction.brake_events_interval
    assert low < plan.prediction.brake_events < high
    assert sum(plan.prediction.state_shares) == pytest.approx(1.0)
    document = json.loads(plan.to_json())
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert {"decision", "prediction", "constraints", "alternatives", "certificate", "sources"} <= document.keys()
    again = document["request"]
    assert pm.plan_power(again["row"], again["policy"], again["load"], again["limits"]).to_dict() == plan.to_dict()


def test_thirty_percent_needs_caps() -> None:
    without = next(one for one in planned().sensitivities if one.quantity == "no caps")
    assert without.added_servers_fraction < 1 / 0.79 - 1 < 0.30


def test_an_unmeasured_voltage_is_said() -> None:
    row = {"servers": 40, "server": "dgx-h100", "provisioned_w": 408e3}
    plan = pm.plan_power(row, {"priorities": {"low": 0.5, "high": 0.5}}, POLCA_LOAD)
    assert plan.warnings[0].quantity == "voltage_slope"
    low, high = plan.prediction.brake_events_interval
    assert low <= plan.prediction.brake_events <= high


def test_more_servers_never_brake_less() -> None:
    task = power_task(POLCA_ROW, POLCA_POLICY, POLCA_LOAD, None)
    rates = [row_outcome(task.load, n / 40, task.policies[0], task.server).brakes_per_year for n in range(40, 65)]
    assert rates == sorted(rates)


def test_looser_limits_and_more_choices_never_lose_servers() -> None:
    assert planned(limits={"brakes_per_year": 100}).decision.added_servers >= planned().decision.added_servers
    free = pm.plan_power(POLCA_ROW, {"priorities": POLCA_POLICY["priorities"]}, POLCA_LOAD)
    assert free.decision.added_servers >= 12
    assert free.certificate.candidates > free.certificate.priced > 100
    assert free.alternatives


def test_the_search_finds_what_trying_every_number_finds() -> None:
    load = (TIMES, WAVE)
    limits = {"brakes_per_year": 0, "high": {"p99": 0.0}}
    plan = planned(load, limits)
    task = power_task(POLCA_ROW, POLCA_POLICY, load, limits)
    policy = task.policies[0]
    held = [
        n for n in range(60)
        if (out := row_outcome(task.load, 1 + n / 40, policy, task.server)).brakes_per_year == 0
        and out.state_shares[2:].sum() <= 0.01
    ]  # fmt: skip
    assert plan.decision.added_servers == max(held)
    assert all(n in held for n in range(max(held)))


def test_closed_form_agrees_with_the_simulator() -> None:
    """Ten seeds of two weeks: brakes appear at the same size, time under caps within what the closed form bounds."""
    task = power_task(POLCA_ROW, POLCA_POLICY, POLCA_LOAD | {"days": 14.0}, None)
    policy, scales = task.policies[0], (1.1, 1.3, 1.5)
    load: Any = task.load
    replay = replay_row(load, policy, task.server, scales, range(10), step_s=20.0)
    assert replay.share_without_brake[0] == 1.0
    assert replay.share_without_brake[2] == 0.0
    assert replay.peak.mean() == pytest.approx(load.peak, abs=0.02)
    for at, scale in enumerate(scales[:2]):
        closed = row_outcome(load, scale, policy, task.server)
        simulated = replay.state_shares[:, at, 1:].sum(axis=1).mean()
        assert simulated <= closed.state_shares[1:].sum() + 0.02
        assert simulated == pytest.approx(closed.state_shares[1:].sum(), abs=0.12)
    again = replay_row(load, policy, task.server, scales, range(10), step_s=20.0)
    assert (again.brakes == replay.brakes).all()


def test_a_replayed_history_gives_the_states_of_the_simulator() -> None:
    task = power_task(POLCA_ROW, POLCA_POLICY, POLCA_LOAD | {"days": 1.0}, None)
    load: Any = task.load
    policy, kept = task.policies[0], task.policies[0].kept(task.server)
    levels = np.concatenate([day[0] for day in generated_days(load, [5], 10.0)])
    replay = replay_row(load, policy, task.server, [1.3], [5], step_s=10.0)
    states = states_of(levels, 1.3, policy, kept)
    work = np.maximum(levels - load.idle, 0.0)[4:]
    capped = work[states[:-4] > 0].sum() / work.sum()
    assert capped == pytest.approx(1 - replay.state_shares[0, 0, 0], abs=0.02)


def test_hysteresis_holds_between_thresholds() -> None:
    task = power_task(POLCA_ROW, POLCA_POLICY, POLCA_LOAD, None)
    kept = task.policies[0].kept(task.server)
    levels = np.array([0.7, 0.81, 0.78, 0.77, 0.74, 0.78, 0.9, 0.88, 0.7])
    assert states_of(levels, 1.0, task.policies[0], kept).tolist() == [0, 1, 1, 1, 0, 0, 2, 1, 0]


def test_training_has_no_room() -> None:
    plan = planned({"kind": "training", "peak": 0.97, "rise": 0.375})
    assert not plan.feasible
    assert any("high.p50" in reason for reason in plan.infeasible_because)
    held = pm.plan_power(
        POLCA_ROW, POLCA_POLICY | {"thresholds": [0.985, 0.995]}, {"kind": "training", "peak": 0.97, "rise": 0.375}
    )
    assert held.decision.added_servers <= 1


def test_space_cooling_and_feeds_bind() -> None:
    assert planned(positions=45).decision.added_servers == 5
    assert planned(cooling_w=220e3).decision.added_servers == 2
    assert planned(feeds=2, spare_feeds=1, feed_va=300e3).decision.added_servers < 12
    small = planned(cooling_w=100e3)
    assert not small.feasible
    assert "cooling_w: holds 19 of the 40 servers" in small.infeasible_because[0]
    names = {one.name for one in planned(positions=45, cooling_w=300e3).constraints}
    assert {"positions", "cooling_w", "brakes_per_year", "high.p50"} <= names


def test_a_short_history_says_that_it_is_short() -> None:
    plan = planned((TIMES, WAVE))
    assert any("too short" in note for note in plan.notes)
    coarse = planned((TIMES * 60, WAVE))
    assert coarse.warnings[0].quantity.startswith("step of the history")


def test_one_servers_watts_are_read_as_such() -> None:
    plan = planned(provisioned_w=6500)
    assert plan.request["row"]["provisioned_w"] == 260e3
    assert "one server's" in plan.notes[0]


def test_a_workload_is_a_load() -> None:
    """More requests draw more; a workload without a model is refused."""
    size = {"prompt_tokens": 512, "output_tokens": {"mean": 128}}
    served = [SimpleNamespace(**size, arrival_rate_per_s=rate) for rate in (4.0, 12.0)]
    calm, busy = (planned(load, model="llama-2-70b").request["load"]["peak"] for load in served)
    assert 0.3 < calm < busy < 1.1
    with pytest.raises(PlanError, match=r"row\.model: missing"):
        planned(served[0])


def test_the_work_limit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perfmodel.plan.power._WORK_LIMIT", 100_000)
    policy = {"priorities": POLCA_POLICY["priorities"]}
    proof = pm.plan_power(POLCA_ROW, policy, POLCA_LOAD).certificate
    assert proof.stopped_by == "work_limit"
    assert not proof.optimal
    assert proof.gap > 0


def test_carbon_follows_the_intensity() -> None:
    one = planned(kg_per_kwh=0.4).prediction
    assert one.kg_co2e_per_year == pytest.approx(0.4 * one.energy_j_per_year * 1.1 / 3.6e6)


def test_the_memory_of_a_burst_is_that_of_the_azure_trace() -> None:
    """Rates vary by 22 % over 60 s and 18.21 % over 300 s; what exceeds Poisson at 5.5304 requests/s is drift."""
    from scipy.optimize import brentq

    def kept(x: float) -> float:
        return 2 / x * (1 - (1 - math.exp(-x)) / x)

    drift = {t: cv**2 - 1 / (5.5304 * t) for t, cv in ((60, 0.22), (300, 0.1821))}
    memory = brentq(lambda tau: kept(300 / tau) / kept(60 / tau) - drift[300] / drift[60], 20, 3000)
    assert LoadStatistics(0.79, 0.118).memory_s == pytest.approx(memory, rel=0.02)


LOPSIDED = {"priorities": {"low": 0.5, "high": 0.6}}
STEEP = {"peak": 0.5, "rise": 0.4, "rise_s": 2}
BAD = {
    "row no table": ((40, POLCA_POLICY, POLCA_LOAD, None), "row: must be a table"),
    "row misspelt": (({"server": "dgx-a100-80gb", "serves": 4}, POLCA_POLICY, POLCA_LOAD, None), "nearest: 'server"),
    "server unknown": ((POLCA_ROW | {"server": "dgx-a100"}, POLCA_POLICY, POLCA_LOAD, None), "nearest: 'dgx-"),
    "below idle": ((POLCA_ROW | {"provisioned_w": 15e3}, POLCA_POLICY, POLCA_LOAD, None), "at least the idle power"),
    "no budget": ((POLCA_ROW | {"provisioned_w": 100}, POLCA_POLICY, POLCA_LOAD, None), "at least the idle power"),
    "feeds all spare": ((POLCA_ROW | {"feeds": 2, "spare_feeds": 2}, POLCA_POLICY, POLCA_LOAD, None), "fewer than"),
    "power factor": ((POLCA_ROW | {"power_factor": 1.2}, POLCA_POLICY, POLCA_LOAD, None), "at most 1"),
    "servers half": ((POLCA_ROW | {"servers": 2.5}, POLCA_POLICY, POLCA_LOAD, None), "whole number"),
    "shares": ((POLCA_ROW, POLCA_POLICY | LOPSIDED, POLCA_LOAD, None), "must sum to 1"),
    "clock too high": (
        (POLCA_ROW, POLCA_POLICY | {"frequencies_hz": {"low": [1.5e9, 1e9]}}, POLCA_LOAD, None), "210 to 1410 MHz"
    ),
    "clock in MHz": (
        (POLCA_ROW, POLCA_POLICY | {"frequencies_hz": {"low": [1275, 1110]}}, POLCA_LOAD, None), "clocks are in Hz"
    ),
    "clock rises": (
        (POLCA_ROW, POLCA_POLICY | {"frequencies_hz": {"low": [1.1e9, 1.2e9]}}, POLCA_LOAD, None), "must not rise"
    ),
    "clock of nobody": (
        (POLCA_ROW, POLCA_POLICY | {"frequencies_hz": {"lo": [1.1e9]}}, POLCA_LOAD, None), "nearest: 'low'"
    ),
    "thresholds fall": ((POLCA_ROW, POLCA_POLICY | {"thresholds": [0.9, 0.8]}, POLCA_LOAD, None), "must rise"),
    "threshold in percent": ((POLCA_ROW, POLCA_POLICY | {"thresholds": [80, 89]}, POLCA_LOAD, None), "at most 1"),
    "one threshold": ((POLCA_ROW, POLCA_POLICY | {"thresholds": [0.8]}, POLCA_LOAD, None), "must be 2"),
    "latency unknown": ((POLCA_ROW, POLCA_POLICY | {"latencies_s": {"freq": 4}}, POLCA_LOAD, None), "nearest: 'freq"),
    "load empty": ((POLCA_ROW, POLCA_POLICY, [], None), "load: is empty"),
    "load one": ((POLCA_ROW, POLCA_POLICY, [(0, 0.5)], None), "at least two"),
    "load unsorted": ((POLCA_ROW, POLCA_POLICY, [(0, 0.5), (2, 0.5), (1, 0.5)], None), "times must rise"),
    "load percent": ((POLCA_ROW, POLCA_POLICY, [(0, 50), (2, 60), (3, 70)], None), "from 0 to 1.5"),
    "load nan": ((POLCA_ROW, POLCA_POLICY, [(0, 0.5), (2, math.nan), (3, 0.7)], None), "finite"),
    "load ragged": ((POLCA_ROW, POLCA_POLICY, ([0, 1, 2], [0.5]), None), "equally many"),
    "load words": ((POLCA_ROW, POLCA_POLICY, "much", None), "load: must be"),
    "peak missing": ((POLCA_ROW, POLCA_POLICY, {"rise": 0.1}, None), "load.peak: missing"),
    "peak misspelt": ((POLCA_ROW, POLCA_POLICY, {"peek": 0.1}, None), "nearest: 'peak'"),
    "rise too large": ((POLCA_ROW, POLCA_POLICY, STEEP, None), "synchronous training"),
    "limit unknown": ((POLCA_ROW, POLCA_POLICY, POLCA_LOAD, {"hi": {"p50": 0.1}}), "nearest: 'high'"),
    "limit negative": ((POLCA_ROW, POLCA_POLICY, POLCA_LOAD, {"brakes_per_year": -1}), "brakes_per_year"),
    "percentile": ((POLCA_ROW, POLCA_POLICY, POLCA_LOAD, {"high": {"p95": 0.1}}), "unknown key 'p95'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(name: str) -> None:
    question, said = BAD[name]
    with pytest.raises((PlanError, pm.SpecError)) as caught:
        pm.plan_power(*question)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_histories_come_in_columns_or_pairs() -> None:
    pairs = history_of([(0, 0.5), (5, 0.6), (10, 0.4)])
    columns = history_of(([0, 5, 10], [0.5, 0.6, 0.4]))
    assert isinstance(pairs, History)
    np.testing.assert_array_equal(pairs.levels, columns.levels)
    shares, levels = pairs.duration_curve(3)
    assert shares.tolist() == [0.0, 0.5, 1.0]
    assert levels[0] == 0.6
