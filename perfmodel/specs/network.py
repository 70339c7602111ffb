"""One tier of a network: what connects the accelerators of a domain, from the package to the whole cluster."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from perfmodel.errors import unknown_name
from perfmodel.specs.quantity import Quantity, QuantityOrZero, Spec

__all__ = ["ROUTINGS", "Routing", "Tier", "TierKind"]

TierKind = Literal["nvlink", "infiniband", "roce", "pcie", "ethernet", "torus", "generic"]
Routing = Literal["rail-optimised", "sprayed", "single-path"]
ROUTINGS = ("rail-optimised", "sprayed", "single-path")
_Count = Annotated[int, Field(ge=1)]
_MOST_AXES, _LONGEST_AXIS = 3, 1000


class Tier(Spec):
    """One tier. `link_byte_per_s` [B/s] is one direction per accelerator, payload peak; `latency_s` [s] is one step.

    `domain_accelerators` is how many accelerators one domain of this tier connects; None is the whole cluster.

    A switched tier: out of every inner domain lead 1 / `spine_oversubscription` [1] as many links as it has
    accelerators, and `routing` says how flows find them: placed rail by rail, packets sprayed over all, or hashed to a
    single path each (ECMP), where they collide.

    A torus: `torus_shape` is its accelerators along each axis, `link_byte_per_s` all links of one accelerator together
    (two for each axis given), `latency_s` one hop. An axis wraps around where a slice spans all of it; slices made of
    whole cubes of `torus_cube` accelerators along each axis, which optical switches join, always do.

    Raises `SpecError`.
    """

    name: str
    kind: TierKind = "generic"
    domain_accelerators: _Count | None = None
    link_byte_per_s: Quantity
    latency_s: QuantityOrZero
    in_network_reduction: bool = False
    rails: _Count | None = None
    routing: Routing = "rail-optimised"
    spine_oversubscription: Annotated[float, Field(ge=1, allow_inf_nan=False, strict=False)] = 1.0
    torus_shape: tuple[int, ...] | None = None
    torus_cube: _Count | None = None

    @property
    def congested(self) -> bool:
        """Whether flows share links on their way out of an inner domain."""
        return self.routing == "single-path" or self.spine_oversubscription > 1

    @field_validator("routing", mode="before")
    @classmethod
    def _known_routing(cls, value: Any) -> Any:
        if value not in ROUTINGS:
            raise ValueError(unknown_name("routing", value, ROUTINGS))
        return value

    @field_validator("torus_shape", mode="before")
    @classmethod
    def _axes(cls, value: Any) -> Any:
        if value is None:
            return None
        whole = isinstance(value, (list, tuple)) and all(type(axis) is int for axis in value)
        if not whole or not 1 <= len(value) <= _MOST_AXES or not all(1 <= axis <= _LONGEST_AXIS for axis in value):
            wanted = f"1 to {_MOST_AXES} whole numbers from 1 to {_LONGEST_AXIS}, such as [16, 20, 28]"
            raise ValueError(f"must be {wanted} (got {str(value)[:60]})")
        return tuple(value)

    @model_validator(mode="after")
    def _is_one_network(self) -> Tier:
        if self.kind != "torus":
            for key in ("torus_shape", "torus_cube"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: only a tier of kind 'torus' has one (got kind {self.kind!r})")
            return self
        if self.torus_shape is None:
            raise ValueError("torus_shape: missing; a tier of kind 'torus' needs its axes, such as [16, 20, 28]")
        if self.congested or self.in_network_reduction:
            raise ValueError("routing, spine_oversubscription, in_network_reduction: a torus has no switch; leave out")
        holds = prod(self.torus_shape)
        if (self.domain_accelerators or 0) > holds:
            shape = " x ".join(map(str, self.torus_shape))
            raise ValueError(
                f"torus_shape: {shape} holds {holds} accelerators, too few for domain_accelerators "
                f"(got {self.domain_accelerators})"
            )
        return self
