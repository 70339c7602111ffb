"""A small transformer block that no fit has seen: run on the device, and priced by the laws that were fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from perfmodel.predict.kernels import Kernels

__all__ = ["CPU_BLOCK", "CUDA_BLOCK", "BlockShape", "forward", "predicted_block"]


@dataclass(frozen=True, slots=True)
class BlockShape:
    """Sizes of a block: causal attention and a gated feed-forward net, each behind a norm and a residual."""

    batch: int
    seq_len: int
    d_model: int
    d_ff: int
    n_heads: int
    d_head: int
    dtype: str

    @property
    def weights(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the weights: QKV, output, gate, up, down."""
        wide, d, f = self.n_heads * self.d_head, self.d_model, self.d_ff
        return (d, 3 * wide), (wide, d), (d, f), (d, f), (f, d)


# No (n, k) of its products and no count of heads is among the sizes that are fitted.
CPU_BLOCK = BlockShape(batch=2, seq_len=384, d_model=640, d_ff=1792, n_heads=10, d_head=64, dtype="fp32")
CUDA_BLOCK = BlockShape(batch=4, seq_len=3072, d_model=5120, d_ff=13824, n_heads=40, d_head=128, dtype="bf16")


def forward(
    tokens: Any,
    weights: Sequence[Any],
    shape: BlockShape,
    attention: Callable[[Any, Any, Any], Any],
    exp: Callable[[Any], Any],
) -> Any:
    """One forward pass over `tokens` [batch, seq_len, d_model]; arrays of NumPy and tensors of PyTorch alike."""
    qkv, out, gate, up, down = weights
    heads = (_normed(tokens) @ qkv).reshape(shape.batch, shape.seq_len, 3, shape.n_heads, shape.d_head)
    queries, keys, values = (heads[:, :, one].swapaxes(1, 2) for one in range(3))
    mixed = attention(queries, keys, values).swapaxes(1, 2).reshape(shape.batch, shape.seq_len, -1)
    tokens = tokens + mixed @ out
    normed = _normed(tokens)
    gated = normed @ gate
    gated = gated / (1 + exp(-gated)) * (normed @ up)
    return tokens + gated @ down


def _normed(tokens: Any) -> Any:
    return tokens * (((tokens * tokens).mean(-1) + 1e-6) ** -0.5)[..., None]


# Arrays read and written by each kernel of `forward`, in tokens x d_model and in tokens x d_ff.
_NORM = (2, 1, 2)
_RESIDUAL, _MERGED_HEADS = (3,), (2,)
_GATE = (2, 2, 2, 3, 3)


def predicted_block(kernels: Kernels, shape: BlockShape, attention: str, elementwise: str) -> dict[str, float]:
    """Seconds of the products, the attention and the element-wise kernels of one forward pass."""
    rows = float(shape.batch * shape.seq_len)
    products = sum(float(kernels.matmul(rows, float(n), float(k)).seconds) for k, n in shape.weights)
    heads = float(shape.n_heads)
    core = kernels.flash_attention(
        float(shape.batch), float(shape.seq_len), heads, heads, float(shape.d_head), library=attention
    )
    narrow, wide = (*_NORM, *_NORM, *_RESIDUAL, *_RESIDUAL, *_MERGED_HEADS), _GATE
    n_bytes = kernels.activation_bytes * rows * (sum(narrow) * shape.d_model + sum(wide) * shape.d_ff)
    launches = float(len(narrow) + len(wide))
    moved = kernels.elementwise(n_bytes, elementwise, launches)
    return {"products_s": products, "attention_s": float(core.seconds), "elementwise_s": float(moved.seconds)}
