"""One cluster: equal accelerators under any number of network tiers, with its power and its prices."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from perfmodel.errors import PlanError, SpecError
from perfmodel.specs import registry
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.host import Host, load_host
from perfmodel.specs.network import Tier
from perfmodel.specs.quantity import Quantity, QuantityOrZero, SourcedSpec

__all__ = ["MAX_ACCELERATORS", "Cluster", "cluster_reference", "load_cluster"]

MAX_ACCELERATORS = 10_000_000
_NO_OVERHEAD = Quantity(0.0, source="perfmodel", note="not given: accelerators only")
_NO_FACILITY = Quantity(1.0, source="perfmodel", note="not given: power at the server, without cooling and losses")
_KWH = Quantity(0.08, source="perfmodel", note="not given: about the mean price for industry in the USA in 2023")


class Cluster(SourcedSpec):
    """A cluster of `accelerators` equal accelerators; `tiers` stand innermost first. Raises `SpecError`.

    `host` is what a node's accelerators lean on, where offloaded activations wait. `server_overhead_w` [W] is one
    accelerator's share of processors, network cards and fans at full load; `pue` [1] multiplies all power;
    `usd_per_hour` [USD/h] per accelerator stands instead of the accelerator's own price.
    """

    id: str = "custom"
    name: str = ""
    accelerator: Accelerator
    accelerators: int
    accelerators_per_node: Annotated[int, Field(ge=1)]
    tiers: tuple[Tier, ...]
    host: Host | None = None
    server_overhead_w: QuantityOrZero = _NO_OVERHEAD
    pue: Quantity = _NO_FACILITY
    usd_per_hour: QuantityOrZero | None = None
    usd_per_kwh: QuantityOrZero = _KWH

    @property
    def accelerator_usd_per_hour(self) -> Quantity:
        """The price of one accelerator hour [USD]: the cluster's own, else the accelerator's."""
        return self.accelerator.usd_per_hour if self.usd_per_hour is None else self.usd_per_hour

    def tier_of(self, ranks_span: int) -> Tier:
        """The innermost tier whose domain holds `ranks_span` neighbouring ranks; raises `PlanError`."""
        if not ranks_span >= 1:
            raise PlanError(f"ranks_span: must be 1 or more (got {ranks_span!r})")
        for tier in self.tiers:
            if tier.domain_accelerators is None or tier.domain_accelerators >= ranks_span:
                return tier
        largest = self.tiers[-1].domain_accelerators
        raise PlanError(f"{self.id}: ranks_span: no tier connects so many ranks (got {ranks_span}); at most {largest}")

    @field_validator("accelerator", mode="before")
    @classmethod
    def _named_accelerator(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, (str, Path)):
            return value
        folder = (info.context or {}).get("folder")
        if registry.is_path(value) and folder is not None:
            value = folder / value  # relative to the file that names it
        try:
            return load_accelerator(value)
        except SpecError as error:
            raise SpecError(f"accelerator: {error}") from None

    @field_validator("host", mode="before")
    @classmethod
    def _named_host(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return load_host(value)
        except SpecError as error:
            raise SpecError(f"host: {error}") from None

    @field_validator("accelerators", mode="before")
    @classmethod
    def _whole_count(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_ACCELERATORS:
            raise ValueError(f"must be a whole number from 1 to {MAX_ACCELERATORS} (got {str(value)[:60]})")
        return value

    @field_validator("tiers", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Cluster:
        if not self.tiers:
            raise ValueError("tiers: is empty; give at least one, innermost first")
        previous = 0
        for position, tier in enumerate(self.tiers):
            last = position == len(self.tiers) - 1
            size = tier.domain_accelerators
            where = f"tiers.{position}.domain_accelerators"
            if size is None and not last:
                raise ValueError(f"{where}: missing; only the last tier may leave it out (the whole cluster)")
            if size is not None and size <= previous:
                raise ValueError(f"{where}: must grow outwards, so be more than {previous} (got {size})")
            if size is not None and last and size < self.accelerators:
                raise ValueError(f"{where}: the last tier must connect all {self.accelerators} (got {size})")
            previous = size or previous
            self._check_torus(position, tier)
        if self.pue < 1:
            raise ValueError(f"pue: must be 1 or more (got {float(self.pue):g})")
        return self

    def _check_torus(self, position: int, tier: Tier) -> None:
        if tier.torus_shape is None:
            return
        where = f"tiers.{position}.torus_shape"
        if position:
            raise ValueError(f"{where}: only the innermost tier can be a torus (got position {position})")
        holds, wanted = prod(tier.torus_shape), tier.domain_accelerators or self.accelerators
        if holds < wanted:
            shape = " x ".join(map(str, tier.torus_shape))
            raise ValueError(f"{where}: {shape} holds {holds} accelerators, too few for the domain (got {wanted})")


def cluster_reference(cluster: Cluster) -> str | dict[str, Any]:
    """What with its number of accelerators loads this cluster again: its id, else the description written out."""
    return registry.reference("clusters", cluster, accelerators=cluster.accelerators)


def load_cluster(what: str | Path | Mapping[str, Any] | Cluster, accelerators: int | None = None) -> Cluster:
    """The cluster named by an id, a path or a dict, scaled to `accelerators` where given; raises `SpecError`.

    >>> load_cluster("dgx-h100", accelerators=1024).tier_of(16).kind
    'infiniband'
    """
    if accelerators is None:
        return registry.load("clusters", what, Cluster)
    return registry.load("clusters", what, Cluster, accelerators=accelerators)
