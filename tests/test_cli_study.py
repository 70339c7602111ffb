"""`perfmodel compare`, `cite` and `sweep` as a person and a script meet them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_words import ESTIMATE, FLAGS, LAYOUT, PLAN, SCENARIO

import perfmodel as pm

GRID = """
[scenario]
cluster = "dgx-h100"
accelerators = 64
global_batch = 128
seq_len = 4096
[axes]
model = ["llama-3.1-8b", "llama-3.1-70b"]
dp = 8
tp = [2, 3, 8]
"""


@pytest.fixture
def grid(tmp_path: Path) -> str:
    (tmp_path / "grid.toml").write_text(GRID)
    return str(tmp_path / "grid.toml")


@pytest.fixture
def documents(cli: Any, tmp_path: Path) -> tuple[str, str]:
    a, b = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    assert cli(*ESTIMATE, *FLAGS, *LAYOUT, "-o", a).code == 0
    assert cli(*ESTIMATE, "-f", a, "--tp", "4", "--dp", "16", "-o", b).code == 0
    return a, b


def test_compare_two_documents(cli: Any, documents: tuple[str, str], tmp_path: Path) -> None:
    code, out, err = cli("compare", *documents, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert [change["key"] for change in document["changes"]] == ["tp", "dp"]
    code, out, err = cli("compare", *documents)
    assert (code, err) == (0, "")
    assert "Term by term" in out
    assert "tensor parallel" in out
    scenario = tmp_path / "scenario.json"
    scenario.write_text(json.dumps(SCENARIO | {"layout": {"tp": 4, "dp": 16}}))
    again = json.loads(cli("compare", documents[0], str(scenario), "--json").out)
    assert again == document
    plan = tmp_path / "plan.json"
    assert cli(*PLAN, *FLAGS, "-o", str(plan)).code == 0
    assert cli("compare", documents[0], str(plan)).code == 0
    assert "the same question" in cli("compare", documents[0], documents[0]).out


def test_a_scenario_that_the_library_wrote_is_a_file_of_the_command(cli: Any, tmp_path: Path) -> None:
    scenario = pm.load_scenario(SCENARIO | {"tp": 2, "dp": 32})
    file = tmp_path / "scenario.json"
    file.write_text(scenario.to_json())
    assert cli(*ESTIMATE, "-f", str(file), "--json") == (0, f"{scenario.run().to_json()}\n", "")
    # And the other way round: the document of the command is a scenario of the library, byte for byte.
    document = tmp_path / "estimate.json"
    assert cli(*ESTIMATE, "-f", str(file), "-o", str(document)).code == 0
    assert f"{pm.load_scenario(document).run().to_json()}\n" == document.read_text()


def test_cite_a_document(cli: Any, documents: tuple[str, str], tmp_path: Path) -> None:
    code, out, err = cli("cite", documents[0])
    assert (code, err) == (0, "")
    assert out.startswith("@software{perfmodel,")
    assert cli("cite", documents[0], "-o", str(tmp_path / "refs.bib")) == (0, "", "")
    assert (tmp_path / "refs.bib").read_text() == out


def test_sweep_to_every_format(cli: Any, grid: str, tmp_path: Path) -> None:
    code, out, err = cli("sweep", grid, "--workers", "1", "--json")
    assert code == 0
    assert err == "perfmodel: 2 of 6 rows could not be answered; column error says why\n"
    document = json.loads(out)
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert document["keys"] == ["model", "dp", "tp"]
    assert all(list(row) == document["columns"] for row in document["rows"])
    code, page, _ = cli("sweep", grid, "--workers", "1")
    assert code == 0
    assert "estimate training, 6 scenarios" in page
    assert "must divide n_heads 32 (got 3)" in page
    assert cli("sweep", grid, "--workers", "1", "-o", str(tmp_path / "x.csv")).code == 0
    with (tmp_path / "x.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == document["columns"]
    for name in ("step_time_s", "cost_usd_per_step"):  # to the last digit
        times = [row[name] for row in document["rows"]]
        assert [float(row[name]) if row[name] else None for row in written] == times
    assert written[0]["n_microbatches"] == str(document["rows"][0]["n_microbatches"])
    # The document is a grid again.
    (tmp_path / "x.json").write_text(out)
    assert cli("sweep", str(tmp_path / "x.json"), "--workers", "2", "--json").out == out
    assert [path.name for path in tmp_path.iterdir() if "journal" in path.name] == []


def test_a_page_keeps_its_keys_whole(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text("""
        question = "plan serving"
        [scenario]
        model = "llama-3.1-8b"
        [axes]
        cluster = ["dgx-h100", "dgx-h200"]
        traffic = [{label = "chat", prompt_tokens = 512, output_tokens = 128, arrival_rate_per_s = 5.0}]
    """)
    code, page, _ = cli("sweep", str(tmp_path / "grid.toml"), "--workers", "1")
    assert code == 0
    assert "dgx-h100" in page
    assert "aggregated" in page
    assert "prompt_tokens" not in page


def test_parquet_needs_its_extra(cli: Any, grid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, out, err = cli("sweep", grid, "-o", str(tmp_path / "x.parquet"))
    assert (code, out) == (3, "")
    assert "needs the extra parquet: pip install 'perfmodel[parquet]'" in err


def test_parquet(cli: Any, grid: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    assert cli("sweep", grid, "--workers", "1", "-o", str(tmp_path / "x.parquet")).code == 0
    parquet = pd.read_parquet(tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(
        parquet,
        pm.sweep(
            {"model": ["llama-3.1-8b", "llama-3.1-70b"], "dp": 8, "tp": [2, 3, 8]},
            base={"cluster": "dgx-h100", "accelerators": 64, "global_batch": 128, "seq_len": 4096},
        ),
        check_exact=True,
    )


def test_dask_needs_its_extra(cli: Any, grid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, out, err = cli("sweep", grid, "--dask", "tcp://127.0.0.1:1")
    assert (code, out) == (3, "")
    assert "pip install 'perfmodel[dask]'" in err


def test_nothing_answered_is_one(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID.replace("[2, 3, 8]", "3"))
    code, out, _ = cli("sweep", str(tmp_path / "grid.toml"), "--workers", "1", "--json")
    assert code == 1
    assert len(json.loads(out)["rows"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "0"], "--workers: must be a whole number >= 1 (got 0)"),
        (["--resume"], "--resume: goes with -o FILE"),
        (["-o", "x.xlsx"], "-o x.xlsx: must end in .csv, .parquet, .json"),
        (["-o", "x.csv", "--json"], "--json writes *.json"),
        (["-o", "missing/x.csv"], "no such folder"),
        (["--dask", "tcp://127.0.0.1:1", "--workers", "2"], "--workers, --dask: give one of them"),
    ],
)
def test_bad_sweeps_are_told_why(cli: Any, grid: str, words: list[str], said: str) -> None:
    code, out, err = cli("sweep", grid, *words)
    assert (code, out) == (2, "")
    assert said in err


def test_bad_files_are_told_why(cli: Any, tmp_path: Path, documents: tuple[str, str]) -> None:
    (tmp_path / "grid.toml").write_text("[axes]\ntp = [1")
    for words, said in (
        (["sweep", str(tmp_path / "grid.toml")], "not valid TOML"),
        (["sweep", str(tmp_path / "none.toml")], "cannot be read"),
        (["compare", documents[0], str(tmp_path / "none.json")], "cannot be read"),
        (["cite", str(tmp_path / "grid.toml")], "not valid TOML"),
    ):
        code, out, err = cli(*words)
        assert (code, out) == (2, "")
        assert said in err
        assert err.count("\n") == 1
