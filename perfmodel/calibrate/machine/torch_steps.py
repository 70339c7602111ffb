"""A small decoder in PyTorch: a training step with AdamW, and a decode step over a cache, timed on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from perfmodel.calibrate.machine.torch_device import torch_module

if TYPE_CHECKING:
    from perfmodel.calibrate.machine.steps import StepShape

__all__ = ["run_step"]

_WARM_UP = 3


def run_step(shape: StepShape, repeats: int) -> Sequence[float]:
    """Seconds of a step in each repetition, on the GPU where there is one; raises `MissingExtraError`."""
    torch = torch_module()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    call = _training(torch, shape, device) if shape.is_training else _decoding(torch, shape, device)
    for _ in range(_WARM_UP):
        call()
    times = []
    for _ in range(repeats):
        _wait(torch, device)
        began = perf_counter()
        call()
        _wait(torch, device)
        times.append(perf_counter() - began)
    return times


def _wait(torch: Any, device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _weights(torch: Any, shape: StepShape, device: str, dtype: Any) -> list[Any]:
    """Embedding, then QKV, output, gate and up, down of every layer, then the head."""
    d, kv = shape.d_model, shape.d_model // shape.n_heads * shape.n_kv_heads
    layer = [(d, d + 2 * kv), (d, d), (d, 2 * shape.d_ff), (shape.d_ff, d)]
    sizes = [(shape.vocab_size, d), *(layer * shape.n_layers), (d, shape.vocab_size)]
    return [torch.randn(*size, device=device, dtype=dtype) * size[0] ** -0.5 for size in sizes]


def _training(torch: Any, shape: StepShape, device: str) -> Callable[[], None]:
    """Single-precision master weights, products in bf16, AdamW: the mixed precision that is priced."""
    weights = [one.requires_grad_() for one in _weights(torch, shape, device, torch.float32)]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=device == "cuda")
    tokens = torch.randint(shape.vocab_size, (shape.batch, shape.seq_len), device=device)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16):
            hidden = weights[0][tokens]
            for layer in range(shape.n_layers):
                hidden = _layer(torch, shape, hidden, weights[1 + 4 * layer : 5 + 4 * layer], None)
            logits = hidden @ weights[-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _decoding(torch: Any, shape: StepShape, device: str) -> Callable[[], None]:
    """One token of each sequence over caches of `kv_len` tokens, as a captured graph where there is a GPU."""
    weights = _weights(torch, shape, device, torch.bfloat16)
    width = shape.d_model // shape.n_heads
    cache = (2, shape.batch, shape.n_kv_heads, shape.kv_len, width)
    caches = [torch.randn(*cache, device=device, dtype=torch.bfloat16) for _ in range(shape.n_layers)]
    tokens = torch.randint(shape.vocab_size, (shape.batch, 1), device=device)

    def step() -> None:
        with torch.no_grad():
            hidden = weights[0][tokens]
            for layer in range(shape.n_layers):
                hidden = _layer(torch, shape, hidden, weights[1 + 4 * layer : 5 + 4 * layer], caches[layer])
            (hidden @ weights[-1]).argmax(-1)

    if device != "cuda":
        return step
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def _layer(torch: Any, shape: StepShape, hidden: Any, weights: Sequence[Any], cache: Any) -> Any:
    functional = torch.nn.functional
    d, width = shape.d_model, shape.d_model // shape.n_heads
    kv = width * shape.n_kv_heads
    normed = functional.rms_norm(hidden, (d,))
    queries, keys, values = (normed @ weights[0]).split([d, kv, kv], dim=-1)
    queries, keys, values = (_headed(one, width) for one in (queries, keys, values))
    if cache is not None:
        # The new key stands for one more cached one: the same traffic as appending it in place.
        keys, values = cache[0], cache[1]
    mixed = functional.scaled_dot_product_attention(
        queries, keys, values, is_causal=cache is None, enable_gqa=shape.n_heads != shape.n_kv_heads
    )
    hidden = hidden + mixed.transpose(1, 2).flatten(2) @ weights[1]
    gate, up = (functional.rms_norm(hidden, (d,)) @ weights[2]).chunk(2, dim=-1)
    return hidden + (functional.silu(gate) * up) @ weights[3]


def _headed(one: Any, width: int) -> Any:
    return one.unflatten(-1, (-1, width)).transpose(1, 2)
