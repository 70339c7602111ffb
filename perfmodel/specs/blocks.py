"""The parts a layer is built from: latent attention, experts, state space, linear attention, and their products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from perfmodel.specs.quantity import Spec

__all__ = [
    "Count",
    "CountOrZero",
    "Experts",
    "Ffn",
    "Latent",
    "LayerKind",
    "LinearAttention",
    "Mixer",
    "Product",
    "StateSpace",
]

# A size beyond 10^9 is a slip, and products of such sizes would no longer be exact as float64.
Count = Annotated[int, Field(gt=0, le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Mixer = Literal["attention", "window", "latent", "mamba2", "linear", "none"]
Ffn = Literal["dense", "experts", "none"]


class LayerKind(NamedTuple):
    """What one layer does: how tokens mix, and what works on each token by itself."""

    mixer: Mixer
    ffn: Ffn


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product of a layer: `k` inputs to `n` outputs a token, and how tensor parallelism cuts it.

    `split` is "column" (outputs are shared out), "row" (inputs are, and the results summed) or "none" (every rank holds
    all of it). `experts` is "routed" where `n_experts` copies exist and a token passes `experts_per_token` of them.
    """

    name: str
    n: int
    k: int
    split: Literal["column", "row", "none"] = "column"
    experts: Literal[False, "routed"] = False
    bias: bool = False

    @property
    def params(self) -> int:
        """Weights and biases of one copy."""
        return self.n * self.k + (self.n if self.bias else 0)


class Latent(Spec):
    """Multi-head latent attention (MLA): queries and keys from low-rank latents, one rotary key shared by all heads.

    `q_lora_rank` None: queries come from one full projection. A token caches `kv_lora_rank + qk_rope_head_dim` values.
    Source: DeepSeek-AI 2024, "DeepSeek-V2", section 2.1, arXiv:2405.04434.
    """

    q_lora_rank: Count | None = None
    kv_lora_rank: Count
    qk_nope_head_dim: Count
    qk_rope_head_dim: Count
    v_head_dim: Count

    @property
    def qk_head_dim(self) -> int:
        """Width of one query or key head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def cache_values(self) -> int:
        """Values that one token caches in one layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim


class Experts(Spec):
    """Routed experts of a layer, and those that every token passes.

    `d_ff` is the width of one routed expert, `shared_d_ff` the total width of the `n_shared` shared ones (default
    `n_shared * d_ff`). `router_bias` is one number per expert, learnt or balanced; `expert_bias` gives every expert
    matrix biases; `shared_gate` scales the shared output by a learnt product of width one.
    """

    n_experts: Count
    experts_per_token: Count
    d_ff: Count
    n_shared: CountOrZero = 0
    shared_d_ff: CountOrZero = 0
    shared_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        filled = {key: value for key, value in data.items() if value is not None}
        n_shared, width = filled.get("n_shared", 0), filled.get("d_ff")
        if "shared_d_ff" not in filled and type(n_shared) is int and type(width) is int:
            filled["shared_d_ff"] = n_shared * width
        return filled

    @model_validator(mode="after")
    def _sizes_agree(self) -> Experts:
        if self.experts_per_token > self.n_experts:
            raise ValueError(
                f"experts_per_token: must be at most n_experts {self.n_experts} (got {self.experts_per_token})"
            )
        if (self.n_shared > 0) != (self.shared_d_ff > 0):
            raise ValueError(
                f"shared_d_ff: must be zero exactly when n_shared is (got {self.shared_d_ff} and {self.n_shared})"
            )
        return self


class StateSpace(Spec):
    """A Mamba-2 mixer: a gated state space, computed in chunks. `d_head` defaults to `d_inner / n_heads`.

    A sequence keeps `n_heads * d_head * d_state` values of state and the last `d_conv - 1` inputs of the convolution.
    Source: Dao and Gu 2024, "Transformers are SSMs", sections 6 and 7, arXiv:2405.21060.
    """

    d_inner: Count
    d_state: Count
    n_heads: Count
    d_head: Count
    n_groups: Count = 1
    d_conv: Count = 4
    chunk: Count = 256
    conv_bias: bool = True
    proj_bias: bool = False
    gated_norm: bool = True

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        filled = {key: value for key, value in data.items() if value is not None}
        d_inner, n_heads = filled.get("d_inner"), filled.get("n_heads")
        if "d_head" not in filled and type(d_inner) is int and type(n_heads) is int and n_heads > 0:
            filled["d_head"] = d_inner // n_heads
        return filled

    @model_validator(mode="after")
    def _sizes_agree(self) -> StateSpace:
        if self.d_inner != self.n_heads * self.d_head:
            raise ValueError(f"d_inner: must be n_heads * d_head, {self.n_heads * self.d_head} (got {self.d_inner})")
        if self.n_heads % self.n_groups:
            raise ValueError(f"n_groups: must divide n_heads {self.n_heads} (got {self.n_groups})")
        return self

    @property
    def conv_width(self) -> int:
        """Channels that the short convolution runs over: the inner width and the two state projections."""
        return self.d_inner + 2 * self.n_groups * self.d_state

    @property
    def state_values(self) -> int:
        """Values that one sequence keeps in one layer."""
        return self.d_inner * self.d_state + self.conv_width * (self.d_conv - 1)


class LinearAttention(Spec):
    """Lightning attention: causal attention without softmax, computed in chunks, with a state of `d_head`^2 a head.

    `gate` multiplies the result by a learnt projection of the input, `norm` normalises it over its whole width.
    Source: MiniMax 2025, "MiniMax-01", section 2.2, arXiv:2501.08313.
    """

    n_heads: Count
    d_head: Count
    chunk: Count = 256
    gate: bool = True
    norm: bool = True

    @property
    def width(self) -> int:
        """Width of all heads together."""
        return self.n_heads * self.d_head

    @property
    def state_values(self) -> int:
        """Values that one sequence keeps in one layer."""
        return self.width * self.d_head
