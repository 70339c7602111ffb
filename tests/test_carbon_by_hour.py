"""Carbon by hour of the day: against integration in small steps, by hand, and through the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.errors import OutOfRangeError, PlanError, SpecError
from perfmodel.formulas.power_money import time_in_hour_of_day
from perfmodel.predict.emissions import emissions_of
from perfmodel.specs.region import load_day, load_region

# Solar at noon, gas in the evening: nobody's grid.
DAY = [0.38, 0.37, 0.36, 0.36, 0.36, 0.38, 0.40, 0.36, 0.28, 0.20, 0.15, 0.12, 0.11, 0.11, 0.13, 0.18, 0.27, 0.38, 0.45,
       0.47, 0.46, 0.44, 0.42, 0.40]  # fmt: skip
MEAN = sum(DAY) / 24
CSV = "hour,kg_per_kwh\n" + "".join(f"{hour},{kg}\n" for hour, kg in enumerate(DAY))
STEP: dict[str, Any] = {"layout": {"dp": 8, "zero_stage": 2}, "global_batch": 64, "seq_len": 2048}
SERVED: dict[str, Any] = {"layout": {"tp": 1}, "prompt_tokens": 512, "output_tokens": 128, "arrival_rate_per_s": 2.0}
MINUTE = 60.0


def integrated(watts: float, start_hour: float, seconds: float, day: list[float]) -> float:
    """Kilograms of a steady draw: every minute of the run looks up its own hour."""
    minutes = np.arange(round(seconds / MINUTE)) + 0.5
    hours = (start_hour * 3600 + minutes * MINUTE) // 3600 % 24
    return float(sum(watts * MINUTE / 3.6e6 * np.array(day)[hours.astype(int)]))


@settings(deadline=None, max_examples=60)
@given(start=st.integers(0, 1439), length=st.integers(0, 10000), hour=st.integers(0, 23))
def test_time_in_an_hour_of_the_day_is_counted(start: int, length: int, hour: int) -> None:
    counted = sum(60.0 for minute in range(start, start + length) if minute // 60 % 24 == hour)
    found = time_in_hour_of_day(start * MINUTE, length * MINUTE, float(hour))
    assert found == pytest.approx(counted, rel=1e-12, abs=1e-6)


@pytest.mark.parametrize("minutes", [1, 59, 150, 1440, 1441, 5000])
@pytest.mark.parametrize("start_hour", [0.0, 5.25, 23.75])
def test_a_run_has_the_carbon_of_its_own_hours(start_hour: float, minutes: int) -> None:
    emissions, seconds = emissions_of(carbon_by_hour=DAY), minutes * MINUTE
    found = emissions.kg_of_run(700.0 * seconds, 8.0, seconds, start_hour)
    assert found == pytest.approx(integrated(700.0, start_hour, seconds, DAY), rel=1e-9, abs=0)


def test_whole_days_start_when_they_like() -> None:
    emissions = emissions_of(carbon_by_hour=DAY, embodied_kg=300.0, life_years=4.0)
    day = 86400.0
    for hour in (0.0, 7.3, 23.99):
        found = emissions.kg_of_run(1e9, 8.0, 3 * day, hour)
        assert found == pytest.approx(emissions.kg(1e9, 8.0, 3 * day), rel=1e-9, abs=0)
    made = 8 * 300.0 * 3 / (4 * 365.25)
    assert emissions.kg(1e9, 8.0, 3 * day) == pytest.approx(1e9 / 3.6e6 * MEAN + made, rel=1e-12, abs=0)


@pytest.mark.parametrize("minutes", [30, 137, 60 * 11, 1440 + 95])
def test_no_minute_is_a_better_start_than_the_best(minutes: int) -> None:
    emissions, seconds = emissions_of(carbon_by_hour=DAY), minutes * MINUTE
    hour, kg = emissions.best_start(1e6 * seconds, 0.0, seconds)
    tried = [integrated(1e6, start / 60, seconds, DAY) for start in range(1440)]
    assert kg == pytest.approx(min(tried), rel=1e-9, abs=0)
    assert tried[round(hour * 60) % 1440] == pytest.approx(min(tried), rel=1e-9, abs=0)
    # As many minutes of the cheapest hours: nothing can be below that.
    assert kg >= min(DAY) * 1e6 * seconds / 3.6e6 * (1 - 1e-12)


def test_where_all_hours_are_alike_none_is_better() -> None:
    emissions = emissions_of(carbon_by_hour=[0.3] * 24)
    assert emissions.best_start(1e9, 0.0, 5000.0) == (0.0, pytest.approx(1e9 / 3.6e6 * 0.3, rel=1e-9, abs=0))


def test_a_steady_load_has_the_mean_hour() -> None:
    cluster = pm.load_cluster("dgx-h100", 8)
    role = {"cluster": "dgx-h100", "layout": {"tp": 2}}
    apart = {name: SERVED[name] for name in ("prompt_tokens", "output_tokens", "arrival_rate_per_s")}
    even = {"carbon_kg_per_kwh": MEAN}
    for hourly in ({"carbon_by_hour": DAY}, {"region": {"carbon_kg_per_kwh_by_hour": DAY}}):
        steps = [pm.estimate_training("llama-3.1-8b", cluster, **STEP, **one) for one in (hourly, even)]
        assert steps[0].carbon_kg_per_step == pytest.approx(steps[1].carbon_kg_per_step, rel=1e-12, abs=0)
        served = [pm.estimate_serving("llama-3.1-8b", "dgx-h100", **SERVED, **one) for one in (hourly, even)]
        assert served[0].carbon_kg_per_mtok == pytest.approx(served[1].carbon_kg_per_mtok, rel=1e-12, abs=0)
        pools = [pm.estimate_disaggregated("llama-3.1-8b", role, role, **apart, **one) for one in (hourly, even)]
        assert pools[0].carbon_kg_per_mtok == pytest.approx(pools[1].carbon_kg_per_mtok, rel=1e-12, abs=0)


def test_a_training_run_says_its_own_start_and_the_best() -> None:
    cluster = pm.load_cluster("dgx-h100", 8)
    one = pm.estimate_training(
        "llama-3.1-8b", cluster, tokens=3e8, carbon_by_hour=DAY, start_hour=18.5, **STEP
    )  # fmt: skip
    run = one.run
    assert run is not None
    seconds = run["run_days"] * 86400
    watts = run["energy_kwh"] * 3.6e6 / seconds
    # To the minute that the integration rounds the run to.
    off = 2 * MINUTE / seconds
    assert run["carbon_kg"] == pytest.approx(integrated(watts, 18.5, seconds, DAY), rel=off, abs=0)
    best = min(integrated(watts, start / 60, seconds, DAY) for start in range(1440))
    assert run["best_start_carbon_kg"] == pytest.approx(best, rel=off, abs=0)
    assert run["mean_hour_carbon_kg"] == pytest.approx(run["energy_kwh"] * MEAN, rel=1e-9, abs=0)
    assert run["best_start_carbon_kg"] < 0.5 * run["carbon_kg"]
    plain = pm.estimate_training("llama-3.1-8b", cluster, tokens=3e8, carbon_by_hour=DAY, **STEP).run
    assert plain is not None
    assert plain["carbon_kg"] == plain["mean_hour_carbon_kg"]
    without = pm.estimate_training("llama-3.1-8b", cluster, tokens=3e8, **STEP).run
    assert without is not None
    assert "best_start_hour" not in without


RATES = [20.0 * (1.2 + math.sin((hour - 8) / 24 * 2 * math.pi)) for hour in range(24)]


def planned(day: list[float] | None) -> Any:
    asked = pm.Workload(prompt_tokens=1024, output_tokens=256, arrival_rate_per_s=24.0, hourly_rates_per_s=RATES)
    slo = pm.Slo(ttft_s=1.0, tpot_s=0.03)
    return pm.plan_serving("llama-3.1-8b", "dgx-h100", asked, slo, modes="aggregated", carbon_by_hour=day)


def test_a_day_of_serving_is_its_rates_times_its_hours() -> None:
    plan = planned(DAY)
    kwh = [one.facility_w / 1000 for one in plan.hourly]
    assert plan.day["energy_kwh"] == pytest.approx(sum(kwh), rel=1e-9, abs=0)
    by_hand = sum(energy * kg for energy, kg in zip(kwh, DAY, strict=True))
    assert plan.day["carbon_kg"] == pytest.approx(by_hand, rel=1e-9, abs=0)
    assert plan.day["mean_hour_carbon_kg"] == pytest.approx(sum(kwh) * MEAN, rel=1e-9, abs=0)
    # More requests draw more: hours in the order of their rates.
    busiest = max(plan.hourly, key=lambda one: one.arrival_rate_per_s)
    assert busiest.facility_w == max(kwh) * 1000
    # An hour draws what an estimate of its replicas at its rate does.
    one = pm.estimate_serving(
        "llama-3.1-8b", pm.load_cluster("dgx-h100", 8 * busiest.replicas),
        layout=plan.decision["serve"]["layout"] | {"dp": busiest.replicas}, prompt_tokens=1024, output_tokens=256,
        arrival_rate_per_s=busiest.arrival_rate_per_s, weights=plan.decision["serve"]["weights"],
        kv_cache=plan.decision["serve"]["kv_cache"],
    )  # fmt: skip
    assert busiest.facility_w == pytest.approx(one.facility_w, rel=0.03, abs=0)
    # Clean hours at night are worth less to a load that peaks by day.
    night = planned([*DAY[12:], *DAY[:12]])
    assert night.day["carbon_kg"] > plan.day["carbon_kg"]
    assert night.day["mean_hour_carbon_kg"] == pytest.approx(plan.day["mean_hour_carbon_kg"], rel=1e-9, abs=0)
    world = planned(None)
    assert world.day["carbon_kg"] == pytest.approx(world.day["mean_hour_carbon_kg"], rel=1e-9, abs=0)
    once = [0.0] * 23 + [5.0]
    idle = pm.Workload(prompt_tokens=1024, output_tokens=256, arrival_rate_per_s=5.0, hourly_rates_per_s=once)
    quiet = pm.plan_serving("llama-3.1-8b", "dgx-h100", idle, modes="aggregated").hourly
    assert 0 < quiet[0].facility_w < quiet[-1].facility_w


def test_a_region_of_ones_own_has_hours(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'id = "mine"\ncarbon_kg_per_kwh_by_hour = {DAY}\n', encoding="utf-8")
    region = load_region(file)
    assert region.by_hour == tuple(DAY)
    assert float(region.carbon_kg_per_kwh) == pytest.approx(MEAN, rel=1e-12, abs=0)
    assert load_region("france").by_hour == (0.056,) * 24
    assert pm.estimate_serving("llama-3.1-8b", "dgx-h100", region=file, **SERVED).request["carbon_by_hour"] == DAY
    with pytest.raises(SpecError, match=r"carbon_kg_per_kwh: must be the mean of its 24 hours, 0\.3\d+ \(got 0\.5\)"):
        load_region({"carbon_kg_per_kwh_by_hour": DAY, "carbon_kg_per_kwh": 0.5})


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        (DAY[:23], r"must be 24 numbers, one an hour from midnight on \(got 23\)"),
        ([*DAY, 0.1], r"24 numbers.*got 25"),
        ([*DAY[:23], -0.1], "zero or more|>= 0"),
        ([*DAY[:23], math.nan], "finite|>= 0"),
        ([*DAY[:23], "much"], "number"),
        (0.3, "24 numbers"),
    ],
)
def test_wrong_hours_are_named(hours: Any, said: str) -> None:
    with pytest.raises(SpecError, match=f"carbon_kg_per_kwh_by_hour.*({said})") as caught:
        load_region({"carbon_kg_per_kwh_by_hour": hours})
    assert "and 1 more" not in str(caught.value)
    with pytest.raises(PlanError, match=f"carbon_by_hour.*({said})"):
        emissions_of(carbon_by_hour=hours)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"carbon_by_hour": DAY, "region": "france"}, PlanError, "region, carbon_by_hour: give one of the two"),
        ({"carbon_by_hour": DAY, "carbon_kg_per_kwh": 0.1, "region": "france"}, PlanError, "give one of the three"),
        ({"start_hour": 3.0, "tokens": 1e9}, PlanError, "start_hour: needs carbon by hour"),
        ({"start_hour": 3.0, "carbon_by_hour": DAY}, PlanError, "start_hour: needs tokens"),
        ({"start_hour": 24.0, "tokens": 1e9, "carbon_by_hour": DAY}, OutOfRangeError, "from 0 to below 24"),
        ({"start_hour": -1.0, "tokens": 1e9, "carbon_by_hour": DAY}, OutOfRangeError, "start_hour"),
        ({"start_hour": math.nan, "tokens": 1e9, "carbon_by_hour": DAY}, PlanError, "start_hour"),
        ({"start_hour": "noon", "tokens": 1e9, "carbon_by_hour": DAY}, PlanError, "start_hour"),
    ],
)
def test_wrong_questions_are_named(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        pm.estimate_training("llama-3.1-8b", pm.load_cluster("dgx-h100", 8), **STEP, **changes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"must hold 24 numbers.*got 0"),
        (CSV.replace("5,0.38\n", ""), r":7: must be hour 5 and its kg per kWh \(got '6,0.4'\)"),
        (CSV + "24,0.1\n", "must hold 24 numbers.*got 25"),
        (CSV.replace("7,0.36", "7,much"), ":9: must be hour 7"),
        ("hour,kg,more\n1,2,3\n", ":2: must be hour 0"),
    ],
)
def test_wrong_tables_are_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "day.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=said):
        load_day(file)


def test_tables_come_with_or_without_head_and_hours(tmp_path: Path) -> None:
    for text in (CSV, CSV.partition("\n")[2], "# mine\n" + "\n".join(map(str, DAY))):
        file = tmp_path / "day.csv"
        file.write_text(text, encoding="utf-8")
        assert load_day(file) == tuple(DAY)


WORDS = "--model llama-3.1-8b --cluster dgx-h100 --accelerators 8 --global-batch 64 --seq-len 2048 --tokens 3e8"


def test_the_commands_take_a_day(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("day.csv").write_text(CSV, encoding="utf-8")
    asked = [*WORDS.split(), "--carbon-by-hour", "day.csv", "--start-hour", "18.5"]
    for command in ("estimate", "plan"):
        code, out, err = cli(command, "training", *asked, "--json")
        assert (code, err) == (0, "")
        Path("earlier.json").write_text(out, encoding="utf-8")
        assert cli(command, "training", "-f", "earlier.json", "--json") == (0, out, "")
        document = json.loads(out)
        assert document["request"]["carbon_by_hour"] == DAY
        assert document["request"]["start_hour"] == 18.5
        page = " ".join(cli(command, "training", "-f", "earlier.json").out.split())
        assert "carbon by hour:" in page
        assert "(mean hour)" in page
    Path("sub").mkdir()
    Path("sub/given.toml").write_text(
        'model = "llama-3.1-8b"\ncluster = "dgx-h100"\naccelerators = 8\nglobal_batch = 64\nseq_len = 2048\n'
        'tokens = 3e8\ncarbon_by_hour = "../day.csv"\nstart_hour = 18.5\n', encoding="utf-8",
    )  # fmt: skip
    assert cli("plan", "training", "-f", "sub/given.toml", "--json").out == out
    served = {"model": "llama-3.1-8b", "cluster": "dgx-h100", "modes": ["aggregated"], "carbon_by_hour": "../day.csv"}
    workload = {"prompt_tokens": 512, "output_tokens": 128, "arrival_rate_per_s": 5.0, "hourly_rates_per_s": RATES}
    Path("sub/serve.json").write_text(json.dumps(served | {"workload": workload}), encoding="utf-8")
    code, out, _ = cli("plan", "serving", "-f", "sub/serve.json")
    assert code == 0
    assert "a day: " in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--start-hour", "24"], "--start-hour: must be a number from 0 to below 24 (got 24)"),
        (["--start-hour", "3"], "start_hour: needs carbon by hour"),
        (["--carbon-by-hour", "no/such.csv"], "no/such.csv: cannot be read"),
        (["--carbon-by-hour", "day.csv", "--region", "france"], "region, carbon_by_hour: give one of the two"),
        (["--carbon-by-hours", "day.csv"], "nearest: '--carbon-by-hour'"),
    ],
)
def test_bad_input_is_one_line(
    cli: Any, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("day.csv").write_text(CSV, encoding="utf-8")
    code, out, err = cli("estimate", "training", *WORDS.split(), *words, "-o", "never.json")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not Path("never.json").exists()


def test_a_flag_replaces_what_a_file_said_in_another_way(cli: Any, tmp_path: Path) -> None:
    """A result names the region that it took; another number or a day of hours stands instead of it."""
    question = ["estimate", "training", "--model", "llama-3.1-8b", "--cluster", "dgx-h100", "--accelerators", "8",
                "--global-batch", "16", "--seq-len", "4096", "--dp", "8", "--zero-stage", "3"]  # fmt: skip
    first, day = tmp_path / "first.json", tmp_path / "day.csv"
    assert cli(*question, "-o", str(first)).code == 0
    day.write_text("".join(f"{hour},0.2\n" for hour in range(24)))
    before = json.loads(first.read_text())
    assert before["request"]["region"] == "world"
    for flag in (["--carbon-kg-per-kwh", "0.2"], ["--carbon-by-hour", str(day)]):
        after = json.loads(cli("estimate", "training", "-f", str(first), *flag, "--json").out)
        kwh = after["energy_j_per_step"] / 3.6e6
        assert after["carbon_kg_per_step"] == pytest.approx(0.2 * kwh, rel=1e-9)
        assert after["request"]["region"] is None
    scenario = pm.load_scenario(first).with_(carbon_kg_per_kwh=0.2)
    assert scenario.run().carbon_kg_per_step == pytest.approx(0.2 * before["energy_j_per_step"] / 3.6e6, rel=1e-9)
