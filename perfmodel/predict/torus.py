"""What a message costs on a torus: where a group of ranks lies in the slice, and the laws of its axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np

from perfmodel.dual import plain
from perfmodel.formulas import collective_algorithms as laws
from perfmodel.formulas.collectives import ring_all_gather_time, ring_all_reduce_time, send_recv_time
from perfmodel.ops import ceil_div, less, maximum, minimum, where
from perfmodel.predict.cost import Number
from perfmodel.specs.kernel_constants import ProtocolConstants
from perfmodel.specs.network import Tier

__all__ = ["TORUS_ALGORITHMS", "Torus", "slice_shape"]

TORUS_ALGORITHMS = ("auto", "torus", "ring")
_MOST_AXES = 3


@cache
def slice_shape(shape: tuple[int, ...], accelerators: int, cube: int | None = None) -> tuple[int, ...]:
    """The box that a job of so many accelerators gets: the smallest, of whole cubes if it can, the most compact.

    >>> slice_shape((16, 20, 28), 128, 4)
    (4, 4, 8)
    """
    grid = np.meshgrid(*(np.arange(1, axis + 1) for axis in shape[:-1]), indexing="ij")
    rows = [axis.ravel() for axis in grid]
    area = np.prod(rows, axis=0) if rows else np.ones(1, dtype=int)
    boxes = np.stack([*rows, -(-accelerators // area)])
    boxes = boxes[:, boxes[-1] <= shape[-1]]
    torn = np.any(boxes % cube, axis=0) if cube else np.zeros(boxes.shape[1], dtype=bool)
    first = np.lexsort((*boxes[::-1], boxes.sum(axis=0), torn, boxes.prod(axis=0)))[0]
    return tuple(int(axis) for axis in boxes[:, first])


@dataclass(frozen=True, slots=True)
class _Group:
    """A group on the slice, one entry for each of three axes: members, and how a link's rate counts for a rank [1]."""

    members: tuple[Number, Number, Number]
    shares: tuple[Number, Number, Number]
    spacings: tuple[Number, Number, Number]
    hops: Number

    @property
    def all_axes(self) -> Number:
        """Links' rates that a rank has on the axes along which the group extends, together [1]."""
        used = sum(minimum(m - 1, 1) * share for m, share in zip(self.members, self.shares, strict=True))
        return where(less(0.0, used), used, 1.0)

    @property
    def one_ring(self) -> Number:
        """The same for a single ring through all members: two links, or one if the group is a line."""
        axes = sum(minimum(m - 1, 1) for m in self.members)
        line = less(axes, 1.5)
        spread = maximum(*(where(less(1.0, m), s, 1.0) for m, s in zip(self.members, self.spacings, strict=True)))
        return where(line, self.all_axes, 2.0 / spread)


class Torus:
    """The innermost tier as a torus. Ranks fill the slice along its first axis, then its second, then its third."""

    def __init__(self, tier: Tier, accelerators: int) -> None:
        whole = tier.torus_shape or ()
        self.shape = slice_shape(whole, min(accelerators, tier.domain_accelerators or prod(whole)), tier.torus_cube)
        cubes = tier.torus_cube is not None and all(axis % tier.torus_cube == 0 for axis in self.shape)
        self._closes = [float(cubes or axis == full) for axis, full in zip(self.shape, whole, strict=True)]
        self.link_byte_per_s = plain(tier.link_byte_per_s) / (2 * len(whole))
        self.latency_s = plain(tier.latency_s)

    def times(
        self,
        operation: str,
        n_bytes: Number,
        ranks: Number,
        stride: Number,
        protocols: Sequence[ProtocolConstants],
        algorithm: str = "auto",
    ) -> dict[str, Number]:
        """Seconds by algorithm, each with the fastest of the protocols."""
        group = self._group(ranks, stride)
        if algorithm == "ring":
            law = ring_all_reduce_time if operation == "all_reduce" else ring_all_gather_time
            bandwidth, step_s = group.one_ring * self.link_byte_per_s, self.latency_s * maximum(*group.spacings)
            times = [law(n_bytes, ranks, p.launch_s, step_s, p.link_efficiency * bandwidth) for p in protocols]
            return {"ring": minimum(*times)}
        priced = [
            self._law(operation, n_bytes, ranks, group, p.launch_s, self.latency_s, p.link_efficiency)
            for p in protocols
        ]
        return {"torus": minimum(*priced)}

    def busy(self, operation: str, n_bytes: Number, ranks: Number, stride: Number, share: float) -> Number:
        """Seconds that the links work at `share` of their peak."""
        return self._law(operation, n_bytes, ranks, self._group(ranks, stride), 0.0, 0.0, share)

    def send_recv(self, n_bytes: Number, stride: Number, protocols: Sequence[ProtocolConstants]) -> Number:
        """Seconds of a message to the rank `stride` accelerators on, while all others send as far."""
        group = self._group(2.0, stride)
        # Two members stand on one axis unless the stride cuts a row.
        moved = zip(group.members, group.spacings, strict=True)
        bandwidth = minimum(*(where(less(count, 1.5), 1.0, 1.0 / spacing) for count, spacing in moved))
        hops_s = self.latency_s * group.hops
        times = [
            send_recv_time(n_bytes, p.launch_s + hops_s, p.link_efficiency * bandwidth * self.link_byte_per_s)
            for p in protocols
        ]
        return minimum(*times)

    def _law(
        self, operation: str, n_bytes: Number, ranks: Number, group: _Group, launch_s: float, hop_s: float, share: float
    ) -> Number:
        link = share * self.link_byte_per_s
        if operation == "all_to_all":
            (x, y, z), (x_share, y_share, z_share) = group.members, group.shares
            rates = (x_share * link, y_share * link, z_share * link)
            return laws.torus_all_to_all_time(n_bytes, x, y, z, group.hops, launch_s, hop_s, *rates)
        twice = operation in ("all_reduce", "broadcast")
        law = laws.torus_slice_all_reduce_time if twice else laws.torus_slice_all_gather_time
        return law(n_bytes, ranks, group.hops, launch_s, hop_s, group.all_axes * link)

    def _group(self, ranks: Number, stride: Number) -> _Group:
        members: list[Number] = [1.0] * _MOST_AXES
        shares, spacings = members.copy(), members.copy()
        hops: Number = 0.0
        inner = 1.0
        for axis, (length, closes) in enumerate(zip(self.shape, self._closes, strict=True)):
            reach = minimum(float(length), ceil_div(ranks * stride, inner))
            spacings[axis] = minimum(float(length), ceil_div(stride, inner))
            members[axis] = minimum(ceil_div(reach, spacings[axis]), ranks)
            wraps = where(less(reach, length - 0.5), 0.0, closes)
            shares[axis] = laws.torus_axis_byte_per_s(wraps, spacings[axis], 1.0)
            hops = hops + laws.torus_axis_hops(members[axis], wraps, spacings[axis])
            inner *= length
        (x, y, z), (x_share, y_share, z_share), (x_step, y_step, z_step) = members, shares, spacings
        return _Group((x, y, z), (x_share, y_share, z_share), (x_step, y_step, z_step), hops)
