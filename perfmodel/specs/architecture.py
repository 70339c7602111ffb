"""What a model is: the sizes of a decoder-only transformer, and the counts that follow from them alone."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.specs.quantity import Spec

__all__ = ["BYTE_PER_VALUE", "Architecture", "ModelSource", "Rope"]

BYTE_PER_VALUE = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
    # Block formats carry one byte of scale per 32 values (OCP MX) or per 16 (NVFP4).
    "mxfp8": 1.0 + 1 / 32,
    "mxfp4": 0.5 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
}

# A size beyond 10^9 is a slip, and products of such sizes would no longer be exact as float64.
Count = Annotated[int, Field(gt=0, le=10**9)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Dtype = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int4", "mxfp8", "mxfp4", "nvfp4"]


class ModelSource(Spec):
    """Where a model description comes from; `published_params` is given to within `published_digit`."""

    title: str
    url: str
    license: str = ""
    checked: str = ""
    name: str = ""
    published_params: Positive | None = None
    published_digit: Positive | None = None
    where: str = ""
    note: str = ""


class Rope(Spec):
    """Rotary positions: the base, the share of a head that rotates, and how a longer context is reached."""

    theta: Positive = 10000.0
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    scaling: str | None = None
    factor: Positive = 1.0


class Architecture(Spec):
    """A dense decoder-only transformer; sizes are whole numbers, `*_params` counts. Raises `SpecError`.

    `n_kv_heads` defaults to `n_heads`, `d_head` to `d_model / n_heads`, `vocab_padded` (rows of the embedding as
    allocated) to `vocab_size`. `dropout` is the share dropped from scores and residual branches in training. A sliding
    window is not described: attention and KV cache are those of the full context.
    """

    id: str = "model"
    name: str = ""
    n_layers: Count
    d_model: Count
    d_ff: Count
    n_heads: Count
    n_kv_heads: Count
    d_head: Count
    vocab_size: Count
    vocab_padded: Count
    max_seq_len: Count
    gated_mlp: bool = False
    activation: str = "gelu"
    norm: Literal["rmsnorm", "layernorm"] = "layernorm"
    norms_per_layer: Count = 2
    attention_bias: bool = False
    mlp_bias: bool = False
    learned_positions: bool = False
    tied_embeddings: bool = False
    rope: Rope | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dtype: Dtype = "bf16"
    source: ModelSource | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        filled = {key: value for key, value in data.items() if value is not None}
        n_heads, d_model = filled.get("n_heads"), filled.get("d_model")
        if "n_heads" in filled:
            filled.setdefault("n_kv_heads", n_heads)
        if "vocab_size" in filled:
            filled.setdefault("vocab_padded", filled["vocab_size"])
        if "d_head" not in filled and type(n_heads) is int and type(d_model) is int and n_heads > 0:
            if d_model % n_heads:
                raise ValueError(
                    f"d_head: missing, and d_model {d_model} is no multiple of n_heads {n_heads}; give d_head"
                )
            filled["d_head"] = d_model // n_heads
        return filled

    @model_validator(mode="after")
    def _sizes_agree(self) -> Architecture:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads: must divide n_heads {self.n_heads} (got {self.n_kv_heads})")
        if self.vocab_padded < self.vocab_size:
            raise ValueError(f"vocab_padded: must be at least vocab_size {self.vocab_size} (got {self.vocab_padded})")
        return self

    @property
    def attention_params(self) -> int:
        """Weights and biases of the four attention projections of one layer."""
        query, key_value = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        biases = query + 2 * key_value + self.d_model if self.attention_bias else 0
        return 2 * self.d_model * (query + key_value) + biases

    @property
    def mlp_params(self) -> int:
        """Weights and biases of the MLP of one layer: three matrices when gated, else two."""
        inward = 2 if self.gated_mlp else 1
        biases = inward * self.d_ff + self.d_model if self.mlp_bias else 0
        return (inward + 1) * self.d_model * self.d_ff + biases

    @property
    def norm_params(self) -> int:
        """Parameters of one normalisation: a scale, and for layernorm a bias."""
        return self.d_model if self.norm == "rmsnorm" else 2 * self.d_model

    @property
    def layer_params(self) -> int:
        """Parameters of one transformer layer."""
        return self.attention_params + self.mlp_params + self.norms_per_layer * self.norm_params

    @property
    def embedding_params(self) -> int:
        """Parameters of the token embedding (as allocated) and of learned positions."""
        return (self.vocab_padded + (self.max_seq_len if self.learned_positions else 0)) * self.d_model

    @property
    def head_params(self) -> int:
        """Parameters of the LM head: none of its own when it shares the token embedding."""
        return 0 if self.tied_embeddings else self.vocab_padded * self.d_model

    @property
    def n_params(self) -> int:
        """All parameters, exactly, the final norm included."""
        return self.embedding_params + self.n_layers * self.layer_params + self.norm_params + self.head_params

    @property
    def n_active_params(self) -> int:
        """Parameters that one token passes through: all of them in a dense model."""
        return self.n_params

    def weights_bytes(self, dtype: str) -> float:
        """Bytes [B] of all parameters stored as `dtype`; raises `PlanError` for an unknown dtype."""
        return self.n_params * _byte_per_value(dtype)

    def kv_cache_bytes_per_token(self, dtype: str) -> float:
        """Bytes [B] that one token keeps in the KV cache, all layers; raises `PlanError` for an unknown dtype."""
        return 2 * self.n_layers * self.n_kv_heads * self.d_head * _byte_per_value(dtype)

    def forward_flops(self, batch: int, seq_len: int, attention: str = "causal") -> float:
        """FLOPs [flop] of the matrix products of one forward pass over `batch` sequences, two per multiply-add.

        Projections, attention core, MLP and LM head; the embedding lookup multiplies nothing. "causal" counts the
        s (s + 1) / 2 pairs that a token may look at, "full" all s^2. Raises `PlanError`.
        """
        if attention not in ("causal", "full"):
            raise PlanError(f"attention: {unknown_name('attention', attention, ('causal', 'full'))}")
        sequences, tokens = _whole("batch", batch), _whole("seq_len", seq_len)
        pairs = tokens * (tokens + 1) // 2 if attention == "causal" else tokens * tokens
        query, key_value = self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        mlp_matrices = 3 if self.gated_mlp else 2
        layer_macs = tokens * self.d_model * (2 * (query + key_value) + mlp_matrices * self.d_ff) + 2 * pairs * query
        head_macs = tokens * self.d_model * self.vocab_padded
        return 2.0 * sequences * (self.n_layers * layer_macs + head_macs)


def _byte_per_value(dtype: str) -> float:
    if not isinstance(dtype, str) or dtype not in BYTE_PER_VALUE:
        raise PlanError(f"dtype: {unknown_name('dtype', dtype, BYTE_PER_VALUE)}")
    return BYTE_PER_VALUE[dtype]


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise PlanError(f"{name}: must be a whole number (got {value!r})")
    if value < 1:
        raise OutOfRangeError(f"{name}: must be 1 or more (got {value!r})")
    return int(value)
