"""What a message costs on one cluster: the fastest protocol inside a domain, rings or trees over rails across them.

Inside a domain are the protocols of a switch or the axes of a torus (`predict/torus.py`). "auto" takes the fastest of
what libraries run: ring, the switch's own sum, between domains the tree, on a torus all its axes. Recursive halving and
doubling, a star and level after level can be asked for by name; no table measures them.
"""

from __future__ import annotations

from collections.abc import Mapping

from perfmodel.errors import PlanError, unknown_name
from perfmodel.formulas import collective_algorithms as algorithms
from perfmodel.formulas import collectives as laws
from perfmodel.ops import less, less_equal, minimum, where
from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.scale_out import LAWS, SHAPES, ScaleOut, carrying_tiers, halving_doubling_time
from perfmodel.predict.torus import TORUS_ALGORITHMS, Torus
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.kernel_constants import ProtocolConstants

__all__ = ["OPERATIONS", "UNMEASURED", "Links"]

OPERATIONS = (*LAWS, "send_recv")
UNMEASURED = ("halving_doubling", "star", "hierarchical", "torus")
"""Algorithms that no shipped table measures."""
_ALL_REDUCE = ("auto", "ring", "tree", "in_network", "halving_doubling", "star", "hierarchical", "torus")


class Links:
    """The collectives of a cluster. Groups are described by their size and the distance between neighbours.

    `ranks` members stand `stride` accelerators apart (tensor-parallel groups have stride 1, data-parallel groups `tp`,
    pipeline neighbours `tp * dp`), so a group fills `ranks * stride` accelerators. All groups of a kind communicate
    at the same time.
    """

    def __init__(self, cluster: Cluster, efficiency: Efficiency) -> None:
        self._cluster = cluster
        self._tiers = carrying_tiers(cluster)
        self._efficiency = efficiency
        first = cluster.tiers[0]
        self._in_network = efficiency.in_network if first.in_network_reduction else None
        self._torus = Torus(first, cluster.accelerators) if first.kind == "torus" else None
        self._scale_out = ScaleOut(self._tiers, efficiency, self._in_network, self._torus)

    def collective(
        self,
        operation: str,
        n_bytes: Number,
        ranks: Number,
        stride: Number = 1.0,
        *,
        algorithm: str = "auto",
        library: str | None = None,
        outward: Number = 1.0,
    ) -> Cost:
        """Time of one collective of `n_bytes` (DESIGN's convention for each operation) over a group of `ranks`.

        `algorithm` keeps one of `algorithms(operation)`, "auto" takes the fastest of those that libraries run.
        `library` names a serving engine whose own all-reduce replaces the protocols inside a domain where it is made
        for the size. `outward` is what of an all-to-all leaves the innermost domain, over its even share. Raises
        `PlanError`.
        """
        self._check(operation, algorithm, library)
        inside = self._inside(operation, n_bytes, ranks, stride, algorithm, library)
        if len(self._tiers) == 1:
            return inside
        outside = self._across(operation, n_bytes, ranks, stride, algorithm, outward)
        stays = less(ranks * stride, self._tiers[0].accelerators + 0.5)
        return _choose(stays, inside, outside)

    @property
    def inner_domain(self) -> float:
        """Accelerators that the innermost tier connects."""
        return float(self._tiers[0].accelerators)

    @staticmethod
    def algorithms(operation: str) -> tuple[str, ...]:
        """The names that `algorithm` may have, on one cluster or another."""
        if operation in ("all_gather", "reduce_scatter"):
            return ("auto", "ring", "torus")
        return _ALL_REDUCE if operation == "all_reduce" else ("auto",)

    def winner(
        self,
        operation: str,
        n_bytes: float,
        ranks: float,
        stride: float = 1.0,
        *,
        algorithm: str = "auto",
        library: str | None = None,
    ) -> str:
        """The algorithm, and inside a domain the protocol, whose time `collective` gives; one message, not arrays."""
        self._check(operation, algorithm, library)
        if ranks * stride < self._tiers[0].accelerators + 0.5 or len(self._tiers) == 1:
            times = self._times_inside(operation, n_bytes, ranks, stride, algorithm, library)
        else:
            crossings = self._scale_out.crossings(ranks, stride)
            times = self._scale_out.times(operation, n_bytes, ranks, stride, algorithm, crossings)
        return min(times, key=lambda name: times[name])

    def send_recv(self, n_bytes: Number, stride: Number) -> Cost:
        """Time of one message to a neighbour `stride` accelerators away."""
        near = self._point_to_point(n_bytes, stride, 0)
        for position in range(1, len(self._tiers)):
            domain = self._tiers[position - 1].accelerators
            near = _choose(less(stride, domain - 0.5), near, self._point_to_point(n_bytes, stride, position))
        return near

    def _check(self, operation: str, algorithm: str, library: str | None) -> None:
        known = self.algorithms(operation)
        if algorithm not in known:
            raise PlanError(unknown_name(f"algorithm of {operation}", algorithm, known))
        here, first = self._cluster.id, self._cluster.tiers[0]
        if self._torus is not None and algorithm not in TORUS_ALGORITHMS:
            raise PlanError(
                f"algorithm: {here} is a torus, which has {', '.join(TORUS_ALGORITHMS)} (got {algorithm!r})"
            )
        if self._torus is not None and library is not None:
            raise PlanError(f"library: its own all-reduce needs a switch, and {here} is a torus (got {library!r})")
        if self._torus is None and algorithm == "torus":
            raise PlanError(f"algorithm: 'torus' needs a tier of kind 'torus'; {here} has {first.kind!r}")
        if algorithm == "in_network" and self._in_network is None:
            raise PlanError(f"algorithm: 'in_network' needs a switch that adds; {first.name} of {here} has none")

    # Inside the innermost domain

    def _inside(
        self, operation: str, n_bytes: Number, ranks: Number, stride: Number, algorithm: str, library: str | None
    ) -> Cost:
        seconds: Number = minimum(*self._times_inside(operation, n_bytes, ranks, stride, algorithm, library).values())
        best = max(p.link_efficiency for p in self._protocols(operation).values())
        if self._torus is not None:
            return _link_cost(seconds, self._torus.busy(operation, n_bytes, ranks, stride, best))
        if operation == "all_reduce" and self._in_network is not None and algorithm in ("auto", "in_network"):
            best = max(best, 2 * self._in_network.link_efficiency)
        return _link_cost(seconds, LAWS[operation](n_bytes, ranks, 0.0, 0.0, best * self._tiers[0].byte_per_s))

    def _times_inside(
        self, operation: str, n_bytes: Number, ranks: Number, stride: Number, algorithm: str, library: str | None
    ) -> dict[str, Number]:
        """Seconds by algorithm and protocol."""
        protocols, link = self._protocols(operation), self._tiers[0].byte_per_s
        if self._torus is not None:
            return self._torus.times(operation, n_bytes, ranks, stride, list(protocols.values()), algorithm)
        by_name = {
            "tree": laws.tree_all_reduce_time,
            "halving_doubling": halving_doubling_time,
            "star": algorithms.star_all_reduce_time,
        }
        law = by_name.get(algorithm, LAWS[operation])
        shape = algorithm if algorithm in by_name else SHAPES.get(operation, "ring")
        times: dict[str, Number] = {
            f"{shape}, {name}": law(n_bytes, ranks, p.launch_s, p.latency_s, p.link_efficiency * link)
            for name, p in protocols.items()
        }
        if operation != "all_reduce":
            return times
        if self._in_network is not None and algorithm in ("auto", "in_network"):
            switch = self._in_network
            in_switch = laws.in_network_all_reduce_time(n_bytes, ranks, switch.launch_s, switch.link_efficiency * link)
            # A switch saves nothing between two ranks, and no table shows it used there.
            in_switch = where(less(ranks, 3), times["ring, simple"], in_switch)
            times = {"in_network": in_switch} if algorithm == "in_network" else times | {"in_network": in_switch}
        if library is not None:
            times |= self._custom_all_reduce(n_bytes, ranks, library, minimum(*times.values()))
        return times

    def _custom_all_reduce(self, n_bytes: Number, ranks: Number, library: str, otherwise: Number) -> dict[str, Number]:
        own, link = self._efficiency.custom_all_reduce_constants(library), self._tiers[0].byte_per_s
        times: dict[str, Number] = {}
        times[f"one_shot, {library}"] = algorithms.one_shot_all_reduce_time(
            n_bytes, ranks, own.one_shot_launch_s, own.one_shot_latency_s, own.one_shot_link_efficiency * link
        )
        if own.two_shot_launch_s is not None and own.two_shot_link_efficiency is not None:
            times[f"two_shot, {library}"] = algorithms.two_shot_all_reduce_time(
                n_bytes, ranks, own.two_shot_launch_s, own.two_shot_latency_s, own.two_shot_link_efficiency * link
            )
        fits = less_equal(n_bytes, own.max_bytes)
        return {name: where(fits, seconds, otherwise) for name, seconds in times.items()}

    def _protocols(self, operation: str) -> Mapping[str, ProtocolConstants]:
        blocks = self._efficiency.all_to_all if operation == "all_to_all" else {}
        return {str(name): block for name, block in (blocks or self._efficiency.collective).items()}

    def _across(
        self, operation: str, n_bytes: Number, ranks: Number, stride: Number, algorithm: str, outward: Number
    ) -> Cost:
        crossings = self._scale_out.crossings(ranks, stride)
        times = self._scale_out.times(operation, n_bytes, ranks, stride, algorithm, crossings, outward)
        busy = self._scale_out.busy(operation, n_bytes, ranks, crossings, outward)
        return _link_cost(minimum(*times.values()), busy)

    def _point_to_point(self, n_bytes: Number, stride: Number, position: int) -> Cost:
        tier, protocols = self._tiers[position], self._efficiency.collective
        if position:
            # Across domains nothing but all-reduce is measured: the floor is that of a short message's protocol.
            bandwidth = self._efficiency.network.link_efficiency * tier.byte_per_s
            seconds = laws.send_recv_time(n_bytes, protocols["ll128"].launch_s + tier.latency_s, bandwidth)
        elif self._torus is not None:
            bandwidth = max(p.link_efficiency for p in protocols.values()) * self._torus.link_byte_per_s
            seconds = self._torus.send_recv(n_bytes, stride, list(protocols.values()))
        else:
            bandwidth = max(p.link_efficiency for p in protocols.values()) * tier.byte_per_s
            times = [
                laws.send_recv_time(n_bytes, p.launch_s + p.latency_s, p.link_efficiency * tier.byte_per_s)
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
