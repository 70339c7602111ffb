"""Percentiles over requests from the simple laws of an operating point."""

from __future__ import annotations

import math
from statistics import NormalDist

from perfmodel.predict.serving.operating import Point

__all__ = ["tpot_percentile", "ttft_percentile"]

_ROUNDS = 60


def tpot_percentile(point: Point, share: float) -> float:
    """TPOT [s] below which `share` of the requests lie: how many prompts one meets is normal about its mean."""
    return max(float(point.decode.cost.seconds) if point.tpot_s else 0.0,
               point.tpot_s + NormalDist().inv_cdf(share) * point.tpot_spread_s)  # fmt: skip


def ttft_percentile(point: Point, share: float) -> float:
    """TTFT [s] below which `share` of the requests lie: a wait uniform in pieces, and an exponential one in a queue."""
    queue_s = point.waiting_s / point.load if point.load and not point.saturated else 0.0
    exponential = queue_s if point.load < 1.0 else 0.0
    low, high = 0.0, max(most for _, _, most in point.waits) + 20.0 * exponential
    for _ in range(_ROUNDS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _below(point, middle, exponential) < share else (low, middle)
    return high


def _below(point: Point, time_s: float, exponential_s: float) -> float:
    total = 0.0
    for share, least, most in point.waits:
        width = most - least
        uniform = min(1.0, max(0.0, (time_s - least) / width)) if width > 0 else float(time_s >= least)
        total += share * uniform
    if exponential_s <= 0.0:
        return total
    # The wait is 0 with the share of idle time, else exponential; the uniform piece is taken at its middle.
    middle = sum(share * 0.5 * (least + most) for share, least, most in point.waits)
    waited = 1.0 - point.load * math.exp(-max(0.0, time_s - middle) / exponential_s)
    return min(total, waited)
