"""One transformer layer as a list of operations: forward, backward, and what recomputation repeats.

Sizes may be arrays (many layouts at once); switches (`sequence_parallel`, the software's) are plain Python.
Traffic figures are bytes read plus written per element of 16-bit activations, counted kernel by kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from perfmodel.formulas.overlap import exposed_time
from perfmodel.ops import maximum
from perfmodel.predict.communication import Links
from perfmodel.predict.cost import Cost, Number, total
from perfmodel.predict.kernels import Kernels
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.software import Software

__all__ = ["Layer", "hidden_exchange", "layer", "matmul_backward"]

# Forward and backward traffic [B] per element: norm (x in, y out; dy and x in, dx out; where the gradients of its own
# parameters are a kernel of their own, dy and x in once more), residual addition with dropout (branch and residual in,
# sum and 1-byte mask out; dy and mask in, dx out) and without, the addition of two gradients where a residual forks,
# softmax of the scores behind a causal mask (half in, all out; half of dy and y in, all out) and their dropout, and
# copies that change the layout.
_NORM = {"fused": (4.0, 6.0), "split": (4.0, 10.0)}
_ADD_WITH_DROPOUT = (7.0, 5.0)
_ADD = (6.0, 0.0)
_FORK = (0.0, 6.0)
_CAUSAL_SOFTMAX = (3.0, 4.0)
_SCORE_DROPOUT = (5.0, 5.0)
_COPY = (4.0, 4.0)
_ROPE = (4.0, 4.0)
_GELU = (4.0, 6.0)
_SWIGLU = (6.0, 10.0)


@dataclass(frozen=True, slots=True)
class Layer:
    """Costs of one layer and one micro-batch on one rank, by operation."""

    forward: dict[str, Cost]
    backward: dict[str, Cost]

    def device(self, phase: dict[str, Cost]) -> Cost:
        """Everything of a phase that runs on the accelerator's cores and memory."""
        return total(cost for name, cost in phase.items() if name != "tensor_parallel")


def layer(
    model: Architecture,
    kernels: Kernels,
    links: Links,
    software: Software,
    *,
    tp: Number,
    micro_batch: Number,
    seq_len: int,
    sequence_parallel: bool,
) -> Layer:
    """Cost every operation of one layer; `tp` and `micro_batch` are floats or arrays."""
    tokens = micro_batch * seq_len
    sequence_shards = tp if sequence_parallel else 1.0
    forward, backward = _products(model, kernels, software, tokens, tp)
    core_forward, core_backward = _attention_core(model, kernels, software, micro_batch, seq_len, tp)
    forward["attention_core"], backward["attention_core"] = core_forward, core_backward
    for phase, costs in enumerate((forward, backward)):
        n_bytes, launches = _elementwise_traffic(model, software, tokens, tp, sequence_shards, phase)
        costs["elementwise"] = kernels.elementwise(n_bytes, software.elementwise_library, launches)
    exchange = hidden_exchange(links, kernels.bytes_per_element * tokens * model.d_model, tp, sequence_parallel)
    forward["tensor_parallel"] = _forward_exchange(exchange, forward, software)
    backward["tensor_parallel"] = _backward_exchange(
        model, kernels, links, software, exchange, tokens, tp, sequence_parallel
    )
    return Layer(forward, backward)


def hidden_exchange(links: Links, n_bytes: Number, tp: Number, sequence_parallel: bool) -> Cost:
    """One synchronisation of the hidden state: an all-reduce, or a reduce-scatter and an all-gather."""
    if not sequence_parallel:
        return links.collective("all_reduce", n_bytes, tp)
    return links.collective("reduce_scatter", n_bytes, tp) + links.collective("all_gather", n_bytes, tp)


def matmul_backward(kernels: Kernels, software: Software, m: Number, n: Number, k: Number) -> Cost:
    """Gradients of the input and of the weight of one (m, k) x (k, n) product, with its accumulation."""
    return kernels.matmul(m, k, n) + weight_gradient(kernels, software, m, n, k)


def weight_gradient(kernels: Kernels, software: Software, m: Number, n: Number, k: Number) -> Cost:
    """The (n, m) x (m, k) product and its addition to the accumulated gradient."""
    gradient_bytes = software.gradient_bytes(kernels.dtype)
    if software.wgrad_accumulation == "fused":
        # The product adds in place: it reads and writes the accumulator instead of writing a 16-bit result.
        return kernels.matmul(n, k, m, extra_bytes=(2 * gradient_bytes - kernels.bytes_per_element) * n * k)
    read_add_write = (kernels.bytes_per_element + 2 * gradient_bytes) * n * k
    return kernels.matmul(n, k, m) + kernels.elementwise(read_add_write, software.elementwise_library)


def _shapes(model: Architecture, tp: Number) -> dict[str, tuple[Number, Number]]:
    """(n, k) of the four products of a layer on one rank; key-value heads are repeated when tp exceeds them."""
    kv_width = maximum(model.n_kv_heads / tp, 1.0) * model.d_head
    query_width = model.n_heads * model.d_head / tp
    mlp_columns = (2 if model.gated_mlp else 1) * model.d_ff / tp
    return {
        "qkv_projection": (query_width + 2 * kv_width, model.d_model),
        "output_projection": (model.d_model, query_width),
        "mlp_up": (mlp_columns, model.d_model),
        "mlp_down": (model.d_model, model.d_ff / tp),
    }


def _products(
    model: Architecture, kernels: Kernels, software: Software, tokens: Number, tp: Number
) -> tuple[dict[str, Cost], dict[str, Cost]]:
    shapes = _shapes(model, tp).items()
    forward = {name: kernels.matmul(tokens, n, k) for name, (n, k) in shapes}
    backward = {name: matmul_backward(kernels, software, tokens, n, k) for name, (n, k) in shapes}
    return forward, backward


def _attention_core(
    model: Architecture, kernels: Kernels, software: Software, micro_batch: Number, seq_len: int, tp: Number
) -> tuple[Cost, Cost]:
    heads = model.n_heads / tp
    kv_heads = maximum(model.n_kv_heads / tp, 1.0)
    if software.attention == "flash":
        library = software.attention_library
        forward, backward = (
            kernels.flash_attention(
                micro_batch, seq_len, heads, kv_heads, model.d_head, library=library, backward=is_backward
            )
            for is_backward in (False, True)
        )
        return forward, backward
    count = micro_batch * heads
    scores = count * seq_len * seq_len
    both = kernels.matmul(seq_len, seq_len, model.d_head, count) + kernels.matmul(seq_len, model.d_head, seq_len, count)
    phases = []
    for phase, products in enumerate((both, both * 2.0)):
        passes = (_CAUSAL_SOFTMAX, _SCORE_DROPOUT) if model.dropout else (_CAUSAL_SOFTMAX,)
        traffic = sum(kind[phase] for kind in passes) * scores
        phases.append(products + kernels.elementwise(traffic, software.elementwise_library, len(passes)))
    return phases[0], phases[1]


def _elementwise_traffic(
    model: Architecture, software: Software, tokens: Number, tp: Number, sequence_shards: Number, phase: int
) -> tuple[Number, float]:
    hidden = tokens * model.d_model / sequence_shards
    adds = _ADD_WITH_DROPOUT if model.dropout else _ADD
    per_hidden = model.norms_per_layer * _NORM[software.norm_backward][phase] + 2 * adds[phase] + 2 * _FORK[phase]
    activation = _SWIGLU if model.gated_mlp else _GELU
    n_bytes = per_hidden * hidden + activation[phase] * tokens * model.d_ff / tp
    if model.rope:
        n_bytes = n_bytes + _ROPE[phase] * tokens * (model.n_heads + model.n_kv_heads) * model.d_head / tp
    if software.attention == "unfused":
        n_bytes = n_bytes + _COPY[phase] * tokens * model.n_heads * model.d_head / tp
    return n_bytes, model.norms_per_layer + 4.0


def _forward_exchange(exchange: Cost, forward: dict[str, Cost], software: Software) -> Cost:
    if software.overlap_tensor != "all":
        return exchange * 2.0
    return _exposed(forward["output_projection"], exchange, software) + _exposed(
        forward["mlp_down"], exchange, software
    )


def _backward_exchange(
    model: Architecture,
    kernels: Kernels,
    links: Links,
    software: Software,
    exchange: Cost,
    tokens: Number,
    tp: Number,
    sequence_parallel: bool,
) -> Cost:
    """Two synchronisations; newer stacks hide the input gradient's behind the weight gradient of the same product.

    With sequence parallelism the norm's output is gathered once more, behind the input gradient.
    """
    if software.overlap_tensor == "none":
        gather = links.collective("all_gather", kernels.bytes_per_element * tokens * model.d_model, tp)
        return (exchange + gather if sequence_parallel else exchange) * 2.0
    n_bytes = kernels.bytes_per_element * tokens * model.d_model
    gather = links.collective("all_gather", n_bytes, tp)
    scatter = links.collective("reduce_scatter", n_bytes, tp)
    shapes = _shapes(model, tp)
    exposed = Cost()
    for name, partner in (("qkv_projection", "output_projection"), ("mlp_up", "mlp_down")):
        n, k = shapes[name]
        behind_weights = kernels.matmul(n, k, tokens)
        if not sequence_parallel:
            exposed = exposed + _exposed(behind_weights, exchange, software)
            continue
        exposed = exposed + _exposed(behind_weights, scatter, software)
        exposed = exposed + _exposed(kernels.matmul(tokens, k, n), gather, software)
        if software.overlap_tensor == "all":
            partner_n, partner_k = shapes[partner]
            exposed = exposed + _exposed(kernels.matmul(tokens, partner_k, partner_n), gather, software)
        else:
            exposed = exposed + gather
    return exposed


def _exposed(compute: Cost, communication: Cost, software: Software) -> Cost:
    """What is left of a transfer behind a product: nothing at best, all of it at worst."""
    share = float(software.exposed_share)
    seconds = exposed_time(compute.seconds, communication.seconds, share)
    upper = communication.upper * max(1.0, share)
    return Cost(seconds, 0.0 * communication.seconds, upper, 0.0, 0.0, communication.link_s)
