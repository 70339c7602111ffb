"""What a message costs on one cluster: the fastest protocol inside a domain, rings or trees over rails across them."""

from __future__ import annotations

from collections.abc import Callable

from perfmodel.errors import PlanError, unknown_name
from perfmodel.formulas import collective_algorithms as algorithms
from perfmodel.formulas import collectives as laws
from perfmodel.ops import ceil_div, less, less_equal, maximum, minimum, where
from perfmodel.predict.cost import Cost, Number
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import Efficiency

__all__ = ["OPERATIONS", "Links"]

_LAWS: dict[str, Callable[..., Number]] = {
    "all_reduce": laws.ring_all_reduce_time,
    "all_gather": laws.ring_all_gather_time,
    "reduce_scatter": laws.ring_reduce_scatter_time,
    "all_to_all": laws.all_to_all_time,
    "broadcast": algorithms.pipelined_broadcast_time,
}
OPERATIONS = (*_LAWS, "send_recv")


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

    def collective(
        self,
        operation: str,
        n_bytes: Number,
        ranks: Number,
        stride: Number = 1.0,
        *,
        algorithm: str = "auto",
        library: str | None = None,
    ) -> Cost:
        """Time of one collective of `n_bytes` (DESIGN's convention for each operation) over a group of `ranks`.

        `algorithm` keeps one of `algorithms(operation)`, "auto" takes the fastest. `library` names a serving engine
        whose own all-reduce replaces the protocols inside a domain where it is made for the size.
        """
        known = self.algorithms(operation)
        if algorithm not in known:
            raise PlanError(unknown_name(f"algorithm of {operation}", algorithm, known))
        inside = self._inside(operation, n_bytes, ranks, algorithm, library)
        if len(self._tiers) == 1:
            return inside
        outside = self._across(operation, n_bytes, ranks, stride, algorithm)
        stays = less(ranks * stride, self._tiers[0][0] + 0.5)
        return _choose(stays, inside, outside)

    @staticmethod
    def algorithms(operation: str) -> tuple[str, ...]:
        """The names that `algorithm` may have."""
        return ("auto", "ring", "tree", "in_network") if operation == "all_reduce" else ("auto",)

    def send_recv(self, n_bytes: Number, stride: Number) -> Cost:
        """Time of one message to a neighbour `stride` accelerators away."""
        near = self._point_to_point(n_bytes, 0)
        for position in range(1, len(self._tiers)):
            domain = self._tiers[position - 1][0]
            near = _choose(less(stride, domain - 0.5), near, self._point_to_point(n_bytes, position))
        return near

    def _inside(self, operation: str, n_bytes: Number, ranks: Number, algorithm: str, library: str | None) -> Cost:
        law, link = _LAWS[operation], self._tiers[0][1]
        blocks = self._efficiency.all_to_all if operation == "all_to_all" else {}
        protocols = (blocks or self._efficiency.collective).values()
        times = [law(n_bytes, ranks, p.launch_s, p.latency_s, p.link_efficiency * link) for p in protocols]
        best = max(p.link_efficiency for p in protocols)
        if operation == "all_reduce" and self._in_network is not None and algorithm in ("auto", "in_network"):
            switch = self._in_network
            in_switch = laws.in_network_all_reduce_time(n_bytes, ranks, switch.launch_s, switch.link_efficiency * link)
            # A switch saves nothing between two ranks, and no table shows it used there.
            in_switch = where(less(ranks, 3), times[-1], in_switch)
            times = [in_switch] if algorithm == "in_network" else [*times, in_switch]
            best = max(best, 2 * switch.link_efficiency)
        elif operation == "all_reduce" and algorithm == "tree":
            times = [
                laws.tree_all_reduce_time(n_bytes, ranks, p.launch_s, p.latency_s, p.link_efficiency * link)
                for p in protocols
            ]
        seconds: Number = minimum(*times)
        if library is not None and operation == "all_reduce":
            seconds = minimum(seconds, self._custom_all_reduce(n_bytes, ranks, library, seconds))
        return _link_cost(seconds, law(n_bytes, ranks, 0.0, 0.0, best * link))

    def _custom_all_reduce(self, n_bytes: Number, ranks: Number, library: str, otherwise: Number) -> Number:
        own, link = self._efficiency.custom_all_reduce_constants(library), self._tiers[0][1]
        seconds: Number = algorithms.one_shot_all_reduce_time(
            n_bytes, ranks, own.one_shot_launch_s, own.one_shot_latency_s, own.one_shot_link_efficiency * link
        )
        if own.two_shot_launch_s is not None and own.two_shot_link_efficiency is not None:
            two_shot = algorithms.two_shot_all_reduce_time(
                n_bytes, ranks, own.two_shot_launch_s, own.two_shot_latency_s, own.two_shot_link_efficiency * link
            )
            seconds = minimum(seconds, two_shot)
        return where(less_equal(n_bytes, own.max_bytes), seconds, otherwise)

    def _across(self, operation: str, n_bytes: Number, ranks: Number, stride: Number, algorithm: str) -> Cost:
        network = self._efficiency.network
        peak = self._tiers[0][1]
        inner = self._efficiency.collective["simple"].link_efficiency * peak
        ring: Number = network.link_efficiency * peak
        # Without a switch that adds, a tree's message goes up and down the same links inside a domain.
        tree: Number = self._in_network.link_efficiency * peak if self._in_network else 0.5 * inner
        own_link: Number = inner
        inside: Number = ranks
        domains: Number = 1.0
        latency: Number = 0.0
        for position in range(1, len(self._tiers)):
            domain = self._tiers[position - 1][0]
            _, link, step_s = self._tiers[position]
            members = minimum(maximum(domain / stride, 1.0), ranks)
            crosses = less(domain, ranks * stride)
            rails = laws.ring_link_byte_per_s(ring, network.link_efficiency * link, members)
            ring = where(crosses, rails, ring)
            domains = where(crosses, ceil_div(ranks, members), domains)
            branches = algorithms.tree_domain_byte_per_s(members * network.tree_link_efficiency * link, domains)
            tree = where(crosses, minimum(tree, branches), tree)
            own_link = where(crosses, minimum(own_link, network.link_efficiency * link), own_link)
            inside = where(crosses, minimum(inside, members), inside)
            latency = where(crosses, max(step_s, float(network.latency_s)), latency)
        if operation == "all_to_all":
            sizes = (n_bytes, ranks, inside)
            seconds = algorithms.two_level_all_to_all_time(*sizes, network.launch_s, latency, inner, own_link)
            return _link_cost(seconds, algorithms.two_level_all_to_all_time(*sizes, 0.0, 0.0, inner, own_link))
        law = _LAWS[operation]
        # The steps inside a domain overlap with the slower ones between domains.
        steps_s = latency * (domains - 1) / maximum(ranks - 1, 1)
        seconds = law(n_bytes, ranks, network.launch_s, steps_s, ring)
        if operation == "all_reduce" and algorithm != "ring":
            in_tree = algorithms.pipelined_tree_all_reduce_time(
                n_bytes, domains, network.launch_s, network.tree_latency_s, tree
            )
            seconds = in_tree if algorithm in ("tree", "in_network") else minimum(seconds, in_tree)
        return _link_cost(seconds, law(n_bytes, ranks, 0.0, 0.0, ring))

    def _point_to_point(self, n_bytes: Number, position: int) -> Cost:
        _, link, latency = self._tiers[position]
        protocols = self._efficiency.collective
        if position:
            # Across domains nothing but all-reduce is measured: the floor is that of a short message's protocol.
            bandwidth = self._efficiency.network.link_efficiency * link
            seconds = laws.send_recv_time(n_bytes, protocols["ll128"].launch_s + latency, bandwidth)
        else:
            bandwidth = max(p.link_efficiency for p in protocols.values()) * link
            times = [
                laws.send_recv_time(n_bytes, p.launch_s + p.latency_s, p.link_efficiency * link)
                for p in protocols.values()
            ]
            seconds = minimum(*times)
        return _link_cost(seconds, laws.send_recv_time(n_bytes, 0.0, bandwidth))


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
