"""The shelf on the command line: lists, descriptions, formulas, schemas, completion, and numbers for people."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import perfmodel as pm
from perfmodel.cli import format as fmt
from perfmodel.cli import words


@pytest.mark.parametrize("kind", words.LISTS)
def test_lists(cli: Any, kind: str) -> None:
    code, out, err = cli("list", kind, "--json")
    entries = json.loads(out)
    assert (code, err) == (0, "")
    assert isinstance(entries, list)
    assert all(next(iter(entry)) == "id" for entry in entries)
    assert len({entry["id"] for entry in entries}) == len(entries)
    page = cli("list", kind).out
    assert all(entry["id"] in page for entry in entries)


@pytest.mark.parametrize(
    "id", ["llama-2-70b", "h100-sxm", "dgx-h100", "tpu-v5p-pod", "grace", "megatron-2021", "ring_all_reduce_time"]
)
def test_show(cli: Any, id: str) -> None:
    document = json.loads(cli("show", id, "--json").out)
    assert next(iter(document)) == "id"
    code, page, err = cli("show", id)
    assert (code, err) == (0, "")
    assert id in page
    assert "Sources" in page or "Source\n" in page or "source.url" in page


def test_lists_show_hosts_tori_and_experts(cli: Any) -> None:
    hardware = {entry["id"]: entry for entry in json.loads(cli("list", "hardware", "--json").out)}
    assert hardware["grace"]["kind"] == "host"
    assert hardware["gb200-nvl72"]["host"] == "grace"
    assert hardware["tpu-v5p-pod"]["tiers"][0]["torus_shape"] == [16, 20, 28]
    assert "16 x 20 x 28" in cli("list", "hardware").out
    models = {entry["id"]: entry for entry in json.loads(cli("list", "models", "--json").out)}
    assert models["deepseek-v3"]["layers"] == {"latent + dense": 3, "latent + experts": 58}
    assert models["deepseek-v3"]["experts"] == {"n_experts": 256, "experts_per_token": 8, "n_shared": 1}
    assert models["llama-2-70b"]["n_active_params"] == models["llama-2-70b"]["n_params"]
    shown = json.loads(cli("show", "mixtral-8x7b", "--json").out)
    assert shown["n_active_params"] == pm.load_model("mixtral-8x7b").n_active_params < shown["n_params"]
    assert shown["layers"] == {"attention + experts": 32}


def test_explain(cli: Any) -> None:
    document = json.loads(cli("explain", "model_state_bytes_per_rank", "--json").out)
    assert [symbol["name"] for symbol in document["symbols"]][:2] == ["n_params", "weight_shards"]
    assert document["returns"]["unit"] == "B"
    assert all(abs(check["relative_error"]) <= check["rel"] for check in document["published"])
    latex = cli("explain", "model_state_bytes_per_rank", "--latex").out
    assert latex == document["latex"] + "\n"
    assert r"\Psi" in latex
    page = cli("explain", "model_state_bytes_per_rank").out
    for part in ("Equation", "Symbols", "Valid for", "Source", "Published checks", "[B]"):
        assert part in page


@pytest.mark.parametrize("name", words.SCHEMAS)
def test_schemas(cli: Any, name: str) -> None:
    code, out, err = cli("schema", name)
    assert (code, err) == (0, "")
    assert json.loads(out)["properties"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 s"),
        (9.999e-7, "1.00 µs"),
        (0.9996, "1.00 s"),
        (59.99, "60.0 s"),
        (4.7e6, "54.4 days"),
        (2.0, "2.00 s"),
    ],
)
def test_seconds_for_people(value: float, text: str) -> None:
    assert fmt.seconds(value) == text


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (fmt.bytes_(61.23e9), "61.2 GB"),
        (fmt.flop_rate(989.4e12), "989 TFLOP/s"),
        (fmt.energy(4.1e13), "11.4 GWh"),
        (fmt.usd(47.3e6), "$47.3 million"),
        (fmt.usd(0.0123), "$0.012"),
        (fmt.count(310e9), "310 billion"),
        (fmt.count(16384), "16,384"),
        (fmt.percent(-0.0312, signed=True), "-3.1 %"),
        (fmt.quantity("usd_per_hour", 3.24), "$3.24 per hour"),
        (fmt.quantity("memory_bytes", 8e10), "80.0 GB"),
        (fmt.quantity("n_params", 70.6e9), "70.6 billion"),
    ],
)
def test_numbers_for_people(shown: str, text: str) -> None:
    assert shown == text


@pytest.mark.skipif(os.name != "posix", reason="completion of a POSIX shell")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("perfmodel pl", "plan plot"),
        ("perfmodel plan training --model llama-3.1-4", "llama-3.1-405b"),
        ("perfmodel plan training --cluster dgx-h", "dgx-h100 dgx-h200 dgx-h800"),
        ("perfmodel plan training --cluster tpu-v5p", "tpu-v5p-pod"),
        ("perfmodel estimate m", "memory"),
        ("perfmodel estimate training --recompute-mod", "--recompute-modules"),
        ("perfmodel estimate training --recompute-modules mlp,mo", "mlp,moe mlp,moe_act"),
        ("perfmodel estimate training --offload activations", "activations="),
        ("perfmodel estimate memory --packing pac", "packed"),
        ("perfmodel estimate collective --algorithm hal", "halving_doubling"),
        ("perfmodel show grac", "grace"),
        ("perfmodel plan training --objective co", "cost"),
        ("perfmodel explain ring_all_r", "ring_all_reduce_time"),
    ],
)
def test_tab_completion(line: str, offered: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    env = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1"}
    env["_ARGCOMPLETE_STDOUT_FILENAME"] = str(answer)
    probe = "from perfmodel.cli.main import entry; entry()"
    subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True, timeout=60, check=False)
    assert answer.read_text().strip().split("\v") == offered.split()
