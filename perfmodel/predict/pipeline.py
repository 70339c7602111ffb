"""What a rank waits for the others of its pipeline: the bubble of its schedule, and messages between stages."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.formulas.pipeline import pipeline_bubble_time
from perfmodel.ops import maximum, minimum
from perfmodel.predict.cost import Cost, Node, Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.layer import Layer, Turn
from perfmodel.predict.schedules import Passes, split_bubble_time
from perfmodel.predict.stages import Stages

__all__ = ["Pipeline", "passes_of"]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The pipeline of one layout (or arrays of layouts).

    `stage` is one micro-batch on the average rank, all passes; `message` its activations on the way to a neighbour;
    `exposed` [1] is the share of the messages after the first wave that no computation hides.
    """

    degrees: Degrees
    n_microbatches: Number
    stage: Cost
    message: Cost
    exposed: float | None

    def terms(self) -> tuple[Node, Node]:
        """Bubble and messages of schedules whose backward pass is one."""
        return self._whole_bubble(), self._transfer()

    def split_terms(self, passes: Passes, kept_share: Number) -> tuple[Node, Node]:
        """Bubble of a schedule that splits the backward pass, and what its messages add to it.

        Outside of the bubble weight gradients fill the wait for a message. `kept_share` [1] of the activations waits
        for them.
        """
        d = self.degrees

        def idle(transfer_s: Number) -> Number:
            return split_bubble_time(
                d.schedule, passes, self.n_microbatches, d.pp, transfer_s=transfer_s, kept_share=kept_share
            )

        seconds, upper = idle(0.0), self._whole_bubble().cost.upper
        waits, all_messages = idle(self.message.seconds) - seconds, self._transfer().cost
        transfer = Cost(waits, 0.0, maximum(waits, all_messages.upper), 0.0, 0.0, all_messages.link_s)
        bubble = Node.wait("pipeline_bubble", seconds, "dependency", 0.0, maximum(seconds, upper))
        return bubble, Node("pipeline_transfer", transfer, "link")

    def _whole_bubble(self) -> Node:
        d, stage = self.degrees, self.stage
        seconds, lower, upper = (
            pipeline_bubble_time(x, d.pp, d.vpp) for x in (stage.seconds, stage.lower, stage.upper)
        )
        return Node.wait("pipeline_bubble", seconds, "dependency", lower, upper)

    def _transfer(self) -> Node:
        """Activations forward and gradients backward between stages, for every chunk and in the warm-up."""
        d, one = self.degrees, self.message
        crosses = minimum(d.pp - 1.0, 1.0)
        warm_up = one * (2.0 * (d.pp - 1.0))
        steady = one * (2.0 * d.vpp * self.n_microbatches * crosses)
        if self.exposed is not None:
            steady = Cost(steady.seconds * min(self.exposed, 1.0), 0.0, steady.upper, 0.0, 0.0, steady.link_s)
        return Node("pipeline_transfer", warm_up + steady, "link")


def passes_of(one: Turn, block: Layer, stages: Stages, ends: tuple[Cost, Cost], pp: Number) -> Passes:
    """The three passes of the average rank; what is recomputed comes before the gradients of the inputs.

    The head's three products take a third each of its time, and so its loss and the embedding are shared out.
    """
    end = (ends[0].seconds + ends[1].seconds) / (3.0 * pp)
    weights = block.weight_gradient.seconds
    inputs = one.backward.seconds + one.repeated.seconds - weights
    return Passes(*(seconds * stages.average + end for seconds in (one.forward.seconds, inputs, weights)))
