"""The planner against brute force, its certificate, and what it says when nothing fits."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest

import perfmodel as pm
from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.plan import pricing
from perfmodel.plan.bounds import least
from perfmodel.plan.limits import limits_of
from perfmodel.plan.search import OBJECTIVES, Found, search
from perfmodel.plan.space import SEARCHED, space_of
from perfmodel.plan.splits import splits_of
from perfmodel.predict.layout import check_layout
from perfmodel.predict.stages import Stages, split_layers
from perfmodel.predict.training import step_cost_usd, step_energy_j
from perfmodel.predict.training_task import degrees_of, training_task

SMALL = {"global_batch": 64, "seq_len": 2048, "precision": "fp16", "software": "megatron-2022"}


@pytest.fixture(scope="module")
def cluster():
    return pm.load_cluster("dgx-a100-80gb", 16)


TIGHT = {"global_batch": 8, "seq_len": 2048, "precision": "fp16", "software": "megatron-2022"}
TIGHT_MARGIN = 0.8
"""Memory so scarce that what is recomputed decides."""
AFTER_PRICING = ("memory", "watts", "dollars", "days")
COLUMNS = ("step_time_s", "memory_bytes", "cost_usd")


def priced_alone(task, layout):
    """Time, memory and cost of one layout, priced with scalars, and its energy."""
    step = task.steps.price(degrees_of(layout, task.model.n_layers), task.global_batch, task.seq_len)
    used = layout.accelerators
    values = (step.seconds, step.memory.total, step_cost_usd(task, used, step.seconds), step_energy_j(task, used, step))
    return tuple(float(value) for value in values)


def everything(task) -> Found:
    """Every layout of a space with its price: no limit, no bound, none forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pricing, "KEPT", 10**9)
        return search(task, space_of(task, SEARCHED), "time", bounds=False)


@pytest.fixture(scope="module")
def small():
    return training_task("megatron-1.7b", pm.load_cluster("dgx-a100-80gb", 4), **TIGHT)


@pytest.fixture(scope="module")
def table(small) -> Found:
    return everything(small)


def test_every_layout_of_the_space_is_priced_once_and_is_legal(small, table) -> None:
    assert table.priced == space_of(small, SEARCHED).legal == len(table.columns["value"])
    layouts = [table.layout(i) for i in range(table.priced)]
    for layout in layouts:
        check_layout(layout, small.model, small.cluster, small.global_batch, small.seq_len)
    assert len({layout.model_dump_json() for layout in layouts}) == table.priced


def test_the_space_holds_what_another_enumeration_finds(small) -> None:
    """Layouts drawn without the planner's tables, counted one by one."""
    found, space = 0, space_of(small)
    for tp, pp, dp, vpp, micro_batch in product((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 4), range(1, 13), (1, 2, 4, 8)):
        options = dict(tp=tp, pp=pp, dp=dp, vpp=vpp, micro_batch=micro_batch, recompute="none")
        options["schedule"] = "interleaved" if vpp > 1 else "1f1b"
        layout = pm.ParallelLayout(**options, sequence_parallel=False)
        if vpp > 1 and pp == 1:
            continue
        try:
            check_layout(layout, small.model, small.cluster, small.global_batch, small.seq_len)
        except PlanError:
            continue
        layers = -(-small.model.n_layers // (pp * vpp)) * vpp
        switches = (1 + (tp > 1 and 2048 % tp == 0)) * (1 if dp == 1 else 1 + {2: 1, 4: 2}[dp] * (3 if pp == 1 else 1))
        found += switches * (layers + 1 + len(space.recomputes) - 1)
    assert found == space.legal - space.uneven


def test_arrays_price_as_scalars_do(small, table) -> None:
    for i in random.Random(1).sample(range(table.priced), 400):
        alone = priced_alone(small, table.layout(i))
        for name, value in zip(COLUMNS, alone, strict=False):
            assert table.columns[name][i] == pytest.approx(value, rel=1e-12, abs=0), (name, table.layout(i))


@pytest.mark.parametrize("objective", ["time", "cost", "memory"])
def test_plan_equals_pricing_everything(small, table, objective: str) -> None:
    plan = pm.plan_training(
        small.model, small.cluster, objective=objective, memory_margin=TIGHT_MARGIN, schedules=SEARCHED, **TIGHT
    )
    fits = table.columns["memory_bytes"] <= plan.constraints[0].limit
    best = table.columns[OBJECTIVES[objective]][fits].min()
    found = dict(zip(COLUMNS, priced_alone(small, pm.ParallelLayout(**plan.decision["layout"])), strict=False))
    assert found[OBJECTIVES[objective]] == pytest.approx(best, rel=1e-12, abs=0)


def test_recomputing_some_layers_wins_where_memory_is_scarce(small, table) -> None:
    partial = 0
    for margin in (0.7, 0.75, 0.8, 0.82, 0.84, 0.86, 0.88, 0.9):
        plan = pm.plan_training(small.model, small.cluster, memory_margin=margin, schedules=SEARCHED, **TIGHT)
        fits = table.columns["memory_bytes"] <= plan.constraints[0].limit
        assert plan.feasible == fits.any()
        if plan.feasible:
            layout = pm.ParallelLayout(**plan.decision["layout"])
            best = table.columns["step_time_s"][fits].min()
            assert plan.prediction.step_time_s == pytest.approx(best, rel=1e-12, abs=0)
            partial += layout.recompute_layers is not None
    assert partial


def test_uneven_stages_win_where_the_ends_are_heavy() -> None:
    cluster = pm.load_cluster("dgx-a100-40gb", 64)
    task = training_task("llama-3.1-70b", cluster, global_batch=16, seq_len=4096, software="megatron-2023")
    limits = limits_of(task, 0.5 * float(cluster.accelerator.capacity_bytes), None, None, None)
    free, even = (search(task, space_of(task), "time", limits, uneven=on) for on in (True, False))
    layout = free.layout(0)
    assert layout.stage_layers is not None
    step_s, memory, *_ = priced_alone(task, layout)
    assert step_s == pytest.approx(free.columns["value"][0], rel=1e-12, abs=0)
    assert step_s < even.columns["value"][0]
    assert memory <= limits[0].most


@pytest.mark.parametrize(
    ("model", "cluster", "accelerators", "batch", "seq_len"),
    [
        ("megatron-7.5b", "dgx-a100-80gb", 64, 128, 2048),
        ("llama-2-70b", "dgx-h100", 128, 256, 4096),
        ("mixtral-8x7b", "dgx-h100", 16, 16, 4096),
    ],
)
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_bounds_leave_the_winner_alone(model, cluster, accelerators, batch, seq_len, objective) -> None:
    task = training_task(model, pm.load_cluster(cluster, accelerators), global_batch=batch, seq_len=seq_len)
    limits = limits_of(task, 0.9 * float(task.cluster.accelerator.capacity_bytes), None, None, None)
    fast, slow = (search(task, space_of(task, SEARCHED), objective, limits, bounds=on) for on in (True, False))
    assert fast.columns["value"][0] == slow.columns["value"][0]
    assert fast.layout(0) == slow.layout(0)
    assert fast.priced < slow.priced


def test_bounds_are_never_above_what_they_bound(small, table) -> None:
    for i in random.Random(1).sample(range(table.priced), 300):
        layout = table.layout(i)
        degrees = degrees_of(layout, small.model.n_layers)
        stages = layout.stage_layers
        by_hand = None if stages is None else Stages(float(max(stages)), float(stages[0]), float(stages[-1]), 0.0)
        row = replace(degrees, shards=degrees.dp * degrees.cp, stage_layers=by_hand, recompute_layers=None)
        of = least(small, row, small.steps.load(degrees.share(small.seq_len), degrees.pp))
        names = (*COLUMNS, "energy_j")
        for name, value in zip(names, priced_alone(small, layout), strict=True):
            assert of(name) <= value, (layout, name)
        assert of("watts") <= priced_alone(small, layout)[3] / priced_alone(small, layout)[0]


@pytest.mark.parametrize(("n_layers", "pp"), [(7, 2), (8, 3), (12, 4), (13, 5), (10, 10)])
def test_splits_are_every_split_with_few_layers_fewer_at_the_ends(n_layers: int, pp: int) -> None:
    found = {tuple(map(int, row)) for row in splits_of(n_layers, pp).T}
    for full, first, last in found:
        layers = split_layers(n_layers, pp, first, last)
        assert sum(layers) == n_layers
        assert len(layers) == pp
        assert (max(layers), layers[0], layers[-1]) == (full, first, last)
        # With one layer fewer everywhere the stages would not hold the model.
        assert first + last - 2 + (pp - 2) * (full - 1) < n_layers
        assert max(full - first, full - last) <= 4


@pytest.mark.parametrize("model", ["megatron-1.7b", "mixtral-8x7b"])
@pytest.mark.parametrize("software", ["megatron-2022", "megatron-core-2025", "fsdp-2024"])
def test_dominance_rules_hold(model: str, software: str) -> None:
    """Without overlap nothing is faster or leaner, and neither is GPipe."""
    cluster = pm.load_cluster("dgx-a100-80gb", 8)
    # Stages placed alike: a placement that answers to costs differs between twins.
    placed = pm.load_software(software).model_copy(update={"places_layers_freely": False})
    options = TIGHT | {"software": placed}
    task = training_task(model, cluster, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pricing, "KEPT", 4096)
        table = search(task, space_of(task), "time", bounds=False, uneven=False)

    def estimate(layout):
        return pm.estimate_training(model, cluster, layout=layout, **options)

    for i in random.Random(2).sample(range(len(table.columns["value"])), 60):
        layout = table.layout(i)
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
    rule = {"usd": "dollars"}.get(LIMITS[option], LIMITS[option])
    assert sum(count for name, count in none.certificate.pruned.items() if name.endswith(rule)) > 0
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
