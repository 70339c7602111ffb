"""The table of mixture-of-experts FFNs: its columns as the law takes them, its roles, and the data sheet's time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.formulas.grouped import routed_activation_bytes
from perfmodel.formulas.matmul import matmul_flops
from perfmodel.formulas.roofline import roofline_time
from perfmodel.formulas.sparse import grouped_matmul_bytes
from perfmodel.predict.grouped import GroupedMatmul
from perfmodel.predict.matmul import matmul_format
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency
from perfmodel.validation.kernel_tables import Table, load_table, validate_groups

__all__ = [
    "MOE_GROUP",
    "MOE_TABLE",
    "MoeLoads",
    "ffn_seconds",
    "moe_calibrates",
    "moe_data_sheet_seconds",
    "moe_families",
    "moe_loads",
    "moe_seconds",
]

Floats = NDArray[np.float64]
MOE_TABLE = "moe_ffn"
MOE_GROUP = ["d_model", "d_ff", "n_experts", "experts_per_token"]


@dataclass(frozen=True)
class MoeLoads:
    """One value a row: `tokens` is the fair share of a rank, `d_ff` the width on it, `rows` what it receives."""

    tokens: Floats
    d_model: Floats
    d_ff: Floats
    local_experts: Floats
    experts_per_token: Floats
    rows: Floats
    touched_experts: Floats
    summed_tokens: Floats
    evenness: Floats


def moe_loads(rows: Table) -> MoeLoads:
    """The sizes of every row. A rank sums all tokens, copies of which it holds or not, as the measured module does."""
    names = ("tokens", "d_model", "d_ff", "n_experts", "experts_per_token", "etp", "ep", "rank_rows", "rank_experts")
    tokens, d_model, d_ff, n_experts, k, etp, ep, rank_rows, touched = (rows[name].astype(float) for name in names)
    evenness = np.asarray(rows["routing"] == "balanced", dtype=np.float64)
    return MoeLoads(tokens / ep, d_model, d_ff / etp, n_experts / ep, k, rank_rows, touched, tokens, evenness)


def moe_calibrates(rows: Table) -> NDArray[np.bool_]:
    """Which rows may be fitted: of the shapes of the whole table in ascending order, every third validates."""
    held_out = set(validate_groups(load_table(MOE_TABLE), MOE_GROUP))
    groups = zip(*(rows[name].tolist() for name in MOE_GROUP), strict=True)
    return np.array([group not in held_out for group in groups], dtype=bool)


def moe_families(
    accelerator: Accelerator, rows: Table
) -> Iterator[tuple[str, Table, Callable[[Efficiency], Floats], Floats]]:
    """For each format and routing a name, its rows without slow ones, its prediction and the data sheet's time [s]."""
    kept = rows[rows["slow"] == 0]
    for dtype, routing in sorted(set(zip(kept["dtype"].tolist(), kept["routing"].tolist(), strict=True))):
        mine = kept[(kept["dtype"] == dtype) & (kept["routing"] == routing)]
        predict = partial(_predicted, accelerator, dtype, mine)
        name = f"routed experts, {dtype}, {routing.replace('_', ' ')} routing"
        yield name, mine, predict, moe_data_sheet_seconds(accelerator, dtype, mine)


def _predicted(accelerator: Accelerator, dtype: str, rows: Table, efficiency: Efficiency) -> Floats:
    return moe_seconds(accelerator, efficiency, dtype, rows)


def moe_seconds(accelerator: Accelerator, efficiency: Efficiency, dtype: str, rows: Table) -> Floats:
    """Predicted time of every row [s]; raises `PlanError` where the accelerator has no constants."""
    return ffn_seconds(GroupedMatmul(accelerator, efficiency, dtype), moe_loads(rows))


def ffn_seconds(law: GroupedMatmul, loads: MoeLoads) -> Floats:
    """Predicted time of every load [s]."""
    cost = law.ffn(
        loads.tokens,
        loads.d_model,
        loads.d_ff,
        loads.local_experts,
        loads.experts_per_token,
        imbalance=loads.rows / (loads.tokens * loads.experts_per_token),
        touched_experts=loads.touched_experts,
        summed_tokens=loads.summed_tokens,
        evenness=loads.evenness,
    )
    return np.asarray(cost.seconds)


def moe_data_sheet_seconds(accelerator: Accelerator, dtype: str, rows: Table) -> Floats:
    """The roofline at both peaks, with the least traffic of products and activations [s]."""
    loads, form = moe_loads(rows), matmul_format(dtype)
    sizes = [(2 * loads.d_ff, loads.d_model), (loads.d_model, loads.d_ff)]
    element = (form.left_bytes, form.right_bytes, form.result_bytes)
    flops: Any = sum(matmul_flops(loads.rows, n, k) for n, k in sizes)
    n_bytes: Any = sum(grouped_matmul_bytes(loads.rows, loads.touched_experts, n, k, *element) for n, k in sizes)
    n_bytes += routed_activation_bytes(loads.rows, loads.summed_tokens, loads.d_model, loads.d_ff)
    peaks = float(accelerator.peak(form.peak)), float(accelerator.hbm_byte_per_s)
    return np.asarray(roofline_time(flops, n_bytes, *peaks))
