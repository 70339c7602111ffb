"""The operations of a serving layer against vidur's profiles: one row of `vidur_layer` is a layer of one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.formulas.matmul import matmul_flops, mixed_matmul_bytes
from perfmodel.formulas.roofline import roofline_time
from perfmodel.predict.cost import Cost
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.row_kernels import RowKernels
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency
from perfmodel.validation.kernel_tables import Table

__all__ = [
    "FRAMEWORK", "OPERATIONS", "PRODUCTS", "TABLE", "beyond_rounding",
    "data_sheet_seconds", "layer_op_seconds", "measured_seconds", "product_sizes",
]  # fmt: skip

Floats = NDArray[np.float64]
TABLE = "vidur_layer"
FRAMEWORK = "vllm"
PRODUCTS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
OPERATIONS = (*PRODUCTS, "input_layernorm", "post_attention_layernorm", "mlp_act", "attn_rope")
CLOCK_S = 1e-6
"""Step of the clock of the source: a time is known to half of it."""


@dataclass(frozen=True)
class _Layer:
    """Sizes of the layers of a table, of one rank, all as float64 arrays."""

    tokens: Floats
    d_model: Floats
    d_ff: Floats
    n_heads: Floats
    n_kv_heads: Floats
    d_head: Floats


def layer_op_seconds(operation: str, accelerator: Accelerator, efficiency: Efficiency, rows: Table) -> Floats:
    """An operation of every row, predicted with the framework's constants [s]; raises `PlanError`."""
    layer = _layer(rows)
    if operation in PRODUCTS:
        # The profiles are fp16, which has the constants of bf16.
        kernels = Kernels(accelerator, efficiency.inside(FRAMEWORK), "fp16")
        return _seconds(kernels.matmul(layer.tokens, *product_sizes(operation, rows)))
    row_kernels = RowKernels(accelerator, efficiency)
    if operation == "mlp_act":
        return _seconds(row_kernels.gated_activation(layer.tokens, layer.d_ff))
    if operation == "attn_rope":
        heads = layer.n_heads, layer.n_kv_heads, layer.d_head
        return _seconds(row_kernels.rotary_embedding(layer.tokens, *heads))
    return _seconds(row_kernels.norm(layer.tokens, layer.d_model))


def product_sizes(operation: str, rows: Table) -> tuple[Floats, Floats]:
    """Columns of the result and summed dimension of a projection on one rank [1]."""
    layer = _layer(rows)
    query = layer.n_heads * layer.d_head
    return {
        "attn_pre_proj": (query + 2 * layer.n_kv_heads * layer.d_head, layer.d_model),
        "attn_post_proj": (layer.d_model, query),
        "mlp_up_proj": (2 * layer.d_ff, layer.d_model),
        "mlp_down_proj": (layer.d_model, layer.d_ff),
    }[operation]


def data_sheet_seconds(operation: str, accelerator: Accelerator, rows: Table) -> Floats:
    """The roofline at the peaks of the data sheet with compulsory traffic [s]."""
    layer, byte_per_s = _layer(rows), float(accelerator.hbm_byte_per_s)
    if operation in PRODUCTS:
        sizes = layer.tokens, *product_sizes(operation, rows)
        n_bytes = mixed_matmul_bytes(*sizes, 1.0, 2.0, 2.0, 2.0)
        seconds = roofline_time(matmul_flops(*sizes), n_bytes, float(accelerator.peak("fp16")), byte_per_s)
        return np.asarray(seconds, dtype=np.float64)
    rotated = (layer.n_heads + layer.n_kv_heads) * layer.d_head
    bytes_per_token = {"mlp_act": 6 * layer.d_ff, "attn_rope": 4 * rotated}.get(operation, 4 * layer.d_model)
    return np.asarray(layer.tokens * bytes_per_token / byte_per_s, dtype=np.float64)


def measured_seconds(operation: str, rows: Table) -> Floats:
    """What the source measured [s], whole microseconds or medians of them."""
    return np.asarray(rows[f"{operation}_us"] * 1e-6, dtype=np.float64)


def beyond_rounding(predicted: Floats, measured: Floats) -> Floats:
    """|ln| of a prediction over the nearest time that the source's clock would have shown as the measured one."""
    nearest = np.clip(predicted, measured - CLOCK_S / 2, measured + CLOCK_S / 2)
    return np.asarray(np.abs(np.log(predicted / nearest)), dtype=np.float64)


def _layer(rows: Table) -> _Layer:
    def column(name: str) -> Floats:
        return np.asarray(rows[name], dtype=np.float64)

    ranks, heads = column("tp"), column("n_heads")
    return _Layer(
        tokens=column("tokens"),
        d_model=column("d_model"),
        d_ff=column("d_ff") / ranks,
        n_heads=heads / ranks,
        # A rank holds at least one key-value head, a copy when there are fewer than ranks.
        n_kv_heads=np.maximum(column("n_kv_heads") / ranks, 1.0),
        d_head=column("d_model") / heads,
    )


def _seconds(cost: Cost) -> Any:
    return np.asarray(cost.seconds, dtype=np.float64)
