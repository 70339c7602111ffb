"""Messages on clusters of one to three tiers: what is free, what is slower, and arrays against scalars."""

from __future__ import annotations

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.errors import PlanError, SpecError
from perfmodel.formulas import collective_algorithms as algorithms
from perfmodel.formulas import collectives as laws
from perfmodel.predict.communication import Links
from perfmodel.predict.kernel_documents import describe_collective
from perfmodel.specs.efficiency import load_efficiency

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


def links(cluster: str | dict, accelerators: int = 1024) -> Links:
    machine = pm.load_cluster(cluster, accelerators)
    return Links(machine, load_efficiency(machine.accelerator.id, machine.accelerator.relative))


def three_tiers(**spine_keys: object) -> dict:
    data = pm.load_cluster("dgx-a100-80gb", 1024).model_dump(mode="json")
    rack = data["tiers"][1] | {"name": "rack", "domain_accelerators": 64}
    spine = data["tiers"][1] | {
        "name": "spine",
        "link_byte_per_s": data["tiers"][1]["link_byte_per_s"] | {"value": 5e9},
    }
    return data | {"id": "three-tiers", "tiers": [data["tiers"][0], rack, spine | spine_keys]}


def nvl72() -> dict:
    """Racks of 72 behind one NVLink switch, rows of eight racks, and a spine; numbers of the B200 node."""
    data = pm.load_cluster("dgx-b200", 1152).model_dump(mode="json")
    rack = data["tiers"][0] | {"domain_accelerators": 72}
    row = data["tiers"][1] | {"name": "row", "domain_accelerators": 576}
    spine = data["tiers"][1] | {"name": "spine", "spine_oversubscription": 2}
    return data | {"id": "nvl72", "accelerators_per_node": 4, "tiers": [rack, row, spine]}


def two_tiers(**network_keys: object) -> dict:
    data = pm.load_cluster("dgx-h100", 1024).model_dump(mode="json")
    return data | {"tiers": [data["tiers"][0], data["tiers"][1] | network_keys]}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_rank_costs_nothing(operation: str) -> None:
    assert float(links("dgx-h100").collective(operation, 1e9, 1.0).seconds) == 0


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("cluster", ["dgx-a100-80gb", "dgx-h100"])
def test_leaving_the_node_is_never_faster(operation: str, cluster: str) -> None:
    net = links(cluster)
    for n_bytes in (1e4, 1e6, 1e8, 1e10):
        inside = float(net.collective(operation, n_bytes, 8.0, 1.0).seconds)
        across = float(net.collective(operation, n_bytes, 8.0, 8.0).seconds)
        assert across > inside


@pytest.mark.parametrize("operation", OPERATIONS)
def test_never_below_the_link(operation: str) -> None:
    """No collective moves its own share of the bytes faster than the data sheet's link."""
    share = {"all_reduce": 1.0}.get(operation, 7 / 8)
    for n_bytes in (1e3, 1e6, 1e9):
        cost = links("dgx-h100").collective(operation, n_bytes, 8.0)
        assert float(cost.seconds) > share * n_bytes / 450e9
        assert float(cost.lower) <= float(cost.seconds) <= float(cost.upper)


def test_a_third_tier_is_slower_than_the_second() -> None:
    net = links(three_tiers())
    rack = float(net.collective("all_reduce", 1e9, 2.0, 8.0).seconds)
    spine = float(net.collective("all_reduce", 1e9, 2.0, 64.0).seconds)
    assert spine > 4 * rack
    assert float(net.send_recv(1e9, 64.0).seconds) > 4 * float(net.send_recv(1e9, 8.0).seconds)


def test_rails_of_a_node_carry_a_group_together() -> None:
    net = links("dgx-a100-80gb")
    one_rail = float(net.collective("all_reduce", 1e10, 16.0, 8.0).seconds)
    all_rails = float(net.collective("all_reduce", 1e10, 16.0, 1.0).seconds)
    assert one_rail > 5 * all_rails


@pytest.mark.parametrize("operation", OPERATIONS)
def test_arrays_equal_scalars(operation: str) -> None:
    net = links(three_tiers())
    n_bytes = np.array([1e3, 1e6, 1e9, 1e6, 1e8])
    ranks, stride = np.array([1.0, 2.0, 8.0, 16.0, 64.0]), np.array([1.0, 4.0, 1.0, 8.0, 16.0])
    together = net.collective(operation, n_bytes, ranks, stride).seconds
    alone = [
        float(net.collective(operation, *map(float, row)).seconds) for row in zip(n_bytes, ranks, stride, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=0)


# More than two tiers


@pytest.mark.parametrize("operation", [*OPERATIONS, "broadcast"])
@pytest.mark.parametrize("n_bytes", [1e3, 1e6, 1e9])
def test_more_ranks_and_more_bytes_are_never_faster(operation: str, n_bytes: float) -> None:
    net = links(three_tiers())
    ranks = 2.0 ** np.arange(1, 11)
    for algorithm in net.algorithms(operation):
        if algorithm not in ("in_network", "torus"):
            seconds = net.collective(operation, n_bytes, ranks, algorithm=algorithm).seconds
            more = net.collective(operation, 2 * n_bytes, ranks, algorithm=algorithm).seconds
            assert (np.diff(seconds) >= 0).all()
            assert (more >= seconds).all()


@pytest.mark.parametrize("n_bytes", [1e3, 1e6, 1e9, 1e10])
def test_a_rack_a_row_and_a_spine_of_switched_racks(n_bytes: float) -> None:
    """GB200's 72 behind one switch: each wider group is slower, and an all-to-all pays each link's own share."""
    net = links(nvl72(), 1152)
    ranks = np.array([2.0, 4.0, 36.0, 72.0, 144.0, 576.0, 1152.0])
    for operation in ("all_reduce", "all_to_all"):
        # The switch's own sum takes as long for 72 ranks as for three.
        assert (np.diff(net.collective(operation, n_bytes, ranks).seconds) >= 0).all()
    crosses_spine = n_bytes * (1152 - 576) / 1152 / 25e9
    assert float(net.collective("all_to_all", n_bytes, 1152.0).seconds) > crosses_spine
    # An array takes the same road.
    alone = [float(net.collective("all_reduce", n_bytes, p).seconds) for p in ranks.tolist()]
    assert net.collective("all_reduce", n_bytes, ranks).seconds.tolist() == pytest.approx(alone, rel=1e-12, abs=0)


@pytest.mark.parametrize("n_bytes", [1.0, 1e5, 1e8, 1e10])
@pytest.mark.parametrize("ranks", [16.0, 64.0, 128.0, 1024.0])
def test_level_after_level_is_never_slower_than_a_flat_ring_over_the_slowest_link(n_bytes: float, ranks: float) -> None:
    net, network = links(three_tiers()), load_efficiency("a100-sxm-80gb").network
    slowest = network.link_efficiency * (5e9 if ranks > 64 else 25e9)
    flat = laws.ring_all_reduce_time(n_bytes, ranks, network.launch_s, network.latency_s, slowest)
    by_level = float(net.collective("all_reduce", n_bytes, ranks, algorithm="hierarchical").seconds)
    assert by_level <= flat * (1 + 1e-12)


def test_levels_are_the_registered_two_and_three_level_laws() -> None:
    """With one protocol only, so that the inner level has no choice."""
    own = load_efficiency("a100-sxm-80gb")
    own = own.model_copy(update={"collective": dict.fromkeys(own.collective, own.collective["simple"])})
    net, simple, network = Links(pm.load_cluster(three_tiers()), own), own.collective["simple"], own.network
    inner, rack, spine = simple.link_efficiency * 300e9, network.link_efficiency * 25e9, network.link_efficiency * 5e9
    waits = (simple.latency_s, network.latency_s, network.latency_s)
    two = laws.hierarchical_all_reduce_time(1e9, 8, 8, network.launch_s, *waits[:2], inner, rack)
    three = algorithms.three_level_all_reduce_time(1e9, 8, 8, 16, network.launch_s, *waits, inner, rack, spine)
    for ranks, law in ((64.0, two), (1024.0, three)):
        seconds = float(net.collective("all_reduce", 1e9, ranks, algorithm="hierarchical").seconds)
        assert seconds == pytest.approx(law, rel=1e-12, abs=0)


# Congestion


def test_a_network_that_says_nothing_is_not_congested() -> None:
    plain = links("dgx-h100").collective("all_reduce", 1e9, 64.0)
    for routing in ("rail-optimised", "sprayed"):
        assert links(two_tiers(routing=routing)).collective("all_reduce", 1e9, 64.0) == plain


@pytest.mark.parametrize("operation", OPERATIONS)
def test_oversubscription_divides_the_links_and_hashed_paths_collide(operation: str) -> None:
    """A spine of half the links carries half as much; on single paths it is worse; inside a node nothing changes."""
    plain, half, hashed = (
        links(two_tiers(**keys)) for keys in ({}, {"spine_oversubscription": 2.0}, {"routing": "single-path"})
    )
    times = [float(net.collective(operation, 1e11, 16.0, 8.0).seconds) for net in (plain, half, hashed)]
    assert times[1] == pytest.approx(2 * times[0], rel=0.01, abs=0)
    assert times[2] > times[1]
    both = links(two_tiers(routing="single-path", spine_oversubscription=2))
    assert float(both.collective(operation, 1e11, 16.0, 8.0).seconds) > times[2]
    assert hashed.collective(operation, 1e8, 8.0) == plain.collective(operation, 1e8, 8.0)
    assert float(hashed.send_recv(1e9, 8.0).seconds) > 2 * float(plain.send_recv(1e9, 8.0).seconds)


def test_collisions_of_a_node_against_dice() -> None:
    """Eight flows thrown on eight links: the law stands above the mean of the fullest, by less than half."""
    rng = np.random.default_rng(11)
    fullest = np.mean([np.bincount(rng.integers(0, 8, 8)).max() for _ in range(4000)])
    plain, hashed = links("dgx-h100"), links(two_tiers(routing="single-path"))
    slowdown = float(hashed.send_recv(1e12, 8.0).seconds) / float(plain.send_recv(1e12, 8.0).seconds)
    assert fullest < slowdown < 1.5 * fullest


def test_wrong_spines_are_refused() -> None:
    with pytest.raises(SpecError, match=r"spine_oversubscription: .*greater than or equal to 1"):
        pm.load_cluster(two_tiers(spine_oversubscription=0.5))
    with pytest.raises(SpecError, match="unknown routing 'ecmp'; allowed: rail-optimised, single-path, sprayed"):
        pm.load_cluster(two_tiers(routing="ecmp"))


# The chooser


@pytest.mark.parametrize("algorithm", ["halving_doubling", "star", "hierarchical"])
@pytest.mark.parametrize("ranks", [1.0, 2.0, 8.0, 12.0, 16.0, 1024.0])
def test_what_no_library_runs_is_priced_when_asked_for(algorithm: str, ranks: float) -> None:
    net = links("dgx-h100")
    n_bytes = np.array([1e3, 1e6, 1e9])
    cost = net.collective("all_reduce", n_bytes, ranks, algorithm=algorithm)
    assert (np.diff(cost.seconds) > 0).all() if ranks > 1 else (cost.seconds == 0).all()
    assert (cost.lower <= cost.seconds).all()


def test_a_star_does_not_scale_and_halving_has_fewer_steps_than_a_ring() -> None:
    def price(n_bytes: float, algorithm: str) -> float:
        return float(pm.estimate_collective(pod, "all_reduce", n_bytes, 1024, algorithm=algorithm))

    pod = pm.load_cluster("dgx-h100", 1024)
    assert price(1e9, "star") > 100 * price(1e9, "hierarchical")
    assert price(1e4, "halving_doubling") < price(1e4, "hierarchical")
    # The same bytes cross every link: for long messages only the steps differ.
    assert price(1e13, "halving_doubling") == pytest.approx(price(1e13, "hierarchical"), rel=1e-3, abs=0)


def test_the_document_names_the_winner_and_widens_for_what_no_table_shows() -> None:
    pod = pm.load_cluster("dgx-h100", 64)

    def won(*question: object, **more: object) -> str | None:
        return describe_collective(pod, *question, **more).algorithm  # type: ignore[arg-type]

    assert won("all_reduce", 1e3, 8) == "ring, ll"
    assert won("all_reduce", 1e9, 8) == "in_network"
    assert won("all_reduce", 1e3, 64) == "tree"
    assert won("all_reduce", 8e9, 64) == "ring"
    assert won("all_reduce", 1e4, 8, library="vllm") == "one_shot, vllm"
    assert won("all_to_all", 1e9, 8) == "direct, simple"
    assert won("send_recv", 1e9, 2) == "direct"
    plain, asked = (describe_collective(pod, "all_reduce", 1e6, 16, algorithm=name) for name in ("auto", "star"))
    assert not plain.warnings
    assert [warning.value for warning in asked.warnings] == ["no table measures star all_reduce"]
    assert asked.interval_s[1] / asked.seconds > plain.interval_s[1] / plain.seconds
    crowded = describe_collective(two_tiers(routing="single-path"), "all_reduce", 1e9, 64)
    assert "InfiniBand NDR: single-path routing, 1 to 1" in crowded.warnings[0].value


def test_every_time_is_at_least_the_data_sheets() -> None:
    for cluster in (two_tiers(), three_tiers(), nvl72(), two_tiers(routing="single-path")):
        for operation in (*OPERATIONS, "broadcast", "send_recv"):
            for ranks in (2, 8, 72, 1024):
                document = describe_collective(cluster, operation, 1e6, ranks)
                assert document.roofline_s <= document.seconds * (1 + 1e-12)


def test_algorithms_that_a_cluster_lacks_are_refused() -> None:
    with pytest.raises(PlanError, match=r"'in_network' needs a switch that adds; .* of dgx-a100-80gb has none"):
        links("dgx-a100-80gb").collective("all_reduce", 1e6, 8.0, algorithm="in_network")
    with pytest.raises(PlanError, match="'torus' needs a tier of kind 'torus'; dgx-h100 has 'nvlink'"):
        links("dgx-h100").collective("all_reduce", 1e6, 8.0, algorithm="torus")
