"""Percentiles over requests from the simple laws of an operating point, and the share of requests below a limit."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from perfmodel.dual import plain
from perfmodel.dual_array import flat
from perfmodel.predict.serving.demand import SHARES
from perfmodel.predict.serving.operating import Point
from perfmodel.predict.serving.traffic import attainment
from perfmodel.specs.workload import Slo

__all__ = ["attained_share", "tpot_percentile", "ttft_percentile"]


def tpot_percentile(point: Point, share: float) -> float:
    """TPOT [s] below which `share` of the requests lie: in a closed loop, prompts met are normal about their mean."""
    if not point.tpot_s:
        return 0.0
    if point.traffic is not None:
        return _between(point.traffic.tpot_quantiles_s, share)
    return max(
        plain(point.decode.cost.seconds), point.tpot_s + NormalDist().inv_cdf(share) * point.tpot_spread_s
    )  # fmt: skip


def ttft_percentile(point: Point, share: float) -> float:
    """TTFT [s] below which `share` of the requests lie: in a closed loop, waits that are uniform in pieces."""
    if point.traffic is not None:
        return _between(point.traffic.ttft_quantiles_s, share)
    # The law is linear between the ends of its pieces.
    ends_s = sorted((end_s for _, *both_s in point.waits for end_s in both_s), key=flat)
    low_s, below = ends_s[0], 0.0
    for high_s in ends_s:
        reached = _below(point, high_s)
        if reached >= share:
            return low_s + (share - below) / (reached - below) * (high_s - low_s)
        low_s, below = high_s, reached
    return low_s


def attained_share(point: Point, slo: Slo) -> float:
    """Share of the requests [1] within both limits; TTFT and TPOT are taken as independent."""
    if point.saturated and point.traffic is not None:
        # What comes beyond the capacity waits without end.
        return 0.0
    if point.traffic is not None:
        return float(attainment(point.traffic, slo)[0])
    first = 1.0 if slo.ttft_s is None else _below(point, slo.ttft_s)
    return first if slo.tpot_s is None else first * _tokens_below(point, slo.tpot_s)


def _tokens_below(point: Point, limit_s: float) -> float:
    if limit_s < float(point.decode.cost.seconds) and point.tpot_s:
        return 0.0
    if not point.tpot_spread_s:
        return float(point.tpot_s <= limit_s)
    return NormalDist(point.tpot_s, point.tpot_spread_s).cdf(limit_s)


def _between(quantiles_s: np.ndarray, share: float) -> float:
    """A percentile between those of `SHARES`, linear in the normal score."""
    scores = [NormalDist().inv_cdf(float(one)) for one in SHARES]
    return plain(np.interp(NormalDist().inv_cdf(share), scores, quantiles_s[:, 0]))


def _below(point: Point, time_s: float) -> float:
    """Share of the requests of a closed loop whose TTFT is below a time."""
    total = 0.0
    for share, least, most in point.waits:
        width = most - least
        total += share * (min(1.0, max(0.0, (time_s - least) / width)) if width > 0 else float(time_s >= least))
    return total
