"""What an uneven load costs a layer of experts, for the training and the serving step.

A step waits for the fullest rank: its experts work on `max_over_mean` times the fair share, and it receives as much.
"""

from __future__ import annotations

from collections.abc import Sequence

from perfmodel.formulas.moe import imbalanced_layer_time

__all__ = ["expert_layer_slowdown", "expert_layers_slowdown"]


def expert_layer_slowdown(
    max_over_mean: float, *, compute_s: float, exchange_s: float = 0.0, cross_rank_fraction: float | None = None
) -> float:
    """Time of a layer of routed experts over that of a balanced one.

    `compute_s` [s] are the experts' products at a fair share, `exchange_s` [s] dispatch and combine at a fair share;
    `cross_rank_fraction` is the share of copies that leave their rank, relative to which `exchange_s` is 1 (an
    all-to-all without placement). Returns 1 where nothing takes time.
    """
    crossing = 1.0 if cross_rank_fraction is None else cross_rank_fraction
    fair = imbalanced_layer_time(compute_s, exchange_s, 1.0, 1.0)
    return imbalanced_layer_time(compute_s, exchange_s, max_over_mean, crossing) / fair if fair else 1.0


def expert_layers_slowdown(max_over_mean_load: Sequence[float], *, compute_s: float, exchange_s: float = 0.0) -> float:
    """The mean over layers: each layer waits for its own fullest rank, as `ExpertPlan.prediction` lists them."""
    return sum(
        expert_layer_slowdown(load, compute_s=compute_s, exchange_s=exchange_s) for load in max_over_mean_load
    ) / len(max_over_mean_load)
