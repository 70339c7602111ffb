"""The planner against brute force, its certificate, and what it says when nothing fits."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

import perfmodel as pm
from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.plan.bounds import least
from perfmodel.plan.limits import limits_of
from perfmodel.plan.search import OBJECTIVES, search
from perfmodel.plan.space import training_space
from perfmodel.predict.layout import check_layout
from perfmodel.predict.training import degrees_of, step_cost_usd, step_energy_j, training_task

SMALL = {"global_batch": 64, "seq_len": 2048, "precision": "fp16", "software": "megatron-2022"}


@pytest.fixture(scope="module")
def cluster():
    return pm.load_cluster("dgx-a100-80gb", 16)


TIGHT = {"global_batch": 8, "seq_len": 2048, "precision": "fp16", "software": "megatron-2022"}
TIGHT_MARGIN = 0.8
"""Memory so scarce that what is recomputed decides."""
AFTER_PRICING = ("memory", "watts", "dollars", "days")
COLUMN = {"time": 0, "memory": 1, "cost": 2, "energy": 3}


def priced_alone(task, layout):
    """Time, memory, cost and energy of one layout, priced with scalars."""
    step = task.steps.price(degrees_of(layout, task.model.n_layers), task.global_batch, task.seq_len)
    used = layout.accelerators
    values = (step.seconds, step.memory.total, step_cost_usd(task, used, step.seconds), step_energy_j(task, used, step))
    return tuple(float(value) for value in values)


@pytest.fixture(scope="module")
def brute() -> list[tuple[pm.ParallelLayout, tuple[float, ...]]]:
    """Every layout of a small space, with every number of recomputed layers, each priced alone."""
    task = training_task("megatron-1.7b", pm.load_cluster("dgx-a100-80gb", 4), **TIGHT)
    space = training_space(task.model, 4, TIGHT["global_batch"], TIGHT["seq_len"])
    layouts = [block.layout(int(row)) for block in space.blocks for row in block.candidates]
    some = [
        layout.model_copy(update={"recompute_layers": count})
        for layout in layouts
        if layout.recompute == "full"
        for count in range(1, -(-task.model.n_layers // (layout.pp * layout.vpp)) * layout.vpp)
    ]
    assert len(some) == space.partial
    return [(layout, priced_alone(task, layout)) for layout in layouts + some]


@pytest.mark.parametrize("objective", list(COLUMN))
def test_plan_equals_brute_force_over_scalars(brute, objective: str) -> None:
    cluster = pm.load_cluster("dgx-a100-80gb", 4)
    plan = pm.plan_training("megatron-1.7b", cluster, objective=objective, memory_margin=TIGHT_MARGIN, **TIGHT)
    limit = plan.constraints[0].limit
    best = min(values[COLUMN[objective]] for _, values in brute if values[1] <= limit)
    found = priced_alone(training_task("megatron-1.7b", cluster, **TIGHT), pm.ParallelLayout(**plan.decision["layout"]))
    assert found[COLUMN[objective]] == pytest.approx(best, rel=1e-12, abs=0)


def test_recomputing_some_layers_wins_where_memory_is_scarce(brute) -> None:
    cluster, won = pm.load_cluster("dgx-a100-80gb", 4), 0
    for margin in (0.7, 0.75, 0.8, 0.85, 0.9):
        plan = pm.plan_training("megatron-1.7b", cluster, memory_margin=margin, **TIGHT)
        fitting = [one for one in brute if one[1][1] <= plan.constraints[0].limit]
        if not fitting:
            assert not plan.feasible
            continue
        layout, values = min(fitting, key=lambda one: one[1][0])
        assert plan.prediction.step_time_s == pytest.approx(values[0], rel=1e-12, abs=0)
        won += layout.recompute_layers is not None
    assert won


@pytest.mark.parametrize(
    ("model", "cluster", "accelerators", "batch", "seq_len"),
    [
        ("megatron-7.5b", "dgx-a100-80gb", 64, 128, 2048),
        ("llama-2-70b", "dgx-h100", 128, 256, 4096),
        ("mixtral-8x7b", "dgx-h100", 64, 128, 4096),
    ],
)
@pytest.mark.parametrize("objective", list(COLUMN))
def test_bounds_leave_the_winner_alone(model, cluster, accelerators, batch, seq_len, objective) -> None:
    task = training_task(model, pm.load_cluster(cluster, accelerators), global_batch=batch, seq_len=seq_len)
    space = training_space(task.model, accelerators, batch, seq_len)
    limits = limits_of(task, 0.6 * float(task.cluster.accelerator.capacity_bytes), None, None, None)
    fast, slow = (search(task, space, objective, limits, bounds=on, partial=on) for on in (True, False))
    partial = fast.layout(0).recompute_layers is not None
    column = OBJECTIVES[objective]
    assert fast.columns[column][0] <= slow.columns[column][0]
    assert partial or fast.layout(0) == slow.layout(0)
    assert fast.priced < slow.priced


def test_bounds_are_never_above_what_they_bound(brute) -> None:
    task = training_task("megatron-1.7b", pm.load_cluster("dgx-a100-80gb", 4), **TIGHT)
    names = ("step_time_s", "memory_bytes", "cost_usd", "energy_j")
    for layout, values in random.Random(1).sample(brute, 300):
        degrees = degrees_of(layout.model_copy(update={"recompute_layers": None}), task.model.n_layers)
        if layout.recompute_layers is not None:
            degrees = replace(degrees, recompute="none")
        layers = task.steps.load(degrees.share(task.seq_len), degrees.pp).layer
        for name, value in zip(names, values, strict=True):
            assert least(task, degrees, layers, name) <= value, (layout, name)


@pytest.mark.parametrize("software", ["megatron-2022", "megatron-core-2025", "fsdp-2024"])
def test_dominance_rules_hold(brute, software: str) -> None:
    """Without overlap nothing is faster or leaner, and neither is GPipe."""
    cluster = pm.load_cluster("dgx-a100-80gb", 4)

    def estimate(layout):
        return pm.estimate_training("megatron-1.7b", cluster, layout=layout, **(TIGHT | {"software": software}))

    for layout, _ in random.Random(2).sample(brute, 100):
        changes = [{"overlap": False}]
        if layout.vpp == 1:
            changes.append({"schedule": "gpipe"})
        kept = estimate(layout)
        for change in changes:
            twin = estimate(layout.model_copy(update=change))
            assert twin.step_time_s >= kept.step_time_s * (1 - 1e-12), (layout, change)
            assert twin.memory_bytes.total >= kept.memory_bytes.total * (1 - 1e-12), (layout, change)


@pytest.mark.parametrize("tries", [2000, pytest.param(10_000, marks=pytest.mark.heavy)])
def test_random_legal_layouts_are_never_better(cluster, tries: int) -> None:
    plan = pm.plan_training("megatron-7.5b", cluster, **SMALL)
    task = training_task("megatron-7.5b", cluster, **SMALL)
    draw, tried = random.Random(3), 0
    while tried < tries:
        tp, pp, dp = (draw.choice([1, 2, 4, 8, 16]) for _ in range(3))
        if tp * pp * dp > 16:
            continue
        vpp = draw.choice([1, 1, 2, 3])
        options = dict(
            tp=tp, pp=pp, dp=dp, vpp=vpp, micro_batch=draw.choice([1, 2, 4, 8]), zero_stage=draw.randrange(4),
            sequence_parallel=draw.random() < 0.5, recompute=draw.choice(["none", "selective", "full"]),
            schedule="interleaved" if vpp > 1 else "1f1b",
        )  # fmt: skip
        layout = pm.ParallelLayout(**options)
        try:
            check_layout(layout, task.model, task.cluster, 64, 2048)
        except PlanError:
            continue
        tried += 1
        step = task.steps.price(degrees_of(layout, task.model.n_layers), 64, 2048)
        if float(step.memory.total) <= plan.constraints[0].limit:
            assert float(step.seconds) >= plan.prediction.step_time_s * (1 - 1e-12), layout


def test_certificate_counts_add_up(cluster) -> None:
    certificate = pm.plan_training("megatron-7.5b", cluster, **SMALL).certificate
    before_pricing = sum(count for rule, count in certificate.pruned.items() if rule not in AFTER_PRICING)
    assert certificate.candidates == certificate.priced + before_pricing
    assert certificate.optimal
    assert certificate.stopped_by is None


def test_frontier_is_not_dominated(cluster) -> None:
    plan = pm.plan_training("megatron-7.5b", cluster, top=20, **SMALL)
    points = [(a.step_time_s, a.memory_bytes, a.cost_usd_per_step) for a in plan.alternatives]
    for point in points:
        assert not any(all(x < y for x, y in zip(other, point, strict=True)) for other in points)
        assert point[0] >= plan.prediction.step_time_s


def test_infeasible_plan_says_why_and_what_would_fit() -> None:
    plan = pm.plan_training("megatron-1t", pm.load_cluster("dgx-a100-80gb", 8), **SMALL)
    assert not plan.feasible
    assert plan.decision is None
    assert plan.constraints[0].slack < 0
    assert "needs" in plan.infeasible_because[0]
    assert any(reason.startswith("would fit") for reason in plan.infeasible_because)
    enough = int(next(r for r in plan.infeasible_because if "accelerators of the same kind" in r).split()[2])
    assert pm.plan_training("megatron-1t", pm.load_cluster("dgx-a100-80gb", enough), **SMALL).feasible


def test_a_batch_that_does_not_divide_leaves_accelerators_idle() -> None:
    plan = pm.plan_training("megatron-1.7b", pm.load_cluster("dgx-a100-80gb", 24), **(SMALL | {"global_batch": 64}))
    assert plan.feasible
    assert plan.decision["accelerators_used"] <= 24


def test_same_request_gives_the_same_bytes(cluster) -> None:
    documents = {pm.plan_training("megatron-7.5b", cluster, **SMALL).to_json() for _ in range(2)}
    assert len(documents) == 1


def test_sensitivities_have_the_physical_sign(cluster) -> None:
    plan = pm.plan_training("megatron-7.5b", cluster, **SMALL)
    for sensitivity in plan.sensitivities:
        if "latency" in sensitivity.quantity:
            assert sensitivity.elasticity >= 0
        else:
            assert -1 <= sensitivity.elasticity <= 0


LIMITS = {"max_watts": "watts", "max_usd": "usd", "max_days": "days"}


@pytest.mark.parametrize("option", list(LIMITS))
def test_a_limit_holds_or_says_what_it_would_take(cluster, option: str) -> None:
    free = pm.plan_training("megatron-7.5b", cluster, tokens=1e9, **{option: 1e12}, **SMALL)
    needed = next(one.value for one in free.constraints if one.name == LIMITS[option])
    bound = pm.plan_training("megatron-7.5b", cluster, tokens=1e9, **{option: 0.9 * needed}, **SMALL)
    if bound.feasible:
        slack = {one.name: one.slack for one in bound.constraints}
        assert slack[LIMITS[option]] >= 0
        assert bound.prediction.step_time_s >= free.prediction.step_time_s
    else:
        assert bound.constraints[0].name == LIMITS[option]
        assert bound.constraints[0].slack < 0
    none = pm.plan_training("megatron-7.5b", cluster, tokens=1e9, **{option: 1e-3 * needed}, **SMALL)
    assert not none.feasible
    assert "needs" in none.infeasible_because[0]
    assert none.certificate.pruned[{"usd": "dollars"}.get(LIMITS[option], LIMITS[option])] > 0
    # What it says would fit does fit.
    enough = pm.plan_training("megatron-7.5b", cluster, tokens=1e9, **{option: none.constraints[0].value}, **SMALL)
    assert enough.feasible


def test_limits_of_a_run_need_its_tokens(cluster) -> None:
    with pytest.raises(PlanError, match="tokens"):
        pm.plan_training("megatron-7.5b", cluster, max_days=3.0, **SMALL)
    with pytest.raises(OutOfRangeError, match="max_watts"):
        pm.plan_training("megatron-7.5b", cluster, max_watts=-1.0, **SMALL)


@pytest.mark.parametrize("objective", ["time", "cost", "energy", "memory"])
def test_more_accelerators_are_never_worse(objective: str) -> None:
    """A batch of 2 cannot use 64 accelerators well, and the cheapest plan may use few of them."""
    key = {"time": "step_time_s", "cost": "cost_usd_per_step", "energy": "energy_j_per_step"}.get(objective)
    values = []
    for accelerators in (8, 16, 64):
        cluster = pm.load_cluster("dgx-a100-80gb", accelerators)
        plan = pm.plan_training("megatron-1.7b", cluster, objective=objective, **(SMALL | {"global_batch": 2}))
        values.append(getattr(plan.prediction, key) if key else plan.prediction.memory_bytes.total)
    assert values == sorted(values, reverse=True)
