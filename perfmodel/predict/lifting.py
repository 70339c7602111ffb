"""Descriptions whose numbers carry something: every number of a cluster or of kernel constants replaced by another.

A lift says what stands for the quantity of a name and a value: its dual number, or the value itself, noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from perfmodel.dual import plain
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.quantity import Spec

__all__ = ["Lift", "lifted_cluster", "lifted_constants", "with_lifted"]

# The rest of an accelerator's numbers are counts, capacities, power and prices.
_PART, _LINK, _HOST = ("hbm_byte_per_s", "l2_bytes"), ("link_byte_per_s", "latency_s"), ("pcie_byte_per_s",)
# How constants were found is no constant.
_NO_CONSTANTS = ("fit", "sources")
Lift = Callable[[str, float], Any]
"""What stands for the quantity of that name and value."""


def lifted_cluster(cluster: Cluster, lift: Lift) -> Cluster:
    """A cluster with the numbers that set times lifted."""
    part = cluster.accelerator
    peaks = {dtype: lift(f"peak_flop_per_s.{dtype}", plain(peak)) for dtype, peak in part.peak_flop_per_s.items()}
    update: dict[str, Any] = {
        "accelerator": with_lifted(part, "", _PART, lift).model_copy(update={"peak_flop_per_s": peaks}),
        "tiers": tuple(with_lifted(tier, f"{tier.name} ", _LINK, lift) for tier in cluster.tiers),
    }
    if cluster.host is not None:
        update["host"] = with_lifted(cluster.host, "host ", _HOST, lift)
    return cluster.model_copy(update=update)


def with_lifted(spec: Any, prefix: str, keys: tuple[str, ...], lift: Lift) -> Any:
    """A description with the numbers of these keys lifted, under their names after `prefix`."""
    return spec.model_copy(update={key: lift(f"{prefix}{key}", plain(getattr(spec, key))) for key in keys})


def lifted_constants(efficiency: Efficiency, lift: Lift) -> Efficiency:
    """Kernel constants, all lifted, under dotted names."""
    lifted: Efficiency = _lifted_constants("", efficiency, lift)
    return lifted


def _lifted_constants(where: str, value: Any, lift: Lift) -> Any:
    """The constants of a description, of its blocks and of their fields, under dotted names."""
    prefix = f"{where}." if where else ""
    if isinstance(value, float):
        return lift(where, plain(value))
    if isinstance(value, Mapping):
        return {key: _lifted_constants(f"{prefix}{key}", item, lift) for key, item in value.items()}
    if isinstance(value, Spec):
        keys = [key for key in type(value).model_fields if key not in _NO_CONSTANTS]
        update = {key: _lifted_constants(f"{prefix}{key}", getattr(value, key), lift) for key in keys}
        return value.model_copy(update=update)
    return value
