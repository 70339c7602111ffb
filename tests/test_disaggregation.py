"""Disaggregation: laws against replays and brute force, pools against their limits, deployments against published."""

from __future__ import annotations

import json
from functools import cache
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import perfmodel as pm
from perfmodel.cli.deployments import deployments_page
from perfmodel.errors import PlanError, SpecError
from perfmodel.formulas.disaggregation import (
    disaggregated_requests_per_s,
    dual_batch_time,
    layerwise_exposed_transfer_time,
    matched_prefill_share,
    matched_requests_per_s,
    md1_goodput,
    md1_ttft,
)
from perfmodel.predict.serving.disaggregated import DisaggregatedEstimate
from perfmodel.predict.serving.iso import IsoComparison, compare_at_budget, matched_counts
from perfmodel.predict.serving.load import Load
from perfmodel.predict.serving.roles import make_pool
from perfmodel.specs.huggingface import load_model
from perfmodel.validation.deployment_scores import DeploymentReport, run_deployments

H100 = {"cluster": "dgx-h100", "layout": {"tp": 8}}
A100 = {"cluster": "dgx-a100-80gb", "layout": {"tp": 8}}
WIDE = {"cluster": "dgx-h100", "accelerators": 32, "layout": {"tp": 1, "dp": 32, "ep": 32, "attention_dp": 32},
        "weights": "fp8-block", "software": "sglang-2025"}  # fmt: skip


def estimate(prefill: dict | None = None, decode: dict | None = None, **changes: object) -> DisaggregatedEstimate:
    asked: dict = {"prompt_tokens": 1155, "output_tokens": 211, "arrival_rate_per_s": 4.0} | changes
    return pm.estimate_disaggregated(
        asked.pop("model", "llama-2-70b"), H100 | {"count": 2} | (prefill or {}), A100 | {"count": 3} | (decode or {}),
        **asked,
    )  # fmt: skip


@cache
def deployments() -> DeploymentReport:
    return run_deployments()


# Laws


@given(st.floats(0.0, 2.0), st.floats(0.0, 2.0), st.integers(1, 40))
def test_layerwise_transfer_equals_a_replay(prefill_s: float, transfer_s: float, layers: int) -> None:
    computed = sent = 0.0
    for _ in range(layers):
        computed += prefill_s / layers
        sent = max(sent, computed) + transfer_s / layers
    law = layerwise_exposed_transfer_time(prefill_s, transfer_s, layers)
    assert law == pytest.approx(sent - prefill_s, rel=1e-9, abs=1e-12)
    assert law <= transfer_s * (1 + 1e-12)


@given(st.floats(0.01, 1.0), st.floats(0.1, 1.0), st.floats(0.01, 4.0))
def test_goodput_is_the_rate_at_which_the_mean_meets_the_limit(service_s: float, share: float, slack_s: float) -> None:
    slot_s = service_s * share
    rate = md1_goodput(service_s, slot_s, service_s + slack_s)
    assert rate * slot_s < 1
    assert md1_ttft(rate, service_s, slot_s) == pytest.approx(service_s + slack_s, rel=1e-6)
    assert md1_goodput(service_s, slot_s, service_s) == 0


def test_queue_before_prefill_equals_a_replay() -> None:
    rng = np.random.default_rng(5)
    arrivals, free, waits = np.cumsum(rng.exponential(1.0, 200_000)), 0.0, []
    for at in arrivals:
        start = max(at, free)
        free = start + 0.7
        waits.append(start + 0.7 - at)
    assert md1_ttft(1.0, 0.7, 0.7) == pytest.approx(np.mean(waits), rel=0.03)


def test_matched_pools_are_the_best_split() -> None:
    share = matched_prefill_share(0.3, 0.9)
    rates = [disaggregated_requests_per_s(x, 0.3, 1000 - x, 1, 0.9) for x in range(1, 1000)]
    assert 1 + int(np.argmax(rates)) == pytest.approx(1000 * share, abs=1)
    assert max(rates) == pytest.approx(matched_requests_per_s(1000, 1, 0.3, 1, 0.9), rel=1e-2)


@given(st.integers(1, 40), st.integers(1, 9), st.floats(0.1, 9), st.integers(1, 9), st.floats(0.1, 9))
def test_matched_counts_equal_brute_force(budget: int, p: int, px: float, d: int, dy: float) -> None:
    x, y = matched_counts(budget, p, px, d, dy)
    assert x * p + y * d <= budget
    tried = [min(a * px, b * dy) for a in range(41) for b in range(41) if a * p + b * d <= budget]
    assert min(x * px, y * dy) == pytest.approx(max(tried), rel=1e-9)


def test_two_halves_hide_the_shorter() -> None:
    assert dual_batch_time(3.0, 1.0) == 6.0
    assert dual_batch_time(1.0, 3.0) == 6.0


# Pools


def test_the_record_adds_up() -> None:
    one = estimate()
    assert one.fits
    assert one.requests_per_s == 4.0
    assert not one.saturated
    assert one.max_requests_per_s == pytest.approx(min(one.prefill.requests_per_s, one.decode.requests_per_s))
    assert one.ttft_s >= one.prefill_s + one.queue_s + one.transfer_exposed_s
    assert one.ttft_p90_s >= one.ttft_s - one.queue_s
    assert one.request_latency_s == pytest.approx(one.ttft_s + 210 * one.tpot_s)
    assert one.accelerators_used == one.prefill.accelerators + one.decode.accelerators == 40
    assert one.prefill.utilisation == pytest.approx(4.0 / one.prefill.requests_per_s)
    assert one.provisioned_w == pytest.approx(16 * (700 + 575) + 24 * (6500 / 8), rel=0.01)
    document = json.loads(one.to_json())
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    asked = document["request"]
    again = pm.estimate_disaggregated(
        asked["model"], asked["prefill"], asked["decode"], asked, transfer=asked["transfer"]
    )
    assert again == one


def test_the_cache_travels_over_the_slower_link() -> None:
    one = estimate()
    assert one.kv_bytes_per_request == 1155 * 327680
    assert one.transfer_link_byte_per_s == 8 * 25e9, "eight links of an A100 node of 200 Gb/s"
    assert one.transfer_s == pytest.approx(one.kv_bytes_per_request / 200e9, rel=0.01)
    slow = estimate(link_byte_per_s=0.5e9)
    assert slow.transfer_s > slow.prefill_s
    assert slow.transfer_exposed_s == pytest.approx(slow.transfer_s - slow.prefill_s, rel=0.05)
    after = estimate(transfer="serialised")
    assert after.transfer_exposed_s == after.transfer_s
    assert after.ttft_s - one.ttft_s == pytest.approx(after.transfer_s - one.transfer_exposed_s)


def test_more_replicas_never_do_less() -> None:
    few = estimate(arrival_rate_per_s=None)
    more = estimate({"count": 4}, {"count": 6}, arrival_rate_per_s=None)
    assert more.requests_per_s == pytest.approx(2 * few.requests_per_s)
    assert few.requests_per_s == few.max_requests_per_s
    calm = estimate({"count": 8})
    assert calm.queue_s < estimate().queue_s
    assert estimate(arrival_rate_per_s=10_000.0).saturated


def test_decode_alone_is_not_disturbed_by_prompts() -> None:
    together = pm.estimate_serving(
        "llama-2-70b", "dgx-h100", layout={"tp": 8}, prompt_tokens=1155, output_tokens=211, arrival_rate_per_s=4.0
    )
    apart = estimate({}, {"cluster": "dgx-h100", "count": 1})
    assert apart.tpot_s < together.tpot_s


def test_a_workload_is_an_object_or_a_mapping_and_keywords_win() -> None:
    load = SimpleNamespace(
        prompt_tokens={"mean": 1155, "p90": 2735}, output_tokens=211, arrival_rate_per_s=4.0, prefix_hit=0.0
    )
    asked: dict = {"prompt_tokens": None, "output_tokens": None, "arrival_rate_per_s": None}
    assert estimate(workload=load, **asked) == estimate()
    hit = estimate(workload=load, **(asked | {"prefix_hit": 0.5}))
    assert hit.prefill_s < estimate().prefill_s
    assert hit.kv_bytes_per_request == estimate().kv_bytes_per_request, "what was cached is sent too"


def test_memory_bounds_the_batch_of_a_decode_replica() -> None:
    pool = make_pool("decode", load_model("llama-2-70b"), A100)
    places = pool.places(4096, 512)
    most = float(pool.software.max_batch)
    assert places == min(most, (float(pool.memory.blocks(most, most)) * 16) // (4096 + 256))
    assert not estimate({}, {"layout": {"tp": 1}, "weights": "bf16"}).fits
    assert estimate({}, {"batch": 2}, arrival_rate_per_s=None).decode.batch == pytest.approx(2, rel=1e-3)


def test_speculation_shortens_decoding() -> None:
    plain = estimate(model="deepseek-v2", prefill=WIDE, decode=WIDE | {"batch": 32 * 16}, arrival_rate_per_s=None)
    mtp = estimate(
        model="deepseek-v2", prefill=WIDE, decode=WIDE | {"batch": 32 * 16, "acceptance": 0.85},
        arrival_rate_per_s=None,
    )  # fmt: skip
    assert mtp.decode.iteration_s < plain.decode.iteration_s


def test_data_parallel_attention_splits_sequences_and_shares_experts() -> None:
    pool = make_pool("decode", load_model("deepseek-v3"), WIDE)
    alone = {one.name: float(one.cost.seconds) for one in pool.engine.decode(16.0, 2048.0).children}
    group = {one.name: float(one.cost.seconds)
             for one in pool.iteration(Load(sequences=16.0 * 32, kv_len=2048.0), "decode").children}  # fmt: skip
    assert group["attention"] == pytest.approx(alone["attention"])
    assert group["products"] == pytest.approx(alone["products"], rel=0.02)
    assert group["experts"] > alone["experts"]
    assert group["expert_parallel"] > 0
    hidden = make_pool("decode", load_model("deepseek-v3"), WIDE | {"dual_batch": True})
    both = hidden.iteration(Load(sequences=256.0 * 32, kv_len=2048.0), "decode")
    serial = pool.iteration(Load(sequences=256.0 * 32, kv_len=2048.0), "decode")
    assert float(both.cost.seconds) < float(serial.cost.seconds)
    assert sum(float(one.cost.seconds) for one in both.children) == pytest.approx(float(both.cost.seconds))


@pytest.mark.parametrize(
    ("prefill", "decode", "changes", "message"),
    [
        ({"clusters": "dgx-h100"}, {}, {}, "prefill: unknown key 'clusters'; nearest: 'cluster'"),
        ({"count": 0}, {}, {}, "prefill: count: must be a whole number"),
        (
            {},
            {"layout": {"tp": 8, "dp": 2}},
            {},
            "decode: layout: dp: must be attention_dp 1, for replicas are counted",
        ),
        (
            {},
            {"layout": {"tp": 1, "dp": 8, "attention_dp": 8}},
            {},
            "decode: layout: attention_dp: is priced for models",
        ),
        ({}, {"acceptance": 1.5}, {}, "decode: acceptance: must be in"),
        ({}, {"weights": "fp9"}, {}, "weights: unknown precision 'fp9'"),
        ({}, {"layout": {"tp": 16}}, {}, "layout: needs 16 accelerators"),
        ({}, {}, {"transfer": "layerwize"}, "transfer: unknown transfer 'layerwize'; nearest: 'layerwise'"),
        ({}, {}, {"prefix_hit": 1.5}, "prefix_hit: must be >= 0 and <= 1"),
        ({}, {}, {"prompt_tokens": None}, "prompt_tokens: is missing"),
        ({}, {}, {"arrival_rate_per_s": -1.0}, "arrival_rate_per_s: must be >="),
        ({}, {}, {"output_tokens": "many"}, "output_tokens: must be a number"),
        ({}, {}, {"model": "bert-base"}, "model: bert-base generates no tokens"),
    ],
)
def test_bad_input_names_the_role_and_the_key(prefill: dict, decode: dict, changes: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        estimate(prefill, decode, **changes)


def test_a_role_needs_a_cluster_that_exists() -> None:
    with pytest.raises(PlanError, match="decode: cluster: is missing"):
        pm.estimate_disaggregated("llama-2-70b", H100, {"layout": {"tp": 8}}, prompt_tokens=1, output_tokens=1)
    with pytest.raises(SpecError, match="nearest: 'dgx-h100'"):
        estimate({"cluster": "dgx-h10"})


# Comparisons


@cache
def compared(budget_by: str = "accelerators", share: float = 1.0, prefill: str = "dgx-a100-80gb") -> IsoComparison:
    role = A100 | {"weights": "fp16"}
    return compare_at_budget(
        "llama-2-70b", role | {"cluster": prefill}, role, role, prompt_tokens=1155, output_tokens=211, ttft_s=0.586,
        tpot_s=0.0266, budget_by=budget_by, budget_share=share, aggregated_count=40,
    )  # fmt: skip


def test_budgets_are_kept() -> None:
    same = compared()
    assert same.prefill_count + same.decode_count <= 40
    assert same.ratio > 1, "strict limits on both phases are what disaggregation is for"
    watts = compared("provisioned_w", 0.5, prefill="dgx-h100")
    assert watts.provisioned_w <= 0.5 * watts.aggregated_provisioned_w
    assert watts.requests_per_s < watts.aggregated_requests_per_s * same.ratio
    assert watts.usd_per_hour > 0


def test_limits_that_nothing_meets_say_so() -> None:
    role = A100 | {"weights": "fp16"}
    none = compare_at_budget(
        "llama-2-70b", role, role, role, prompt_tokens=1155, output_tokens=211, ttft_s=0.001, tpot_s=0.0001
    )
    assert not none.feasible
    assert none.requests_per_s == none.aggregated_requests_per_s == none.ratio == 0.0
    with pytest.raises(PlanError, match="budget_by: unknown budget 'watts'"):
        compare_at_budget(
            "llama-2-70b", role, role, role, prompt_tokens=9, output_tokens=9, ttft_s=1, tpot_s=1, budget_by="watts"
        )
    with pytest.raises(PlanError, match="percentile: must be one of"):
        compare_at_budget(
            "llama-2-70b", role, role, role, prompt_tokens=9, output_tokens=9, ttft_s=1, tpot_s=1, percentile=0.8
        )


# Published deployments


def test_published_deployments_are_priced_and_beat_the_data_sheet() -> None:
    """Errors are printed, not tuned: nothing in this package is fitted on these rows."""
    report = deployments()
    assert report.refused == 0
    assert len(report.rows) == 8
    assert report.mape < report.constant_mape < report.data_sheet_mape, "also than one factor fitted on these rows"
    assert report.median_log < 0.25
    for one in report.rows:
        assert one.error == pytest.approx(one.predicted / one.published - 1)
        assert one.predicted < one.data_sheet
        assert one.assumed


def test_a_row_without_a_price_is_refused_with_its_reason(tmp_path: Path) -> None:
    good = (
        '[a]\nsystem="s"\nclaim="c"\nsource="s"\nurl="u"\nphase="prefill"\nvalue=1.0\nassumed="x"\nprompt_tokens=512\n'
    )
    layout = 'role = { cluster = "dgx-h100", layout = { tp = 8 } }\n'
    table = tmp_path / "deployments.toml"
    table.write_text(f'{good}model="llama-3-8b"\n{layout}\n{good.replace("[a]", "[b]")}model="bert-bas"\n{layout}')
    report = run_deployments(table)
    assert report.refused == 1
    assert "bert-base" in report.rows[1].refused
    assert report.rows[1].predicted is None


def test_the_page_names_every_deployment_and_what_was_assumed() -> None:
    console = Console(width=160, record=True, file=StringIO())
    deployments_page(console, deployments().to_dict())
    page = console.export_text()
    for one in deployments().rows:
        assert one.id in page
    assert "nothing is fitted" in page
    assert "from memory" in page
