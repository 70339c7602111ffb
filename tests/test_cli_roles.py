"""`perfmodel estimate disaggregated` and `estimate speculation`, as a user would call them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import perfmodel as pm
from perfmodel.cli.role_options import ROLE, TRANSFERS
from perfmodel.predict.serving import disaggregated
from perfmodel.predict.serving.roles import ROLE_KEYS

POOLS = (
    *("estimate", "disaggregated", "--model", "llama-3.1-8b", "--prefill", "cluster=dgx-h100,tp=2,count=2"),
    *("--decode", "cluster=dgx-h200,tp=4,weights=fp8,dual_batch=true", "--prompt-tokens", "1024"),
    *("--output-tokens", "128"),
)
ROUND = (
    *("estimate", "speculation", "--model", "llama-3.1-70b", "--draft", "llama-3.1-8b", "--cluster", "dgx-h100"),
    *("--tp", "4", "--acceptance", "0.7", "--draft-tokens", "4"),
)


def test_words_are_those_of_the_library() -> None:
    assert ROLE == ROLE_KEYS
    assert TRANSFERS == disaggregated.TRANSFERS


def test_pools_are_priced_as_the_library_does(cli: Any) -> None:
    code, out, _ = cli(*POOLS, "--arrival-rate-per-s", "5", "--json")
    assert code == 0
    library = pm.estimate_disaggregated(
        "llama-3.1-8b",
        {"cluster": "dgx-h100", "layout": {"tp": 2}, "count": 2},
        {"cluster": "dgx-h200", "layout": {"tp": 4}, "weights": "fp8", "dual_batch": True},
        prompt_tokens=1024,
        output_tokens=128,
        arrival_rate_per_s=5,
    )
    assert json.loads(out) == json.loads(library.to_json())


def test_a_file_and_an_earlier_result_are_questions_too(cli: Any, tmp_path: Path) -> None:
    question = tmp_path / "pools.toml"
    question.write_text(
        'model = "llama-3.1-8b"\nprompt_tokens = 1024\noutput_tokens = 128\n'
        '[prefill]\ncluster = "dgx-h100"\ncount = 2\n[prefill.layout]\ntp = 2\n'
        '[decode]\ncluster = "dgx-h200"\ntp = 4\nweights = "fp8"\ndual_batch = true\n'
    )
    first = json.loads(cli(*POOLS, "--json")[1])
    assert json.loads(cli("estimate", "disaggregated", "-f", str(question), "--json")[1]) == first
    result = tmp_path / "result.json"
    result.write_text(json.dumps(first))
    assert json.loads(cli("estimate", "disaggregated", "-f", str(result), "--json")[1]) == first
    slower = json.loads(cli("estimate", "disaggregated", "-f", str(result), "--transfer", "serialised", "--json")[1])
    assert slower["ttft_s"] > first["ttft_s"]


def test_speculation_from_flags_and_from_its_result(cli: Any, tmp_path: Path) -> None:
    first = json.loads(cli(*ROUND, "--json")[1])
    cluster = pm.load_cluster("dgx-h100")
    plain = pm.estimate_speculation(
        "llama-3.1-70b", cluster, layout={"tp": 4}, draft="llama-3.1-8b", acceptance=0.7, draft_tokens=4
    )
    assert first == json.loads(plain.to_json())
    result = tmp_path / "result.json"
    result.write_text(json.dumps(first))
    assert json.loads(cli("estimate", "speculation", "-f", str(result), "--json")[1]) == first
    more = json.loads(cli("estimate", "speculation", "-f", str(result), "--batch", "256", "--json")[1])
    assert more["speedup"] < first["speedup"]  # a large batch has no bytes to hide products behind


def test_pages(cli: Any) -> None:
    out = cli(*POOLS)[1]
    assert "is the scarcer" in out
    assert "dgx-h200" in out
    assert "times as fast as without" in cli(*ROUND)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*POOLS, "--prefill", "cluster=dgx-h100,cont=2"], "--prefill: unknown key 'cont'; nearest: 'count'"),
        ([*POOLS, "--prefill", "dgx-h100"], "--prefill: must be a table, as cluster=... (got 'dgx-h100')"),
        (POOLS[:-2], "--output-tokens: missing"),
        ([*POOLS, "--decode", "tp=4"], "decode: cluster: is missing"),
        ([*POOLS, "--transfer", "layer"], "--transfer: unknown value 'layer'; nearest: 'layerwise'"),
        ([*ROUND, "--acceptance", "1"], "acceptance"),
        ([*ROUND, "--draft-tokens", "0"], "--draft-tokens: must be a whole number >= 1 (got 0)"),
    ],
)
def test_bad_input_is_one_line(cli: Any, words: list[str], said: str) -> None:
    code, out, err = cli(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_another_document_is_refused(cli: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"document": "perfmodel/serving-plan/1", "request": {}}))
    code, _, err = cli("estimate", "disaggregated", "-f", str(other))
    assert code == 2
    assert "unknown document 'perfmodel/serving-plan/1'" in err
