"""Host and sparse products: closed forms against simulation and enumeration, crossovers where both sides are equal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.formulas.host import (
    coupled_break_even_batch,
    coupled_speedup,
    device_bound_batch,
    device_bound_batch_ratio,
    dispatched_time,
    eager_dispatch_time,
    fusion_speedup,
    graph_break_even_kernels,
    graph_replay_time,
    host_bound_time,
    launch_queue_time,
)
from perfmodel.formulas.matmul import matmul_bytes, matmul_flops
from perfmodel.formulas.overlap import host_exposed_time
from perfmodel.formulas.roofline import roofline_time
from perfmodel.formulas.sparse import (
    break_even_sparsity,
    compute_bound_rows,
    expected_padded_rows,
    expected_touched_groups,
    grouped_matmul_time,
    padded_group_rows,
    sparse_as_dense_time,
    sufficient_sparsity,
    tiled_csl_bytes,
    weight_only_bytes,
    weight_only_speedup,
)

A100 = (312e12, 2039e9)
micros = st.floats(1e-7, 1e-4)
ratios = st.floats(1.0, 8.0)


def launched(kernels: int, dispatch_s: float, launch_s: float, kernel_s: float) -> tuple[float, float]:
    """Sum of the waits from launch call to start, and the end, of one stream simulated kernel by kernel."""
    waits = end = 0.0
    for i in range(kernels):
        start = max(i * dispatch_s + launch_s, end)
        waits, end = waits + start - i * dispatch_s, start + kernel_s
    return waits, end


# Host


@given(st.integers(1, 200), micros, micros, micros)
def test_launch_queue_is_that_of_a_simulated_stream(kernels: int, dispatch: float, launch: float, work: float) -> None:
    waits, end = launched(kernels, dispatch, launch, work)
    assert launch_queue_time(kernels, dispatch, launch, work) == pytest.approx(waits, rel=1e-9, abs=0)
    assert dispatched_time(kernels, dispatch, launch, work) == pytest.approx(end, rel=1e-9, abs=0)


def test_launch_queue_is_flat_then_grows() -> None:
    below = [launch_queue_time(100, 5e-6, 2e-6, d) for d in (0.0, 1e-6, 5e-6)]
    assert below == [pytest.approx(200e-6, rel=1e-12, abs=0)] * 3
    above = launch_queue_time(100, 5e-6, 2e-6, 6e-6) - 200e-6
    assert launch_queue_time(100, 5e-6, 2e-6, 7e-6) - 200e-6 == pytest.approx(2 * above, rel=1e-9, abs=0)


@given(st.integers(1, 2000), micros, micros)
def test_a_long_stream_is_the_slower_of_host_and_device(kernels: int, dispatch: float, work: float) -> None:
    host, device = eager_dispatch_time(kernels, dispatch), kernels * work
    bound = host_bound_time(device, host)
    assert bound == pytest.approx(device + host_exposed_time(device, host), rel=1e-9, abs=0)
    exact = dispatched_time(kernels, dispatch, dispatch, work)
    assert bound <= exact * (1 + 1e-9)
    assert exact <= bound + dispatch + work


@given(micros, micros, st.floats(0, 0.9))
def test_graph_breaks_even(launch: float, graph_launch: float, share: float) -> None:
    kernels = graph_break_even_kernels(launch, graph_launch, share)

    def replay(n: float) -> float:
        return float(graph_replay_time(n, graph_launch, share * launch))

    assert eager_dispatch_time(kernels, launch) == pytest.approx(replay(kernels), rel=1e-9, abs=0)
    assert eager_dispatch_time(1.1 * kernels, launch) > replay(1.1 * kernels)


@given(micros, st.floats(0, 0.9), micros)
def test_transition_batch_is_where_host_and_device_are_equal(dispatch: float, share: float, item: float) -> None:
    fixed = share * dispatch
    batch = device_bound_batch(dispatch, fixed, item)
    assert fixed + item * batch == pytest.approx(dispatch, rel=1e-9, abs=0)
    assert device_bound_batch(dispatch, 2 * dispatch, item) == 0


@given(micros, st.floats(0, 0.9), micros, ratios, ratios)
def test_coupled_part(dispatch: float, share: float, item: float, slowdown: float, speedup: float) -> None:
    fixed = share * dispatch
    pcie = device_bound_batch(dispatch, fixed, item)
    coupled = device_bound_batch(slowdown * dispatch, fixed / speedup, item / speedup)
    assert device_bound_batch_ratio(slowdown, speedup, share) == pytest.approx(coupled / pcie, rel=1e-9, abs=0)

    def gain(batch: float) -> float:
        work = fixed + item * batch
        times = host_bound_time(work, dispatch), host_bound_time(work / speedup, slowdown * dispatch)
        assert coupled_speedup(work / dispatch, slowdown, speedup) == pytest.approx(
            times[0] / times[1], rel=1e-9, abs=0
        )
        return float(times[0] / times[1])

    even = coupled_break_even_batch(dispatch, slowdown, fixed, item)
    assert pcie * (1 - 1e-9) <= even <= coupled * (1 + 1e-9)
    assert gain(even) == pytest.approx(1, rel=1e-9, abs=0)
    assert gain(0) == pytest.approx(1 / slowdown, rel=1e-9, abs=0)
    assert gain(2 * coupled) == pytest.approx(speedup, rel=1e-9, abs=0)


@given(st.integers(0, 20), st.integers(1, 16), st.integers(1, 100))
def test_fusion_counts_launches(chains: int, length: int, alone: int) -> None:
    before, after = chains * length + alone, chains + alone
    assert fusion_speedup(chains * length / before, length) == pytest.approx(before / after, rel=1e-9, abs=0)


# Sparse weights


def test_tiled_csl_is_the_packed_format() -> None:
    rng = np.random.default_rng(3)
    weights = rng.random((1024, 512)) >= 0.8
    items = weights.reshape(8, 128, 8, 64).sum(axis=(1, 3))
    packed = 4 * (-(-items // 4) * 4).sum() + 4 * items.size
    assert tiled_csl_bytes(1024, 512, 1 - weights.mean()) == pytest.approx(packed, rel=5e-4, abs=0)


def test_break_even_sparsity_is_where_bytes_are_equal() -> None:
    sparsity = break_even_sparsity()
    assert tiled_csl_bytes(4096, 4096, sparsity) == pytest.approx(2 * 4096**2, rel=1e-12, abs=0)
    assert 0.5 < sparsity < 0.501
    dense = roofline_time(matmul_flops(8, 4096, 4096), matmul_bytes(8, 4096, 4096), *A100)
    assert sparse_as_dense_time(8, 4096, 4096, sparsity, *A100) == pytest.approx(dense, rel=1e-12, abs=0)
    assert sparse_as_dense_time(8, 4096, 4096, sparsity + 0.1, *A100) < dense


@given(st.integers(1, 4096), st.sampled_from([1024, 4096, 12288]), st.sampled_from([1024, 4096]), st.floats(0, 1))
def test_sparse_as_dense(m: int, n: int, k: int, sparsity: float) -> None:
    arithmetic_s = matmul_flops(m, n, k) / A100[0]
    assert sparse_as_dense_time(m, n, k, sparsity, *A100) >= arithmetic_s
    enough = sufficient_sparsity(m, n, k, *A100)
    if 0 < enough < 0.99:
        # The offsets and padding that `sufficient_sparsity` leaves out are worth 0.0003 of sparsity.
        assert sparse_as_dense_time(m, n, k, enough + 4e-4, *A100) == pytest.approx(arithmetic_s, rel=1e-12, abs=0)
        assert sparse_as_dense_time(m, n, k, enough - 0.01 * enough, *A100) > arithmetic_s


# Quantised weights


@given(st.floats(0.2, 1.9), st.floats(1e12, 1e16), st.floats(1e11, 1e13), st.floats(0, 1e5))
def test_weight_only_speedup(quantised: float, flop_per_s: float, byte_per_s: float, rows: float) -> None:
    rates = flop_per_s, byte_per_s
    first, last = compute_bound_rows(*rates, quantised), compute_bound_rows(*rates, 2.0)
    most = 2 / quantised
    assert 1 <= weight_only_speedup(rows, *rates, quantised) <= most * (1 + 1e-9)
    assert weight_only_speedup(first, *rates, quantised) == pytest.approx(most, rel=1e-9, abs=0)
    assert weight_only_speedup(1.1 * first, *rates, quantised) < most
    assert weight_only_speedup(last, *rates, quantised) == pytest.approx(1, rel=1e-9, abs=0)
    assert weight_only_speedup(0.95 * last, *rates, quantised) > 1


def test_sparse_marlin_speedup() -> None:
    # doi:10.5281/zenodo.14213091 says 5.3 for 4 bits with 2:4 sparsity, not in which groups: scales of whole columns.
    column, groups = (2 / weight_only_bytes(4, size, kept_share=0.5, place_bits=2) for size in (4096, 128))
    assert column == pytest.approx(5.3, rel=0.01, abs=0)
    assert groups < column


# Groups


@given(st.integers(1, 3000), st.integers(1, 64), st.sampled_from([1, 16, 64, 128]))
def test_equal_groups_are_padded_one_by_one(size: int, groups: int, tile: int) -> None:
    exact = groups * tile * -(-size // tile)
    assert padded_group_rows(float(size * groups), groups, tile) == exact
    assert exact >= size * groups


def test_expected_padding_and_touched_groups_against_draws() -> None:
    rng = np.random.default_rng(5)
    sizes = rng.multinomial(64 * 1024, np.full(64, 1 / 64), size=400)
    padded = (-(-sizes // 16) * 16).sum(axis=1).mean()
    assert expected_padded_rows(64 * 1024, 64, 16) == pytest.approx(padded, rel=5e-4, abs=0)
    assert expected_padded_rows(64 * 1024, 64, 16) - 64 * 1024 == pytest.approx(padded - 64 * 1024, rel=0.03, abs=0)
    touched = (rng.multinomial(48, np.full(64, 1 / 64), size=4000) > 0).sum(axis=1).mean()
    assert expected_touched_groups(48, 64) == pytest.approx(touched, rel=0.005, abs=0)


@given(st.integers(1, 64), st.integers(1, 2048), st.sampled_from([1, 64, 128]))
def test_grouped_product_is_never_below_its_parts(groups: int, size: int, tile: int) -> None:
    one = roofline_time(matmul_flops(size, 2048, 1024), matmul_bytes(size, 2048, 1024), *A100)
    together = grouped_matmul_time(float(groups * size), groups, 2048, 1024, tile, *A100)
    assert together >= groups * one * (1 - 1e-9)
    if size % tile == 0:
        assert together == pytest.approx(groups * one, rel=1e-9, abs=0)
