"""Workloads and traces: what the public files hold, and what a wrong file is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.errors import SpecError
from perfmodel.specs.trace import Requests, trace_ids, trace_of
from perfmodel.specs.workload import TokenCounts, binned

# Of the public files: rows, requests a second, mean, median and 99th percentile of prompts and of answers.
# Azure: Patel et al. 2024, "Splitwise", arXiv:2311.18677, section 3 (medians 1020 and 129, code 13); Mooncake: its
# README (12,031 requests, 12,035 and 343 tokens on average); NanoFlow's ShareGPT is kept every eighth line.
KNOWN = {
    "azure-conversation": (19366, 5.53, 1155, 1020, 4142, 211, 129, 601),
    "azure-code": (8819, 2.57, 2048, 1469, 7436, 27.9, 13, 251),
    "mooncake-conversation": (12031, 3.40, 12035, 6909, 85400, 343, 350, 1119),
}
CSV = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
GOOD = CSV + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"


@pytest.mark.parametrize("id", KNOWN)
def test_shipped_traces_are_the_public_ones(id: str) -> None:
    trace = pm.load_trace(id)
    rows, rate, *tokens = KNOWN[id]
    assert len(trace.requests.prompt_tokens) == rows
    assert trace.arrival_rate_per_s == pytest.approx(rate, rel=3e-3, abs=0)
    prompts, outputs = trace.prompts, trace.outputs
    found = [prompts.mean, prompts.p50, prompts.p99, outputs.mean, outputs.p50, outputs.p99]
    assert found == pytest.approx(tokens, rel=3e-3, abs=0)


def test_every_shipped_trace_loads_and_is_small() -> None:
    from perfmodel.specs.trace import TRACE_FOLDER

    assert trace_ids() == ["azure-code", "azure-conversation", "mooncake-conversation", "sharegpt"]
    assert sum(path.stat().st_size for path in TRACE_FOLDER.iterdir()) < 300_000
    sharegpt = pm.load_trace("sharegpt")
    assert sharegpt.arrival_rate_per_s is None
    assert sharegpt.dispersion == ()


def test_mooncake_prompts_share_blocks() -> None:
    # Mooncake (FAST 2025) says that about 40 % of the conversation's tokens can be reused.
    assert pm.load_trace("mooncake-conversation").prefix_hit == pytest.approx(0.374, rel=5e-3, abs=0)


def test_code_is_burstier_than_conversation_and_poisson_is_not() -> None:
    code, conversation = pm.load_trace("azure-code"), pm.load_trace("azure-conversation")
    assert code.burstiness > 10 * conversation.burstiness > 20
    random = np.random.default_rng(1)
    arrival_s = np.cumsum(random.exponential(0.2, 20000))
    lengths = random.integers(10, 2000, 20000)
    poisson = trace_of(Requests(arrival_s, lengths, lengths, np.zeros(20000, dtype=int)), "poisson")
    for _, requests, tokens in poisson.dispersion[:6]:
        assert requests == pytest.approx(1.0, rel=0.15, abs=0)
        assert tokens == pytest.approx(1.0, rel=0.15, abs=0)


@pytest.mark.parametrize("compress", [False, True])
def test_files_are_read_plain_or_compressed(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / f"mine.csv{'.gz' if compress else ''}"
    path.write_bytes(gzip.compress(GOOD.encode()) if compress else GOOD.encode())
    trace = pm.load_trace(path)
    assert trace.requests.prompt_tokens.tolist() == [374, 396]
    assert trace.requests.arrival_s.tolist() == pytest.approx([0.0, 4.314579], rel=1e-9, abs=0)


def test_other_public_formats_are_read(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
        {"timestamp": 3000, "input_length": 1500, "output_length": 7, "hash_ids": [0, 1, 3]},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    mooncake = pm.load_trace(tmp_path / "m.jsonl")
    assert mooncake.requests.cached_tokens.tolist() == [0, 1024]
    assert mooncake.requests.arrival_s.tolist() == [0.0, 3.0]
    burst = "Timestamp,Model,Request tokens,Response tokens\n5,GPT-4,472,18\n45,GPT-4,1087,230\n"
    (tmp_path / "b.csv").write_text(burst)
    assert pm.load_trace(tmp_path / "b.csv").arrival_rate_per_s == pytest.approx(1 / 40, rel=1e-12, abs=0)
    (tmp_path / "n.csv").write_text(CSV + "XXX,42,285\n")
    assert pm.load_trace(tmp_path / "n.csv").arrival_rate_per_s is None


BAD = {
    "negative": (CSV + "1,10,5\n2,-3,5\n", "3: prompt tokens: must be a whole number >= 1 \\(got -3\\)"),
    "missing": (CSV + "1,10,5\n2,7,\n", "3: GeneratedTokens: must be a whole number >= 1 \\(got nothing\\)"),
    "text": (CSV + "1,ten,5\n", "2: ContextTokens: .*'ten'"),
    "unsorted": (CSV + "5,10,5\n2,7,5\n", "3: timestamp: lies before that of the line above"),
    "short": (CSV + "5,10\n", "2: 2 columns, the header has 3"),
    "empty": ("", "is empty"),
    "header": (CSV, "is empty; it holds no request"),
    "columns": ("a,b\n1,2\n", "1: no column timestamp"),
    "time": (CSV + "noon,10,5\n", "2: timestamp: must be a date or a number"),
    "json": ('{"timestamp": 1, "input_length": 5}\n', "1: output_length: must be a number \\(got nothing\\)"),
    "json text": ('{"timestamp": 1, "input_length": 5, "output_length": 2}\n{oops\n', "2: not valid JSON"),
    "json negative": ('{"timestamp": 1, "input_length": -5, "output_length": 2}\n', "1: prompt tokens: .*-5"),
    "json unsorted": (
        '{"timestamp": 9, "input_length": 5, "output_length": 2}\n'
        '{"timestamp": 1, "input_length": 5, "output_length": 2}',
        "2: timestamp: lies before",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_trace_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    text, said = BAD[name]
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=said):
        pm.load_trace(path)


def test_unknown_traces_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nearest: 'azure-code'"):
        pm.load_trace("azure-cod")
    with pytest.raises(SpecError, match="cannot be read"):
        pm.load_trace(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"prompt_tokens": {"mean": 10, "p50": 20, "p90": 10, "p99": 30}}, "must not fall"),
        ({"output_tokens": {"mean": 10, "p50": 20}}, "p90"),
        ({"arrival_rate_per_s": -1.0}, "arrival_rate_per_s"),
        ({"burstiness": -1.0}, "burstiness"),
        ({"prefix_hit": 1.0}, "prefix_hit"),
        ({"hourly_rates_per_s": [1.0, 2.0]}, "24 rates"),
        ({"dispersion": [[3.0, 1.0, 1.0], [1.0, 1.0, 1.0]]}, "must rise"),
        ({"bursts": 3.0}, "burstiness"),
    ],
)
def test_a_wrong_workload_is_refused(given: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        pm.Workload(**given)


def test_a_wrong_slo_is_refused() -> None:
    for asked in ({"ttft_s": 0.0}, {"percentile": 1.0}, {"tpot": 1.0}):
        with pytest.raises(SpecError):
            pm.Slo(**asked)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=300))
def test_bins_keep_the_mean_and_percentiles(lengths: list[int]) -> None:
    found = binned(lengths)
    shares, tokens = found.points
    assert shares.sum() == pytest.approx(1.0, rel=1e-9, abs=0)
    assert float(shares @ tokens) == pytest.approx(np.mean(lengths), rel=1e-9, abs=0)
    assert found.second_moment <= np.mean(np.square(lengths, dtype=float)) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.floats(10, 1000), st.floats(1, 10), st.floats(1, 5))
def test_percentiles_alone_make_a_law_of_that_mean(p50: float, to_p90: float, to_p99: float) -> None:
    law = TokenCounts(mean=p50 * to_p90, p50=p50, p90=p50 * to_p90, p99=p50 * to_p90 * to_p99)
    shares, tokens = law.points
    assert float(shares @ tokens) >= law.mean * (1 - 1e-9)
    assert law.quantile(0.5) == pytest.approx(p50, rel=1e-9, abs=0)
    assert law.quantile(0.9) == pytest.approx(p50 * to_p90, rel=1e-6, abs=0)


def test_a_day_has_24_rates() -> None:
    short = pm.load_trace("azure-conversation")
    profile = short.day_profile()
    assert len(profile) == 24
    assert np.mean(profile) == pytest.approx(short.arrival_rate_per_s, rel=1e-3, abs=0)
    assert short.hourly_rates_per_s == ()
    arrival_s = np.arange(0.0, 2 * 86400.0, 60.0)
    lengths = np.full(len(arrival_s), 100)
    days = trace_of(Requests(arrival_s, lengths, lengths, 0 * lengths), "days")
    assert days.hourly_rates_per_s == pytest.approx([1 / 60] * 24, rel=0.02, abs=0)
