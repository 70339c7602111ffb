"""Open traffic: laws of queues, limits and the command line; closed forms beside a replay of real requests."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.cli.main import main
from perfmodel.errors import PlanError, SpecError
from perfmodel.formulas.queueing import backlog_of_window, kingman_waiting_time, mm1_waiting_time
from perfmodel.formulas.serving import mg1_waiting_time
from perfmodel.predict.replay_serving import IterationCosts, replay
from perfmodel.predict.serving.demand import Demand, Phases, demand_of, phases_of, rates_of, solve_batch
from perfmodel.predict.serving.records import ServingEstimate
from perfmodel.predict.serving.task import ServingTask, serving_task
from perfmodel.predict.serving.traffic import Traffic, attainment, traffic_at
from perfmodel.specs.serving_software import load_serving_software
from perfmodel.specs.trace import Requests
from perfmodel.validation.tolerances import load_tolerances
from perfmodel.validation.traffic_scores import TRAFFIC_TOLERANCES, TrafficReport, run_traffic, traffic_sources

LIMIT = 256.0
LATENCIES = ("ttft_s", "tpot_s", "ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "tpot_p50_s", "tpot_p90_s", "tpot_p99_s")


@cache
def task() -> ServingTask:
    return serving_task(
        "llama-3.1-70b", "dgx-h100", layout={"tp": 4}, prompt_tokens=1024, output_tokens=256, concurrency=8,
        arrival_rate_per_s=None, weights="bf16", activations=None, kv_cache=None, batching="continuous", software=None,
        arrivals="closed-loop",
    )  # fmt: skip


def estimate(**changes: object) -> ServingEstimate:
    asked: dict = {"prompt_tokens": 1024, "output_tokens": 256, "layout": {"tp": 4}} | changes
    return pm.estimate_serving("llama-3.1-70b", "dgx-h100", **asked)


@cache
def demand(burstiness: float = 1.0) -> Demand:
    return demand_of(pm.Workload(burstiness=burstiness))


def priced(batches: np.ndarray, asked: Demand | None = None) -> tuple[Traffic, np.ndarray]:
    asked = asked or demand()
    engine = task().engine
    phases = phases_of(engine, batches, asked)
    rates = rates_of(phases, batches, asked)
    full = phases_of(engine, LIMIT, asked)
    return traffic_at(phases, full, batches, rates, asked, LIMIT, float(task().software.request_s)), rates


# Formulas against each other


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 10), st.floats(0.01, 0.95), st.floats(0, 20))
def test_queues_agree_where_they_meet(service_s: float, load: float, variation: float) -> None:
    kingman = kingman_waiting_time(service_s, load, 1.0, variation)
    assert kingman == pytest.approx(mg1_waiting_time(service_s, load, variation), rel=1e-12, abs=0)
    assert kingman_waiting_time(service_s, load, 1.0, 1.0) == pytest.approx(
        mm1_waiting_time(service_s, load), rel=1e-12
    )
    # The largest backlog over windows is the wait of Pollaczek and Khinchine.
    work = load * service_s * (1.0 + variation)
    windows = np.geomspace(1e-3, 1e3, 4000) * work / (2.0 * (1.0 - load) ** 2)
    largest = float(np.max(backlog_of_window(windows, load, 1.0, work, 1.0)))
    assert largest == pytest.approx(kingman, rel=1e-4, abs=0)


# Arrays of batches


def test_an_array_of_batches_is_its_points_one_by_one() -> None:
    batches = np.array([1.0, 7.0, 40.0, 150.0])
    together, rates = priced(batches)
    for at, batch in enumerate(batches):
        alone, rate = priced(np.array([batch]))
        assert rates[at] == pytest.approx(rate[0], rel=1e-12, abs=0)
        for name in ("ttft_s", "tpot_s", "latency_s"):
            assert getattr(together, name)[at] == pytest.approx(getattr(alone, name)[0], rel=1e-12, abs=0)
        assert together.ttft_quantiles_s[:, at] == pytest.approx(alone.ttft_quantiles_s[:, 0], rel=1e-9, abs=0)


def test_layouts_join_into_one_array() -> None:
    batches = np.array([4.0, 64.0])
    phases = phases_of(task().engine, batches, demand())
    joined = Phases.joined([phases, phases])
    assert joined.decode_s.tolist() == [*phases.decode_s, *phases.decode_s]
    assert joined.added_quantiles_s.shape == (phases.added_quantiles_s.shape[0], 4)


def test_many_batches_are_close_to_few() -> None:
    many, few = np.geomspace(1.0, 256.0, 200), np.array([1.0, 256.0])
    dense, sparse = phases_of(task().engine, many, demand()), phases_of(task().engine, few, demand())
    assert dense.added_s[[0, -1]] == pytest.approx(sparse.added_s, rel=1e-9, abs=0)


@pytest.mark.parametrize("burstiness", [1.0, 4.0])
def test_a_fuller_batch_is_more_load_and_never_faster(burstiness: float) -> None:
    found, rates = priced(np.geomspace(0.5, LIMIT, 60), demand(burstiness))
    # A step jumps where the rows of a product fill one more tile.
    assert (np.diff(rates) > -0.03 * rates[:-1]).all()
    assert (np.diff(found.tpot_s) >= -1e-9).all()
    assert (np.diff(found.ttft_s) >= -0.01 * found.ttft_s[:-1]).all()
    for quantiles in (found.ttft_quantiles_s, found.tpot_quantiles_s):
        assert (np.diff(quantiles, axis=0) >= 0).all()
    shares = attainment(found, pm.Slo(ttft_s=0.5, tpot_s=0.05))
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (np.diff(shares) <= 1e-3).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.98))
def test_a_rate_is_found_on_the_curve(share: float) -> None:
    engine = task().engine
    _, most = solve_batch(engine, 1.0, demand(), LIMIT)
    batch, _ = solve_batch(engine, share * most, demand(), LIMIT)
    back = rates_of(phases_of(engine, batch, demand()), batch, demand())
    assert back[0] == pytest.approx(share * most, rel=5e-3, abs=0)


def test_beyond_the_most_the_batch_is_full() -> None:
    batch, most = solve_batch(task().engine, np.array([1e3, 0.0001]), demand(), LIMIT)
    assert batch[0] == LIMIT
    assert batch[1] < 0.01
    assert 1.0 < most < 100.0


# Estimates


def test_more_load_never_lowers_latency_and_percentiles_are_ordered() -> None:
    found = [estimate(arrival_rate_per_s=rate) for rate in (0.1, 1.0, 3.0, 5.0, 7.0, 8.0, 9.0, 30.0)]
    for name in LATENCIES:
        values = [getattr(one, name) for one in found]
        assert all(later >= earlier * (1 - 1e-3) for earlier, later in itertools.pairwise(values)), name
    for one in found:
        assert one.ttft_p50_s <= one.ttft_p90_s <= one.ttft_p99_s
        assert one.tpot_p50_s <= one.tpot_p90_s <= one.tpot_p99_s
        assert one.ttft_lower_s <= one.ttft_s <= one.ttft_upper_s


@settings(max_examples=8, deadline=None)
@given(st.floats(0.2, 8.0), st.sampled_from([1.0, 3.0]))
def test_little_s_law_holds(rate: float, burstiness: float) -> None:
    one = estimate(arrival_rate_per_s=rate, burstiness=burstiness)
    assert one.in_flight == pytest.approx(rate * one.request_latency_s, rel=1e-9, abs=0)
    # The answers that run are those of the tokens' time, at the usual batch.
    assert one.batch <= one.in_flight * 1.001


def test_bursts_and_long_tails_cost_latency() -> None:
    calm, bursty = estimate(arrival_rate_per_s=5.0), estimate(arrival_rate_per_s=5.0, burstiness=8.0)
    assert bursty.ttft_s > calm.ttft_s
    assert bursty.ttft_p99_s > calm.ttft_p99_s
    spread = estimate(arrival_rate_per_s=5.0, prompt_tokens={"mean": 1024, "p50": 500, "p90": 2500, "p99": 6000})
    assert spread.ttft_p99_s > calm.ttft_p99_s


def test_cached_prefixes_save_time() -> None:
    for load in ({"arrival_rate_per_s": 5.0}, {"concurrency": 32}, {"concurrency": 8, "batching": "static"}):
        assert estimate(prefix_hit=0.6, **load).ttft_s < estimate(**load).ttft_s


def test_a_trace_is_a_workload() -> None:
    trace = pm.load_trace("azure-conversation")
    slo = pm.Slo(ttft_s=1.0, tpot_s=0.1, percentile=0.8)
    one = estimate(workload=trace, prompt_tokens=None, output_tokens=None, slo=slo)
    assert one.requests_per_s == trace.arrival_rate_per_s
    # Requests one by one, at the trace's own rate: the replay says how many keep the limits.
    tokens = float(one.kv_blocks * one.block_tokens)
    room = {"limit": LIMIT, "capacity_tokens": tokens, "max_batched_tokens": 8192.0}
    replayed = replay(costs(), trace.requests, request_s=float(task().software.request_s), **room)
    kept = np.mean((replayed.ttft_s <= slo.ttft_s) & (np.nan_to_num(replayed.tpot_s) <= slo.tpot_s))
    assert one.slo_attainment == pytest.approx(kept, abs=0.05)
    assert one.slo_met
    assert one.goodput_requests_per_s == pytest.approx(one.slo_attainment * one.requests_per_s, rel=1e-12, abs=0)
    request = dict(one.request)
    cluster = pm.load_cluster(request.pop("cluster"), accelerators=request.pop("accelerators"))
    assert pm.estimate_serving(cluster=cluster, **json.loads(json.dumps(request))) == one
    with pytest.raises(PlanError, match="no arrival times"):
        estimate(workload=pm.load_trace("sharegpt"), prompt_tokens=None, output_tokens=None)


def test_replicas_share_a_trace_and_its_bursts() -> None:
    trace = pm.load_trace("azure-code")
    one = estimate(workload=trace)
    two = estimate(workload=trace, layout={"tp": 4, "dp": 2})
    assert two.ttft_p99_s < one.ttft_p99_s
    assert two.max_requests_per_s == pytest.approx(2 * one.max_requests_per_s, rel=1e-9, abs=0)


def test_maximum_load_takes_every_place() -> None:
    most = estimate(load="maximum")
    blocks = most.kv_blocks // -(-(most.request["prompt_tokens"] + most.request["output_tokens"] // 2) // 16)
    assert most.batch == pytest.approx(min(blocks, load_serving_software().max_batch), rel=0.1, abs=0)
    # Two laws of one state: a closed loop that began with a burst, and prompts taken in turn.
    assert most.requests_per_s == pytest.approx(estimate(arrival_rate_per_s=1e3).requests_per_s, rel=0.1, abs=0)


def test_a_limit_below_the_bound_is_said_so() -> None:
    one = estimate(concurrency=1, slo={"ttft_s": 0.001, "tpot_s": 0.001})
    assert one.slo_attainment == 0.0
    assert {warned.quantity for warned in one.warnings if warned.formula == "slo"} == {"ttft_s", "tpot_s"}
    # A closed loop of one keeps limits that it meets, whatever the percentile.
    kept = estimate(concurrency=1, slo={"ttft_s": 5.0, "tpot_s": 0.5, "percentile": 0.99})
    assert (kept.slo_attainment, kept.slo_met) == (1.0, True)


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("mamba-codestral-7b", {}),
        ("mixtral-8x7b", {"layout": {"tp": 4}}),
        ("llama-3.1-70b", {"layout": {"tp": 2, "pp": 2, "dp": 2}}),
        ("llama-3.1-8b", {"output_tokens": 1}),
        ("llama-3.1-8b", {"arrival_rate_per_s": 1e-6}),
        ("llama-3.1-8b", {"burstiness": 0.0, "prefix_hit": 0.99}),
        ("llama-3.1-8b", {"burstiness": 1e5, "software": "sglang-2025"}),
        ("llama-3.1-8b", {"prompt_tokens": 500_000}),
        ("llama-3.1-8b", {"software": "tensorrt-llm-2024"}),
    ],
)
def test_every_corner_has_finite_ordered_latencies(model: str, changes: dict) -> None:
    asked: dict = {"prompt_tokens": 1024, "output_tokens": 256, "layout": {"tp": 1}, "arrival_rate_per_s": 2.0}
    one = pm.estimate_serving(model, "dgx-h100", **(asked | changes))
    assert json.loads(one.to_json())["document"] == "perfmodel/serving-estimate/1"
    assert 0 < one.ttft_p50_s <= one.ttft_p90_s <= one.ttft_p99_s
    assert 0 <= one.tpot_p50_s <= one.tpot_p90_s <= one.tpot_p99_s
    assert one.ttft_lower_s <= one.ttft_s <= one.ttft_upper_s


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"arrival_rate_per_s": 1.0, "burstiness": -1.0}, PlanError, "burstiness"),
        ({"arrival_rate_per_s": 1.0, "prefix_hit": 1.0}, PlanError, "prefix_hit"),
        ({"concurrency": 1, "slo": {"ttft": 1.0}}, SpecError, "ttft_s"),
        ({"concurrency": 1, "slo": 3}, PlanError, "slo"),
        ({"load": "most"}, PlanError, "maximum"),
        ({"load": "maximum", "batching": "static"}, PlanError, "load"),
        ({"load": "maximum", "concurrency": 3}, PlanError, "give one of the three"),
        ({"workload": "azure-code"}, PlanError, "load_trace"),
        ({"concurrency": 3, "prompt_tokens": None}, PlanError, "prompt_tokens: missing"),
        ({"arrival_rate_per_s": 1.0, "dispersion": [1.0]}, PlanError, "dispersion"),
        ({"arrival_rate_per_s": 1.0, "dispersion": [[1.0, 2.0]]}, PlanError, "dispersion"),
        ({"arrival_rate_per_s": 1.0, "software": "vllm-2031"}, SpecError, "vllm-2025"),
        ({"arrival_rate_per_s": 1.0, "kv_cache": "fp4"}, PlanError, "kv_cache"),
    ],
)
def test_bad_questions_are_refused_with_a_reason(changes: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        estimate(**changes)


# The command line


def test_the_command_takes_a_trace_and_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "serving", "--model", "llama-3.1-70b", "--cluster", "dgx-h100", "--tp", "4"]
    limits = ["--ttft-s", "1", "--tpot-s", "0.1", "--percentile", "0.9"]
    assert main([*words, "--trace", "azure-conversation", *limits]) == 0
    page = capsys.readouterr().out
    assert "of the requests keep TTFT" in page
    assert "takes" in page
    file = tmp_path / "estimate.json"
    assert main([*words, "--trace", "azure-conversation", *limits, "-o", str(file)]) == 0
    capsys.readouterr()
    assert main(["estimate", "serving", "-f", str(file), "--json"]) == 0
    assert capsys.readouterr().out == file.read_text()
    assert main([*words, "--trace", "azure-conversatio"]) == 2
    assert "nearest: 'azure-conversation'" in capsys.readouterr().err
    (tmp_path / "bad.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n1,5,5\n2,-5,5\n")
    assert main([*words, "--trace", str(tmp_path / "bad.csv")]) == 2
    assert "bad.csv:3: prompt tokens" in capsys.readouterr().err
    assert main([*words, "--prompt-tokens", "100", "--output-tokens", "10", "--load", "maximum"]) == 0
    assert "every place taken" in capsys.readouterr().out


# The replay, and the closed forms beside it


@cache
def costs() -> IterationCosts:
    return IterationCosts(task().engine, LIMIT, 8192.0)


def served(count: int, gap_s: float, prompt: int, output: int, **limits: float):
    requests = Requests(
        np.arange(count) * gap_s, np.full(count, prompt), np.full(count, output), np.zeros(count, dtype=int)
    )
    room = {"limit": LIMIT, "capacity_tokens": 4e5, "max_batched_tokens": 8192.0} | limits
    return replay(costs(), requests, **room)


def test_one_request_alone_is_a_prefill_and_its_steps() -> None:
    one = served(1, 1.0, 1024, 256)
    engine = task().engine
    assert one.ttft_s[0] == pytest.approx(float(engine.prefill(1.0, 1024.0).cost.seconds), rel=0.01, abs=0)
    assert one.tpot_s[0] == pytest.approx(float(engine.decode(1.0, 1152.0).cost.seconds), rel=0.01, abs=0)
    assert one.iterations == 256


def test_everything_is_served_and_little_s_law_holds() -> None:
    found = served(200, 0.15, 800, 100)
    assert np.isfinite(found.ttft_s).all()
    assert (found.latency_s >= found.ttft_s).all()
    rate = 200 / found.duration_s
    assert found.mean_in_flight == pytest.approx(rate * found.latency_s.mean(), rel=1e-9, abs=0)


def test_a_small_cache_sends_answers_back_and_still_serves_them() -> None:
    roomy, tight = served(40, 0.01, 500, 300), served(40, 0.01, 500, 300, capacity_tokens=6000.0)
    assert roomy.preemptions == 0
    assert tight.preemptions > 0
    assert np.isfinite(tight.latency_s).all()
    assert tight.duration_s > roomy.duration_s


def test_few_places_queue() -> None:
    assert served(40, 0.01, 500, 100, limit=2).ttft_s.mean() > 5 * served(40, 0.01, 500, 100).ttft_s.mean()


@cache
def report() -> TrafficReport:
    return run_traffic()


@pytest.mark.parametrize("source", traffic_sources())
def test_closed_forms_stay_within_the_recorded_tolerance(source: str) -> None:
    one = report().sources[source]
    assert 100.0 * one.error <= load_tolerances(TRAFFIC_TOLERANCES)[source].tolerance_percent
    assert not one.over_tolerance
    assert one.error < min(one.no_queue_error, one.mm1_error)


def test_the_traffic_page_names_every_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--traffic", "--source", "azure-code-poisson"]) == 0
    assert "azure-code-poisson" in capsys.readouterr().out
    assert main(["validate", "--traffic", "--source", "nothing"]) == 2
    assert main(["validate", "--traffic", "--serving"]) == 2
