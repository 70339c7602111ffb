"""Elasticities by Dual numbers against finite differences of whole predictions, and Euler's theorem over them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

import perfmodel as pm
from perfmodel.dual import plain
from perfmodel.plan.sensitivity import step_sensitivities
from perfmodel.predict.elasticities import StepElasticities, elasticities
from perfmodel.predict.training_task import degrees_of, training_task
from perfmodel.specs.quantity import Quantity

CASES: dict[str, dict[str, Any]] = {
    "dense, two tiers, recomputation": {
        "model": "llama-3.1-405b", "cluster": "dgx-h100", "accelerators": 1024, "global_batch": 1024, "seq_len": 8192,
        "layout": {"tp": 8, "pp": 8, "dp": 16, "recompute": "selective"},
    },
    "interleaved, no ZeRO": {
        "model": "gpt3-175b", "cluster": "selene", "accelerators": 1024, "global_batch": 1536, "seq_len": 2048,
        "layout": {
            "tp": 8, "pp": 8, "dp": 16, "vpp": 3, "schedule": "interleaved", "recompute": "full", "zero_stage": 0
        },
        "precision": "fp16", "software": "megatron-2021",
    },
    # On the H100 the constants of grouped products put a tile's loads within 1e-4 of its arithmetic: a kink.
    "experts": {
        "model": "mixtral-8x7b", "cluster": "dgx-a100-80gb", "accelerators": 64, "global_batch": 256, "seq_len": 4096,
        "layout": {"tp": 2, "pp": 4, "dp": 8, "ep": 8},
    },
    "latent attention, ZeRO-2, narrow": {
        "model": "deepseek-v3", "cluster": "dgx-h800", "accelerators": 2048, "global_batch": 4096, "seq_len": 4096,
        "layout": {"tp": 1, "pp": 16, "dp": 128, "ep": 64, "zero_stage": 2}, "precision": "fp8",
    },
    "torus, ZeRO-3": {
        "model": "llama-3.1-8b", "cluster": "tpu-v5p-pod", "accelerators": 128, "global_batch": 256, "seq_len": 4096,
        "layout": {"tp": 4, "pp": 1, "dp": 32, "zero_stage": 3},
    },
    "context parallel, ZeRO-3, fp8": {
        "model": "llama-3.1-8b", "cluster": "dgx-h100", "accelerators": 16, "global_batch": 64, "seq_len": 16384,
        "layout": {"tp": 1, "pp": 1, "dp": 8, "cp": 2, "zero_stage": 3}, "precision": "fp8",
    },
    "split backward": {
        "model": "llama-2-70b", "cluster": "dgx-a100-80gb", "accelerators": 64, "global_batch": 128, "seq_len": 4096,
        "layout": {"tp": 4, "pp": 8, "dp": 2, "schedule": "zb-h1"},
    },
    "one accelerator": {
        "model": "llama-3.1-8b", "cluster": "dgx-h100", "accelerators": 1, "global_batch": 8, "seq_len": 4096,
        "layout": {"tp": 1, "pp": 1, "dp": 1},
    },
    "offload": {
        "model": "llama-2-70b", "cluster": "dgx-h100", "accelerators": 32, "global_batch": 64, "seq_len": 4096,
        "layout": {"tp": 4, "pp": 4, "dp": 2, "offload": {"activations": 0.5}},
    },
    "slow host": {
        "model": "megatron-1.7b", "cluster": "dgx-a100-80gb", "accelerators": 32, "global_batch": 512, "seq_len": 2048,
        "layout": {"tp": 4, "pp": 1, "dp": 8}, "software": "megatron-2021",
    },
}  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
# So small that no other tile or protocol becomes the fastest on the way: at such a kink there is no one slope.
STEP = 1e-4


def estimate(case: dict[str, Any]) -> Any:
    return pm.estimate_training(**{key: value for key, value in on_cluster(case).items() if key != "accelerators"})


def on_cluster(case: dict[str, Any]) -> dict[str, Any]:
    return case | {"cluster": pm.load_cluster(case["cluster"], accelerators=case["accelerators"])}


def richardson(seconds: Callable[[float], float]) -> float:
    """The slope of ln t by ln x: central differences of two steps, extrapolated."""

    def central(step: float) -> float:
        return (math.log(seconds(math.exp(step))) - math.log(seconds(math.exp(-step)))) / (2 * step)

    return (4 * central(STEP / 2) - central(STEP)) / 3


def scaled(spec: Any, path: tuple[Any, ...], factor: float) -> Any:
    """A description with the number at that path multiplied."""
    key, rest = path[0], path[1:]
    old = spec[key] if isinstance(spec, (dict, tuple)) else getattr(spec, key)
    new = scaled(old, rest, factor) if rest else Quantity(plain(old) * factor)
    if isinstance(spec, tuple):
        return (*spec[:key], new, *spec[key + 1 :])
    return spec | {key: new} if isinstance(spec, dict) else spec.model_copy(update={key: new})


def hardware_paths(cluster: pm.Cluster) -> dict[str, tuple[Any, ...]]:
    part = {f"peak_flop_per_s.{dtype}": ("accelerator", "peak_flop_per_s", dtype) for dtype in
            cluster.accelerator.peak_flop_per_s}  # fmt: skip
    part |= {key: ("accelerator", key) for key in ("hbm_byte_per_s", "l2_bytes")}
    part |= {"host pcie_byte_per_s": ("host", "pcie_byte_per_s")} if cluster.host is not None else {}
    for position, tier in enumerate(cluster.tiers):
        part |= {f"{tier.name} {key}": ("tiers", position, key) for key in ("link_byte_per_s", "latency_s")}
    return part


@each_case
def test_exact_equals_finite_differences_of_the_whole_prediction(case: dict[str, Any]) -> None:
    found, given = elasticities(case), on_cluster(case)
    assert found.step_time_s == estimate(case).step_time_s, "to the bit"
    for name, path in hardware_paths(given["cluster"]).items():
        differences = richardson(
            lambda factor, path=path: estimate(case | {"cluster": scaled(given["cluster"], path, factor)}).step_time_s
        )
        assert found.hardware.get(name, 0.0) == pytest.approx(differences, rel=1e-6, abs=1e-8), name


@each_case
def test_software_constants_and_batch_too(case: dict[str, Any]) -> None:
    found, given = elasticities(case), on_cluster(case)
    layout = pm.ParallelLayout(**given.pop("layout"))
    given.pop("accelerators")
    task = training_task(**given)
    degrees = degrees_of(layout, task.model.n_layers)

    def seconds(batch_factor: float = 1.0, **changed: Any) -> float:
        batch = task.global_batch * batch_factor
        return task.steps.with_(**changed).price(degrees, batch, task.seq_len, detail=False).seconds

    assert found.workload["global_batch"] == pytest.approx(richardson(seconds), rel=1e-6, abs=1e-8)
    assert 0 < found.workload["global_batch"] <= 1

    for name, exact in found.software.items():
        software = task.software
        slope = richardson(lambda factor, name=name: seconds(software=scaled(software, (name,), factor)))  # noqa: B023
        assert exact == pytest.approx(slope, rel=1e-6, abs=1e-8), name
    for name, exact in list(found.constants.items())[:12]:
        path = tuple(name.split("."))
        slope = richardson(lambda factor, path=path: seconds(efficiency=scaled(task.steps.efficiency, path, factor)))
        assert exact == pytest.approx(slope, rel=1e-6, abs=1e-8), name


def time_dimension(name: str) -> int:
    """The power of seconds in a quantity's unit, by the ending of its name."""
    key = name.rsplit(" ", 1)[-1]
    if "_per_s" in key:
        return -1
    return 1 if key.endswith("_s") else 0


@each_case
def test_faster_everything_is_as_much_faster(case: dict[str, Any]) -> None:
    # Euler's theorem: a time is homogeneous of degree one in seconds, so no constant with a unit of time is hidden.
    found = elasticities(case)
    everything = found.hardware | found.software | found.constants
    assert sum(time_dimension(name) * value for name, value in everything.items()) == pytest.approx(1, rel=1e-9, abs=0)
    # Data-sheet numbers alone are not all: launches, the host and floors of kernels do not follow the hardware.
    rates = -sum(value for name, value in found.hardware.items() if time_dimension(name) < 0)
    assert 0.3 < rates < 1 + 1e-12
    times = sum(value for name, value in everything.items() if time_dimension(name) > 0)
    assert rates + times == pytest.approx(1, rel=1e-9, abs=0)


def test_at_a_kink_the_slope_is_that_of_one_side() -> None:
    # Four rails of 50 GB/s carry just what an H800's NVLink does: more of one alone helps nothing, less of it hurts.
    case = {
        "model": "minimax-text-01", "cluster": "dgx-h800", "accelerators": 128, "global_batch": 128, "seq_len": 2048,
        "layout": {"tp": 2, "pp": 4, "dp": 16, "ep": 2, "micro_batch": 2, "zero_stage": 0, "overlap": False},
    }  # fmt: skip
    found, cluster = elasticities(case), on_cluster(case)["cluster"]
    now, kinks = math.log(found.step_time_s), 0
    for name, path in hardware_paths(cluster).items():
        sides = [
            (math.log(estimate(case | {"cluster": scaled(cluster, path, math.exp(h))}).step_time_s) - now) / h
            for h in (-1e-5, 1e-5)
        ]
        kinks += abs(sides[1] - sides[0]) > 0.1
        assert any(found.hardware.get(name, 0.0) == pytest.approx(side, rel=1e-3, abs=1e-8) for side in sides), name
    assert kinks == 2


def test_sensitivities_of_a_plan_are_the_same_numbers() -> None:
    case = on_cluster(CASES["experts"])
    found = elasticities(case)
    layout = pm.ParallelLayout(**case.pop("layout"))
    case.pop("accelerators")
    for one in step_sensitivities(training_task(**case), layout):
        assert one.elasticity == pytest.approx(found.hardware.get(one.quantity, 0.0), rel=1e-12, abs=1e-15)


def test_an_estimate_its_request_and_a_scenario_are_one_question() -> None:
    case = CASES["torus, ZeRO-3"]
    documents = {elasticities(of).to_json() for of in (case, on_cluster(case), estimate(on_cluster(case)))}
    assert len(documents) == 1
    document = json.loads(documents.pop())
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert isinstance(pm.elasticities(document["request"]), StepElasticities)
    for group in ("hardware", "software", "constants", "workload"):
        sizes = [abs(value) for value in document[group].values()]
        assert sizes == sorted(sizes, reverse=True)
        assert all(sizes)


def test_overlap_of_the_layout_counts() -> None:
    case = CASES["dense, two tiers, recomputation"]
    plain_case, without = (
        elasticities(case | {"layout": case["layout"] | {"overlap": overlap}}) for overlap in (None, False)
    )
    assert "exposed_share" in plain_case.software
    assert without.step_time_s > plain_case.step_time_s
    assert without.hardware["NVLink 4 link_byte_per_s"] < plain_case.hardware["NVLink 4 link_byte_per_s"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sequence": 4096}, "unknown key 'sequence'"),
        ({"layout": {"tp": 8, "pp": 1, "dp": 1, "ppp": 2}}, "ppp"),
        ({"seq_len": 0}, "seq_len: must be a whole number"),
    ],
)
def test_bad_scenarios_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(pm.PlanError, match=says):
        elasticities(CASES["one accelerator"] | change)


@pytest.mark.parametrize("key", ["model", "layout", "global_batch"])
def test_missing_keys_are_named(key: str) -> None:
    with pytest.raises(pm.PlanError, match=f"{key}: missing"):
        elasticities({name: value for name, value in CASES["one accelerator"].items() if name != key})
