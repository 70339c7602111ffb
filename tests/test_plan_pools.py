"""Planners of clocks, pools and rows on predictions: against replays, brute force and the estimates they stand on."""

from __future__ import annotations

import itertools
import math
import random
import time
from typing import Any

import pytest

import perfmodel as pm
from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.plan import milp, power_milp
from perfmodel.plan.clocks import _ends
from perfmodel.plan.power_milp import place_loads, plan_pool_clocks
from perfmodel.predict.layout import make_layout
from perfmodel.predict.power import accelerator_watts, dynamic_ratio, power_at_clock
from perfmodel.predict.stage_times import stage_times
from perfmodel.predict.training_task import degrees_of, training_task
from perfmodel.specs.power import load_power_set

PACED = ("layers", "tensor_parallel", "context_parallel", "expert_parallel", "vocabulary")
TRAINED: dict[str, Any] = {"layout": {"tp": 2, "pp": 8, "dp": 4}, "global_batch": 128, "seq_len": 4096}
LAYOUTS: list[tuple[str, int, dict[str, Any]]] = [
    ("llama-3.1-70b", 64, {"tp": 2, "pp": 8, "dp": 4}),
    ("llama-3.1-70b", 64, {"tp": 2, "pp": 8, "dp": 4, "vpp": 2, "schedule": "dualpipe"}),
    ("llama-3.1-405b", 1024, {"tp": 8, "pp": 16, "dp": 8, "vpp": 2, "schedule": "interleaved"}),
    ("llama-3.1-8b", 64, {"pp": 4, "dp": 16, "vpp": 2, "schedule": "zb-v"}),
    ("megatron-1.7b", 8, {"dp": 8}),
]


def turn_of(model: str, accelerators: int, layout: dict[str, Any], software: str | None) -> Any:
    task = training_task(
        model, pm.load_cluster("dgx-h100", accelerators), global_batch=256, seq_len=2048, software=software
    )
    chosen = make_layout(layout)
    step = task.steps.price(degrees_of(chosen, task.model.n_layers), 256, 2048)
    return task, chosen, step, stage_times(step.turn, chosen, task.model.n_layers)


@pytest.mark.parametrize("software", [None, "megatron-2021"])
@pytest.mark.parametrize(("model", "accelerators", "layout"), LAYOUTS)
def test_the_slowest_stage_sets_the_pace_of_the_step(model: str, accelerators: int, layout: Any, software: Any) -> None:
    """The step model knows only the fullest stage: as many micro-batches of it are what the step has."""
    task, chosen, step, stages = turn_of(model, accelerators, layout, software)
    paced = sum(float(node.cost.seconds) for node in step.tree.children if node.name in PACED)
    microbatches = 256 / (chosen.dp * chosen.micro_batch)
    assert len(stages) == chosen.pp
    assert sum(one.layers for one in stages) == task.model.n_layers
    # The first stage has the embedding beside its layers, which the step model leaves out where it is not alone.
    assert max(one.seconds for one in stages) * microbatches == pytest.approx(paced, rel=2e-3, abs=0)


def test_layers_placed_by_hand_take_what_their_number_says() -> None:
    _, _, step, stages = turn_of("llama-2-13b", 32, {"tp": 2, "pp": 4, "dp": 4, "stage_layers": [11, 10, 10, 9]}, None)
    layer = stages[1].seconds / 10
    assert [one.layers for one in stages] == [11, 10, 10, 9]
    assert stages[0].seconds - 11 * layer == pytest.approx(step.turn.embedding_s, rel=1e-9, abs=0)
    assert stages[3].seconds - 9 * layer == pytest.approx(step.turn.head_s, rel=1e-9, abs=0)


def makespan(forward: list[list[float]], backward: list[list[float]]) -> float:
    """A replay of 1F1B: seconds of [stage][micro-batch], one pass after another as its inputs come."""
    stages, count = len(forward), len(forward[0])
    orders = []
    for stage in range(stages):
        warm = min(stages - stage, count)
        order = [("F", i) for i in range(warm)]
        for i in range(count):
            order += [("B", i)] + ([("F", warm + i)] if warm + i < count else [])
        orders.append(iter(order))
    done: dict[tuple[str, int, int], float] = {}
    free, waiting = [0.0] * stages, [next(order) for order in orders]
    while any(waiting):
        for stage, one in enumerate(waiting):
            if not one:
                continue
            kind, i = one
            inputs = [("F", stage - 1, i)] if kind == "F" and stage else []
            if kind == "B":
                inputs = [("F", stage, i)] + ([("B", stage + 1, i)] if stage < stages - 1 else [])
            if all(need in done for need in inputs):
                start = max([free[stage], *(done[need] for need in inputs)])
                free[stage] = done[kind, stage, i] = start + (forward if kind == "F" else backward)[stage][i]
                waiting[stage] = next(orders[stage], ())
    return max(free)


@pytest.mark.parametrize("slowest", ["last", "middle", "first", "last of alike", "all but the ends"])
def test_full_clocks_at_both_ends_keep_the_length_of_a_step(slowest: str) -> None:
    """In 1F1B, where forward takes from a quarter to not quite half of a micro-batch."""
    rng, late = random.Random(4), []
    for _ in range(80):
        stages, count, forward = rng.randint(3, 10), rng.randint(16, 48), rng.choice([0.25, 1 / 3, 0.45])
        full = [rng.uniform(0.7, 1.0) for _ in range(stages)]
        if slowest == "last of alike":
            full = [full[0]] * (stages - 1) + [1.02]
        elif slowest == "all but the ends":
            full[1:-1] = [1.02] * (stages - 2)
        else:
            full[{"last": -1, "middle": stages // 2, "first": 0}[slowest]] = 1.02
        ends = _ends(full)
        seconds = [[own if min(i, count - 1 - i) < ends else 1.02 for i in range(count)] for own in full]
        before, after = (
            makespan([[forward * t for t in own] for own in of], [[(1 - forward) * t for t in own] for own in of])
            for of in ([[own] * count for own in full], seconds)
        )
        late.append(after / before - 1.0)
    assert max(late) <= {"last of alike": 0.011, "all but the ends": 1e-12}.get(slowest, 0.028)
    assert sum(late) / len(late) <= 0.003


def test_clocks_held_all_the_time_lengthen_the_step_by_the_fill() -> None:
    rng = random.Random(5)
    for _ in range(20):
        full = [rng.uniform(0.8, 1.0) for _ in range(rng.randint(3, 8))] + [1.02]
        count = 24
        before, held = (
            makespan([[one / 3] * count for one in times], [[2 * one / 3] * count for one in times])
            for times in (full, [1.02] * len(full))
        )
        assert held - before == pytest.approx(sum(1.02 - one for one in full), rel=1e-9, abs=0)


@pytest.fixture(scope="module")
def cluster() -> Any:
    return pm.load_cluster("dgx-h100", 64)


def test_clocks_without_slack_save_what_a_search_over_clocks_saves(cluster: Any) -> None:
    plan = pm.plan_clocks("llama-3.1-70b", cluster, **TRAINED)
    estimate = pm.estimate_training("llama-3.1-70b", cluster, **TRAINED)
    assert plan.step_time_s == plan.step_time_before_s == estimate.step_time_s
    assert plan.energy_before_j_per_step == estimate.energy_j_per_step
    slowest = max(one.microbatch_before_s for one in plan.stages)
    power = pm.load_power_set("h100-sxm")
    # All that accelerators draw in their layers, were none of it memory or links: saves a little more than there is.
    dynamic_w = estimate.accelerator_w_by_term["layers"] - float(power.static_w)
    ratios = [0.2 + 0.8 * step / 4000 for step in range(4001)]
    saved = 0.0
    for one in plan.stages:
        able = [r for r in ratios if one.microbatch_before_s / r <= slowest * (1 + 1e-9)]
        least = min(one.microbatch_before_s / r * float(dynamic_ratio(power, r)) for r in able)
        saved += dynamic_w * (one.microbatch_before_s - least)
        assert one.microbatch_s == pytest.approx(slowest, rel=1e-9, abs=0)
        assert one.clock_hz == pytest.approx(1980e6 * one.clock_ratio, rel=1e-9, abs=0)
    slowed = estimate.n_microbatches - plan.full_clock_microbatches
    assert plan.full_clock_microbatches == 6
    joules = saved * slowed * (64 / 8) * float(cluster.pue)
    found = plan.energy_before_j_per_step - plan.energy_j_per_step
    assert 0.9 * joules < found <= joules
    assert plan.saved_share == pytest.approx(found / estimate.energy_j_per_step, rel=1e-9, abs=0)
    assert plan.held.step_time_s > plan.step_time_s


def test_slack_is_kept_and_never_costs_energy(cluster: Any) -> None:
    last = None
    for slack in (0.0, 0.02, 0.1, 0.5):
        plan = pm.plan_clocks("llama-3.1-70b", cluster, slack=slack, tokens=1e11, **TRAINED)
        assert plan.step_time_s <= plan.step_time_before_s * (1 + slack) * (1 + 1e-12)
        assert last is None or plan.energy_j_per_step <= last * (1 + 1e-3)
        assert plan.run is not None
        assert plan.run["energy_kwh"] / plan.run["energy_before_kwh"] == pytest.approx(1 - plan.saved_share)
        assert plan.run["run_days"] / plan.run["run_days_before"] == pytest.approx(
            plan.step_time_s / plan.step_time_before_s
        )
        # The same electricity at the same intensity.
        carbon = plan.run["carbon_kg"] / plan.run["carbon_before_kg"]
        assert carbon == pytest.approx(1 - plan.saved_share, rel=1e-9, abs=0)
        last = plan.energy_j_per_step


SCHEDULES = [
    ("1f1b", 1), ("gpipe", 1), ("interleaved", 2), ("zb-h1", 1), ("zb-v", 2), ("v-half", 2), ("dualpipe", 1),
]  # fmt: skip


@pytest.mark.parametrize("software", [None, "megatron-2021"])
@pytest.mark.parametrize(("schedule", "vpp"), SCHEDULES)
def test_every_schedule_keeps_its_slack_and_loses_nothing(schedule: str, vpp: int, software: Any, cluster: Any) -> None:
    layers = pm.load_model("mixtral-8x7b").n_layers
    for pp in (2, 4, 8):
        layout = {"pp": pp, "dp": 8, "vpp": vpp, "schedule": schedule}
        asked = {"layout": layout, "global_batch": 512, "seq_len": 2048, "software": software}
        plan = pm.plan_clocks("mixtral-8x7b", cluster, slack=0.05, **asked)
        assert sum(one.layers for one in plan.stages) == pytest.approx(layers)
        assert plan.step_time_before_s <= plan.step_time_s <= 1.05 * plan.step_time_before_s * (1 + 1e-9)
        assert plan.saved_share >= 0.0
        assert plan.held.step_time_s >= plan.step_time_s * (1 - 1e-9)


def test_nothing_to_slow_is_said(cluster: Any) -> None:
    alone = pm.plan_clocks("llama-3.1-8b", cluster, layout={"dp": 64}, global_batch=64, seq_len=2048)
    assert alone.saved_share == 0.0
    assert any("one stage" in note for note in alone.notes)
    few = pm.plan_clocks(
        "llama-3.1-70b", cluster, slack=0.1, layout=TRAINED["layout"], global_batch=16, seq_len=4096
    )  # fmt: skip
    assert few.saved_share == 0.0
    assert all(one.clock_ratio == 1.0 for one in few.stages)
    assert any("4 micro-batches" in note for note in few.notes)
    # The clocks of a part whose power set is another's in proportion are not known.
    scaled = pm.plan_clocks("llama-3.1-70b", pm.load_cluster("dgx-b200", 64), **TRAINED)
    assert all(one.clock_hz is None for one in scaled.stages)
    assert any(warning.formula == "power_set" for warning in scaled.warnings)
    empty = {"layout": {"pp": 4, "dp": 2, "stage_layers": [20, 0, 40, 20]}, "global_batch": 16, "seq_len": 2048}
    with pytest.raises(PlanError, match="stage_layers: stage 1 has nothing to do"):
        pm.plan_clocks("llama-3.1-70b", cluster, **empty)
    for wrong in ({"slack": -0.1}, {"slack": math.nan}, {"clock_bound_share": 0.0}, {"clock_bound_share": True}):
        with pytest.raises(OutOfRangeError, match=next(iter(wrong))):
            pm.plan_clocks("llama-3.1-70b", cluster, **TRAINED, **wrong)


def test_a_power_set_at_a_clock_is_the_law_at_that_clock() -> None:
    """Arithmetic at the peak of a lower clock, by the slower device and by `accelerator_power` with its clock."""
    power = load_power_set("h100-sxm")
    for ratio in (0.3, 0.7, 1.0):
        slower = power_at_clock(power, ratio)
        shares = {"compute_share": 0.1, "memory_share": 0.3, "link_share": 0.2, "active_share": 0.8}
        assert float(accelerator_watts(slower, **shares)) == pytest.approx(
            float(accelerator_watts(power, clock_ratio=ratio, **shares)), rel=1e-12, abs=0
        )


POOLS = [
    {"pool": "short", "arrival_rate_per_s": 20, "prompt_tokens": 256, "output_tokens": 128},
    {"pool": "long", "arrival_rate_per_s": 3, "prompt_tokens": 4096, "output_tokens": 512, "ttft_s": 3},
]
PRICED: dict[str, Any] = {"model": "llama-3.1-8b", "cluster": "dgx-h100", "ttft_s": 0.5, "tpot_s": 0.05}


def test_engines_of_pools_serve_their_rate_within_the_limits() -> None:
    plan = pm.plan_clocks_of_pools(POOLS, accelerators=32, clocks_hz=[990e6, 1980e6], **PRICED)
    assert plan.feasible
    assert plan.certificate.optimal
    for pool in POOLS:
        own = [one for one in plan.engines if one.pool == pool["pool"]]
        assert sum(one.requests_per_s for one in own) >= float(str(pool["arrival_rate_per_s"]))
    assert plan.watts == pytest.approx(sum(one.watts for one in plan.engines))
    assert plan.full_clock_w is not None
    assert plan.watts <= plan.full_clock_w
    # At full clocks an option is what the estimate of that deployment says.
    (full,) = pm.plan_clocks_of_pools(
        POOLS[:1], accelerators=1, degrees=[1], clocks_hz=[1980e6], **PRICED
    ).engines  # fmt: skip
    one = pm.estimate_serving(
        "llama-3.1-8b", "dgx-h100", layout={"tp": 1}, prompt_tokens=256, output_tokens=128,
        arrival_rate_per_s=full.requests_per_s, slo={"ttft_s": 0.5, "tpot_s": 0.05, "percentile": 0.9},
    )  # fmt: skip
    assert one.slo_met
    assert full.watts == pytest.approx(one.facility_w, rel=0.03, abs=0)


def test_plans_are_tables_too(cluster: Any) -> None:
    clocks = pm.plan_clocks("llama-3.1-70b", cluster, **TRAINED)
    assert list(clocks.to_frame()["stage"]) == list(range(8))
    pools = pm.plan_clocks_of_pools(POOLS[:1], accelerators=4, **(PRICED | {"cluster": "dgx-b200"}))
    frame = pools.to_frame()
    assert list(frame["clock_hz"]) == [None] * len(frame)
    assert {warning.formula for warning in pools.warnings} == {"clock_dynamic_ratio", "power_set"}
    assert "% of the clock" in frame["option"][0]
    rows = pm.plan_rows([{"load": "l", "watts": 1.0}], [{"row": "r", "power_w": 2.0}])
    assert rows.to_frame().to_dict("records") == [{"load": "l", "row": "r", "watts": 1.0, "heat_w": 1.0}]


def test_slower_clocks_draw_less_and_serve_no_more() -> None:
    found = {}
    for clock in (600e6, 1200e6, 1980e6):
        plan = pm.plan_clocks_of_pools(POOLS[1:], accelerators=8, degrees=[1], clocks_hz=[clock], **PRICED)
        (engine,) = plan.engines
        found[clock] = engine.requests_per_s / engine.instances, engine.watts / engine.instances
    rates, watts = zip(*found.values(), strict=True)
    assert list(rates) == sorted(rates)
    assert list(watts) == sorted(watts)


def test_pools_that_cannot_be_served_say_why() -> None:
    few = pm.plan_clocks_of_pools(POOLS, accelerators=1, **PRICED)
    assert not few.feasible
    assert "needed at least, 1 given" in few.infeasible_because[0]
    never = pm.plan_clocks_of_pools(POOLS, accelerators=8, **(PRICED | {"tpot_s": 1e-6}))
    assert "no option serves" in never.infeasible_because[0]
    for wrong, said in (
        ({"clocks_hz": [5e9]}, "clocks_hz: must be clocks of h100-sxm"),
        ({"clocks_hz": [1e9], "cluster": "dgx-b200"}, "clocks_hz: the clocks of b200-sxm are not known"),
        ({"options": [{"pool": "short"}]}, "leave out one of the two"),
        ({"cluster": None}, "cluster: missing"),
        ({"accelerators": 0}, "accelerators: must be a whole number"),
    ):
        with pytest.raises(PlanError, match=said):
            pm.plan_clocks_of_pools(POOLS, **({"accelerators": 8} | PRICED | wrong))


def test_predicted_pools_are_those_of_the_comparison_at_a_budget() -> None:
    """`compare_at_budget` counts replicas of two roles by itself."""
    from perfmodel.predict.serving.iso import compare_at_budget

    limits = {"ttft_s": 0.586, "tpot_s": 0.0266}
    role = {"cluster": "dgx-h100", "layout": {"tp": 8}, "weights": "fp16"}
    lengths = {"prompt_tokens": 1155, "output_tokens": 211}
    other = compare_at_budget(
        "llama-2-70b", role, role, role, **lengths, **limits, budget_by="provisioned_w", aggregated_count=35
    )
    asked: dict[str, Any] = {"model": "llama-2-70b", "cluster": "dgx-h100", "watts": 35 * 10200.0, "weights": "fp16"}
    plan = pm.plan_pools(**asked, **lengths, **limits)
    assert plan.decision == {
        "prompt_machine": "dgx-h100", "prompt_machines": other.prefill_count,
        "token_machine": "dgx-h100", "token_machines": other.decode_count,
    }  # fmt: skip
    assert plan.gain == pytest.approx(other.ratio, rel=1e-9, abs=0)
    half = pm.plan_pools(**asked, tp=4, **lengths, **limits)
    assert half.machines[0].watts == plan.machines[0].watts


def test_pools_without_room_or_machine_say_why() -> None:
    row = {"machine": "a", "prompt_requests_per_s": 2.0, "token_requests_per_s": 1.0, "watts": 500.0, "usd_per_hour": 9}
    none = pm.plan_pools([row], watts=900.0)
    assert not none.feasible
    assert none.infeasible_because == ("watts: one machine of each pool needs 1000, 900 given",)
    slow = pm.plan_pools([row | {"token_requests_per_s": 0.0}], watts=9e3)
    assert "tpot_s: no machine keeps it" in slow.infeasible_because[0]
    many = pm.plan_pools([row], watts=500.0 * 20000)
    assert not many.certificate.optimal
    assert many.certificate.stopped_by == "work_limit"
    for rows, keywords, said in (
        ([row], {}, "give at least one budget"),
        ([row, row], {"watts": 1e4}, "stands there twice"),
        ([row | {"watt": 1}], {"watts": 1e4}, "unknown column 'watt'; nearest: 'watts'"),
        ([row | {"watts": math.nan}], {"watts": 1e4}, r"machines: row 1 \(a\): watts: must be a number > 0"),
        ([], {"watts": 1e4}, "machines: must be rows"),
        (None, {"watts": 1e4}, "model: missing"),
    ):
        with pytest.raises(PlanError, match=said):
            pm.plan_pools(rows, **keywords)


LOADS = [5.0, 4.0, 3.0, 3.0, 2.0]
HEAT = [5.0, 1.0, 3.0, 0.5, 2.0]
ROWS, COOLING = [10.0, 12.0], [8.0, 7.0]


def brute_force_peak() -> float:
    best = math.inf
    for where in itertools.product(range(2), repeat=len(LOADS)):
        used = [sum(w for w, row in zip(LOADS, where, strict=True) if row == at) for at in range(2)]
        warm = [sum(w for w, row in zip(HEAT, where, strict=True) if row == at) for at in range(2)]
        if all(w <= c for w, c in zip(warm, COOLING, strict=True)):
            best = min(best, max(w / p for w, p in zip(used, ROWS, strict=True)))
    return best


@pytest.mark.parametrize("solver", milp.SOLVERS)
def test_rows_with_heat_of_their_own_against_brute_force(solver: str) -> None:
    found = place_loads(LOADS, ROWS, COOLING, load_heat_w=HEAT, solver=solver)
    assert found.optimal
    assert found.peak_share == pytest.approx(brute_force_peak(), rel=1e-4, abs=0)
    assert found.bound <= found.peak_share


def test_rows_say_what_stands_where() -> None:
    loads = [{"load": f"l{i}", "watts": w, "heat_w": h} for i, (w, h) in enumerate(zip(LOADS, HEAT, strict=True))]
    rows = [{"row": f"r{i}", "power_w": p, "cooling_w": c} for i, (p, c) in enumerate(zip(ROWS, COOLING, strict=True))]
    plan = pm.plan_rows(loads, rows)
    assert [one.load for one in plan.placement] == [f"l{i}" for i in range(5)]
    for row in plan.rows:
        assert row.watts == sum(one.watts for one in plan.placement if one.row == row.row)
        assert row.heat_w <= row.cooling_w
    assert plan.peak_share == max(row.power_share for row in plan.rows)
    huge = pm.plan_rows([{"load": "l", "watts": 20.0}], rows)
    assert not huge.feasible
    assert "loads: l: needs 20 W, no row has more than 12 W" in huge.infeasible_because


def test_a_limit_that_ends_the_search_is_not_called_optimal() -> None:
    rng = random.Random(2)
    loads = [rng.uniform(5e3, 12e3) for _ in range(60)]
    rows = [1.15 * sum(loads) / 7] * 7
    found = place_loads(loads, rows, work_limit=1)
    assert found.feasible
    assert not found.optimal
    assert found.stopped_by == "work_limit"
    # No placement is below the mean.
    assert found.bound == pytest.approx(1 / 1.15, rel=1e-3, abs=0)
    plan = pm.plan_rows(
        [{"load": str(i), "watts": w} for i, w in enumerate(loads)],
        [{"row": str(i), "power_w": w} for i, w in enumerate(rows)],
        work_limit=1,
    )
    assert (plan.certificate.optimal, plan.certificate.stopped_by) == (False, "work_limit")
    assert plan.certificate.gap is not None
    assert 0 < plan.certificate.gap < 0.1


def test_the_time_limit_is_honoured() -> None:
    rng = random.Random(3)
    loads = [rng.uniform(5e3, 12e3) for _ in range(150)]
    begun = time.monotonic()
    found = place_loads(loads, [1.1 * sum(loads) / 11] * 11, work_limit=10**9, time_limit_s=1.0)
    assert time.monotonic() - begun < 20.0
    assert found.stopped_by == "time_limit"
    assert not found.optimal


@pytest.mark.parametrize("stopped", ["work_limit", "time_limit"])
def test_a_limit_before_any_plan_proves_nothing(stopped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = milp.Solution("unknown", None, -math.inf, None, stopped)
    monkeypatch.setattr(power_milp, "solve", lambda *_, **__: nothing)
    placed = place_loads([1.0], [2.0])
    options = {"a": [pm.PoolOption("o", 1.0, 1.0, 1)]}
    for found in (placed, plan_pool_clocks(options, {"a": 1.0}, 4)):
        assert not found.feasible
        assert not found.optimal
        assert found.stopped_by == stopped
        assert "none is proved impossible" in found.infeasible_because[0]


@pytest.mark.parametrize("solver", milp.SOLVERS)
def test_both_solvers_choose_pools_of_the_same_power(solver: str) -> None:
    options = {
        "short": [pm.PoolOption("slow", 3.0, 700.0, 2), pm.PoolOption("fast", 4.0, 1100.0, 2)],
        "long": [pm.PoolOption("slow", 2.0, 1300.0, 4), pm.PoolOption("fast", 3.0, 2100.0, 4)],
    }
    found = plan_pool_clocks(options, {"short": 10.0, "long": 5.0}, 20, solver=solver)
    assert found.watts == 700 * 2 + 1100 + 1300 + 2100
    assert found.optimal
