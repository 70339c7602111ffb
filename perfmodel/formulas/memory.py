r"""Memory laws of training: model states under ZeRO.

Every law takes what one rank holds: `n_params` after tensor and pipeline parallelism. Shards are 1 or a degree,
chosen by the caller, so that no law needs to know a ZeRO stage or a flag.
"""

from perfmodel.formulas._registry import formula

__all__ = [
    "gathered_weight_bytes",
    "gradient_bytes_per_rank",
    "model_state_bytes_per_rank",
    "optimizer_bytes_per_rank",
    "weight_bytes_per_rank",
]


@formula
def weight_bytes_per_rank(n_params, bytes_per_weight=2, shards=1):
    r"""Bytes of the working weights that one rank keeps.

    .. math:: W = \Psi w / n

    Symbols      \Psi  n_params [1] parameters of this rank's tensor and pipeline shard;
                 w  bytes_per_weight [B] 2 for bf16;
                 n  shards [1] dp under ZeRO-3, else 1;  returns [B]
    Assumptions  even shards, padding left out
    Valid for    n_params >= 0; shards >= 1
    Monotone     n_params +; bytes_per_weight +; shards -
    Source       Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
                 section 5.3, arXiv:1910.02054
    Checked      through model_state_bytes_per_rank
    """
    return n_params * bytes_per_weight / shards


@formula
def gradient_bytes_per_rank(n_params, bytes_per_gradient=2, shards=1):
    r"""Bytes of the gradients that one rank keeps until the optimizer step.

    .. math:: G = \Psi g / n

    Symbols      \Psi  n_params [1] parameters of this rank's tensor and pipeline shard;
                 g  bytes_per_gradient [B] 2 in the ZeRO paper, 4 where accumulation is in fp32;
                 n  shards [1] dp under ZeRO-2 and ZeRO-3, else 1;  returns [B]
    Assumptions  even shards, padding left out
    Valid for    n_params >= 0; shards >= 1
    Monotone     n_params +; bytes_per_gradient +; shards -
    Source       Rajbhandari et al. 2020, "ZeRO", section 5.2, arXiv:1910.02054
    Checked      through model_state_bytes_per_rank
    """
    return n_params * bytes_per_gradient / shards


@formula
def optimizer_bytes_per_rank(n_params, bytes_per_optimizer_state=12, shards=1):
    r"""Bytes of the optimizer state that one rank keeps.

    .. math:: O = \Psi k / n

    Symbols      \Psi  n_params [1] parameters of this rank's tensor and pipeline shard;
                 k  bytes_per_optimizer_state [B] 12 for mixed-precision Adam (master weight, two moments);
                 n  shards [1] dp under ZeRO-1, ZeRO-2 and ZeRO-3, else 1;  returns [B]
    Assumptions  even shards, padding left out
    Valid for    n_params >= 0; shards >= 1
    Monotone     n_params +; bytes_per_optimizer_state +; shards -
    Source       Rajbhandari et al. 2020, "ZeRO", section 3.1 (K = 12) and 5.1, arXiv:1910.02054
    Checked      through model_state_bytes_per_rank
    """
    return n_params * bytes_per_optimizer_state / shards


@formula
def model_state_bytes_per_rank(
    n_params,
    weight_shards,
    gradient_shards,
    optimizer_shards,
    bytes_per_weight=2,
    bytes_per_gradient=2,
    bytes_per_optimizer_state=12,
):
    r"""Bytes of weights, gradients and optimizer state on one rank, each with its own number of shards.

    .. math:: S = \Psi (w / n_w + g / n_g + k / n_k)

    Symbols      \Psi  n_params [1] parameters of this rank's tensor and pipeline shard;
                 n_w  weight_shards [1] dp under ZeRO-3, else 1;
                 n_g  gradient_shards [1] dp from ZeRO-2 on, else 1;
                 n_k  optimizer_shards [1] dp from ZeRO-1 on, else 1;
                 w  bytes_per_weight [B] working precision;  g  bytes_per_gradient [B] accumulation precision;
                 k  bytes_per_optimizer_state [B] 12 for mixed-precision Adam;  returns [B]
    Assumptions  even shards, no gathered weights (gathered_weight_bytes) and no buckets
    Valid for    n_params >= 0; weight_shards >= 1; gradient_shards >= 1; optimizer_shards >= 1
    Monotone     n_params +; weight_shards -; gradient_shards -; optimizer_shards -
    Source       Rajbhandari et al. 2020, "ZeRO", Figure 1 and section 5, arXiv:1910.02054
    Checked      ZeRO Figure 1: 7.5 B parameters, dp 64, four stages, to the digits given
    Example      >>> model_state_bytes_per_rank(7.5e9, 1, 1, 1)
                 120000000000.0
    """
    return (
        weight_bytes_per_rank(n_params, bytes_per_weight, weight_shards)
        + gradient_bytes_per_rank(n_params, bytes_per_gradient, gradient_shards)
        + optimizer_bytes_per_rank(n_params, bytes_per_optimizer_state, optimizer_shards)
    )


@formula
def gathered_weight_bytes(n_params_per_unit, live_units=2, bytes_per_weight=2):
    r"""Bytes of whole units (layers, buckets) that ZeRO-3 or FSDP gathers for the moment of their use.

    .. math:: U = u \Psi_u w

    Symbols      \Psi_u  n_params_per_unit [1] parameters of the largest unit on this rank, before sharding;
                 u  live_units [1] units held at once, 2 with one prefetched;
                 w  bytes_per_weight [B] precision gathered;  returns [B]
    Assumptions  units are freed after use (reshard after forward)
    Valid for    n_params_per_unit >= 0; live_units >= 1
    Monotone     n_params_per_unit +; live_units +; bytes_per_weight +
    Source       Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", section 3.2.1
                 (peak is the shards plus the largest unsharded units), arXiv:2304.11277
    """
    return live_units * n_params_per_unit * bytes_per_weight
