"""The serving planner against brute force, its margins, what it says when nothing fits, and its launch files."""

from __future__ import annotations

import json

import pytest

import perfmodel as pm
from perfmodel.cli.main import main
from perfmodel.errors import OutOfRangeError, PlanError, SpecError
from perfmodel.launch import export_plan
from perfmodel.plan.serving.points import curves_of
from perfmodel.plan.serving.space import candidates_of
from perfmodel.predict.serving.demand import demand_of
from perfmodel.specs.serving_software import load_serving_software

MODEL, CLUSTER = "llama-3.1-8b", "dgx-a100-80gb"
LOAD = pm.Workload(prompt_tokens=1024, output_tokens=200, arrival_rate_per_s=12.0)
SLO = pm.Slo(ttft_s=1.0, tpot_s=0.04, percentile=0.9)


def planned(**changes):
    asked = {"model": MODEL, "cluster": CLUSTER, "workload": LOAD, "slo": SLO, "modes": "aggregated"} | changes
    return pm.plan_serving(**asked)


def engines(most: int = 8, **choices):
    lengths = (1224.0, demand_of(LOAD).kv_len)
    found = candidates_of(
        pm.load_model(MODEL), [pm.load_cluster(CLUSTER)], load_serving_software(None), lengths, most=most, **choices
    )
    return found.engines


def estimated(one, count: int, workload=LOAD, slo=SLO):
    layout = one.layout.model_copy(update={"dp": count * one.groups})
    cluster = pm.load_cluster(CLUSTER, accelerators=max(8, layout.accelerators))
    return pm.estimate_serving(
        MODEL, cluster, layout=layout, workload=workload, slo=slo,
        weights=one.precisions.weights, kv_cache=one.precisions.kv_cache,
    )  # fmt: skip


def test_plan_equals_brute_force_over_whole_estimates() -> None:
    plan = planned(max_accelerators=8)
    prices = [
        count * one.usd_per_hour
        for one in engines()
        for count in range(1, 8 // one.accelerators + 1)
        if estimated(one, count).slo_met
    ]
    assert plan.feasible
    assert plan.decision["usd_per_hour"] == pytest.approx(min(prices), rel=1e-9, abs=0)
    assert plan.prediction.slo_met


def test_the_curve_is_the_estimate() -> None:
    some = engines()[:6]
    curves = curves_of(some, LOAD, 400)
    for i, one in enumerate(some):
        if 12.0 / one.groups >= 0.9 * curves.most[i]:
            continue
        traffic, estimate = curves.at(12.0, 1, [i]), estimated(one, 1)
        # What prompts add to iterations is taken between a few batches on the curve.
        assert traffic.ttft_s[0] == pytest.approx(estimate.ttft_s, rel=0.04, abs=0)
        assert traffic.tpot_s[0] == pytest.approx(estimate.tpot_s, rel=0.04, abs=0)


@pytest.mark.parametrize(
    "harder", [{"slo": pm.Slo(ttft_s=0.4, tpot_s=0.015)}, {"workload": LOAD.with_(arrival_rate_per_s=60.0)},
               {"redundancy": 1}, {"traffic_factor": 3.0}, {"workload": LOAD.with_(burstiness=20.0)}],
)  # fmt: skip
def test_more_asked_never_costs_less(harder) -> None:
    usual, plan = planned(), planned(**harder)
    assert usual.feasible
    if plan.feasible:
        assert plan.decision["usd_per_hour"] >= usual.decision["usd_per_hour"]
    else:
        assert plan.infeasible_because


def test_a_lost_replica_and_a_factor_are_held() -> None:
    plan = planned(redundancy=1, traffic_factor=2.0, workload=LOAD.with_(arrival_rate_per_s=30.0))
    role = plan.decision["serve"]
    left = plan.decision["replicas"] - 1
    layout = pm.ParallelLayout(**role["layout"])
    whole = layout.model_copy(update={"dp": left * layout.attention_dp})
    found = pm.estimate_serving(
        MODEL, pm.load_cluster(CLUSTER, accelerators=max(8, whole.accelerators)), layout=whole, slo=SLO,
        workload=LOAD.with_(arrival_rate_per_s=60.0), weights=role["weights"], kv_cache=role["kv_cache"],
    )  # fmt: skip
    assert found.slo_met


def test_a_limit_below_the_bound_names_it_and_what_would_do() -> None:
    plan = planned(slo=pm.Slo(ttft_s=1.0, tpot_s=0.001))
    assert not plan.feasible
    assert plan.infeasible_because[0].startswith("tpot_s:")
    assert "bound by" in plan.infeasible_because[0]
    enough_ms = float(next(one for one in plan.infeasible_because if one.startswith("would fit")).split()[-2])
    assert planned(
        slo=pm.Slo(ttft_s=1.0, tpot_s=1.01e-3 * enough_ms), workload=LOAD.with_(arrival_rate_per_s=0.01)
    ).feasible


def test_other_precisions_are_named_where_they_would_help() -> None:
    asked = {
        "cluster": "dgx-h100",
        "weights": "bf16",
        "kv_cache": "bf16",
        "workload": LOAD.with_(arrival_rate_per_s=0.01),
    }
    plan = planned(**asked, slo=pm.Slo(tpot_s=0.0028))
    assert not plan.feasible
    assert any("with other precisions" in one for one in plan.infeasible_because), plan.infeasible_because


def test_too_few_accelerators_say_how_many() -> None:
    asked = {"workload": LOAD.with_(arrival_rate_per_s=200.0)}
    plan = planned(max_accelerators=2, **asked)
    assert not plan.feasible
    count = int(plan.infeasible_because[-1].split()[-1])
    assert planned(max_accelerators=count, **asked).feasible
    assert not planned(max_accelerators=count - 1, **asked).feasible


def test_a_model_too_large_says_what_it_keeps() -> None:
    plan = planned(model="llama-3.1-405b", max_accelerators=4)
    assert not plan.feasible
    assert "memory" in plan.infeasible_because[0]
    count = int(plan.infeasible_because[-1].split()[3])
    rare = LOAD.with_(arrival_rate_per_s=0.01)
    assert planned(model="llama-3.1-405b", max_accelerators=count, slo=pm.Slo(), workload=rare).feasible


def test_throughput_is_the_most_within_the_limits() -> None:
    plan = planned(objective="throughput", max_accelerators=4, workload=LOAD.with_(arrival_rate_per_s=None))
    assert plan.feasible
    rate = plan.prediction.requests_per_s
    assert plan.prediction.slo_attainment >= SLO.percentile - 0.02
    more = planned(max_accelerators=4, workload=LOAD.with_(arrival_rate_per_s=1.1 * rate))
    assert not more.feasible


def test_models_beside_take_their_memory() -> None:
    alone, shared = planned(), planned(beside=["llama-3.1-8b"])
    assert shared.feasible
    one, other = alone.decision["serve"], shared.decision["serve"]
    if one["layout"] == other["layout"]:
        assert other["kv_blocks"] < one["kv_blocks"]


def test_a_day_has_replicas_for_every_hour() -> None:
    rates = tuple(5.0 + 60.0 * (9 <= hour < 18) for hour in range(24))
    plan = planned(workload=LOAD.with_(hourly_rates_per_s=rates))
    counts = [one.replicas for one in plan.hourly]
    assert len(counts) == 24
    assert counts[12] > counts[3]
    assert plan.hourly[9].start_before_s > 60.0
    assert plan.hourly[10].start_before_s == 0.0


def test_growth_falls_and_headroom_is_said() -> None:
    plan = planned()
    shares = [one.slo_attainment for one in plan.growth]
    assert shares == sorted(shares, reverse=True)
    assert plan.headroom == plan.growth[1].slo_met


def test_the_frontier_trades_speed_for_rate() -> None:
    points = planned().frontier
    speeds = [one.tokens_per_s_per_user for one in points]
    rates = [one.output_tokens_per_s_per_accelerator for one in points]
    assert speeds == sorted(speeds, reverse=True)
    assert rates == sorted(rates)
    assert len(points) > 3


def test_apart_or_together_whichever_is_cheaper() -> None:
    apart = planned(modes="disaggregated", workload=LOAD.with_(arrival_rate_per_s=60.0))
    assert apart.decision["mode"] == "disaggregated"
    assert {"prefill", "decode"} <= apart.decision.keys()
    limits = {one.name: one.slack for one in apart.constraints}
    assert limits["ttft_s"] >= 0
    assert limits["tpot_s"] >= 0
    both = planned(modes=("aggregated", "disaggregated"), workload=LOAD.with_(arrival_rate_per_s=60.0))
    together = planned(workload=LOAD.with_(arrival_rate_per_s=60.0))
    assert both.decision["usd_per_hour"] == min(apart.decision["usd_per_hour"], together.decision["usd_per_hour"])


@pytest.mark.parametrize("tool", ["vllm", "sglang", "tensorrt-llm"])
def test_every_plan_can_be_launched(tool: str) -> None:
    plan = planned(software=f"{tool}-2025").to_dict()
    text = export_plan(plan, tool).text
    assert str(plan["decision"]["serve"]["layout"]["tp"]) in text


@pytest.mark.parametrize("objective", ["cost", "energy"])
def test_same_request_gives_the_same_bytes(objective: str) -> None:
    assert planned(objective=objective).to_json() == planned(objective=objective).to_json()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"objective": "speed"}, PlanError, "objective"),
        ({"modes": "split"}, PlanError, "modes"),
        ({"redundancy": -1}, OutOfRangeError, "redundancy"),
        ({"traffic_factor": 0.0}, OutOfRangeError, "traffic_factor"),
        ({"memory_margin": 1.0}, OutOfRangeError, "memory_margin"),
        ({"workload": LOAD.with_(arrival_rate_per_s=None)}, PlanError, "arrival_rate_per_s"),
        ({"objective": "throughput"}, PlanError, "max_accelerators"),
        ({"model": "bert-large"}, PlanError, "generates no tokens"),
        ({"kv_cache": "fp4"}, PlanError, "kv_cache"),
        ({"software": "vllm-2031"}, SpecError, "vllm-2031"),
        ({"slo": {"ttft": 1.0}}, SpecError, "ttft"),
    ],
)
def test_bad_input_is_named(changes, error, said: str) -> None:
    with pytest.raises(error, match=said):
        planned(**changes)


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


QUESTION = ("plan", "serving", "--model", MODEL, "--cluster", CLUSTER, "--trace", "azure-conversation", "--ttft-s", "1",
            "--tpot-s", "0.05")  # fmt: skip


def test_the_command_prints_a_plan_that_launches(capsys, tmp_path) -> None:
    code, out, _ = run(capsys, *QUESTION)
    assert code == 0
    assert "USD an hour" in out
    assert "vllm serve" in out
    file = tmp_path / "plan.json"
    assert run(capsys, *QUESTION, "--json", "-o", str(file))[0] == 0
    document = json.loads(file.read_text())
    assert document["document"] == "perfmodel/serving-plan/1"
    again = run(capsys, "plan", "serving", "-f", str(file), "--json")
    assert json.loads(again[1]) == document
    assert run(capsys, "export", str(file), "--to", "vllm")[0] == 0


def test_the_command_says_what_is_missing_and_what_does_not_fit(capsys) -> None:
    code, _, err = run(capsys, "plan", "serving", "--model", MODEL, "--cluster", CLUSTER)
    assert code == 2
    assert "--prompt-tokens" in err
    code, out, _ = run(capsys, *QUESTION[:-1], "0.0001")
    assert code == 1
    assert "would fit" in out
    code, _, err = run(capsys, *QUESTION, "--kv-cache", "fp7")
    assert code == 2
    assert "fp8" in err


def test_pools_that_were_not_priced_stay_in_the_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """With some pairs priced the bound is the least price of the next; with all of them nothing is left below it."""
    from perfmodel.plan.serving import split

    asked = dict(model="llama-3.1-8b", cluster="dgx-h100", slo={"ttft_s": 0.08, "tpot_s": 0.02})
    workload = pm.Workload(prompt_tokens=2000, output_tokens=200, arrival_rate_per_s=20)
    monkeypatch.setattr(split, "MOST_PAIRS", 16)
    some = pm.plan_serving(workload=workload, modes="disaggregated", **asked)
    monkeypatch.setattr(split, "MOST_PAIRS", 10**6)
    every = pm.plan_serving(workload=workload, modes="disaggregated", **asked)
    best = every.decision["usd_per_hour"]
    assert every.certificate.bound == best
    assert every.certificate.optimal
    assert some.certificate.bound < best <= some.decision["usd_per_hour"]
    assert not some.certificate.optimal
    assert some.certificate.gap == some.decision["usd_per_hour"] / some.certificate.bound - 1
