"""`perfmodel plan clocks|pools|pool-clocks|rows` on the command line."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import perfmodel as pm
from perfmodel.cli import options, pool_options
from perfmodel.predict.training_task import training_task

MACHINES = """machine,prompt_requests_per_s,token_requests_per_s,watts,usd_per_hour
a100,1.5,1.1,5200,16
h100,3.4,1.9,9100,33
"""
POOLS = "pool,arrival_rate_per_s\nshort,11\nlong,2.5\n"
OPTIONS = """option,pool,requests_per_s,watts,accelerators
1.2 GHz,short,3.0,1500,2
1.98 GHz,short,4.0,2600,2
1.98 GHz,long,1.5,2800,4
"""
LOADS = "load,watts,heat_w\ntrain-a,60e3,\ntrain-b,45e3,\nserve-a,45e3,20e3\nserve-b,30e3,\n"
ROWS = "row,power_w,cooling_w\nnorth,120e3,110e3\nsouth,100e3,\n"
FILES = {"machines": MACHINES, "pools": POOLS, "options": OPTIONS, "loads": LOADS, "rows": ROWS}
WORDS = {
    "pools": ["--machines", "machines.csv", "--watts", "364e3"],
    "pool-clocks": ["--pools", "pools.csv", "--options", "options.csv", "--accelerators", "24"],
    "rows": ["--loads", "loads.csv", "--rows", "rows.csv"],
    "clocks": ["--model", "llama-3.1-8b", "--cluster", "dgx-h100", "--accelerators", "16", "--global-batch", "64",
               "--seq-len", "2048", "--pp", "4", "--dp", "4", "--slack", "0.05", "--tokens", "1e10"],
}  # fmt: skip
TOML = {
    "pools": 'machines = "machines.csv"\nwatts = 364e3\n',
    "pool-clocks": 'pools = "pools.csv"\noptions = "options.csv"\naccelerators = 24\n',
    "rows": 'rows = "rows.csv"\nloads = "loads.csv"\n',
    "clocks": 'model = "llama-3.1-8b"\ncluster = "dgx-h100"\naccelerators = 16\nglobal_batch = 64\nseq_len = 2048\n'
              "slack = 0.05\ntokens = 1e10\n[layout]\npp = 4\ndp = 4\n",
}  # fmt: skip
SAID = {
    "pools": ("for prompts", "times the best budget", "proved best"),
    "pool-clocks": ("of 24 accelerators", "1.2 GHz", "proved best"),
    "rows": ("the fullest takes 87.5 % of its power", "train-a", "proved best"),
    "clocks": ("of the energy saved", "MHz", "power set: h100-sxm", "run of 10 billion tokens"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(f"{name}.csv").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("command", WORDS)
def test_flags_file_and_document_say_the_same(cli: Any, command: str) -> None:
    code, out, err = cli("plan", command, *WORDS[command], "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert document["document"] == f"perfmodel/{command}-plan/1"
    for name, text in (("given.toml", TOML[command]), ("earlier.json", out)):
        Path("elsewhere").mkdir(exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
        assert cli("plan", command, "-f", name, "--json") == (0, out, "")
    assert cli("plan", command, *WORDS[command], "-o", "whole.json") == (0, "", "")
    assert Path("whole.json").read_text(encoding="utf-8") == out


@pytest.mark.parametrize("command", WORDS)
def test_pages(cli: Any, command: str) -> None:
    code, out, err = cli("plan", command, *WORDS[command])
    assert (code, err) == (0, "")
    assert all(part in " ".join(out.split()) for part in SAID[command])


@pytest.mark.parametrize("command", WORDS)
def test_help_names_every_option(cli: Any, command: str) -> None:
    offered = {
        "clocks": options.PLAN_CLOCKS,
        "pools": pool_options.PLAN_POOLS,
        "pool-clocks": pool_options.PLAN_POOL_CLOCKS,
        "rows": pool_options.PLAN_ROWS,
    }
    code, out, err = cli("plan", command, "--help")
    assert (code, err) == (0, "")
    assert all(option.flag in out for option in offered[command])


def test_flags_stand_over_a_file(cli: Any) -> None:
    Path("given.toml").write_text(TOML["pools"], encoding="utf-8")
    more = json.loads(cli("plan", "pools", "-f", "given.toml", "--watts", "728e3", "--json").out)
    less = json.loads(cli("plan", "pools", "-f", "given.toml", "--json").out)
    assert more["prediction"]["requests_per_s"] >= 2 * less["prediction"]["requests_per_s"]


def test_a_training_plan_gets_clocks(cli: Any) -> None:
    asked = [word for word in WORDS["clocks"] if word not in ("--pp", "4", "--dp", "--slack", "0.05")]
    assert cli("plan", "training", *asked, "-o", "plan.json").code == 0
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    clocks = json.loads(cli("plan", "clocks", "-f", "plan.json", "--json").out)
    assert clocks["step_time_before_s"] == plan["prediction"]["step_time_s"]
    assert clocks["energy_before_j_per_step"] == plan["prediction"]["energy_j_per_step"]
    assert cli("estimate", "training", "-f", "plan.json").code == 0


def test_rates_are_predicted_where_a_model_is_named(cli: Any) -> None:
    model = ["--model", "llama-3.1-8b", "--ttft-s", "1", "--tpot-s", "0.05"]
    words = ["--cluster", "dgx-a100-80gb,dgx-h100", "--prompt-tokens", "512", "--output-tokens", "128", "--tp", "1"]
    code, out, _ = cli("plan", "pools", *model, *words, "--usd-per-hour", "500", "--json")
    assert code == 0
    assert {one["machine"] for one in json.loads(out)["machines"]} == {"dgx-a100-80gb", "dgx-h100"}
    Path("asked.csv").write_text("pool,arrival_rate_per_s,prompt_tokens,output_tokens\nchat,30,512,128\n")
    words = ["--pools", "asked.csv", "--accelerators", "16", "--cluster", "dgx-h100", "--degrees", "1,2"]
    code, out, _ = cli("plan", "pool-clocks", *model, *words, "--clocks-hz", "990e6,1980e6")
    assert code == 0
    assert "clocks save" in out


def test_nothing_feasible_is_a_document_all_the_same(cli: Any) -> None:
    for words in (
        ["pools", "--machines", "machines.csv", "--watts", "1000"],
        ["pool-clocks", "--pools", "pools.csv", "--options", "options.csv", "--accelerators", "3"],
        ["rows", "--loads", "loads.csv", "--rows", "tight.csv"],
    ):
        Path("tight.csv").write_text("row,power_w\nnorth,90e3\nsouth,80e3\n", encoding="utf-8")
        code, out, err = cli("plan", *words, "--json")
        assert (code, err) == (1, "")
        document = json.loads(out)
        assert not document["feasible"]
        assert cli("plan", *words).code == 1
        assert document["infeasible_because"][0] in " ".join(cli("plan", *words).out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pools"], "watts, usd_per_hour: give at least one budget"),
        (["pools", "--watts", "1e5"], "model: missing; give it, or a table of machines"),
        (["pools", *WORDS["pools"], "--model", "llama-3.1-8b"], "machines, model: rates are given or predicted"),
        (["pools", *WORDS["pools"], "--watts", "nan"], "--watts: must be a number > 0 (got nan)"),
        (["pools", *WORDS["pools"], "--wats", "1"], "unknown option '--wats'; nearest: '--watts'"),
        (["pools", "--machines", "rows.csv", "--watts", "1e5"], "machines: row 1: unknown column 'row'"),
        (["pools", "--machines", "no/such.csv", "--watts", "1e5"], "no/such.csv: cannot be read"),
        (["pools", "-f", "loads.csv"], "loads.csv:1: not valid TOML"),
        (["pool-clocks", "--pools", "pools.csv"], "--accelerators: missing"),
        (
            ["pool-clocks", "--accelerators", "8"],
            "--pools: missing; give it as an option, or as the key pools of a file",
        ),
        (["pool-clocks", *WORDS["pool-clocks"], "--options", "rows.csv"], "options: row 1: unknown pool ''"),
        (["pool-clocks", *WORDS["pool-clocks"], "--degrees", "two"], "--degrees: must be a whole number >= 1"),
        (["rows", "--loads", "loads.csv"], "--rows: missing"),
        (["rows", *WORDS["rows"], "--time-limit-s", "0"], "--time-limit-s: must be a number > 0 (got 0)"),
        (["rows", *WORDS["rows"], "--loads", "bad.csv"], "loads: row 2 (b): watts: must be a number > 0 (got 'ten')"),
        (["clocks", *WORDS["clocks"], "--slack", "-1"], "--slack: must be a number from 0 to below 10 (got -1)"),
        (["clocks", *WORDS["clocks"], "--pp", "8"], "32 accelerators"),
        (["clocks"], "--model: missing"),
        (["clock"], "unknown command 'plan clock'; nearest: 'plan clocks'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(cli: Any, words: list[str], said: str) -> None:
    Path("bad.csv").write_text("load,watts\na,1\nb,ten\n", encoding="utf-8")
    code, out, err = cli("plan", *words, "-o", "never.json")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not list(Path().glob("*never*"))


def test_wrong_keys_of_a_file_are_named(cli: Any) -> None:
    for name, text, said in (
        ("key.toml", "wats = 1e5\n", "key.toml: unknown key 'wats'; nearest: 'watts'"),
        ("kind.toml", 'watts = "many"\n', "kind.toml: watts: must be a number > 0 (got 'many')"),
        ("other.json", '{"document": "perfmodel/rows-plan/1"}', "other.json: unknown document"),
        ("rows.toml", "machines = [[1, 2]]\nwatts = 1.0\n", "machines: row 1: must be a table"),
    ):
        Path(name).write_text(text, encoding="utf-8")
        code, out, err = cli("plan", "pools", "-f", name)
        assert (code, out) == (2, "")
        assert said in err


def test_options_are_the_keywords_of_the_library() -> None:
    for planner, offered in (
        (pm.plan_pools, pool_options.PLAN_POOLS),
        (pm.plan_clocks_of_pools, pool_options.PLAN_POOL_CLOCKS),
        (pm.plan_rows, pool_options.PLAN_ROWS),
    ):
        assert {option.name for option in offered} == inspect.signature(planner).parameters.keys()
    keywords = {*inspect.signature(training_task).parameters, *inspect.signature(pm.plan_clocks).parameters}
    offered = {option.name for option in options.PLAN_CLOCKS} - {option.name for option in options.LAYOUT}
    assert offered == keywords - {"asked", "layout"} | {"accelerators"}
