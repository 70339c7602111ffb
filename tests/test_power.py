"""Watts from activity and under caps, power sets, and the planners of pools, stages and places."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import OutOfRangeError, PlanError, SpecError
from perfmodel.formulas.acquisition import energy_per_relevant_sample, f1_score, kept_per_s, relevant_per_s, stage_power
from perfmodel.formulas.power import energy_at_clock, iteration_mean_power
from perfmodel.formulas.power_limits import apparent_power, continuous_power, redundant_feed_power
from perfmodel.formulas.power_rows import normal_tail, power_supply_efficiency, row_power_quantile
from perfmodel.plan.power_caps import plan_stage_clocks
from perfmodel.plan.power_milp import PoolOption, place_loads, plan_pool_clocks
from perfmodel.plan.power_pools import PoolMachine, plan_phase_pools
from perfmodel.predict.power import accelerator_watts, capped_job, clock_under_cap, server_power_of, watts_of_work
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.power import PowerSet, load_power_set, power_set_of
from perfmodel.specs.registry import ids

SETS = ids("power")
V100 = load_power_set("v100-pcie")


@pytest.mark.parametrize("id", SETS)
def test_a_set_stays_between_idle_and_limit(id: str) -> None:
    power = load_power_set(id)
    assert accelerator_watts(power, active_share=0.0) == pytest.approx(float(power.idle_w))
    full = accelerator_watts(power, compute_share=1.0, memory_share=1.0, link_share=1.0)
    assert float(power.idle_w) < full <= float(power.limit_w)


@pytest.mark.parametrize("id", ids("accelerators"))
def test_every_accelerator_has_a_set(id: str) -> None:
    part, power = load_accelerator(id), power_set_of(id)
    assert float(power.limit_w) == float(part.tdp_w)
    assert float(power.static_w) <= float(power.idle_w) <= float(power.limit_w)
    assert power.relative is None or power.relative in SETS


@settings(max_examples=60, deadline=None)
@given(cap=st.floats(90.0, 250.0), busy=st.floats(150.0, 250.0))
def test_a_cap_is_met_by_the_clock_it_asks_for(cap: float, busy: float) -> None:
    ratio = float(clock_under_cap(V100, cap, busy))
    static = float(V100.static_w)
    slope, floor = float(V100.voltage_slope), float(V100.voltage_floor)
    drawn = static + (busy - static) * ratio * max(floor, 1 - slope * (1 - ratio)) ** 2
    assert drawn == pytest.approx(min(cap, busy), rel=1e-6) or ratio <= 0.0501


@settings(max_examples=60, deadline=None)
@given(mean=st.floats(40.0, 245.0), low=st.floats(100.0, 240.0), more=st.floats(1.0, 100.0))
def test_a_tighter_cap_is_never_faster(mean: float, low: float, more: float) -> None:
    tight, loose = capped_job(V100, mean, low), capped_job(V100, mean, low + more)
    assert tight.time_ratio >= loose.time_ratio - 1e-9
    assert tight.mean_w <= loose.mean_w + 1e-6
    assert loose.time_ratio >= 1.0 - 1e-12


def test_energy_is_u_shaped_in_the_clock() -> None:
    clocks = np.linspace(0.2, 1.0, 200)
    joules = energy_at_clock(1.0, 80.0, 165.0, 1.0, clocks, 1.17, 0.5)
    at = int(np.argmin(joules))
    assert 0 < at < len(clocks) - 1
    assert (np.diff(joules[: at + 1]) <= 0).all()
    assert (np.diff(joules[at:]) >= 0).all()


def test_watts_of_work_are_those_of_its_shares() -> None:
    """A step of 2 s with 1 s of products, 0.5 s of memory and 1.6 s of kernels, as floats and as arrays."""
    power = load_power_set("h100-sxm")
    shares = {"compute_share": 0.05, "memory_share": 0.25, "link_share": 0.1, "active_share": 0.8}
    seconds = {"compute_s": 0.1, "memory_s": 0.5, "link_s": 0.2, "busy_s": 1.6}
    one = watts_of_work(power, 2.0, **seconds)
    assert one == pytest.approx(accelerator_watts(power, **shares))
    many = watts_of_work(power, np.array([2.0, 4.0]), **seconds)
    assert many[0] == pytest.approx(one)
    assert float(power.idle_w) < many[1] < many[0] <= float(power.limit_w)


def test_memory_bound_work_hardly_slows() -> None:
    from perfmodel.formulas.power import time_at_clock

    assert time_at_clock(1.0, 0.05, 0.7) < 1.03 < time_at_clock(1.0, 1.0, 0.7)


def test_wrong_sets_are_refused() -> None:
    good = {"limit_w": 300, "static_w": 50, "idle_w": 80, "active_w": 50, "hbm_w": 50, "tensor_w": 50, "link_w": 0,
            "voltage_slope": 1, "voltage_floor": 0.5}  # fmt: skip
    PowerSet(**good)
    for key, value, said in (
        ("static_w", 90, "static_w: must be at most idle_w"),
        ("idle_w", 400, "idle_w: must be at most limit_w"),
        ("voltage_floor", 1.5, "voltage_floor"),
        ("clock_hz", 1e9, "come together"),
    ):
        with pytest.raises(SpecError, match=said):
            PowerSet(**(good | {key: value}))
    with pytest.raises(SpecError, match="nearest: 'h100-sxm'"):
        load_power_set("h100-sx")


def test_a_dgx_a100_is_half_accelerators() -> None:
    server = server_power_of(load_cluster("dgx-a100-80gb"))
    assert server.max_w == 6500
    assert server.accelerator_share == pytest.approx(0.49, abs=0.01)
    with pytest.raises(OutOfRangeError, match="210 to 1410 MHz"):
        server.clock_ratio(2e9, "frequencies_hz.low")
    with pytest.raises(OutOfRangeError, match="clocks are in Hz"):
        server.clock_ratio(1275.0, "frequencies_hz.low")


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_row_quantile_against_draws(correlation: float) -> None:
    """A common and an independent part, drawn: the closed form is the 99 % quantile of 40 servers."""
    rng = np.random.default_rng(11)
    common, own = rng.standard_normal((200_000, 1)), rng.standard_normal((200_000, 40))
    watts = 4000 + 600 * (math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own)
    drawn = np.quantile(watts.sum(axis=1), 0.99)
    z = 2.3263478740408408
    assert row_power_quantile(40, 4000, 600, correlation, z) == pytest.approx(drawn, rel=0.004)


def test_normal_tail_is_the_normal_tail() -> None:
    from scipy.stats import norm

    z = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(normal_tail(z), norm.sf(z), atol=1e-7)


def test_electrical_limits() -> None:
    assert continuous_power(100e3, 0.95) == pytest.approx(76e3)
    assert apparent_power(76e3, 0.95) == pytest.approx(80e3)
    assert [redundant_feed_power(n, spare, 100e3) for n, spare in ((2, 0), (3, 1), (2, 1))] == [200e3, 200e3, 100e3]
    assert power_supply_efficiency(0.5, 0.005, 0.02, 0.02) > power_supply_efficiency(0.05, 0.005, 0.02, 0.02)
    assert iteration_mean_power(3.0, 1.0, 400.0, 80.0) == pytest.approx(320.0)


def test_data_acquisition_stands_on_the_same_laws() -> None:
    """Two triggers: a better first stage saves the second its work, so more relevant samples a joule."""

    def run(recall: float, false_positives: float) -> tuple[float, float]:
        beam, relevant = 40e6, 1e-4
        first_w = stage_power(beam, 100, 1e-11, 1e3, 5e-12)
        passed = kept_per_s(beam, relevant, recall, false_positives)
        second_w = stage_power(passed, 1e9, 1e-11, 2e6, 5e-12)
        found = relevant_per_s(beam, relevant, recall)
        return energy_per_relevant_sample(first_w + second_w, found), f1_score(found / passed, recall)

    (before_j, before_f1), (after_j, after_f1) = run(0.8, 0.002), run(0.9, 0.0005)
    assert after_j < 0.5 * before_j
    assert after_f1 > before_f1


MACHINES = {
    "a": PoolMachine("a", 8.0, 2.0, 6.5, 1.0),
    "h": PoolMachine("h", 18.0, 3.0, 10.2, 2.2),
}


@pytest.mark.parametrize("budget", [{"watts": 60.0}, {"usd_per_hour": 9.0}, {"watts": 55.0, "usd_per_hour": 8.0}])
def test_pools_against_brute_force(budget: dict[str, float]) -> None:
    found = plan_phase_pools(MACHINES, **budget)
    assert found is not None
    best = 0.0
    for p, t in itertools.product(MACHINES.values(), repeat=2):
        for n, m in itertools.product(range(1, 12), range(1, 12)):
            watts, usd = n * p.watts + m * t.watts, n * p.usd_per_hour + m * t.usd_per_hour
            if watts <= budget.get("watts", math.inf) + 1e-9 and usd <= budget.get("usd_per_hour", math.inf) + 1e-9:
                best = max(best, min(n * p.prompt_requests_per_s, m * t.token_requests_per_s))
    assert found.requests_per_s == pytest.approx(best)
    assert found.watts <= budget.get("watts", math.inf) + 1e-9
    assert plan_phase_pools(MACHINES, watts=5.0) is None


def test_stage_clocks_keep_the_pace_and_save() -> None:
    stages = (1.0, 0.8, 0.9, 0.6)
    plan = plan_stage_clocks(stages, V100)
    assert plan.clock_ratios[0] == 1.0
    assert all(seconds / ratio <= 1.0 + 1e-9 for seconds, ratio in zip(stages, plan.clock_ratios, strict=True))
    assert 0.02 < plan.saved_share < 0.30
    assert plan_stage_clocks((1.0, 1.0), V100).saved_share == 0.0
    assert plan_stage_clocks(stages, V100, slack=0.2).saved_share > plan.saved_share
    for bad, said in (((), "empty"), ((0.0,), "positive"), ((math.nan,), "positive")):
        with pytest.raises(PlanError, match=said):
            plan_stage_clocks(bad, V100)


def test_pool_clocks_against_brute_force() -> None:
    pools = {
        "short": [PoolOption("tp2-1.2", 3.0, 700.0, 2), PoolOption("tp2-1.9", 4.0, 1100.0, 2)],
        "long": [PoolOption("tp4-1.2", 2.0, 1300.0, 4), PoolOption("tp4-1.9", 3.0, 2100.0, 4)],
    }
    demand = {"short": 10.0, "long": 5.0}
    found = plan_pool_clocks(pools, demand, 20)
    options = [(pool, option) for pool, group in pools.items() for option in group]
    best = math.inf
    for counts in itertools.product(range(6), repeat=4):
        rate = dict.fromkeys(pools, 0.0)
        for (pool, option), count in zip(options, counts, strict=True):
            rate[pool] += count * option.requests_per_s
        used = sum(count * option.accelerators for (_, option), count in zip(options, counts, strict=True))
        if used <= 20 and all(rate[pool] >= need for pool, need in demand.items()):
            best = min(best, sum(count * option.watts for (_, option), count in zip(options, counts, strict=True)))
    assert found.feasible
    assert found.optimal
    assert found.watts == pytest.approx(best)
    assert found.bound_w <= best + 1e-6
    short = plan_pool_clocks(pools, demand, 8)
    assert not short.feasible
    assert "needed at least" in short.infeasible_because[0]


def test_places_against_brute_force() -> None:
    loads, rows, heat = (5.0, 4.0, 3.0, 3.0, 2.0), (10.0, 12.0), (10.0, 9.0)
    found = place_loads(loads, rows, heat)
    best = math.inf
    for where in itertools.product(range(2), repeat=5):
        used = [sum(watts for watts, row in zip(loads, where, strict=True) if row == at) for at in range(2)]
        if all(watts <= limit for watts, limit in zip(used, heat, strict=True)):
            best = min(best, max(watts / limit for watts, limit in zip(used, rows, strict=True)))
    assert found.feasible
    assert found.peak_share == pytest.approx(best)
    crowded = place_loads((9.0, 9.0, 9.0), rows, heat)
    assert not crowded.feasible
    assert "27 W of loads" in crowded.infeasible_because[0]
