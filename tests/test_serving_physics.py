"""The engine of serving: rounds of an all-reduce, experts shared by attention groups, formats, kinds of layers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.predict.layout import make_layout
from perfmodel.predict.serving.all_reduce import EngineAllReduce, two_shot_blocks
from perfmodel.predict.serving.engine import Engine
from perfmodel.predict.serving.load import Load
from perfmodel.predict.serving.memory import ServingMemory, weights_per_rank
from perfmodel.predict.serving.precisions import make_precisions
from perfmodel.specs.efficiency import load_efficiency
from perfmodel.specs.serving_software import load_serving_software

LLAMA, DEEPSEEK, FALCON = "llama-3.1-70b", "deepseek-v3", "falcon-180b"
HYBRIDS = ("nemotron-h-8b", "granite-4.0-h-small", "minimax-text-01", "mamba-codestral-7b")


def engine(model: str, cluster: str = "dgx-h100", software: str = "vllm-2025", *, weights: str = "bf16",
           kv_cache: str | None = None, **layout: int) -> Engine:  # fmt: skip
    machine = pm.load_cluster(cluster)
    constants = load_efficiency(machine.accelerator.id, machine.accelerator.relative)
    return Engine(
        pm.load_model(model), machine, constants, load_serving_software(software), make_layout(layout or {"tp": 8}),
        make_precisions(weights, None, kv_cache),
    )  # fmt: skip


def memory(model: str, *, weights: str = "fp8-block", kv_cache: str = "bf16", software: str = "vllm-2025",
           **layout: int) -> ServingMemory:  # fmt: skip
    machine = pm.load_cluster("dgx-h200").accelerator
    return ServingMemory(
        pm.load_model(model), load_serving_software(software), make_layout(layout),
        make_precisions(weights, None, kv_cache), float(machine.capacity_bytes),
    )  # fmt: skip


def decode_s(one: Engine, sequences: float, kv_len: float) -> float:
    return float(one.decode(sequences, kv_len).cost.seconds)


# The all-reduce of 2024


def published_launch(loads: int, most: int) -> tuple[int, int]:
    """The two loops of kernelLaunchConfig, TensorRT-LLM 0.9.0, and the rounds that its block size leaves."""
    threads, blocks = -(-loads // 32) * 32, 1
    while threads % blocks or threads / blocks > 1024:
        blocks += 1
    wanted = blocks
    if blocks > most:
        factor = 1
        while blocks / factor > most or blocks % factor:
            factor += 1
        blocks //= factor
    return blocks, wanted // blocks


@given(loads=st.integers(1, 200_000), most=st.sampled_from([8, 24, 36]))
@settings(max_examples=150, deadline=None)
def test_blocks_are_those_of_the_published_loops(loads: int, most: int) -> None:
    assert two_shot_blocks(float(loads), most) == published_launch(loads, most)


def test_a_prime_factor_of_the_width_stays_in_the_rounds() -> None:
    tokens, ranks, per_load = 128, 8, 8
    assert two_shot_blocks(tokens * 14848 / ranks / per_load, 24) == (1.0, 29.0)
    assert two_shot_blocks(tokens * 8192 / ranks / per_load, 24) == (16.0, 1.0)


def sums(software: str = "tensorrt-llm-2024") -> EngineAllReduce:
    return engine(FALCON, software=software, weights="fp8", tp=8).layers.sums


def test_falcon_waits_for_one_block_and_long_messages_for_nccl() -> None:
    of_2024, of_2025 = sums(), sums("tensorrt-llm-2025")
    short, long = float(of_2024.cost(128.0, 14848.0, 8.0).seconds), float(of_2024.cost(2048.0, 14848.0, 8.0).seconds)
    assert short > 5 * float(of_2025.cost(128.0, 14848.0, 8.0).seconds)
    assert short > long / 2, "16 times the tokens cost less than twice as much over NCCL"
    assert float(of_2024.cost(128.0, 14848.0, 1.0).seconds) == 0.0


def test_sums_of_arrays_are_those_of_their_elements() -> None:
    tokens = np.array([1.0, 16.0, 33.0, 128.0, 600.0])
    found = sums().cost(tokens, 14848.0, 8.0).seconds
    assert found == pytest.approx([float(sums().cost(one, 14848.0, 8.0).seconds) for one in tokens], rel=1e-12, abs=0)


# Experts shared by attention groups


def test_attention_groups_keep_more_of_a_latent_cache() -> None:
    together = memory(DEEPSEEK, tp=8, ep=8)
    apart = memory(DEEPSEEK, tp=1, dp=8, attention_dp=8, ep=8)
    held = [float(one.blocks(8192.0, 32.0)) for one in (together, apart)]
    # Every tensor-parallel rank keeps the whole latent; a group keeps its own sequences only.
    assert 8 * held[1] > 3 * held[0]
    assert together.block_bytes == apart.block_bytes


def test_experts_are_cut_alike_and_attention_is_copied() -> None:
    model = pm.load_model(DEEPSEEK)
    one = make_precisions("fp8-block", None, None)
    tensor, groups = (
        weights_per_rank(model, make_layout(layout), one)
        for layout in ({"tp": 8, "ep": 8}, {"tp": 1, "dp": 8, "attention_dp": 8, "ep": 8})
    )
    experts = sum(
        count * sum(product.params for product in model.products(kind) if product.experts) * model.n_experts
        for kind, count in model.layer_groups
    )
    assert tensor > one.weight_bytes * experts / 8
    assert groups > tensor
    assert groups - one.weight_bytes * experts / 8 > 4 * (tensor - one.weight_bytes * experts / 8)


def test_a_rank_of_experts_works_for_all_groups() -> None:
    tensor = engine(DEEPSEEK, "dgx-h200", "sglang-2025", weights="fp8-block", tp=8, ep=8)
    groups = engine(DEEPSEEK, "dgx-h200", "sglang-2025", weights="fp8-block", tp=1, dp=8, attention_dp=8, ep=8)
    kind = next(kind for kind, _ in tensor.model.layer_groups if kind.ffn == "experts")
    costs = [one.layers.costs(kind, Load(sequences=n, kv_len=4096.0)) for one, n in ((tensor, 256.0), (groups, 32.0))]
    for name in ("experts", "expert_parallel"):
        assert float(costs[0][name].seconds) == pytest.approx(float(costs[1][name].seconds), rel=1e-12, abs=0)
    assert float(costs[1]["attention"].seconds) < float(costs[0]["attention"].seconds)
    assert float(costs[1]["tensor_parallel"].seconds) == 0.0
    # Without expert parallelism every rank has a slice of every expert, so tokens are gathered and results summed.
    slices = engine(DEEPSEEK, "dgx-h200", "sglang-2025", weights="fp8-block", tp=1, dp=8, attention_dp=8)
    assert float(slices.layers.costs(kind, Load(sequences=32.0, kv_len=4096.0))["expert_parallel"].seconds) > 0.0


def test_tokens_that_choose_alike_read_fewer_experts() -> None:
    one = engine("mixtral-8x7b", software="tensorrt-llm-2024", tp=2)
    alike = one.choosing_alike()
    assert decode_s(alike, 32.0, 1024.0) < decode_s(one, 32.0, 1024.0)
    # A single token reads as many either way; the kernel's row padding differs by how copies fall.
    assert decode_s(alike, 1.0, 1024.0) == pytest.approx(decode_s(one, 1.0, 1024.0), rel=0.05, abs=0)


# Formats

NARROWER = {
    "dgx-h100": ("bf16", "fp8"),
    "dgx-b200": ("bf16", "fp8", "nvfp4"),
    "dgx-a100-80gb": ("bf16", "int8", "int4"),
}


@pytest.mark.parametrize("cluster", NARROWER)
@given(sequences=st.integers(1, 8), kv_len=st.integers(64, 8192), tp=st.sampled_from([1, 2]))
@settings(max_examples=8, deadline=None)
def test_narrower_weights_are_never_slower_where_memory_binds(
    cluster: str, sequences: int, kv_len: int, tp: int
) -> None:
    times = [decode_s(engine(LLAMA, cluster, weights=one, tp=tp), sequences, kv_len) for one in NARROWER[cluster]]
    assert times == sorted(times, reverse=True)


@given(sequences=st.integers(1, 256), kv_len=st.integers(256, 32768))
@settings(max_examples=15, deadline=None)
def test_a_narrower_cache_is_never_slower_beyond_its_own_launch(sequences: int, kv_len: int) -> None:
    wide, narrow = (decode_s(engine(LLAMA, kv_cache=one), sequences, kv_len) for one in ("bf16", "fp8"))
    # A kernel that widens its keys starts a little later (2.7 us in the tables), 80 times here.
    assert narrow <= wide + 80 * 5e-6


@pytest.mark.parametrize("model", [LLAMA, DEEPSEEK, "qwen3-32b", "gpt-oss-120b"])
def test_an_8_bit_cache_takes_half_of_the_bytes(model: str) -> None:
    wide, narrow = (memory(model, weights="bf16", kv_cache=one, tp=8).block_bytes for one in ("bf16", "fp8"))
    assert wide == 2 * narrow


@pytest.mark.parametrize(
    ("weights", "bytes_per_weight"),
    [
        ("bf16", 2.0),
        ("fp8", 1.0),
        ("int8", 1.0),
        ("int4", 0.5 + 2 / 128),
        ("nvfp4", 0.5 + 1 / 16),
        ("mxfp4", 0.5 + 1 / 32),
    ],
)
def test_weights_take_what_their_format_says(weights: str, bytes_per_weight: float) -> None:
    assert make_precisions(weights, None, None).weight_bytes == pytest.approx(bytes_per_weight, rel=1e-12, abs=0)


# Each engine's meaning of its memory fraction


def test_memory_fractions_mean_what_their_engines_say() -> None:
    held = {name: memory(LLAMA, weights="bf16", software=name, tp=8) for name in ("vllm-2025", "sglang-2025")}
    free = memory(LLAMA, weights="bf16", software="tensorrt-llm-2025", tp=8)
    for name, one in held.items():
        f, beside = float(one.software.memory_fraction), one.activations(8192.0, 64.0)
        inside = beside + float(one.software.workspace_bytes) if name == "vllm-2025" else 0.0
        blocks = (f * one.capacity_bytes - one.weights - inside) / one.block_bytes
        assert float(one.blocks(8192.0, 64.0)) == np.floor(blocks)
    left = free.capacity_bytes - free.weights - free.activations(8192.0, 64.0) - float(free.software.workspace_bytes)
    assert float(free.blocks(8192.0, 64.0)) == np.floor(float(free.software.memory_fraction) * left / free.block_bytes)


# Kinds of layers


@pytest.mark.parametrize("model", [*HYBRIDS, "gemma-3-27b", "gpt-oss-120b", DEEPSEEK, LLAMA, FALCON])
def test_every_kind_of_layer_takes_arrays(model: str) -> None:
    one = engine(model, "dgx-h200", tp=8)
    loads = [(4.0, 1024.0), (64.0, 4096.0)]
    many = one.iteration(Load(1.0, 512.0, 0.0, np.array([n for n, _ in loads]), np.array([kv for _, kv in loads])))
    for at, (sequences, kv_len) in enumerate(loads):
        alone = one.iteration(Load(1.0, 512.0, 0.0, sequences, kv_len))
        assert float(many.cost.seconds[at]) == pytest.approx(float(alone.cost.seconds), rel=1e-9, abs=0)


def test_a_state_space_decodes_at_one_speed() -> None:
    one = engine("mamba-codestral-7b", tp=1)
    assert decode_s(one, 8.0, 128.0) == decode_s(one, 8.0, 131072.0)


def test_a_window_bounds_what_decode_reads() -> None:
    one = engine("gemma-3-27b", tp=4)
    window = next(kind for kind, _ in one.model.layer_groups if kind.mixer == "window")
    full = next(kind for kind, _ in one.model.layer_groups if kind.mixer == "attention")
    times = {
        kind: [
            float(one.layers.costs(kind, Load(sequences=32.0, kv_len=kv))["attention"].seconds) for kv in (8e3, 64e3)
        ]
        for kind in (window, full)
    }
    assert times[window][0] == times[window][1]
    assert times[full][1] > 4 * times[full][0]


def test_hybrids_slow_down_less_with_length_than_attention_alone() -> None:
    for model in HYBRIDS:
        mixed, pure = engine(model, tp=8), engine(LLAMA, tp=8)
        slower = [decode_s(one, 32.0, 32768.0) / decode_s(one, 32.0, 2048.0) for one in (mixed, pure)]
        assert slower[0] < slower[1], model
