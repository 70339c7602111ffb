"""`python -m perfmodel.validation.convert_traces FOLDER`: public traces as the small files of `perfmodel/data/traces`.

Rule: every request of the Azure and Mooncake traces; of ShareGPT every eighth line from the first. Times are rounded to
the millisecond and kept as differences; the hashes of Mooncake's blocks become the tokens that an unbounded prefix
cache holds of a prompt. Nothing is left out by what a model makes of it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.specs.trace import TRACE_FOLDER, Requests, load_trace

__all__ = ["SHIPPED", "convert"]

SHIPPED = {
    "azure-conversation": ("AzureLLMInferenceTrace_conv.csv.gz", 1),
    "azure-code": ("AzureLLMInferenceTrace_code.csv.gz", 1),
    "mooncake-conversation": ("conversation_trace.jsonl.gz", 1),
    "sharegpt": ("nanoflow_sharegpt.csv.gz", 8),
}
"""Id: the public file, and which lines are kept (every so-many-th)."""
_MILLISECONDS = 1000.0


def convert(folder: Path, into: Path = TRACE_FOLDER) -> None:
    """Write the small files from the public ones in `folder`."""
    into.mkdir(parents=True, exist_ok=True)
    for id, (name, every) in SHIPPED.items():
        _write(into / f"{id}.npz", load_trace(folder / name).requests, every)


def _write(path: Path, requests: Requests, every: int) -> None:
    arrival_ms = np.round(requests.arrival_s * _MILLISECONDS).astype(np.int64)[::every]
    columns = {
        "gap_ms": np.diff(arrival_ms, prepend=0) if len(arrival_ms) else arrival_ms,
        "prompt_tokens": requests.prompt_tokens[::every],
        "output_tokens": requests.output_tokens[::every],
    }
    if requests.cached_tokens.any():
        columns["cached_tokens"] = requests.cached_tokens[::every]
    small: dict[str, Any] = {name: _small(values) for name, values in columns.items()}
    np.savez_compressed(path, **small)


def _small(values: np.ndarray) -> np.ndarray:
    """The narrowest whole numbers that hold these."""
    most = int(values.max(initial=0))
    return values.astype(next(kind for kind in ("u1", "u2", "u4", "u8") if most <= np.iinfo(kind).max))


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
