"""How the tables of `published/power` were made: `python -m perfmodel.validation.convert_power DIR`.

Zeus: mean over repeated runs of a job at a limit; the four GPUs in one table. ML.ENERGY: the chat task alone, and of it
only the columns that a check uses. Splitwise: its cells as they are, without those derived from others (H100 capped).
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean

__all__ = ["convert"]

FOLDER = Path(__file__).parent / "published" / "power"
_ZEUS = "# Zeus, trace summaries of training jobs under power limits, https://github.com/ml-energy/zeus (Apache-2.0)"
_ML_ENERGY = "# ML.ENERGY leaderboard v3, chat task, H100; 177 measured rows, taken as facts that a check uses"
_SPLITWISE = "# splitwise-sim at 8f99e7d, perf_model.csv, medians, https://github.com/Mutinifni/splitwise-sim (MIT)"
_JOB = ("dataset", "network", "batch_size", "optimizer")


def convert(source: Path) -> None:
    """Write the three tables from the files in `source`."""
    _write("zeus.csv", _ZEUS, _zeus(source))
    _write("mlenergy-h100.csv", _ML_ENERGY, _ml_energy(source))
    _write("splitwise.csv", _SPLITWISE, _splitwise(source))


def _zeus(source: Path) -> Iterable[Mapping[str, object]]:
    for gpu in ("v100", "a40", "rtx6000", "p100"):
        runs: dict[tuple[str, ...], list[tuple[float, float]]] = defaultdict(list)
        for row in _rows(source / f"zeus_summary_power_{gpu}.csv"):
            job = (*(row[key] for key in _JOB), row["power_limit"])
            runs[job].append((float(row["time_per_epoch"]), float(row["average_power"])))
        for job, values in sorted(runs.items(), key=lambda item: (item[0][:2], int(item[0][2]), item[0][3:])):
            named = dict(zip((*_JOB, "limit_w"), job, strict=True))
            seconds, watts = (fmean(value) for value in zip(*values, strict=True))
            yield {"gpu": gpu} | named | {"epoch_s": f"{seconds:.5g}", "mean_w": f"{watts:.4g}"}


def _ml_energy(source: Path) -> Iterable[Mapping[str, object]]:
    for row in _rows(source / "mlenergy_h100.csv"):
        if row["task"] == "lm-arena-chat":
            yield {
                "model": row["model_id"],
                "gpus": row["num_gpus"],
                "precision": row["weight_precision"],
                "architecture": row["architecture"],
                "params": f"{1e9 * float(row['total_params_billions']):.6g}",
                "active_params": f"{1e9 * float(row['activated_params_billions']):.6g}",
                "batch": f"{float(row['avg_batch_size']):.5g}",
                "output_tokens": f"{float(row['avg_output_len']):.5g}",
                "tokens_per_s": f"{float(row['output_throughput_tokens_per_sec']):.6g}",
                "watts": f"{float(row['avg_power_watts']):.6g}",
                "j_per_token": f"{float(row['energy_per_token_joules']):.6g}",
            }


def _splitwise(source: Path) -> Iterable[Mapping[str, object]]:
    for row in _rows(source / "splitwise_sim_perf_power.csv"):
        if row["hardware"] != "h100-80gb-pcap":
            yield {
                "model": row["model"],
                "hardware": row["hardware"],
                "tp": row["tensor_parallel"],
                "prompt_tokens": row["prompt_size"],
                "batch": row["batch_size"],
                "output_tokens": row["token_size"],
                "peak_share": f"{float(row['peak_power']):.4g}",
                "mean_share": f"{float(row['average_power']):.4g}",
                "prompt_s": f"{float(row['prompt_time']) / 1e3:.5g}",
                "token_s": f"{float(row['token_time']) / 1e3:.5g}",
            }


def _rows(path: Path) -> Iterable[Mapping[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _write(name: str, head: str, rows: Iterable[Mapping[str, object]]) -> None:
    table = list(rows)
    with (FOLDER / name).open("w", encoding="utf-8", newline="") as file:
        file.write(f"{head}\n")
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
