"""Expert placement: reach, brute-force oracles, two solvers, traffic, moves, bad input."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import perfmodel as pm
from perfmodel.errors import MissingExtraError, PlanError, SpecError
from perfmodel.plan.experts.bench import eplb_baseline, saved_loads, saved_transitions
from perfmodel.plan.experts.budget import Budget
from perfmodel.plan.experts.counts import greedy_counts, replica_count_bound
from perfmodel.plan.experts.exact import solved_placement
from perfmodel.plan.experts.hottest import hottest_bound
from perfmodel.plan.experts.mapping import mapping_text
from perfmodel.plan.experts.moetuner import even_clusters, named_ranks
from perfmodel.plan.experts.moves import laid_over, moved
from perfmodel.plan.experts.planner import stale_load
from perfmodel.plan.experts.pool import Search, Settings, balanced_pool
from perfmodel.plan.experts.relaxation import replica_choice
from perfmodel.plan.experts.task import expert_task
from perfmodel.plan.experts.traffic import aligned, chained, crossings, stay_bound
from perfmodel.plan.milp import LinearProgram, solve
from perfmodel.specs.expert_load import generated_load, generated_transitions, load_expert_load

HEURISTIC = Settings(exact_columns=0)


def checked(plan: pm.plan_experts, load: np.ndarray) -> None:
    """The decision is a placement, and the prediction is what it gives."""
    decision, said = plan.decision, plan.prediction
    ranks = plan.request["ranks"]
    for layer, slots, tail, bound in zip(
        load, decision.slot_expert, said.max_over_mean_load, said.max_over_mean_load_bound, strict=True
    ):
        held = np.array(slots).reshape(ranks, -1)
        assert held.shape[1] == decision.slots_per_rank
        assert set(held.ravel()) == set(range(len(layer)))
        assert plan.request["duplicates"] or all(len(set(row)) == len(row) for row in held.tolist())
        each = layer / np.bincount(held.ravel())
        assert tail == pytest.approx(each[held].sum(axis=1).max() / (layer.sum() / ranks), rel=1e-12)
        assert bound <= tail * (1 + 1e-9)


def brute_force(load: np.ndarray, slots: int, ranks: int, duplicates: bool = False) -> float:
    """The least load of the fullest rank over every count and every packing (small pools)."""
    best = np.inf
    spare = slots - len(load)
    for extra in product(range(spare + 1), repeat=len(load)):
        if sum(extra) != spare:
            continue
        counts = np.array(extra) + 1
        best = min(best, _packed_best(np.repeat(np.arange(len(load)), counts), load / counts, ranks, duplicates, best))
    return best


def _packed_best(replicas: np.ndarray, sizes: np.ndarray, ranks: int, duplicates: bool, best: float) -> float:
    each = len(replicas) // ranks
    held: list[list[int]] = [[] for _ in range(ranks)]

    def place(at: int, best: float) -> float:
        if at == len(replicas):
            return min(best, max(sum(sizes[e] for e in row) for row in held))
        expert = int(replicas[at])
        seen = set()
        for row in held:
            key = tuple(sorted(row))
            if len(row) == each or key in seen or (not duplicates and expert in row):
                continue
            seen.add(key)
            if sum(sizes[e] for e in row) + sizes[expert] < best:
                row.append(expert)
                best = place(at + 1, best)
                row.pop()
        return best

    return place(0, best)


def test_readme_example_is_proven_optimal() -> None:
    load = saved_loads()["readme"]
    plan = pm.plan_experts(load, 8, nodes=2, slots=16, groups=4)
    mean = load.sum(axis=1) / 8
    assert plan.prediction.max_over_mean_load == pytest.approx((151 / mean[0], 179.5 / mean[1]), rel=1e-12)
    assert plan.certificate.optimal
    checked(plan, load)


def test_groups_stay_on_one_node_and_come_within_half_a_percent() -> None:
    load = saved_loads()["v3_zipf0.8"][:6]
    plan = pm.plan_experts(load, 32, nodes=8, slots=288, groups=8)
    checked(plan, load)
    for slots in plan.decision.slot_expert:
        by_node = np.array(slots).reshape(8, -1) // 32
        assert sorted(set(row).pop() for row in by_node.tolist()) == list(range(8))
        assert all(len(set(row)) == 1 for row in by_node.tolist())
    assert plan.certificate.gap < 0.005


@pytest.mark.parametrize("name", ["v3_zipf0.4", "v3_zipf1.2", "v3_lognorm0.6_group0.3"])
@pytest.mark.parametrize(("slots", "ranks"), [(288, 72), (288, 144), (320, 320)])
def test_never_above_what_greedy_replication_and_longest_first_give(name: str, slots: int, ranks: int) -> None:
    load = saved_loads()[name][:1]
    plan = pm.plan_experts(load, ranks, slots=slots)
    checked(plan, load)
    assert plan.certificate.gap < 0.03
    assert plan.prediction.mean_max_over_mean_load <= _eplb_like(load[0], slots, ranks) * (1 + 1e-12)


def _eplb_like(load: np.ndarray, slots: int, ranks: int) -> float:
    """Greedy replication, then replicas longest first onto the least full rank with room: the published heuristic."""
    counts = greedy_counts(load, slots, slots)
    replicas = np.repeat(load / counts, counts)
    on_rank, room = np.zeros(ranks), np.full(ranks, slots // ranks)
    for size in np.sort(replicas)[::-1]:
        rank = int(np.where(room > 0, on_rank, np.inf).argmin())
        on_rank[rank] += size
        room[rank] -= 1
    return float(on_rank.max() / on_rank.mean())


@pytest.mark.heavy
def test_no_saved_case_is_above_eplb() -> None:
    for row in eplb_baseline():
        groups = int(row["groups"]) if row["policy"] == "hierarchical" else None
        nodes = int(row["nodes"]) if groups else 1
        load = saved_loads()[row["input"]]
        plan = pm.plan_experts(load, int(row["ranks"]), nodes=nodes, slots=int(row["slots"]), groups=groups)
        assert plan.prediction.mean_max_over_mean_load <= float(row["eplb_max_over_mean"]) * (1 + 1e-6), row


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=3, max_size=5),
    st.sampled_from([(6, 3), (6, 2), (8, 4)]),
    st.booleans(),
)
def test_small_pools_match_brute_force(load: list[int], shape: tuple[int, int], duplicates: bool) -> None:
    slots, ranks = shape
    loads = np.array(load, dtype=float)
    if slots // ranks > len(load) or slots - len(load) > 4:
        return
    best = brute_force(loads, slots, ranks, duplicates)
    exact = balanced_pool(loads, slots, ranks, Search(Settings(duplicates=duplicates, exact_columns=10**6), Budget()))
    heuristic = balanced_pool(loads, slots, ranks, Search(Settings(duplicates=duplicates, exact_columns=0), Budget()))
    assert exact.fullest == pytest.approx(best, rel=1e-6)
    assert exact.optimal
    assert heuristic.bound <= best * (1 + 1e-9)
    assert heuristic.fullest >= best * (1 - 1e-9)


def test_two_solvers_agree_on_placement() -> None:
    load = np.array([90.0, 61, 40, 39, 13, 7])
    placed = {solver: solved_placement(load, 8, 4, duplicates=False, solver=solver) for solver in ("highs", "cbc")}
    objectives = [solution.objective for _, solution in placed.values()]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-6)
    assert objectives[0] == pytest.approx(brute_force(load, 8, 4), rel=1e-6)
    assert all(solution.status == "optimal" for _, solution in placed.values())


def _knapsack(count: int) -> LinearProgram:
    draws = np.random.default_rng(3)
    weight, worth = draws.integers(900, 1100, count), draws.integers(900, 1100, count)
    rows = csr_matrix(np.vstack([weight, weight[::-1]]).astype(float))
    half = np.full(2, weight.sum() / 2)
    ones = np.ones(count)
    return LinearProgram(-worth.astype(float), rows, -np.inf * np.ones(2), half, 0 * ones, ones, ones.astype(bool))


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_a_limit_is_never_called_optimal(solver: str) -> None:
    whole = solve(_knapsack(14), solver=solver)
    assert whole.status == "optimal"
    assert whole.stopped_by is None
    cut = solve(_knapsack(200), solver=solver, work_limit=1)
    assert cut.status != "infeasible"
    if cut.stopped_by is not None:
        assert cut.status in ("feasible", "unknown")
        assert cut.objective is None or cut.bound <= cut.objective + 1e-6


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_infeasible_is_said(solver: str) -> None:
    ones = np.ones(2)
    program = LinearProgram(
        ones, csr_matrix(np.ones((1, 2))), np.array([3.0]), np.array([3.0]), 0 * ones, ones, ones.astype(bool)
    )
    assert solve(program, solver=solver).status == "infeasible"


def test_unknown_and_missing_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlanError, match="unknown solver 'hihgs'; nearest: 'highs'"):
        solve(_knapsack(3), solver="hihgs")
    monkeypatch.setitem(__import__("sys").modules, "highspy", None)
    with pytest.raises(MissingExtraError, match="pip install highspy"):
        solve(_knapsack(3))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(12, 6), (12, 4), (10, 5)]))
def test_relaxation_never_refuses_what_a_packing_reaches(seed: int, shape: tuple[int, int]) -> None:
    slots, ranks = shape
    load = np.random.default_rng(seed).lognormal(0, 1, slots - 2)
    plan = balanced_pool(load, slots, ranks, Search(HEURISTIC, Budget()))
    assert replica_choice(load, slots, ranks, ranks, plan.fullest * (1 + 1e-7), whole=False).possible
    assert replica_count_bound(load, slots, ranks, ranks) <= plan.bound * (1 + 1e-9)


def test_mixtral_is_placed_at_its_exact_optimum() -> None:
    load, transitions = saved_transitions()
    plan = pm.plan_experts(load, 8, transitions=transitions, objective="traffic")
    assert 1 - plan.prediction.cross_rank_fraction == pytest.approx(0.3095, abs=5e-5)
    assert plan.certificate.optimal
    assert 1 - plan.prediction.cross_rank_fraction > 1 - 22.166 / 31  # ExFlow's own plan of 8 GPUs


def test_chain_matches_brute_force() -> None:
    flow = generated_transitions(3, 4, seed=5)
    for ranks in (4, 2):
        chain = chained(flow, ranks, 1, Budget())
        assert chain.optimal
        stay = 1 - crossings(_shares(chain.experts, 4, ranks), flow, 1)[0]
        homes = {tuple(np.array(order) * ranks // 4) for order in permutations(range(4))}
        best = max(
            sum(f[np.equal.outer(a, b)].sum() for f, a, b in zip(flow, way, way[1:], strict=False)) / len(flow)
            for way in product([np.array(home) for home in homes], repeat=3)
        )
        assert stay == pytest.approx(best, rel=1e-12)
        assert stay <= stay_bound(flow, 4 // ranks) + 1e-12


def _shares(experts: np.ndarray, n: int, ranks: int) -> np.ndarray:
    shares = np.zeros((len(experts), n, ranks))
    for layer, held in enumerate(experts):
        for rank, row in enumerate(held):
            shares[layer, row, rank] = 1.0
    return shares


def test_naming_ranks_keeps_loads_and_saves_traffic() -> None:
    flow = generated_transitions(6, 16, concentration=2.0, seed=1)
    experts = np.array([np.random.default_rng(layer).permutation(16).reshape(4, 4) for layer in range(6)])
    for nodes, grouped in ((1, False), (2, False), (2, True)):
        named = aligned(experts, flow, nodes, grouped)
        assert [sorted(map(tuple, a)) for a in named.tolist()] == [sorted(map(tuple, b)) for b in experts.tolist()]
    before, after = (crossings(_shares(one, 16, 4), flow, 1)[0] for one in (experts, aligned(experts, flow, 1, False)))
    assert after <= before + 1e-12


def test_both_is_no_worse_than_either() -> None:
    load = generated_load(5, 16, spread=0.5, seed=2)
    transitions = generated_transitions(5, 16, concentration=2.0, seed=2)
    times = {
        objective: pm.plan_experts(load, 4, transitions=transitions, objective=objective).prediction.relative_layer_time
        for objective in ("balance", "traffic", "both")
    }
    assert times["both"] <= min(times["balance"], times["traffic"]) + 1e-12


def test_moves_are_few_and_priced() -> None:
    load = generated_load(4, 32, seed=1)
    old = pm.plan_experts(load, 8, slots=40)
    drifted = load * np.random.default_rng(0).lognormal(0, 0.2, load.shape)
    free = pm.plan_experts(drifted, 8, slots=40, previous=old.decision.slot_expert)
    dear = pm.plan_experts(drifted, 8, slots=40, previous=old.decision.slot_expert, move_cost=100.0)
    assert dear.decision.moved_slots == 0
    assert dear.decision.slot_expert == old.decision.slot_expert
    assert free.prediction.mean_max_over_mean_load <= dear.prediction.mean_max_over_mean_load
    assert dear.prediction.max_over_mean_load == pytest.approx(stale_load(old, drifted), rel=1e-12)
    assert stale_load(old, load) == pytest.approx(old.prediction.max_over_mean_load, rel=1e-12)


def test_laying_over_finds_the_renamed_plan() -> None:
    before = np.arange(12).reshape(4, 3)
    after = before[[2, 0, 3, 1]][:, ::-1]
    assert moved(before, laid_over(before, after, 1, False)) == 0
    assert (laid_over(before, after, 1, False) == before).all()


def test_duplicates_only_by_option() -> None:
    load = np.array([[100.0, 1, 1, 1]])
    apart, together = (pm.plan_experts(load, 2, slots=8, duplicates=twins) for twins in (False, True))
    checked(apart, load)
    checked(together, load)
    assert together.prediction.mean_max_over_mean_load <= apart.prediction.mean_max_over_mean_load


def test_limits_are_told() -> None:
    load = generated_load(8, 64, seed=3)
    plan = pm.plan_experts(load, 16, slots=80, work_limit=3)
    assert plan.certificate.stopped_by == "work_limit"
    assert plan.certificate.priced <= 3
    checked(plan, load)
    assert plan.to_dict() == pm.plan_experts(load, 16, slots=80, work_limit=3).to_dict()


def test_request_gives_the_plan_again() -> None:
    plan = pm.plan_experts(generated_load(3, 16, seed=9), 4, slots=20)
    assert pm.plan_experts(**plan.request).to_dict() == plan.to_dict()
    assert list(plan.to_dict())[:4] == ["document", "perfmodel_version", "data_version", "request"]


def test_default_slots_are_the_least_that_divide() -> None:
    assert pm.plan_experts([[3, 2, 1]], 2).request["slots"] == 4


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"load": [[1, float("nan")]]}, r"load: \[0\]\[1\]: must be a number from 0"),
        ({"load": [[1, -1]]}, r"load: \[0\]\[1\]: must be a number from 0"),
        ({"load": [[0, 0]]}, "layer 0: every expert has load 0"),
        ({"load": [[1, 2], [1]]}, "rows of equal length"),
        ({"load": [[1, "x"]]}, "array of numbers"),
        ({"slots": 6}, "slots: must hold every expert once, at least 8"),
        ({"slots": 9}, "slots: must divide by ranks 2 .*nearest: 8 or 10"),
        ({"ranks": 0}, "ranks: must be a whole number >= 1"),
        ({"nodes": 3}, "nodes: must divide ranks 2"),
        ({"groups": 3}, "groups: must divide experts 8"),
        ({"nodes": 2, "groups": 1}, "nodes: must divide groups 1"),
        ({"objective": "balanced"}, "unknown objective 'balanced'; nearest: 'balance'"),
        ({"objective": "traffic"}, "transitions: missing"),
        ({"transitions": [[[1]]]}, "transitions: must have shape"),
        ({"slots": 18}, "only 8 experts"),
        ({"previous": [[0]]}, "previous: must have shape"),
        ({"move_cost": -1.0}, "move_cost: must be a number >= 0"),
        ({"time_limit_s": 0}, "time_limit_s: must be a number > 0"),
        ({"work_limit": 0}, "work_limit: must be a whole number"),
        ({"cluster": "dgx-h10"}, "nearest: 'dgx-h100'"),
    ],
)
def test_bad_arguments(keywords: dict, said: str) -> None:
    with pytest.raises(pm.PerfModelError, match=said):
        pm.plan_experts(**({"load": [[8, 7, 6, 5, 4, 3, 2, 1]], "ranks": 2} | keywords))


def test_mapping_files() -> None:
    import json

    sglang = json.loads(mapping_text("sglang", [[0, 1, 2, 0]], 2))
    assert sglang == {"physical_to_logical_map": [[0, 1, 2, 0]]}
    vllm = json.loads(mapping_text("vllm", [[0, 1, 2, 0]], 2))
    assert vllm["layer_list"][0]["device_list"] == [
        {"device_id": 0, "device_expert": [0, 1]},
        {"device_id": 1, "device_expert": [2, 0]},
    ]


def test_slowdown_of_a_layer_is_that_of_its_fullest_rank() -> None:
    from perfmodel.predict.imbalance import expert_layer_slowdown, expert_layers_slowdown

    assert expert_layer_slowdown(1.5, compute_s=2.0) == 1.5
    assert expert_layer_slowdown(1.0, compute_s=1.0, exchange_s=1.0, cross_rank_fraction=0.5) == 0.75
    assert expert_layers_slowdown((1.0, 2.0), compute_s=1.0, exchange_s=3.0) == 1.5


def test_published_tables_are_within_tolerance() -> None:
    from perfmodel.validation.expert_scores import run_experts

    report = run_experts()
    assert report["over_tolerance"] == []
    for one in report["sources"].values():
        assert one["median_percent"] < one["baseline_median_percent"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 3), st.integers(2, 3), st.integers(0, 2))
def test_placing_the_hottest_first_bounds_every_packing(seed: int, ranks: int, each: int, fewer: int) -> None:
    draws = np.random.default_rng(seed)
    slots = ranks * each
    loads = draws.lognormal(0, 1.5, max(slots - fewer, 1))
    if slots > len(loads) * ranks:
        return
    least = replica_count_bound(loads, slots, ranks, ranks)
    found = hottest_bound(loads, slots, ranks, least, np.inf)
    _, exact = solved_placement(loads, slots, ranks, duplicates=False)
    assert exact.objective is not None
    assert least <= found.bound <= exact.objective * (1 + 1e-6)
    assert found.counts.sum() == slots
    assert found.bound == pytest.approx(exact.objective, rel=1e-5)  # so small that every expert was placed


def test_even_clusters_match_brute_force() -> None:
    load = np.array([9.0, 7.0, 5.0, 3.0, 2.0, 2.0])
    for equal in (True, False):
        best = min(
            sum(abs(load[[c == k for c in choice]].sum() - load.sum() / 3) for k in range(3))
            for choice in product(range(3), repeat=6)
            if len(set(choice)) == 3 and (not equal or all(choice.count(k) == 2 for k in range(3)))
        )
        for solver in ("highs", "cbc"):
            cluster, found = even_clusters(load, 3, equal=equal, solver=solver)
            assert found.objective == pytest.approx(best, abs=1e-6)
            sums = np.bincount(cluster, load, 3)
            assert np.abs(sums - load.sum() / 3).sum() == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("nodes", [1, 3])
def test_named_ranks_match_brute_force(nodes: int) -> None:
    traffic = np.random.default_rng(nodes).random((2, 3, 3))
    speed = np.ones((3, 3)) if nodes == 1 else np.array([[1, 4, 1], [4, 1, 1], [1, 1, 1.0]])
    np.fill_diagonal(speed, np.inf)

    def busiest(order: list[tuple[int, ...]]) -> float:
        return sum(
            max(step[i, j] / speed[a[i], b[j]] for i in range(3) for j in range(3))
            for step, a, b in zip(traffic, order[:-1], order[1:], strict=True)
        )

    best = min(busiest(list(order)) for order in product(permutations(range(3)), repeat=3))
    ranks, found = named_ranks(traffic, speed)
    assert found.objective == pytest.approx(best, rel=1e-6)
    assert busiest([tuple(row) for row in ranks.tolist()]) == pytest.approx(best, rel=1e-6)


def test_both_trades_tail_for_traffic_and_stays_above_its_bound() -> None:
    load = generated_load(3, 6, spread=0.6, seed=5)
    transitions = generated_transitions(3, 6, concentration=1.5, seed=5)
    cluster = pm.load_cluster("dgx-h100", accelerators=16)
    for machine, nodes in ((None, 1), (cluster, 1), (cluster, 3)):
        keywords = {"nodes": nodes, "transitions": transitions, "cluster": machine}
        times = {name: pm.plan_experts(load, 3, objective=name, **keywords) for name in ("balance", "traffic", "both")}
        found = times["both"].certificate
        task = expert_task(load, 3, nodes, None, None, transitions, machine, "both", False, None, 0.0, 0.357, None,
                           None, None)  # fmt: skip
        pairs = [np.array(p).reshape(3, 2) for p in permutations(range(6)) if all(p[k] < p[k + 1] for k in (0, 2, 4))]
        best = min(task.outcome(np.array(one)).relative_time for one in product(pairs[:1] if nodes == 1 else pairs,
                   pairs, pairs)) if nodes == 1 else None  # fmt: skip
        assert found.objective_value <= min(one.prediction.relative_layer_time for one in times.values()) + 1e-12
        assert found.bound <= found.objective_value * (1 + 1e-12)
        if best is not None:
            assert found.bound <= best * (1 + 1e-12)
            assert found.objective_value <= best * 1.1


def test_links_price_what_leaves_a_node() -> None:
    load = generated_load(6, 16, spread=0.4, seed=7)
    transitions = generated_transitions(6, 16, concentration=1.0, seed=7)
    cluster = pm.load_cluster("dgx-h100", accelerators=16)
    keywords = {"nodes": 2, "transitions": transitions, "objective": "both"}
    blind, seeing = (pm.plan_experts(load, 8, cluster=one, **keywords) for one in (None, cluster))
    assert seeing.prediction.cross_node_fraction <= blind.prediction.cross_node_fraction + 1e-9
    assert seeing.certificate.gap is not None


def test_loads_are_drawn_by_name() -> None:
    found = load_expert_load("generated:3x16,spread=0.6,seed=4,concentration=7,experts_per_token=2")
    assert np.array_equal(found["load"], generated_load(3, 16, spread=0.6, seed=4, experts_per_token=2))
    assert found["transitions"].shape == (2, 16, 16)
    for text, said in (("generated:16", "LAYERSxEXPERTS"), ("generated:3x16,sprad=1", "nearest"),
                       ("generated:3x16,seed=x", "must be a number"), ("generated:3x4", "at most the 4")):  # fmt: skip
        with pytest.raises(SpecError, match=said):
            load_expert_load(text)
