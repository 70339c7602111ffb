"""What the host adds to a step: launches that come late, messages that wait for it, experts whose tokens it counts.

All costs are a number of launches; `host_layer_s` of a software generation is the time of those of a dense layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.dual import plain
from perfmodel.formulas.overlap import host_exposed_time
from perfmodel.ops import less, where
from perfmodel.predict.cost import Cost, Number
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.layer import Turn
from perfmodel.predict.share import Share
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.software import Software

__all__ = ["Host"]

# Launches, counted in the public sources of the stacks: a dense layer forward (four products, attention, norms, casts,
# residuals); a collective (its kernel, and events that tie two streams); a message between stages (allocation, send,
# receive, waiting for the device); embedding, head and loss, both passes; what a router adds (logits, top-k,
# permutation and its inverse, exchanges); an expert of the rank (two products, and casts for narrow formats).
_DENSE, _COLLECTIVE, _MESSAGE, _ENDS, _ROUTER = 16.0, 1.0, 4.0, 24.0, 20.0
_EXPERT = {False: 2.0, True: 5.0}


@dataclass(frozen=True)
class Host:
    """The host beside one rank's share of a layer; `repeats` [1] of the layers run again in the backward pass."""

    model: Architecture
    software: Software
    kernels: Kernels
    share: Share
    repeats: Number

    def _launches_s(self, launches: Number) -> Number:
        return plain(self.software.host_layer_s) * launches / _DENSE

    @property
    def _forward_s(self) -> Number:
        """Launching a layer forward; two synchronisations of tensor parallelism, each two messages when sharded."""
        exchanges = 4.0 if self.share.sequence_parallel else 2.0
        alone = less(self.share.tp, 2)
        return self._launches_s(
            _DENSE + where(alone, 0.0 * self.share.tp, exchanges * _COLLECTIVE + 0.0 * self.share.tp)
        )

    @property
    def _rounds(self) -> Number:
        return 1.0 + plain(self.software.host_backward_ratio) + self.repeats

    @property
    def layer_s(self) -> Number:
        """Launching a layer, all passes [s]: no device runs it faster."""
        return self._forward_s * self._rounds

    @property
    def message_s(self) -> Number:
        """Host time of a message to the next stage [s], where the stack waits for it."""
        return 0.0 if self.software.overlap_pipeline else self._launches_s(_MESSAGE)

    def layer_wait_s(self, one: Turn, again_s: Number) -> Number:
        """Seconds that the mean layer and micro-batch wait for the host, forward, backward and in what is repeated.

        `again_s` [s] is what a layer repeats that is recomputed.

        A layer waits where its kernels take less than their launches. One with experts copies the token count of each
        to the host before it can launch their products: the queue runs empty, so the launches around its experts all
        count.
        """
        waits = (
            host_exposed_time(one.forward.seconds, self._forward_s)
            + host_exposed_time(one.backward.seconds, self._forward_s * plain(self.software.host_backward_ratio))
            + host_exposed_time(again_s, self._forward_s) * self.repeats
        )
        part = self._expert_part if self.software.expert_counts_on_host else 0.0
        own = _EXPERT[self.kernels.is_narrow] * self.model.n_experts / self.share.ep
        return waits + part * self._rounds * self._launches_s(_ROUTER + own) if part else waits

    def ends_wait_s(self, ends: tuple[Cost, Cost]) -> Number:
        """Seconds that embedding, head and loss of one micro-batch wait for the host."""
        return host_exposed_time(ends[0].seconds + ends[1].seconds, self._launches_s(_ENDS))

    @property
    def _expert_part(self) -> float:
        return sum(n for kind, n in self.model.layer_groups if kind.ffn == "experts") / self.model.n_layers
