"""Makes our ledger from collected tables: `python -m perfmodel.validation.convert FOLDER`.

FOLDER holds one CSV per publication, one metric of one configuration a line. Nothing reads it at run or test time: what
is written to `published/training` is shipped. Rules look at sizes and at the tables' own consistency, never at a
prediction. A row that contradicts itself stays out, with its reason printed here and listed in roles.toml.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perfmodel.validation.convert_bridge import bridge_rows
from perfmodel.validation.ledger import COLUMNS, Converted, contradiction, digits_of, grouped, keyed, read_table
from perfmodel.validation.sources import PUBLISHED

__all__ = ["MAKERS", "convert", "main"]

GIVEN_TOLERANCE = 0.01  # how far two printed rates of one configuration may lie apart
_MPT_POSITIONS = 2048  # learned positions of the zoo's MPT; a run has as many as its sequence is long


class _Place(NamedTuple):
    """Where one table of llm-foundry's page was measured."""

    source: str
    cluster: str
    peak: float


_FOUNDRY = {
    "A100 80GB with 1600 Gbps node-node interconnect (RoCE)": _Place("llm-foundry-a100", "dgx-a100-80gb", 312.0),
    "H100 80GB BF16": _Place("llm-foundry-h100", "dgx-h100", 989.0),
    "H100 80GB BF16 (Large Scale, >= 128 GPUs)": _Place("llm-foundry-h100", "dgx-h100", 989.0),
}
_FOUNDRY_KEY = ("table_or_figure", "model_name", "seq_len", "n_accel", "mbs", "gbs", "precision", "notes")


def foundry_rows(folder: Path, source: str) -> Converted:
    """MPT with FSDP: tokens per second and accelerator, the printed rate that needs no definition of FLOPs."""
    kept: list[dict[str, Any]] = []
    left: list[str] = []
    cases = keyed(read_table(folder / "llm_foundry.csv"), (*_FOUNDRY_KEY, "recompute", "zero_stage_or_fsdp"))
    cases = {key: metrics for key, metrics in cases.items() if _FOUNDRY[key[0]].source == source}
    for metrics in cases.values():
        cell = metrics["tokens_per_s_per_accel"]
        place = _FOUNDRY[cell["table_or_figure"]]
        row = _foundry_row(cell, place)
        accumulated = int(re.findall(r"GradAccum=(\d+)", cell["notes"])[0])
        attention = 12.0 * int(cell["n_layers"]) * int(cell["d_model"]) * int(cell["seq_len"])
        per_token = 6.0e9 * float(cell["params_b"]) + attention
        mfu = float(cell["metric_value"]) * per_token / (place.peak * 1e12)
        fault = contradiction(row)
        if accumulated * row["dp"] * row["micro_batch"] != row["global_batch"]:
            fault = "accumulation times micro-batch is not the printed batch"
        if abs(mfu / float(metrics["mfu"]["metric_value"]) - 1.0) > GIVEN_TOLERANCE:
            fault = "tokens/s and MFU disagree"
        _sort(row, fault, kept, left)
    return Converted(len(cases), grouped(kept), left)


def _foundry_row(cell: Mapping[str, str], place: _Place) -> dict[str, Any]:
    model, accelerators = cell["model_name"].lower(), int(cell["n_accel"])
    changes = "" if int(cell["seq_len"]) == _MPT_POSITIONS else f"max_seq_len={cell['seq_len']}"
    pure = "FSDP MP mode PURE" in cell["notes"]
    where = f"{cell['table_or_figure']}: {cell['model_name']}, sequence {cell['seq_len']}, {accelerators} GPUs"
    return _row(
        source="github.com/mosaicml/llm-foundry@8c8dd48f72",
        where=f"{where}, micro-batch {cell['mbs']}, batch {cell['gbs']}",
        model=model,
        model_changes=changes,
        cluster=place.cluster,
        accelerators=accelerators,
        dp=accelerators,
        micro_batch=int(cell["mbs"]),
        global_batch=int(cell["gbs"]),
        seq_len=int(cell["seq_len"]),
        precision="bf16",
        recompute=cell["recompute"],
        sequence_parallel="false",
        zero_stage=2 if "ZeRO-2" in cell["zero_stage_or_fsdp"] else 3,
        software="fsdp-2024",
        metric="tokens_per_s_per_accelerator",
        value=cell["metric_value"],
        unit="tokens/s",
        digits=digits_of(cell["metric_value"]),
        note="pure bf16: no fp32 copy of weights or gradients" if pure else "",
    )


def vtrain_rows(folder: Path) -> Converted:
    """One row of each of the 36 cells (tp, pp, micro-batch): most layers, then largest batch, then most GPUs."""
    sizes = ("accelerators", "global_batch", "micro_batch", "d_model", "n_heads", "n_layers", "seq_len")
    names = (*sizes, "tp", "dp", "pp", "ms")
    with (folder / "vtrain_single_node.csv").open(encoding="utf-8", newline="") as lines:
        cells = [dict(zip(names, line, strict=True)) for line in list(csv.reader(lines))[1:]]
    best: dict[tuple[int, ...], dict[str, str]] = {}
    for cell in cells:
        key = (int(cell["tp"]), int(cell["pp"]), int(cell["micro_batch"]))
        if key not in best or _vtrain_work(cell) > _vtrain_work(best[key]):
            best[key] = cell
    kept: list[dict[str, Any]] = []
    for cell_of, cell in sorted(best.items()):
        row = _row(
            source="github.com/VIA-Research/vTrain",
            where=f"cell tp {cell_of[0]}, pp {cell_of[1]}, micro-batch {cell_of[2]}: {cell['n_layers']} layers, "
            f"{cell['accelerators']} GPUs, batch {cell['global_batch']}",
            model="vtrain-355m",
            cluster="dgx-a100-80gb",
            precision="fp16",
            recompute="full",
            sequence_parallel="false",
            zero_stage=0,
            software="megatron-2021",
            metric="step_time",
            value=cell["ms"],
            unit="ms",
            digits=digits_of(cell["ms"]),
            **{name: int(cell[name]) for name in ("accelerators", "global_batch", "micro_batch", "seq_len")},
            **{name: int(cell[name]) for name in ("tp", "dp", "pp")},
        )
        _sort(row, contradiction(row), kept, [])
    return Converted(len(cells), grouped(kept), [f"{len(cells) - len(kept)} rows: their cell is scored once"])


def _vtrain_work(cell: Mapping[str, str]) -> tuple[int, ...]:
    return tuple(int(cell[name]) for name in ("n_layers", "global_batch", "accelerators"))


def zero_bubble_rows(folder: Path, metric: str) -> Converted:
    """1F1B and interleaved 1F1B of the zero-bubble paper; memory once per model and schedule, where batches agree."""
    table = [cell for cell in read_table(folder / "pipeline_schedules.csv") if cell["source_id"] == "zero_bubble_pp"]
    wanted = "samples_per_s_per_accel" if metric == "samples_per_s_per_accelerator" else "peak_mem_per_accel"
    kept: list[dict[str, Any]] = []
    left: list[str] = []
    seen: set[tuple[str, str, str]] = set()
    cells = [cell for cell in table if cell["metric_name"] == wanted]
    for cell in sorted(cells, key=lambda cell: (cell["model_name"], cell["vp"], int(cell["gbs"]))):
        name = re.findall(r"schedule=([^;]+)", cell["notes"])[0]
        value, once = cell["metric_value"], (cell["model_name"], name, cell["metric_value"])
        # Trailing zeros got lost in transcription: the table has three digits from 1 on and two below.
        digits = digits_of(value) if metric == "peak_memory" else 3 if float(value) >= 1 else 2
        row = _row(
            source="arXiv:2401.10241",
            where=f"Table 4: {cell['model_name']}, {name}, {int(cell['gbs']) // int(cell['mbs'])} micro-batches",
            model=cell["model_name"].lower().replace("gpt-", "zb-"),
            cluster="dgx-a100-80gb",
            accelerators=int(cell["n_accel"]),
            pp=int(cell["pp"]),
            vpp=int(cell["vp"]),
            micro_batch=int(cell["mbs"]),
            global_batch=int(cell["gbs"]),
            seq_len=int(cell["seq_len"]),
            precision="fp16",
            recompute="none",
            sequence_parallel="false",
            zero_stage=0,
            schedule="interleaved" if name == "1F1B-I" else "1f1b",
            software="megatron-2023",
            metric=metric,
            value=value,
            unit=cell["metric_unit"].removesuffix("/accel"),
            digits=digits,
            note="RoCE between nodes is priced as InfiniBand of the same rate; vocabulary assumed",
        )
        repeated = metric == "peak_memory" and once in seen
        _sort(row, "the same bytes at a smaller batch" if repeated else contradiction(row), kept, left)
        seen.add(once)
    return Converted(len(cells), grouped(kept), left)


_SIMUMAX = {
    "llama3-70b (truncated to 12 layers)": ("llama-3-70b", "n_layers=12"),
    "llama3-405b (truncated to 4 layers)": ("llama-3.1-405b", "n_layers=4"),
    "deepseek-v2 (truncated to 4 layers)": ("deepseek-v2", "n_layers=4"),
    "deepseek-v3 (truncated to 4 layers)": ("deepseek-v3", "n_layers=4;first_k_dense=1;mtp_layers=0"),
}


def simumax_rows(folder: Path, metric: str) -> Converted:
    """Truncated models on eight B200; the authors reuse one memory run for both batches, so memory stands once."""
    table = [cell for cell in read_table(folder / "pipeline_schedules.csv") if cell["source_id"] == "simumax_b200"]
    wanted = "step_time" if metric == "step_time" else "peak_mem_per_accel_gib"
    kept: list[dict[str, Any]] = []
    left: list[str] = []
    cells = [cell for cell in table if cell["metric_name"] == wanted]
    for cell in cells:
        model, changes = _SIMUMAX[cell["model_name"]]
        # The page prints milliseconds and GiB with two decimals; the collected table holds seconds as binary floats.
        value = f"{float(cell['metric_value']) * (1e3 if wanted == 'step_time' else 1.0):.2f}"
        row = _row(
            source="github.com/MooreThreads/SimuMax@1b8ca90bec",
            where=cell["table_or_figure"],
            model=model,
            model_changes=changes,
            cluster="dgx-b200",
            ep=int(cell["ep"] or 1),
            accelerators=int(cell["n_accel"]),
            **{name: int(cell[name]) for name in ("tp", "pp", "dp")},
            micro_batch=int(cell["mbs"]),
            global_batch=int(cell["gbs"]),
            seq_len=int(cell["seq_len"]),
            precision="bf16",
            recompute="none",
            sequence_parallel="true",
            zero_stage=1,
            overlap="false",
            software="megatron-core-2025",
            metric=metric,
            value=value,
            unit="ms" if wanted == "step_time" else "GiB",
            digits=digits_of(value),
        )
        repeated = metric == "peak_memory" and "mbc8" in cell["table_or_figure"]
        _sort(row, "the memory run of four micro-batches reused" if repeated else contradiction(row), kept, left)
    return Converted(len(cells), grouped(kept), left)


def nanotron_rows(folder: Path, metric: str) -> Converted:
    """A 1B model on eight H100: medians of the logs."""
    wanted = "step_time" if metric == "step_time" else "peak_mem_per_accel_gib"
    kept: list[dict[str, Any]] = []
    left: list[str] = []
    cases = keyed(read_table(folder / "nanotron.csv"), ("source_url_or_repo_path",))
    for metrics in cases.values():
        cell = metrics[wanted]
        tokens = int(cell["gbs"]) * int(cell["seq_len"])
        rate = 9.09e9 * tokens / (8.0 * float(metrics["step_time"]["metric_value"]) * 1e12)
        row = _row(
            source="huggingface.co/nanotron/old_bench",
            where=re.findall(r"llama-1B/8_GPUS/[^/]+", cell["source_url_or_repo_path"])[0],
            model="nanotron-1b",
            cluster="dgx-h100",
            accelerators=int(cell["n_accel"]),
            **{name: int(cell[name]) for name in ("tp", "pp", "dp")},
            micro_batch=int(cell["mbs"]),
            global_batch=int(cell["gbs"]),
            seq_len=int(cell["seq_len"]),
            precision="bf16",
            recompute="none",
            sequence_parallel="true",
            zero_stage=0,
            software="nanotron-2024",
            metric=metric,
            value=cell["metric_value"],
            unit=cell["metric_unit"],
            digits=digits_of(cell["metric_value"]),
            note="sizes inferred; ZeRO stage and sequence parallelism assumed",
        )
        agrees = abs(rate / float(metrics["model_tflops_per_accel"]["metric_value"]) - 1.0) < 2 * GIVEN_TOLERANCE
        _sort(row, contradiction(row) if agrees else "step time and TFLOP/s disagree", kept, left)
    return Converted(len(cases), grouped(kept), left)


MAKERS: dict[str, Callable[[Path], Converted]] = {
    "llm-foundry-a100": lambda folder: foundry_rows(folder, "llm-foundry-a100"),
    "llm-foundry-h100": lambda folder: foundry_rows(folder, "llm-foundry-h100"),
    "megatron-bridge-dense": lambda folder: bridge_rows(folder, experts=False),
    "megatron-bridge-moe": lambda folder: bridge_rows(folder, experts=True),
    "vtrain-single-node": vtrain_rows,
    "zero-bubble-step": lambda folder: zero_bubble_rows(folder, "samples_per_s_per_accelerator"),
    "zero-bubble-memory": lambda folder: zero_bubble_rows(folder, "peak_memory"),
    "simumax-step": lambda folder: simumax_rows(folder, "step_time"),
    "simumax-memory": lambda folder: simumax_rows(folder, "peak_memory"),
    "nanotron-step": lambda folder: nanotron_rows(folder, "step_time"),
    "nanotron-memory": lambda folder: nanotron_rows(folder, "peak_memory"),
}


def convert(folder: Path, target: Path = PUBLISHED / "training") -> dict[str, Converted]:
    """Write every table that comes from `folder` to `target`; what was made, by source."""
    made = {name: make(folder) for name, make in MAKERS.items()}
    for name, table in made.items():
        with (target / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(table.rows)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; prints given, kept and left out per source."""
    parser = argparse.ArgumentParser(prog="python -m perfmodel.validation.convert", description=convert.__doc__)
    parser.add_argument("folder", type=Path, help="where the collected tables lie")
    for name, table in convert(parser.parse_args(arguments).folder).items():
        print(f"{name}: {table.given} given, {len(table.rows)} kept")
        for line in table.left_out:
            print(f"    {line}")
    return 0


def _row(**cells: Any) -> dict[str, Any]:
    return {"tp": 1, "pp": 1, "dp": 1, "cp": 1, "ep": 1, "etp": 1, "vpp": 1, "schedule": "1f1b"} | cells


def _sort(row: dict[str, Any], fault: str, kept: list[dict[str, Any]], left: list[str]) -> None:
    if fault:
        left.append(f"{row['where']}: {fault}")
    else:
        kept.append(row)


if __name__ == "__main__":
    sys.exit(main())
