"""Schedules that split the backward pass: laws against published times, replays, and the step model around them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.formulas import pipeline, zero_bubble
from perfmodel.formulas.overlap import exposed_time
from perfmodel.predict.activations import weight_operand_bytes_of_layer
from perfmodel.predict.kinds import kind_parts
from perfmodel.predict.layout import check_layout, make_layout
from perfmodel.predict.schedules import (
    SCHEDULES,
    SPLIT_BACKWARD,
    V_SHAPED,
    Passes,
    in_flight_microbatches,
    split_bubble_time,
)
from perfmodel.predict.share import Share
from perfmodel.predict.training_task import degrees_of, training_task

few = settings(max_examples=60, deadline=None)
seconds = st.floats(0.1, 10)

# Qi et al. 2023, arXiv:2401.10241, Table 6 (p, m, t_F, t_B, t_W, t_comm in ms) and Table 5 (bubble rates of ZB-H1,
# which ZB-1p repeats, of ZB-H2 and of ZB-2p).
PROFILED = [
    (8, 24, 18.522, 18.086, 9.337, 0.601, 0.1585, 0.1083, 0.0433),
    (8, 32, 18.513, 18.086, 9.331, 0.626, 0.1242, 0.0837, 0.0039),
    (8, 64, 18.546, 18.097, 9.321, 0.762, 0.0674, 0.0444, 0.0026),
    (8, 24, 29.718, 29.444, 19.927, 0.527, 0.1323, 0.0698, 0.0029),
    (8, 32, 29.802, 29.428, 19.530, 0.577, 0.1045, 0.0559, 0.0022),
    (8, 64, 29.935, 29.621, 19.388, 0.535, 0.0554, 0.0294, 0.0010),
    (16, 48, 11.347, 11.248, 8.132, 0.377, 0.1397, 0.0672, 0.0066),
    (16, 64, 11.307, 11.254, 8.101, 0.379, 0.1088, 0.0516, 0.0054),
    (16, 128, 11.325, 11.308, 8.109, 0.378, 0.0576, 0.0266, 0.0028),
    (32, 96, 10.419, 10.207, 7.715, 0.408, 0.1421, 0.0641, 0.0038),
    (32, 128, 10.408, 10.204, 7.703, 0.408, 0.1106, 0.0490, 0.0029),
    (32, 256, 10.402, 10.248, 7.698, 0.460, 0.0594, 0.0257, 0.0018),
]
# M_W over M_B of Table 1, 32 h / (34 h + 5 a s), .37 to .43 in the four models: how many weight gradients can wait.
KEPT = 0.43
ROUNDING = 1e-4  # the rates have four decimals


@pytest.mark.parametrize("row", PROFILED, ids=lambda row: f"p{row[0]}-m{row[1]}-{row[2]}")
def test_published_bubble_rates(row: tuple[float, ...]) -> None:
    pp, m, forward, inputs, weights, transfer, *rates = row
    ideal = m * (forward + inputs + weights)
    times = (forward, inputs, weights, pp, m, transfer)
    for law, rate in zip((zero_bubble.zb_h1_bubble_time, zero_bubble.zb_h2_bubble_time), rates, strict=False):
        bubble = law(*times)
        assert bubble / (ideal + bubble) == pytest.approx(rate, rel=0, abs=ROUNDING)
    # ZB-2p: what the law leaves out is less than a forward pass.
    bubble = zero_bubble.zb_2p_bubble_time(*times, KEPT)
    printed, rounding = rates[2] / (1 - rates[2]) * ideal, ROUNDING * ideal
    assert bubble - rounding <= printed <= bubble + forward


# Qi et al. 2024, arXiv:2405.15362, Tables 8 and 9: offsets of F0, F1, B1, B0 along the ranks, and at the three turns.
OFFSETS = {
    ("v-min", True): (1, 1, 1, 1, 1, 3, 1),
    ("v-min", False): (1, 1, 1, 1, 1, 1, 1),
    ("v-half", True): (2, 1, 2, 1, 2, 4, 1),
    ("v-half", False): (2, 1, 2, 1, 2, 1, 1),
}


def block(schedule: str, pp: int) -> dict[tuple[str, int, int], int]:
    """When each pass (kind, chunk, rank) of a micro-batch begins, in passes of equal time; the next one is 6 later."""
    down, up, back_down, back_up, top, turn, bottom = OFFSETS[schedule, pp % {"v-min": 3, "v-half": 2}[schedule] == 0]
    starts = {("F", 0, rank): down * rank for rank in range(pp)}
    begin = down * (pp - 1) + top
    starts |= {("F", 1, rank): begin + up * (pp - 1 - rank) for rank in range(pp)}
    begin += up * (pp - 1) + turn
    starts |= {("B", 1, rank): begin + back_down * rank for rank in range(pp)}
    begin += back_down * (pp - 1) + bottom
    return starts | {("B", 0, rank): begin + back_up * (pp - 1 - rank) for rank in range(pp)}


def before(kind: str, chunk: int, batch: int, rank: int, pp: int) -> tuple[str, int, int, int] | None:
    """The pass that a pass waits for: down the ranks and up again, then the same way for the gradients."""
    if (kind, chunk) in (("F", 0), ("B", 1)):
        first = None if kind == "F" else ("F", 1, batch, rank)
        return (kind, chunk, batch, rank - 1) if rank else first
    return (kind, chunk, batch, rank + 1) if rank < pp - 1 else (kind, 0 if kind == "F" else 1, batch, rank)


def replay_v(schedule: str, pp: int, m: int, times: dict[str, float], held: int) -> tuple[float, int]:
    """Longest rank's time beyond its work, and the most chunks held, when each rank keeps the order of the offsets.

    Weight gradients run where a rank would wait, and where the chunks held reach `held`.
    """
    starts = block(schedule, pp)
    queues: list[list[tuple[int, str, int, int]]] = [[] for _ in range(pp)]
    for (kind, chunk, rank), at in starts.items():
        queues[rank] += [(at + 6 * batch, kind, chunk, batch) for batch in range(m)]
    orders = [sorted(queue) for queue in queues]
    done: dict[tuple[str, int, int, int], float] = {}
    clock, began, pending, live, peak = [0.0] * pp, [-1.0] * pp, [0] * pp, [0] * pp, 0

    def ready() -> Iterator[tuple[float, int]]:
        for rank, queue in enumerate(orders):
            if queue:
                need = before(*queue[0][1:], rank, pp)
                if need is None or need in done:
                    yield max(clock[rank], 0.0 if need is None else done[need]), rank

    while any(orders):
        start, rank = min(ready())
        _, kind, chunk, batch = orders[rank].pop(0)
        while pending[rank] and (clock[rank] + times["W"] <= start + 1e-9 or (kind == "F" and live[rank] >= held)):
            clock[rank] += times["W"]
            pending[rank] -= 1
            live[rank] -= 1
        start = max(start, clock[rank])
        began[rank] = start if began[rank] < 0 else began[rank]
        clock[rank] = done[kind, chunk, batch, rank] = start + times[kind]
        pending[rank] += kind == "B"
        live[rank] += kind == "F"
        peak = max(peak, live[rank])
    work = 2 * m * sum(times.values())
    return max(clock[r] + times["W"] * pending[r] - began[r] for r in range(pp)) - work, peak


@pytest.mark.parametrize("schedule", ["v-half", "v-min"])
@pytest.mark.parametrize("pp", [4, 6, 7, 8, 12, 16])
def test_replayed_v_schedules_of_equal_passes(schedule: str, pp: int) -> None:
    law, held = _law(schedule), _held(schedule)
    chunks = int(2 * held(10**6, pp))
    m = 3 * pp
    bubble, peak = replay_v(schedule, pp, m, {"F": 1.0, "B": 1.0, "W": 1.0}, chunks)
    assert peak == chunks
    # A pass or two from the turns, which the law counts as ranks.
    assert bubble == pytest.approx(law(2, 2, 2, pp, m), rel=0, abs=1)


@pytest.mark.parametrize("schedule", ["v-half", "v-min"])
@pytest.mark.parametrize("times", [(1, 1, 0.6), (1, 1.2, 0.8), (1, 1.2, 1), (1, 1.5, 1), (1, 2, 0.5), (2, 1, 0.2)])
def test_replayed_v_schedules_of_passes_that_differ(schedule: str, times: tuple[float, float, float]) -> None:
    pp, m = 16, 64
    passes = dict(zip("FBW", times, strict=True))
    bubble, _ = replay_v(schedule, pp, m, passes, int(2 * _held(schedule)(m, pp)))
    assert bubble == pytest.approx(_law(schedule)(*(2 * one for one in times), pp, m), rel=0.1, abs=0)


def _law(schedule: str) -> Any:
    return {"v-half": zero_bubble.v_half_bubble_time, "v-min": zero_bubble.v_min_bubble_time}[schedule]


def _held(schedule: str) -> Any:
    return {
        "v-half": zero_bubble.in_flight_microbatches_v_half,
        "v-min": zero_bubble.in_flight_microbatches_v_min,
    }[schedule]


@few
@given(st.integers(1, 64), st.integers(1, 256), seconds, seconds, seconds)
def test_bubbles_never_exceed_that_of_1f1b(pp: int, m: int, forward: float, inputs: float, weights: float) -> None:
    plain = pipeline.pipeline_bubble_time(forward + inputs + weights, pp)
    passes = Passes(forward, inputs, weights)
    bubbles = {name: split_bubble_time(name, passes, m, pp) for name in SPLIT_BACKWARD}
    assert min(bubbles.values()) >= 0
    for name in ("zb-h1", "zb-1p", "zb-h2", "zb-2p", "zb-v", "dualpipe"):
        assert bubbles[name] <= plain * (1 + 1e-12)
    assert bubbles["zb-h2"] <= bubbles["zb-h1"] * (1 + 1e-12) == bubbles["zb-1p"] * (1 + 1e-12)
    assert bubbles["zb-v"] <= bubbles["zb-h1"] * (1 + 1e-12)
    # V-Half keeps the promise while forward and input gradient differ by no more than the weight gradient.
    if abs(forward - inputs) <= weights <= max(forward, inputs):
        assert bubbles["v-half"] <= plain * (1 + 1e-12)
    if pp == 1:
        assert max(bubbles.values()) == 0


@few
@given(st.integers(2, 64), st.integers(1, 4), seconds, seconds, seconds, st.floats(0, 1))
def test_which_schedules_are_never_slower(
    pp: int, rounds: int, forward: float, inputs: float, weights: float, transfer: float
) -> None:
    m, passes = pp * rounds, Passes(forward, inputs, weights)
    bubble = {
        name: split_bubble_time(name, passes, m, pp, transfer_s=transfer, kept_share=0.9) for name in SPLIT_BACKWARD
    }
    slower = [("zb-2p", "zb-h2"), ("zb-h2", "zb-h1"), ("zb-v", "v-half"), ("v-half", "v-min")]
    for fast, slow in slower:
        assert bubble[fast] <= bubble[slow] * (1 + 1e-12)
    held = {name: [in_flight_microbatches(name, m, pp, 1, i, 0.9) for i in range(pp)] for name in SPLIT_BACKWARD}
    assert bubble["zb-h1"] == bubble["zb-1p"]
    assert max(held["zb-h1"]) <= max(held["zb-1p"])
    # As many messages as 1F1B exposes, or fewer.
    quiet = split_bubble_time("zb-h1", passes, m, pp)
    exposed = pipeline.exposed_p2p_transfers(m, pp) * transfer
    assert bubble["zb-h1"] - quiet <= exposed * (1 + 1e-9) + 1e-9


@few
@given(st.integers(2, 32), st.data(), seconds, seconds, seconds)
def test_few_microbatches_take_the_published_time(
    pp: int, data: st.DataObject, forward: float, inputs: float, weights: float
) -> None:
    m = data.draw(st.integers(1, pp))
    # Weight gradients are the shortest pass, as the source has it.
    weights, inputs, forward = sorted((forward, inputs, weights))
    whole = (m + pp - 1) * (forward + inputs) + weights
    for law in (zero_bubble.zb_h1_bubble_time, zero_bubble.zb_2p_bubble_time):
        time = m * (forward + inputs + weights) + law(forward, inputs, weights, pp, m)
        assert time == pytest.approx(whole, rel=1e-12, abs=0)


def dualpipe_peak(pp: int, m: int, kept_share: float, rank: int) -> float:
    """Most that a rank holds while it walks through DualPipe's eight steps; a waiting W weighs `kept_share`."""
    half, at = pp // 2, min(rank, pp - 1 - rank)
    held = waiting = 0
    peak = 0.0

    def run(passes: str) -> None:
        nonlocal held, waiting, peak
        for one in passes:  # forward, whole backward, backward whose weight gradient waits, that weight gradient
            held += {"F": 1, "B": -1, "b": -1, "w": 0}[one]
            waiting += {"b": 1, "w": -1}.get(one, 0)
            peak = max(peak, held + kept_share * waiting)

    left = half - at - 1
    run("F" * (2 * left) + "FF" * (at + 1) + "bwF" * left + "FBFB" * (m // 2 - pp + at + 1) + "BFB" * left)
    run("B" * (at + 1) + "b" * (at + 1) + "wb" * left + "w" * (at + 1))
    assert held == waiting == 0
    return peak


@few
@given(st.integers(1, 12), st.integers(0, 6), st.floats(0, 6))
def test_dualpipe_holds_what_its_order_of_passes_holds(half: int, more: int, kept_share: float) -> None:
    pp, m = 2 * half, 4 * half + 2 * more
    peak = max(dualpipe_peak(pp, m, kept_share, rank) for rank in range(pp))
    law = zero_bubble.in_flight_microbatches_dualpipe(m, pp, kept_share)
    assert law == pytest.approx(peak, rel=1e-12, abs=0)


def test_operands_of_weight_gradients_are_32_sbh_in_a_gpt_layer() -> None:
    model = pm.load_model("zb-6.2b")
    kept = weight_operand_bytes_of_layer(model, Share(3.0, 1024), "fp16", kind_parts(model, 0.0))
    assert kept == pytest.approx(32 * 1024 * 3 * 4096, rel=1e-12, abs=0)


# The step model

BATCH, SEQ_LEN = 512, 2048


def estimate(schedule: str, **layout: Any) -> Any:
    vpp = 2 if schedule in (*V_SHAPED, "interleaved") else 1
    return pm.estimate_training(
        "gpt3-175b",
        pm.load_cluster("dgx-a100-80gb", accelerators=512),
        layout={"tp": 8, "pp": 16, "dp": 4, "micro_batch": 1, "schedule": schedule, "vpp": vpp} | layout,
        global_batch=BATCH,
        seq_len=SEQ_LEN,
    )


@pytest.fixture(scope="module")
def estimates() -> dict[str, Any]:
    return {schedule: estimate(schedule) for schedule in SCHEDULES}


def term(one: Any, name: str) -> Any:
    return next(term for term in one.terms if term.name == name)


def test_every_schedule_is_priced_between_its_bounds(estimates: dict[str, Any]) -> None:
    for one in estimates.values():
        assert one.step_time_lower_s <= one.step_time_s <= one.step_time_upper_s
        assert sum(term.seconds for term in one.terms) == pytest.approx(one.step_time_s, rel=1e-12, abs=0)


def test_split_schedules_take_less_than_1f1b(estimates: dict[str, Any]) -> None:
    plain = estimates["1f1b"].step_time_s
    for name in ("zb-h1", "zb-h2", "zb-1p", "zb-2p", "zb-v", "dualpipe"):
        assert estimates[name].step_time_s < plain
        bubbles = term(estimates[name], "pipeline_bubble"), term(estimates["1f1b"], "pipeline_bubble")
        assert 0 <= bubbles[0].seconds < bubbles[1].seconds
    assert estimates["zb-h1"].step_time_s == estimates["zb-1p"].step_time_s
    assert estimates["zb-2p"].step_time_s <= estimates["zb-h2"].step_time_s <= estimates["zb-h1"].step_time_s


def test_memory_of_split_schedules(estimates: dict[str, Any]) -> None:
    held = {name: one.memory_bytes.activations for name, one in estimates.items()}
    assert held["v-min"] < held["v-half"] < held["zb-v"] < held["zb-2p"]
    assert held["1f1b"] == pytest.approx(held["zb-1p"], rel=0.1)
    assert held["1f1b"] <= held["zb-h1"] <= held["zb-1p"] < held["zb-h2"] <= held["zb-2p"] < held["gpipe"]
    for name in ("weights", "gradients"):
        both, one = (getattr(estimates[schedule].memory_bytes, name) for schedule in ("dualpipe", "zb-v"))
        assert 1.9 < both / one < 2.0  # the embedding and the head stand once
    # ZeRO-1 shares the states out between the copies too.
    assert estimates["dualpipe"].memory_bytes.optimizer == pytest.approx(
        estimates["zb-v"].memory_bytes.optimizer, rel=0.05
    )


def test_ends_on_one_rank_need_no_copy_of_a_tied_embedding() -> None:
    task = training_task(
        "zb-6.2b",
        pm.load_cluster("dgx-a100-80gb", accelerators=8),
        global_batch=72,
        seq_len=1024,
        precision="fp16",
        software="megatron-2023",
    )
    found = {}
    for schedule, vpp in (("1f1b", 1), ("zb-v", 2)):
        layout = make_layout({"pp": 8, "vpp": vpp, "micro_batch": 3, "schedule": schedule, "zero_stage": 0})
        step = task.steps.price(degrees_of(layout, 30), 72, 1024)
        exchange = next(node for node in step.tree.children if node.name == "data_parallel")
        found[schedule] = {node.name for node in exchange.children}
    assert "tied_embedding" in found["1f1b"]
    assert "tied_embedding" not in found["zb-v"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_many_layouts_at_once_equal_one_by_one(schedule: str) -> None:
    task = training_task(
        "llama-3.1-70b",
        pm.load_cluster("dgx-h100", accelerators=512),
        global_batch=512,
        seq_len=4096,
    )
    vpp = 2 if schedule in (*V_SHAPED, "interleaved") else 1
    layout = make_layout({"tp": 4, "pp": 8, "vpp": vpp, "dp": 16, "schedule": schedule, "recompute": "none"})
    one = degrees_of(layout, 80)
    pps, dps = np.array([4.0, 8.0, 16.0]), np.array([32.0, 16.0, 8.0])
    for detail in (True, False):
        many = task.steps.price(replace(one, pp=pps, dp=dps, shards=dps), 512, 4096, detail=detail)
        for at, (pp, dp) in enumerate(zip(pps, dps, strict=True)):
            single = task.steps.price(replace(one, pp=float(pp), dp=float(dp), shards=float(dp)), 512, 4096)
            assert many.seconds[at] == pytest.approx(single.seconds, rel=1e-12, abs=0)
            assert np.broadcast_to(many.memory.total, 3)[at] == pytest.approx(single.memory.total, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (
            {"schedule": "v-half", "pp": 4},
            "vpp: schedule 'v-half' places two chunks a rank in the shape of a V: 2 .got 1",
        ),
        ({"schedule": "v-min", "vpp": 2}, "pp: schedule 'v-min' needs pp >= 2 .got 1.; use '1f1b'"),
        ({"schedule": "zb-h1", "pp": 4, "vpp": 2}, "vpp: 2 chunks need schedule 'interleaved' .got schedule 'zb-h1'"),
        ({"schedule": "dualpipe", "pp": 5}, "pp must be even .got 5"),
        ({"schedule": "dualpipe", "pp": 16, "dp": 8}, "at least 2 pp = 32 .got 16"),
        ({"schedule": "zb-v", "pp": 16, "vpp": 2, "dp": 16}, "needs at least pp = 16 micro-batches .got 8"),
        ({"schedule": "dualpipe", "pp": 2, "stage_layers": (40, 40)}, "stage_layers: schedule 'dualpipe' holds two"),
    ],
)
def test_what_a_schedule_refuses(layout: dict[str, Any], said: str) -> None:
    cluster = pm.load_cluster("dgx-h100", accelerators=512)
    with pytest.raises(pm.PlanError, match=said):
        check_layout(make_layout(layout), pm.load_model("llama-3.1-70b"), cluster, 128, 4096)


def test_command_line_prices_a_v_schedule(cli: Any) -> None:
    words = "estimate training --model gpt3-175b --cluster dgx-a100-80gb --accelerators 512 --tp 8 --pp 16 --dp 4"
    words += f" --global-batch {BATCH} --seq-len {SEQ_LEN} --schedule zb-v --vpp 2 --json"
    outcome = cli(*words.split())
    assert outcome.code == 0
    assert json.loads(outcome.out)["step_time_s"] == estimate("zb-v").step_time_s


def test_dualpipe_runs_experts_exchanges_behind_the_other_pass() -> None:
    """Of both passes of a layer the longer counts, and what contention leaves of the shorter."""
    task = training_task("mixtral-8x7b", pm.load_cluster("dgx-h100", 32), global_batch=64, seq_len=4096)
    seconds, waits = {}, {}
    for schedule in ("1f1b", "dualpipe"):
        layout = make_layout({"pp": 4, "dp": 8, "ep": 8, "schedule": schedule})
        step = task.steps.price(degrees_of(layout, 32), 64, 4096)
        layers = {node.name: node for node in step.tree.children}
        seconds[schedule], waits[schedule] = (layers[name].cost.seconds for name in ("layers", "expert_parallel"))
        assert step.lower_s <= step.seconds <= step.upper_s
    share = float(task.software.exposed_share)
    # Half of a rank's time is on the first stage and half on the last, which both may have a layer less.
    turns = seconds["dualpipe"] / seconds["1f1b"]
    assert waits["dualpipe"] == pytest.approx(
        exposed_time(seconds["dualpipe"], waits["1f1b"] * turns, share), rel=1e-9, abs=0
    )
    assert waits["dualpipe"] < 0.7 * waits["1f1b"]
