"""The ledger: entries are complete, checkable claims are met, predictions say their error, the others why not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import perfmodel as pm
from perfmodel import systems
from perfmodel.cli.main import main
from perfmodel.errors import SpecError
from perfmodel.formulas import get_formula
from perfmodel.formulas.serving_limits import idealised_runtime
from perfmodel.systems import ledger

LEDGER = {entry["id"]: entry for entry in ledger()}
SCENARIOS = [entry for entry in LEDGER.values() if entry["scenario"] is not None]
KEYS = {"id", "n", "system", "capability", "scope", "status", "claim", "source", "value", "unit", "error"}
KEYS |= {"inputs", "formula", "scenario", "result", "model_value", "tolerance", "note", "command"}
KEYS |= {"kind", "baseline", "better"}
each_entry = pytest.mark.parametrize("entry", list(LEDGER.values()), ids=list(LEDGER))
each_scenario = pytest.mark.parametrize("entry", SCENARIOS, ids=[entry["id"] for entry in SCENARIOS])


@each_entry
def test_entry_is_complete(entry: dict) -> None:
    assert entry.keys() == KEYS
    assert entry["formula"] is None or entry["scenario"] is None
    assert (entry["result"] is None) == (entry["scenario"] is None)
    assert (entry["kind"] is None) == (entry["scenario"] is None)
    assert entry["better"] in ("more", "less")
    assert entry["capability"]
    assert entry["scope"] in ("core", "extension")
    assert (entry["error"] is None) == (entry["value"] is None or entry["model_value"] is None)
    assert entry["model_value"] is None or entry["unit"]


@each_entry
def test_status_is_earned(entry: dict) -> None:
    """Checked is one law within the digits printed; predicted is an estimate with its error; the rest say why."""
    status = entry["status"]
    if status == "checked":
        assert entry["formula"] is not None
        assert abs(entry["error"]) < entry["tolerance"]
    elif status.startswith("predicted: "):
        assert entry["error"] is not None
        assert len(status) > 40, "what was assumed"
    else:
        assert "not checkable" in status
        assert len(status) > 40
        assert entry["error"] is None


@pytest.mark.parametrize("entry", [e for e in LEDGER.values() if e["formula"]], ids=lambda entry: entry["id"])
def test_error_is_that_of_the_formula(entry: dict) -> None:
    law = get_formula(entry["formula"]).function
    said = law(**entry["inputs"])
    if entry["baseline"] is not None:
        other = law(**(entry["inputs"] | entry["baseline"]))
        said = said / other if entry["better"] == "more" else other / said
    assert entry["model_value"] == pytest.approx(said, rel=1e-12)
    if entry["value"] is not None:
        assert entry["error"] == pytest.approx((said - entry["value"]) / entry["value"], rel=1e-9, abs=1e-12)


@each_scenario
def test_command_shows_the_model_value(entry: dict, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed command asks the same question as the scenario: same document, same number."""
    words = shlex.split(entry["command"])
    assert words[0] == "perfmodel"
    assert main([*words[1:], *(["--json"] if "--json" not in words else [])]) == 0
    document = json.loads(capsys.readouterr().out)
    if isinstance(document, list):  # a scenario with a cluster of its own has no command line but this list
        (shown,) = (other["model_value"] for other in document if other["id"] == entry["id"])
    else:
        shown = document
        for key in entry["result"].split("."):
            shown = shown[key]
    assert shown == pytest.approx(entry["model_value"], rel=1e-12)
    if entry["value"] is not None:
        assert entry["error"] == pytest.approx(shown / entry["value"] - 1, rel=1e-9)


@each_entry
def test_command_of_a_law_runs(entry: dict, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(entry["command"])
    if words[1] == "explain":
        assert main(words[1:]) == 0
        assert words[2] in capsys.readouterr().out


def test_layouts_use_the_accelerators_they_name() -> None:
    for entry in SCENARIOS:
        if entry["kind"] in ("training", "serving", "speculation"):
            layout = entry["scenario"]["layout"]
            used = layout["tp"] * layout.get("pp", 1) * layout.get("dp", 1)
            assert used == entry["scenario"]["accelerators"]


def test_baseline_changes_what_the_scenario_has() -> None:
    for entry in LEDGER.values():
        if entry["baseline"] is not None:
            asked = entry["scenario"] if entry["scenario"] is not None else entry["inputs"]
            known = asked.keys() | (get_formula(entry["formula"]).symbols if entry["formula"] else {}).keys()
            assert entry["baseline"].keys() <= known
            assert any(asked.get(name) != value for name, value in entry["baseline"].items())


def test_predictions_are_of_the_right_size() -> None:
    """No constant of an AMD part is calibrated: a quarter is what the ledger admits, not what it promises."""
    for id in ("frontier-22b", "frontier-175b", "frontier-1t"):
        assert abs(LEDGER[id]["error"]) < 0.25
    assert abs(LEDGER["frontier-175b-memory"]["error"]) < 0.05
    assert abs(LEDGER["megatron-lm-ptd-p"]["error"]) < 0.05


def test_zero_stages_order_memory_against_messages() -> None:
    memory = [LEDGER[f"zero-memory-{stage}"]["model_value"] for stage in ("baseline", "stage-1", "stage-2", "stage-3")]
    assert memory == sorted(memory, reverse=True)
    moved = {stage: LEDGER[f"zero-communication-stage-{stage}"]["model_value"] for stage in (2, 3)}
    assert moved[3] == 1.5 * moved[2]


def test_pangu_fits_its_parts() -> None:
    assert 0 < LEDGER["pangu-alpha"]["model_value"] < 32e9


def test_predictions_of_serving_are_of_the_right_size() -> None:
    """What the ledger admits: Splitwise within a quarter, DeepSeek on Ascend and H800 too, drafts within a tenth."""
    for id in ("splitwise-aa-iso-power", "splitwise-ha-iso-power", "splitwise-aa-iso-cost", "splitwise-headline-cost"):
        assert abs(LEDGER[id]["error"]) < 0.25
    for id in ("cloudmatrix384-prefill", "cloudmatrix384-decode", "deepseek-service"):
        assert abs(LEDGER[id]["error"]) < 0.25
    assert abs(LEDGER["deepseek-mtp"]["error"]) < 0.1


def test_an_idle_request_is_the_idealised_runtime() -> None:
    """f(prompt) + g * output: the estimate of one request alone is linear in its output to a few percent."""

    def latency_s(output_tokens: int) -> float:
        return pm.estimate_serving(
            "llama-3.1-70b", "dgx-h100", layout={"tp": 4}, prompt_tokens=512, output_tokens=output_tokens,
            concurrency=1, batching="static",
        ).request_latency_s  # fmt: skip

    token_s = (latency_s(129) - latency_s(1)) / 128
    for output_tokens in (257, 513, 1025):
        said = idealised_runtime(latency_s(1), token_s, output_tokens - 1)
        assert latency_s(output_tokens) == pytest.approx(said, rel=0.03)


def test_an_id_stands_in_one_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = 'status = "not checkable: there is nothing to compare it with in this file"\n'
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems.toml").write_text(f"[one]\n{entry}")
    (tmp_path / "systems" / "b.toml").write_text(f"[two]\n{entry}")
    (tmp_path / "systems" / "a.toml").write_text(f"[three]\n{entry}")
    monkeypatch.setattr(systems, "_DATA", tmp_path)
    assert [one["id"] for one in ledger()] == ["one", "three", "two"]
    (tmp_path / "systems" / "b.toml").write_text(f"[one]\n{entry}")
    with pytest.raises(SpecError, match="one: stands in two files"):
        ledger()
    (tmp_path / "systems" / "b.toml").write_text(f'[two]\nkind = "servng"\n{entry}')
    with pytest.raises(SpecError, match="two: unknown kind 'servng'; nearest: 'serving'"):
        ledger()


def test_the_rows_are_there() -> None:
    numbers = {entry["n"] for entry in LEDGER.values()}
    assert numbers >= {3, 80, 99, 142, 182, 237}
    assert numbers >= {33, 63, 115, 125, 165, 168, 254, 259}
    assert numbers >= {19, 39, 56, 156}, "disaggregated serving"
    assert numbers >= {51, 65, 116, 149, 154, 176, 193, 204, 223, 234, 239, 55, 72, 262}, "serving plans"
    assert numbers >= {86, 121, 152, 174}, "speculation"
    assert numbers >= {98, 112, 113, 120, 132, 138, 147, 151, 159, 160, 288, 163, 179}, "caches"
    assert numbers >= {67, 122, 158, 226, 252, 272}, "quantisation"
    test_time = {18, 34, 35, 40, 49, 58, 68, 169, 172, 188, 191, 201, 202, 206, 209, 210, 247, 293}
    test_time |= {88, 131, 167, 184, 200, 207, 211, 218, 219, 221, 282}
    scaling = {46, 217, 242, 21, 53, 70, 195, 222, 225, 230, 232, 236, 240}
    assert numbers >= test_time | scaling
