"""`perfmodel plan experts`, its inputs and mapping files, and `validate --experts`, end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_words import Outcome

from perfmodel.errors import SpecError
from perfmodel.specs.expert_load import generated_load, generated_transitions, load_expert_load

Cli = Callable[..., Outcome]
LOAD = generated_load(3, 8, seed=4)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "load.csv"
    np.savetxt(path, LOAD, delimiter=",", fmt="%d")
    return path


def test_plan_from_flags_and_back_from_its_document(cli: Cli, table: Path, tmp_path: Path) -> None:
    words = ("plan", "experts", "--load", str(table), "--ranks", "4", "--slots", "12")
    first = cli(*words, "--json")
    assert first.code == 0
    document = json.loads(first.out)
    assert document["document"] == "perfmodel/experts-plan/1"
    assert cli(*words, "--json").out == first.out
    file = tmp_path / "plan.json"
    file.write_text(first.out)
    again = json.loads(cli("plan", "experts", "-f", str(file), "--json").out)
    assert again["decision"] == document["decision"]
    moved = json.loads(cli(*words, "--previous", str(file), "--json").out)
    assert moved["decision"]["moved_slots"] == 0


def test_page_and_mapping_files(cli: Cli, table: Path, tmp_path: Path) -> None:
    sglang, vllm = tmp_path / "s.json", tmp_path / "v.json"
    said = cli(
        "plan", "experts", "--load", str(table), "--ranks", "4", "--sglang-map", str(sglang), "--vllm-map", str(vllm)
    )
    assert said.code == 0
    assert "fullest rank" in said.out
    assert "no plan below" in said.out
    assert np.array(json.loads(sglang.read_text())["physical_to_logical_map"]).shape == (3, 8)
    assert json.loads(vllm.read_text())["moe_layer_count"] == 3
    kept = cli("plan", "experts", "--load", str(table), "--ranks", "4", "--previous", str(sglang))
    assert "slots moved" in kept.out


def test_scenario_file_with_relative_paths(cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", load=LOAD, transitions=generated_transitions(3, 8, seed=4))
    (tmp_path / "plan.toml").write_text('load = "both.npz"\nranks = 8\nobjective = "traffic"\n')
    said = cli("plan", "experts", "-f", str(tmp_path / "plan.toml"), "--json")
    assert json.loads(said.out)["certificate"]["optimal"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ranks", "4"), "--load: missing"),
        (("--load", "x.csv"), "--ranks: missing"),
        (("--load", "x.csv", "--ranks", "4"), "x.csv: cannot be read"),
        (("--load", "x.parquet", "--ranks", "4"), "must end in .csv"),
        (("--load", "x.pt", "--ranks", "4"), "numpy.savez"),
        (("--load", "x.csv", "--ranks", "4", "--objective", "balanse"), "nearest: 'balance'"),
        (("--load", "x.csv", "--rank", "4"), "nearest: '--ranks'"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, words: tuple[str, ...], said: str) -> None:
    outcome = cli("plan", "experts", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.out == ""


def test_every_kind_of_file_holds_the_same_load(tmp_path: Path, table: Path) -> None:
    np.savez(tmp_path / "a.npz", load=LOAD)
    np.save(tmp_path / "a.npy", LOAD)
    np.savez(tmp_path / "steps.npz", logical_count=np.stack([LOAD * 0.25, LOAD * 0.75]))
    (tmp_path / "a.json").write_text(json.dumps(LOAD.tolist()))
    (tmp_path / "dump.json").write_text(json.dumps([{"expert_load": LOAD.tolist()}]))
    (tmp_path / "vllm.json").write_text(json.dumps({"expert_load": LOAD.tolist()}))
    rows = [f"{layer},{expert},{LOAD[layer, expert]}" for layer in range(3) for expert in range(8)]
    (tmp_path / "long.csv").write_text("layer,expert,tokens\n" + "\n".join(reversed(rows)))
    for path in (table, *sorted(tmp_path.glob("a.*")), *sorted(tmp_path.glob("*.json")), tmp_path / "long.csv",
                 tmp_path / "steps.npz"):  # fmt: skip
        np.testing.assert_allclose(load_expert_load(path)["load"], LOAD, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "1,2\n3", "lines differ in length"),
        ("a.csv", "1,nan", "must be a number from 0"),
        ("a.csv", "a,b", "could not convert"),
        ("a.csv", "", "is empty"),
        ("a.csv", "layer,expert,tokens\n0,0,1\n0,0,1", "given twice"),
        ("a.csv", "layer,expert,tokens\n0,1,1", "missing"),
        ("a.csv", "layer,tokens\n0,1", "columns must be"),
        ("a.json", "{", "cannot be read"),
        ("a.json", '{"loads": [[1]]}', "unknown array 'loads'; nearest: 'load'"),
        ("a.json", "3", "must hold an array"),
        ("a.npz", "x", "cannot be read"),
        ("a.json", '{"load": [[1, 2]], "transitions": [[1]]}', "transitions: must have shape"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=said):
        load_expert_load(tmp_path / name)


def test_generator_has_the_published_spread() -> None:
    """TensorRT-LLM blog 4, Table 1: slots 128 +- 164 copies (1.28 of the mean), the fullest 10.9 over it."""
    load = generated_load(58, 256, tokens=4096, seed=1)
    spread = (load.std(axis=1) / load.mean(axis=1)).mean()
    assert spread == pytest.approx(1.28, rel=0.15)
    assert load.sum(axis=1) == pytest.approx(np.full(58, 32768.0))


def test_validate_experts(cli: Cli) -> None:
    assert cli("validate", "--experts").code == 0
    report = json.loads(cli("validate", "--experts", "--json").out)
    assert report["over_tolerance"] == []
    assert cli("validate", "--experts", "--kernels").code == 2
