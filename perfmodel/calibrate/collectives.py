"""The fits of collectives: protocols inside a node, a serving engine's own all-reduce, the network between nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.kernels import Fitted, Floats, fitted
from perfmodel.formulas import collectives as links
from perfmodel.predict.communication import Links
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.efficiency import Efficiency, load_efficiency
from perfmodel.specs.kernel_constants import (
    CustomAllReduceConstants,
    InNetworkConstants,
    NetworkConstants,
    ProtocolConstants,
)
from perfmodel.validation.kernel_tables import Table, load_table

__all__ = [
    "ENGINES",
    "NETWORK_CLUSTER",
    "SMALLEST",
    "OwnRows",
    "fit_all_to_all",
    "fit_collective",
    "fit_custom_all_reduce",
    "fit_network",
]

ENGINES = ("sglang", "tensorrt-llm", "vllm")
NETWORK_CLUSTER = "dgx-h100"
"""As the nodes of the network table: 8 H100, 3.2 Tb/s out of a node (there EFA)."""
_RINGS = {
    "all_reduce": links.ring_all_reduce_time,
    "all_gather": links.ring_all_gather_time,
    "reduce_scatter": links.ring_reduce_scatter_time,
}
SMALLEST = 1024
"""Messages below it [B] are all latency and are not fitted."""
OwnRows = tuple[Table, NDArray[np.bool_]]
"""Rows with operation, ranks, n_bytes and latency_us, and which of them may calibrate."""
_LARGEST_CUSTOM = tuple(2.0**power for power in range(18, 25))
"""Where an engine may hand over to NCCL: a power of two, chosen by the rows that may calibrate."""


def fit_collective(accelerator: Accelerator, in_network: bool, own: OwnRows | None = None) -> Fitted | None:
    """Protocols of all-reduce, all-gather and reduce-scatter on 2 to 8 ranks and the switch's all-reduce [s].

    Constants are named `protocol.constant`. `own` are rows of another table. None without rows.
    """
    rows, calibrate = (load_table("nccl_half", accelerator.id), None) if own is None else own
    kept = np.isin(rows["operation"], list(_RINGS)) & (rows["n_bytes"] >= SMALLEST)
    rows, calibrate = rows[kept], None if calibrate is None else calibrate[kept]
    if not len(rows):
        return None
    link = float(accelerator.link_byte_per_s)
    n_bytes, ranks = rows["n_bytes"].astype(float), rows["ranks"].astype(float)
    masks = {name: rows["operation"] == name for name in _RINGS}
    switched = masks["all_reduce"] & (ranks > 2)

    def ring(launch_s: float, latency_s: float, link_efficiency: float) -> Floats:
        seconds = np.empty(len(rows))
        for name, law in _RINGS.items():
            at = masks[name]
            seconds[at] = law(n_bytes[at], ranks[at], launch_s, latency_s, link_efficiency * link)
        return seconds

    def law(c: Floats) -> Floats:
        fastest = np.minimum(np.minimum(ring(c[0], c[1], c[2]), ring(c[3], c[4], c[5])), ring(c[6], 0.0, c[7]))
        if in_network:
            switch = links.in_network_all_reduce_time(n_bytes, ranks, c[8], c[9] * link)
            fastest = np.where(switched, np.minimum(fastest, switch), fastest)
        return fastest

    start = {"ll.launch_s": 6e-6, "ll.latency_s": 0.8e-6, "ll.link_efficiency": 0.03}
    start |= {"ll128.launch_s": 8e-6, "ll128.latency_s": 0.8e-6, "ll128.link_efficiency": 0.35}
    start |= {"simple.launch_s": 35e-6, "simple.link_efficiency": 0.7}
    if in_network:
        start |= {"in_network.launch_s": 40e-6, "in_network.link_efficiency": 0.55}
    how = (
        "fastest of three rings, fitted together on all_reduce, all_gather and reduce_scatter, 2 to 8 ranks, "
        "n_bytes >= 1024; Simple hides its steps (latency_s = 0)"
    )
    if in_network:
        how += "; all_reduce on more than 2 ranks also by the switch"
    limits = {name: 1.0 for name in start if name.endswith("efficiency")}
    found = fitted("nccl_half", how, rows, law, ring(0.0, 0.0, 1.0), start, limits, calibrate=calibrate)
    return replace(found, constants=found.constants | {"simple.latency_s": 0.0})


def fit_all_to_all(accelerator: Accelerator, own: OwnRows | None = None) -> Fitted | None:
    """Two protocols of the direct all-to-all on 2 to 8 ranks [s], `protocol.constant`; as `fit_collective`."""
    rows, calibrate = (load_table("nccl_half", accelerator.id), None) if own is None else own
    kept = (rows["operation"] == "all_to_all") & (rows["n_bytes"] >= SMALLEST)
    rows, calibrate = rows[kept], None if calibrate is None else calibrate[kept]
    if not len(rows):
        return None
    link = float(accelerator.link_byte_per_s)
    n_bytes, ranks = rows["n_bytes"].astype(float), rows["ranks"].astype(float)

    def peers(launch_s: float, latency_s: float, link_efficiency: float) -> Floats:
        seconds: Floats = links.all_to_all_time(n_bytes, ranks, launch_s, latency_s, link_efficiency * link)
        return seconds

    # Which two of the three protocols a part shows differs; the better pair for the calibrating rows stands.
    starts = (
        {"ll.launch_s": 7e-6, "ll.latency_s": 0.2e-6, "ll.link_efficiency": 0.04, "simple.launch_s": 15e-6},
        {"ll.launch_s": 12e-6, "ll.latency_s": 0.3e-6, "ll.link_efficiency": 0.25, "simple.launch_s": 40e-6},
    )
    candidates = [
        fitted(
            "nccl_half",
            "fastest of two direct exchanges, all_to_all, 2 to 8 ranks, n_bytes >= 1024; Simple hides its steps "
            "(latency_s = 0)",
            rows,
            lambda c: np.minimum(peers(c[0], c[1], c[2]), peers(c[3], 0.0, c[4])),
            peers(0.0, 0.0, 1.0),
            start | {"simple.link_efficiency": 0.65},
            dict.fromkeys([*start, "simple.link_efficiency"], 1.0),
            calibrate=calibrate,
        )
        for start in starts
    ]
    found = min(candidates, key=lambda fit: fit.cost)
    return replace(found, constants=found.constants | {"simple.latency_s": 0.0})


def fit_custom_all_reduce(accelerator: Accelerator, engine: str, nccl: Fitted | None) -> Fitted | None:
    """A serving engine's all-reduce on 2 to 8 ranks over the protocols `nccl` [s]; None without rows."""
    rows = load_table("custom_all_reduce", accelerator.id)
    rows = rows[(rows["engine"] == engine) & (rows["n_bytes"] >= SMALLEST)]
    if not len(rows) or nccl is None:
        return None
    n_bytes, ranks = rows["n_bytes"].astype(float), rows["ranks"].astype(float)
    cluster, efficiency = _node(accelerator), _with_protocols(load_efficiency(accelerator.id), nccl)
    names = [f"one_shot_{constant}" for constant in ("launch_s", "latency_s", "link_efficiency")]
    starts: tuple[tuple[float, ...], ...] = ((3e-6, 1e-7, 0.6), (5e-6, 1e-7, 0.6))
    if engine != "tensorrt-llm":  # its two-shot kernel is in no row of these versions: NCCL follows one-shot
        names += [name.replace("one", "two") for name in names]
        starts = tuple((*one, two, 3e-7, 0.7) for one in starts for two in (4e-6, 9e-6))

    def law_up_to(max_bytes: float) -> Any:
        def law(c: Floats) -> Floats:
            constants = dict(zip(names, c, strict=True)) | {"max_bytes": max_bytes}
            own = CustomAllReduceConstants.model_construct(**constants)
            links_of = Links(cluster, efficiency.model_copy(update={"custom_all_reduce": {engine: own}}))
            seconds: Floats = links_of.collective("all_reduce", n_bytes, ranks, library=engine).seconds
            return seconds

        return law

    how = "fastest of one-shot, two-shot up to max_bytes and the NCCL protocols; 2 to 8 ranks, n_bytes >= 1024"
    plain = links.ring_all_reduce_time(n_bytes, ranks, 0.0, 0.0, float(accelerator.link_byte_per_s))
    limits = dict.fromkeys(names, 1.0)
    found = []
    for most in _LARGEST_CUSTOM:
        for start in starts:
            guess = dict(zip(names, start, strict=True))
            fit = fitted("custom_all_reduce", how, rows, law_up_to(most), plain, guess, limits)
            found.append(replace(fit, constants=fit.constants | {"max_bytes": most}))
    # Where no calibrating row tells two limits apart, the engine keeps its own kernel.
    return min(found, key=lambda fit: (round(fit.cost, 4), -fit.constants["max_bytes"]))


def fit_network(nccl: Fitted | None) -> Fitted:
    """All-reduce over 2 to 32 nodes of 8 accelerators, against the network link of one accelerator [s].

    `nccl` are the protocols and the switch inside these nodes.
    """
    rows = load_table("efa_all_reduce")
    ranks, n_bytes = rows["ranks"].astype(float), rows["size_mib"] * float(2**20)
    cluster = load_cluster(NETWORK_CLUSTER, accelerators=int(ranks.max()))
    efficiency = load_efficiency(cluster.accelerator.id)
    if nccl is not None:
        efficiency = _with_protocols(efficiency, nccl)

    def law(c: Floats) -> Floats:
        network = NetworkConstants.model_construct(**dict(zip(start, c, strict=True)))
        links_of = Links(cluster, efficiency.model_copy(update={"network": network}))
        seconds: Floats = links_of.collective("all_reduce", n_bytes, ranks).seconds
        return seconds

    rails = links.ring_link_byte_per_s(np.inf, float(cluster.tiers[1].link_byte_per_s), 8)
    plain = links.ring_all_reduce_time(n_bytes, ranks, 0.0, 0.0, rails)
    measured = n_bytes / (rows["algbw_gb_per_s"] * 1e9)
    start = {"launch_s": 1e-4, "latency_s": 6e-5, "link_efficiency": 0.87}
    start |= {"tree_latency_s": 2e-5, "tree_link_efficiency": 0.63}
    how = (
        "faster of ring_all_reduce_time over all rails (steps between nodes only) and pipelined_tree_all_reduce_time; "
        "H100 nodes with EFA, taken for every network"
    )
    return fitted("efa_all_reduce", how, rows, law, plain, start, dict.fromkeys(start, 1.0), measured)


def _node(accelerator: Accelerator) -> Cluster:
    """One node whose ranks share a switch: a cluster of the accelerator's own link alone."""
    tier = {"name": "scale-up", "link_byte_per_s": float(accelerator.link_byte_per_s), "latency_s": 0.0}
    node = {"accelerator": accelerator, "accelerators": 8, "accelerators_per_node": 8}
    return load_cluster(node | {"tiers": [tier | {"in_network_reduction": True}]})


def _with_protocols(efficiency: Efficiency, nccl: Fitted) -> Efficiency:
    """The protocols and the switch of a fit in place of those on file; an accelerator without a switch has none."""
    blocks: dict[str, dict[str, Any]] = {}
    for constant, value in nccl.constants.items():
        protocol, _, word = constant.partition(".")
        blocks.setdefault(protocol, {})[word] = value
    switch = blocks.pop("in_network", None)
    return efficiency.model_copy(
        update={
            "collective": {name: ProtocolConstants.model_construct(**block) for name, block in blocks.items()},
            "in_network": None if switch is None else InNetworkConstants.model_construct(**switch),
        }
    )
