"""What the ranks of one layer tell each other: tensor, context and expert parallelism, and what stays visible of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from perfmodel.dual import plain
from perfmodel.formulas.overlap import exposed_time
from perfmodel.formulas.sparse import expected_touched_groups
from perfmodel.ops import less, maximum, where
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Number, total
from perfmodel.predict.imbalance import expert_exchange
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.share import Share
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind, Product
from perfmodel.specs.software import Software

__all__ = ["EXCHANGES", "Exchanges", "exposed", "hidden_exchange", "side_by_side"]

EXCHANGES = ("tensor_parallel", "context_parallel", "expert_parallel")
"""Terms of a layer that run on links."""
_SOON = 1e-30
"""Seconds that only keep nothing from being divided by nothing."""


def hidden_exchange(links: Links, n_bytes: Number, share: Share) -> Cost:
    """One synchronisation of the hidden state: an all-reduce, or a reduce-scatter and an all-gather."""
    if not share.sequence_parallel:
        return links.collective("all_reduce", n_bytes, share.tp)
    return links.collective("reduce_scatter", n_bytes, share.tp) + links.collective("all_gather", n_bytes, share.tp)


def exposed(compute: Cost, communication: Cost, software: Software) -> Cost:
    """What is left of a transfer behind a computation: nothing at best, all of it at worst."""
    share = plain(software.exposed_share)
    seconds = exposed_time(compute.seconds, communication.seconds, share)
    upper = communication.upper * max(1.0, share)
    return Cost(seconds, 0.0 * communication.seconds, upper, 0.0, 0.0, communication.link_s)


def side_by_side(phases: Sequence[Mapping[str, Cost]], software: Software) -> list[dict[str, Cost]]:
    """Passes of different micro-batches at once, each one's exchanges of experts behind what the others compute."""
    computes = total(cost for phase in phases for name, cost in phase.items() if name not in EXCHANGES)
    waits = total(phase["expert_parallel"] for phase in phases if "expert_parallel" in phase)
    left = exposed_time(computes.seconds, waits.seconds, plain(software.exposed_share)) / maximum(waits.seconds, _SOON)
    return [
        {name: _partly(cost, left, software) if name == "expert_parallel" else cost for name, cost in phase.items()}
        for phase in phases
    ]


def _partly(cost: Cost, left: Number, software: Software) -> Cost:
    upper = cost.upper * max(1.0, plain(software.exposed_share))
    return replace(cost, seconds=cost.seconds * left, lower=0.0, upper=upper)


@dataclass(frozen=True)
class Exchanges:
    """The exchanges of one layer; `shape` gives (n, k) of a product on one rank."""

    model: Architecture
    kind: LayerKind
    kernels: Kernels
    links: Links
    software: Software
    share: Share

    def forward(self, products: Mapping[str, Cost], core: Cost) -> dict[str, Cost]:
        """Exposed exchanges of the forward pass."""
        return self._phase(self._tensor_forward(products), core, 1.0)

    def backward(self, core: Cost) -> dict[str, Cost]:
        """Exposed exchanges of the backward pass."""
        return self._phase(self._tensor_backward(), core, 2.0)

    def _phase(self, tensor: Cost, core: Cost, key_value_passes: float) -> dict[str, Cost]:
        found = {"tensor_parallel": tensor}
        if _used(self.share.cp) and self.kind.mixer != "none":
            found["context_parallel"] = self._context(core, key_value_passes)
        if self.kind.ffn == "experts" and (_used(self.share.ep) or _used(self.share.etp)):
            found["expert_parallel"] = self._experts()
        return found

    def _hidden_bytes(self) -> Number:
        return self.kernels.activation_bytes * self.share.tokens * self.model.d_model

    def _blocks(self) -> list[tuple[Product, Product]]:
        """The (first, last) product of every part whose inputs and results all tensor-parallel ranks share."""
        products = [p for p in self.model.products(self.kind) if not p.experts and p.split != "none"]
        entry: Product | None = None
        found = []
        for product in products:
            if product.split == "row" and entry is not None:
                found.append((entry, product))
                entry = None
            elif entry is None:
                entry = product
        if self.model.parallel_block and len(found) > 1:
            # Attention and MLP read the same input and add to the same result.
            return [(found[0][0], found[-1][1])]
        return found

    def _tensor_forward(self, products: Mapping[str, Cost]) -> Cost:
        blocks = self._blocks()
        exchange = hidden_exchange(self.links, self._hidden_bytes(), self.share)
        if self.software.overlap_tensor != "all":
            return exchange * float(len(blocks))
        return total(exposed(products[last.name], exchange, self.software) for _, last in blocks)

    def _tensor_backward(self) -> Cost:
        """Newer stacks hide the input gradient's exchange behind the weight gradient of the same product.

        With sequence parallelism the norm's output is gathered once more, behind the input gradient.
        """
        share, links, n_bytes = self.share, self.links, self._hidden_bytes()
        exchange = hidden_exchange(links, n_bytes, share)
        if self.software.overlap_tensor == "none":
            gather = links.collective("all_gather", n_bytes, share.tp)
            return (exchange + gather if share.sequence_parallel else exchange) * float(len(self._blocks()))
        gather = links.collective("all_gather", n_bytes, share.tp)
        scatter = links.collective("reduce_scatter", n_bytes, share.tp)
        visible = Cost()
        for first, last in self._blocks():
            n, k = share.columns(self.model, self.kind, first)
            behind_weights = self.kernels.matmul(n, k, share.tokens)
            if not share.sequence_parallel:
                visible = visible + exposed(behind_weights, exchange, self.software)
                continue
            visible = visible + exposed(behind_weights, scatter, self.software)
            visible = visible + exposed(self.kernels.matmul(share.tokens, k, n), gather, self.software)
            if self.software.overlap_tensor == "all":
                last_n, last_k = share.columns(self.model, self.kind, last)
                input_gradient = self.kernels.matmul(share.tokens, last_k, last_n)
                visible = visible + exposed(input_gradient, gather, self.software)
            else:
                visible = visible + gather
        return visible

    def _context(self, core: Cost, passes: float) -> Cost:
        """Keys and values travel round the ring behind the attention of the chunk before; gathers come first."""
        share, model = self.share, self.model
        how: dict[str, Callable[[], Cost]] = {
            "ring": lambda: exposed(core, self._key_values() * passes, self.software),
            "all-gather": lambda: self._key_values() * passes,
            "all-to-all": lambda: self.links.collective(
                "all_to_all",
                self.kernels.activation_bytes * share.tokens * model.d_head * (2 * model.n_heads + 2 * model.n_kv_heads)
                / share.tp,
                share.cp,
                share.tp,
            ),
        }  # fmt: skip
        return how[self.software.context_parallel]()

    def _key_values(self) -> Cost:
        model, share = self.model, self.share
        width = (
            (model.latent.cache_values if self.kind.mixer == "latent" and model.latent else 0)
            or 2 * model.n_kv_heads * model.d_head / share.tp
        )  # fmt: skip
        gathered = self.kernels.activation_bytes * share.tokens * share.cp * width
        return self.links.collective("all_gather", gathered, share.cp, share.tp)

    def _experts(self) -> Cost:
        """Copies of tokens to the ranks of their experts and back; expert-tensor-parallel ranks share all copies.

        The fullest rank receives and returns most, and everybody waits for it.
        """
        share, experts = self.share, self.model.experts
        copies: Number = float(experts.experts_per_token) if experts else 1.0
        if self.software.expert_dispatch == "per-node":
            copies = self._distinct_nodes(copies)
        n_bytes = self.kernels.activation_bytes * share.tokens / share.tp * copies * self.model.d_model
        uneven = share.uneven
        there_and_back = expert_exchange(self.links, n_bytes, share.ep, share.etp, uneven) * 2.0
        if not _used(share.etp):
            return there_and_back
        gathered = n_bytes * share.etp * uneven.fullest
        return (
            there_and_back
            + self.links.collective("all_gather", gathered, share.etp)
            + self.links.collective("reduce_scatter", gathered, share.etp)
        )

    def _distinct_nodes(self, copies: Number) -> Number:
        """Messages of a token where one goes to each node that holds any of its experts; inside a node all copies."""
        nodes = self.share.ep * self.share.etp / self.links.inner_domain
        distinct = expected_touched_groups(copies, maximum(nodes, 1.0))
        return where(less(nodes, 1.5), copies, distinct)


def _used(degree: Number) -> bool:
    """Whether a degree is more than 1 anywhere."""
    return bool((degree > 1).any()) if hasattr(degree, "any") else degree > 1
