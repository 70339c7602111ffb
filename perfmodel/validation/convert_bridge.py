"""Megatron-Bridge's published rates, joined with its recipes: what was recomputed and offloaded is only in those."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from perfmodel.validation.ledger import Converted, contradiction, digits_of, grouped, read_table

__all__ = ["bridge_rows"]

# Printed name: zoo id, name in the recipes, has experts.
_MODELS = {
    "LLAMA3_8B": ("llama-3-8b", "llama3_8b", False),
    "LLAMA3_70B": ("llama-3-70b", "llama3_70b", False),
    "LLAMA3.1_405B": ("llama-3.1-405b", "llama31_405b", False),
    "GPT OSS 120B": ("gpt-oss-120b", "gpt_oss_120b", True),
    "Qwen3_30B_a3B": ("qwen3-30b-a3b", "qwen3_30b_a3b", True),
    "Qwen3_235B_a22B": ("qwen3-235b-a22b", "qwen3_235b_a22b", True),
    "DeepSeekV3": ("deepseek-v3", "deepseek_v3", True),
    "Nemotron_3_Nano": ("nemotron-3-nano", "nemotron_3_nano", True),
}
_CLUSTERS = {"H100": "dgx-h100", "B200": "dgx-b200", "GB200": "gb200-nvl72"}
# Printed precision: ours, name in the recipes. Plain "FP8" of the 26.02 tables is current scaling, as its recipe.
_PRECISIONS = {
    "BF16": ("bf16", "bf16"),
    "FP8": ("fp8", "fp8cs"),
    "FP8-CS": ("fp8", "fp8cs"),
    "FP8-subchannel(128x128w,1x128a)": ("fp8", "fp8sc"),
    "FP8-MX": ("mxfp8", "fp8mx"),
    "MXFP8": ("mxfp8", "fp8mx"),
    "NVFP4": ("nvfp4", "nvfp4"),
}
_RECIPE_DEGREES = {"tp": "tp", "pp": "pp", "cp": "cp", "vp": "vpp", "ep": "ep", "mbs": "micro_batch"}
# FLOPs a token of DeepSeek-V3 at 4096 tokens, in 1e9: 249 without and 260 with the extra token's layer.
_DEEPSEEK_WITH_MTP = 255.0
RATE_TOLERANCE = 0.01


def bridge_rows(folder: Path, *, experts: bool) -> Converted:
    """Tokens per second and accelerator of every release, dense models or those with experts."""
    recipes = {recipe["recipe"]: recipe for recipe in read_table(folder / "megatron_bridge_recipes.csv")}
    cells = read_table(folder / "megatron_bridge.csv")
    pairs = list(zip(cells[::2], cells[1::2], strict=True))
    cases = [(_case(tokens, flops), tokens) for tokens, flops in pairs if _MODELS[tokens["model_name"]][2] == experts]
    usual = _usual_flops([case for case, _ in cases])
    kept: list[dict[str, Any]] = []
    left: list[str] = []
    joined = {"recipe": 0, "other layout": 0, "none": 0}
    for case, cell in cases:
        row = _row(case, cell)
        per_token, typical = case["flop_per_token"], usual[_kind(case)]
        fault = contradiction(row)
        if row["model"] == "nemotron-3-nano":
            fault = "sizes not collected (a hybrid of Mamba, attention and experts)"
        elif abs(per_token / typical - 1.0) > RATE_TOLERANCE:
            fault = f"TFLOP/s over tokens/s is {per_token / typical - 1.0:+.1%} off all others of this model"
        if fault:
            left.append(f"{row['where']}: {fault}")
            continue
        joined[_join(row, cell, recipes)] += 1
        kept.append(row)
    left.append(f"(recipes: {joined['recipe']} matched, {joined['other layout']} other layout, {joined['none']} none)")
    return Converted(len(cases), grouped(kept), left)


def _case(tokens: Mapping[str, str], flops: Mapping[str, str]) -> dict[str, Any]:
    if (tokens["metric_name"], flops["metric_name"]) != ("tokens_per_s_per_accel", "model_tflops_per_accel"):
        raise ValueError(f"two rates of one configuration expected at {tokens['table_or_figure']}")
    per_token = 1e3 * float(flops["metric_value"]) / float(tokens["metric_value"])
    return {"model": tokens["model_name"], "seq_len": tokens["seq_len"], "flop_per_token": per_token}


def _kind(case: Mapping[str, Any]) -> tuple[Any, ...]:
    extra = case["model"] == "DeepSeekV3" and case["flop_per_token"] > _DEEPSEEK_WITH_MTP - 5.0
    return (case["model"], case["seq_len"], extra)


def _usual_flops(cases: list[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    kinds = {_kind(case) for case in cases}
    return {kind: median(case["flop_per_token"] for case in cases if _kind(case) == kind) for kind in kinds}


def _row(case: Mapping[str, Any], cell: Mapping[str, str]) -> dict[str, Any]:
    release = re.findall(r"release=(\S+)", cell["notes"])[0]
    model, _, experts = _MODELS[cell["model_name"]]
    sharded = re.findall(r"FSDP\(shard group (\d+)\)", cell["zero_stage_or_fsdp"])
    degrees = {name: int(cell[name] or 1) for name in ("tp", "pp", "cp", "ep", "dp", "mbs", "gbs")}
    vpp = int(cell["vp"] or 1)
    layout = f"tp {degrees['tp']}, pp {degrees['pp']}, cp {degrees['cp']}, ep {degrees['ep']}, vpp {cell['vp'] or '-'}"
    words = [word for word in ("tokendrop", "dropless") if word in cell["notes"]]
    row = {
        "source": "github.com/NVIDIA-NeMo/Megatron-Bridge@067f987df0",
        "where": f"{release}: {cell['model_name']} on {cell['n_accel']} {cell['accelerator']}, {cell['precision']}, "
        f"{layout}, micro-batch {cell['mbs']}, batch {cell['gbs']}",
        "model": model,
        "cluster": _CLUSTERS[cell["accelerator"]],
        "accelerators": int(cell["n_accel"]),
        **{name: degrees[name] for name in ("tp", "pp", "dp", "cp", "ep")},
        "etp": 1,
        "vpp": vpp,
        "micro_batch": degrees["mbs"],
        "global_batch": degrees["gbs"],
        "seq_len": int(cell["seq_len"]),
        "precision": _PRECISIONS[cell["precision"]][0],
        "recompute": "none",
        "sequence_parallel": "true",
        "zero_stage": 3 if sharded else 1,
        "dp_shard": sharded[0] if sharded else "",
        "software": "megatron-core-2025",
        "metric": "tokens_per_s_per_accelerator",
        "value": cell["metric_value"],
        "unit": "tokens/s",
        "digits": digits_of(cell["metric_value"]),
        "release": release,
        "note": ", ".join([*words, "balanced routing"]) if experts else "",
    }
    if model == "deepseek-v3":
        row["model_changes"] = f"mtp_layers={int(case['flop_per_token'] > _DEEPSEEK_WITH_MTP)}"
    return row


def _join(row: dict[str, Any], cell: Mapping[str, str], recipes: Mapping[str, Mapping[str, str]]) -> str:
    """Fill recomputation and offload from the recipe of this model, machine and precision; how well it matched."""
    name = _MODELS[cell["model_name"]][1]
    recipe = recipes.get(
        f"{name}_pretrain_{cell['n_accel']}gpu_{cell['accelerator'].lower()}_{_PRECISIONS[cell['precision']][1]}_config"
    )
    if recipe is None:
        row["note"] = _noted(row["note"], "no recipe: recomputation assumed none")
        _finish(row)
        return "none"
    given = {ours: recipe[theirs] for theirs, ours in _RECIPE_DEGREES.items() if recipe[theirs]}
    stated = {ours: int(value) if value != "None" else 1 for ours, value in given.items()}
    if not cell["vp"] and all(row[ours] == value for ours, value in stated.items() if ours != "vpp"):
        row["vpp"] = stated.get("vpp", 1)
    same = bool(stated) and all(row[ours] == value for ours, value in stated.items())
    row |= _recomputed(recipe, same)
    _finish(row)
    if same:
        return "recipe"
    row["note"] = _noted(row["note"], "recomputation from a recipe of another layout")
    return "other layout"


def _recomputed(recipe: Mapping[str, str], same: bool) -> dict[str, Any]:
    modules = json.loads(recipe["recompute_modules"] or "[]")
    if recipe["recompute_granularity"] == "full":
        return {"recompute": "full", "recompute_layers": recipe["recompute_num_layers"]}
    cells: dict[str, Any] = {"recompute": "selective" if modules else "none", "recompute_modules": ";".join(modules)}
    # Offload follows the layout (FSDP): a recipe of another layout does not tell.
    if same and recipe["cpu_offloading"]:
        cells["offload"] = f"activation_layers={recipe['cpu_offloading']}"
    return cells


def _finish(row: dict[str, Any]) -> None:
    row["schedule"] = "interleaved" if row["vpp"] > 1 and row["pp"] > 1 else "1f1b"
    if row["pp"] == 1:
        row["vpp"] = 1


def _noted(note: str, more: str) -> str:
    return f"{note}; {more}" if note else more
