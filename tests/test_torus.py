"""Tori: published figures of TPU pods, the laws against link loads counted by hand, slices, and refusals."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.errors import PlanError, SpecError
from perfmodel.formulas import collective_algorithms as algorithms
from perfmodel.formulas import collectives as laws
from perfmodel.predict.communication import Links
from perfmodel.predict.kernel_documents import describe_collective
from perfmodel.predict.torus import Torus, slice_shape
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import load_efficiency

BASE = pm.load_cluster("dgx-h100").model_dump(mode="json")
STRANGER = BASE["accelerator"] | {"id": "some-tpu", "relative": "h100-sxm"}
H100 = load_efficiency("h100-sxm")
PERFECT = {"launch_s": 0.0, "latency_s": 0.0, "link_efficiency": 1.0}
IDEAL = H100.model_copy(
    update={"collective": {name: p.model_copy(update=PERFECT) for name, p in H100.collective.items()}, "all_to_all": {}}
)
DCN = {"name": "data centre", "kind": "ethernet", "link_byte_per_s": 6.25e9, "latency_s": 1e-5}


def torus(shape: tuple[int, ...], link: float, accelerators: int | None = None, **more: Any) -> Cluster:
    """A torus whose accelerators have `link` [B/s] out of each of their links, one direction, and hops of 1 us."""
    tier = {"name": "ICI", "kind": "torus", "torus_shape": list(shape), "latency_s": 1e-6}
    tier |= {"link_byte_per_s": 2 * len(shape) * link, "domain_accelerators": math.prod(shape)}
    outer = more.pop("outer", [])
    count = accelerators or math.prod(shape)
    return pm.load_cluster(
        BASE
        | {"id": "pod", "accelerator": STRANGER, "accelerators": count, "accelerators_per_node": 1}
        | {"tiers": [tier | more, *outer]}
    )


def ideal(cluster: Cluster, operation: str, n_bytes: float, ranks: float, stride: float = 1.0) -> float:
    """Seconds with every link at its peak; only hops are waited for."""
    return float(Links(cluster, IDEAL).collective(operation, n_bytes, ranks, stride).seconds)


# Published


def test_the_tpu_v4_pod_of_google() -> None:
    """cloud.google.com/tpu/docs/v4: all-reduce bandwidth per pod 1.1 PB/s, bisection bandwidth per pod 24 TB/s.

    One link, one direction, is 45 GB/s (scaling-book, part 2, table of interconnects). The sheet gives two digits, and
    its bisection would be 512 links of 47 GB/s: 2 % and 5 %.
    """
    pod, chips, n_bytes = torus((16, 16, 16), 45e9, torus_cube=4), 4096, 1e13
    all_reduce = chips * 2 * (chips - 1) / chips * n_bytes / ideal(pod, "all_reduce", n_bytes, chips)
    assert all_reduce == pytest.approx(1.1e15, rel=0.02, abs=0)
    # Half of the pod sends half of its bytes across the cut.
    bisection = chips / 2 * n_bytes / 2 / ideal(pod, "all_to_all", n_bytes, chips)
    assert bisection == pytest.approx(24e12, rel=0.05, abs=0)


@pytest.mark.parametrize(("ranks", "axes"), [(16, 1), (256, 2), (4096, 3)])
def test_the_gather_and_reduce_of_the_scaling_book(ranks: int, axes: int) -> None:
    """Part 3 (jax-ml.github.io/scaling-book/sharding): T = V / (W axes), W both links of an axis; all-reduce twice.

    The book counts p shards where p - 1 travel: the tolerance is 1 / p, and the hops.
    """
    pod, volume, w_ici = torus((16, 16, 16), 45e9), 1e10, 9e10
    book = volume / (w_ici * axes)
    assert ideal(pod, "all_gather", volume, ranks) == pytest.approx(book, rel=1.01 / ranks + 1e-3, abs=0)
    assert ideal(pod, "all_reduce", volume, ranks) == pytest.approx(2 * book, rel=1.01 / ranks + 1e-3, abs=0)
    # An all-to-all over one even ring is a quarter of the gather of the same array (its footnote).
    if axes == 1:
        exchange = ideal(pod, "all_to_all", volume / ranks, ranks) - 8e-6
        assert exchange == pytest.approx(book / 4, rel=1e-9, abs=0)


def test_the_profiled_gather_of_the_scaling_book() -> None:
    """Part 3, quiz 2: an axis of 4 of a TPU v5e slice of 8 x 4, not wrapped, 34 MB: 560 us in theory, 680 us profiled.

    A 16 x 16 pod wraps only where all 16 are used. With H100's shares of the peak, which a TPU borrows, 30 %.
    """
    v5e = torus((16, 16), 45e9, accelerators=32)
    volume = 2048 * 8192 * 2.0
    assert ideal(v5e, "all_gather", volume, 4) == pytest.approx(560e-6, rel=0.01, abs=0)
    borrowed = float(Links(v5e, H100).collective("all_gather", volume, 4.0).seconds)
    assert borrowed == pytest.approx(680e-6, rel=0.3, abs=0)


SLICES = {4: (1, 2, 2), 8: (2, 2, 2), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8), 512: (8, 8, 8),
          1024: (8, 8, 16), 2048: (8, 16, 16), 4096: (16, 16, 16), 6144: (16, 16, 24)}  # fmt: skip


@pytest.mark.parametrize("chips", SLICES)
def test_slices_have_the_shapes_that_google_sells(chips: int) -> None:
    """docs.cloud.google.com/tpu/docs/v5p, configurations: topologies by chips (2x2x1 is 1x2x2 turned)."""
    assert slice_shape((16, 20, 28), chips, 4) == SLICES[chips]


# Against counting


def loads(shape: tuple[int, ...], closes: bool) -> float:
    """Bytes on the fullest link when every rank sends one byte to every other, axis after axis, halves split evenly."""
    links: dict[tuple[Any, ...], float] = {}
    ranks = list(itertools.product(*map(range, shape)))
    for source, target in itertools.product(ranks, ranks):
        here = list(source)
        for axis, length in enumerate(shape):
            ahead = (target[axis] - here[axis]) % length
            if not closes:
                ways = [(1 if target[axis] > here[axis] else -1, abs(target[axis] - here[axis]), 1.0)]
            elif 2 * ahead == length:
                ways = [(1, ahead, 0.5), (-1, ahead, 0.5)]
            else:
                ways = [(1, ahead, 1.0)] if 2 * ahead < length else [(-1, length - ahead, 1.0)]
            for step, count, share in ways:
                at = list(here)
                for _ in range(count):
                    key = (tuple(at), axis, step)
                    links[key] = links.get(key, 0.0) + share
                    at[axis] = (at[axis] + step) % length
            here[axis] = target[axis]
    return max(links.values())


@pytest.mark.parametrize("shape", [(4,), (5,), (8,), (4, 4), (3, 5), (2, 6), (2, 4, 4), (3, 3, 3)])
@pytest.mark.parametrize("closes", [True, False])
def test_all_to_all_is_the_load_of_the_fullest_link(shape: tuple[int, ...], closes: bool) -> None:
    """A ring of two has two cables to one neighbour, between which a byte is split: the count above does that too."""
    ranks = math.prod(shape)
    members = (*map(float, shape), 1.0, 1.0)[:3]
    rate = algorithms.torus_axis_byte_per_s(float(closes), 1.0, 1.0)
    law = algorithms.torus_all_to_all_time(float(ranks), *members, 0.0, 0.0, 0.0, rate, rate, rate)
    assert law == pytest.approx(loads(shape, closes), rel=1e-12, abs=0)


def test_one_closed_axis_is_a_ring_walked_both_ways() -> None:
    for ranks in (3, 4, 16, 101):
        ring = laws.ring_all_reduce_time(1e9, ranks, 0, 0, 2 * 45e9) + 2 * math.ceil((ranks - 1) / 2) * 1e-6
        assert ideal(torus((ranks,), 45e9), "all_reduce", 1e9, ranks) == pytest.approx(ring, rel=1e-12, abs=0)


@given(st.tuples(*[st.integers(1, 12)] * 3), st.floats(1.0, 1e12))
@settings(deadline=None, max_examples=50)
def test_a_whole_torus_is_the_registered_law(shape: tuple[int, int, int], n_bytes: float) -> None:
    ranks = math.prod(shape)
    for operation, law in (
        ("all_reduce", algorithms.torus_all_reduce_time),
        ("all_gather", algorithms.torus_all_gather_time),
    ):
        expected = law(n_bytes, *shape, 0.0, 1e-6, 45e9)
        assert ideal(torus(shape, 45e9), operation, n_bytes, ranks) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("chips", SLICES)
def test_within_twice_the_bandwidth_of_all_links(chips: int) -> None:
    """A slice that wraps uses every link; one that does not, half of them. Axes of one have none."""
    n_bytes, axes = 1e13, sum(axis > 1 for axis in SLICES[chips])
    bound = 2 * (chips - 1) / chips * n_bytes / (2 * axes * 45e9)
    for cube, slower in ((None, 2.0), (4, 1.0 if chips >= 64 else 2.0)):
        pod = Torus(torus((16, 20, 28), 45e9, torus_cube=cube).tiers[0], chips)
        # Of the slices below, 16 x 16 x 16 and 16 x 16 x 24 span whole axes of the pod and wrap there anyway.
        most = slower * bound * (1 + 1e-12)
        busy = float(pod.busy("all_reduce", n_bytes, float(chips), 1.0, 1.0))
        assert bound * (1 - 1e-12) <= busy <= most
        if chips < 2048:
            assert busy == pytest.approx(slower * bound, rel=1e-12, abs=0)


@given(st.integers(0, 12), st.integers(0, 12), st.floats(1e3, 1e11), st.sampled_from(["all_reduce", "all_gather"]))
@settings(deadline=None, max_examples=60)
def test_all_axes_are_never_slower_than_one_ring_and_more_bytes_never_faster(
    span: int, inner: int, n_bytes: float, operation: str
) -> None:
    pod = Links(torus((16, 16, 16), 45e9), H100)
    stride, ranks = 2.0 ** min(inner, span), 2.0 ** (max(span, inner) - min(inner, span))
    times = {
        name: float(pod.collective(operation, n_bytes, ranks, stride, algorithm=name).seconds)
        for name in ("auto", "torus", "ring")
    }
    assert times["auto"] == times["torus"] <= times["ring"] * (1 + 1e-12)
    more = pod.collective(operation, 1.5 * n_bytes, ranks, stride)
    assert float(more.seconds) >= times["auto"]
    assert more.lower <= more.seconds <= more.upper


def test_groups_that_interleave_on_an_axis_share_its_links() -> None:
    """16 ranks on one row of 16, four apart on four rows: as many links each, a quarter of each."""
    pod = torus((64, 4), 45e9)
    alone, shared = ideal(pod, "all_gather", 1e12, 64.0), ideal(pod, "all_gather", 1e12, 16.0, 4.0)
    assert shared == pytest.approx(4 * alone * (15 / 16) / (63 / 64), rel=1e-4, abs=0)


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"])
def test_arrays_are_scalars_one_rank_is_free_and_slices_speak_over_the_network(operation: str) -> None:
    slices = Links(torus((4, 4, 4), 100e9, accelerators=512, torus_cube=4, outer=[DCN]), H100)
    n_bytes, ranks = np.array([1e3, 1e6, 1e9, 1e9, 1e5]), np.array([2.0, 64.0, 64.0, 128.0, 1.0])
    together = slices.collective(operation, n_bytes, ranks).seconds
    alone = [
        float(slices.collective(operation, n, p).seconds) for n, p in zip(n_bytes.tolist(), ranks.tolist(), strict=True)
    ]
    assert together.tolist() == pytest.approx(alone, rel=1e-12, abs=0)
    assert alone[-1] == 0
    # Every slice does its own part at the share that a busy link reaches.
    inside = Links(torus((4, 4, 4), 100e9, torus_cube=4), H100).collective(operation, 1e9, 64.0)
    assert alone[3] >= 0.9 * float(inside.lower)


def test_neighbours_are_one_hop_apart_and_rows_many_links() -> None:
    pod = Links(torus((16, 16), 50e9), IDEAL)
    assert float(pod.send_recv(1e9, 1.0).seconds) == pytest.approx(1e9 / 50e9 + 1e-6, rel=1e-9, abs=0)
    assert float(pod.send_recv(1e9, 16.0).seconds) == pytest.approx(1e9 / 50e9 + 1e-6, rel=1e-9, abs=0)
    # Half a row on: all eight in between send over the same link.
    assert float(pod.send_recv(1e9, 4.0).seconds) == pytest.approx(4 * 1e9 / 50e9 + 4e-6, rel=1e-9, abs=0)


# Words


def test_the_document_names_the_torus_and_warns_that_no_table_shows_one() -> None:
    document = describe_collective(torus((4, 4, 4), 100e9), "all_reduce", 1e9, 64)
    assert document.algorithm == "torus"
    assert "no table measures torus all_reduce" in {warning.value for warning in document.warnings}
    assert document.peak_byte_per_s == 600e9
    assert 0 < document.roofline_share < 1


REFUSED = {
    "no shape": ({"torus_shape": None}, "torus_shape: missing; a tier of kind 'torus' needs its axes"),
    "not a torus": ({"kind": "roce"}, "torus_shape: only a tier of kind 'torus' has one (got kind 'roce')"),
    "four axes": ({"torus_shape": [2, 2, 2, 2]}, "torus_shape: must be 1 to 3 whole numbers from 1 to 1000"),
    "no axes": ({"torus_shape": []}, "(got [])"),
    "zero": ({"torus_shape": [0, 4]}, "(got [0, 4])"),
    "fraction": ({"torus_shape": [2.5, 4]}, "(got [2.5, 4])"),
    "text": ({"torus_shape": "4x4"}, "(got 4x4)"),
    "too small": ({"torus_shape": [4, 4]}, "4 x 4 holds 16 accelerators, too few for domain_accelerators (got 64)"),
    "switch": ({"in_network_reduction": True}, "a torus has no switch"),
    "routing": ({"routing": "spray"}, "unknown routing 'spray'; nearest: 'sprayed'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_tori_are_refused(case: str) -> None:
    change, says = REFUSED[case]
    with pytest.raises(SpecError) as caught:
        torus((4, 4, 4), 100e9, **change)
    assert says in str(caught.value)


def test_a_torus_is_the_innermost_tier_and_holds_its_domain() -> None:
    pod = torus((4, 4, 4), 100e9).model_dump(mode="json")
    with pytest.raises(SpecError, match="only the innermost tier can be a torus"):
        pm.load_cluster(pod | {"tiers": [pod["tiers"][0] | {"kind": "nvlink", "torus_shape": None, "name": "inner",
                                                              "domain_accelerators": 4}, pod["tiers"][0]]})  # fmt: skip
    open_ended = pod | {"tiers": [pod["tiers"][0] | {"domain_accelerators": None}]}
    with pytest.raises(SpecError, match="4 x 4 x 4 holds 64 accelerators, too few for the domain \\(got 65\\)"):
        pm.load_cluster(open_ended, accelerators=65)


@pytest.mark.parametrize("algorithm", ["tree", "in_network", "halving_doubling", "star", "hierarchical"])
def test_algorithms_of_switches_are_refused_on_a_torus(algorithm: str) -> None:
    with pytest.raises(PlanError, match=f"pod is a torus, which has auto, torus, ring \\(got '{algorithm}'\\)"):
        pm.estimate_collective(torus((4, 4), 1e9), "all_reduce", 1e6, 4, algorithm=algorithm)
