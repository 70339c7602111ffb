"""Makes the shipped attention tables from the full ones; called by `perfmodel.calibrate.thin`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

__all__ = ["ATTENTION_GROUPS", "ATTENTION_MAKERS"]

ATTENTION_GROUPS = {
    "attention_prefill_bf16": ["n_heads", "n_kv_heads"],
    "attention_decode": ["n_heads", "n_kv_heads"],
    "mla_decode": ["n_heads"],
    "mla_prefill": ["n_heads"],
}
_ORIGIN = "aiconfigurator-core 0.12.0, NVIDIA, https://pypi.org/project/aiconfigurator-core/0.12.0/"
_ENGINES = (
    "vLLM 0.14.0 with FA2 and TensorRT-LLM 1.0.0 on A100, vLLM 0.24.0 with FA3 and TensorRT-LLM 1.3.0rc20 on H100"
)
_LICENCE = "Apache-2.0"
_ACCELERATORS = {"a100_sxm": "a100-sxm-80gb", "h100_sxm": "h100-sxm"}
_LIBRARIES = {"vllm": "vllm", "trtllm": "tensorrt-llm"}
_DTYPES = {"bfloat16": "bf16", "fp8": "fp8"}
_NAMES = {
    "batch_size": "batch",
    "isl": "seq_len",
    "num_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "d_head",
}
Made = tuple[pd.DataFrame, str, str, str]


def _prefill(folder: Path) -> Made:
    rows = _read(folder, "attention_prefill")
    rows = rows[(rows["attn_dtype"] == "bfloat16") & (rows["kv_dtype"] == "bf16")]
    keys = ["library", "batch", "seq_len", "n_heads", "n_kv_heads", "d_head"]
    rule = "causal prefill, bf16 queries and keys, nothing thinned"
    return _sorted(rows, keys), f"{_ORIGIN} ({_ENGINES})", _LICENCE, rule


def _decode(folder: Path) -> Made:
    rows = _read(folder, "attention_decode")
    rows = rows[(rows["system"] != "a100_sxm") | (rows["library"] == "vllm")]
    keys = ["library", "kv_dtype", "batch", "kv_len", "n_heads", "n_kv_heads", "d_head"]
    rule = (
        "one new token per sequence, bf16 queries, nothing thinned; without TensorRT-LLM on A100, whose grouped-query "
        "rows exceed the memory bandwidth"
    )
    return _sorted(rows, keys), f"{_ORIGIN} ({_ENGINES})", _LICENCE, rule


def _mla_decode(folder: Path) -> Made:
    rows = _latent(_read(folder, "mla_decode"))
    rule = (
        "latent attention, one new token per sequence; every second batch size from 1 on, all lengths and head counts; "
        "without fp8 caches on A100, whose rows equal the bf16 ones"
    )
    origin = f"{_ORIGIN} (TensorRT-LLM 1.0.0 on A100, 1.3.0rc20 on H100)"
    return _sorted(rows, ["kv_dtype", "batch", "kv_len", "n_heads"]), origin, _LICENCE, rule


def _mla_prefill(folder: Path) -> Made:
    rows = _latent(_read(folder, "mla_prefill"))
    rows = rows[rows["seq_len"] >= 16]
    rule = (
        "latent attention, causal prefill of at least 16 tokens; every second batch size from 1 on, all head counts; "
        "without fp8 caches on A100, whose rows equal the bf16 ones"
    )
    origin = f"{_ORIGIN} (TensorRT-LLM 1.0.0 on A100, 1.3.0rc20 on H100)"
    return _sorted(rows, ["kv_dtype", "batch", "seq_len", "n_heads"]), origin, _LICENCE, rule


ATTENTION_MAKERS = {
    "attention_prefill_bf16": _prefill,
    "attention_decode": _decode,
    "mla_decode": _mla_decode,
    "mla_prefill": _mla_prefill,
}


def _read(folder: Path, name: str) -> pd.DataFrame:
    rows = pd.read_csv(folder / f"{name}.csv.gz").rename(columns=_NAMES)
    library = rows["engine"].str.split("-").str[0].map(_LIBRARIES)
    return rows.assign(library=library, kv_dtype=rows["kv_cache_dtype"].map(_DTYPES))


def _latent(rows: pd.DataFrame) -> pd.DataFrame:
    batches = sorted(set(rows["batch"]))[::2]
    return rows[rows["batch"].isin(batches) & ((rows["system"] != "a100_sxm") | (rows["kv_dtype"] == "bf16"))]


def _sorted(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    rows = rows.assign(accelerator=rows["system"].map(_ACCELERATORS))
    columns = ["accelerator", *keys]
    return rows[[*columns, "latency_us"]].sort_values(columns, kind="stable").reset_index(drop=True)
