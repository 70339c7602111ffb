"""One layer as a list of operations, forward and backward, and what recomputation repeats of it.

Sizes may be arrays (many layouts at once); switches (sequence parallelism, the software's) are plain Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Draw, Number, total
from perfmodel.predict.exchanges import EXCHANGES, Exchanges
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.kinds import Parts
from perfmodel.predict.mixers import mixer_core
from perfmodel.predict.share import Share
from perfmodel.predict.traffic import elementwise_traffic
from perfmodel.predict.trainable import Trainable
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind, Product
from perfmodel.specs.software import Software

__all__ = ["Layer", "Turn", "added", "layer", "matmul_gradients", "summed"]

Costs = Mapping[str, Cost]
_OTHERS = (*EXCHANGES, "attention_core", "elementwise")
"""Operations that are no matrix products with weights."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Costs of one layer and one micro-batch on one rank, by operation."""

    forward: dict[str, Cost]
    backward: dict[str, Cost]
    slowdown: Number = 1.0
    """Time of a product over its burst time, at the clocks to which this load settles."""
    weight_gradients: tuple[tuple[Cost, Number], ...] = ()
    """What of the backward pass gives gradients of weights, at burst clocks, each with its share of the layers."""

    @property
    def weight_gradient(self) -> Cost:
        """The part of the backward pass that no other stage waits for."""
        return total(cost * part for cost, part in self.weight_gradients).slowed(self.slowdown)

    def settled(self, kernels: Kernels) -> Layer:
        """The layer in the lasting load of a step, where its products share a power limit with everything else."""
        phases = (self.forward, self.backward)
        products = total(cost for phase in phases for name, cost in phase.items() if name not in _OTHERS)
        everything = total(cost for phase in phases for cost in phase.values())
        slowdown = kernels.slowdown(products.seconds, everything.seconds)
        forward, backward = (
            {name: cost if name in _OTHERS else cost.slowed(slowdown) for name, cost in phase.items()}
            for phase in phases
        )
        return Layer(forward, backward, slowdown, self.weight_gradients)

    def summed(self, draw: Draw | None = None) -> Layer:
        """The same layer with `summed` phases."""
        forward, backward = summed(self.forward, draw), summed(self.backward, draw)
        return Layer(forward, backward, self.slowdown, self.weight_gradients)

    def device(self, phase: Costs) -> Cost:
        """Everything of a phase that runs on the accelerator's cores and memory."""
        return total(cost for name, cost in phase.items() if name not in EXCHANGES)


@dataclass(frozen=True, slots=True)
class Turn:
    """One layer and one micro-batch: forward, backward, what is repeated, and all of it."""

    forward: Cost
    backward: Cost
    repeated: Cost
    all: Cost

    @classmethod
    def of(cls, block: Layer, repeated: Costs) -> Turn:
        """The sums of a layer of which the backward pass repeats some operations."""
        forward, backward, again = (total(phase.values()) for phase in (block.forward, block.backward, repeated))
        return cls(forward, backward, again, total([forward, backward, again]))


def added(phases: Sequence[Costs]) -> dict[str, Cost]:
    """Operations of the same name as one."""
    names = dict.fromkeys(name for phase in phases for name in phase)
    return {name: total(phase[name] for phase in phases if name in phase) for name in names}


def layer(
    model: Architecture,
    kernels: Kernels,
    links: Links,
    software: Software,
    share: Share,
    trainable: Trainable,
    parts: Parts,
) -> Layer:
    """Cost every operation of the mean of these kinds of layers on one rank."""
    found = [(_layer_of(kind, model, kernels, links, software, share, trainable), part) for kind, part in parts]
    if len(found) == 1:
        return found[0][0]
    return Layer(
        _mean([(one.forward, part) for one, part in found]),
        _mean([(one.backward, part) for one, part in found]),
        weight_gradients=tuple((cost, part) for one, part in found for cost, _ in one.weight_gradients),
    )


def summed(phase: Costs, draw: Draw | None = None) -> dict[str, Cost]:
    """One lean operation for the device and one for each exchange instead of all operations."""
    device = total(cost.lean(draw) for name, cost in phase.items() if name not in EXCHANGES)
    return {"device": device} | {name: phase[name].lean(draw) for name in EXCHANGES if name in phase}


def _mean(phases: list[tuple[dict[str, Cost], Number]]) -> dict[str, Cost]:
    names = dict.fromkeys(name for costs, _ in phases for name in costs)
    return {name: total(costs[name] * part for costs, part in phases if name in costs) for name in names}


def _layer_of(
    kind: LayerKind, model: Architecture, kernels: Kernels, links: Links, software: Software, share: Share,
    trainable: Trainable,
) -> Layer:  # fmt: skip
    trains = trainable.trains_all
    forward: dict[str, Cost] = {}
    backward: dict[str, Cost] = {}
    of_weights: list[Cost] = []
    for product in model.products(kind):
        shape = share.columns(model, kind, product)
        if product.experts:
            passes = _expert_product(model, kernels, software, share, *shape, trains)
        else:
            rows = share.rows(product)
            passes = (kernels.matmul(rows, *shape), *matmul_gradients(kernels, software, rows, *shape, trains=trains))
        forward[product.name], inputs, *weights = passes
        backward[product.name] = sum(weights, inputs)
        of_weights += weights
        if trainable.rank:
            adapter = _adapter(kernels, share, product, trainable.rank, *shape)
            forward[product.name] = forward[product.name] + adapter
            backward[product.name] = backward[product.name] + adapter * 2.0
    core_forward, core_backward = mixer_core(model, kind, kernels, software, share)
    forward["attention_core"], backward["attention_core"] = core_forward, core_backward
    traffic, launches = elementwise_traffic(model, kind, software, share, kernels.dtype)
    for costs, n_bytes in zip((forward, backward), traffic, strict=True):
        costs["elementwise"] = kernels.elementwise(n_bytes, software.elementwise_library, launches)
    exchanges = Exchanges(model, kind, kernels, links, software, share)
    forward |= exchanges.forward(forward, core_forward)
    backward |= exchanges.backward(core_backward)
    return Layer(forward, backward, weight_gradients=tuple((cost, 1.0) for cost in of_weights))


def matmul_gradients(
    kernels: Kernels, software: Software, m: Number, n: Number, k: Number, *, trains: bool = True
) -> tuple[Cost, ...]:
    """Gradients of the input and, where it learns, of the weight of one (m, k) x (k, n) product."""
    inputs = kernels.matmul(m, k, n)
    return (inputs, _weight_gradient(kernels, software, m, n, k)) if trains else (inputs,)


def _weight_gradient(kernels: Kernels, software: Software, m: Number, n: Number, k: Number) -> Cost:
    """The (n, m) x (m, k) product and its addition to the accumulated gradient."""
    gradient_bytes = software.gradient_bytes(kernels.dtype)
    if software.wgrad_accumulation == "fused":
        # The product adds in place: it reads and writes the accumulator instead of writing a 16-bit result.
        return kernels.matmul(n, k, m, extra_bytes=(2 * gradient_bytes - kernels.activation_bytes) * n * k)
    read_add_write = (kernels.activation_bytes + 2 * gradient_bytes) * n * k
    return kernels.matmul(n, k, m) + kernels.elementwise(read_add_write, software.elementwise_library)


def _adapter(kernels: Kernels, share: Share, product: Product, rank: int, n: Number, k: Number) -> Cost:
    """The two products of a low-rank adapter; each of its gradients costs as much again."""
    rows = share.rows(product)
    return kernels.matmul(rows, rank, k) + kernels.matmul(rows, n, rank)


def _expert_product(
    model: Architecture, kernels: Kernels, software: Software, share: Share, n: Number, k: Number, trains: bool
) -> tuple[Cost, ...]:
    """A grouped product over the experts of one rank, the gradient of its input, and what its weights' takes."""
    groups = model.n_experts / share.ep
    rows = share.expert_tokens * model.experts_per_token / groups
    forward = kernels.grouped_matmul(rows, n, k, groups)
    backward = kernels.grouped_matmul(rows, k, n, groups)
    if trains:
        accumulate = 2 * software.gradient_bytes(kernels.dtype) * n * k * groups
        weights = kernels.grouped_matmul(n, k, rows, groups)
        return forward, backward, weights, kernels.elementwise(accumulate, software.elementwise_library)
    return forward, backward
