"""The whole of a basic training step on one page: read this first.

It prices a GPT (GELU, dropout, learned positions) on the Megatron-LM stack of 2021 under 1F1B: nothing overlaps,
gradients are accumulated by a kernel of their own, every layer is recomputed in full, tensor parallelism all-reduces.
The composable model in `step.py` must give the same number (tests/test_reference.py); this page says why it does.
"""

from __future__ import annotations

from math import ceil

from perfmodel.formulas.overlap import straggler_slowdown
from perfmodel.predict.communication import Links
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.layout import ParallelLayout
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster
from perfmodel.specs.efficiency import Efficiency
from perfmodel.specs.software import Software

__all__ = ["reference_step_time_s"]


def reference_step_time_s(
    model: Architecture,
    cluster: Cluster,
    efficiency: Efficiency,
    software: Software,
    layout: ParallelLayout,
    global_batch: int,
    seq_len: int,
    dtype: str,
) -> float:
    """Seconds of one step; for layouts with full recomputation, no sequence parallelism, and layers that divide."""
    kernels = Kernels(cluster.accelerator, efficiency, dtype, steady=True)
    links = Links(cluster, efficiency)
    tp, pp, dp, micro_batch = layout.tp, layout.pp, layout.dp, layout.micro_batch
    n_microbatches = global_batch // (dp * micro_batch)
    h, heads, d_head = model.d_model, model.n_heads // tp, model.d_head
    tokens = micro_batch * seq_len
    hidden, scores = tokens * h, micro_batch * heads * seq_len**2
    gradient_bytes = software.gradient_bytes(dtype)

    def product(m: float, n: float, k: float, count: float = 1.0) -> float:
        return float(kernels.matmul(m, n, k, count).seconds)

    def traffic(n_bytes: float, launches: float = 1.0) -> float:
        return float(kernels.elementwise(n_bytes, software.elementwise_library, launches).seconds)

    def all_reduce(n_bytes: float, ranks: int, stride: int = 1) -> float:
        return float(links.collective("all_reduce", n_bytes, float(ranks), float(stride)).seconds)

    def linear_backward(n: float, k: float) -> float:
        accumulate = traffic((2 + 2 * gradient_bytes) * n * k)
        return product(tokens, k, n) + product(n, k, tokens) + accumulate

    # One layer. Four products, (n, k) on one rank:
    shapes = [(3 * h / tp, h), (h, h / tp), (model.d_ff / tp, h), (h, model.d_ff / tp)]
    # Attention materialises the scores: two batched products, causal softmax (3 B a score), dropout (5 B);
    # twice the products and 9 B a score backward.
    batched = product(seq_len, seq_len, d_head, micro_batch * heads) + product(
        seq_len, d_head, seq_len, micro_batch * heads
    )
    # Element-wise: two norms (4 B, 10 B), two residual additions with dropout (7 B, 5 B), two forks backward (6 B) on
    # the hidden state; GELU (4 B, 6 B) on the MLP; one change of layout of the context (4 B).
    linear, linear_back = sum(product(tokens, n, k) for n, k in shapes), sum(linear_backward(n, k) for n, k in shapes)
    forward = batched + traffic(8 * scores, 2)
    forward += traffic(22 * hidden + 4 * tokens * model.d_ff / tp + 4 * hidden / tp, 6)
    backward = 2 * batched + traffic(9 * scores, 2)
    backward += traffic(42 * hidden + 6 * tokens * model.d_ff / tp + 4 * hidden / tp, 6)
    exchange = 2 * all_reduce(2 * hidden, tp)
    # In a step the clocks settle with the share of the time in which products run.
    load = linear + linear_back + forward + backward + 2 * exchange
    settled = float(kernels.slowdown(linear + linear_back, load))
    forward, backward = settled * linear + forward, settled * linear_back + backward
    layer_device = 2 * forward + backward  # forward, recomputed forward, backward
    layer_s = layer_device + 3 * exchange

    # The vocabulary: head and loss on the last stage, embedding too when there is only one stage.
    columns = model.vocab_padded / tp
    head = settled * (product(tokens, columns, h) + linear_backward(columns, h))
    head += traffic(float(software.loss_bytes_per_logit) * tokens * columns, 6) + all_reduce(2 * hidden, tp)
    embedding = traffic(9 * hidden, 4) + all_reduce(2 * hidden, tp)

    # The host must launch every layer, forward twice and backward once: a dense layer is 16 launches, a collective one
    # more; embedding, head and loss are 24, a message between stages 4.
    launch = float(software.host_layer_s) / 16
    host = launch * (16 + (2 if tp > 1 else 0))
    late = 2 * max(0.0, host - forward - exchange)
    late += max(0.0, host * float(software.host_backward_ratio) - backward - exchange)
    late_ends = max(0.0, 24 * launch - head - embedding)

    # 1F1B: m turns of the slowest stage (the last, which holds the head), and p - 1 turns of the average one.
    layers = ceil(model.n_layers / pp)
    turns = n_microbatches * (layers * layer_s + head + (embedding if pp == 1 else 0.0))
    bubble = (pp - 1) * (model.n_layers / pp * layer_s + (head + embedding) / pp)
    # The slowest of all accelerators sets the pace of everything that computes.
    worked = n_microbatches * (layers * layer_device + head + (embedding if pp == 1 else 0.0)) + bubble
    stragglers = float(straggler_slowdown(float(tp * pp * dp), float(efficiency.relative_spread))) * worked

    # Between stages every rank sends its share of the hidden state, and the receivers gather the shares.
    message = 2 * hidden / tp
    transfer = float(links.send_recv(message, float(tp * dp)).seconds)
    transfer += float(links.collective("all_gather", message * tp, float(tp)).seconds) + 4 * launch
    transfers = (2 * n_microbatches + 2 * (pp - 1)) * transfer if pp > 1 else 0.0

    # Once a step: gradients between replicas, tied embedding between first and last stage, optimizer.
    n_params = (layers * model.layer_params + model.embedding_params) / tp
    gradients = all_reduce(n_params * gradient_bytes, dp, tp)
    tied = all_reduce(model.embedding_params / tp * gradient_bytes, 2, tp * dp * (pp - 1)) if pp > 1 else 0.0
    optimizer = traffic(n_params * float(software.optimizer_bytes_per_param), 10)
    host_late = n_microbatches * (layers * late + late_ends)
    return turns + host_late + bubble + stragglers + transfers + gradients + tied + optimizer
