"""The load of a row from a serving workload: mean draw from the serving model, spread from the arrivals."""

from __future__ import annotations

import math
from typing import Any

from perfmodel.errors import PlanError
from perfmodel.formulas.power_rows import drift_sd
from perfmodel.predict.power import server_power_of
from perfmodel.predict.row_load import LoadStatistics
from perfmodel.predict.serving.estimate import estimate_serving
from perfmodel.specs.cluster import Cluster

__all__ = ["statistics_of_workload"]

_PEAK_SIGMAS = 4.0
"""How far above its mean a row of requests gets in weeks: the highest of some ten thousand independent levels."""


def statistics_of_workload(
    workload: Any, cluster: Cluster, servers: int, provisioned_w: float, model: Any
) -> LoadStatistics:
    """Peak and largest rise of a row that serves a workload, one replica a server, at the rate of its busiest hour.

    `workload` has `prompt_tokens`, `output_tokens`, `arrival_rate_per_s` (of the whole row). A request works for its
    latency, so the requests in flight are Poisson with the mean of Little's law, and the level follows them.
    """
    if model is None:
        raise PlanError("row.model: missing; a workload needs the model that the row serves")
    node = cluster.accelerators_per_node
    one = estimate_serving(
        model, cluster.model_copy(update={"accelerators": node}), layout={"tp": node},
        prompt_tokens=_mean(workload.prompt_tokens), output_tokens=_mean(workload.output_tokens),
        arrival_rate_per_s=workload.arrival_rate_per_s / servers,
    )  # fmt: skip
    server = server_power_of(cluster)
    in_flight = max(workload.arrival_rate_per_s / servers * one.request_latency_s, 1e-9)
    rest = server.max_w - server.accelerators * float(server.power.limit_w)
    level = servers * (server.accelerators * one.accelerator_w + rest) / provisioned_w
    idle = servers * (server.idle_w + rest) / provisioned_w
    spread = (level - idle) / math.sqrt(in_flight * servers)
    burst_s = max(one.request_latency_s, 1.0)
    rise = max(_PEAK_SIGMAS * spread * float(drift_sd(1.0, 40.0, burst_s)), 1e-4)
    return LoadStatistics(
        peak=min(level + _PEAK_SIGMAS * spread, servers * server.max_w / provisioned_w),
        rise=min(rise, 1.0),
        memory_s=burst_s,
        idle=idle,
    )


def _mean(tokens: Any) -> int:
    return int(tokens["mean"] if isinstance(tokens, dict) else tokens)
