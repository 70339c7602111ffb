"""The planner against brute force, its certificate, and what it says when nothing fits."""

from __future__ import annotations

import random

import pytest

import perfmodel as pm
from perfmodel.errors import PlanError
from perfmodel.plan.space import training_space
from perfmodel.predict.layout import check_layout
from perfmodel.predict.training import degrees_of, training_task

SMALL = {"global_batch": 64, "seq_len": 2048, "precision": "fp16", "software": "megatron-2022"}


@pytest.fixture(scope="module")
def cluster():
    return pm.load_cluster("dgx-a100-80gb", 16)


@pytest.mark.parametrize("objective", ["time", "cost", "energy"])
def test_plan_equals_brute_force_over_scalars(cluster, objective: str) -> None:
    plan = pm.plan_training("megatron-7.5b", cluster, objective=objective, **SMALL)
    task = training_task("megatron-7.5b", cluster, **SMALL)
    space = training_space(task.model, 16, 64, 2048)
    limit = plan.constraints[0].limit
    key = {"time": "step_time_s", "cost": "cost_usd_per_step", "energy": "energy_j_per_step"}[objective]
    best = min(
        getattr(estimate, key)
        for block in space.blocks
        for row in block.candidates
        for estimate in [pm.estimate_training("megatron-7.5b", cluster, layout=block.layout(int(row)), **SMALL)]
        if estimate.memory_bytes.total <= limit
    )
    assert getattr(plan.prediction, key) == pytest.approx(best, rel=1e-12, abs=0)


def test_random_legal_layouts_are_never_better(cluster) -> None:
    plan = pm.plan_training("megatron-7.5b", cluster, **SMALL)
    task = training_task("megatron-7.5b", cluster, **SMALL)
    draw, tried = random.Random(3), 0
    while tried < 300:
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
    before_pricing = sum(count for rule, count in certificate.pruned.items() if rule != "memory")
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
