"""Published tables and figures of power: scores, the monotone test set, and the POLCA row over many seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfmodel.calibrate.power import fit_activity, fit_clocks
from perfmodel.predict.power import accelerator_watts
from perfmodel.specs.power import load_power_set
from perfmodel.validation.convert_power import FOLDER, convert
from perfmodel.validation.power_report import phase_pool_ratios, polca_seeds, run_power
from perfmodel.validation.power_scores import CALIBRATES, ZEUS_SETS, median_curve, power_scores
from perfmodel.validation.power_tables import ml_energy_shares, power_figures, power_table

SCORES = {one.source: one for one in power_scores()}
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "published" / "power"


def test_joules_a_token_on_an_h100_with_one_set() -> None:
    one = SCORES["mlenergy-h100-j-per-token"]
    assert one.calibrating < 0.1 * (one.scored + one.calibrating)
    assert one.mape <= 0.15
    assert one.mape < one.trivial


def test_joules_a_token_fall_with_the_batch() -> None:
    table = power_table("mlenergy-h100")
    power = load_power_set("h100-sxm")
    for model in sorted(set(table["model"])):
        rows = table[(table["model"] == model) & (table["gpus"] == table[table["model"] == model]["gpus"].max())]
        rows = np.sort(rows, order="batch")
        memory, compute = ml_energy_shares(rows)
        joules = (
            accelerator_watts(power, memory_share=memory, compute_share=compute) * rows["gpus"] / rows["tokens_per_s"]
        )
        assert (np.diff(joules) < 0.05 * joules[:-1]).all(), model


@pytest.mark.parametrize("gpu", ZEUS_SETS)
def test_caps_beat_nothing_changes(gpu: str) -> None:
    for name in ("time", "energy"):
        one = SCORES[f"zeus-{gpu}-{name}"]
        assert one.mape < one.trivial


@pytest.mark.parametrize(("gpu", "least"), [("v100", 125), ("a40", 175)])
def test_energy_is_u_shaped_in_the_cap(gpu: str, least: int) -> None:
    curve = median_curve(gpu)
    limits, energy = curve["limit_w"], curve["predicted_energy"]
    assert limits[np.argmin(curve["energy"])] == least
    assert abs(limits[np.argmin(energy)] - least) <= 25
    assert energy[0] > energy.min() < energy[-1]


def test_shipped_sets_are_the_fits() -> None:
    for gpu, limit in (("v100", 250.0), ("a40", 300.0)):
        shipped = load_power_set(ZEUS_SETS[gpu])
        for name, value in fit_clocks(gpu, limit).items():
            assert float(getattr(shipped, name)) == pytest.approx(value, rel=0.02)
    for name, value in fit_activity().items():
        assert float(getattr(load_power_set("h100-sxm"), name)) == pytest.approx(value, rel=0.02)


def test_what_calibrates_is_in_the_tables() -> None:
    assert CALIBRATES["zeus"] in power_table("zeus")["network"]
    assert (power_table("mlenergy-h100")["model"] == CALIBRATES["mlenergy-h100"]).sum() == 11


def test_joules_are_watts_over_rate_in_every_row() -> None:
    table = power_table("mlenergy-h100")
    np.testing.assert_allclose(table["j_per_token"], table["watts"] / table["tokens_per_s"], rtol=1e-4)


def test_iso_power_is_the_ratio_of_the_gpus_not_of_the_servers() -> None:
    assert power_figures()["splitwise-iso-power-a100"]["value"] == 40 * 700 / 400
    assert pytest.approx(62.8, abs=0.05) == 40 * 10200 / 6500


def test_rates_alone_do_not_give_splitwise() -> None:
    """Kept as a fact: the published factors need latency limits, which no rate shows."""
    ratios = phase_pool_ratios()
    assert 1.0 <= ratios["iso-power"] < 2.35
    assert ratios["80 % of the cost"] >= 0.8


def test_derived_rows_are_left_out() -> None:
    assert "h100-80gb-pcap" not in set(power_table("splitwise")["hardware"])


def test_a_few_seeds() -> None:
    polca = polca_seeds(range(4), days=7.0)
    assert polca.without_brake[0] == 1.0
    assert polca.without_brake[-1] == 0.0
    assert all(a >= b for a, b in zip(polca.without_brake, polca.without_brake[1:], strict=False))


@pytest.mark.heavy
def test_all_seeds() -> None:
    report = run_power()
    assert report.missed == ()
    assert report.polca.seeds == 100
    assert report.polca.generated_peak == pytest.approx(0.79, abs=0.01)
    assert report.polca.without_brake[2] > 0.9
    json.loads(report.to_json())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not beside this checkout")
def test_tables_are_what_the_script_makes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("perfmodel.validation.convert_power.FOLDER", tmp_path)
    convert(SHARED)
    for made in tmp_path.glob("*.csv"):
        assert made.read_bytes() == (FOLDER / made.name).read_bytes()
