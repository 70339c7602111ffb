"""The two building blocks of every prediction: what an operation costs, and the tree of terms it stands in.

Both hold Python floats for one scenario or float64 arrays for many; nothing here knows which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from perfmodel.formulas.power import loaded_time
from perfmodel.ops import maximum

__all__ = ["Cost", "Draw", "Node", "total"]

# A float or a float64 array of one value per scenario.
Number = Any


@dataclass(frozen=True, slots=True)
class Draw:
    """What arithmetic, memory and links draw, over all that the power limit leaves to a running kernel [1]."""

    compute: float
    memory: float
    link: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of an operation, its bounds, and how long each resource would work on it alone [s].

    `lower` is perfect overlap, `upper` none. `compute_s`, `memory_s` and `link_s` say what binds. A lean cost has
    `loaded_s` instead, the time at full draw that takes as much energy, where energy is asked for.
    """

    seconds: Number = 0.0
    lower: Number = 0.0
    upper: Number = 0.0
    compute_s: Number = 0.0
    memory_s: Number = 0.0
    link_s: Number = 0.0
    loaded_s: Number = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            _plus(self.seconds, other.seconds),
            _plus(self.lower, other.lower),
            _plus(self.upper, other.upper),
            _plus(self.compute_s, other.compute_s),
            _plus(self.memory_s, other.memory_s),
            _plus(self.link_s, other.link_s),
            _plus(self.loaded_s, other.loaded_s),
        )

    def __mul__(self, times: Number) -> Cost:
        return Cost(*(value if _is_nothing(value) else value * times for value in self._parts()))

    __rmul__ = __mul__

    def lean(self, draw: Draw | None = None) -> Cost:
        """Seconds, and with `draw` time at full draw: all that ranking many layouts needs, at a third of the work."""
        return Cost(self.seconds, loaded_s=0.0 if draw is None else self.at_full_draw(draw))

    def at_full_draw(self, draw: Draw) -> Number:
        """Time at the power limit that takes as much energy beyond that of a running kernel [s]."""
        resources = self.compute_s, self.memory_s, self.link_s
        if all(map(_is_nothing, resources)):
            return self.loaded_s
        return loaded_time(self.seconds, *resources, draw.compute, draw.memory, draw.link)

    def _parts(self) -> tuple[Number, ...]:
        return self.seconds, self.lower, self.upper, self.compute_s, self.memory_s, self.link_s, self.loaded_s

    def summed(self) -> Cost:
        """Over the first axis of its arrays."""
        return Cost(*(value if _is_nothing(value) else value.sum(axis=0) for value in self._parts()))

    def slowed(self, factor: Number) -> Cost:
        """The same work at lower clocks: traffic takes as long as before, and perfect overlap is not touched."""
        return Cost(
            self.seconds * factor, self.lower, self.upper * factor, self.compute_s * factor, self.memory_s, self.link_s,
            self.loaded_s,
        )  # fmt: skip

    @property
    def busy_seconds(self) -> Number:
        """Time that the busiest resource works."""
        return maximum(self.compute_s, self.memory_s, self.link_s)

    @property
    def bound_by(self) -> str:
        """The resource that binds one scenario (not arrays): compute, memory, link or latency."""
        resources = {"compute": self.compute_s, "memory": self.memory_s, "link": self.link_s}
        name, busiest = max(resources.items(), key=lambda item: item[1])
        return name if busiest > 0.5 * self.seconds else "latency"


def _is_nothing(value: Number) -> bool:
    # What is nothing stays a float: many layouts at once then add and multiply few arrays.
    return type(value) is float and value == 0.0


def _plus(a: Number, b: Number) -> Number:
    if _is_nothing(a):
        return b
    return a if _is_nothing(b) else a + b


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs, in order; of arrays the small ones first, so that few additions have the size of all."""
    result = Cost()
    for cost in sorted(costs, key=_size):
        result = result + cost
    return result


def _size(cost: Cost) -> int:
    return getattr(cost.seconds, "size", 1)


@dataclass(frozen=True, slots=True)
class Node:
    """A named term of a prediction. A leaf has a cost; a parent is the sum of its children, in order."""

    name: str
    cost: Cost = field(default_factory=Cost)
    bound_by: str | None = None
    children: tuple[Node, ...] = ()

    @classmethod
    def of(cls, name: str, *children: Node) -> Node:
        """A parent of these terms."""
        return cls(name, total(child.cost for child in children), None, children)

    @classmethod
    def wait(cls, name: str, seconds: Number, bound_by: str, lower: Number = 0.0, upper: Number | None = None) -> Node:
        """A term in which no resource works: a bubble, a host that is late, a slow neighbour."""
        return cls(name, Cost(seconds, lower, seconds if upper is None else upper), bound_by)

    def lean(self, draw: Draw | None = None) -> Node:
        """The term without bounds, and with `draw` its time at full draw."""
        if not self.children:
            return Node(self.name, self.cost.lean(draw), self.bound_by)
        children = tuple(child.lean(draw) for child in self.children)
        cost = total(child.cost for child in children) if draw is not None else self.cost.lean()
        return Node(self.name, cost, self.bound_by, children)

    def leaves(self) -> Iterator[Node]:
        """Every term without children, depth first."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()
