"""The step of one family of layouts written by hand in NumPy: what the composed model is timed against.

The family: one kind of layer, the software of 2022 (nothing between stages or replicas overlaps, stages are not placed
by cost), ZeRO off, sequence parallelism, every number of recomputed layers. What has one value a row comes from the
same functions as in the composed model; what every layout has of its own is plain arithmetic here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.formulas.elementwise import optimizer_bytes
from perfmodel.formulas.overlap import straggler_slowdown
from perfmodel.plan.loads import Loads
from perfmodel.plan.space import Rows
from perfmodel.predict.activations import activation_bytes_of_layer
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.training_task import TrainingTask
from perfmodel.predict.weights import Weights

__all__ = ["step_by_hand"]

Array = NDArray[np.float64]
_HIDDEN_BYTES, _LOGIT_BYTES, _MASK_BYTES = 2.0, 6.0, 1.0


def step_by_hand(task: TrainingTask, rows: Rows, loads: Loads) -> tuple[Array, Array, Array]:
    """Seconds, bytes on the fullest rank and dollars of a step: rows by numbers of recomputed layers."""
    d: dict[str, Array] = {name: column.reshape(-1, 1) for name, column in rows.items()}
    tp, pp, dp, vpp, mb = d["tp"], d["pp"], d["dp"], d["vpp"], d["micro_batch"]
    model, software, steps, links = task.model, task.software, task.steps, task.steps.links
    n, m, used = float(model.n_layers), task.global_batch / (dp * mb), tp * pp * dp
    load = loads.of(rows, True, 2)
    f, b, again = load.layer.forward, load.layer.backward, load.repeated["full"]
    device = f["device"].seconds + b["device"].seconds
    forward = f["device"].seconds + f["tensor_parallel"].seconds
    backward = b["device"].seconds + b["tensor_parallel"].seconds
    repeated = again["device"].seconds + again["tensor_parallel"].seconds
    head, embedding = load.ends[0].seconds, load.ends[1].seconds

    # Stages, and the share of the fullest one that is recomputed.
    full = np.ceil(n / (pp * vpp)) * vpp
    spare, alone = full * pp - n, np.where(pp > 1, 1.0, 0.0)
    last = full - alone * np.minimum(spare, 1.0)
    first = full - alone * np.minimum(np.maximum(spare - 1.0, 0.0), 1.0)
    counts = np.arange(full.max() + 1.0)[None, :]
    part = np.minimum(1.0, counts / full)

    # Time of everything that every micro-batch passes, on the slowest stage.
    layer = forward + backward + repeated * part
    ends, even = last * layer + head, full * layer
    binds = ends >= even
    slots = np.where(binds, last, full) * m
    edge = head * m * binds + embedding * m * (1.0 - alone)
    launch = float(software.host_layer_s) / 16.0
    host = launch * (16.0 + 4.0 * (tp > 1))
    late = np.maximum(host - forward, 0.0) + np.maximum(host * float(software.host_backward_ratio) - backward, 0.0)
    late = late + np.maximum(host - repeated, 0.0) * part
    late_ends = np.maximum(24.0 * launch - head - embedding, 0.0) * m
    bubble = (pp - 1.0) / vpp / pp * (n * layer + (head + embedding))
    slow = straggler_slowdown(used, steps.relative_spread)
    worked = (device + again["device"].seconds * part) * slots + edge + bubble

    # Once a row: messages between stages and replicas, optimizer.
    hidden = _HIDDEN_BYTES * task.seq_len * mb * model.d_model
    message = links.send_recv(hidden / tp, tp * dp).seconds + 4.0 * launch
    transfers = (2.0 * (pp - 1.0) + 2.0 * vpp * m * alone) * message
    degrees = Degrees(tp, pp, dp, vpp, mb, dp, zero_stage=0, sequence_parallel=True, recompute="full")
    weights = Weights(model, software, degrees, task.precision, task.optimizer, steps.trainable)
    params = weights.params(full, True, 1.0 - alone).dense
    once = links.collective("all_reduce", params * weights.gradient_bytes, dp, tp).seconds
    n_bytes = model.embedding_params / tp * weights.gradient_bytes
    once = once + links.collective("all_reduce", n_bytes, 2.0, tp * dp * np.maximum(pp - 1.0, 1.0)).seconds * alone
    traffic = optimizer_bytes(params, float(software.optimizer_bytes_per_param))
    once = once + steps.kernels.elementwise(traffic, software.elementwise_library, 10.0).seconds + transfers
    seconds: Array = layer * slots + edge + late * slots + (once + late_ends) + bubble + slow * worked

    # Memory on the first stage, the second and the last.
    share = degrees.share(task.seq_len)
    kinds: Any = [(model.layer_groups[0][0], 1.0)]
    whole = activation_bytes_of_layer(model, software, share, task.precision, kinds, "none")
    kept = activation_bytes_of_layer(model, software, share, task.precision, kinds, "full")
    logits = _LOGIT_BYTES * task.seq_len * mb * model.vocab_padded / tp
    dropout = _MASK_BYTES * task.seq_len * mb * model.d_model / tp if model.dropout else 0.0
    fixed = float(software.workspace_bytes) + hidden + weights.largest_gradient_bytes
    needs: Array = np.zeros(1)
    for layers, stage, embeds, predicts in (
        (first, 0.0, True, 1.0 - alone),
        (alone * full, np.minimum(1.0, pp - 1.0), False, 0.0),
        (alone * last, pp - 1.0, False, 1.0),
    ):
        state = weights.of_stage(layers, embeds, predicts)
        row = state.weights + state.gradients + state.optimizer + fixed + predicts * logits
        flight = np.where(vpp < 2, np.minimum(m, pp - stage), np.minimum(m, pp + (pp - 1.0 - 2.0 * stage) / vpp))
        recomputed = np.minimum(counts, layers)
        row = row + flight * (layers * whole + (dropout if embeds else 0.0))
        of_stage = row - flight * (whole - kept) * recomputed + (whole - kept) * np.minimum(recomputed, 1.0)
        needs = np.maximum(needs, of_stage)
    usd = used * float(task.cluster.accelerator_usd_per_hour) / 3600.0 * seconds
    return seconds, needs, usd
