"""Activations that wait in host memory between the passes: their copies over the host link, and what stays visible."""

from __future__ import annotations

from perfmodel.dual import plain
from perfmodel.formulas.overlap import exposed_time
from perfmodel.predict.activations import activation_bytes_of_layer
from perfmodel.predict.cost import Cost, Node, Number
from perfmodel.predict.data_parallel import Windows
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.kinds import bottleneck_parts
from perfmodel.predict.share import Share
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.software import Software

__all__ = ["HOST_LINK_BYTE_PER_S", "offload_node"]

HOST_LINK_BYTE_PER_S = 25e9
"""One direction of a PCIe 4 x16 slot in practice, where a cluster names no host [B/s]."""


def offload_node(
    cluster: Cluster, software: Software, d: Degrees, share: Share, model: Architecture, dtype: str, layers: Number,
    windows: Windows, n_microbatches: Number,
) -> tuple[Node, ...]:  # fmt: skip
    """The term of offloading, empty without it: out behind the forward pass, back behind the backward pass."""
    if not d.offload_share:
        return ()
    kept = activation_bytes_of_layer(
        model, software, share, dtype, bottleneck_parts(model, d.pp), d.recompute, d.recompute_modules
    )
    one_way = d.offload_share * kept * layers / _host_byte_per_s(cluster)
    visible: Number = 0.0
    for window in (windows.forward, windows.backward):
        visible = visible + exposed_time(window * n_microbatches, one_way, plain(software.exposed_share))
    both = one_way * 2.0
    return (Node("offload", Cost(visible, 0.0 * both, both, 0.0, 0.0, both), "link"),)


def _host_byte_per_s(cluster: Cluster) -> float:
    return plain(cluster.host.pcie_byte_per_s) if cluster.host is not None else HOST_LINK_BYTE_PER_S
