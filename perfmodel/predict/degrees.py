"""A layout as the step model takes it: numbers that may be arrays, and plain switches."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.predict.cost import Number
from perfmodel.predict.imbalance import ExpertRouting
from perfmodel.predict.schedules import ends_together, weight_copies
from perfmodel.predict.share import Share
from perfmodel.predict.stages import Stages

__all__ = ["Degrees"]


@dataclass(frozen=True, slots=True)
class Degrees:
    """Degrees and micro-batch may be arrays; the rest is the same for all layouts that are priced together.

    `shards` is the number of ranks among which ZeRO cuts its states; `recompute_layers` the layers of a stage that full
    recomputation repeats (None: all; a tuple: of each stage, with `stage_layers`); `offload_share` [1] of the kept
    activations goes to the host. Of the schedules 1F1B and interleaved are told apart by `vpp`.
    """

    tp: Number
    pp: Number
    dp: Number
    vpp: Number
    micro_batch: Number
    shards: Number
    cp: Number = 1.0
    ep: Number = 1.0
    etp: Number = 1.0
    zero_stage: int = 1
    sequence_parallel: bool = False
    recompute: str = "none"
    recompute_modules: tuple[str, ...] = ()
    recompute_layers: Number | tuple[int, ...] | None = None
    stage_layers: tuple[int, ...] | Stages | None = None
    offload_share: float = 0.0
    schedule: str = "1f1b"

    @property
    def accelerators(self) -> Number:
        """Accelerators used."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def data_ranks(self) -> Number:
        """Ranks that hold the same weights and see different tokens."""
        return self.dp * self.cp

    @property
    def expert_data_ranks(self) -> Number:
        """Ranks that hold the same experts."""
        return self.dp * self.cp * self.tp / (self.ep * self.etp)

    @property
    def ends_together(self) -> Number:
        """1 where one rank holds both the embedding and the head."""
        return ends_together(self.schedule, self.pp)

    @property
    def weight_copies(self) -> float:
        """Ranks of one pipeline that hold the same weights; they count as data-parallel ranks of those weights."""
        return weight_copies(self.schedule)

    def share(self, seq_len: int, document_len: float | None = None, routing: ExpertRouting | None = None) -> Share:
        """What one rank holds of a layer."""
        return Share(
            self.micro_batch,
            seq_len,
            self.tp,
            self.cp,
            self.ep,
            self.etp,
            self.sequence_parallel,
            document_len,
            routing,
        )
