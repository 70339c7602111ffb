"""Uneven experts in the training and serving estimates and planners: by a number, by loads, by a plan's placement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.errors import OutOfRangeError, PlanError, SpecError
from perfmodel.plan.search import search
from perfmodel.plan.space import space_of
from perfmodel.predict.imbalance import expert_exchange, expert_routing
from perfmodel.predict.training_task import degrees_of, training_task
from perfmodel.specs.expert_load import generated_load, generated_transitions

TRAINED: dict[str, Any] = {"global_batch": 64, "seq_len": 4096}
LAYOUT = {"dp": 32, "ep": 8, "recompute": "full"}
SERVED: dict[str, Any] = {"prompt_tokens": 512, "output_tokens": 128, "concurrency": 64, "weights": "fp8"}
LOAD = generated_load(4, 128, seed=3)


@pytest.fixture(scope="module")
def cluster() -> Any:
    return pm.load_cluster("dgx-h100", accelerators=32)


def trained(cluster: Any, layout: dict[str, Any] = LAYOUT, **uneven: Any) -> Any:
    return pm.estimate_training("qwen3-30b-a3b", cluster, layout=layout, **TRAINED, **uneven)


def served(cluster: Any, layout: dict[str, Any], **uneven: Any) -> Any:
    return pm.estimate_serving("qwen3-30b-a3b", cluster, layout=layout, **SERVED, **uneven)


def test_loads_are_placed_in_order_at_every_degree() -> None:
    routing = expert_routing(pm.load_model("qwen3-30b-a3b"), expert_loads=LOAD)
    assert routing is not None
    for ep in (1, 2, 8, 128):
        fullest = [max(sum(row[i : i + 128 // ep]) for i in range(0, 128, 128 // ep)) / row.sum() * ep for row in LOAD]
        assert routing.at(float(ep)).fullest == pytest.approx(np.mean(fullest), rel=1e-12)
    at = routing.at(np.array([[1.0, 8.0]]))
    assert at.fullest.shape == (1, 2)
    assert at.fullest[0, 0] == 1.0


def test_even_loads_cost_nothing(cluster: Any) -> None:
    balanced, even = trained(cluster), trained(cluster, expert_loads=np.ones((1, 128)))
    assert even.step_time_s == balanced.step_time_s
    assert even.memory_bytes == balanced.memory_bytes
    assert balanced.experts is None
    assert even.experts.slowdown == 1.0
    assert trained(cluster, {"dp": 32, "recompute": "full"}, expert_imbalance=3.0).experts.slowdown == 1.0  # ep 1


def test_the_fullest_rank_slows_products_messages_and_fills_memory(cluster: Any) -> None:
    times = [trained(cluster, expert_imbalance=x) for x in (1.0, 1.5, 3.0)]
    assert times[0].step_time_s < times[1].step_time_s < times[2].step_time_s
    assert times[0].memory_bytes.activations < times[2].memory_bytes.activations

    def seconds(estimate: Any, name: str) -> float:
        return float(next(term.seconds for term in estimate.terms if term.name == name))

    assert seconds(times[2], "expert_parallel") == pytest.approx(3 * seconds(times[0], "expert_parallel"), rel=0.05)
    assert times[2].experts.slowdown == pytest.approx(times[2].step_time_s / times[0].step_time_s, rel=1e-9)


def test_no_rank_has_more_than_everything() -> None:
    routing = expert_routing(pm.load_model("qwen3-30b-a3b"), expert_imbalance=5.0)
    assert routing is not None
    assert [routing.at(ep).fullest for ep in (1.0, 4.0, 8.0)] == [1.0, 4.0, 5.0]


def test_the_planner_weighs_the_degree_that_its_loads_make_slow(cluster: Any) -> None:
    skewed = np.ones((1, 128))
    skewed[0, :16] = 12.0
    uneven = pm.plan_training("qwen3-30b-a3b", cluster, **TRAINED, expert_loads=skewed)
    even = pm.plan_training("qwen3-30b-a3b", cluster, **TRAINED)
    assert uneven.feasible
    assert uneven.prediction.step_time_s > even.prediction.step_time_s
    layout = uneven.decision["layout"] if isinstance(uneven.decision, dict) else uneven.decision.layout
    again = trained(cluster, layout, expert_loads=skewed)
    assert again.step_time_s == pytest.approx(uneven.prediction.step_time_s, rel=1e-12)
    # The layout of balanced experts is no better under this load.
    other = even.decision["layout"] if isinstance(even.decision, dict) else even.decision.layout
    assert trained(cluster, other, expert_loads=skewed).step_time_s >= uneven.prediction.step_time_s * (1 - 1e-9)


def test_bounds_leave_the_best_layout(cluster: Any) -> None:
    task = training_task(
        "mixtral-8x7b", pm.load_cluster("dgx-h100", accelerators=8), global_batch=8, seq_len=4096,
        expert_loads=[[9.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]],
    )  # fmt: skip
    best, whole = (search(task, space_of(task, ("1f1b",)), "time", bounds=bounds) for bounds in (True, False))
    assert best.columns["value"][0] == whole.columns["value"][0]
    layout = best.layout(0)
    alone = task.steps.price(degrees_of(layout, task.model.n_layers), task.global_batch, task.seq_len)
    assert best.columns["value"][0] == pytest.approx(float(alone.seconds), rel=1e-12)


def planned(ranks: int, **keywords: Any) -> Any:
    return pm.plan_experts(LOAD, ranks, time_limit_s=None, work_limit=40, **keywords)


def test_a_plan_prices_its_own_placement(cluster: Any, tmp_path: Path) -> None:
    plan = planned(8)
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json(), encoding="utf-8")
    found = trained(cluster, expert_placement=str(file))
    assert found.experts.placed == "the plan's placement"
    assert found.experts.fullest_over_mean == pytest.approx(plan.prediction.mean_max_over_mean_load, rel=1e-12)
    assert found.step_time_s < trained(cluster, expert_loads=LOAD).step_time_s
    # Elsewhere its loads lie in order.
    other = {**LAYOUT, "ep": 16}
    assert trained(cluster, other, expert_placement=plan).step_time_s == (
        trained(cluster, other, expert_loads=LOAD).step_time_s
    )
    again = found.request["expert_placement"]
    assert trained(cluster, expert_placement=again).step_time_s == found.step_time_s
    assert json.loads(found.to_json())["experts"]["ep"] == 8


def test_traffic_of_a_plan_with_transitions_counts(cluster: Any) -> None:
    load = np.ones((4, 128))
    flow = np.zeros((3, 128, 128))
    flow[:, np.arange(128), np.arange(128)] = 1 / 128  # every token stays with its expert's number
    stays = pm.plan_experts(load, 16, nodes=2, transitions=flow, objective="traffic")
    layout = {**LAYOUT, "ep": 16}
    placed, even = (trained(cluster, layout, **one) for one in ({"expert_placement": stays}, {}))
    assert stays.prediction.cross_rank_fraction == pytest.approx(0.0, abs=1e-9)
    assert placed.step_time_s < even.step_time_s
    assert placed.experts.leaving_node < 1e-6
    drawn = pm.plan_experts(load, 16, nodes=2, transitions=generated_transitions(4, 128, seed=1), work_limit=20)
    assert trained(cluster, layout, expert_placement=drawn).experts.leaving_rank == pytest.approx(
        drawn.prediction.cross_rank_fraction / (15 / 16), rel=1e-9
    )


def test_an_exchange_waits_for_the_share_that_leaves_the_node(cluster: Any) -> None:
    links = training_task("qwen3-30b-a3b", cluster, **TRAINED).steps.links
    routing = expert_routing(pm.load_model("qwen3-30b-a3b"), expert_imbalance=1.0)
    assert routing is not None
    even = routing.at(16.0)
    whole = expert_exchange(links, 1e9, 16.0, 1.0, even).seconds
    assert whole == pytest.approx(links.collective("all_to_all", 1e9, 16.0).seconds, rel=1e-12)
    half = expert_exchange(links, 1e9, 16.0, 1.0, even._replace(far=0.5)).seconds
    assert 0.5 < half / whole < 0.6
    assert expert_exchange(links, 1e9, 8.0, 1.0, even._replace(far=0.5)).seconds == (
        expert_exchange(links, 1e9, 8.0, 1.0, even).seconds
    )


def test_serving_waits_for_the_fullest_rank_and_holds_replicas(cluster: Any) -> None:
    layout = {"tp": 8, "ep": 8}
    even, uneven = served(cluster, layout), served(cluster, layout, expert_loads=LOAD)
    assert uneven.tpot_s > even.tpot_s
    assert uneven.experts.slowdown > 1
    plan = planned(8, slots=136)
    placed = served(cluster, layout, expert_placement=plan)
    assert placed.tpot_s < uneven.tpot_s
    assert placed.experts.replicas == 136 / 128
    assert placed.memory_bytes.weights > even.memory_bytes.weights
    assert served(cluster, layout, expert_imbalance=1.0).tpot_s == even.tpot_s


def test_a_placement_on_ranks_that_do_not_divide_the_experts() -> None:
    cluster = pm.load_cluster("dgx-h100", accelerators=12)
    plan = planned(12, slots=132)
    layout = {"dp": 12, "attention_dp": 12, "ep": 12}
    assert served(cluster, layout, expert_placement=plan).experts.ep == 12
    with pytest.raises(PlanError, match="ep: must divide"):
        served(cluster, layout, expert_loads=LOAD)


def test_the_serving_planner_takes_them_too(cluster: Any) -> None:
    workload = pm.Workload(prompt_tokens=512, output_tokens=128, arrival_rate_per_s=60.0)
    even, uneven = (
        pm.plan_serving("qwen3-30b-a3b", "dgx-h100", workload, pm.Slo(tpot_s=0.02), modes="aggregated", **one)
        for one in ({}, {"expert_imbalance": 4.0})
    )
    assert uneven.feasible
    assert uneven.prediction.tpot_s >= even.prediction.tpot_s * (1 - 1e-9)
    assert uneven.request["expert_imbalance"] == 4.0


@pytest.mark.parametrize(
    ("uneven", "said"),
    [
        ({"expert_imbalance": 0.5}, "expert_imbalance: must be a number >= 1"),
        ({"expert_imbalance": float("nan")}, "expert_imbalance: must be a number >= 1"),
        ({"expert_loads": [[1.0, 2.0]]}, "expert_loads: must give all 128 experts"),
        ({"expert_loads": [[-1.0] * 128]}, "must be a number from 0"),
        ({"expert_loads": LOAD, "expert_imbalance": 2.0}, "give one of them"),
        ({"expert_placement": {"document": "perfmodel/training-plan/1"}}, "must be a perfmodel/experts-plan/1"),
        ({"expert_placement": "no-such-file.json"}, "cannot be read"),
    ],
)
def test_bad_input(cluster: Any, uneven: dict[str, Any], said: str) -> None:
    with pytest.raises((OutOfRangeError, PlanError, SpecError), match=said):
        trained(cluster, **uneven)


def test_replicas_are_refused_in_training_and_experts_are_needed(cluster: Any) -> None:
    with pytest.raises(PlanError, match="replicas would sum their gradients"):
        trained(cluster, expert_placement=planned(8, slots=136))
    with pytest.raises(PlanError, match="has no routed experts"):
        pm.estimate_training("llama-3.1-8b", cluster, layout={"dp": 32}, **TRAINED, expert_imbalance=2.0)
