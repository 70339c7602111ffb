"""`python -m perfmodel.calibrate.machine.steps`: whole training and decode steps on a GPU, as `measured` entries.

Each entry holds what was run, its times, and what `estimate_training` and the fitted kernels say of it on a description
that `perfmodel calibrate --device cuda` wrote. No constant is fitted here: the ratios are validation.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perfmodel.calibrate.machine.measuring import REPEATS, sample_of
from perfmodel.calibrate.machine.operations import Operation
from perfmodel.errors import PerfModelError, PlanError
from perfmodel.predict.records import Record

__all__ = ["DECODES", "TRAININGS", "MeasuredStep", "StepShape", "main", "measured_steps", "predicted_step"]


@dataclass(frozen=True, slots=True)
class StepShape:
    """A decoder of equal layers and what one step of it works on; `kv_len` 0 is a training step."""

    n_layers: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    batch: int
    seq_len: int
    kv_len: int = 0

    @property
    def is_training(self) -> bool:
        """Whether the step trains; else it decodes one token of each sequence."""
        return self.kv_len == 0

    def model(self) -> dict[str, Any]:
        """The decoder as a model description."""
        return {
            "model_type": "llama", "hidden_size": self.d_model, "intermediate_size": self.d_ff,
            "num_hidden_layers": self.n_layers, "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads, "vocab_size": self.vocab_size,
            "max_position_embeddings": max(self.seq_len, self.kv_len + 1), "tie_word_embeddings": False,
        }  # fmt: skip


TRAININGS = (
    StepShape(8, 2048, 5632, 16, 16, 32000, batch=4, seq_len=2048),
    StepShape(8, 4096, 14336, 32, 8, 32000, batch=1, seq_len=4096),
    StepShape(16, 2048, 8192, 32, 8, 32000, batch=8, seq_len=1024),
)
DECODES = (
    StepShape(16, 4096, 14336, 32, 8, 32000, batch=1, seq_len=1, kv_len=2048),
    StepShape(16, 4096, 14336, 32, 8, 32000, batch=32, seq_len=1, kv_len=2048),
    StepShape(16, 4096, 14336, 32, 8, 32000, batch=64, seq_len=1, kv_len=8192),
)


class MeasuredStep(Record):
    """One step: its shape, median and percentiles [s], and what the description predicts [s]."""

    kind: str = "measured"
    what: str
    shape: dict[str, int]
    seconds: float
    p10_s: float
    p90_s: float
    repeats: int
    predicted_s: float
    ratio: float


def predicted_step(shape: StepShape, cluster: Any) -> float:
    """Seconds of a step on one accelerator of a description; raises `SpecError` and `PlanError`."""
    from perfmodel.predict.serving.estimate import estimate_serving
    from perfmodel.predict.training import estimate_training

    if shape.is_training:
        estimate = estimate_training(
            shape.model(), cluster, layout={"tp": 1, "pp": 1, "dp": 1, "micro_batch": shape.batch},
            global_batch=shape.batch, seq_len=shape.seq_len, precision="bf16", software="torchtitan-2025",
        )  # fmt: skip
        return estimate.step_time_s
    # Two output tokens: the second is one decode step over the prompt's keys.
    served = estimate_serving(
        shape.model(), cluster, layout={"tp": 1}, prompt_tokens=shape.kv_len, output_tokens=2, concurrency=shape.batch,
        weights="bf16", batching="static",
    )  # fmt: skip
    return served.tpot_s


def measured_steps(
    run: Callable[[StepShape, int], Sequence[float]],
    cluster: Any,
    shapes: Sequence[StepShape] = (*TRAININGS, *DECODES),
    repeats: int = REPEATS,
) -> Iterator[MeasuredStep]:
    """The entries of `shapes`, which `run` runs on the device; a step whose description fails stops before it runs."""
    predictions = [predicted_step(shape, cluster) for shape in shapes]
    for shape, predicted_s in zip(shapes, predictions, strict=True):
        what = "training step" if shape.is_training else "decode step"
        sample = sample_of(Operation(what, "bf16", ()), run(shape, repeats))
        yield MeasuredStep(
            what=what, shape=asdict(shape), seconds=sample.seconds, p10_s=sample.p10_s, p90_s=sample.p90_s,
            repeats=sample.repeats, predicted_s=predicted_s, ratio=predicted_s / sample.seconds,
        )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the steps on GPU 0 and write their entries; 0 when done, else the error's code."""
    parser = argparse.ArgumentParser(prog="python -m perfmodel.calibrate.machine.steps")
    parser.add_argument("--cluster", required=True, help="the description that `perfmodel calibrate` wrote")
    parser.add_argument("-o", "--output", required=True, help="JSON file for the entries")
    options = parser.parse_args(arguments)
    try:
        from perfmodel.calibrate.machine.torch_steps import run_step
        from perfmodel.specs.cluster import load_cluster

        if not Path(options.output).parent.is_dir():
            raise PlanError(f"-o {options.output}: cannot be written: no such folder")
        cluster = load_cluster(options.cluster)
        entries = []
        for step in measured_steps(run_step, cluster):
            print(f"{step.what} {step.shape}: {1e3 * step.seconds:.2f} ms, ratio {step.ratio:.3f}", file=sys.stderr)
            entries.append(step.to_dict())
    except PerfModelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    source = {"device": cluster.accelerator.name, "description": cluster.id}
    document = {"document": "perfmodel/measured-steps/1", "source": source, "entries": entries}
    Path(options.output).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
