"""Why no deployment keeps the limits, which resource binds, and what would."""

from __future__ import annotations

import math

import numpy as np

from perfmodel.plan.serving.points import Curves
from perfmodel.plan.serving.space import Candidates
from perfmodel.predict.serving.demand import SHARES
from perfmodel.predict.serving.traffic import Traffic
from perfmodel.specs.workload import Slo

__all__ = ["why_not", "with_other_precisions"]


def why_not(candidates: Candidates, curves: Curves | None, slo: Slo, rate_per_s: float, most: int | None) -> list[str]:
    """The tightest limit, by how much it is missed at best, and what would keep it."""
    if curves is None:
        rules = "; ".join(f"{rule}: {count}" for rule, count in candidates.pruned.items())
        said = [f"memory: no engine holds the model and one request ({rules or 'no layout'})"]
        if math.isfinite(candidates.least_weights):
            said.append(
                f"the leanest layout keeps {candidates.least_weights / 1e9:.1f} GB of weights on an accelerator"
            )
        return said
    positions = list(range(len(curves.candidates)))
    alone = curves.at(1e-6 * max(rate_per_s, 1e-3), 1, positions)
    said = []
    for name, limit, quantiles in (
        ("ttft_s", slo.ttft_s, alone.ttft_quantiles_s), ("tpot_s", slo.tpot_s, alone.tpot_quantiles_s),
    ):  # fmt: skip
        if limit is None:
            continue
        best, value = _best(quantiles, slo.percentile)
        if value > limit:
            one = curves.candidates[best]
            said.append(
                f"{name}: {1e3 * value:.3g} ms at best on this hardware ({one.name}, no load, percentile "
                f"{slo.percentile:g}), {1e3 * limit:.3g} ms asked; bound by {_bound_by(curves, best, name)}"
            )
            said.append(f"would fit: {name} of {1e3 * value:.3g} ms")
    if not said:
        said = _too_many(curves, slo, rate_per_s, most, alone)
    return said


def with_other_precisions(curves: Curves, slo: Slo) -> list[str]:
    """Limits that other precisions than those asked for would come nearer to."""
    if not curves.candidates:
        return []
    alone = curves.at(1e-6, 1, range(len(curves.candidates)))
    said = []
    for name, limit, quantiles in (
        ("ttft_s", slo.ttft_s, alone.ttft_quantiles_s), ("tpot_s", slo.tpot_s, alone.tpot_quantiles_s),
    ):  # fmt: skip
        if limit is not None:
            best, value = _best(quantiles, slo.percentile)
            said.append(f"with other precisions {name} can be {1e3 * value:.3g} ms ({curves.candidates[best].name})")
    return said


def _best(quantiles: np.ndarray, share: float) -> tuple[int, float]:
    """The candidate with the least latency at a share of the requests, and that latency [s]."""
    values = np.array([np.interp(share, SHARES, column) for column in quantiles.T])
    best = int(values.argmin())
    return best, float(values[best])


def _bound_by(curves: Curves, i: int, name: str) -> str:
    engine, workload = curves.candidates[i].engine, curves.workload
    length = workload.prompts.mean + workload.outputs.mean / 2.0
    node = engine.decode(1.0, length) if name == "tpot_s" else engine.prefill(1.0, workload.prompts.mean)
    parts = {"compute": node.cost.compute_s, "memory (HBM)": node.cost.memory_s, "links": node.cost.link_s}
    parts["latency and the host"] = node.cost.seconds - sum(map(float, parts.values()))
    return max(parts, key=lambda part: float(parts[part]))


def _too_many(curves: Curves, slo: Slo, rate_per_s: float, most: int | None, alone: Traffic) -> list[str]:
    """Every limit can be kept, but not together, or not by so few accelerators."""
    needs = curves.engines_for(rate_per_s, slo, range(len(curves.candidates)))
    if not needs:
        return [f"ttft_s and tpot_s: each can be kept, not both by {slo.percentile:g} of the requests"]
    fewest = min(needs, key=lambda i: needs[i] * curves.candidates[i].accelerators)
    count = needs[fewest] * curves.candidates[fewest].accelerators
    return [
        f"accelerators: {rate_per_s:.4g} requests a second need {count} of them at least ({needs[fewest]} x "
        f"{curves.candidates[fewest].name}), {most} are allowed",
        f"would fit: max_accelerators of {count}",
    ]
