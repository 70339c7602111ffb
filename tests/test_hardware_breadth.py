"""The breadth of the shipped hardware: every wanted part loads, and its numbers follow from what it is made of."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest

import perfmodel as pm
from perfmodel.errors import SpecError
from perfmodel.specs import registry
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.efficiency import load_efficiency
from perfmodel.specs.host import Host, load_host
from perfmodel.specs.quantity import quantities

NVIDIA = [
    "v100-sxm2-32gb",
    "p100",
    "a100-sxm-40gb",
    "a100-sxm-80gb",
    "h100-sxm",
    "h100-pcie",
    "h200-sxm",
    "h800-sxm",
    "gh200",
    "b200-sxm",
    "b300-sxm",
    "gb200",
    "gb300",
    "l40s",
    "l4",
    "a40",
    "a6000",
    "rtx-3090",
    "rtx-4070",
    "rtx-4090",
]
OTHERS = [
    "mi250x",
    "mi300x",
    "mi325x",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
    "tpu-v6e",
    "ascend-910a",
    "ascend-910b",
    "ascend-910c",
    "host-cpu",
]
CLUSTERS = [
    "dgx-v100",
    "dgx-a100-40gb",
    "dgx-a100-80gb",
    "dgx-h100",
    "dgx-h200",
    "dgx-h800",
    "dgx-b200",
    "dgx-b300",
    "gb200-nvl72",
    "gb300-nvl72",
    "selene",
    "frontier",
    "cloudmatrix384",
    "mi300x-8",
    "tpu-v4-pod",
    "tpu-v5e-pod",
    "tpu-v5p-pod",
    "tpu-v6e-pod",
    "pcie-l40s-8",
    "consumer-rtx-4090",
]
HOSTS = ["dgx-a100-host", "dgx-h100-host", "grace", "generic-pcie5-cxl"]
LIKE_A_STEP = {"global_batch": 32, "seq_len": 2048}


def shipped_host(id: str) -> Host:
    return load_host(registry.data_folder("accelerators").parent / "hosts" / f"{id}.toml")


def sixteen_bit(accelerator: pm.Accelerator) -> str:
    return "bf16" if "bf16" in accelerator.peak_flop_per_s else "fp16"


def a_step(cluster: Cluster, **layout: Any) -> pm.TrainingEstimate:
    dtype = sixteen_bit(cluster.accelerator)
    chosen = pm.ParallelLayout(**{"tp": 4, "pp": 2, "dp": 2, "micro_batch": 1} | layout)
    return pm.estimate_training("llama-2-7b", cluster, layout=chosen, precision=dtype, **LIKE_A_STEP)


# What is there


def test_the_wanted_ids_are_shipped() -> None:
    assert set(NVIDIA + OTHERS) <= set(registry.ids("accelerators"))
    assert set(CLUSTERS) <= set(registry.ids("clusters"))


@pytest.mark.parametrize("id", NVIDIA + OTHERS)
def test_a_part_has_a_sixteen_bit_peak_a_plausible_balance_and_calibrated_constants(id: str) -> None:
    accelerator = load_accelerator(id)
    bytes_per_flop = accelerator.hbm_byte_per_s / accelerator.peak(sixteen_bit(accelerator))
    assert 1 / 600 < bytes_per_flop < 1 / 25, "P100 without tensor cores is the slowest to starve, TPU v6e the fastest"
    assert 0.01 < accelerator.hbm_bytes / accelerator.hbm_byte_per_s < 5, "seconds to read the memory once"
    assert accelerator.idle_w < 0.5 * accelerator.tdp_w
    efficiency = load_efficiency(accelerator.id, accelerator.relative)
    assert efficiency.matmul_constants(sixteen_bit(accelerator)).compute_efficiency <= 1
    if accelerator.id not in registry.ids("efficiency"):
        assert accelerator.relative == "a100-sxm-80gb" or accelerator.relative in registry.ids("efficiency")
        assert accelerator.id in efficiency.inherited[0], "an estimate says whose constants it uses"


@pytest.mark.parametrize("id", CLUSTERS)
@pytest.mark.parametrize("accelerators", [1, 8, 20_000])
def test_a_cluster_scales_and_never_outruns_its_accelerators(id: str, accelerators: int) -> None:
    cluster = load_cluster(id, accelerators=accelerators)
    assert cluster.accelerators == accelerators
    links = [float(tier.link_byte_per_s) for tier in cluster.tiers]
    assert links == sorted(links, reverse=True), "links get slower outwards"
    assert links[0] <= cluster.accelerator.link_byte_per_s
    assert cluster.tier_of(accelerators) in cluster.tiers


# Peaks, from clock, cores and width. Clocks: data sheets and white papers; `width` is flop per core and clock of the
# matrix units with FP32 sums, in the part's 16-bit format.
CLOCKS = [
    ("v100-sxm2-32gb", 1024, 1.530e9),
    ("p100", 256, 1.480e9),
    ("h200-sxm", 4096, 1.830e9),
    ("h800-sxm", 4096, 1.830e9),
    ("gh200", 4096, 1.830e9),
    ("l40s", 1024, 2.490e9),
    ("l4", 1024, 2.040e9),
    ("a40", 1024, 1.740e9),
    ("a6000", 1024, 1.800e9),
    ("rtx-3090", 512, 1.695e9),
    ("rtx-4090", 512, 2.520e9),
    ("rtx-4070", 512, 2.475e9),
    ("mi250x", 1024, 1.700e9),
    ("mi300x", 2048, 2.100e9),
    ("mi325x", 2048, 2.100e9),
    ("tpu-v4", 4 * 2 * 128**2, 1.05e9),
    ("tpu-v5e", 4 * 2 * 128**2, 1.50e9),
    ("tpu-v5p", 4 * 2 * 128**2, 1.75e9),
    ("ascend-910b", 2 * 16**3, 1.80e9),
    ("host-cpu", 1024, 2.0e9),
]


@pytest.mark.parametrize(("id", "width", "clock_hz"), CLOCKS)
def test_a_peak_is_cores_times_width_times_clock(id: str, width: int, clock_hz: float) -> None:
    accelerator = load_accelerator(id)
    computed = accelerator.n_cores * width * clock_hz
    assert accelerator.peak(sixteen_bit(accelerator)) == pytest.approx(computed, rel=4e-3, abs=0)


# Rates relative to the 16-bit one that the architecture fixes; data sheets round, hence 2 %.
RATIOS = {
    "fp8": (2, "h100-sxm h100-pcie h200-sxm h800-sxm gh200 b200-sxm b300-sxm gb200 gb300 l40s l4 rtx-4090 rtx-4070"),
    "tf32": (0.5, "h100-pcie h200-sxm h800-sxm gh200 b300-sxm gb200 gb300 a40 a6000 rtx-3090 rtx-4090 l40s mi300x"),
    "nvfp4": (4, "b200-sxm gb200"),
    "int8": (2, "h100-pcie h200-sxm gb200 l40s l4 a40 a6000 mi300x mi325x tpu-v5e tpu-v5p tpu-v6e ascend-910b"),
}


@pytest.mark.parametrize(
    ("dtype", "ratio", "id"), [(dtype, ratio, id) for dtype, (ratio, ids) in RATIOS.items() for id in ids.split()]
)
def test_a_narrower_format_runs_at_its_architectures_ratio(dtype: str, ratio: float, id: str) -> None:
    accelerator = load_accelerator(id)
    assert accelerator.peak(dtype) == pytest.approx(ratio * accelerator.peak("bf16"), rel=0.025, abs=0)


def test_ratios_that_are_not_powers_of_two() -> None:
    ultra, integer = load_accelerator("b300-sxm"), load_accelerator("tpu-v4")
    assert ultra.peak("nvfp4") == pytest.approx(9000e12 * 1.5, rel=0.03), "1.5 times Blackwell's dense FP4"
    assert integer.peak("int8") == integer.peak("bf16")
    assert load_accelerator("rtx-3090").peak("int8") == pytest.approx(4 * 71.2e12, rel=1e-3), "half rate with FP32 sums"
    for old in ("v100-sxm2-32gb", "p100", "ascend-910a"):
        assert "bf16" not in load_accelerator(old).peak_flop_per_s
    for part in ("tpu-v4", "mi250x", "a40", "ascend-910c"):
        assert "fp8" not in load_accelerator(part).peak_flop_per_s


# Memory, from the width of the bus [bit] and the rate of a pin [bit/s] in the parts' data sheets.
BUSES = [
    ("a40", 384, 14.5e9),
    ("a6000", 384, 16e9),
    ("rtx-3090", 384, 19.5e9),
    ("rtx-4090", 384, 21e9),
    ("rtx-4070", 192, 21e9),
    ("l40s", 384, 18e9),
    ("l4", 192, 12.5e9),
    ("v100-sxm2-32gb", 4096, 1.752e9),
    ("p100", 4096, 1.430e9),
    ("mi250x", 4096, 3.2e9),
    ("mi300x", 8192, 5.2e9),
    ("host-cpu", 16 * 64, 4.8e9),
]


@pytest.mark.parametrize(("id", "bits", "bit_per_s"), BUSES)
def test_memory_bandwidth_is_bus_width_times_pin_rate(id: str, bits: int, bit_per_s: float) -> None:
    assert load_accelerator(id).hbm_byte_per_s == pytest.approx(bits * bit_per_s / 8, rel=0.025, abs=0)


# Systems, from totals that their makers print.


def test_printed_totals_of_whole_systems() -> None:
    rack, pod, matrix = load_cluster("gb200-nvl72"), load_cluster("tpu-v5p-pod"), load_cluster("cloudmatrix384")
    assert 72 * 2 * rack.tiers[0].link_byte_per_s == pytest.approx(130e12, rel=5e-3, abs=0)
    assert rack.accelerators * rack.accelerator.hbm_bytes == pytest.approx(13.5e12, rel=0.01, abs=0)
    rack_w = rack.accelerators * (rack.accelerator.tdp_w + rack.server_overhead_w)
    assert rack_w == pytest.approx(120e3, rel=1e-3, abs=0)
    assert matrix.accelerators * matrix.accelerator.peak("bf16") == pytest.approx(289e15, rel=2e-3, abs=0)
    assert matrix.accelerators * matrix.accelerator.hbm_bytes == pytest.approx(48 * 1024e9, rel=5e-3, abs=0)
    assert pod.accelerators * pod.accelerator.peak("bf16") == pytest.approx(4.1e18, rel=0.01, abs=0)
    v5e, v6e, v4 = (load_cluster(f"tpu-{name}-pod") for name in ("v5e", "v6e", "v4"))
    assert v5e.accelerators * v5e.accelerator.peak("bf16") == pytest.approx(50.63e15, rel=5e-3, abs=0)
    assert v6e.accelerators * v6e.accelerator.peak("bf16") == pytest.approx(234.9e15, rel=5e-3, abs=0)
    assert v4.accelerators * v4.accelerator.peak("bf16") == pytest.approx(1.1e18, rel=0.03, abs=0)
    frontier = load_cluster("frontier")
    assert frontier.accelerators == 9856 * 8
    assert frontier.accelerators_per_node * frontier.tiers[-1].link_byte_per_s == 4 * 200e9 / 8


@pytest.mark.parametrize("id", [id for id in CLUSTERS if id.startswith("tpu")])
def test_a_pod_is_a_torus_of_its_printed_size(id: str) -> None:
    tier = load_cluster(id).tiers[0]
    assert tier.kind == "torus"
    assert tier.torus_shape is not None
    assert prod(tier.torus_shape) == tier.domain_accelerators == load_cluster(id).accelerators
    links = 2 * len(tier.torus_shape)
    assert tier.link_byte_per_s / links in (45e9, 50e9, 100e9), "one-way link, the scaling book's table"


# Bisection of a 16 x 16 torus: a cut crosses two rows of 16 links, each both ways (Google Cloud, v5e and v6e pages).
@pytest.mark.parametrize(("id", "bisection"), [("tpu-v5e-pod", 1.6e12), ("tpu-v6e-pod", 3.2e12)])
def test_bisection_of_a_pod_is_the_printed_one(id: str, bisection: float) -> None:
    one_way = load_cluster(id).tiers[0].link_byte_per_s / 4
    assert 2 * 16 * one_way == pytest.approx(bisection, rel=1e-9, abs=0)


def test_trillium_is_the_published_multiple_of_its_predecessor() -> None:
    """Google, May 2024: 4.7 times the peak compute, twice the memory, its speed and the link speed of a v5e."""
    new, old = load_accelerator("tpu-v6e"), load_accelerator("tpu-v5e")
    assert new.peak("bf16") / old.peak("bf16") == pytest.approx(4.7, abs=0.05)
    for key in ("hbm_bytes", "hbm_byte_per_s", "link_byte_per_s"):
        assert getattr(new, key) == pytest.approx(2 * getattr(old, key), rel=1e-3, abs=0)


# Estimates on them


@pytest.mark.parametrize("id", CLUSTERS)
def test_every_cluster_prices_a_training_step(id: str) -> None:
    estimate = a_step(load_cluster(id, accelerators=16))
    assert 0.02 < estimate.mfu < 0.75
    assert estimate.step_time_lower_s <= estimate.step_time_s <= estimate.step_time_upper_s
    assert estimate.energy_j_per_step > 0


def test_less_link_or_memory_speed_is_never_faster() -> None:
    h200, h100, h800 = (load_cluster(f"dgx-{name}", accelerators=16) for name in ("h200", "h100", "h800"))
    assert a_step(h100).step_time_s < a_step(h800).step_time_s, "the H800 has fewer NVLinks"
    assert a_step(h200).step_time_s < a_step(h100).step_time_s * 1.001, "the H200 has faster memory"
    rack, nodes = load_cluster("gb200-nvl72", accelerators=32), load_cluster("dgx-b200", accelerators=32)
    wide = {"tp": 16, "pp": 1, "dp": 2}
    assert a_step(rack, **wide).step_time_s < 0.7 * a_step(nodes, **wide).step_time_s, "tp 16 stays inside a rack only"


def test_ten_bare_numbers_and_a_dict_are_enough() -> None:
    numbers: dict[str, Any] = {
        "relative": "h100-sxm",
        "peak_flop_per_s": {"bf16": 500e12},
        "hbm_byte_per_s": 2e12,
        "hbm_bytes": 96e9,
        "sram_bytes": 262144,
        "l2_bytes": 32e6,
        "n_cores": 80,
        "link_byte_per_s": 200e9,
        "tdp_w": 500,
        "idle_w": 60,
        "usd_per_hour": 2,
    }
    mine = pm.Accelerator(id="my-chip", **numbers)
    twice = pm.Accelerator(id="my-chip", **numbers | {"peak_flop_per_s": {"bf16": 1000e12}})
    tiers = [
        {"name": "inside", "kind": "generic", "domain_accelerators": 8, "link_byte_per_s": 200e9, "latency_s": 1e-6},
        {"name": "outside", "kind": "roce", "link_byte_per_s": 25e9, "latency_s": 3e-6},
    ]
    box = {"accelerators": 16, "accelerators_per_node": 8, "tiers": tiers}
    estimate = a_step(load_cluster(box | {"accelerator": mine}))
    assert 0.05 < estimate.mfu < 0.75
    assert a_step(load_cluster(box | {"accelerator": twice})).step_time_s < estimate.step_time_s


# Hosts


@pytest.mark.parametrize("id", HOSTS)
def test_every_number_of_a_host_says_where_it_comes_from(id: str) -> None:
    host = shipped_host(id)
    numbers = dict(quantities(host))
    assert host.id == id
    assert len(numbers) >= 4
    for key, number in numbers.items():
        assert number.source in host.sources, key
        assert number.where, key
        assert number.checked, key
        assert number.kind != "assumed" or number.note, f"{key}: an assumption gives its reason"
    assert {number.source for number in numbers.values()} == set(host.sources), "a source that no number uses"
    assert all(source.url.startswith("https://") for source in host.sources.values())
    assert load_host(host.model_dump(mode="json")) == host
    assert host.pcie_byte_per_s < host.dram_byte_per_s
    if host.cxl_byte_per_s is not None:
        assert host.cxl_byte_per_s < host.dram_byte_per_s


def test_grace_is_nearer_to_its_gpu_than_a_pcie_host() -> None:
    assert shipped_host("grace").pcie_byte_per_s > 7 * shipped_host("dgx-h100-host").pcie_byte_per_s, "NVIDIA says 7x"


@pytest.mark.skipif("hosts" not in registry.KIND_FOLDERS, reason="the registry does not know hosts yet")
def test_hosts_load_by_id() -> None:
    assert registry.ids("hosts") == sorted(HOSTS)
    with pytest.raises(SpecError, match="nearest: 'grace'"):
        load_host("grace-")


BARE = {"n_cores": 64, "dram_bytes": 1e12, "dram_byte_per_s": 4e11, "pcie_byte_per_s": 32e9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_cores": 1.5}, "n_cores: must be a whole number"),
        ({"dram_bytes": 0}, "dram_bytes: must be more than zero"),
        ({"nvme_bytes": 1e12}, "nvme_byte_per_s: missing; nvme_bytes needs it"),
        ({"cxl_byte_per_s": 1e11}, "cxl_bytes: missing; cxl_byte_per_s needs it"),
        ({"dram_byte_per_sec": 1.0}, "unknown key 'dram_byte_per_sec'; nearest: 'dram_byte_per_s'"),
    ],
)
def test_a_wrong_host_gets_a_useful_line(change: dict[str, float], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_host(BARE | change)


def test_no_shipped_file_names_this_machine() -> None:
    folder = Path(registry.data_folder("accelerators")).parent
    for path in [*folder.glob("accelerators/*.toml"), *folder.glob("clusters/*.toml"), *folder.glob("hosts/*.toml")]:
        assert not any(place in path.read_text() for place in ("/work/", "/tmp/", "/home/")), path.name
