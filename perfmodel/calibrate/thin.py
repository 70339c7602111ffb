"""Makes the shipped kernel tables from the full ones: `python -m perfmodel.calibrate.thin FOLDER`.

Rules look at sizes only, never at a model's error. The roles are written here too, before any fit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from perfmodel.calibrate.tables import FOLDER, load_table, validate_groups

__all__ = ["GROUPS", "MAX_ROWS", "thin"]

MAX_ROWS = 5000
ACCELERATORS = {
    "a100_sxm": "a100-sxm-80gb",
    "h100_sxm": "h100-sxm",
    "a100": "a100-sxm-80gb",
    "h100": "h100-sxm",
}
GROUPS = {
    "gemm_bf16": ["n", "k"],
    "gemm_fp8": ["n", "k"],
    "nccl_half": ["n_bytes"],
    "efa_all_reduce": ["size_mib"],
    "attention_prefill_bf16": ["n_heads", "n_kv_heads"],
    "elementwise_vllm": ["d_model", "d_ff", "n_heads", "n_kv_heads"],
}
_NVIDIA = "aiconfigurator-core 0.12.0, NVIDIA, https://pypi.org/project/aiconfigurator-core/0.12.0/"
_VIDUR = "vidur, Microsoft, https://github.com/microsoft/vidur, data/profiling"
_AWS = "AWS, NCCL all-reduce between p5.48xlarge nodes (8 H100 each) over EFA, nccl-tests"
_ROLES = """\
# Roles of the kernel tables, given to whole groups and written by perfmodel/calibrate/thin.py before any fit.
# The same rule everywhere: of a table's distinct groups in ascending order, over all its accelerators together, every
# third (positions 3, 6, 9, ...) validates; all others may calibrate. One group has one role on every accelerator.
"""


def thin(source: Path) -> None:
    """Write every shipped table and `roles.toml` from the full tables in the folder `source`; raises `ValueError`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[Path], tuple[pd.DataFrame, str, str, str]]] = {
        "gemm_bf16": lambda folder: _gemm(folder, "bfloat16"),
        "gemm_fp8": lambda folder: _gemm(folder, "fp8"),
        "nccl_half": _nccl,
        "efa_all_reduce": _efa,
        "attention_prefill_bf16": _attention,
        "elementwise_vllm": _elementwise,
    }
    for name, make in makers.items():
        rows, origin, licence, rule = make(source)
        if len(rows) > MAX_ROWS:
            raise ValueError(f"{name}: {len(rows)} rows; at most {MAX_ROWS} may ship")
        head = f"# Source: {origin}\n# Licence: {licence}\n# Rule: {rule}\n"
        body = rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        (FOLDER / f"{name}.csv").write_text(head + body, encoding="utf-8")
    text = [_ROLES]
    for name, columns in GROUPS.items():
        groups = [json.dumps(list(group)) for group in validate_groups(load_table(name), columns)]
        lines = ["  " + ", ".join(groups[i : i + 6]) + "," for i in range(0, len(groups), 6)]
        text += [f"[{name}]", f"group = {json.dumps(columns)}", "validate = [", *lines, "]\n"]
    (FOLDER / "roles.toml").write_text("\n".join(text), encoding="utf-8")


def _gemm(folder: Path, dtype: str) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "gemm.csv.gz")
    rows = rows[(rows["dtype"] == dtype) & rows["system"].isin(ACCELERATORS)]
    large = (rows["n"] >= 1024) & (rows["k"] >= 1024)
    small_shapes = sorted(set(zip(rows[~large]["n"], rows[~large]["k"], strict=True)))[::2]
    keep = large | pd.Series(list(zip(rows["n"], rows["k"], strict=True)), index=rows.index).isin(small_shapes)
    rows = _named(rows[keep], ["m", "n", "k"])
    rule = f"{dtype}; every (n, k) shape with n, k >= 1024, every second of the smaller shapes in sorted order; all m"
    return rows, f"{_NVIDIA} (TensorRT-LLM 1.0.0 on A100, 1.3.0rc20 on H100)", "Apache-2.0", rule


def _nccl(folder: Path) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "collectives_nccl.csv.gz")
    rows = rows[(rows["dtype"] == "half") & (rows["lib_path_version"].astype(str) == "2.27.3")]
    names = {"op_name": "operation", "num_gpus": "ranks", "bytes": "n_bytes"}
    rows = _named(rows.rename(columns=names), ["operation", "ranks", "n_bytes"])
    rows["operation"] = rows["operation"].replace("alltoall", "all_to_all")
    rule = "half-precision rows of the NCCL 2.27.3 folder, nothing thinned; n_bytes of all_gather is the gathered total"
    return rows, _NVIDIA, "Apache-2.0", rule


def _efa(folder: Path) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "aws_efa_nccl_all_reduce.csv", skipinitialspace=True)
    names = {"Nodes": "nodes", "GPUs": "ranks", "size(MB)": "size_mib", "out algbw(GB/s)": "algbw_gb_per_s"}
    rows = rows.rename(columns=names)[list(names.values())].assign(accelerator="h100-sxm")
    rule = "out-of-place columns, nothing thinned; the table says MB, nccl-tests means 2^20 by it; algbw in 1e9 B/s"
    return rows[["accelerator", *names.values()]], _AWS, "none given: facts that a check uses", rule


def _attention(folder: Path) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "attention_prefill.csv.gz")
    bf16 = (rows["attn_dtype"] == "bfloat16") & (rows["kv_cache_dtype"] == "bfloat16")
    names = {"batch_size": "batch", "isl": "seq_len", "num_heads": "n_heads", "num_key_value_heads": "n_kv_heads"}
    rows = rows[bf16 & rows["engine"].str.startswith("vllm")].rename(columns=names | {"head_dim": "d_head"})
    rows = _named(rows, [*names.values(), "d_head"])
    rule = "causal prefill, bf16 queries and keys, vLLM rows, nothing thinned"
    return rows, f"{_NVIDIA} (vLLM 0.14.0 with FA2 on A100, 0.24.0 with FA3 on H100)", "Apache-2.0", rule


def _elementwise(folder: Path) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "vidur_layer_ops.csv.gz")
    rows = rows[rows["op"].isin(["input_layernorm", "mlp_act", "attn_rope"]) & rows["gated"]]
    names = {"op": "operation", "n_embd": "d_model", "n_expanded_embd": "d_ff", "n_head": "n_heads"}
    names |= {"n_kv_head": "n_kv_heads", "num_tokens": "tokens", "device": "system"}
    rows = rows.rename(columns=names).assign(latency_us=rows["median_us"])
    keys = ["operation", "d_model", "d_ff", "n_heads", "n_kv_heads", "tp", "tokens"]
    rows = rows.groupby(["system", *keys])["latency_us"].median().reset_index()
    rule = (
        "norm, gated activation and rotary embedding of gated models (phi-2 has a LayerNorm and a partial rotary); "
        "equal shapes merged, median of their medians; whole microseconds"
    )
    return _named(rows, keys), _VIDUR, "MIT, Copyright (c) Microsoft Corporation", rule


def _named(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    rows = rows.assign(accelerator=rows["system"].map(ACCELERATORS))
    columns = ["accelerator", *keys]
    return rows[[*columns, "latency_us"]].sort_values(columns, kind="stable").reset_index(drop=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the full tables")
    thin(parser.parse_args().folder)
