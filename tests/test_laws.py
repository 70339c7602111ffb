"""Properties of the laws of memory, pipelines, attention traffic and cost, against papers and small replays."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.formulas import activations, attention_io, cost, memory, pipeline, zero_bubble

few = settings(max_examples=40, derandomize=True, deadline=None)
degrees = st.integers(1, 64)
sizes = st.integers(1, 8192)

# Korthikanti et al. 2022, arXiv:2205.05198, Figure 7 (analytic there; values transcribed by calculon@caa4b11f8f):
# activations as a percentage of tensor parallelism alone (equation 2), tp = 8, 2048 tokens.
# Tolerance of 1 point: the figure's percentages come from rounded GB; the worst row is .14 points off.
FIGURE_7 = {
    # model: (d_model, n_heads, none + SP, selective, selective + SP, full)
    "22B": (6144, 64, 66.84, 49.42, 16.18, 7.64),
    "175B": (12288, 96, 62.04, 56.53, 18.49, 8.71),
    "530B": (20480, 128, 58.31, 62.04, 20.27, 9.42),
    "1T": (25600, 160, 58.31, 62.04, 20.27, 9.42),
}


@pytest.mark.parametrize("model", FIGURE_7)
def test_korthikanti_figure_7(model: str) -> None:
    d_model, n_heads, *published = FIGURE_7[model]
    tp = 8
    size = (2048, 1, d_model)
    baseline = activations.activation_bytes_per_layer_korthikanti2022(*size, n_heads, tp, sequence_shards=1)
    computed = [
        activations.activation_bytes_per_layer_korthikanti2022(*size, n_heads, tp, sequence_shards=tp),
        activations.activation_bytes_per_layer_selective_korthikanti2022(*size, tp, sequence_shards=1),
        activations.activation_bytes_per_layer_selective_korthikanti2022(*size, tp, sequence_shards=tp),
        activations.activation_bytes_per_layer_full_recompute(*size, shards=1),
    ]
    for ours, paper in zip(computed, published, strict=True):
        assert abs(100 * ours / baseline - paper) < 1


@pytest.mark.parametrize(("d_model", "n_heads", "saved"), [(12288, 96, 0.70), (20480, 128, 0.65)])
def test_korthikanti_section_5_selective_saves(d_model: int, n_heads: int, saved: float) -> None:
    everything = activations.activation_bytes_per_layer_korthikanti2022(2048, 1, d_model, n_heads, 1, 1)
    kept = activations.activation_bytes_per_layer_selective_korthikanti2022(2048, 1, d_model, 1, 1)
    assert 1 - kept / everything == pytest.approx(saved, rel=0.01, abs=0)  # two digits given


@few
@given(sizes, degrees, degrees, st.integers(1, 256), st.integers(1, 64))
def test_korthikanti_equations(seq_len: int, micro_batch: int, tp: int, n_heads: int, d_head: int) -> None:
    h = n_heads * d_head
    sbh, scores = seq_len * micro_batch * h, 5 * n_heads * seq_len / h
    law = activations.activation_bytes_per_layer_korthikanti2022
    assert law(seq_len, micro_batch, h, n_heads, 1, 1) == pytest.approx(sbh * (34 + scores), rel=1e-12, abs=0)
    tensor = sbh * (10 + 24 / tp + scores / tp)
    assert law(seq_len, micro_batch, h, n_heads, tp, 1) == pytest.approx(tensor, rel=1e-12, abs=0)
    assert law(seq_len, micro_batch, h, n_heads, tp, tp) == pytest.approx(sbh / tp * (34 + scores), rel=1e-12, abs=0)


@few
@given(sizes, degrees, degrees, st.integers(1, 256), st.integers(1, 64))
def test_saved_tensors_agree_with_korthikanti(
    seq_len: int, micro_batch: int, tp: int, n_heads: int, d_head: int
) -> None:
    """A GPT layer from the modern parts is the paper's selective form without its two dropout masks."""
    d_model = n_heads * d_head
    attention = activations.attention_activation_bytes(
        seq_len, micro_batch, d_model, n_heads, n_heads, d_head, tp, 1, bytes_per_lse=0
    )
    mlp = activations.gated_mlp_activation_bytes(seq_len, micro_batch, d_model, 4 * d_model, tp, 1, ff_tensors=2)
    masks = 2 * seq_len * micro_batch * d_model
    paper = activations.activation_bytes_per_layer_selective_korthikanti2022(seq_len, micro_batch, d_model, tp, 1)
    assert attention + mlp + masks == pytest.approx(paper, rel=1e-12, abs=0)


def test_gated_layer_counts_llama_8b() -> None:
    """By hand, per token: 4 x 4096 norms, 2 x 4096 Q and output, 2 x 1024 K and V, 3 x 14336, in 2 B; 32 x 4 B."""
    by_hand = 2 * (4 * 4096 + 2 * 4096 + 2 * 1024 + 3 * 14336) + 4 * 32
    law = activations.activation_bytes_per_layer_gated(1, 1, 4096, 14336, 32, 8, 128, tp=1, sequence_shards=1)
    assert law == pytest.approx(by_hand, rel=1e-12, abs=0)


@few
@given(st.integers(1, 10**12), st.integers(1, 4096))
def test_zero_stages_never_need_more(n_params: int, dp: int) -> None:
    stages = [(1, 1, 1), (1, 1, dp), (1, dp, dp), (dp, dp, dp)]
    states = [memory.model_state_bytes_per_rank(n_params, *shards) for shards in stages]
    assert states == sorted(states, reverse=True)
    assert states[3] * dp == pytest.approx(states[0], rel=1e-12, abs=0)


@few
@given(degrees, st.integers(1, 512), st.integers(2, 8), st.data())
def test_in_flight_order(pp: int, n_microbatches: int, vpp: int, data: st.DataObject) -> None:
    stage = data.draw(st.integers(0, pp - 1))
    one = pipeline.in_flight_microbatches_1f1b(n_microbatches, pp, stage)
    everything = pipeline.in_flight_microbatches_gpipe(n_microbatches)
    assert 1 <= one <= everything
    assert pipeline.in_flight_microbatches_1f1b(n_microbatches, pp) <= pipeline.in_flight_microbatches_interleaved(
        n_microbatches, pp, vpp
    )
    assert one <= zero_bubble.in_flight_microbatches_zb_h2(n_microbatches, pp) <= everything


def replay(pp: int, m: int, vpp: int, gpipe: bool, forward: float, backward: float) -> tuple[float, list[float]]:
    """Run a schedule by its dependencies: its time, and per rank the peak of micro-batches in flight (whole stages)."""
    total = m * vpp

    def order(rank: int) -> list[tuple[str, int, int]]:
        warm_up = total if gpipe else pp - rank - 1 if vpp == 1 else 2 * (pp - rank - 1) + (vpp - 1) * pp
        warm_up = min(warm_up, total)
        ahead = [(k % (pp * vpp) // pp, k // (pp * vpp) * pp + k % pp) for k in range(total)] if vpp > 1 else None
        forwards = [("F", *pair) for pair in ahead] if ahead else [("F", 0, k) for k in range(m)]
        back = [("B", vpp - 1 - chunk, batch) for _, chunk, batch in forwards]
        steady = [step for pair in zip(forwards[warm_up:], back, strict=False) for step in pair]
        return forwards[:warm_up] + steady + back[total - warm_up :]

    queues = [order(rank) for rank in range(pp)]
    clock, done, live, peak = [0.0] * pp, {}, [0] * pp, [0] * pp
    last = pp * vpp - 1
    while any(queues):
        for rank, queue in enumerate(queues):
            while queue:
                kind, chunk, batch = queue[0]
                stage = chunk * pp + rank
                if kind == "F":
                    needs = [("F", stage - 1, batch)] if stage else []
                else:
                    needs = [("F", stage, batch)] + ([("B", stage + 1, batch)] if stage < last else [])
                if not all(need in done for need in needs):
                    break
                start = max([clock[rank], *(done[need] for need in needs)])
                clock[rank] = done[kind, stage, batch] = start + (forward if kind == "F" else backward) / vpp
                live[rank] += 1 if kind == "F" else -1
                peak[rank] = max(peak[rank], live[rank])
                queue.pop(0)
    return max(clock), [count / vpp for count in peak]


@few
@given(st.integers(1, 6), st.integers(1, 12), st.booleans(), st.integers(1, 5), st.integers(1, 9))
def test_replayed_gpipe_and_1f1b(pp: int, m: int, gpipe: bool, forward: int, backward: int) -> None:
    seconds, peak = replay(pp, m, 1, gpipe, forward, backward)
    stage_s = forward + backward
    assert pipeline.pipeline_time(m, stage_s, stage_s, pp) == pytest.approx(seconds, rel=1e-12, abs=0)
    for rank in range(pp):
        law = pipeline.in_flight_microbatches_gpipe(m) if gpipe else pipeline.in_flight_microbatches_1f1b(m, pp, rank)
        assert peak[rank] == law


@few
@given(st.integers(2, 6), st.integers(1, 4), st.integers(2, 4), st.integers(1, 5), st.integers(1, 9))
def test_replayed_interleaved(pp: int, rounds: int, vpp: int, forward: int, backward: int) -> None:
    m = pp * rounds
    seconds, peak = replay(pp, m, vpp, False, forward, backward)
    stage_s = forward + backward
    assert pipeline.pipeline_time(m, stage_s, stage_s, pp, vpp) == pytest.approx(seconds, rel=1e-9, abs=0)
    for rank in range(pp):
        law = pipeline.in_flight_microbatches_interleaved(m, pp, vpp, rank)
        assert peak[rank] == pytest.approx(law, rel=1e-12, abs=0)


@few
@given(st.integers(1, 64), st.integers(1, 512), st.integers(1, 8))
def test_bubble_fraction_is_the_share_of_the_whole(pp: int, m: int, vpp: int) -> None:
    over_ideal = pipeline.pipeline_bubble_over_ideal(m, pp, vpp)
    fraction = pipeline.pipeline_bubble_fraction(m, pp, vpp)
    assert fraction == pytest.approx(over_ideal / (1 + over_ideal), rel=1e-12, abs=0)
    idle = pipeline.pipeline_bubble_time(3, pp, vpp) / pipeline.pipeline_time(m, 3, 3, pp, vpp)
    assert idle == pytest.approx(fraction, rel=1e-12, abs=0)


@few
@given(st.integers(1, 2**17), st.integers(1, 512))
def test_attention_io_is_continuous_where_a_tile_fits(seq_len: int, d_head: int) -> None:
    edge = d_head**2
    small = attention_io.attention_io_elements_small_cache(seq_len, d_head, edge)
    large = attention_io.attention_io_elements_large_cache(seq_len, d_head, edge)
    assert small == pytest.approx(seq_len**2, rel=1e-12, abs=0)
    assert large == pytest.approx(seq_len**2, rel=1e-12, abs=0)
    below = attention_io.attention_io_elements(seq_len, d_head, edge * (1 - 1e-9))
    assert below == pytest.approx(large, rel=1e-8, abs=0)


@few
@given(st.integers(64, 2**17), st.sampled_from([16, 32, 64, 128, 256]), st.floats(0, 1))
def test_attention_io_lies_between_its_bounds(seq_len: int, d_head: int, where: float) -> None:
    """From a d x d tile to all inputs in fast memory: compulsory <= law <= unfused, and FlashAttention-1 above."""
    cache = d_head**2 * max(1.0, seq_len / d_head) ** where
    law = attention_io.attention_io_lower_bound(seq_len, d_head, cache)
    assert seq_len * d_head <= law <= attention_io.unfused_attention_elements(seq_len, d_head)
    assert law <= attention_io.flash_attention_1_elements(seq_len, d_head, cache) <= 20 * law
    assert attention_io.attention_io_bytes(seq_len, d_head, cache) == pytest.approx(2 * law, rel=1e-12, abs=0)


@few
@given(st.integers(1, 300), st.integers(1, 32), st.integers(1, 5000))
def test_flash_attention_1_walk(seq_len: int, d_head: int, cache: int) -> None:
    """A literal walk through Algorithm 1 of arXiv:2205.14135, row blocks included."""
    columns = math.ceil(cache / (4 * d_head))
    rows = min(columns, d_head)
    moved = 0
    for column in range(0, seq_len, columns):
        moved += 2 * (min(seq_len, column + columns) - column) * d_head  # K_j, V_j
        for row in range(0, seq_len, rows):
            height = min(seq_len, row + rows) - row
            moved += 2 * height * d_head + 2 * height  # load Q_i, O_i, l_i, m_i
            moved += height * d_head + 2 * height  # store O_i, l_i, m_i
    assert attention_io.flash_attention_1_elements(seq_len, d_head, cache) == moved


@few
@given(sizes, sizes, st.integers(0, 10000))
def test_more_softmax_passes_never_read_less(seq_len: int, kv_len: int, buffer: int) -> None:
    reads = [attention_io.softmax_pass_elements(seq_len, kv_len, passes, buffer) for passes in (1, 2, 3)]
    assert reads == sorted(reads)
    assert reads[0] == seq_len * kv_len
    assert (reads[2] == reads[0]) == (kv_len <= buffer)


@few
@given(st.floats(0, 1), st.floats(1, 1e6), st.floats(0, 100), st.floats(100, 1000))
def test_energy_lies_between_idle_and_busy(share: float, total_s: float, idle_w: float, busy_w: float) -> None:
    energy = cost.energy_j(share * total_s, total_s, busy_w, idle_w)
    assert idle_w * total_s * (1 - 1e-12) <= energy <= busy_w * total_s * (1 + 1e-12)
    dollars = cost.energy_cost_usd(energy, usd_per_kwh=0.1, pue=1.2)
    assert dollars == pytest.approx(0.1 * 1.2 * energy / 3.6e6, rel=1e-12, abs=1e-300)


@few
@given(st.integers(1, 10000), st.floats(0.1, 20), st.floats(1, 1e7))
def test_price_of_tokens_is_price_of_time(accelerators: int, usd_per_hour: float, tokens_per_s: float) -> None:
    hour = cost.cost_usd(accelerators, 3600, usd_per_hour)
    assert hour == pytest.approx(accelerators * usd_per_hour, rel=1e-12, abs=0)
    mtok = cost.cost_usd_per_mtok(accelerators, usd_per_hour, tokens_per_s)
    assert mtok * tokens_per_s * 3600 / 1e6 == pytest.approx(hour, rel=1e-12, abs=0)
