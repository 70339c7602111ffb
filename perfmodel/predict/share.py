"""What one rank holds of a layer and a micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.ops import maximum
from perfmodel.predict.cost import Number
from perfmodel.predict.imbalance import EVEN, ExpertRouting, Unevenness
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind, Product

__all__ = ["Share"]


@dataclass(frozen=True, slots=True)
class Share:
    """Degrees that cut a layer, and the sequences that a micro-batch brings; numbers may be arrays.

    `document_len` [tokens] is the length of the documents packed into a sequence, None: one fills it; `routing` says
    how uneven experts are, None: not at all.
    """

    micro_batch: Number
    seq_len: int
    tp: Number = 1.0
    cp: Number = 1.0
    ep: Number = 1.0
    etp: Number = 1.0
    sequence_parallel: bool = False
    document_len: float | None = None
    routing: ExpertRouting | None = None

    @property
    def tokens(self) -> Number:
        """Tokens of a micro-batch that meet on one tensor-parallel group."""
        return self.micro_batch * self.seq_len / self.cp

    @property
    def shards(self) -> Number:
        """Parts into which the tokens are cut outside of tensor-parallel products."""
        return self.tp if self.sequence_parallel else 1.0

    @property
    def expert_tokens(self) -> Number:
        """Tokens whose routed copies the fullest expert-parallel rank works on.

        The tokens of a tensor-parallel group are spread over it; expert-tensor-parallel ranks work on the same copies.
        """
        fair = self.tokens / self.tp * self.etp
        return fair if self.routing is None else fair * self.uneven.fullest

    @property
    def uneven(self) -> Unevenness:
        """How uneven experts are at this expert parallelism."""
        return EVEN if self.routing is None else self.routing.at(self.ep)

    def rows(self, product: Product) -> Number:
        """Rows of a product that no expert owns."""
        return self.tokens / self.shards if product.split == "none" else self.tokens

    def columns(self, model: Architecture, kind: LayerKind, product: Product) -> tuple[Number, Number]:
        """(n, k) of a product on one rank; key-value heads are repeated when tp exceeds them."""
        cut = self.etp if product.experts else self.tp
        if product.name == "qkv_projection" and kind.mixer in ("attention", "window"):
            key_values = maximum(model.n_kv_heads / self.tp, 1.0)
            return (model.n_heads / self.tp + 2 * key_values) * model.d_head, product.k
        if product.split == "column":
            return product.n / cut, product.k
        return product.n, product.k / cut if product.split == "row" else product.k
