"""Pipeline schedules as the step model asks for them: the bubble, the micro-batches held, where the ends stand."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.formulas import pipeline, zero_bubble
from perfmodel.ops import less, maximum, minimum, where
from perfmodel.predict.cost import Number

__all__ = [
    "DUALPIPE",
    "FOLDED",
    "SCHEDULES",
    "SPLIT_BACKWARD",
    "V_SHAPED",
    "WHOLE_BACKWARD",
    "Passes",
    "ends_together",
    "in_flight_microbatches",
    "split_bubble_time",
    "weight_copies",
]

V_SHAPED = ("zb-v", "v-half", "v-min")
"""Two chunks a rank, down the ranks and back up: the first rank holds embedding and head."""
DUALPIPE = "dualpipe"
SPLIT_BACKWARD = ("zb-h1", "zb-h2", "zb-1p", "zb-2p", *V_SHAPED, DUALPIPE)
"""Schedules in which the gradients of the weights wait."""
WHOLE_BACKWARD = ("gpipe", "1f1b")
"""One chunk a rank and one backward pass: only in-flight micro-batches tell the stages apart."""
FOLDED = (*V_SHAPED, DUALPIPE)
"""Schedules in which the first rank holds both the embedding and the head."""
SCHEDULES = ("gpipe", "1f1b", "interleaved", *SPLIT_BACKWARD)


@dataclass(frozen=True, slots=True)
class Passes:
    """Seconds of one micro-batch on the average rank [s]: forward, gradients of its inputs and of its weights."""

    forward: Number
    inputs: Number
    weights: Number


def split_bubble_time(
    schedule: str,
    passes: Passes,
    n_microbatches: Number,
    pp: Number,
    *,
    transfer_s: Number = 0.0,
    kept_share: Number = 1.0,
) -> Number:
    """Bubble [s] of a schedule that splits the backward pass, with messages of `transfer_s` between ranks.

    `kept_share` [1] is what waits for the gradients of the weights, over all activations; above 1 the memory is counted
    for it (`in_flight_microbatches`), so that it limits nothing more.
    """
    times = (passes.forward, passes.inputs, passes.weights, pp)
    if schedule == DUALPIPE:
        return zero_bubble.dualpipe_bubble_time(*times, transfer_s)
    if schedule == "zb-2p":
        return zero_bubble.zb_2p_bubble_time(*times, n_microbatches, transfer_s, minimum(kept_share, 1.0))
    law = {
        "zb-h1": zero_bubble.zb_h1_bubble_time,
        "zb-1p": zero_bubble.zb_h1_bubble_time,
        "zb-h2": zero_bubble.zb_h2_bubble_time,
        "zb-v": zero_bubble.zb_v_bubble_time,
        "v-half": zero_bubble.v_half_bubble_time,
        "v-min": zero_bubble.v_min_bubble_time,
    }[schedule]
    return law(*times, n_microbatches, transfer_s)


def in_flight_microbatches(
    schedule: str, n_microbatches: Number, pp: Number, vpp: Number, stage: Number, kept_share: Number
) -> Number:
    """Micro-batches' worth of activations that a stage holds at its peak.

    1F1B and interleaved are told apart by `vpp`. Where recomputation leaves less than the weight gradients need
    (`kept_share` above 1), searched schedules hold that for as many micro-batches.
    """
    if schedule == "gpipe":
        return pipeline.in_flight_microbatches_gpipe(n_microbatches)
    if schedule == "zb-h1":
        return zero_bubble.in_flight_microbatches_zb_h1(n_microbatches, pp, stage, kept_share)
    if schedule == "zb-h2":
        return zero_bubble.in_flight_microbatches_zb_h2(n_microbatches, pp, stage, kept_share)
    if schedule == DUALPIPE:
        return zero_bubble.in_flight_microbatches_dualpipe(n_microbatches, pp, kept_share)
    if schedule in SPLIT_BACKWARD:
        return _held_everywhere(schedule, n_microbatches, pp) * maximum(kept_share, 1.0)
    plain = pipeline.in_flight_microbatches_1f1b(n_microbatches, pp, stage)
    chunked = pipeline.in_flight_microbatches_interleaved(n_microbatches, pp, vpp, stage)
    return where(less(vpp, 2), plain, chunked)


def _held_everywhere(schedule: str, n_microbatches: Number, pp: Number) -> Number:
    """Schedules that every rank fills up to the same limit; that of 1F1B unless they have their own."""
    law = {
        "zb-2p": zero_bubble.in_flight_microbatches_zb_2p,
        "v-half": zero_bubble.in_flight_microbatches_v_half,
        "v-min": zero_bubble.in_flight_microbatches_v_min,
    }.get(schedule, pipeline.in_flight_microbatches_1f1b)
    return law(n_microbatches, pp)


def ends_together(schedule: str, pp: Number) -> Number:
    """1 where the embedding and the head stand on the same rank."""
    return 1.0 if schedule in FOLDED else where(less(pp, 2), 1.0, 0.0)


def weight_copies(schedule: str) -> float:
    """Copies of each stage's weights among the ranks of one pipeline."""
    return 2.0 if schedule == DUALPIPE else 1.0
