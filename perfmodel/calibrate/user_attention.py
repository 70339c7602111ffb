"""Attention from a user's own table: which rows are one kernel's, and the blocks that their fits fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.calibrate.attention import fit_decode, fit_prefill, is_useful
from perfmodel.calibrate.kernels import Fitted, Floats
from perfmodel.calibrate.own_csv import ATTENTION_SIZES, PREFILL, OwnTable, Row
from perfmodel.errors import PlanError, unknown_name
from perfmodel.specs.accelerator import Accelerator
from perfmodel.specs.efficiency import Efficiency

__all__ = ["HEADS", "fit_attention", "of_one_kernel"]

HEADS = ("num_heads", "num_key_value_heads", "head_dim")
_CACHES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "bf16": "bf16", "fp16": "fp16", "fp8": "fp8"}
_ENGINES = {"trtllm": "tensorrt-llm", "tensorrt-llm": "tensorrt-llm", "vllm": "vllm"}
_SIXTEEN_BITS = ("bf16", "fp16")


def of_one_kernel(table: OwnTable, rows: Sequence[Row], wanted: str | None) -> tuple[list[Row], list[str]]:
    """The rows of one engine with 16-bit arithmetic and a cache of one precision; raises `PlanError`."""
    for row in rows:
        for column in ("attn_dtype", "kv_cache_dtype"):
            if column in row.words and row.words[column].lower() not in _CACHES:
                where = f"{table.name}:{row.line}: {column}"
                raise PlanError(f"{where}: {unknown_name('precision of attention', row.words[column], _CACHES)}")
    engines = table.values("engine")
    if len(engines) > 1:
        raise PlanError(f"{table.name}: column engine holds {', '.join(engines[:6])}; keep the rows of one")
    chosen = [row for row in rows if _precision(row, "attn_dtype") in _SIXTEEN_BITS]
    notes = [f"{len(rows) - len(chosen)} rows of fp8 arithmetic are not fitted"] if len(chosen) < len(rows) else []
    caches = sorted({_precision(row, "kv_cache_dtype") for row in chosen})
    if wanted is not None and wanted not in caches:
        raise PlanError(f"{table.name}: has no caches in {wanted}; column kv_cache_dtype holds {', '.join(caches)}")
    if len(caches) > 1:
        cache = wanted or next(one for one in caches if one in _SIXTEEN_BITS)
        notes.append(f"of caches in {', '.join(caches)} those in {cache} are fitted")
        chosen = [row for row in chosen if _precision(row, "kv_cache_dtype") == cache]
    return chosen, notes


def fit_attention(
    accelerator: Accelerator, efficiency: Efficiency, table: OwnTable, rows: Sequence[Row], calibrate: NDArray[np.bool_]
) -> tuple[list[str], Fitted, dict[str, Any]]:
    """The dotted keys of the blocks that a table fills, their fit, and the entries that were not fitted.

    `efficiency` is that of the relative: what a table of one phase does not measure is taken from there.
    """
    sizes: list[Floats] = [
        np.array([row.sizes[column] for row in rows], dtype=float) for column in ATTENTION_SIZES[table.kind]
    ]
    seconds = np.array([row.latency_us * 1e-6 for row in rows])
    engine = _engine(table)
    if table.kind == PREFILL:
        names = ["tensorrt-llm"] if engine == "tensorrt-llm" else ["flash-2", "flash-3"]
        ratio = float(efficiency.attention_constants(names[0]).backward_efficiency_ratio)
        note = f"not in the table: that of {efficiency.id}"
        choices = {"backward_efficiency_ratio": {"value": ratio, "source": "user", "kind": "assumed", "note": note}}
        found = fit_prefill(accelerator, table.name, sizes, seconds, calibrate)
        return [f"attention.{name}" for name in names], found, choices
    cache = _precision(rows[0], "kv_cache_dtype")
    like = efficiency.decode_constants(engine, cache)
    fixed = {"compute_efficiency": like.compute_efficiency, "max_splits_ungrouped": like.max_splits_ungrouped}
    useful = is_useful(sizes, cache)
    sizes, seconds, calibrate = [one[useful] for one in sizes], seconds[useful], calibrate[useful]
    if not calibrate.any() or calibrate.all():
        raise PlanError(f"{table.name}: has no caches up to 4 MB or from 64 MB on to fit and to hold out")
    found = fit_decode(accelerator, table.name, sizes, seconds, calibrate, cache, fixed)
    return [f"decode.{engine}{'-fp8' if cache == 'fp8' else ''}"], found, {}


def _engine(table: OwnTable) -> str:
    """The library behind a table; without a column `engine`, and for any other, FlashAttention's."""
    named = [word for engine in table.values("engine") for word in _ENGINES if engine.lower().startswith(word)]
    return _ENGINES[named[0]] if named else "vllm"


def _precision(row: Row, column: str) -> str:
    return _CACHES[row.words.get(column, "bf16").lower()]
