"""Attention kernels: laws that may not break, and held-out head configurations of the measured tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.calibrate.attention import LARGE, SMALL
from perfmodel.calibrate.tables import is_calibrate, load_table
from perfmodel.errors import PlanError
from perfmodel.formulas.attention import attention_core_flops, attention_traffic_bytes, causal_tiles
from perfmodel.formulas.attention_io import attention_io_bytes
from perfmodel.predict.cost import Cost
from perfmodel.predict.kernels import Kernels
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.efficiency import load_efficiency

PARTS = ("a100-sxm-80gb", "h100-sxm")
PREFILL = {"a100-sxm-80gb": "flash-2", "h100-sxm": "flash-3"}
CASES = ("prefill", "backward", "decode", "mla_prefill", "mla_decode")
accelerators = {id: load_accelerator(id) for id in PARTS}
efficiencies = {id: load_efficiency(id) for id in PARTS}

each_part = st.sampled_from(PARTS)
each_case = st.sampled_from(CASES)
batches = st.integers(1, 512)
lengths = st.integers(1, 200_000)
groups = st.sampled_from([1, 2, 4, 8, 12])
key_heads = st.sampled_from([1, 2, 4, 8, 16])


def kernels(part: str, accelerator: Accelerator | None = None) -> Kernels:
    return Kernels(accelerator or accelerators[part], efficiencies[part], "bf16")


def cost(own: Kernels, part: str, case: str, batch: Any, length: Any, n_heads: Any, n_kv_heads: Any) -> Cost:
    if case == "decode":
        return own.decode_attention(batch, length, n_heads, n_kv_heads, 128.0, library="vllm")
    if case == "mla_decode":
        return own.mla_decode(batch, length, n_heads, library="tensorrt-llm")
    if case == "mla_prefill":
        return own.mla_prefill(batch, length, n_heads, library="tensorrt-llm")
    backward = case == "backward"
    library = PREFILL[part]
    return own.flash_attention(batch, length, n_heads, n_kv_heads, 128.0, library=library, backward=backward)


# Laws


@given(each_part, each_case, batches, lengths, groups, key_heads)
@settings(max_examples=400, deadline=None)
def test_never_below_the_data_sheet_roofline(
    part: str, case: str, batch: int, length: int, group: int, heads: int
) -> None:
    own, found = kernels(part), cost(kernels(part), part, case, batch, length, group * heads, heads)
    if case in ("prefill", "backward", "mla_prefill"):
        # Causal work without the half tile on the diagonal, in units of one forward pass.
        widths = 160 if case == "mla_prefill" else 128
        work = 2.5 if case == "backward" else 1.0
        flops = work * attention_core_flops(batch, length, group * heads, widths, 0.5)
        key_value_heads = group * heads if case == "mla_prefill" else heads
        n_bytes = 4.0 * batch * length * widths * (group * heads + key_value_heads)
    elif case == "decode":
        flops, n_bytes = 4.0 * batch * length * group * heads * 128, 4.0 * batch * length * heads * 128
    else:
        flops, n_bytes = 2.0 * batch * length * group * heads * 1088, 2.0 * batch * length * 576
    assert found.seconds >= max(flops / own.attention_flop_per_s, n_bytes / own.byte_per_s)
    assert found.lower <= found.seconds * (1 + 1e-12)
    assert found.seconds <= found.upper * (1 + 1e-12)


@given(each_part, each_case, batches, lengths, groups, key_heads, st.floats(1.05, 8.0))
@settings(max_examples=300, deadline=None)
def test_more_bandwidth_is_never_slower(
    part: str, case: str, batch: int, length: int, group: int, heads: int, ratio: float
) -> None:
    before = cost(kernels(part), part, case, batch, length, group * heads, heads)
    fast = kernels(part)
    fast.byte_per_s *= ratio
    assert cost(fast, part, case, batch, length, group * heads, heads).seconds <= before.seconds * (1 + 1e-12)


@given(each_part, each_case, batches, lengths, st.integers(1, 5000), groups, key_heads)
@settings(max_examples=400, deadline=None)
def test_longer_is_never_faster(
    part: str, case: str, batch: int, length: int, more: int, group: int, heads: int
) -> None:
    own = kernels(part)
    short, long = (cost(own, part, case, batch, x, group * heads, heads).seconds for x in (length, length + more))
    assert long >= short * (1 - 1e-12)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("case", CASES)
def test_scalars_equal_arrays(part: str, case: str) -> None:
    rng = np.random.default_rng(3)
    batch, length = rng.integers(1, 512, 40).astype(float), rng.integers(1, 90_000, 40).astype(float)
    heads = rng.choice([1.0, 2.0, 8.0], 40)
    n_heads = heads * rng.choice([1.0, 4.0, 8.0], 40)
    own = kernels(part)
    many = cost(own, part, case, batch, length, n_heads, heads)
    for i in range(40):
        one = cost(own, part, case, *(float(x[i]) for x in (batch, length, n_heads, heads)))
        for name in ("seconds", "lower", "upper", "compute_s", "memory_s"):
            assert isinstance(getattr(one, name), float)
            assert getattr(many, name)[i] == pytest.approx(getattr(one, name), rel=1e-12, abs=0)


@given(batches, st.integers(1, 4_000_000), groups, key_heads, st.sampled_from([64, 128, 256]))
def test_traffic_is_never_below_the_io_lower_bound(batch: int, length: int, group: int, heads: int, width: int) -> None:
    for part in PARTS:
        cache = float(accelerators[part].l2_bytes)
        n_bytes = attention_traffic_bytes(batch, length, length, group * heads, heads, width, width, cache)
        assert n_bytes >= batch * group * heads * attention_io_bytes(length, width, cache / 2)
        assert n_bytes >= 4 * batch * length * width * (group + 1) * heads


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 100), st.sampled_from([1, 3, 8]))
def test_tiles_against_a_walk_over_the_blocks(queries: int, past: int, window: int, rows: int) -> None:
    blocks, earlier, widest = -(-queries // rows), -(-past // rows), -(-window // rows) + 1
    walked = sum(min(block + earlier, widest) for block in range(1, blocks + 1))
    assert causal_tiles(queries, past, window, rows) == walked


def test_a_window_bounds_both_phases() -> None:
    own = kernels("h100-sxm")
    full, wide, narrow = (
        own.flash_attention(1, 32768, 32, 8, 128, library="flash-3", window=w).seconds for w in (None, 32768, 1024)
    )
    assert narrow < 0.15 * full
    assert wide == full
    decode = {w: own.decode_attention(64, 32768, 32, 8, 128, library="vllm", window=w).seconds for w in (None, 4096)}
    assert decode[4096] == own.decode_attention(64, 4096, 32, 8, 128, library="vllm").seconds
    assert decode[4096] < 0.25 * decode[None]


def test_a_prompt_in_two_chunks_costs_little_more_than_in_one() -> None:
    own = kernels("h100-sxm")
    chunks = [own.flash_attention(4, 8192, 32, 8, 128, library="flash-3", past_len=past) for past in (0, 8192)]
    whole = own.flash_attention(4, 16384, 32, 8, 128, library="flash-3")
    assert 1.0 <= sum(chunk.seconds for chunk in chunks) / whole.seconds < 1.05


def test_a_cache_in_fp8_is_read_faster_and_an_unknown_one_refused() -> None:
    own = kernels("h100-sxm")
    sizes = (256, 8192, 32, 8, 128)
    half = own.decode_attention(*sizes, kv_dtype="fp8", library="vllm").seconds
    assert 0.4 < half / own.decode_attention(*sizes, library="vllm").seconds < 0.65
    without_own = kernels("a100-sxm-80gb").decode_attention(*sizes, kv_dtype="fp8", library="vllm").seconds
    assert without_own < 0.6 * kernels("a100-sxm-80gb").decode_attention(*sizes, library="vllm").seconds
    with pytest.raises(PlanError, match="precision of the cache 'int3'"):
        own.decode_attention(*sizes, kv_dtype="int3", library="vllm")
    with pytest.raises(PlanError, match="unknown decode attention library 'vlm'; nearest: 'vllm"):
        own.decode_attention(*sizes, library="vlm")


# Held-out head configurations. (table, library, cache) -> bounds on the median and the 90th percentile of
# |ln(predicted / measured)|: the figures when this was written and a point or two, so that a refit has room.

HELD_OUT = {
    ("attention_prefill_bf16", "a100-sxm-80gb", "vllm", "bf16"): (0.045, 0.11),
    ("attention_prefill_bf16", "a100-sxm-80gb", "tensorrt-llm", "bf16"): (0.03, 0.06),
    # 512 to 1024 tokens of few heads: blocks of 128 rows come in too few waves for a law without rounding.
    ("attention_prefill_bf16", "h100-sxm", "vllm", "bf16"): (0.04, 0.13),
    ("attention_prefill_bf16", "h100-sxm", "tensorrt-llm", "bf16"): (0.045, 0.11),
    ("attention_decode", "a100-sxm-80gb", "vllm", "bf16"): (0.045, 0.10),
    ("attention_decode", "h100-sxm", "vllm", "bf16"): (0.035, 0.09),
    ("attention_decode", "h100-sxm", "vllm", "fp8"): (0.03, 0.08),
    # Two kernels, one for grouped heads and one for the others, which begin to read at different batch sizes.
    ("attention_decode", "h100-sxm", "tensorrt-llm", "bf16"): (0.05, 0.15),
    ("attention_decode", "h100-sxm", "tensorrt-llm", "fp8"): (0.06, 0.18),
    ("mla_decode", "a100-sxm-80gb", "tensorrt-llm", "bf16"): (0.025, 0.05),
    ("mla_decode", "h100-sxm", "tensorrt-llm", "bf16"): (0.035, 0.12),
    ("mla_decode", "h100-sxm", "tensorrt-llm", "fp8"): (0.04, 0.14),
    ("mla_prefill", "a100-sxm-80gb", "tensorrt-llm", "bf16"): (0.045, 0.09),
    ("mla_prefill", "h100-sxm", "tensorrt-llm", "bf16"): (0.045, 0.12),
    ("mla_prefill", "h100-sxm", "tensorrt-llm", "fp8"): (0.035, 0.09),
}


@pytest.mark.parametrize(("key", "bounds"), HELD_OUT.items(), ids=["-".join(key) for key in HELD_OUT])
def test_held_out_heads_are_predicted(key: tuple[str, str, str, str], bounds: tuple[float, float]) -> None:
    table, part, library, kv_dtype = key
    rows = load_table(table, part)
    rows = rows[~is_calibrate(table, rows)]
    names = rows.dtype.names or ()
    if "library" in names:
        rows = rows[rows["library"] == library]
    if "kv_dtype" in names:
        rows = rows[rows["kv_dtype"] == kv_dtype]
    own = kernels(part)
    batch, heads = rows["batch"].astype(float), rows["n_heads"].astype(float)
    length = rows["seq_len" if "seq_len" in names else "kv_len"].astype(float)
    width = 1.0 if kv_dtype == "fp8" else 2.0
    kept = length >= 1024
    if table == "attention_prefill_bf16":
        name = PREFILL[part] if library == "vllm" else library
        found = own.flash_attention(batch, length, heads, rows["n_kv_heads"] * 1.0, 128.0, library=name)
    elif table == "attention_decode":
        kv_heads = rows["n_kv_heads"] * 1.0
        found = own.decode_attention(batch, length, heads, kv_heads, 128.0, kv_dtype=kv_dtype, library=library)
        kept = 2 * width * batch * length * kv_heads * 128 >= LARGE
    elif table == "mla_decode":
        found = own.mla_decode(batch, length, heads, kv_dtype=kv_dtype, library=library)
        kept = width * batch * length * 576 >= LARGE
    else:
        found = own.mla_prefill(batch, length, heads, kv_dtype=kv_dtype, library=library)
    error = np.abs(np.log(found.seconds / (rows["latency_us"] * 1e-6)))[kept]
    assert len(error) >= 40
    assert np.median(error) < bounds[0]
    assert np.quantile(error, 0.9) < bounds[1]


def test_small_caches_see_the_floor_and_middle_ones_are_cold() -> None:
    """Between the two sizes a benchmark repeats out of L2, so the table is faster than the prediction, never slower."""
    rows = load_table("attention_decode", "h100-sxm")
    rows = rows[(rows["library"] == "vllm") & (rows["kv_dtype"] == "bf16")]
    n_bytes = 512.0 * rows["batch"] * rows["kv_len"] * rows["n_kv_heads"]
    sizes = [rows[name] * 1.0 for name in ("batch", "kv_len", "n_heads", "n_kv_heads", "d_head")]
    error = np.log(kernels("h100-sxm").decode_attention(*sizes, library="vllm").seconds / (rows["latency_us"] * 1e-6))
    assert np.median(np.abs(error[n_bytes <= SMALL])) < 0.07
    middle = error[(n_bytes > SMALL) & (n_bytes < LARGE)]
    assert 0.0 < np.median(middle) < 0.4


def test_latent_decode_on_ampere_takes_as_long_for_one_sequence_as_for_thirty_two() -> None:
    own = kernels("a100-sxm-80gb")
    one, many = (own.mla_decode(batch, 8192, 16, library="tensorrt-llm").seconds for batch in (1, 32))
    assert many < 1.02 * one
    assert own.mla_decode(1024, 8192, 16, library="tensorrt-llm").seconds > 12 * one


def test_hopper_splits_a_single_long_sequence() -> None:
    own = kernels("h100-sxm")
    one = own.decode_attention(1, 131072, 32, 8, 128, library="vllm")
    n_bytes = 2 * 2 * 131072 * 8 * 128
    assert n_bytes / one.seconds > 0.6 * own.byte_per_s


@pytest.mark.parametrize(("case", "bound"), [("prefill", 0.15), ("decode", 0.25)])
def test_constants_of_one_part_transfer_to_the_other_through_its_data_sheet(case: str, bound: float) -> None:
    """A100 constants with H100 peaks, cores and cache: worse than its own (0.03), far better than the roofline."""
    own = Kernels(accelerators["h100-sxm"], efficiencies["a100-sxm-80gb"], "bf16")
    rows = load_table("attention_prefill_bf16" if case == "prefill" else "attention_decode", "h100-sxm")
    length = rows["seq_len" if case == "prefill" else "kv_len"] * 1.0
    batch, n_heads, n_kv_heads = (rows[name] * 1.0 for name in ("batch", "n_heads", "n_kv_heads"))
    found = cost(own, "h100-sxm", case, batch, length, n_heads, n_kv_heads).seconds
    n_bytes = 512.0 * batch * length * n_kv_heads
    kept = (rows["library"] == "vllm") & (length >= 1024)
    if case == "decode":
        kept = (rows["library"] == "vllm") & (rows["kv_dtype"] == "bf16") & (n_bytes >= LARGE)
    error = np.abs(np.log(found / (rows["latency_us"] * 1e-6)))[kept]
    assert np.median(error) < bound


def test_every_size_that_a_planner_may_ask_for_has_a_finite_time() -> None:
    rng = np.random.default_rng(5)
    batch, length = 2.0 ** rng.integers(0, 12, 20_000), np.floor(2.0 ** rng.uniform(0, 20, 20_000))
    heads = rng.integers(1, 128, 20_000).astype(float)
    for part in PARTS:
        for case in CASES:
            seconds = cost(kernels(part), part, case, batch, length, heads, np.minimum(heads, 8.0)).seconds
            assert seconds.shape == batch.shape
            assert np.isfinite(seconds).all()
            assert (seconds > 0).all()
