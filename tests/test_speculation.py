"""Speculation and prefix reuse: laws against dice and limits, a verification between its bounds, bad input."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.errors import PlanError
from perfmodel.formulas.prefix import missed_prompt_tokens, prefix_prefill_speedup, shared_prefix_cache_tokens
from perfmodel.formulas.speculative import (
    expected_accepted_tokens,
    speculative_operations_factor,
    speculative_speedup,
    speculative_tpot,
)
from perfmodel.predict.serving.load import Load
from perfmodel.predict.serving.prefix import chunks_of, missed_load, sharing_concurrency
from perfmodel.predict.serving.speculation import (
    Speculation,
    SpeculationEstimate,
    mtp_step,
    speculative_step,
    verification,
)
from perfmodel.predict.serving.task import ServingTask, serving_task

LEVIATHAN = Path(__file__).parents[2] / "shared" / "published" / "test_time" / "leviathan_table.csv"


@cache
def task(model: str = "llama-3.1-70b", tp: int = 4, weights: str = "bf16") -> ServingTask:
    return serving_task(
        model, "dgx-h100", layout={"tp": tp, "ep": tp if model.startswith("deep") else 1}, prompt_tokens=1024,
        output_tokens=256, concurrency=8, arrival_rate_per_s=None, weights=weights, activations=None, kv_cache=None,
        batching="continuous", software=None, arrivals="closed-loop",
    )  # fmt: skip


def estimate(**changes: object) -> SpeculationEstimate:
    asked: dict = {"layout": {"tp": 4}, "acceptance": 0.8, "draft_tokens": 4, "draft": "llama-3.2-1b",
                   "draft_layout": {"tp": 1}, "batch": 1, "kv_len": 2048}  # fmt: skip
    return pm.estimate_speculation("llama-3.1-70b", "dgx-h100", **(asked | changes))


# Laws


@pytest.mark.parametrize("acceptance", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("drafted", [1, 4, 9])
def test_expected_tokens_equal_dice(acceptance: float, drafted: int) -> None:
    """Tokens are drawn one by one until the first refusal; the target adds one of its own."""
    accepted = np.random.default_rng(3).random((200_000, drafted)) < acceptance
    runs = np.cumprod(accepted, axis=1).sum(axis=1) + 1
    assert expected_accepted_tokens(acceptance, drafted) == pytest.approx(runs.mean(), rel=0.01)


def test_expected_tokens_equal_the_sum_over_places() -> None:
    assert expected_accepted_tokens(0.6, 5) == pytest.approx(sum(0.6**place for place in range(6)), rel=1e-12)


@given(st.floats(0.01, 0.98), st.integers(1, 20), st.floats(0.0, 1.0))
def test_speedup_and_tpot_are_one_law(acceptance: float, drafted: int, ratio: float) -> None:
    tpot_s = speculative_tpot(ratio * 0.02, 0.02, acceptance, drafted)
    assert 0.02 / tpot_s == pytest.approx(speculative_speedup(acceptance, drafted, ratio), rel=1e-12)


@given(st.floats(0.02, 0.98), st.floats(0.0, 0.9))
def test_one_token_helps_exactly_when_acceptance_exceeds_its_cost(acceptance: float, ratio: float) -> None:
    """Leviathan et al., corollary 3.9."""
    gain = speculative_speedup(acceptance, 1, ratio)
    assert gain == pytest.approx((1 + acceptance) / (1 + ratio), rel=1e-12)
    assert (gain > 1) == (acceptance > ratio) or acceptance == pytest.approx(ratio)


@pytest.mark.skipif(not LEVIATHAN.is_file(), reason="the collected table is not part of the repository")
def test_the_collected_table_is_among_the_checks() -> None:
    with LEVIATHAN.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            asked = float(row["alpha"]), float(row["gamma"]), 0.0
            assert abs(speculative_speedup(*asked) - float(row["speedup_c0"])) < 0.00501
            assert abs(speculative_operations_factor(*asked) - float(row["ops_chat0"])) < 0.00501


# A round on an engine


@pytest.mark.parametrize("model", ["llama-3.1-70b", "deepseek-v2"])
@pytest.mark.parametrize("batch", [1.0, 16.0, 256.0])
def test_verification_costs_between_a_step_and_that_of_as_many_sequences(model: str, batch: float) -> None:
    engine = task(model, 8 if model.startswith("deep") else 4).engine
    step, many = engine.decode(batch, 2048.0), engine.decode(batch * 4.0, 2048.0)
    verify = verification(engine, batch, 2048.0, 3.0)
    assert float(step.cost.seconds) <= float(verify.cost.seconds) * (1 + 1e-9)
    assert float(verify.cost.seconds) <= float(many.cost.seconds) * (1 + 1e-9)
    assert sum(float(one.cost.seconds) for one in verify.children) == pytest.approx(float(verify.cost.seconds))


def test_verifying_nothing_is_decoding() -> None:
    engine = task().engine
    plain, verify = engine.decode(8.0, 1024.0), verification(engine, 8.0, 1024.0, 0.0)
    assert float(verify.cost.seconds) == pytest.approx(float(plain.cost.seconds), rel=1e-9)


def test_a_module_of_prediction_is_a_layer_and_the_head() -> None:
    engine = task().engine
    step = {one.name: float(one.cost.seconds) for one in engine.decode(8.0, 1024.0).children}
    module = mtp_step(engine, 8.0, 1024.0)
    layers = sum(step[name] for name in step if name not in ("head", "sampling", "pipeline", "engine"))
    assert float(module.cost.seconds) == pytest.approx(layers / 80 + step["head"] + step["sampling"], rel=1e-9)


def test_gains_fade_as_batches_grow_and_arithmetic_binds() -> None:
    gains = [estimate(batch=batch).speedup for batch in (1, 64, 512)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 1.3
    assert gains[-1] < 1.0


def test_more_acceptance_is_never_slower() -> None:
    times = [estimate(acceptance=share).tpot_s for share in (0.0, 0.3, 0.6, 0.9, 0.99)]
    assert times == sorted(times, reverse=True)
    assert times[0] > estimate().plain_tpot_s, "what is never accepted only costs"


def test_the_record_adds_up() -> None:
    one = estimate()
    assert one.round_s == pytest.approx(4 * one.draft_s + one.verify_s)
    assert one.tpot_s == pytest.approx(one.round_s / one.tokens_per_round)
    assert one.speedup == pytest.approx(one.plain_tpot_s / one.tpot_s)
    assert one.speedup == pytest.approx(
        speculative_speedup(0.8, 4, one.draft_cost_ratio, one.verify_cost_ratio), rel=1e-9
    )
    document = json.loads(one.to_json())
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    again = pm.estimate_speculation(
        document["request"]["model"], document["request"]["cluster"], layout=document["request"]["layout"],
        acceptance=0.8, draft_tokens=4, draft="llama-3.2-1b", draft_layout={"tp": 1}, batch=1, kv_len=2048,
    )  # fmt: skip
    assert again.tpot_s == one.tpot_s


def test_a_hierarchy_is_the_law_inside_itself() -> None:
    """TriForce: a tier of drafts beneath the draft; the outer law takes the inner time per token as its draft."""
    inner = speculative_tpot(0.001, 0.008, 0.8, 4)
    assert inner < 0.008
    assert speculative_tpot(inner, 0.038, 0.92, 6) < speculative_tpot(0.008, 0.038, 0.92, 6) < 0.038


def test_steps_take_draft_engines_of_their_own() -> None:
    step = speculative_step(task().engine, Speculation(0.7, 3), 4.0, 1024.0, draft=task("llama-3.2-1b", 1).engine)
    assert float(step.draft.cost.seconds) < float(step.decode.cost.seconds)
    assert step.tokens == pytest.approx(expected_accepted_tokens(0.7, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"acceptance": 1.0}, "acceptance: must be in"),
        ({"acceptance": float("nan")}, "acceptance: must be a number"),
        ({"acceptance": "high"}, "acceptance: must be a number"),
        ({"draft_tokens": 0}, "draft_tokens: must be 1 to 64"),
        ({"draft_tokens": 1.5}, "draft_tokens: must be a whole number"),
        ({"batch": 0}, "concurrency: must be a whole number"),
        ({"weights": "fp9"}, "weights: unknown precision 'fp9'"),
    ],
)
def test_bad_input_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        estimate(**changes)


# Prefix reuse


def test_a_hit_is_prefilled_as_the_missed_tokens_after_those_cached() -> None:
    assert missed_load(2.0, 1000.0, 0.25) == Load(2.0, 750.0, 250.0)
    assert missed_load(1.0, 1000.0, 1.0) == Load(1.0, 1.0, 999.0), "a token is always worked on"
    assert chunks_of(20_000, 0.5, 8192) == 2
    chunk = missed_load(1.0, 20_000.0, 0.5, 2.0)
    assert (chunk.prompt_tokens, chunk.past_tokens, chunk.finishes) == (5000.0, 12_500.0, 0.5)


@given(st.floats(0.0, 0.95), st.floats(0.0, 0.95))
def test_more_hits_are_never_slower(one: float, other: float) -> None:
    """But for the rows by which a tile is filled or begun: a percent of a prefill."""
    engine = task().engine
    times = [float(engine.iteration(missed_load(1.0, 4096.0, hit)).cost.seconds) for hit in sorted((one, other))]
    assert times[1] <= times[0] * 1.02


def test_missed_tokens_look_back_so_a_hit_saves_less_than_its_share() -> None:
    assert missed_prompt_tokens(1000, 0.75) == 250
    assert 1 < prefix_prefill_speedup(100_000, 0.5, 50_000) < 2
    assert prefix_prefill_speedup(100, 0.5, 1e9) == pytest.approx(2, rel=1e-6)
    whole = sum(1 + token / 50_000 for token in range(20_000))
    missed = sum(1 + token / 50_000 for token in range(10_000, 20_000))
    assert prefix_prefill_speedup(20_000, 0.5, 50_000) == pytest.approx(whole / missed, rel=1e-4)


def test_shared_blocks_are_held_once() -> None:
    memory, blocks = task().memory, 10_000.0
    alone = float(memory.concurrency(blocks, 2048.0 + 512.0))
    shared = sharing_concurrency(memory, blocks, 2048.0, 512.0)
    assert shared > 4 * alone
    assert shared == (10_000 - 128) // 32
    assert sharing_concurrency(memory, blocks, 0.0, 2560.0) == alone
    assert shared_prefix_cache_tokens(shared, 2048, 512) <= blocks * 16
    assert sharing_concurrency(memory, 100.0, 2048.0, 512.0) == 0.0
