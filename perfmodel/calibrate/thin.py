"""Makes the shipped kernel tables from the full ones: `python -m perfmodel.calibrate.thin FOLDER`.

Rules look at sizes only, never at a model's error. The roles are written here too, before any fit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from perfmodel.calibrate.tables import FOLDER, load_table, validate_groups
from perfmodel.calibrate.thin_attention import ATTENTION_GROUPS, ATTENTION_MAKERS
from perfmodel.calibrate.thin_moe import MOE_GROUPS, MOE_MAKERS

__all__ = ["GROUPS", "MAX_ROWS", "thin"]

MAX_ROWS = 5000
ACCELERATORS = {
    "a100_sxm": "a100-sxm-80gb",
    "h100_sxm": "h100-sxm",
    "a100": "a100-sxm-80gb",
    "h100": "h100-sxm",
    "b200_sxm": "b200-sxm",
}
_MORE_GEMM = {
    "gemm_a100_int8": ("a100_sxm", "sq"),
    "gemm_a100_int8_weight_only": ("a100_sxm", "int8_wo"),
    "gemm_a100_int4_weight_only": ("a100_sxm", "int4_wo"),
    "gemm_h100_fp8_block": ("h100_sxm", "fp8_block"),
    "gemm_b200_bf16": ("b200_sxm", "bfloat16"),
    "gemm_b200_fp8": ("b200_sxm", "fp8"),
    "gemm_b200_fp8_block": ("b200_sxm", "fp8_block"),
    "gemm_b200_nvfp4": ("b200_sxm", "nvfp4"),
}
"""Tables of matrix products of one accelerator in one format: every second (n, k) shape."""
GROUPS = {
    "gemm_bf16": ["n", "k"],
    "gemm_fp8": ["n", "k"],
    **{name: ["n", "k"] for name in _MORE_GEMM},
    "nccl_half": ["n_bytes"],
    "custom_all_reduce": ["n_bytes"],
    "efa_all_reduce": ["size_mib"],
    **ATTENTION_GROUPS,
    **MOE_GROUPS,
    "vidur_layer": ["d_model", "d_ff", "n_heads", "n_kv_heads"],
}
_NVIDIA = "aiconfigurator-core 0.12.0, NVIDIA, https://pypi.org/project/aiconfigurator-core/0.12.0/"
_VIDUR = "vidur, Microsoft, https://github.com/microsoft/vidur, data/profiling"
_AWS = "AWS, NCCL all-reduce between p5.48xlarge nodes (8 H100 each) over EFA, nccl-tests"
_CUSTOM_ALL_REDUCE = {
    "trtllm-1.0.0 a100_sxm": "tensorrt-llm",
    "trtllm-1.3.0rc20 h100_sxm": "tensorrt-llm",
    "vllm-0.14.0 a100_sxm": "vllm",
    "vllm-0.24.0 h100_sxm": "vllm",
    "sglang-0.5.10 a100_sxm": "sglang",
    "sglang-0.5.14 h100_sxm": "sglang",
}
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
        **{name: partial(_gemm_halved, system=system, dtype=dtype) for name, (system, dtype) in _MORE_GEMM.items()},
        "nccl_half": _nccl,
        "custom_all_reduce": _custom_all_reduce,
        "efa_all_reduce": _efa,
        **ATTENTION_MAKERS,
        "vidur_layer": _vidur_layer,
        **MOE_MAKERS,
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
    rows = rows[(rows["dtype"] == dtype) & rows["system"].isin(["a100_sxm", "h100_sxm"])]
    large = (rows["n"] >= 1024) & (rows["k"] >= 1024)
    small_shapes = sorted(set(zip(rows[~large]["n"], rows[~large]["k"], strict=True)))[::2]
    keep = large | pd.Series(list(zip(rows["n"], rows["k"], strict=True)), index=rows.index).isin(small_shapes)
    rows = _named(rows[keep], ["m", "n", "k"])
    rule = f"{dtype}; every (n, k) shape with n, k >= 1024, every second of the smaller shapes in sorted order; all m"
    return rows, f"{_NVIDIA} (TensorRT-LLM 1.0.0 on A100, 1.3.0rc20 on H100)", "Apache-2.0", rule


def _gemm_halved(folder: Path, system: str, dtype: str) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "gemm.csv.gz")
    rows = rows[(rows["dtype"] == dtype) & (rows["system"] == system)]
    kept = set(sorted(set(zip(rows["n"], rows["k"], strict=True)))[::2])
    rows = rows[[shape in kept for shape in zip(rows["n"], rows["k"], strict=True)]]
    version = "1.0.0" if system == "a100_sxm" else "1.3.0rc20"
    rule = f"{dtype} on {system}; every second (n, k) shape in sorted order; all m"
    return _named(rows, ["m", "n", "k"]), f"{_NVIDIA} (TensorRT-LLM {version})", "Apache-2.0", rule


def _nccl(folder: Path) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "collectives_nccl.csv.gz")
    rows = rows[(rows["dtype"] == "half") & (rows["lib_path_version"].astype(str) == "2.27.3")]
    names = {"op_name": "operation", "num_gpus": "ranks", "bytes": "n_bytes"}
    rows = _named(rows.rename(columns=names), ["operation", "ranks", "n_bytes"])
    rows["operation"] = rows["operation"].replace("alltoall", "all_to_all")
    rule = "half-precision rows of the NCCL 2.27.3 folder, nothing thinned; n_bytes of all_gather is the gathered total"
    return rows, _NVIDIA, "Apache-2.0", rule


def _custom_all_reduce(folder: Path) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "collectives_custom_allreduce.csv.gz")
    versions = rows["engine"] + " " + rows["system"]
    rows = rows[versions.isin(_CUSTOM_ALL_REDUCE) & ~rows["kernel_source"].str.contains("eager")]
    rows = rows.assign(engine=versions.map(_CUSTOM_ALL_REDUCE))
    rows = rows.rename(columns={"num_gpus": "ranks", "bytes": "n_bytes"})
    origin = f"{_NVIDIA} ({', '.join(sorted(_CUSTOM_ALL_REDUCE))})"
    rule = "bf16, the newest version of each engine, captured in a graph where the source has both; all sizes"
    return _named(rows, ["engine", "ranks", "n_bytes"]), origin, "Apache-2.0", rule


def _efa(folder: Path) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "aws_efa_nccl_all_reduce.csv", skipinitialspace=True)
    names = {"Nodes": "nodes", "GPUs": "ranks", "size(MB)": "size_mib", "out algbw(GB/s)": "algbw_gb_per_s"}
    rows = rows.rename(columns=names)[list(names.values())].assign(accelerator="h100-sxm")
    rule = "out-of-place columns, nothing thinned; the table says MB, nccl-tests means 2^20 by it; algbw in 1e9 B/s"
    return rows[["accelerator", *names.values()]], _AWS, "none given: facts that a check uses", rule


def _vidur_layer(folder: Path) -> tuple[pd.DataFrame, str, str, str]:
    rows = pd.read_csv(folder / "vidur_layer_ops.csv.gz")
    rows = rows[rows["gated"]].assign(accelerator=rows["device"].map(ACCELERATORS), op=rows["op"] + "_us")
    names = {"n_embd": "d_model", "n_expanded_embd": "d_ff", "n_head": "n_heads", "n_kv_head": "n_kv_heads"}
    rows = rows.rename(columns=names | {"num_tokens": "tokens"})
    keys = ["accelerator", "d_model", "d_ff", "n_heads", "n_kv_heads", "tp", "tokens"]
    rows = rows.pivot_table("median_us", keys, "op", "median").reset_index()
    rule = (
        "whole gated models (phi-2 is left out: LayerNorm, partial rotary and no gate are other kernels), one row a "
        "layer, times in us, whole in the source; equal shapes are one model (Llama 2 and 3 of 70B), median of medians"
    )
    operations = sorted(set(rows.columns) - set(keys))
    return rows[[*keys, *operations]], _VIDUR, "MIT, Copyright (c) Microsoft Corporation", rule


def _named(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    rows = rows.assign(accelerator=rows["system"].map(ACCELERATORS))
    columns = ["accelerator", *keys]
    return rows[[*columns, "latency_us"]].sort_values(columns, kind="stable").reset_index(drop=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the full tables")
    thin(parser.parse_args().folder)
