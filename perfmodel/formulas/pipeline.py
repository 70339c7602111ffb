r"""Pipeline laws: bubbles, step time of a pipeline, micro-batches in flight, and the messages between stages.

GPipe and 1F1B have the same bubble; they differ in the micro-batches they keep in flight. Schedules that split the
backward pass stand in `zero_bubble.py`.
"""

from perfmodel.formulas._registry import formula
from perfmodel.ops import minimum

__all__ = [
    "exposed_p2p_transfers",
    "in_flight_microbatches_1f1b",
    "in_flight_microbatches_gpipe",
    "in_flight_microbatches_interleaved",
    "p2p_message_bytes",
    "pipeline_bubble_fraction",
    "pipeline_bubble_over_ideal",
    "pipeline_bubble_time",
    "pipeline_time",
]


@formula
def pipeline_bubble_over_ideal(n_microbatches, pp, vpp=1):
    r"""Idle time of a pipeline over its ideal time, the time without a bubble: GPipe, 1F1B (vpp = 1) and interleaved.

    .. math:: \beta = \frac{p - 1}{v m}

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline ranks;
                 v  vpp [1] model chunks per rank;  returns [1]
    Assumptions  equal stages, transfers free
    Valid for    n_microbatches >= 1; pp >= 1; vpp >= 1
    Monotone     n_microbatches -; pp +; vpp -
    Limits       pp = 1 -> 0
    Source       Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters Using
                 Megatron-LM", sections 2.2.1 and 2.2.2, arXiv:2104.04473
    """
    return (pp - 1) / (vpp * n_microbatches)


@formula
def pipeline_bubble_fraction(n_microbatches, pp, vpp=1):
    r"""Idle share of the whole pipeline time: GPipe, 1F1B (vpp = 1) and interleaved.

    .. math:: \frac{\beta}{1 + \beta} = \frac{p - 1}{v m + p - 1}

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline ranks;
                 v  vpp [1] model chunks per rank;  returns [1]
    Assumptions  equal stages, transfers free
    Valid for    n_microbatches >= 1; pp >= 1; vpp >= 1
    Monotone     n_microbatches -; pp +; vpp -
    Limits       pp = 1 -> 0
    Source       Huang et al. 2019, "GPipe", section 2.3, O((K-1)/(M+K-1)), arXiv:1811.06965; interleaved after
                 Narayanan et al. 2021, section 2.2.2, arXiv:2104.04473
    """
    return (pp - 1) / (vpp * n_microbatches + pp - 1)


@formula
def pipeline_bubble_time(average_stage_s, pp, vpp=1, relative_bubble=1):
    r"""Time that a pipeline rank idles in a step while the pipeline fills and drains.

    .. math:: T = \rho \frac{p - 1}{v} \bar t

    Symbols      \bar{t}  average_stage_s [s] forward and backward of one micro-batch through one rank's layers, mean
                 over the ranks;  p  pp [1] pipeline ranks;  v  vpp [1] model chunks per rank;
                 \rho  relative_bubble [1] bubble relative to 1F1B where passes take equal time (ZB-1P 1/3, V-Half 1/2,
                 V-Min 2/3, ZB-2P and ZB-V 0);  returns [s]
    Assumptions  transfers free; the wave of the first micro-batch crosses every stage once, so the mean stage counts
    Valid for    average_stage_s >= 0; pp >= 1; vpp >= 1; 0 <= relative_bubble <= 1
    Monotone     average_stage_s +; pp +; vpp -; relative_bubble +
    Limits       pp = 1 -> 0
    Source       Narayanan et al. 2021, sections 2.2.1 and 2.2.2, arXiv:2104.04473; relative bubbles from the README
                 of github.com/sail-sg/zero-bubble-pipeline-parallelism
    Checked      the 1F1B and interleaved bubble of the zero-bubble paper's step times (intercept over slope against m)
    """
    return relative_bubble * (pp - 1) / vpp * average_stage_s


@formula
def pipeline_time(n_microbatches, bottleneck_stage_s, average_stage_s, pp, vpp=1, relative_bubble=1):
    r"""Time of the forward and backward passes of a step: all micro-batches at the slowest stage, and the bubble.

    .. math:: T = m t_{\max} + \rho \frac{p - 1}{v} \bar t

    Symbols      m  n_microbatches [1] micro-batches per step;
                 t_{max}  bottleneck_stage_s [s] forward and backward of one micro-batch on the slowest rank;
                 \bar{t}  average_stage_s [s] the same, mean over the ranks;  p  pp [1] pipeline ranks;
                 v  vpp [1] model chunks per rank;
                 \rho  relative_bubble [1] bubble relative to 1F1B;  returns [s]
    Assumptions  transfers free or inside the stage times
    Valid for    n_microbatches >= 1; bottleneck_stage_s >= 0; average_stage_s >= 0; pp >= 1; vpp >= 1;
                 0 <= relative_bubble <= 1
    Monotone     n_microbatches +; bottleneck_stage_s +; average_stage_s +; pp +; vpp -; relative_bubble +
    Source       Narayanan et al. 2021, section 2.2, arXiv:2104.04473, with uneven stages
    Checked      equal to a replay of GPipe, 1F1B and interleaved on equal stages (tests/test_laws.py)
    """
    return n_microbatches * bottleneck_stage_s + pipeline_bubble_time(average_stage_s, pp, vpp, relative_bubble)


@formula
def p2p_message_bytes(seq_len, micro_batch, d_model, shards=1, bytes_per_activation=2):
    r"""Bytes that one rank sends to the next stage for one micro-batch and chunk, in each direction.

    .. math:: n = s b h w / t

    Symbols      s  seq_len [1] tokens per sequence on this rank;  b  micro_batch [1] sequences;
                 h  d_model [1] hidden size;
                 t  shards [1] tp with sequence parallelism or scatter-gather, else 1;
                 w  bytes_per_activation [B] precision;  returns [B]
    Valid for    seq_len >= 1; micro_batch >= 1; shards >= 1
    Monotone     seq_len +; micro_batch +; d_model +; shards -; bytes_per_activation +
    Source       Narayanan et al. 2021, sections 3.2 and 4.1 (b s h, reduced to b s h / t), arXiv:2104.04473
    """
    return seq_len * micro_batch * d_model * bytes_per_activation / shards


@formula
def exposed_p2p_transfers(n_microbatches, pp, vpp=1):
    r"""Transfers on the critical path of a pipeline that overlaps none of them: an upper bound.

    .. math:: k = 2 (v m \min(1, p - 1) + p - 1)

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline ranks;
                 v  vpp [1] model chunks per rank;  returns [1]
    Assumptions  each chunk of each micro-batch waits for one transfer forward and one backward, and the first wave
                 crosses p - 1 boundaries each way
    Valid for    n_microbatches >= 1; pp >= 1; vpp >= 1
    Monotone     n_microbatches +; pp +; vpp +
    Limits       pp = 1 -> 0
    Source       derived from Narayanan et al. 2021, section 2.2.2 (communication grows by v), arXiv:2104.04473
    """
    return 2 * (vpp * n_microbatches * minimum(1, pp - 1) + pp - 1)


@formula
def in_flight_microbatches_gpipe(n_microbatches):
    r"""Micro-batches whose activations a stage holds at the peak of GPipe: all of them.

    .. math:: k = m

    Symbols      m  n_microbatches [1] micro-batches per step;  returns [1]
    Valid for    n_microbatches >= 1
    Monotone     n_microbatches +
    Source       Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters Using
                 Megatron-LM", section 2.2.1, arXiv:2104.04473
    """
    return n_microbatches


@formula
def in_flight_microbatches_1f1b(n_microbatches, pp, stage=0):
    r"""Micro-batches whose activations a stage holds at the peak of 1F1B.

    .. math:: k = \min(m, p - i)

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline stages;
                 i  stage [1] 0 is the first;  returns [1]
    Assumptions  one backward after each forward once the warm-up of p - i - 1 forwards is over
    Valid for    n_microbatches >= 1; pp >= 1; stage >= 0; fails from stage pp on
    Monotone     n_microbatches +; pp +; stage -
    Source       Narayanan et al. 2021, section 2.2.1, arXiv:2104.04473; Korthikanti et al. 2022, section 4.2.3,
                 arXiv:2205.05198
    Checked      equal to the peak of a replayed 1F1B on every stage (tests/test_laws.py)
    Example      >>> in_flight_microbatches_1f1b(64, 8, stage=1)
                 7
    """
    return minimum(n_microbatches, pp - stage)


@formula
def in_flight_microbatches_interleaved(n_microbatches, pp, vpp, stage=0):
    r"""Micro-batches in flight at the peak of the interleaved schedule, in activations of a whole stage (all chunks).

    .. math:: k = \min\left(m, p + \frac{p - 1 - 2 i}{v}\right)

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline ranks;
                 v  vpp [1] model chunks per rank;  i  stage [1] pipeline rank, 0 is the first;  returns [1]
    Assumptions  warm-up of 2 (p - i - 1) + (v - 1) p chunks and one more, each 1/v of the rank's layers
    Valid for    n_microbatches >= 1; pp >= 2; vpp >= 2; stage >= 0; fails from stage pp on
    Monotone     n_microbatches +; pp +; stage -
    Source       Korthikanti et al. 2022, section 4.2.3, L (1 + (p-1)/(p v)) layers on the first rank,
                 arXiv:2205.05198; other ranks by the warm-up count of Megatron-LM, core/pipeline_parallel/schedules.py
    Checked      equal to the peak of a replayed interleaved schedule on every rank (tests/test_laws.py)
    """
    return minimum(n_microbatches, pp + (pp - 1 - 2 * stage) / vpp)
