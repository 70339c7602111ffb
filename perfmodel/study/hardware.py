"""Hardware quantities as keys of a scenario: another memory, another link, another price, by their own last names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfmodel.errors import PlanError, unknown_name
from perfmodel.specs import registry
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.network import Tier

__all__ = ["HARDWARE_KEYS", "changed_accelerator", "changed_cluster", "is_tier_key"]

_ACCELERATOR = (
    "peak_flop_per_s", "hbm_byte_per_s", "hbm_bytes", "sram_bytes", "l2_bytes", "n_cores", "link_byte_per_s", "tdp_w",
    "idle_w", "usd_per_hour",
)  # fmt: skip
_CLUSTER = ("accelerators_per_node", "server_overhead_w", "pue", "usd_per_kwh")
_TIER = tuple(name for name in Tier.model_fields if name not in ("name", "kind"))
HARDWARE_KEYS = (*_ACCELERATOR, *_CLUSTER)
"""Keys that change the accelerator or the cluster of a scenario; `TIER.KEY` changes a tier, by its name or its kind."""


def is_tier_key(key: str) -> bool:
    """Whether a key changes a tier of the network, as `infiniband.link_byte_per_s` does."""
    return key.rpartition(".")[2] in _TIER and "." in key


def changed_accelerator(what: Any, changes: Mapping[str, Any]) -> Accelerator:
    """An accelerator with these quantities instead of its own; raises `SpecError` and `PlanError`."""
    accelerator = load_accelerator(what)
    for key in changes:
        if key not in _ACCELERATOR:
            raise PlanError(f"{key}: belongs to a cluster; this question takes an accelerator")
    changes = dict(changes)
    if isinstance(changes.get("peak_flop_per_s"), Mapping):  # some precisions alone
        changes["peak_flop_per_s"] = dict(accelerator.peak_flop_per_s) | dict(changes["peak_flop_per_s"])
        changes["sparse_peak_flop_per_s"] = None
    elif "peak_flop_per_s" in changes:
        raise PlanError(f"peak_flop_per_s: must be a table of precisions (got {changes['peak_flop_per_s']!r})")
    if "hbm_bytes" in changes:  # what a driver reports belongs to the memory that was there
        changes["reported_bytes"] = None
    return registry.load("accelerators", accelerator, Accelerator, **changes) if changes else accelerator


def changed_cluster(what: Any, accelerators: int | None, changes: Mapping[str, Any]) -> Cluster:
    """A cluster scaled and with these quantities instead of its own; raises `SpecError` and `PlanError`.

    `link_byte_per_s` is that of the accelerator and of the innermost tier, `usd_per_hour` the price that counts.
    """
    if isinstance(accelerators, float) and accelerators.is_integer():
        accelerators = int(accelerators)
    cluster = load_cluster(what, accelerators)
    if not changes:
        return cluster
    own = {key: value for key, value in changes.items() if key in _CLUSTER}
    part = {key: value for key, value in changes.items() if key in _ACCELERATOR}
    if "usd_per_hour" in part and cluster.usd_per_hour is not None:
        own["usd_per_hour"] = part["usd_per_hour"]
    tiers = {key: value for key, value in changes.items() if is_tier_key(key)}
    if "link_byte_per_s" in part:
        tiers.setdefault(f"{cluster.tiers[0].name}.link_byte_per_s", part["link_byte_per_s"])
    # Another id: a document that names its cluster by id alone must not pass for the one on the shelf.
    own |= {
        "id": f"{cluster.id.removesuffix('-changed')}-changed",
        "accelerator": changed_accelerator(cluster.accelerator, part),
    }
    return registry.load("clusters", cluster, Cluster, tiers=_changed_tiers(cluster, tiers), **own)


def _changed_tiers(cluster: Cluster, changes: Mapping[str, Any]) -> tuple[Tier, ...]:
    fields = [{name: getattr(tier, name) for name in Tier.model_fields} for tier in cluster.tiers]
    positions: dict[str, int] = {tier.kind: position for position, tier in reversed([*enumerate(cluster.tiers)])}
    positions |= {tier.name: position for position, tier in enumerate(cluster.tiers)}
    for key, value in changes.items():
        name, _, field = key.rpartition(".")
        if name not in positions:
            raise PlanError(f"{key}: {unknown_name('tier', name, positions)}")
        fields[positions[name]][field] = value
    return tuple(Tier(**one) for one in fields)
