"""`perfmodel export` and `perfmodel import` as a person and a script meet them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_words import ESTIMATE, EXPORT, FLAGS, IMPORT, LAYOUT, PLAN, READ_BACK, SERVED, TOOLS

from perfmodel import launch
from perfmodel.cli.parser import build_parser
from perfmodel.cli.words import EXPORT_TOOLS, IMPORT_TOOLS

ENGINES, TRAINERS, SKELETONS = TOOLS[:3], TOOLS[3:7], TOOLS[7:]
ESTIMATE_SERVING = ["estimate", "serving", *SERVED.split()]


@pytest.fixture
def documents(cli: Any, tmp_path: Path) -> dict[str, Path]:
    files = {"plan": tmp_path / "plan.json", "step": tmp_path / "step.json", "served": tmp_path / "served.json"}
    assert cli(*PLAN, *FLAGS, "-o", str(files["plan"])).code == 0
    assert cli(*ESTIMATE, *FLAGS, *LAYOUT, "--zero-stage", "3", "-o", str(files["step"])).code == 0
    assert cli(*ESTIMATE_SERVING, "-o", str(files["served"])).code == 0
    return files


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_the_words_are_those_of_the_library() -> None:
    assert EXPORT_TOOLS == launch.EXPORTS == TOOLS
    assert IMPORT_TOOLS == launch.IMPORTS == READ_BACK


def test_every_tool_of_a_kind_takes_a_plan_of_its_kind(cli: Any, documents: dict[str, Path]) -> None:
    for name, tools in (("plan", TRAINERS), ("step", TRAINERS), ("served", ENGINES)):
        for tool in (*tools, *SKELETONS):
            code, out, err = cli(*EXPORT, str(documents[name]), "--to", tool)
            assert code == 0, (name, tool, err)
            assert out.endswith("\n")
            assert all(line.startswith("perfmodel: note: ") for line in err.splitlines())
            assert out == cli(*EXPORT, str(documents[name]), "--to", tool).out


def test_a_plan_goes_out_and_its_estimate_comes_back(
    cli: Any, documents: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, scenario = tmp_path / "train.sh", tmp_path / "scenario.toml"
    for tool in ("megatron", "torchtitan"):
        assert cli(*EXPORT, str(documents["plan"]), "--to", tool, "-o", str(script)).out == ""
        code, out, err = cli(*IMPORT, str(script), "--from", tool, "-o", str(scenario))
        assert (code, out) == (0, "")
        assert all("ignored, they change no prediction" in line for line in err.splitlines())
        again = json.loads(cli(*ESTIMATE, "-f", str(scenario), "--json").out)
        wanted = json.loads(documents["plan"].read_text())["prediction"]
        for key in ("step_time_s", "memory_bytes", "energy_j_per_step"):
            assert again[key] == wanted[key]
    # The same over pipes, as JSON.
    feed(monkeypatch, documents["plan"].read_text())
    text = cli(*EXPORT, "-", "--to", "megatron").out
    feed(monkeypatch, text)
    as_json = cli(*IMPORT, "-", "--from", "megatron", "--json")
    assert as_json.code == 0
    feed(monkeypatch, as_json.out)
    assert json.loads(cli(*ESTIMATE, "-f", "-", "--json").out)["step_time_s"] == wanted["step_time_s"]


@pytest.mark.parametrize("tool", ["vllm", "sglang"])
def test_a_server_goes_out_and_its_estimate_comes_back(
    cli: Any, documents: dict[str, Path], tmp_path: Path, tool: str
) -> None:
    assert cli(*ESTIMATE_SERVING, "--software", f"{tool}-2025", "-o", str(documents["served"])).code == 0
    assert cli(*EXPORT, str(documents["served"]), "--to", tool, "-o", str(tmp_path / "serve.sh")) == (0, "", "")
    code, out, err = cli(*IMPORT, str(tmp_path / "serve.sh"), "--from", tool)
    assert code == 0
    assert err.endswith("ignored, they change no prediction: --port 8000\n")
    (tmp_path / "scenario.toml").write_text(out)
    again = cli("estimate", "serving", "-f", str(tmp_path / "scenario.toml"), "--json")
    assert again == (0, documents["served"].read_text(), "")


def test_what_one_runs_today_becomes_an_estimate(cli: Any, tmp_path: Path) -> None:
    script = tmp_path / "serve.sh"
    script.write_text("vllm serve meta-llama/Llama-3.1-8B-Instruct -tp 2 --max-num-seqs 32 --host 0.0.0.0 --seed 1\n")
    code, out, err = cli(*IMPORT, str(script), "--from", "vllm")
    assert code == 0
    assert f"note: {script}: ignored, they change no prediction: --host 0.0.0.0, --seed 1" in err
    assert "add it as --cluster" in err
    (tmp_path / "scenario.toml").write_text(out)
    words = ["--cluster", "dgx-h100", "--prompt-tokens", "1000", "--output-tokens", "200", "--json"]
    document = json.loads(cli("estimate", "serving", "-f", str(tmp_path / "scenario.toml"), *words).out)
    assert (document["request"]["model"], document["request"]["concurrency"]) == ("llama-3.1-8b", 32)


def test_bad_words_are_one_line(cli: Any, documents: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "serve.sh").write_text("vllm serve m --tensor-paralel-size 2\n")
    (tmp_path / "broken.json").write_text("{")
    plan, step = str(documents["plan"]), str(documents["step"])
    for words, said in (
        ((*EXPORT, plan), "export: missing --to"),
        ((*EXPORT, plan, "--to", "vlm"), "export: unknown tool 'vlm'; nearest: 'vllm'"),
        ((*EXPORT, plan, "--to", "megatron", "--version", "9"), "megatron: unknown version '9'"),
        ((*EXPORT, step, "--to", "vllm"), "plans training; vllm serves"),
        ((*EXPORT, "missing.json", "--to", "vllm"), "missing.json: cannot be read"),
        ((*EXPORT, str(tmp_path / "broken.json"), "--to", "vllm"), "not valid JSON"),
        ((*IMPORT, str(tmp_path / "serve.sh"), "--from", "vllm"), "nearest: '--tensor-parallel-size'"),
        ((*IMPORT, str(tmp_path / "serve.sh"), "--from", "slurm"), "import: unknown tool 'slurm'"),
        ((*IMPORT, str(tmp_path / "serve.sh"), "--from", "vllm", "--role", "x"), "import: unknown role 'x'"),
        (
            (*IMPORT, str(tmp_path / "serve.sh"), "--from", "megatron", "--role", "decode"),
            "--role: goes with an engine",
        ),
    ):
        code, out, err = cli(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), words
        assert said in err


def test_nothing_that_does_not_fit_is_exported(cli: Any, tmp_path: Path) -> None:
    full, out = tmp_path / "full.json", tmp_path / "serve.sh"
    assert cli(*ESTIMATE_SERVING, "--concurrency", "4000", "-o", str(full)).code == 0
    code, _, err = cli(*EXPORT, str(full), "--to", "vllm", "-o", str(out))
    assert code == 2
    assert "max_batch 2000 does not fit" in err
    assert not out.exists()


def test_tools_and_versions_complete() -> None:
    subcommands = next(action for action in build_parser()._actions if action.choices and "export" in action.choices)
    export = subcommands.choices["export"]  # type: ignore[index]
    actions = {option: action for action in export._actions for option in action.option_strings}
    assert actions["--to"].choices == TOOLS
    chosen = type("Namespace", (), {"to": "vllm"})()
    assert list(actions["--version"].completer(parsed_args=chosen)) == ["0.10.0", "0.11.1"]
    assert list(actions["--version"].completer()) == []
