"""Serving: laws against limits, memory against published facts, published rows within their tolerances."""

from __future__ import annotations

import json
from functools import cache

import pytest

import perfmodel as pm
from perfmodel.cli import options
from perfmodel.cli.main import main
from perfmodel.errors import PlanError
from perfmodel.predict.serving.load import Load
from perfmodel.predict.serving.memory import weights_per_rank
from perfmodel.predict.serving.precisions import ACTIVATION_PRECISIONS, KV_PRECISIONS, WEIGHT_PRECISIONS
from perfmodel.predict.serving.records import ServingEstimate
from perfmodel.predict.serving.task import ARRIVALS, ServingTask, serving_task
from perfmodel.specs import registry
from perfmodel.specs.serving_software import SERVING_NUMBERS, ServingSoftware, load_any_software
from perfmodel.validation.serving_rows import load_serving_rows, serving_sources
from perfmodel.validation.serving_scores import MOST_REFUSED, SERVING_TOLERANCES, ServingReport, run_serving
from perfmodel.validation.tolerances import load_tolerances

ASKED = {"prompt_tokens": 1024, "output_tokens": 256, "weights": "fp8"}
CONTRACT = {
    *("ttft_s", "tpot_s", "ttft_interval_s", "tpot_interval_s", "request_latency_s", "output_tokens_per_s"),
    *("ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "tpot_p50_s", "tpot_p90_s", "tpot_p99_s", "kv_blocks", "block_tokens"),
    *("output_tokens_per_s_per_accelerator", "max_concurrency", "memory_bytes", "fits", "energy_j_per_token"),
    *("cost_usd_per_mtok", "terms", "warnings", "sources"),
}
SOURCES = serving_sources()


def estimate(layout: dict | None = None, *, model: str = "llama-3.1-70b", **changes: object) -> ServingEstimate:
    asked: dict = ASKED | {"concurrency": 32, "layout": layout or {"tp": 4}} | changes
    return pm.estimate_serving(model, "dgx-h100", **asked)


def task(model: str = "llama-3.1-70b", cluster: str = "dgx-h100", **layout: int) -> ServingTask:
    return serving_task(
        model, cluster, layout=layout or {"tp": 4}, prompt_tokens=1024, output_tokens=256, concurrency=8,
        arrival_rate_per_s=None, weights="bf16", activations=None, kv_cache=None, batching="continuous", software=None,
        arrivals="closed-loop",
    )  # fmt: skip


@cache
def report() -> ServingReport:
    return run_serving()


@pytest.mark.parametrize("source", SOURCES)
def test_published_rows_stay_within_the_recorded_tolerance(source: str) -> None:
    one = report().sources[source]
    assert 100.0 * one.mape <= load_tolerances(SERVING_TOLERANCES)[source].tolerance_percent
    assert not one.over_tolerance
    assert len(one.refused) <= MOST_REFUSED * one.given
    assert one.mape < one.data_sheet_mape
    assert one.fits == one.given, "what really ran is never refused"


@pytest.mark.parametrize("source", SOURCES)
def test_at_most_a_tenth_of_a_source_calibrates(source: str) -> None:
    rows = load_serving_rows(source)
    assert sum(row.calibrates for row in rows) <= 0.1 * len(rows)
    assert all(row.cited for row in rows)


def test_documents_have_the_keys_of_the_contract() -> None:
    document = json.loads(estimate().to_json())
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert document.keys() >= CONTRACT
    assert {"weights", "kv_cache", "activations", "workspace", "total", "capacity"} == document["memory_bytes"].keys()
    for term in document["terms"]:
        assert sum(part["seconds"] for part in term["children"]) == pytest.approx(term["seconds"], rel=1e-12, abs=0)


def test_a_request_reproduces_its_document() -> None:
    first = estimate()
    request = dict(first.request)
    cluster = pm.load_cluster(request.pop("cluster"), accelerators=request.pop("accelerators"))
    assert pm.estimate_serving(cluster=cluster, **request) == first


@pytest.mark.parametrize("name", ["ttft", "tpot"])
def test_bounds_hold_the_estimate_and_percentiles_rise(name: str) -> None:
    document = estimate().to_dict()
    assert document[f"{name}_lower_s"] <= document[f"{name}_s"] <= document[f"{name}_upper_s"]
    low, high = document[f"{name}_interval_s"]
    assert low < document[f"{name}_s"] < high
    assert document[f"{name}_p50_s"] <= document[f"{name}_p90_s"] <= document[f"{name}_p99_s"]


def test_decode_reads_weights_and_cache_at_least_once() -> None:
    one = task()
    machine = one.cluster.accelerator
    weights = weights_per_rank(one.model, one.layout, one.precisions)
    embedding = 2.0 * one.model.embedding_params / one.layout.tp
    cache_bytes = 8 * one.model.kv_cache_bytes_per_token("bf16") * 2048 / one.layout.tp
    least = (weights - embedding + cache_bytes) / float(machine.hbm_byte_per_s)
    assert float(one.engine.decode(8.0, 2048.0).cost.seconds) > least


def test_a_mixed_iteration_costs_less_than_its_phases_and_more_than_either() -> None:
    engine = task().engine
    alone = float(engine.prefill(1.0, 512.0).cost.seconds), float(engine.decode(32.0, 1024.0).cost.seconds)
    mixed = float(engine.iteration(Load(1.0, 512.0, 0.0, 32.0, 1024.0)).cost.seconds)
    assert max(alone) < mixed < sum(alone)


def test_llama_70b_cache_and_weights_are_exact() -> None:
    one = task()
    # 80 layers, 8 key-value heads of 128, keys and values in two bytes (Llama 3 report, table 3).
    assert one.memory.block_bytes == 16 * 80 * 8 * 128 * 2 * 2 / 4
    assert one.memory.weights * 4 == pytest.approx(2 * one.model.n_params, rel=1e-3, abs=0)


def test_key_value_heads_are_copied_where_tp_exceeds_them() -> None:
    wide = task("qwen3-235b-a22b", "dgx-h200", tp=8)
    assert wide.memory.block_bytes * 4 == 16 * wide.model.kv_cache_bytes_per_token("bf16")
    latent = task("deepseek-v3", "dgx-h200", tp=8)
    assert latent.memory.block_bytes == 16 * latent.model.kv_cache_bytes_per_token("bf16")


def test_more_requests_raise_the_rate_and_the_time_per_token() -> None:
    found = [estimate(concurrency=count) for count in (1, 4, 16, 64)]
    assert [one.tpot_s for one in found] == sorted(one.tpot_s for one in found)
    assert [one.output_tokens_per_s for one in found] == sorted(one.output_tokens_per_s for one in found)


def test_an_arrival_rate_meets_little_and_diverges_to_saturation() -> None:
    calm = estimate(concurrency=None, arrival_rate_per_s=2.0)
    assert calm.in_flight == pytest.approx(2.0 * calm.request_latency_s, rel=1e-6, abs=0)
    assert not calm.saturated
    busy = estimate(concurrency=None, arrival_rate_per_s=500.0)
    assert busy.saturated
    assert any(one.formula == "saturation" for one in busy.warnings)
    assert busy.output_tokens_per_s < 500.0 * 256


def test_two_replicas_serve_twice_the_load() -> None:
    one, two = estimate(concurrency=16), estimate({"tp": 4, "dp": 2}, concurrency=32)
    assert two.tpot_s == pytest.approx(one.tpot_s, rel=1e-12, abs=0)
    assert two.output_tokens_per_s == pytest.approx(2 * one.output_tokens_per_s, rel=1e-12, abs=0)


def test_a_static_batch_is_a_prefill_and_its_steps() -> None:
    one = estimate(batching="static", concurrency=8)
    prefill, step = (term.seconds for term in one.terms)
    call = float(load_any_software(one.request["software"]).request_s)
    assert one.request_latency_s == pytest.approx(call + prefill + 255 * step, rel=1e-12, abs=0)


def test_a_model_that_does_not_fit_is_returned() -> None:
    assert not estimate({"tp": 1}, weights="bf16").fits


@pytest.mark.parametrize(
    ("model", "weights"), [("deepseek-v3", "fp8-block"), ("gemma-3-27b", "bf16"), ("mixtral-8x7b", "int4")]
)
def test_other_kinds_of_layers_are_priced(model: str, weights: str) -> None:
    cluster = pm.load_cluster("dgx-h200")
    one = pm.estimate_serving(
        model, cluster, layout={"tp": 8}, concurrency=16, **(ASKED | {"weights": weights})
    )  # fmt: skip
    assert 1e-3 < one.tpot_s < 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "fp9"}, "fp8"),
        ({"kv_cache": "int3"}, "kv_cache"),
        ({"concurrency": None}, "give one of the three"),
        ({"arrival_rate_per_s": 1.0}, "give one of the three"),
        ({"concurrency": None, "arrival_rate_per_s": -1.0}, "arrival_rate_per_s"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"layout": {"tp": 3}}, "must divide"),
        ({"layout": {"tp": 8, "dp": 2}}, "accelerators"),
        ({"activations": "nvfp4"}, "activations"),
        ({"batching": "dynamic"}, "batching"),
    ],
)
def test_bad_questions_are_refused_with_a_reason(changes: dict, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        estimate(**changes)


def test_a_generation_has_six_numbers() -> None:
    for id in registry.ids("software"):
        software = load_any_software(id)
        if isinstance(software, ServingSoftware):
            assert len(SERVING_NUMBERS) == 6
            assert software.calibrated_on or software.inherits, id


def test_options_agree_with_the_library() -> None:
    offered = {option.name: option.choices for option in options.ESTIMATE_SERVING}
    assert offered["weights"] == WEIGHT_PRECISIONS
    assert offered["activations"] == ACTIVATION_PRECISIONS
    assert offered["kv_cache"] == KV_PRECISIONS
    assert offered["arrivals"] == tuple(ARRIVALS)


def test_the_command_prints_a_page_and_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "serving", "--model", "llama-3.1-8b", "--cluster", "dgx-h100"]
    words += ["--prompt-tokens", "512", "--output-tokens", "128", "--concurrency", "16"]
    assert main(words) == 0
    assert "TPOT" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["document"] == "perfmodel/serving-estimate/1"
    assert main(words[:-2]) == 2
    assert "concurrency" in capsys.readouterr().err


def test_the_validation_page_names_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--serving", "--source", "trtllm-static-ttft"]) == 0
    assert "trtllm-static-ttft" in capsys.readouterr().out
    assert main(["validate", "--serving", "--source", "nothing"]) == 2
