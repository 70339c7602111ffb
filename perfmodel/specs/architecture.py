"""What a model is: its sizes, the kind of each layer, and the counts that follow from the one operator list."""

from __future__ import annotations

import numbers
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from perfmodel.errors import OutOfRangeError, PlanError, unknown_name
from perfmodel.specs import products as lists
from perfmodel.specs.blocks import (
    Count,
    CountOrZero,
    Experts,
    Ffn,
    Latent,
    LayerKind,
    LinearAttention,
    Mixer,
    Product,
    StateSpace,
)
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

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Dtype = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int4", "mxfp8", "mxfp4", "nvfp4"]
_NEEDS = {"window": "window", "latent": "latent", "mamba2": "state_space", "linear": "linear_attention"}


class ModelSource(Spec):
    """Where a model description comes from; a published count is given to within its digit.

    `published_params` is compared with `n_params`, `published_active_params` with `n_active_params` less what
    `active_without` names. `kind` "assumed": the published figures are from general knowledge, their page was not
    opened. `class_params` is what the implementation `class_name` allocates for this very config, balancing biases of
    routers included.
    """

    title: str
    url: str
    license: str = ""
    checked: str = ""
    name: str = ""
    published_params: Positive | None = None
    published_digit: Positive | None = None
    published_active_params: Positive | None = None
    published_active_digit: Positive | None = None
    active_without: Literal["", "embedding", "embedding and head"] = ""
    kind: Literal["published", "assumed"] = "published"
    class_name: str = ""
    class_params: Positive | None = None
    where: str = ""
    note: str = ""


class Rope(Spec):
    """Rotary positions: the base, the share of a head that rotates, and how a longer context is reached."""

    theta: Positive = 10000.0
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    scaling: str | None = None
    factor: Positive = 1.0


class Architecture(Spec):
    """A decoder or an encoder made of layers; sizes are whole numbers, `*_params` counts. Raises `SpecError`.

    Layer i mixes tokens as `mixers[i % len(mixers)]` and then works as `ffns[i % len(ffns)]`, but "dense" in the first
    `first_k_dense`; both default to the one kind that the given parts imply. `n_kv_heads` defaults to `n_heads`,
    `vocab_padded` (rows of the embedding as allocated) to `vocab_size`, `output_bias` to `attention_bias`, `d_head` to
    `d_model / n_heads` or, with `latent`, to the width of its query heads. Where no layer is dense `d_ff` defaults to
    the width of one expert (without experts to the inner width of the mixer); without attention `n_heads` is the
    number of state heads. `window` is how many tokens a window layer sees, itself included. `norms_per_layer` counts
    all norms on the residual stream of a layer, before and after its parts. `mtp_layers` are layers that predict
    further tokens; no count includes them but `mtp_params` and `mtp_forward_flops`. `dropout` is the share dropped
    from scores and residual branches in training.
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
    causal: bool = True
    mixers: Annotated[tuple[Mixer, ...], Field(strict=False, min_length=1)]
    ffns: Annotated[tuple[Ffn, ...], Field(strict=False, min_length=1)]
    first_k_dense: CountOrZero = 0
    window: Count | None = None
    latent: Latent | None = None
    experts: Experts | None = None
    state_space: StateSpace | None = None
    linear_attention: LinearAttention | None = None
    mtp_layers: CountOrZero = 0
    gated_mlp: bool = False
    activation: str = "gelu"
    norm: Literal["rmsnorm", "layernorm"] = "layernorm"
    norm_scale: bool = True
    norm_bias: bool
    norms_per_layer: Count = 2
    final_norm: bool = True
    embedding_norm: bool = False
    qk_norm: Literal["none", "head", "width"] = "none"
    attention_sinks: bool = False
    parallel_block: bool = False
    attention_bias: bool = False
    output_bias: bool
    mlp_bias: bool = False
    learned_positions: bool = False
    extra_positions: CountOrZero = 0
    token_types: CountOrZero = 0
    tied_embeddings: bool = False
    head: Literal["lm", "masked-lm", "none"] = "lm"
    head_bias: bool = False
    pooler: bool = False
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
        _fill_kinds(filled)
        _fill_sizes(filled)
        filled.setdefault("output_bias", filled.get("attention_bias", False))
        filled.setdefault("norm_bias", filled.get("norm", "layernorm") == "layernorm")
        return filled

    @model_validator(mode="after")
    def _sizes_agree(self) -> Architecture:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads: must divide n_heads {self.n_heads} (got {self.n_kv_heads})")
        if self.vocab_padded < self.vocab_size:
            raise ValueError(f"vocab_padded: must be at least vocab_size {self.vocab_size} (got {self.vocab_padded})")
        if self.first_k_dense > self.n_layers:
            raise ValueError(f"first_k_dense: must be at most n_layers {self.n_layers} (got {self.first_k_dense})")
        self._parts_agree()
        return self

    def _parts_agree(self) -> None:
        """Every kind has the part it needs, and every part a layer that uses it."""
        for key in ("mixers", "ffns"):
            named = len(getattr(self, key))
            if named > self.n_layers:
                raise ValueError(f"{key}: must name at most n_layers {self.n_layers} layers (got {named})")
        mixers, ffns = {kind.mixer for kind in self.layer_kinds}, {kind.ffn for kind in self.layer_kinds}
        for word, part in [*_NEEDS.items(), ("experts", "experts")]:
            used = word in mixers or word in ffns
            if used and getattr(self, part) is None:
                raise ValueError(f"{part}: missing; layers of kind {word!r} need it")
            if not used and getattr(self, part) is not None:
                key = "ffns" if part == "experts" else "mixers"
                raise ValueError(f"{part}: given, but no layer is of kind {word!r}; name it in {key} or leave it out")

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The kind of each layer, in order."""
        return _layer_kinds(self.n_layers, self.mixers, self.ffns, self.first_k_dense)

    @property
    def layer_groups(self) -> tuple[tuple[LayerKind, int], ...]:
        """The distinct kinds of layers with how many there are, in order of first appearance."""
        return _layer_groups(self.layer_kinds)

    @property
    def n_experts(self) -> int:
        """Routed experts of a layer that has any; 1 in a dense model."""
        return self.experts.n_experts if self.experts else 1

    @property
    def experts_per_token(self) -> int:
        """Routed experts that one token passes in such a layer; 1 in a dense model."""
        return self.experts.experts_per_token if self.experts else 1

    def products(self, kind: LayerKind) -> tuple[Product, ...]:
        """The matrix products of a layer of this kind, in the order in which a token meets them."""
        return lists.mixer_products(self, kind.mixer) + lists.ffn_products(self, kind.ffn)

    def layer_vectors(self, kind: LayerKind) -> dict[str, int]:
        """Parameters of such a layer that no product holds, by name: norms, sinks, convolution, decays."""
        return {"norms": self.norms_per_layer * self.norm_params} | lists.mixer_vectors(self, kind.mixer)

    @property
    def head_products(self) -> tuple[Product, ...]:
        """The matrix products after the last layer; a tied LM head is among them."""
        return lists.head_products(self)

    def params_of(self, kind: LayerKind, active: bool = False) -> int:
        """Parameters of one layer of this kind, norms included; only those of one token's experts when `active`."""
        return _weights(self.products(kind), self.experts, active) + sum(self.layer_vectors(kind).values())

    @property
    def attention_params(self) -> int:
        """Weights and biases of the products of the first layer's mixer: the four projections of attention."""
        return _weights(lists.mixer_products(self, self.layer_kinds[0].mixer), self.experts, False)

    @property
    def mlp_params(self) -> int:
        """Weights and biases of one MLP of width `d_ff`: three matrices when gated, else two."""
        return _weights(lists.ffn_products(self, "dense"), None, False)

    @property
    def norm_params(self) -> int:
        """Parameters of one normalisation: a scale, and for layernorm a bias, unless the model has none."""
        return (self.norm_scale + self.norm_bias) * self.d_model

    @property
    def layer_params(self) -> int:
        """Parameters of one layer; the mean, rounded up, where layers differ (see `params_of`)."""
        return -(-self.body_params // self.n_layers)

    @property
    def body_params(self) -> int:
        """Parameters of all layers, exactly, those that predict further tokens excepted."""
        return sum(count * self.params_of(kind) for kind, count in self.layer_groups)

    @property
    def embedding_params(self) -> int:
        """Parameters of the token embedding (as allocated), learned positions, token types and their norm."""
        positions = self.max_seq_len + self.extra_positions if self.learned_positions else 0
        norm = self.norm_params if self.embedding_norm else 0
        return (self.vocab_padded + positions + self.token_types) * self.d_model + norm

    @property
    def head_params(self) -> int:
        """Parameters after the last layer but its norm; an LM head that shares the token embedding has none."""
        params = _weights(self.head_products, None, False)
        if self.head != "none" and self.tied_embeddings:
            params -= self.vocab_padded * self.d_model
        if self.head == "masked-lm":
            params += self.norm_params
        return params + (self.d_model * (self.d_model + 1) if self.pooler else 0)

    @property
    def n_params(self) -> int:
        """All parameters, exactly, the final norm included and `mtp_params` not."""
        return self.body_params + self._params_outside

    @property
    def n_active_params(self) -> int:
        """Parameters that one token passes through, both embeddings included: all of them in a dense model."""
        return sum(n * self.params_of(kind, active=True) for kind, n in self.layer_groups) + self._params_outside

    @property
    def _params_outside(self) -> int:
        return self.embedding_params + (self.norm_params if self.final_norm else 0) + self.head_params

    @property
    def mtp_params(self) -> int:
        """Parameters of the layers that predict further tokens; embedding and LM head are those of the model.

        Each is one more last layer, three norms and a projection of two widths to one. Source: DeepSeek-AI 2024,
        "DeepSeek-V3 Technical Report", section 2.2, arXiv:2412.19437.
        """
        joined = 2 * self.d_model**2 + 3 * self.norm_params
        return self.mtp_layers * (self.params_of(self.layer_kinds[-1]) + joined)

    def weights_bytes(self, dtype: str) -> float:
        """Bytes [B] of all parameters stored as `dtype`; raises `PlanError` for an unknown dtype."""
        return self.n_params * _byte_per_value(dtype)

    def kv_cache_bytes_per_token(self, dtype: str) -> float:
        """Bytes [B] that one token keeps in the cache while every layer still sees it; raises `PlanError`.

        Window layers count in full; beyond their window `kv_cache_bytes` is smaller. Raises for an unknown dtype.
        """
        per_token = sum(n * lists.cache_values(self, kind.mixer) for kind, n in self.layer_groups)
        return per_token * _byte_per_value(dtype)

    def kv_cache_bytes(self, tokens: int, dtype: str) -> float:
        """Bytes [B] of the cache of one sequence of `tokens`; a window layer keeps its window. Raises `PlanError`."""
        length, values = _whole("tokens", tokens), 0
        for kind, n in self.layer_groups:
            kept = min(length, self.window) if kind.mixer == "window" and self.window else length
            values += n * kept * lists.cache_values(self, kind.mixer)
        return values * _byte_per_value(dtype)

    def state_bytes(self, dtype: str) -> float:
        """Bytes [B] that one sequence keeps whatever its length: state and convolution inputs. Raises `PlanError`."""
        return sum(n * lists.state_values(self, kind.mixer) for kind, n in self.layer_groups) * _byte_per_value(dtype)

    def forward_flops(self, batch: int, seq_len: int, attention: str = "causal") -> float:
        """FLOPs [flop] of the matrix products of one forward pass over `batch` sequences, two per multiply-add.

        Products of the layers, of the experts that a token passes, the cores and the LM head; lookups, norms,
        activations and the short convolution of Mamba-2 are left out. "causal" counts the s (s + 1) / 2 pairs that a
        token may look at (fewer in a window; all in an encoder), "full" all s^2. Raises `PlanError`.
        """
        sequences, tokens, causal = self._checked(batch, seq_len, attention)
        macs = sum(n * self._layer_macs(kind, tokens, causal) for kind, n in self.layer_groups)
        return 2.0 * sequences * (macs + tokens * sum(p.n * p.k for p in self.head_products))

    def mtp_forward_flops(self, batch: int, seq_len: int, attention: str = "causal") -> float:
        """FLOPs [flop] that the layers for further tokens add to `forward_flops`; zero without any."""
        sequences, tokens, causal = self._checked(batch, seq_len, attention)
        head = sum(p.n * p.k for p in self.head_products)
        macs = self._layer_macs(self.layer_kinds[-1], tokens, causal) + tokens * (2 * self.d_model**2 + head)
        return 2.0 * sequences * self.mtp_layers * macs

    def _layer_macs(self, kind: LayerKind, tokens: int, causal: bool) -> int:
        used = sum(p.n * p.k * (self.experts_per_token if p.experts else 1) for p in self.products(kind))
        return tokens * used + lists.core_macs(self, kind.mixer, tokens, causal)

    def _checked(self, batch: int, seq_len: int, attention: str) -> tuple[int, int, bool]:
        if attention not in ("causal", "full"):
            raise PlanError(f"attention: {unknown_name('attention', attention, ('causal', 'full'))}")
        return _whole("batch", batch), _whole("seq_len", seq_len), self.causal and attention == "causal"


@lru_cache
def _layer_kinds(
    n_layers: int, mixers: tuple[Mixer, ...], ffns: tuple[Ffn, ...], first_k_dense: int
) -> tuple[LayerKind, ...]:
    return tuple(
        LayerKind(mixers[i % len(mixers)], "dense" if i < first_k_dense else ffns[i % len(ffns)])
        for i in range(n_layers)
    )


@lru_cache
def _layer_groups(kinds: tuple[LayerKind, ...]) -> tuple[tuple[LayerKind, int], ...]:
    return tuple(Counter(kinds).items())


def _fill_kinds(filled: dict[str, Any]) -> None:
    """The one kind that the given parts imply, where no pattern is given."""
    implied = [word for word, part in _NEEDS.items() if part in filled]
    filled.setdefault("mixers", (implied[0] if implied else "attention",))
    filled.setdefault("ffns", ("experts" if "experts" in filled else "dense",))


def _fill_sizes(filled: dict[str, Any]) -> None:
    latent, experts, space = (_table(filled.get(key)) for key in ("latent", "experts", "state_space"))
    if "n_heads" not in filled and "n_heads" in space:
        filled["n_heads"] = space["n_heads"]
        filled.setdefault("d_head", max(1, space.get("d_inner", 0) // max(1, space["n_heads"])))
    if "d_ff" not in filled and ("d_ff" in experts or "d_inner" in space):
        filled["d_ff"] = experts.get("d_ff", space.get("d_inner"))
    n_heads, d_model = filled.get("n_heads"), filled.get("d_model")
    if "n_heads" in filled:
        filled.setdefault("n_kv_heads", n_heads)
    if "vocab_size" in filled:
        filled.setdefault("vocab_padded", filled["vocab_size"])
    nope, rotary = latent.get("qk_nope_head_dim"), latent.get("qk_rope_head_dim")
    if type(nope) is int and type(rotary) is int:
        filled.setdefault("d_head", nope + rotary)
    if "d_head" not in filled and type(n_heads) is int and type(d_model) is int and n_heads > 0:
        if d_model % n_heads:
            raise ValueError(f"d_head: missing, and d_model {d_model} is no multiple of n_heads {n_heads}; give d_head")
        filled["d_head"] = d_model // n_heads


def _table(part: Any) -> dict[str, Any]:
    if isinstance(part, Spec):
        return part.model_dump()
    return dict(part) if isinstance(part, Mapping) else {}


def _weights(products: tuple[Product, ...], experts: Experts | None, active: bool) -> int:
    copies = (experts.experts_per_token if active else experts.n_experts) if experts else 1
    return sum(product.params * (copies if product.experts else 1) for product in products)


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
