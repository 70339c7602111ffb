"""Exact elasticities of deployments against differences of whole estimates, Euler's theorem, kinks and steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from test_elasticities import hardware_paths, scaled, time_dimension

import perfmodel as pm
from perfmodel.predict.serving.slopes import scaled_figures, serving_slopes
from perfmodel.specs.serving_software import load_serving_software
from perfmodel.study.slopes import scenario_task

SLOPE = {"rel": 1e-6, "abs": 2e-8}
STEP = 1e-4
TOKENS = {
    "prompt_tokens": {"mean": 900, "p50": 600, "p90": 2000, "p99": 5000},
    "output_tokens": {"mean": 200, "p50": 150, "p90": 400, "p99": 900},
}
CASES: dict[str, dict[str, Any]] = {
    "dense, concurrency": {
        "model": "llama-3.1-8b", "cluster": "dgx-h100", "accelerators": 4, "layout": {"tp": 1, "dp": 4},
        "prompt_tokens": 1024, "output_tokens": 256, "concurrency": 64,
    },
    "dense, static batch, another engine": {
        "model": "llama-2-70b", "cluster": "dgx-h100", "accelerators": 8, "layout": {"tp": 8},
        "prompt_tokens": 1000, "output_tokens": 200, "concurrency": 40, "batching": "static", "weights": "fp16",
        "software": "tensorrt-llm-2024",
    },
    "fp8, two nodes, bursts, cached prefixes": {
        "model": "llama-3.1-405b", "cluster": "dgx-h100", "accelerators": 16, "layout": {"tp": 8, "pp": 2},
        "prompt_tokens": 5000, "output_tokens": 300, "concurrency": 32, "weights": "fp8", "kv_cache": "fp8",
        "arrivals": "burst", "prefix_hit": 0.3,
    },
    "latent attention, experts over nodes": {
        "model": "deepseek-v3", "cluster": "dgx-h200", "accelerators": 16,
        "layout": {"tp": 1, "dp": 16, "ep": 16, "attention_dp": 16}, "prompt_tokens": 2000, "output_tokens": 500,
        "concurrency": 512, "weights": "fp8-block",
    },
    "dense, arrivals": {
        "model": "llama-3.1-8b", "cluster": "dgx-a100-80gb", "accelerators": 2, "layout": {"tp": 2},
        "prompt_tokens": 1024, "output_tokens": 128, "arrival_rate_per_s": 4.0, "burstiness": 2.0,
    },
    "uneven experts, near saturation": {
        "model": "qwen3-235b-a22b", "cluster": "dgx-h100", "accelerators": 8, "layout": {"tp": 8, "ep": 8},
        "prompt_tokens": 1500, "output_tokens": 300, "arrival_rate_per_s": 9.0, "burstiness": 0.5,
        "software": "sglang-2025", "expert_imbalance": 1.5, "weights": "fp8",
    },
    "windows and narrow weights, lengths that vary": {
        "model": "gpt-oss-120b", "cluster": "dgx-b200", "accelerators": 2, "layout": {"tp": 2}, **TOKENS,
        "arrival_rate_per_s": 6.0, "burstiness": 3.0, "weights": "mxfp4",
    },
    "state space, more than it serves": {
        "model": "nemotron-h-8b", "cluster": "dgx-h100", "accelerators": 1, "layout": {},
        "prompt_tokens": 1024, "output_tokens": 128, "arrival_rate_per_s": 500.0, "burstiness": 2.0,
    },
}  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
CLOSED = {name: case for name, case in CASES.items() if "concurrency" in case and "software" not in case}


def on_cluster(case: dict[str, Any]) -> dict[str, Any]:
    return case | {"cluster": pm.load_cluster(case["cluster"], accelerators=case["accelerators"])}


def estimate(case: dict[str, Any]) -> dict[str, Any]:
    return pm.estimate_serving(**{key: value for key, value in case.items() if key != "accelerators"}).to_dict()


def assert_slopes(slopes: dict[str, dict], name: tuple[str, str], figures: Callable[[float], dict[str, Any]]) -> None:
    """Of every figure as in whole estimates: central differences of two steps extrapolated, of one where none is."""

    def central(step: float) -> dict[str, float]:
        low, high = figures(math.exp(-step)), figures(math.exp(step))
        named = [key for key, value in high.items() if isinstance(value, float) and value > 0]
        return {key: math.log(high[key] / low[key]) / (2 * step) for key in named}

    found = central(STEP)
    if any(by[name] for by in slopes.values()):
        narrow = central(STEP / 2)
        found = {key: (4 * narrow[key] - wide) / 3 for key, wide in found.items()}
    for figure, by in slopes.items():
        assert by[name] == pytest.approx(found[figure], **SLOPE), (figure, name)


@each_case
def test_exact_equals_differences_of_the_whole_estimate(case: dict[str, Any]) -> None:
    given = on_cluster(case)
    slopes, cluster = serving_slopes(scenario_task(case)), given["cluster"]
    paths = hardware_paths(cluster) | {name: (name,) for name in ("pue", "server_overhead_w")}
    paths["usd_per_hour"] = ("accelerator", "usd_per_hour")
    for name, path in paths.items():
        assert_slopes(
            slopes, ("hardware", name),
            lambda factor, path=path: estimate(given | {"cluster": scaled(cluster, path, factor)}),
        )  # fmt: skip
    for name in ("arrival_rate_per_s", "burstiness"):
        if name in case:
            assert_slopes(
                slopes, ("workload", name), lambda factor, name=name: estimate(given | {name: given[name] * factor})
            )


@each_case
def test_numbers_of_the_engine_and_of_kernels_too(case: dict[str, Any]) -> None:
    given = on_cluster(case)
    slopes, cluster = serving_slopes(scenario_task(case)), given["cluster"]
    software = load_serving_software(case.get("software"))
    for name in ("step_s", "sequence_s", "prompt_s", "request_s"):
        assert_slopes(
            slopes, ("software", name),
            lambda factor, name=name: estimate(given | {"software": scaled(software, (name,), factor)}),
        )  # fmt: skip
    constants = cluster.accelerator.kernel_constants()
    felt = sorted(slopes["tpot_s"], key=lambda name: -sum(abs(by[name]) for by in slopes.values()))
    for name in [name for group, name in felt if group == "constants"][:6]:

        def figures(factor: float, path: tuple[str, ...] = tuple(name.split("."))) -> dict[str, Any]:
            part = cluster.accelerator.model_copy(update={"efficiency": scaled(constants, path, factor)})
            return estimate(given | {"cluster": cluster.model_copy(update={"accelerator": part})})

        assert_slopes(slopes, ("constants", name), figures)


@each_case
def test_the_figures_are_those_of_the_estimate(case: dict[str, Any]) -> None:
    task, document = scenario_task(case), estimate(on_cluster(case))
    figures = scaled_figures(task, {})
    assert figures == {key: document[key] for key in figures}
    assert figures.keys() == serving_slopes(task).keys()


@pytest.mark.parametrize("case", CLOSED.values(), ids=CLOSED.keys())
def test_faster_everything_is_as_much_faster(case: dict[str, Any]) -> None:
    # Euler's theorem: no constant with a unit of time is hidden. Arrivals look at windows of fixed seconds.
    slopes = serving_slopes(scenario_task(case))
    for figure, wanted in {"ttft_s": 1, "tpot_s": 1, "ttft_p99_s": 1, "output_tokens_per_s": -1}.items():
        found = sum(time_dimension(name) * slope for (_, name), slope in slopes[figure].items())
        assert found == pytest.approx(wanted, rel=1e-9, abs=0), figure


@each_case
def test_all_watts_together_are_the_energy(case: dict[str, Any]) -> None:
    slopes = serving_slopes(scenario_task(case))["energy_j_per_token"]
    watts = {name: slope for (_, name), slope in slopes.items() if name.endswith("_w")}
    assert len(watts) == 7
    assert all(slope >= 0 for slope in watts.values())
    assert sum(watts.values()) == pytest.approx(1, rel=1e-9, abs=0)


def test_rates_below_saturation_and_beyond() -> None:
    below, beyond = (
        pm.serving_elasticities(CASES["dense, arrivals"] | {"arrival_rate_per_s": rate}).elasticities
        for rate in (1.0, 500.0)
    )
    assert below["output_tokens_per_s"] == {"arrival_rate_per_s": 1.0}
    assert below["cost_usd_per_mtok"]["arrival_rate_per_s"] == -1.0
    assert below["ttft_s"]["arrival_rate_per_s"] > 0
    assert "arrival_rate_per_s" not in beyond["output_tokens_per_s"]
    assert beyond["output_tokens_per_s"]["hbm_byte_per_s"] == beyond["max_requests_per_s"]["hbm_byte_per_s"]


def test_at_a_kink_the_slope_is_that_of_one_side_and_it_is_said() -> None:
    # Sums over two nodes get as much from NVLink as from the rails: more of one alone helps nothing, less of it hurts.
    case = {
        "model": "llama-3.1-405b", "cluster": "dgx-h100", "accelerators": 16, "layout": {"tp": 16},
        "prompt_tokens": 200, "output_tokens": 300, "concurrency": 200,
    }  # fmt: skip
    found, given = pm.serving_elasticities(case), on_cluster(case)
    cluster, kinks = given["cluster"], set()
    for name, path in hardware_paths(cluster).items():
        changed = {
            step: estimate(given | {"cluster": scaled(cluster, path, math.exp(step))}) for step in (-1e-5, 0.0, 1e-5)
        }
        for figure, slopes in found.elasticities.items():
            low, now, high = (math.log(changed[step][figure]) for step in (-1e-5, 0.0, 1e-5))
            sides = (now - low) / 1e-5, (high - now) / 1e-5
            assert any(slopes.get(name, 0.0) == pytest.approx(side, rel=1e-3, abs=1e-6) for side in sides), name
            if abs(sides[1] - sides[0]) > 0.1:
                kinks.add((figure, name))
    assert kinks
    assert all(name in found.uneven[figure] for figure, name in kinks)


def test_what_stands_on_whole_numbers_is_a_difference_and_it_is_said() -> None:
    full = {key: value for key, value in CASES["dense, concurrency"].items() if key != "concurrency"}
    found = pm.serving_elasticities(full | {"load": "maximum", "prefix_hit": 0.4})
    assert found.differences == ("hbm_bytes", "prefix_hit")
    assert found.elasticities["tpot_s"]["hbm_bytes"] > 0.5, "more places, more answers in an iteration"
    task = scenario_task(full | {"load": "maximum"})
    assert not {"hbm_bytes", "prefix_hit"} & {name for _, name in serving_slopes(task)["tpot_s"]}


def test_a_step_is_said() -> None:
    # One more answer in an iteration fills another tile of every expert: the rate falls where the batch grows.
    case = {
        "model": "mixtral-8x7b", "cluster": "dgx-a100-80gb", "accelerators": 4, "layout": {"tp": 4},
        "prompt_tokens": 1000, "output_tokens": 200, "software": "tensorrt-llm-2025", "arrival_rate_per_s": 13.1078,
    }  # fmt: skip
    found = pm.serving_elasticities(case)
    assert "arrival_rate_per_s" in found.uneven["tpot_s"]
    assert all(math.isfinite(slope) for slopes in found.elasticities.values() for slope in slopes.values())
    assert found.elasticities["output_tokens_per_s"] == {"arrival_rate_per_s": 1.0}


def test_an_estimate_its_request_and_a_scenario_are_one_question() -> None:
    case = on_cluster(CASES["dense, concurrency"])
    served = pm.estimate_serving(**{key: value for key, value in case.items() if key != "accelerators"})
    found = pm.serving_elasticities(served)
    document = json.loads(found.to_json())
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert pm.serving_elasticities(document["request"]) == found
    assert pm.serving_elasticities(CASES["dense, concurrency"]).elasticities == found.elasticities
    for part in (found.elasticities, found.software, found.constants):
        for slopes in part.values():
            sizes = [abs(value) for value in slopes.values()]
            assert sizes == sorted(sizes, reverse=True)
            assert all(sizes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sequences": 4}, "unknown key 'sequences'"),
        ({"layout": {"tp": 8, "ppp": 2}}, "ppp"),
        ({"concurrency": 0}, "concurrency: must be a whole number"),
        ({"global_batch": 8}, "describes training"),
    ],
)
def test_bad_scenarios_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(pm.PlanError, match=says):
        pm.serving_elasticities(CASES["dense, concurrency"] | change)
