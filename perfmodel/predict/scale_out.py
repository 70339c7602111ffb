"""Messages that leave a domain: what every tier carries, and rings, trees and levels over several of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from perfmodel.dual import plain
from perfmodel.formulas import collective_algorithms as algorithms
from perfmodel.formulas import collectives as laws
from perfmodel.formulas import routing
from perfmodel.ops import ceil_div, less, maximum, minimum, where
from perfmodel.predict.cost import Number
from perfmodel.predict.torus import Torus
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.kernel_constants import InNetworkConstants
from perfmodel.specs.network import Tier

__all__ = ["LAWS", "SHAPES", "CarryingTier", "Crossing", "ScaleOut", "carrying_tiers", "halving_doubling_time"]

LAWS: dict[str, Callable[..., Number]] = {
    "all_reduce": laws.ring_all_reduce_time,
    "all_gather": laws.ring_all_gather_time,
    "reduce_scatter": laws.ring_reduce_scatter_time,
    "all_to_all": laws.all_to_all_time,
    "broadcast": algorithms.pipelined_broadcast_time,
}
SHAPES = {"all_to_all": "direct", "broadcast": "chain"}
"""What the law of an operation is called where it is no ring."""


class CarryingTier(NamedTuple):
    """`accelerators` of a domain; `byte_per_s` of one accelerator after congestion; `latency_s` of a step."""

    accelerators: float
    byte_per_s: float
    latency_s: float


class Crossing(NamedTuple):
    """A tier that a group may cross: whether it does, its members inside one domain below, and how many of those."""

    crosses: Number
    members: Number
    domains: Number
    byte_per_s: float
    latency_s: float


class ScaleOut:
    """The collectives of groups that leave the innermost domain. Groups as in `Links`."""

    def __init__(
        self,
        tiers: list[CarryingTier],
        efficiency: Efficiency,
        in_network: InNetworkConstants | None,
        torus: Torus | None,
    ) -> None:
        self._tiers = tiers
        self._efficiency = efficiency
        self._in_network = in_network
        self._torus = torus

    def busy(
        self, operation: str, n_bytes: Number, ranks: Number, crossings: list[Crossing], outward: Number = 1.0
    ) -> Number:
        """Seconds that the slowest tier works."""
        if operation == "all_to_all":
            return self._all_to_all_across(n_bytes, ranks, crossings, 0.0, 0.0, outward)
        return LAWS[operation](n_bytes, ranks, 0.0, 0.0, self._ring_byte_per_s(crossings))

    def times(
        self,
        operation: str,
        n_bytes: Number,
        ranks: Number,
        stride: Number,
        algorithm: str,
        crossings: list[Crossing],
        outward: Number = 1.0,
    ) -> dict[str, Number]:
        """Seconds by algorithm; `outward` as in `Links.collective`."""
        launch_s = plain(self._efficiency.network.launch_s)
        times: dict[str, Number] = {}
        if operation == "all_to_all":
            step_s = _mean_step(crossings)
            times["direct"] = self._all_to_all_across(n_bytes, ranks, crossings, launch_s, step_s, outward)
        elif algorithm == "halving_doubling":
            times[algorithm] = launch_s + self._levels(halving_doubling_time, n_bytes, ranks, crossings)
        elif algorithm == "hierarchical":
            times[algorithm] = launch_s + self._levels(laws.ring_all_reduce_time, n_bytes, ranks, crossings)
        elif algorithm == "star":
            root, step_s = self._own_link(crossings), crossings[-1].latency_s
            times[algorithm] = algorithms.star_all_reduce_time(n_bytes, ranks, launch_s, step_s, root)
        else:
            times |= self._libraries_across(operation, n_bytes, ranks, crossings, algorithm)
        if self._torus is not None:
            # The slices of a torus do their own part in rings of their own.
            members = crossings[0].members
            share = n_bytes * members / ranks if operation == "all_to_all" else n_bytes
            efficiency = self._efficiency.collective["simple"].link_efficiency
            slice_s = self._torus.busy(operation, share, members, stride, efficiency)
            times = {name: maximum(seconds, slice_s) for name, seconds in times.items()}
        return {name: seconds * minimum(ranks - 1, 1) for name, seconds in times.items()}

    def _libraries_across(
        self, operation: str, n_bytes: Number, ranks: Number, crossings: list[Crossing], algorithm: str
    ) -> dict[str, Number]:
        network = self._efficiency.network
        # The steps inside a domain overlap with the slower ones between domains.
        steps_s = _waits(crossings) / maximum(ranks - 1, 1)
        ring = LAWS[operation](n_bytes, ranks, network.launch_s, steps_s, self._ring_byte_per_s(crossings))
        times: dict[str, Number] = {SHAPES.get(operation, "ring"): ring}
        if operation == "all_reduce" and algorithm not in ("ring", "torus"):
            domains = crossings[0].domains
            in_tree = algorithms.pipelined_tree_all_reduce_time(
                n_bytes, domains, network.launch_s, network.tree_latency_s, self._tree_byte_per_s(crossings)
            )
            times = {"tree": in_tree} if algorithm in ("tree", "in_network") else times | {"tree": in_tree}
        return times

    def crossings(self, ranks: Number, stride: Number) -> list[Crossing]:
        """The tiers outside the innermost domain, as a group meets them."""
        found = []
        slowest = plain(self._efficiency.network.latency_s)
        for inner, tier in zip(self._tiers, self._tiers[1:], strict=False):
            members = minimum(maximum(inner.accelerators / stride, 1.0), ranks)
            crosses = less(inner.accelerators, ranks * stride)
            slowest = max(slowest, tier.latency_s)
            domains = where(crosses, ceil_div(ranks, members), 1.0)
            found.append(Crossing(crosses, members, domains, tier.byte_per_s, slowest))
        return found

    def _ring_byte_per_s(self, crossings: list[Crossing]) -> Number:
        """What a ring through all members gets where its rails are fewest."""
        share = self._efficiency.network.link_efficiency
        ring: Number = share * self._tiers[0].byte_per_s
        for crossing in crossings:
            rails = laws.ring_link_byte_per_s(ring, share * crossing.byte_per_s, crossing.members)
            ring = where(crossing.crosses, rails, ring)
        return ring

    def _tree_byte_per_s(self, crossings: list[Crossing]) -> Number:
        # Without a switch that adds, a tree's message goes up and down the same links inside a domain.
        peak, switch = self._tiers[0].byte_per_s, self._in_network
        tree: Number = switch.link_efficiency * peak if switch else 0.5 * self._inner_byte_per_s
        share = self._efficiency.network.tree_link_efficiency
        for crossing in crossings:
            out = crossing.members * share * crossing.byte_per_s
            branches = algorithms.tree_domain_byte_per_s(out, crossing.domains)
            tree = where(crossing.crosses, minimum(tree, branches), tree)
        return tree

    @property
    def _inner_byte_per_s(self) -> float:
        return self._efficiency.collective["simple"].link_efficiency * self._tiers[0].byte_per_s

    def _own_link(self, crossings: list[Crossing]) -> Number:
        """What one rank's own link carries out of every domain that the group leaves."""
        slowest: Number = self._inner_byte_per_s
        for crossing in crossings:
            out = self._efficiency.network.link_efficiency * crossing.byte_per_s
            slowest = where(crossing.crosses, minimum(slowest, out), slowest)
        return slowest

    def _all_to_all_across(
        self, n_bytes: Number, ranks: Number, crossings: list[Crossing], launch_s: Number, step_s: Number,
        outward: Number,
    ) -> Number:  # fmt: skip
        """Every tier carries the shares that leave its domains; the slowest sets the pace."""
        inner = self._inner_byte_per_s
        seconds: Number = 0.0
        first = crossings[0].domains
        for position, crossing in enumerate(crossings):
            inside = where(crossing.crosses, crossing.members, ranks)
            own_link = minimum(inner, self._efficiency.network.link_efficiency * crossing.byte_per_s) / outward
            # Peers in the innermost domain load the innermost link alone, and a wait is counted once.
            below = math.inf if position else inner
            each_s = step_s * (first - 1) / maximum(crossing.domains - 1, 1) if position else step_s
            times = algorithms.two_level_all_to_all_time(n_bytes, ranks, inside, launch_s, each_s, below, own_link)
            seconds = maximum(seconds, times)
        return seconds

    def _levels(self, law: Callable[..., Number], n_bytes: Number, ranks: Number, crossings: list[Crossing]) -> Number:
        """One all-reduce law at each level, with the shares that the level inside leaves."""
        members, inner = crossings[0].members, self._tiers[0].byte_per_s
        seconds: Number = minimum(
            *(
                law(n_bytes, members, 0.0, p.latency_s, p.link_efficiency * inner)
                for p in self._efficiency.collective.values()
            )
        )
        share = n_bytes / members
        above = [crossing.domains for crossing in crossings[1:]]
        for crossing, outer in zip(crossings, [*above, 1.0], strict=True):
            size = ceil_div(crossing.domains, outer)
            link = minimum(self._inner_byte_per_s, self._efficiency.network.link_efficiency * crossing.byte_per_s)
            seconds = seconds + law(share, size, 0.0, crossing.latency_s, link)
            share = share / size
        return seconds


def carrying_tiers(cluster: Cluster) -> list[CarryingTier]:
    """The tiers of a cluster, innermost first, with what their links carry."""
    tiers = []
    below = min(cluster.accelerators_per_node, cluster.accelerators)
    for tier in cluster.tiers:
        domain = tier.domain_accelerators or cluster.accelerators
        tiers.append(CarryingTier(float(domain), _congested(tier, float(below)), plain(tier.latency_s)))
        below = min(domain, cluster.accelerators)
    return tiers


def halving_doubling_time(n_bytes: Number, ranks: Number, launch_s: Number, latency_s: Number, link: Number) -> Number:
    """As MPI libraries do: doubling for short messages, halving and doubling for long ones."""
    sizes = (n_bytes, ranks, launch_s, latency_s, link)
    doubling = algorithms.recursive_doubling_all_reduce_time(*sizes)
    return minimum(doubling, algorithms.recursive_halving_doubling_all_reduce_time(*sizes))


def _congested(tier: Tier, flows: float) -> float:
    """What one accelerator gets out of its domain [B/s] while `flows`, one from each accelerator, leave it."""
    links = flows / tier.spine_oversubscription
    fullest = routing.sprayed_max_flows(flows, links)
    if tier.routing == "single-path":
        fullest = maximum(fullest, routing.single_path_max_flows(flows, maximum(links, 1.0)))
    return routing.congested_link_byte_per_s(plain(tier.link_byte_per_s), fullest)


def _waits(crossings: list[Crossing]) -> Number:
    """Seconds of one way round the domains: a step to the next innermost one, a longer one where a tier is crossed."""
    waits: Number = 0.0
    below = 0.0
    for crossing in crossings:
        waits = waits + where(crossing.crosses, (crossing.latency_s - below) * (crossing.domains - 1), 0.0)
        below = crossing.latency_s
    return waits


def _mean_step(crossings: list[Crossing]) -> Number:
    first = crossings[0]
    if len(crossings) == 1:
        return where(first.crosses, first.latency_s, 0.0)
    return _waits(crossings) / maximum(first.domains - 1, 1)
