"""Scenarios, comparison, tables and citations: a question as a value, and what two answers have in common."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.errors import PlanError, SpecError
from perfmodel.predict.frames import row_of
from perfmodel.study.questions import QUESTIONS

TRAINING = {
    "model": "llama-3.1-8b", "cluster": "dgx-h100", "accelerators": 64, "tp": 2, "dp": 32, "global_batch": 128,
    "seq_len": 4096,
}  # fmt: skip
SERVING = {
    "model": "llama-3.1-8b", "cluster": "dgx-h100", "tp": 1, "prompt_tokens": 512, "output_tokens": 128,
    "concurrency": 16,
}  # fmt: skip
ASKED = {
    "estimate training": TRAINING | {"tokens": 1e12, "recompute_modules": ["mlp"]},
    "plan training": {key: value for key, value in TRAINING.items() if key not in ("tp", "dp")},
    "estimate serving": SERVING | {"ttft_s": 1.0, "percentile": 0.99},
    "plan serving": {
        "model": "llama-3.1-8b",
        "cluster": ["dgx-h100", "dgx-h200"],
        "prompt_tokens": 512,
        "output_tokens": 128,
        "arrival_rate_per_s": 20.0,
        "ttft_s": 0.5,
        "tpot_s": 0.05,
        "weights": "bf16",
    },
    "estimate gemm": {"accelerator": "h100-sxm", "m": 512, "n": 4096, "k": 4096},
    "estimate attention": {"accelerator": "h100-sxm", "phase": "decode", "seq_len": 8192},
    "estimate collective": {
        "cluster": "dgx-h100",
        "accelerators": 64,
        "operation": "all_reduce",
        "n_bytes": 64e6,
        "ranks": 16,
    },
}
DIRECT = pm.estimate_training(
    "llama-3.1-8b", pm.load_cluster("dgx-h100", 64), layout={"tp": 2, "dp": 32}, global_batch=128, seq_len=4096
)


def test_every_question_is_asked_here() -> None:
    assert set(ASKED) == set(QUESTIONS)


@pytest.mark.parametrize("question", ASKED)
def test_a_result_and_a_file_give_the_same_bytes_again(question: str, tmp_path: Path) -> None:
    scenario = pm.load_scenario(ASKED[question])
    assert scenario.question == question
    result = scenario.run()
    text = result.to_json()
    assert pm.load_scenario(result).run().to_json() == text
    for name, content in (("result.json", text), ("scenario.json", scenario.to_json())):
        (tmp_path / name).write_text(content)
        assert pm.load_scenario(tmp_path / name).run().to_json() == text
    assert pickle.loads(pickle.dumps(scenario)) == scenario


def test_a_scenario_is_the_library_call() -> None:
    assert pm.load_scenario(TRAINING).run() == DIRECT
    nested = {key: value for key, value in TRAINING.items() if key not in ("tp", "dp")}
    assert pm.load_scenario(nested | {"layout": {"tp": 2, "dp": 32}}).run() == DIRECT
    assert pm.load_scenario(nested | {"layout": pm.ParallelLayout(tp=2, dp=32)}).run() == DIRECT
    assert (
        pm.load_scenario(nested | {"cluster": pm.load_cluster("dgx-h100"), "layout": {"tp": 2, "dp": 32}}).run()
        == DIRECT
    )


def test_with_changes_what_it_says_and_nothing_else() -> None:
    scenario = pm.load_scenario(DIRECT)
    other = scenario.with_(tp=4, dp=16)
    assert dict(other.values) == dict(scenario.values) | {"tp": 4, "dp": 16}
    assert other.run().request["layout"]["tp"] == 4
    assert scenario.with_(layout={"tp": 4, "dp": 16}) == other
    assert scenario.with_(tp=4).with_(tp=2) == scenario
    assert "software" not in scenario.with_(software=None).values
    open_loop = pm.load_scenario(SERVING).with_(arrival_rate_per_s=2.0)
    assert "concurrency" not in open_loop.values
    plan = scenario.with_(question="plan training", objective="cost")
    assert "tp" not in plan.values
    assert plan.run().feasible


def test_hardware_is_a_key_too(tmp_path: Path) -> None:
    scenario = pm.load_scenario(TRAINING)
    faster = scenario.with_(hbm_byte_per_s=6.7e12, **{"infiniband.link_byte_per_s": 200e9})
    result = faster.run()
    assert result.step_time_s < DIRECT.step_time_s
    assert pm.load_scenario(result).run().to_json() == result.to_json()
    # What the driver reports belongs to the memory that was there.
    assert scenario.with_(hbm_bytes=20e9).run().memory_bytes.capacity == 20e9
    assert not scenario.with_(hbm_bytes=20e9).run().fits
    dearer = scenario.with_(usd_per_hour=2 * 3600.0 * DIRECT.cost_usd_per_step / DIRECT.step_time_s / 64)
    assert dearer.run().cost_usd_per_step == pytest.approx(2 * DIRECT.cost_usd_per_step, rel=1e-12, abs=0)
    slow = scenario.with_(peak_flop_per_s={"bf16": 500e12}).run()
    assert slow.step_time_s > DIRECT.step_time_s
    gemm = pm.load_scenario(ASKED["estimate gemm"])
    assert gemm.with_(hbm_byte_per_s=1e12).run().seconds > gemm.run().seconds
    with pytest.raises(PlanError, match=r"ethernet.latency_s: unknown tier 'ethernet'.*infiniband"):
        scenario.with_(**{"ethernet.latency_s": 1e-6}).run()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"model": "llama-3.1-8b"}, "question: missing, and the keys tell none; one of estimate gemm"),
        (TRAINING | {"seq_length": 1}, "unknown key 'seq_length'; nearest: 'seq_len'"),
        (TRAINING | {"question": "estimate trainings"}, "unknown question 'estimate trainings'; nearest: 'estimate tr"),
        (TRAINING | {"layout": {"tpp": 1}}, "layout: unknown key 'tpp'; nearest: 'tp'"),
        (TRAINING | {"layout": {"tp": 1}}, "tp: given twice, alone and under layout"),
        (TRAINING | {"layout": 3}, "layout: must be a table"),
        ({"document": "perfmodel/trainingestimate/1", "request": {}}, "nearest: 'perfmodel/training-estimate/1'"),
        ({"document": "perfmodel/training-estimate/1"}, "request: missing"),
        (3, "must be a path, a result or a table"),
    ],
)
def test_bad_scenarios_are_told_why(data: Any, said: str) -> None:
    with pytest.raises((PlanError, SpecError), match=re.escape(said)):
        pm.load_scenario(data)


def test_a_description_of_ones_own_is_reproduced_too(tmp_path: Path) -> None:
    for question, changes in (
        ("estimate serving", {"hbm_byte_per_s": 3e12}),
        ("plan serving", {"hbm_byte_per_s": 3e12}),
        ("estimate gemm", {"hbm_byte_per_s": 3e12}),
        ("estimate collective", {"infiniband.latency_s": 1e-6}),
    ):
        result = pm.load_scenario(ASKED[question]).with_(**changes).run()
        assert result.to_json() != pm.load_scenario(ASKED[question]).run().to_json()
        (tmp_path / "result.json").write_text(result.to_json())
        assert pm.load_scenario(tmp_path / "result.json").run().to_json() == result.to_json()


def test_traffic_is_keys_a_trace_or_a_workload() -> None:
    keys = ASKED["plan serving"]
    plan = pm.load_scenario(keys)
    rest = {key: keys[key] for key in ("model", "cluster", "ttft_s", "tpot_s", "weights")}
    told = pm.Workload(prompt_tokens=512, output_tokens=128, arrival_rate_per_s=20.0)
    assert pm.load_scenario(rest | {"workload": told}).run() == plan.run()
    traced = pm.load_scenario(rest | {"trace": "azure-conversation", "arrival_rate_per_s": 2.0})
    assert traced.question == "plan serving"
    assert traced.run().request["workload"]["name"] == "azure-conversation"
    assert plan.with_(question="estimate serving", cluster="dgx-h100", tp=2).run().request["prompt_tokens"] == 512
    with pytest.raises(PlanError, match="ask 'estimate serving'"):
        plan.with_(tp=2)
    with pytest.raises(PlanError, match="prompt_tokens: missing"):
        plan.with_(prompt_tokens=None).run()


def test_bad_changes_are_told_why() -> None:
    plan = pm.load_scenario(ASKED["plan training"])
    with pytest.raises(PlanError, match="a plan chooses its layout"):
        plan.with_(tp=2)
    with pytest.raises(PlanError, match="global_batch: missing"):
        pm.load_scenario(TRAINING).with_(global_batch=None).run()
    with pytest.raises(SpecError, match="unknown question"):
        plan.with_(question="plan trainings")


def test_comparison_sums_and_finds_what_changed() -> None:
    scenario = pm.load_scenario(TRAINING)
    other = scenario.with_(tp=4, dp=16).run()
    found = pm.compare(DIRECT, other)
    assert {change.key: (change.a, change.b) for change in found.changes} == {"tp": (2, 4), "dp": (32, 16)}
    step = next(one for one in found.quantities if one.name == "step_time_s")
    assert step.difference == other.step_time_s - DIRECT.step_time_s
    tops = [term for term in found.terms if term.depth == 1]
    assert sum(term.difference_s for term in tops) == pytest.approx(step.difference, rel=1e-9, abs=0)
    assert sum(term.share or 0.0 for term in tops) == pytest.approx(1.0, rel=1e-9, abs=0)
    _children_sum(found.terms)
    assert list(found.to_frame()["term"]) == [term.term for term in found.terms]
    json.dumps(found.to_dict(), allow_nan=False)


def _children_sum(terms: Any) -> None:
    for term in terms:
        below = [one for one in terms if one.depth == term.depth + 1 and one.term.startswith(f"{term.term}/")]
        assert bool(below) != term.leaf
        if below:
            assert sum(one.difference_s for one in below) == pytest.approx(term.difference_s, rel=1e-9, abs=1e-15)


@settings(max_examples=12, deadline=None)
@given(
    a=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([2048, 8192])),
    b=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.sampled_from([2048, 8192])),
)
def test_comparison_turns_around(a: Any, b: Any) -> None:
    first, second = (pm.load_scenario(TRAINING).with_(tp=tp, pp=pp, dp=4, seq_len=n).run() for tp, pp, n in (a, b))
    there, back = pm.compare(first, second), pm.compare(second, first)
    assert {t.term: t.difference_s for t in there.terms} == {t.term: -t.difference_s for t in back.terms}
    _children_sum(there.terms)
    if first == second:
        assert not any(term.difference_s for term in there.terms)
        assert not there.changes


def test_anything_with_an_answer_can_be_compared(tmp_path: Path) -> None:
    scenario = pm.load_scenario(TRAINING)
    (tmp_path / "a.json").write_text(DIRECT.to_json())
    (tmp_path / "b.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in TRAINING.items()))
    for a in (DIRECT, DIRECT.to_dict(), scenario, tmp_path / "a.json", tmp_path / "b.toml", TRAINING):
        assert not any(one.difference for one in pm.compare(a, DIRECT).quantities)
    plan = pm.load_scenario(ASKED["plan training"]).run()
    assert pm.compare(plan, DIRECT).changes
    served = pm.load_scenario(SERVING)
    apart = pm.compare(served, served.with_(concurrency=64))
    for name in ("prefill", "decode_step"):
        shares = [term.share for term in apart.terms if term.term.startswith(f"{name}/") and term.depth == 2]
        whole = next(term for term in apart.terms if term.term == name)
        if whole.difference_s:
            assert sum(share or 0.0 for share in shares) == pytest.approx(1.0, rel=1e-9, abs=0)
    plans = [pm.load_scenario(ASKED["plan serving"]).with_(modes=mode) for mode in ("aggregated", "disaggregated")]
    both = pm.compare(*plans)
    assert {"modes", "cluster"} <= {change.key for change in both.changes}
    assert {"ttft_s", "tpot_s", "cost_usd_per_mtok"} <= {one.name for one in both.quantities}
    assert [term.name for term in both.terms if term.depth == 1] == ["prefill", "decode_step"]
    assert all(term.a_s and term.b_s for term in both.terms if term.depth == 1)
    _children_sum(both.terms)
    kernels = pm.compare(ASKED["estimate gemm"], ASKED["estimate gemm"] | {"m": 1024})
    assert next(iter(kernels.to_frame()["name"])) == "seconds"
    with pytest.raises(PlanError, match="compare two of a kind"):
        pm.compare(scenario, served)
    nothing = pm.load_scenario(ASKED["plan training"]).with_(hbm_bytes=1e9).run()
    with pytest.raises(PlanError, match="nothing feasible"):
        pm.compare(nothing, DIRECT)


def test_frames() -> None:
    terms = pm.to_frame(DIRECT)
    leaves = terms[terms["leaf"]]
    assert leaves["seconds"].sum() == pytest.approx(DIRECT.step_time_s, rel=1e-9, abs=0)
    assert terms[terms["depth"] == 1]["share"].sum() == pytest.approx(1.0, rel=1e-9, abs=0)
    plan = pm.load_scenario(ASKED["plan training"]).run()
    layouts = pm.to_frame(plan)
    assert len(layouts) == 1 + len(plan.alternatives)
    assert layouts["step_time_s"][0] == plan.prediction.step_time_s
    assert layouts["memory_bytes"][0] == plan.prediction.memory_bytes.total
    assert layouts["tp"].tolist() == [plan.decision["layout"]["tp"], *(one.layout["tp"] for one in plan.alternatives)]
    alone = pm.load_scenario(ASKED["plan training"]).with_(top=1).run()
    assert list(pm.to_frame(alone)) == list(layouts)
    nothing = pm.load_scenario(ASKED["plan training"]).with_(hbm_bytes=1e9).run()
    assert len(pm.to_frame(nothing)) == 0
    assert "memory" in row_of(nothing.to_dict())["infeasible_because"]
    pd.testing.assert_frame_equal(plan.to_frame(), layouts)
    pd.testing.assert_frame_equal(pm.to_frame(plan.to_dict()), layouts)
    served = pm.load_scenario(ASKED["plan serving"]).run()
    deployments = served.to_frame()
    assert deployments["usd_per_hour"][0] == served.decision["usd_per_hour"]
    assert deployments["engine"].notna().all()
    assert len(deployments) == 1 + len(served.alternatives)
    assert set(served.prediction.to_frame()["term"]) >= {"prefill", "decode_step"}
    experts = pm.plan_experts([[4, 1, 1, 2], [1, 1, 1, 1]], 2).to_frame()
    assert experts["rank"].tolist() == [0, 0, 1, 1] * 2
    tasks = [{"task": "a", "samples": 10, "correct": 3}, {"task": "b", "samples": 10, "correct": 7}]
    methods = [{"method": "m", "tokens": 1000, "usd_per_mtok_in": 0.0, "usd_per_mtok_out": 1.0}]
    assert pm.plan_test_time(tasks, methods, {"usd": 0.05}).to_frame()["task"].tolist() == ["a", "b"]
    gemm = pm.to_frame(pm.load_scenario(ASKED["estimate gemm"]).run())
    assert len(gemm) == 1
    with pytest.raises(PlanError, match="must be a result or its document"):
        pm.to_frame({"tp": 1})


def test_columns_of_a_result_carry_their_units() -> None:
    row = row_of(pm.load_scenario(ASKED["estimate training"]).run().to_dict())
    assert {"step_time_s", "step_time_low_s", "memory_total_bytes", "run_days", "run_cost_usd", "n_warnings"} <= set(
        row
    )
    assert all(not isinstance(value, (list, dict, tuple)) for value in row.values())


def test_citations_are_entries_of_every_source() -> None:
    text = pm.cite(DIRECT)
    entries = re.findall(r"^@(\w+)\{([^,]+),$", text, re.MULTILINE)
    assert len(entries) == len({key for _, key in entries}) == 1 + len(DIRECT.sources)
    assert entries[0] == ("software", "perfmodel")
    assert "eprint = {2205.05198}" in text
    assert r"100\% green" in text
    for source in DIRECT.sources:
        assert source.rsplit(": http", 1)[-1] in text
    # Braces balance once those that are escaped are gone.
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert pm.cite(DIRECT.to_dict()) == text
    with pytest.raises(PlanError, match="must be a result"):
        pm.cite({"sources": []})
