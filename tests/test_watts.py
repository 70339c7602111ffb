"""Watts, carbon and the planners' objectives and limits on them: against brute force, and between the device's own."""

from __future__ import annotations

import json

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.cli.main import main
from perfmodel.errors import OutOfRangeError, PlanError, SpecError
from perfmodel.plan import pricing
from perfmodel.plan.bounds import least
from perfmodel.plan.loads import Loads
from perfmodel.plan.pricing import unfolded
from perfmodel.plan.search import search
from perfmodel.plan.space import SEARCHED, space_of
from perfmodel.predict.cost import Cost
from perfmodel.predict.power import device_power_of, watts_of_work
from perfmodel.predict.training import step_carbon_kg, step_energy_j
from perfmodel.predict.training_task import degrees_of, training_task
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.region import load_region
from perfmodel.specs.registry import ids

TIGHT = {"global_batch": 8, "seq_len": 2048, "precision": "fp16", "software": "megatron-2022"}
EMBODIED = {"embodied_kg": 300.0, "life_years": 4.0, "region": "france"}
LLAMA = {"layout": {"tp": 8, "pp": 2, "dp": 4}, "global_batch": 128, "seq_len": 4096}


@pytest.fixture(scope="module")
def small():
    return training_task("megatron-1.7b", pm.load_cluster("dgx-a100-80gb", 4), **TIGHT, **EMBODIED)


def every(task, objective: str):
    """Every layout of the space by an objective: no limit, no bound, none forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pricing, "KEPT", 10**9)
        return search(task, space_of(task, SEARCHED), objective, bounds=False)


def alone(task, layout, objective: str) -> float:
    step = task.steps.price(degrees_of(layout, task.model.n_layers), task.global_batch, task.seq_len)
    joules = step_energy_j(task, layout.accelerators, step)
    return float(joules if objective == "energy" else step_carbon_kg(task, layout.accelerators, step.seconds, joules))


@pytest.mark.parametrize("objective", ["energy", "carbon"])
def test_arrays_find_what_pricing_every_layout_finds(small, objective: str) -> None:
    table = every(small, objective)
    for i in np.random.default_rng(1).choice(table.priced, 150, replace=False):
        assert table.columns["value"][i] == pytest.approx(alone(small, table.layout(i), objective), rel=1e-12, abs=0)
    plan = pm.plan_training(
        small.model, small.cluster, objective=objective, memory_margin=0.8, schedules=SEARCHED, **TIGHT, **EMBODIED
    )
    fits = table.columns["memory_bytes"] <= plan.constraints[0].limit
    best = table.columns["value"][fits].min()
    assert alone(small, pm.ParallelLayout(**plan.decision["layout"]), objective) == pytest.approx(
        best, rel=1e-12, abs=0
    )
    assert plan.certificate.bound == pytest.approx(best, rel=1e-12, abs=0)


@pytest.mark.parametrize("software", ["megatron-2021", "megatron-core-2024"])
@pytest.mark.parametrize("model", ["megatron-1.7b", "mixtral-8x7b"])
def test_bounds_on_energy_and_watts_hold_for_every_layout(model: str, software: str) -> None:
    asked = TIGHT | {"software": software}
    task = training_task(model, pm.load_cluster("dgx-a100-80gb", 8), **asked, **EMBODIED)
    space = space_of(task, SEARCHED)
    loads = Loads(task, space, busy=True)
    for switches in space.switches():
        for part in space.blocks[:2]:
            rows, _ = space.under(part.rows(), switches)
            rows = {name: column[:200] for name, column in rows.items()}
            if not len(rows["pp"]):
                continue
            layers = space.stage_layers(rows)
            for recompute in space.recomputes:
                block = unfolded(rows, layers, switches, recompute)
                load = loads.of(rows, switches.sequence_parallel, 3)
                step = task.steps.price(block.degrees, task.global_batch, task.seq_len, detail=False, load=load)
                of, low = pricing.columns_of(task, block.degrees, step), least(task, block.degrees, load)
                for name in ("step_time_s", "energy_j", "watts", "carbon_kg"):
                    assert (low(name) <= of(name) * (1 + 1e-9)).all(), (name, switches, recompute)


def test_a_kernel_draws_what_the_power_set_says() -> None:
    part = load_accelerator("h100-sxm")
    power = device_power_of(part, 1.0, 1.0)
    for cost in (Cost(1.0, compute_s=0.1, memory_s=0.4), Cost(1.0, compute_s=0.9), Cost(1.0, link_s=1.0)):
        direct = watts_of_work(power.power, 1.0, compute_s=cost.compute_s, memory_s=cost.memory_s, link_s=cost.link_s)
        assert power.energy_j(1.0, 0.0, cost.at_full_draw(power.draw)) == pytest.approx(float(direct), rel=1e-12, abs=0)


@pytest.mark.parametrize("cluster", ["dgx-h100", "dgx-a100-80gb", "mi300x-8", "tpu-v5p-pod"])
def test_every_term_draws_between_idle_and_the_limit(cluster: str) -> None:
    machine = pm.load_cluster(cluster, 64)
    one = pm.estimate_training("llama-2-70b", machine, **LLAMA)
    limit = float(machine.accelerator.tdp_w)
    assert machine.accelerator.idle_w <= min(one.accelerator_w_by_term.values())
    assert max(one.accelerator_w_by_term.values()) <= limit * (1 + 1e-12)
    # Synchronisation is a trough between computation.
    assert one.accelerator_w_by_term["data_parallel"] < one.accelerator_w_by_term["layers"]
    joules = sum(one.accelerator_w_by_term[term.name] * term.seconds for term in one.terms)
    assert one.accelerator_w * one.step_time_s == pytest.approx(joules, rel=1e-9, abs=0)
    whole = (one.accelerator_w + machine.server_overhead_w) * 64 * machine.pue
    assert one.facility_w == pytest.approx(float(whole), rel=1e-9, abs=0)
    assert one.energy_j_per_step == pytest.approx(one.facility_w * one.step_time_s, rel=1e-12, abs=0)
    if machine.accelerator.id == "mi300x":
        assert any("power: that of h100-sxm" in note for note in one.notes)


def test_the_trough_of_synchronisation_is_the_half_of_the_limit_that_was_measured() -> None:
    """POLCA: GPT-NeoX on A100 draws 50 % of TDP between iterations; ranks that wait poll."""
    one = pm.estimate_training("llama-2-70b", pm.load_cluster("dgx-a100-80gb", 64), **LLAMA)
    assert one.accelerator_w_by_term["data_parallel"] / 400.0 == pytest.approx(0.5, rel=0.05, abs=0)


def test_energy_of_a_token_as_the_leaderboard_measured_it() -> None:
    """Llama 3.1 8B on one H100, chat: 0.4548 J at a batch of 8; lengths are not printed and matter little there."""
    one = pm.estimate_serving(
        "llama-3.1-8b", "dgx-h100", layout={"tp": 1}, prompt_tokens=200, output_tokens=500, concurrency=8
    )
    assert one.accelerator_w / one.output_tokens_per_s == pytest.approx(0.4548, rel=0.15, abs=0)


def test_joules_a_token_fall_with_the_batch() -> None:
    found = [
        pm.estimate_serving(
            "llama-3.1-70b", "dgx-h100", layout={"tp": 4}, prompt_tokens=512, output_tokens=256, concurrency=batch
        )
        for batch in (1, 4, 16, 64, 256)
    ]
    joules = [one.energy_j_per_token for one in found]
    assert joules == sorted(joules, reverse=True)
    assert found[0].accelerator_w < found[-1].accelerator_w
    for one in found:
        assert one.energy_j_per_token == pytest.approx(one.facility_w / one.output_tokens_per_s, rel=1e-9, abs=0)


def test_an_idle_deployment_draws_what_idles() -> None:
    kept = {"layout": {"tp": 4}, "prompt_tokens": 512, "output_tokens": 64}
    rare, often = (
        pm.estimate_serving("llama-3.1-70b", "dgx-h100", arrival_rate_per_s=rate, **kept) for rate in (1e-4, 5.0)
    )
    assert rare.accelerator_w == pytest.approx(121.7, rel=0.01, abs=0)
    assert often.accelerator_w > 2 * rare.accelerator_w


def test_pools_draw_too() -> None:
    role = {"cluster": "dgx-h100", "layout": {"tp": 4}}
    one = pm.estimate_disaggregated(
        "llama-3.1-70b", role, role, prompt_tokens=1024, output_tokens=256, arrival_rate_per_s=2.0, region="norway"
    )
    assert 121.7 <= one.decode.accelerator_w <= 700.0
    assert one.facility_w < 1.1 * one.provisioned_w
    assert one.carbon_kg_per_mtok == pytest.approx(0.03 * one.energy_j_per_token / 3.6, rel=1e-9, abs=0)


def test_carbon_is_energy_times_the_region() -> None:
    cluster = pm.load_cluster("dgx-h100", 64)
    given = {name: pm.estimate_training("llama-2-70b", cluster, region=name, **LLAMA) for name in ("france", "india")}
    for name, one in given.items():
        kg = one.energy_j_per_step / 3.6e6 * float(load_region(name).carbon_kg_per_kwh)
        assert one.carbon_kg_per_step == pytest.approx(kg, rel=1e-12, abs=0)
        assert any("Our World in Data" in source for source in one.sources)
        again = pm.estimate_training(
            "llama-2-70b", cluster, carbon_kg_per_kwh=kg / one.energy_j_per_step * 3.6e6, **LLAMA
        )
        assert again.carbon_kg_per_step == pytest.approx(kg, rel=1e-12, abs=0)
        assert again.request["region"] is None
    made = pm.estimate_training(
        "llama-2-70b", cluster, carbon_kg_per_kwh=0.0, embodied_kg=300.0, life_years=1.0, **LLAMA
    )
    assert made.carbon_kg_per_step == pytest.approx(64 * 300 * made.step_time_s / 31557600, rel=1e-12, abs=0)


def test_every_region_has_a_year_and_a_source() -> None:
    assert {"world", "france", "united-states"} <= set(ids("regions"))
    for id in ids("regions"):
        region = load_region(id)
        assert region.year is not None
        assert 0 < region.carbon_kg_per_kwh < 1
        assert region.carbon_kg_per_kwh.source in region.sources


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"region": "frence"}, SpecError, "nearest: 'france'"),
        ({"region": "france", "carbon_kg_per_kwh": 0.1}, PlanError, "give one of the two"),
        ({"carbon_kg_per_kwh": -0.1}, OutOfRangeError, "carbon_kg_per_kwh"),
        ({"carbon_kg_per_kwh": float("nan")}, PlanError, "carbon_kg_per_kwh"),
        ({"embodied_kg": "much"}, PlanError, "embodied_kg"),
        ({"embodied_kg": 1.0, "life_years": 0.0}, OutOfRangeError, "life_years"),
    ],
)
def test_bad_carbon_is_named(changes, error, said: str) -> None:
    with pytest.raises(error, match=said):
        pm.estimate_training("llama-2-70b", pm.load_cluster("dgx-h100", 64), **LLAMA, **changes)
    with pytest.raises(error, match=said):
        planned(**changes)


WORKLOAD = pm.Workload(prompt_tokens=1024, output_tokens=256, arrival_rate_per_s=20.0)


def planned(**changes):
    asked = {"slo": pm.Slo(ttft_s=1.0, tpot_s=0.05), "workload": WORKLOAD} | changes
    return pm.plan_serving("llama-3.1-70b", ["dgx-h100", "dgx-a100-80gb"], **asked)


def test_the_least_energy_is_that_of_the_plan() -> None:
    cost, energy = planned(modes="aggregated"), planned(modes="aggregated", objective="energy")
    assert energy.prediction.energy_j_per_token <= cost.prediction.energy_j_per_token
    assert energy.decision["usd_per_hour"] >= cost.decision["usd_per_hour"]
    # Alternatives are read from curves, which are straight between their points.
    assert all(energy.certificate.bound <= 1.02 * one.energy_j_per_token for one in energy.alternatives)
    assert energy.certificate.bound == pytest.approx(energy.prediction.energy_j_per_token, rel=1e-9, abs=0)
    carbon = planned(modes="aggregated", objective="carbon", region="france")
    assert carbon.decision["serve"] == energy.decision["serve"]
    assert carbon.certificate.bound == pytest.approx(carbon.prediction.carbon_kg_per_mtok, rel=1e-9, abs=0)


@pytest.mark.parametrize("modes", ["aggregated", "disaggregated"])
@pytest.mark.parametrize(("option", "key"), [("max_watts", "facility_w"), ("max_usd_per_hour", "usd_per_hour")])
def test_a_limit_on_watts_or_dollars_binds_or_says_what_would_do(modes: str, option: str, key: str) -> None:
    free = planned(modes=modes)
    needs = free.decision[key]
    kept = planned(modes=modes, **{option: 1.05 * needs})
    assert kept.feasible
    assert kept.constraints[-1].slack >= 0
    assert kept.constraints[-1].value == kept.decision[key]
    none = planned(modes=modes, **{option: 0.2 * needs})
    assert not none.feasible
    enough = float(none.infeasible_because[-1].split()[-1])
    assert planned(modes=modes, **{option: enough}).feasible
    with pytest.raises(OutOfRangeError, match=option):
        planned(**{option: -1.0})


def test_most_served_within_watts() -> None:
    kept = {"objective": "throughput", "max_accelerators": 16, "workload": WORKLOAD.with_(arrival_rate_per_s=None)}
    free = planned(**kept)
    less = planned(max_watts=0.6 * free.decision["facility_w"], **kept)
    assert less.prediction.requests_per_s < free.prediction.requests_per_s
    assert less.decision["facility_w"] <= 0.6 * free.decision["facility_w"]


def test_the_commands_say_watts_and_carbon(capsys, tmp_path) -> None:
    words = [
        "--model",
        "llama-3.1-8b",
        "--cluster",
        "dgx-h100",
        "--accelerators",
        "8",
        "--global-batch",
        "64",
        "--seq-len",
        "4096",
    ]
    file = tmp_path / "plan.json"
    options = ["--objective", "carbon", "--region", "norway", "--max-watts", "20000", "--tokens", "1e12"]
    assert main(["plan", "training", *words, *options, "--json", "-o", str(file)]) == 0
    plan = json.loads(file.read_text())
    assert plan["request"]["region"] == "norway"
    assert plan["prediction"]["run"]["carbon_kg"] > 0
    assert main(["estimate", "training", "-f", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "kg CO2e (norway)" in shown
    assert "W an accelerator" in shown
    assert main(["plan", "training", *words, "--max-watts", "10"]) == 1
    assert "watts" in capsys.readouterr().out
    served = ["--model", "llama-3.1-8b", "--cluster", "dgx-h100", "--prompt-tokens", "500", "--output-tokens", "200"]
    assert main(["plan", "serving", *served, "--arrival-rate-per-s", "5", "--objective", "carbon"]) == 0
    assert "kg CO2e a million" in capsys.readouterr().out
    assert main(["estimate", "serving", *served, "--tp", "1", "--concurrency", "8", "--region", "france"]) == 0
    assert "at the meter" in capsys.readouterr().out
    assert main(["estimate", "serving", *served, "--tp", "1", "--concurrency", "8", "--region", "nowhere"]) == 2
