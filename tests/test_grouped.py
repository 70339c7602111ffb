"""Routed experts: the table and its loads, the law against it and the data sheet, its bounds, limits and transfer."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from perfmodel.calibrate.grouped import GROUPED_FORMATS, fit_grouped, grouped_choices
from perfmodel.calibrate.tables import load_table
from perfmodel.calibrate.thin_moe import MOE_GROUPS, balanced_load, power_law_load
from perfmodel.errors import PlanError
from perfmodel.formulas.grouped import expert_rows, group_tile_count, routed_activation_bytes
from perfmodel.formulas.sparse import expected_touched_groups
from perfmodel.predict.grouped import GroupedMatmul
from perfmodel.predict.kernels import Kernels
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.efficiency import load_efficiency
from perfmodel.validation.kernel_tables import Table, validate_groups
from perfmodel.validation.moe_scores import (
    MOE_GROUP,
    MOE_TABLE,
    ffn_seconds,
    moe_calibrates,
    moe_data_sheet_seconds,
    moe_loads,
    moe_seconds,
)

Floats = NDArray[np.float64]
FORMATS = [(id, dtype) for id, formats in GROUPED_FORMATS.items() for dtype in formats]
EVERY = load_table(MOE_TABLE)

# Held-out median and 90th percentile of |ln(law / measured)|, slow rows left out: the last fit and half a point more.
HELD_OUT = {
    ("a100-sxm-80gb", "bf16"): (0.076, 0.221),
    ("h100-sxm", "bf16"): (0.052, 0.121),
    ("h100-sxm", "fp8"): (0.049, 0.134),
    ("h100-sxm", "fp8-block"): (0.071, 0.196),
}


def law(id: str = "h100-sxm", dtype: str = "bf16") -> GroupedMatmul:
    return GroupedMatmul(load_accelerator(id), load_efficiency(id), dtype)


def held_out(id: str, dtype: str, slow: bool = False) -> Table:
    rows = EVERY[(EVERY["accelerator"] == id) & (EVERY["dtype"] == dtype)]
    rows = rows[~moe_calibrates(rows)]
    return rows if slow else rows[rows["slow"] == 0]


def errors(id: str, dtype: str, rows: Table, constants_of: str | None = None) -> Floats:
    predicted = moe_seconds(load_accelerator(id), load_efficiency(constants_of or id), dtype, rows)
    return np.asarray(np.abs(np.log(predicted / (rows["latency_us"] * 1e-6))))


# Against measurements


@pytest.mark.parametrize(("id", "dtype"), FORMATS)
def test_held_out_shapes_are_predicted_and_the_data_sheet_is_far(id: str, dtype: str) -> None:
    rows = held_out(id, dtype)
    error = errors(id, dtype, rows)
    median, p90 = HELD_OUT[id, dtype]
    assert np.median(error) <= median
    assert np.quantile(error, 0.9) <= p90
    sheet = np.abs(np.log(moe_data_sheet_seconds(load_accelerator(id), dtype, rows) / (rows["latency_us"] * 1e-6)))
    assert np.median(error) < np.median(sheet) / 4


@pytest.mark.parametrize(("id", "dtype"), FORMATS)
def test_one_in_three_shapes_is_held_out_whole(id: str, dtype: str) -> None:
    fit = moe_calibrates(EVERY)
    shapes = [tuple(shape) for shape in EVERY[MOE_GROUP].tolist()]
    assert {shape for shape, used in zip(shapes, fit, strict=True) if not used} == set(
        validate_groups(EVERY, MOE_GROUP)
    )
    assert not {shape for shape, used in zip(shapes, fit, strict=True) if used} & set(validate_groups(EVERY, MOE_GROUP))
    assert MOE_GROUPS[MOE_TABLE] == MOE_GROUP
    assert len(held_out(id, dtype)) >= 100


@pytest.mark.parametrize(("id", "donor"), [("a100-sxm-80gb", "h100-sxm"), ("h100-sxm", "a100-sxm-80gb")])
def test_constants_of_the_other_part_beat_the_data_sheet(id: str, donor: str) -> None:
    rows = held_out(id, "bf16")
    moved = errors(id, "bf16", rows, donor)
    sheet = np.abs(np.log(moe_data_sheet_seconds(load_accelerator(id), "bf16", rows) / (rows["latency_us"] * 1e-6)))
    assert np.median(moved) < 0.30
    assert np.median(moved) < np.median(sheet)


@pytest.mark.parametrize(("ep", "slowdown"), [(4, 1.5), (8, 1.7), (16, 2.2), (64, 3.0)])
def test_power_law_routing_costs_what_was_measured(ep: int, slowdown: float) -> None:
    """Medians over shapes and formats of the full table, H100, 4096 tokens, read beside it to two digits."""
    found = []
    for dtype in GROUPED_FORMATS["h100-sxm"]:
        rows = EVERY[(EVERY["accelerator"] == "h100-sxm") & (EVERY["dtype"] == dtype)]
        rows = rows[(rows["tokens"] == 4096) & (rows["ep"] == ep)]
        seconds = moe_seconds(load_accelerator("h100-sxm"), load_efficiency("h100-sxm"), dtype, rows)
        even = rows["routing"] == "balanced"
        assert rows[even][[*MOE_GROUP, "etp"]].tolist() == rows[~even][[*MOE_GROUP, "etp"]].tolist()
        found += (seconds[~even] / seconds[even]).tolist()
    assert np.median(found) == pytest.approx(slowdown, rel=0.2, abs=0)


def test_a_product_of_one_group_costs_about_what_a_dense_one_does() -> None:
    """Two tables of different kernels: products alone, and whole FFNs."""
    dense = Kernels(load_accelerator("h100-sxm"), load_efficiency("h100-sxm"), "bf16")
    for rows in (1.0, 256.0, 16384.0):
        one = law().product(rows, 8192.0, 8192.0, 1.0).seconds
        assert one == pytest.approx(dense.matmul(rows, 8192.0, 8192.0).seconds, rel=0.25, abs=0)


def test_fitting_again_gives_the_shipped_constants() -> None:
    for id in GROUPED_FORMATS:
        shipped = load_efficiency(id).grouped
        for key, fit in fit_grouped(load_accelerator(id)):
            block = shipped[key.removeprefix("grouped.")]
            assert [list(tile) for tile in block.tiles] == grouped_choices()["tiles"]
            assert {name: getattr(block, name) for name in fit.constants} == pytest.approx(fit.constants, rel=0.01)
            assert block.fit.rows == fit.rows


# The table


def test_slow_rows_are_marked_by_other_formats_alone() -> None:
    same: dict[tuple[object, ...], list[float]] = {}
    names = [name for name in EVERY.dtype.names or () if name not in ("dtype", "slow", "latency_us", "rank_experts")]
    keys = [tuple(key) for key in EVERY[names].tolist()]
    for key, latency in zip(keys, EVERY["latency_us"].tolist(), strict=True):
        same.setdefault(key, []).append(latency)
    slow = [row["latency_us"] > 3 * min(same[key]) for key, row in zip(keys, EVERY, strict=True)]
    assert EVERY["slow"].tolist() == slow
    assert 0 < sum(slow) < 0.05 * len(EVERY) <= 250


def test_balanced_loads_are_those_of_the_published_rule() -> None:
    for tokens, (experts, k), ep in product((1, 4, 7, 64), ((128, 8), (8, 2), (16, 1), (160, 8)), (1, 4, 8)):
        stride = -(-experts // k)
        chosen = []
        for token, choice in product(range(tokens), range(k)):
            first = token if tokens >= stride else token * stride / tokens
            chosen.append(int((first + choice * stride) % experts))
        mine = [expert for expert in chosen if expert < experts // ep]
        assert balanced_load(tokens, experts, k, ep) == (len(mine), len(set(mine)))


@pytest.mark.parametrize("busiest_first", [False, True])
def test_power_law_loads_keep_every_copy_and_the_fullest_rank_is_above_the_mean(busiest_first: bool) -> None:
    for tokens, (experts, k) in product((1, 16, 256), ((128, 8), (8, 2), (16, 1))):
        rows, touched = power_law_load(tokens, experts, k, 1, busiest_first)
        assert rows == tokens * k
        assert touched <= min(experts, rows)
        for ep in (4, 8):
            fullest, mine = power_law_load(tokens, experts, k, ep, busiest_first)
            assert tokens * k / ep <= fullest <= min(rows, tokens * experts / ep)
            assert 1 <= mine <= experts / ep


# The laws


def test_equal_groups_have_the_tiles_that_counting_finds() -> None:
    for each, groups, tile in product((1, 15, 16, 17, 300), (1, 8), (16, 128)):
        counted = sum(len(range(0, each, tile)) for _ in range(groups)) * len(range(0, 700, 128))
        assert group_tile_count(float(each * groups), float(groups), 700.0, float(tile), 128.0, 1.0) == counted


@pytest.mark.parametrize("mean", [2.0, 30.0, 1000.0])
def test_random_groups_have_the_mean_tiles_of_exponential_sizes(mean: float) -> None:
    sizes = np.random.default_rng(1).exponential(mean, (4000, 16))
    for tile in (16.0, 128.0):
        drawn = np.ceil(sizes / tile).sum(axis=1).mean()
        assert group_tile_count(mean * 16, 16.0, 128.0, tile, 128.0) == pytest.approx(drawn, rel=0.03, abs=0)


@pytest.mark.parametrize(("tokens", "tile"), [(256, 64), (1024, 64), (1024, 128)])
def test_routed_power_law_loads_have_about_those_tiles(tokens: int, tile: int) -> None:
    power = -0.2
    uniform = np.random.default_rng(2).random((300, 128))
    loads = (((0.8 * tokens) ** power - 1) * uniform + 1) ** (1 / power)
    rows = np.rint(loads / loads.sum(axis=1, keepdims=True) * tokens * 8)
    counted = np.ceil(rows / tile).sum(axis=1).mean()
    touched = (rows > 0).sum(axis=1).mean()
    tiles = group_tile_count(tokens * 8.0, float(touched), 128.0, float(tile), 128.0)
    # Heavier tails than exponential ones have more small groups: up to 12 % more tiles.
    assert tiles == pytest.approx(counted, rel=0.15, abs=0)


def test_traffic_around_the_products_counts_every_kernel() -> None:
    rows, tokens, d_model, d_ff = 48.0, 10.0, 64.0, 32.0
    gather, activation, total = 2 * rows * d_model, 3 * rows * d_ff, rows * d_model + tokens * d_model
    assert routed_activation_bytes(rows, tokens, d_model, d_ff) == 2 * (gather + activation + total)
    assert routed_activation_bytes(rows, tokens, d_model, d_ff, 0.0) == 2 * (gather + 2 * rows * d_ff + total)


# The prediction


def test_bounds_hold_and_arrays_agree_with_floats() -> None:
    rng = np.random.default_rng(5)
    tokens, d_model, d_ff = (np.floor(2.0 ** rng.uniform(low, high, 200)) for low, high in ((0, 14), (10, 13), (7, 14)))
    experts, imbalance = 2.0 ** rng.integers(0, 8, 200), 1 + 3 * rng.random(200)
    for id, dtype in FORMATS:
        kernels = law(id, dtype)
        cost = kernels.ffn(tokens, d_model, d_ff, experts, 4.0, imbalance=imbalance)
        assert np.all(cost.lower <= cost.seconds)
        assert np.all(cost.seconds <= cost.upper)
        sizes = [float(size[7]) for size in (tokens, d_model, d_ff, experts, imbalance)]
        one = kernels.ffn(sizes[0], sizes[1], sizes[2], sizes[3], 4.0, imbalance=sizes[4])
        assert one.seconds == pytest.approx(cost.seconds[7], rel=1e-12, abs=0)
        part = kernels.product(tokens, d_ff, d_model, experts)
        assert np.all(part.lower <= part.seconds)
        assert np.all(part.seconds <= part.upper)


def test_more_rows_more_imbalance_and_more_experts_are_never_faster() -> None:
    kernels = law()
    rows = np.arange(1.0, 3000.0)
    assert np.all(np.diff(kernels.product(rows, 1536.0, 4096.0, 16.0).seconds) >= 0)
    uneven = kernels.ffn(512.0, 4096.0, 1536.0, 16.0, 8.0, imbalance=np.linspace(1, 6, 200)).seconds
    assert np.all(np.diff(uneven) >= 0)
    tokens = 2.0 ** np.arange(0, 12)
    assert np.all(
        kernels.ffn(tokens, 4096.0, 1536.0, 32.0, 8.0).seconds > kernels.ffn(tokens, 4096.0, 1536.0, 8.0, 8.0).seconds
    )


def test_few_tokens_load_only_the_experts_they_touch() -> None:
    kernels, tokens = law(), 4.0
    touched = expected_touched_groups(expert_rows(tokens, 8.0), 128.0)
    assert 25 < touched < 32
    cost = kernels.ffn(tokens, 4096.0, 1536.0, 128.0, 8.0)
    assert cost.bound_by == "memory"
    weights_s = touched * 3 * 4096 * 1536 * 2 / kernels.byte_per_s
    assert cost.memory_s == pytest.approx(weights_s, rel=0.03, abs=0)


def test_a_layer_without_gate_has_two_thirds_of_the_arithmetic() -> None:
    gated, plain = (law().ffn(8192.0, 4096.0, 1536.0, 8.0, 2.0, gated=gated) for gated in (True, False))
    assert plain.compute_s == pytest.approx(gated.compute_s * 2 / 3, rel=1e-12, abs=0)
    assert plain.seconds < gated.seconds


def test_unknown_formats_and_libraries_are_refused_with_the_nearest() -> None:
    h100, constants = load_accelerator("h100-sxm"), load_efficiency("h100-sxm")
    with pytest.raises(PlanError, match="nearest: 'fp8-block'"):
        GroupedMatmul(h100, constants, "fp8-blok")
    with pytest.raises(PlanError, match="grouped products of 'tensorrt-llm-int8'"):
        GroupedMatmul(h100, constants, "int8")
    fp16 = GroupedMatmul(h100, constants, "fp16").ffn(64.0, 4096.0, 1536.0, 16.0, 8.0)
    assert fp16 == law().ffn(64.0, 4096.0, 1536.0, 16.0, 8.0)


def test_slow_rows_widen_the_tail_and_are_told_apart() -> None:
    rows = EVERY[(EVERY["accelerator"] == "h100-sxm") & (EVERY["slow"] == 1)]
    for dtype in set(rows["dtype"].tolist()):
        mine = rows[rows["dtype"] == dtype]
        assert np.all(errors("h100-sxm", dtype, mine) > np.log(1.5))


def test_every_row_is_priced_by_its_sizes() -> None:
    rows = held_out("h100-sxm", "fp8")
    loads = moe_loads(rows)
    assert np.all(loads.rows <= rows["tokens"] * rows["experts_per_token"])
    assert np.all(loads.touched_experts <= np.minimum(loads.local_experts, np.ceil(loads.rows)))
    assert np.all(np.isfinite(ffn_seconds(law("h100-sxm", "fp8"), loads)))
