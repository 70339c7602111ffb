"""Published serving results in the ledger's own form: `python -m perfmodel.validation.convert_serving FOLDER`.

One row is one figure. What is left out is counted with its reason in `published/serving/left_out.toml`.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["COLUMNS", "convert"]

COLUMNS = (
    "model", "cluster", "tp", "pp", "prompt_tokens", "output_tokens", "concurrency", "weights", "kv_cache", "software",
    "batching", "arrivals", "metric", "measured", "calibrates", "version", "cited",
    "routing",
)  # fmt: skip
Row = dict[str, Any]
_STATIC_MODELS = {
    "LLaMA 7B": "llama-7b",
    "LLaMA 70B": "llama-2-70b",
    "Mistral 7B": "mistral-7b",
    "Falcon 180B": "falcon-180b",
    "Mixtral 8x7B": "mixtral-8x7b",
    "GPT-6.7B": "gpt3-6.7b",
    "GPT-175B": "gpt3-175b",
}
_CLUSTERS = {
    "A100": "dgx-a100-80gb",
    "H100": "dgx-h100",
    "L40S": "pcie-l40s-8",
    "h100_sxm": "dgx-h100",
    "h200_sxm": "dgx-h200",
    "b200_sxm": "dgx-b200",
}
_WIDE_MODELS = {"meta-llama/Llama-3.1-70B": "llama-3.1-70b", "Qwen/Qwen3-32B": "qwen3-32b"}
_ENGINES = {"trtllm": "tensorrt-llm-2025", "vllm": "vllm-2025", "sglang": "sglang-2025"}
_METRICS = {"output_throughput_per_gpu": 1.0, "ttft": 1e-3, "e2e_latency": 1e-3}
_STATIC_KEYS = ("model", "accelerator", "tp", "pp", "isl", "osl", "batch_or_concurrency", "metric_name")


def convert(folder: Path) -> tuple[dict[str, list[Row]], Counter[tuple[str, str]]]:
    """Rows by source, and how many were left out by (table, reason)."""
    left: Counter[tuple[str, str]] = Counter()
    sources: dict[str, list[Row]] = {}
    for row in _read(folder / "serving.csv"):
        found = _static(row)
        _keep(sources, left, row["source_id"], found)
    for row in _latest(_read(folder / "serving_wide.csv"), left):
        for found in _wide(row):
            _keep(sources, left, "serving_wide", found)
    return sources, left


def _keep(
    sources: dict[str, list[Row]], left: Counter[tuple[str, str]], table: str, found: tuple[str, Row] | str
) -> None:
    if isinstance(found, str):
        left[table, found] += 1
    else:
        sources.setdefault(found[0], []).append(found[1])


def _static(row: Mapping[str, str]) -> tuple[str, Row] | str:
    source = row["source_id"]
    if source == "argonne_llm_inference_bench":
        return "Argonne: not brought over yet"
    if source == "trtllm_v0.17":
        return "v0.17: maximum load of unknown batch"
    if row["metric_name"] not in _METRICS:
        return "GPU memory: not scored yet"
    if row["engine"] == "Megatron":
        return "Megatron's own inference, printed for comparison"
    model = _STATIC_MODELS.get(row["model"])
    if model is None:
        return f"{row['model']}: its sizes are not in the zoo"
    if "0.7" in row["engine_version"]:
        return "0.7.x: printed again in the 0.8 documents, not measured again"
    return (_trt_static if source == "trtllm_static" else _faster_transformer)(row, model)


def _base(row: Mapping[str, str], model: str) -> Row:
    return {
        "model": model,
        "tp": int(float(row["tp"])),
        "pp": int(float(row["pp"])),
        "prompt_tokens": int(float(row["isl"])),
        "output_tokens": int(float(row["osl"])),
        "concurrency": int(float(row["batch_or_concurrency"])),
        "weights": row["precision_w"],
        "kv_cache": row["precision_kv"],
        "batching": "static",
        "arrivals": "burst",
        "version": row["engine_version"],
        "cited": row["source_url_or_repo_path"],
        "routing": "random",
    }


def _trt_static(row: Mapping[str, str], model: str) -> tuple[str, Row]:
    first = row["metric_name"] == "ttft"
    part = "-l40s" if row["accelerator"] == "L40S" else ""
    value = float(row["metric_value"]) * _METRICS[row["metric_name"]]
    # One model of one size fixes what no kernel table holds: the host's part of a call, and of a step in a long answer.
    one = model == "llama-7b" and row["isl"] == "128" and not part and row["engine_version"] == "0.9.0"
    calibrates = one and (first or row["osl"] == "2048")
    return f"trtllm-static{'-ttft' if first else '-throughput'}{part}", _base(row, model) | {
        "cluster": _CLUSTERS[row["accelerator"]],
        "software": "tensorrt-llm-2024",
        "metric": "ttft_s" if first else "output_tokens_per_s_per_accelerator",
        "measured": value,
        "calibrates": int(calibrates),
        # Engines were built from a configuration alone (trtllm-build --model_config): weights drawn about a mean that is
        # not zero (tensorrt_llm/parameter.py), which makes the hidden states of all tokens one direction.
        "routing": "alike",
    }


def _faster_transformer(row: Mapping[str, str], model: str) -> tuple[str, Row]:
    return "fastertransformer", _base(row, model) | {
        "cluster": "dgx-a100-80gb",
        "software": "fastertransformer-2023",
        "metric": "request_latency_s",
        "measured": float(row["metric_value"]) * 1e-3,
        "calibrates": int(model == "gpt3-6.7b" and row["batch_or_concurrency"] in ("1", "1.0")),
    }


def _latest(rows: Iterator[Mapping[str, str]], left: Counter[tuple[str, str]]) -> list[Mapping[str, str]]:
    """Of equal configurations the one measured last."""
    keys = ("model", "system", "backend", "precision", "isl", "osl", "tp_size", "concurrency")
    newest: dict[tuple[str, ...], Mapping[str, str]] = {}
    for row in sorted(rows, key=lambda one: (one["measured"], one["backend_version"])):
        key = tuple(row[name] for name in keys)
        if key in newest:
            left["serving_wide", "an equal configuration was measured later"] += 1
        newest[key] = row
    return list(newest.values())


def _wide(row: Mapping[str, str]) -> Iterator[tuple[str, Row] | str]:
    if row["wip"] == "True":
        yield "marked as work in progress"
    elif row["system"] not in _CLUSTERS:
        yield "GB200: not brought over yet; most rows print no precision"
    elif not row["concurrency"]:
        yield "concurrency not given"
    else:
        yield from _wide_rows(row)


def _wide_rows(row: Mapping[str, str]) -> Iterator[tuple[str, Row]]:
    model = _WIDE_MODELS[row["model"]]
    llama = model.startswith("llama")
    weights = {"fp8": "fp8", "fp4": "nvfp4"}.get(row["precision"], "bf16")
    concurrency, tp = int(float(row["concurrency"])), int(float(row["tp_size"]))
    # The two ends of the load on the largest group, where kernels are shortest: what is left is the host.
    ends = (4, 64) if llama else (16, 64)
    lengths = ("1024",) if llama else ("512", "128")
    calibrates = tp == 8 and row["isl"] == "1024" and concurrency in ends and row["osl"] in lengths
    base = {
        "model": model,
        "cluster": _CLUSTERS[row["system"]],
        "tp": tp,
        "pp": int(float(row["pp_size"])),
        "prompt_tokens": int(row["isl"]),
        "output_tokens": int(row["osl"]),
        "concurrency": concurrency,
        "weights": weights,
        # Quantised checkpoints carry scales of an 8-bit cache, which both engines then use: at 16 bits, 64 requests of
        # 9216 tokens that one B200 served without a queue would not fit.
        "kv_cache": "bf16" if weights == "bf16" else "fp8",
        "software": _ENGINES[row["backend"]],
        "batching": "continuous",
        "arrivals": _arrivals(row, llama, tp),
        "calibrates": int(calibrates),
        "version": row["backend_version"],
        "cited": f"aiconfigurator 0.12, {row['origin']}, {row['id']}",
        "routing": "random",
    }
    name = "llama-70b" if llama else "qwen3-32b"
    for metric, column in (("tpot", "silicon_tpot_ms"), ("ttft", "silicon_ttft_ms")):
        value = float(row[column]) * 1e-3
        yield f"wide-{name}-{metric}", base | {"metric": f"{metric}_s", "measured": value}


def _arrivals(row: Mapping[str, str], llama: bool, tp: int) -> str:
    """The protocol of a campaign's load generator, a whole group at a time (docs/validation.md says how it was read).

    The source does not print it: SGLang's TTFT is that of one burst; those of TensorRT-LLM on Qwen3, and on Llama with
    1024 prompt and answer tokens and tp < 8, are four prefills and more already at the smallest concurrency.
    """
    if row["backend"] == "sglang":
        return "burst"
    together = not llama or (row["isl"] == row["osl"] and tp < 8)
    return "lockstep" if row["backend"] == "trtllm" and together else "closed-loop"


def _read(path: Path) -> Iterator[Mapping[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _write(sources: Mapping[str, list[Row]], left: Counter[tuple[str, str]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in sources.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {"measured": f"{row['measured']:.6g}"} for row in rows)
    text = "# Written by `python -m perfmodel.validation.convert_serving`: rows that are not scored, and why.\n"
    for (table, reason), count in sorted(left.items()):
        text += f'\n[[left_out]]\ntable = "{table}"\nreason = "{reason}"\nrows = {count}\n'
    (folder / "left_out.toml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _write(*convert(Path(sys.argv[1])), Path(__file__).parent / "published" / "serving")
