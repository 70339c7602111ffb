"""`perfmodel plan power` and `validate --power` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROW = ["plan", "power", "--servers", "40", "--server", "dgx-a100-80gb", "--provisioned-w", "260e3"]
POLICY = ["--thresholds", "0.8,0.89", "--frequencies-hz", "low=1275e6/1110e6,high=1305e6", "--priorities",
          "low=0.5,high=0.5", "--latencies-s", "frequency=40,brake=5"]  # fmt: skip
LOAD = ["--peak", "0.79", "--rise", "0.118"]
TOML = """
[row]
servers = 40
server = "dgx-a100-80gb"
provisioned_w = 260e3
[policy]
thresholds = [0.8, 0.89]
frequencies_hz = { low = [1275e6, 1110e6], high = [1305e6] }
priorities = { low = 0.5, high = 0.5 }
[load]
peak = 0.79
rise = 0.118
[limits]
brakes_per_year = 1.0
high = { p50 = 0.01 }
"""


def test_flags_file_and_document_say_the_same(cli: Any, tmp_path: Path) -> None:
    code, out, err = cli(*ROW, *POLICY, *LOAD, "--brakes-per-year", "1", "--p50", "high=0.01", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert plan["decision"]["added_servers_fraction"] == 0.3
    file = tmp_path / "row.toml"
    file.write_text(TOML, encoding="utf-8")
    assert cli("plan", "power", "-f", str(file), "--json").out == out
    earlier = tmp_path / "plan.json"
    earlier.write_text(out, encoding="utf-8")
    assert cli("plan", "power", "-f", str(earlier), "--json").out == out
    changed = json.loads(cli("plan", "power", "-f", str(file), "--brakes-per-year", "100", "--json").out)
    assert changed["decision"]["added_servers"] > plan["decision"]["added_servers"]


def test_page(cli: Any) -> None:
    code, out, _ = cli(*ROW, *POLICY, *LOAD)
    assert code == 0
    assert "12 more servers (+30.0 %)" in out
    assert "1275 MHz" in out
    assert "26.6 %" in out


def test_plot(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "row.png"
    code, _, err = cli(*ROW, *POLICY, *LOAD, "--plot", str(file))
    assert code == 0
    assert str(file) in err
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_history_from_a_file(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    file.write_text("s,fraction\n" + "".join(f"{t * 10},{0.6 + 0.1 * (t % 7) / 7:.3f}\n" for t in range(500)))
    code, out, _ = cli(*ROW, *POLICY, "--history", str(file), "--json")
    assert code == 0
    assert json.loads(out)["request"]["load"]["samples"] == 500
    file.write_text("0,0.5\nten,0.5\n")
    code, out, err = cli(*ROW, *POLICY, "--history", str(file))
    assert (code, out) == (2, "")
    assert "history.csv:2: must be seconds,fraction" in err


def test_training_is_not_feasible(cli: Any) -> None:
    code, out, _ = cli(*ROW, *POLICY, "--kind", "training", "--peak", "0.97", "--rise", "0.375", "--json")
    assert code == 1
    assert json.loads(out)["infeasible_because"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*ROW, *POLICY], "--history: missing"),
        ([*ROW[:2], *POLICY, *LOAD], "row.servers: missing"),
        ([*ROW, *LOAD], "policy.priorities: missing"),
        ([*ROW, *LOAD, "--priorities", "0.5"], "--priorities: must be NAME=X"),
        ([*ROW, *LOAD, *POLICY, "--thresholds", "a,b"], "--thresholds: must be numbers"),
        ([*ROW, *LOAD, *POLICY, "--peek", "1"], "nearest: '--peak'"),
        ([*ROW, *LOAD, *POLICY, "--history", "no/such.csv"], "no/such.csv: cannot be read"),
        (["plan", "power", "-f", "no/such.toml"], "no/such.toml: cannot be read"),
        (["validate", "--power", "--serving"], "give one of them"),
        (["validate", "--power", "--record"], "--record: goes without --power"),
    ],
)
def test_bad_input(cli: Any, words: list[str], said: str) -> None:
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.heavy
def test_validate_power(cli: Any) -> None:
    code, out, _ = cli("validate", "--power")
    assert code == 0
    assert "share without a brake" in out
    assert "+30 %" in out
