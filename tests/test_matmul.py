"""Matrix products: the tiled law against the shipped tables and its rivals, its bounds and transfer."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from perfmodel.calibrate.matmul import LIBRARIES, choices, error_of, fit_matmul, sizes
from perfmodel.calibrate.tables import is_calibrate
from perfmodel.errors import PlanError, SpecError
from perfmodel.formulas.matmul import tile_count, tile_loop_time, tiled_compute_time, wave_count
from perfmodel.formulas.roofline import smooth_roofline_time
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.matmul import MATMUL_FORMATS, ROWS_PER_BLOCK, TiledMatmul
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.efficiency import load_efficiency

FORMATS = [(id, dtype) for id, libraries in LIBRARIES.items() for dtype in libraries]
Floats = NDArray[np.float64]

# Held-out median and 90th percentile of |ln(law / measured)|, over every n, k and m of the table: the last fit and
# half a point more. A100 rows are measured in steps of 1.024 us, a tenth of the small weight-only products.
HELD_OUT = {
    ("a100-sxm-80gb", "bf16"): (0.049, 0.143),
    ("a100-sxm-80gb", "int8"): (0.064, 0.265),
    ("a100-sxm-80gb", "int8-weight-only"): (0.047, 0.180),
    ("a100-sxm-80gb", "int4-weight-only"): (0.058, 0.239),
    ("h100-sxm", "bf16"): (0.040, 0.092),
    ("h100-sxm", "fp8"): (0.028, 0.071),
    ("h100-sxm", "fp8-block"): (0.042, 0.109),
    ("b200-sxm", "bf16"): (0.059, 0.166),
    ("b200-sxm", "fp8"): (0.044, 0.103),
    ("b200-sxm", "fp8-block"): (0.047, 0.116),
    ("b200-sxm", "nvfp4"): (0.031, 0.083),
}


def kernels(id: str = "h100-sxm", dtype: str = "bf16", steady: bool = False) -> Kernels:
    return Kernels(load_accelerator(id), load_efficiency(id), dtype, steady=steady)


def held_out_error(id: str, dtype: str, constants_of: str | None = None) -> Floats:
    """|ln(law / measured)| of the rows that no fit saw, with the constants of another part if given."""
    library = LIBRARIES[id][dtype]
    constants = load_efficiency(constants_of or id).matmul_constants(dtype)
    error = np.abs(error_of(load_accelerator(id), dtype, library.table, constants))
    return error[~is_calibrate(library.table, sizes(library.table, id)[0])]


def log_uniform(count: int, seed: int = 3) -> list[Floats]:
    """m, n and k in the range of the tables."""
    rng = np.random.default_rng(seed)
    limits = (16384 / 1, 65536 / 512, 65536 / 512)
    return [low * np.floor(high ** rng.random(count)) for low, high in zip((1.0, 512.0, 512.0), limits, strict=True)]


# Against measurements


@pytest.mark.parametrize(("id", "dtype"), FORMATS)
def test_held_out_shapes_are_predicted(id: str, dtype: str) -> None:
    error = held_out_error(id, dtype)
    median, p90 = HELD_OUT[id, dtype]
    assert np.median(error) <= median
    assert np.quantile(error, 0.9) <= p90


@pytest.mark.parametrize("id", ["a100-sxm-80gb", "h100-sxm", "b200-sxm"])
def test_tables_reach_beyond_the_time_in_which_clocks_settle(id: str) -> None:
    seconds = sizes(LIBRARIES[id]["bf16"].table, id)[-1]
    assert np.sort(seconds)[-5] > load_efficiency(id).matmul["bf16"].settle_s


@pytest.mark.parametrize("id", ["a100-sxm-80gb", "h100-sxm", "b200-sxm"])
def test_long_kernels_settle_below_burst_clocks(id: str) -> None:
    """Without the slowdown the law is too fast for the longest kernels of every table, by what it says."""
    name = LIBRARIES[id]["bf16"].table
    _, m, n, k, seconds = sizes(name, id)
    efficiency = load_efficiency(id)
    burst = efficiency.matmul["bf16"].model_copy(update={"sustained_slowdown": 0.0})
    law = TiledMatmul(load_accelerator(id), "bf16", burst).cost(m, n, k, 1.0, 0.0).seconds
    ratio = np.log(seconds / law)
    assert np.median(ratio[seconds > burst.settle_s / 2]) > np.median(ratio[(seconds > 1e-4) & (seconds < 1e-3)]) + 0.03


def test_a_load_of_products_alone_ends_where_one_very_long_product_does() -> None:
    short, long = (512.0, 4096.0, 4096.0), (65536.0, 32768.0, 65536.0)
    steady, burst = kernels(steady=True), kernels()
    full = steady.slowdown(1.0, 1.0)
    assert full * steady.matmul(*short).seconds > 1.05 * burst.matmul(*short).seconds
    # What is left of a settling time of 20 ms in 0.4 s.
    assert full * steady.matmul(*long).seconds == pytest.approx(burst.matmul(*long).seconds, rel=0.02, abs=0)
    assert steady.slowdown(0.0, 1.0) == 1.0
    assert 1.0 < steady.slowdown(0.5, 1.0) < full


@pytest.mark.parametrize(
    ("source", "target", "dtype", "median"),
    # Efficiencies of one part with the data sheet of the next; Blackwell reaches less of its peak than Hopper.
    [("a100-sxm-80gb", "h100-sxm", "bf16", 0.15), ("h100-sxm", "b200-sxm", "bf16", 0.15)],
)
def test_constants_transfer_through_the_data_sheet(source: str, target: str, dtype: str, median: float) -> None:
    error = held_out_error(target, dtype, constants_of=source)
    assert np.median(error) <= median


@pytest.mark.parametrize(("id", "dtype"), FORMATS)
def test_shipped_constants_are_those_of_the_fit(id: str, dtype: str) -> None:
    block = load_efficiency(id).matmul[dtype]
    assert [list(tile) for tile in block.tiles] == choices(id, dtype)["tiles"]
    assert list(block.splits) == choices(id, dtype)["splits"]
    assert block.fit.table == f"{LIBRARIES[id][dtype].table}.csv"
    assert dtype in MATMUL_FORMATS


def test_a_fit_of_a_small_table_is_reproduced() -> None:
    accelerator = load_accelerator("b200-sxm")
    found = fit_matmul(accelerator, "nvfp4")
    assert found is not None
    shipped = load_efficiency("b200-sxm").matmul["nvfp4"]
    for name, value in found.constants.items():
        assert getattr(shipped, name) == pytest.approx(value, rel=2e-3, abs=0)
    assert found.held_out.median < 0.1 * found.roofline.median
    assert fit_matmul(accelerator, "fp16") is None
    assert choices("b200-sxm", "fp16") == {}


# The laws of tiles


def test_one_row_beyond_a_tile_costs_a_tile() -> None:
    assert tile_count(256.0, 512.0, 128.0, 256.0) == 4.0
    assert tile_count(257.0, 512.0, 128.0, 256.0, 3.0) == 18.0
    assert wave_count(133.0, 132.0, 1.0) == 2.0
    assert wave_count(133.0, 132.0, 0.0) == pytest.approx(133 / 132, rel=1e-12, abs=0)
    assert wave_count(1.0, 132.0, 0.0) == 1.0


def test_a_core_waits_for_its_loads_when_there_are_few_rows() -> None:
    full = tile_loop_time(128.0, 4096.0, 4096.0, 128.0, 256.0, 6e12, 1e12)
    assert full == pytest.approx(2 * 128 * 256 * 4096 / 6e12, rel=1e-12, abs=0)
    one_row = tile_loop_time(1.0, 4096.0, 4096.0, 128.0, 256.0, 6e12, 1e10)
    assert one_row == pytest.approx(2 * (1 + 256) * 4096 / 1e10, rel=1e-12, abs=0)


def test_splitting_the_summed_dimension_fills_idle_cores() -> None:
    whole = tiled_compute_time(8.0, 100e-6, 1e-6, 132.0, 1.0)
    assert whole == pytest.approx(101e-6, rel=1e-12, abs=0)
    assert tiled_compute_time(8.0, 100e-6, 1e-6, 132.0, 1.0, 8.0, 5e-6) == pytest.approx(18.5e-6, rel=1e-12, abs=0)
    assert tiled_compute_time(132.0, 100e-6, 1e-6, 132.0, 1.0, 8.0, 5e-6) > whole


# What every caller relies on


@pytest.mark.parametrize(("id", "dtype"), FORMATS)
def test_scalars_equal_arrays_and_stay_inside_their_bounds(id: str, dtype: str) -> None:
    part = kernels(id, dtype)
    m, n, k = log_uniform(300)
    count, extra = np.where(m > 64, 1.0, 8.0), np.where(n > 4096, 0.0, 1e6)
    cost = part.matmul(m, n, k, count, extra)
    assert (cost.lower <= cost.seconds * (1 + 1e-12)).all()
    assert (cost.seconds <= cost.upper * (1 + 1e-12)).all()
    scalars = [part.matmul(*map(float, row)).seconds for row in zip(m, n, k, count, extra, strict=True)]
    assert all(isinstance(value, float) for value in scalars)
    np.testing.assert_allclose(cost.seconds, scalars, rtol=1e-12, atol=0)


def test_arrays_broadcast_and_blocks_do_not_show() -> None:
    part = kernels()
    m, n, k = log_uniform(ROWS_PER_BLOCK + 7)
    whole = part.matmul(m, n, k).seconds
    np.testing.assert_array_equal(whole[-7:], part.matmul(m[-7:], n[-7:], k[-7:]).seconds)
    grid = part.matmul(m[:300, None], n[None, :200], 4096.0).seconds
    assert grid.shape == (300, 200)
    assert grid[17, 23] == part.matmul(m[17], n[23], 4096.0).seconds


def test_a_batch_of_products_is_cheaper_than_as_many_launches() -> None:
    part = kernels()
    assert part.matmul(64.0, 64.0, 512.0, 32.0).seconds < 32 * part.matmul(64.0, 64.0, 512.0).seconds
    assert part.matmul(64.0, 64.0, 512.0, 32.0).lower == pytest.approx(
        32 * part.matmul(64.0, 64.0, 512.0).lower, rel=1e-12, abs=0
    )


def test_weights_of_fewer_bits_are_faster_where_memory_binds() -> None:
    sixteen, eight, four = (
        kernels("a100-sxm-80gb", dtype).matmul(1.0, 16384.0, 16384.0).seconds
        for dtype in ("bf16", "int8-weight-only", "int4-weight-only")
    )
    assert four < eight < sixteen


def test_without_tiles_the_law_is_the_smooth_roofline() -> None:
    machine = load_accelerator("a100-sxm-80gb")
    tiled = load_efficiency("a100-sxm-80gb").matmul["bf16"]
    constants = tiled.model_copy(update={"tiles": (), "sustained_slowdown": 0.0})
    flops, n_bytes = 2 * 2048.0 * 4096 * 1024, 2.0 * (2048 * 1024 + 1024 * 4096 + 2048 * 4096)
    expected = smooth_roofline_time(
        flops,
        n_bytes,
        float(machine.peak("bf16")),
        float(machine.hbm_byte_per_s),
        constants.compute_efficiency,
        constants.memory_efficiency,
        constants.exponent,
        constants.launch_s,
    )
    part = TiledMatmul(machine, "bf16", constants)
    assert part.cost(2048.0, 4096.0, 1024.0, 1.0, 0.0).seconds == pytest.approx(expected, rel=1e-12, abs=0)


def test_unknown_formats_and_tiles_are_refused() -> None:
    with pytest.raises(PlanError, match="unknown format of a matrix product 'fp9'"):
        kernels("h100-sxm", "fp9")
    block = load_efficiency("b200-sxm").model_dump(mode="json")["matmul"]["nvfp4"]
    source = {"title": "a table", "url": "https://example.org/table"}
    document = {"id": "custom", "relative": "h100-sxm", "sources": {"aiconfigurator": source}}
    with pytest.raises(SpecError, match="tiles"):
        load_efficiency(document | {"matmul": {"nvfp4": block | {"tiles": [[0, 128]]}}})


def test_the_b200_is_described() -> None:
    part = load_cluster("dgx-b200").accelerator
    assert (float(part.peak("bf16")), float(part.peak("fp8")), float(part.peak("nvfp4"))) == (2250e12, 4500e12, 9000e12)
    assert (float(part.hbm_byte_per_s), float(part.n_cores), float(part.link_byte_per_s)) == (8e12, 148, 900e9)
