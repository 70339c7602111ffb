"""What a message costs on one cluster: the fastest protocol inside a domain, rings over rails across domains."""

from __future__ import annotations

from collections.abc import Callable

from perfmodel.formulas import collectives as laws
from perfmodel.ops import ceil_div, less, maximum, minimum, where
from perfmodel.predict.cost import Cost, Number
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import Efficiency

__all__ = ["Links"]

_RINGS: dict[str, Callable[..., Number]] = {
    "all_reduce": laws.ring_all_reduce_time,
    "all_gather": laws.ring_all_gather_time,
    "reduce_scatter": laws.ring_reduce_scatter_time,
    "all_to_all": laws.all_to_all_time,
}


class Links:
    """The collectives of a cluster. Groups are described by their size and the distance between neighbours.

    `ranks` members stand `stride` accelerators apart (tensor-parallel groups have stride 1, data-parallel groups `tp`,
    pipeline neighbours `tp * dp`), so a group fills `ranks * stride` accelerators.
    """

    def __init__(self, cluster: Cluster, efficiency: Efficiency) -> None:
        self._tiers = [
            (
                float(tier.domain_accelerators or cluster.accelerators),
                float(tier.link_byte_per_s),
                float(tier.latency_s),
            )
            for tier in cluster.tiers
        ]
        self._efficiency = efficiency
        self._in_network = efficiency.in_network if cluster.tiers[0].in_network_reduction else None

    def collective(self, operation: str, n_bytes: Number, ranks: Number, stride: Number = 1.0) -> Cost:
        """Time of one collective of `n_bytes` (DESIGN's convention for each operation) over a group of `ranks`."""
        ring = _RINGS[operation]
        inside = self._inside(operation, n_bytes, ranks)
        if len(self._tiers) == 1:
            return inside
        outside = self._across(ring, n_bytes, ranks, stride)
        stays = less(ranks * stride, self._tiers[0][0] + 0.5)
        return _choose(stays, inside, outside)

    def send_recv(self, n_bytes: Number, stride: Number) -> Cost:
        """Time of one message to a neighbour `stride` accelerators away."""
        near = self._point_to_point(n_bytes, 0)
        for position in range(1, len(self._tiers)):
            domain = self._tiers[position - 1][0]
            near = _choose(less(stride, domain - 0.5), near, self._point_to_point(n_bytes, position))
        return near

    def _inside(self, operation: str, n_bytes: Number, ranks: Number) -> Cost:
        ring = _RINGS[operation]
        link = self._tiers[0][1]
        protocols = self._efficiency.collective.values()
        times = [ring(n_bytes, ranks, p.launch_s, p.latency_s, p.link_efficiency * link) for p in protocols]
        best = max(p.link_efficiency for p in protocols)
        if operation == "all_reduce" and self._in_network is not None:
            switch = self._in_network
            in_switch = laws.in_network_all_reduce_time(n_bytes, ranks, switch.launch_s, switch.link_efficiency * link)
            # A switch saves nothing between two ranks, and no table shows it used there.
            times.append(where(less(ranks, 3), times[-1], in_switch))
            best = max(best, 2 * switch.link_efficiency)
        return _link_cost(minimum(*times), ring(n_bytes, ranks, 0.0, 0.0, best * link))

    def _across(self, ring: Callable[..., Number], n_bytes: Number, ranks: Number, stride: Number) -> Cost:
        network = self._efficiency.network
        simple = self._efficiency.collective["simple"]
        bandwidth: Number = simple.link_efficiency * self._tiers[0][1]
        domains: Number = 1.0
        latency: Number = 0.0
        for position in range(1, len(self._tiers)):
            domain = self._tiers[position - 1][0]
            _, link, step_s = self._tiers[position]
            members = minimum(maximum(domain / stride, 1.0), ranks)
            crosses = less(domain, ranks * stride)
            rails = laws.ring_link_byte_per_s(bandwidth, network.link_efficiency * link, members)
            bandwidth = where(crosses, rails, bandwidth)
            domains = where(crosses, ceil_div(ranks, members), domains)
            latency = where(crosses, max(step_s, float(network.latency_s)), latency)
        # The steps inside a domain overlap with the slower ones between domains.
        steps_s = latency * (domains - 1) / maximum(ranks - 1, 1)
        seconds = ring(n_bytes, ranks, network.launch_s, steps_s, bandwidth)
        return _link_cost(seconds, ring(n_bytes, ranks, 0.0, 0.0, bandwidth))

    def _point_to_point(self, n_bytes: Number, position: int) -> Cost:
        _, link, latency = self._tiers[position]
        constants = self._efficiency.network if position else self._efficiency.collective["simple"]
        bandwidth = constants.link_efficiency * link
        launch_s = constants.launch_s if not position else self._efficiency.collective["ll128"].launch_s
        return _link_cost(
            laws.send_recv_time(n_bytes, launch_s + latency, bandwidth),
            laws.send_recv_time(n_bytes, 0.0, bandwidth),
        )


def _link_cost(seconds: Number, busy: Number) -> Cost:
    return Cost(seconds, minimum(busy, seconds), seconds, 0.0, 0.0, minimum(busy, seconds))


def _choose(condition: Number, when_true: Cost, when_false: Cost) -> Cost:
    return Cost(
        where(condition, when_true.seconds, when_false.seconds),
        where(condition, when_true.lower, when_false.lower),
        where(condition, when_true.upper, when_false.upper),
        0.0,
        0.0,
        where(condition, when_true.link_s, when_false.link_s),
    )
