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

from perfmodel.specs.architecture import BYTE_PER_VALUE
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.huggingface import load_model

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
    "GPT-J 6B": "gpt-j-6b",
    "GPT-6.7B": "gpt3-6.7b",
    "GPT-20B": "gpt-20b",
    "GPT-175B": "gpt3-175b",
}
_CLUSTERS = {
    "A100": "dgx-a100-80gb",
    "H100": "dgx-h100",
    "H200": "dgx-h200",
    "L40S": "pcie-l40s-8",
    # Polaris: four A100 of 40 GB a node (docs.alcf.anl.gov/polaris/hardware-overview/machine-overview).
    "Nvidia A100 GPU": "dgx-a100-40gb",
    "Nvidia H100 GPU": "dgx-h100",
    "A100-SXM4-80GB": "dgx-a100-80gb",
    "H100 80GB": "dgx-h100",
    "h100_sxm": "dgx-h100",
    "h200_sxm": "dgx-h200",
    "b200_sxm": "dgx-b200",
}
_WIDE_MODELS = {"meta-llama/Llama-3.1-70B": "llama-3.1-70b", "Qwen/Qwen3-32B": "qwen3-32b"}
_ARGONNE_MODELS = {
    "meta-llama/Llama-2-7b-hf": "llama-2-7b",
    "meta-llama/Llama-2-70b-hf": "llama-2-70b",
    "meta-llama/Meta-Llama-3-8B": "llama-3-8b",
    "meta-llama/Meta-Llama-3-70B": "llama-3-70b",
    "mistralai/Mistral-7B-v0.1": "mistral-7b",
    "mistralai/Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "Qwen/Qwen2-7B": "qwen2-7b",
    "Qwen/Qwen2-72B": "qwen2-72b",
}
_ARGONNE_ENGINES = {"vLLM": ("vllm", "vllm-2024"), "TensorRT-LLM": ("trtllm", "tensorrt-llm-2024")}
_ARGONNE_KEYS = (
    "model", "accelerator", "engine", "tp", "pp", "precision_w", "precision_kv", "isl", "osl", "batch_or_concurrency",
)  # fmt: skip
# Thinned by a rule on the load alone: a third of five lengths and the ends and middle of four batches.
_ARGONNE_LOADS = ({"128", "512", "2048"}, {"1", "16", "64"})
_MAXIMUM_MODELS = {
    "LLaMA v3.1 8B": "llama-3.1-8b",
    "LLaMA v3.1 70B": "llama-3.1-70b",
    "Mistral 7B": "mistral-7b",
    "Mixtral 8x7B": "mixtral-8x7b",
    "Mixtral 8x22B": "mixtral-8x22b",
}
# More requests than any engine holds: the batch is what its cache and limits allow.
_MAXIMUM_LOAD = 8192
_TYPED = Path(__file__).parent / "published" / "serving_typed" / "trtllm-0.9.0.csv"
_ENGINES = {"trtllm": "tensorrt-llm-2025", "vllm": "vllm-2025", "sglang": "sglang-2025"}
_METRICS = {"output_throughput_per_gpu": 1.0, "ttft": 1e-3, "e2e_latency": 1e-3}


def convert(folder: Path) -> tuple[dict[str, list[Row]], Counter[tuple[str, str]]]:
    """Rows by source, and how many were left out by (table, reason)."""
    left: Counter[tuple[str, str]] = Counter()
    sources: dict[str, list[Row]] = {}
    seen: set[tuple[str, ...]] = set()
    for row in _read(folder / "serving.csv"):
        found = _static(row)
        if not isinstance(found, str) and found[0].startswith("argonne"):
            key = tuple(row[name] for name in _ARGONNE_KEYS)
            found = "an equal configuration stands in another table of the source" if key in seen else found
            seen.add(key)
        _keep(sources, left, row["source_id"], found)
    for row in _read(_TYPED):
        _keep(sources, left, "trtllm_static", _trt_typed(row))
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
        return _argonne(row)
    if source == "trtllm_v0.17":
        return _maximum_load(row)
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


def _argonne(row: Mapping[str, str]) -> tuple[str, Row] | str:
    lengths, batches = _ARGONNE_LOADS
    if row["metric_name"] != "e2e_latency" or row["isl"] != row["osl"]:
        return "power, and two figures whose answer length is presumed"
    if row["engine"] not in _ARGONNE_ENGINES:
        return f"{row['engine']}: no generation of it is described"
    model = _ARGONNE_MODELS.get(row["model"])
    if model is None:
        return "models with one row to 61 that the zoo does not hold, or one row alone"
    if not row["tp"] or row["ep"] not in ("1", "1.0"):
        return "tensor-parallel degree not given"
    if row["precision_w"] == "int8" or row["precision_kv"] == "int8" or _narrow_on_ampere(row):
        return "formats without kernel table: integer caches, and 8-bit caches on the A100"
    if row["isl"].split(".")[0] not in lengths or row["batch_or_concurrency"].split(".")[0] not in batches:
        return "thinned: lengths of 256 and 1024, batches of 32"
    name, software = _ARGONNE_ENGINES[row["engine"]]
    base = _base(row, model) | {"cluster": _CLUSTERS[row["accelerator"]]}
    if float(row["metric_value"]) < _least_s(base):
        return "faster than memory can bring the weights once a token"
    # The smallest model at one length on one accelerator: host work shows where kernels are short.
    calibrates = software == "vllm-2024" and model == "llama-2-7b" and base["prompt_tokens"] == 128 and base["tp"] == 1
    return f"argonne-{name}", base | {
        "software": software,
        "metric": "request_latency_s",
        "measured": float(row["metric_value"]),
        "calibrates": int(calibrates),
    }


def _least_s(base: Row) -> float:
    """The time of an answer at the full bandwidth of memory, active weights alone."""
    part = load_cluster(base["cluster"]).accelerator
    held = load_model(base["model"]).n_active_params * BYTE_PER_VALUE[base["weights"]] / (base["tp"] * base["pp"])
    return float(base["output_tokens"] * held / part.hbm_byte_per_s)


def _narrow_on_ampere(row: Mapping[str, str]) -> bool:
    return row["precision_kv"] == "fp8" and "A100" in row["accelerator"]


def _maximum_load(row: Mapping[str, str]) -> tuple[str, Row] | str:
    model = _MAXIMUM_MODELS.get(row["model"])
    if model is None:
        return f"{row['model']}: its sizes are not in the zoo"
    base = _base(dict(row) | {"batch_or_concurrency": str(_MAXIMUM_LOAD)}, model)
    return "trtllm-maximum-load", base | {
        "cluster": _CLUSTERS[row["accelerator"]],
        "software": "tensorrt-llm-2025",
        "batching": "continuous",
        "arrivals": "closed-loop",
        "metric": "output_tokens_per_s_per_accelerator",
        # Printed as the total over all accelerators.
        "measured": float(row["metric_value"]) / (base["tp"] * base["pp"]),
        "calibrates": 0,
    }


def _trt_typed(row: Mapping[str, str]) -> tuple[str, Row]:
    """Rows of the 0.9.0 page that the collected table lacks: the H200, and Mixtral on three parts."""
    # Under the heading "FP8", but 8-bit experts came with 0.10 (its release notes): these ran in 16 bits.
    precision = "fp16" if row["model"] == "Mixtral 8x7B" else "fp8"
    full = dict(row) | {
        "pp": "1", "precision_w": precision, "precision_kv": precision, "engine_version": "0.9.0",
        "source_url_or_repo_path": "NVIDIA/TensorRT-LLM@250d9c29:docs/source/performance.md",
    }  # fmt: skip
    _, found = _trt_static(full, _STATIC_MODELS[row["model"]])
    kind = "ttft" if row["metric_name"] == "ttft" else "throughput"
    part = "mixtral" if row["model"] == "Mixtral 8x7B" else "h200"
    return f"trtllm-static-{kind}-{part}", found | {"calibrates": 0}


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
        # Engines were built from a configuration alone (trtllm-build --model_config): weights are drawn about a mean
        # that is not zero (tensorrt_llm/parameter.py), so the hidden states of all tokens become one direction.
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
        yield "GB200: no precision or no concurrency; its TPOT falls from 42 to 28 ms as the batch grows from 1 to 4"
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
