"""One tier of a network: what connects the accelerators of a domain, from the package to the whole cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from perfmodel.specs.quantity import Quantity, QuantityOrZero, Spec

__all__ = ["Tier", "TierKind"]

TierKind = Literal["nvlink", "infiniband", "roce", "pcie", "ethernet", "torus", "generic"]
_Count = Annotated[int, Field(ge=1)]


class Tier(Spec):
    """One tier. `link_byte_per_s` [B/s] is one direction per accelerator, payload peak; `latency_s` [s] is one step.

    `domain_accelerators` is how many accelerators one domain of this tier connects; None is the whole cluster.
    Raises `SpecError`.
    """

    name: str
    kind: TierKind = "generic"
    domain_accelerators: _Count | None = None
    link_byte_per_s: Quantity
    latency_s: QuantityOrZero
    in_network_reduction: bool = False
    rails: _Count | None = None
