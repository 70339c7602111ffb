"""What a rank of a deployment holds: weights, the cache in blocks, activations, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfmodel.formulas.serving import free_memory_cache_bytes, kv_block_bytes, kv_cache_budget_bytes
from perfmodel.ops import ceil_div
from perfmodel.predict.cost import Number
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.serving.load import ServingShare
from perfmodel.predict.serving.precisions import Precisions
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.serving_software import ServingSoftware

__all__ = ["ServingMemory", "weights_per_rank"]

_SIXTEEN_BITS, _THIRTY_TWO_BITS = 2.0, 4.0


def weights_per_rank(
    model: Architecture, layout: ParallelLayout, precisions: Precisions, replicas: float = 1.0
) -> float:
    """Bytes [B] of the weights of one rank: the products of layers in their precision, everything else in 16 bits.

    Every rank holds `replicas` [1] times its share of the experts.
    """
    shards, expert_shards = float(layout.tp), float(ServingShare.of(layout).expert_shards)
    dense = experts = vectors = 0.0
    for kind, count in model.layer_groups:
        for product in model.products(kind):
            if product.experts:
                experts += count * product.params * model.n_experts
            else:
                dense += count * product.params / (1.0 if product.split == "none" else shards)
        vectors += count * sum(model.layer_vectors(kind).values())
    layers = precisions.weight_bytes * (dense + replicas * experts / expert_shards) + _SIXTEEN_BITS * vectors
    ends = _SIXTEEN_BITS * (model.embedding_params + model.head_params) / shards
    return layers / layout.pp + ends / min(2, layout.pp)


@dataclass(frozen=True)
class ServingMemory:
    """Memory of one rank of a replica; all bytes [B]."""

    model: Architecture
    software: ServingSoftware
    layout: ParallelLayout
    precisions: Precisions
    capacity_bytes: float
    replicas: float = 1.0
    """Slots for experts over experts."""

    @property
    def weights(self) -> float:
        """Weights of the rank."""
        return weights_per_rank(self.model, self.layout, self.precisions, self.replicas)

    def activations(self, tokens: Number, sequences: Number) -> Number:
        """Peak of an iteration: hidden states in and out, the widest product's result, and the logits."""
        widest = max(product.n for kind, _ in self.model.layer_groups for product in self.model.products(kind))
        per_token = 4 * self.model.d_model + 2 * widest / self.layout.tp
        logits = _THIRTY_TWO_BITS * sequences * self.model.vocab_size
        return _SIXTEEN_BITS * tokens * per_token + logits

    @property
    def block_bytes(self) -> float:
        """One block of the cache on the rank."""
        per_token = self.model.kv_cache_bytes_per_token(self.precisions.kv_cache) / self.layout.pp
        # A latent is one for all heads: every rank keeps all of it.
        sharing = 1.0 if self.model.latent is not None else float(self.model.n_kv_heads)
        return float(kv_block_bytes(float(self.software.block_tokens), per_token, float(self.layout.tp), sharing))

    def blocks(self, tokens: Number, sequences: Number) -> Number:
        """Blocks of the cache that fit beside everything else; 0 for a model without a cache."""
        if not self.block_bytes:
            return 0.0 * tokens
        return np.floor(self._budget(tokens, sequences) / self.block_bytes)

    def _budget(self, tokens: Number, sequences: Number) -> Number:
        """Memory for the cache by the engine's own meaning of its fraction."""
        software = self.software
        rule = free_memory_cache_bytes if software.memory_rule == "free" else kv_cache_budget_bytes
        beside = self.activations(tokens, sequences), float(software.workspace_bytes)
        if software.memory_rule == "static":
            beside = 0.0 * beside[0], 0.0
        return rule(self.capacity_bytes, float(software.memory_fraction), self.weights, *beside)

    def concurrency(self, blocks: Number, length: Number) -> Number:
        """Sequences of `length` tokens whose cache fits in so many blocks; the batch limit for a model without one."""
        if not self.block_bytes:
            return float(self.software.max_batch) + 0.0 * length
        return np.floor(blocks / ceil_div(length, float(self.software.block_tokens)))
