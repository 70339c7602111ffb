"""What one iteration of an engine works on, and what one rank holds of the model."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.ops import maximum
from perfmodel.predict.cost import Number
from perfmodel.predict.imbalance import EVEN, ExpertRouting, Unevenness
from perfmodel.predict.layout import ParallelLayout
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind, Product

__all__ = ["Load", "ServingShare"]


@dataclass(frozen=True, slots=True)
class Load:
    """Prompts and running answers of an iteration; numbers may be arrays.

    `prompts` sequences bring `prompt_tokens` each after `past_tokens` in the cache; `sequences` get one token each over
    `kv_len` tokens of cache. `finishes` [1] is the share of the prompts that get their first token here.
    """

    prompts: Number = 0.0
    prompt_tokens: Number = 1.0
    past_tokens: Number = 0.0
    sequences: Number = 0.0
    kv_len: Number = 1.0
    finishes: Number = 1.0

    @property
    def tokens(self) -> Number:
        """Rows of every projection."""
        return self.prompts * self.prompt_tokens + self.sequences

    @property
    def answered(self) -> Number:
        """Sequences that get a token."""
        return self.prompts * self.finishes + self.sequences


@dataclass(frozen=True, slots=True)
class ServingShare:
    """Degrees that cut a layer; numbers may be arrays.

    `attention_dp` groups of `tp` ranks each keep all of attention, for sequences of their own, and share the experts:
    `ep * etp = tp * attention_dp`. A load is that of one group, and all groups have the same. `uneven` says how far
    experts' ranks are from it.
    """

    tp: Number = 1.0
    ep: Number = 1.0
    etp: Number = 1.0
    attention_dp: Number = 1.0
    uneven: Unevenness = EVEN

    @classmethod
    def of(cls, layout: ParallelLayout, routing: ExpertRouting | None = None) -> ServingShare:
        """The share of a rank in a layout; `attention_dp` of its `dp` groups form one engine."""
        ranks = layout.tp * layout.attention_dp
        return cls(
            float(layout.tp),
            float(layout.ep),
            float(max(1, ranks // layout.ep)),
            float(layout.attention_dp),
            EVEN if routing is None else routing.at(float(layout.ep)),
        )

    @property
    def expert_shards(self) -> Number:
        """Ranks among which the routed experts of a layer are shared out."""
        return self.ep * self.etp

    def key_value_heads(self, model: Architecture) -> Number:
        """Key-value heads on a rank: copies where tp exceeds them."""
        return maximum(model.n_kv_heads / self.tp, 1.0)

    def columns(self, model: Architecture, kind: LayerKind, product: Product) -> tuple[Number, Number]:
        """(n, k) of a product on one rank."""
        cut = self.etp if product.experts else self.tp
        if product.name == "qkv_projection" and kind.mixer in ("attention", "window"):
            return (model.n_heads / self.tp + 2 * self.key_value_heads(model)) * model.d_head, product.k
        if product.split == "column":
            return product.n / cut, product.k
        return product.n, product.k / cut if product.split == "row" else product.k
