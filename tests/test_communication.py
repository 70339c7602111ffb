"""Messages on clusters of one to three tiers: what is free, what is slower, and arrays against scalars."""

from __future__ import annotations

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.predict.communication import Links
from perfmodel.specs.efficiency import load_efficiency

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


def links(cluster: str | dict, accelerators: int = 1024) -> Links:
    machine = pm.load_cluster(cluster, accelerators)
    return Links(machine, load_efficiency(machine.accelerator.id, machine.accelerator.relative))


def three_tiers() -> dict:
    data = pm.load_cluster("dgx-a100-80gb", 1024).model_dump(mode="json")
    rack = data["tiers"][1] | {"name": "rack", "domain_accelerators": 64}
    spine = data["tiers"][1] | {
        "name": "spine",
        "link_byte_per_s": data["tiers"][1]["link_byte_per_s"] | {"value": 5e9},
    }
    return data | {"id": "three-tiers", "tiers": [data["tiers"][0], rack, spine]}


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
