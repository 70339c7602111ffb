"""What the model says for one printed number: a step, a layer phase or a share of activation memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from perfmodel.formulas.overlap import host_exposed_time, straggler_slowdown
from perfmodel.predict.activations import activation_bytes_of_layer
from perfmodel.predict.cost import Cost, total
from perfmodel.predict.kinds import kind_parts
from perfmodel.predict.layer import Layer
from perfmodel.predict.records import TrainingEstimate
from perfmodel.predict.share import Share
from perfmodel.predict.step import StepModel
from perfmodel.predict.training import estimate_training
from perfmodel.predict.training_task import training_task
from perfmodel.predict.uncertainty import interval_of
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.huggingface import load_model
from perfmodel.specs.software import Software, load_software
from perfmodel.validation.sources import Row, model_of

__all__ = [
    "TABLE_4",
    "Prediction",
    "estimate_row",
    "layer_phase_time",
    "layer_row_time",
    "layer_steps",
    "layer_times",
    "predict",
]

# The cases that Korthikanti et al. 2022 Table 4 times: (recompute, sequence_parallel).
TABLE_4 = (("none", False), ("none", True), ("full", False), ("selective", False), ("selective", True))


@dataclass(frozen=True)
class Prediction:
    """A predicted value in base units; for steps also what baselines and intervals need.

    `peak_s` is the time of the step's hardware FLOPs at the dense peak, `model_flop_per_s` its model FLOPs per second
    and accelerator.
    """

    value: float
    interval: tuple[float, float] | None = None
    fits: bool | None = None
    widened_by: tuple[str, ...] = ()
    peak_s: float | None = None
    model_flop_per_s: float | None = None


def predict(row: Row, source_id: str) -> Prediction:
    """The prediction for a row; raises `PerfModelError` where the model declines."""
    return _PREDICTORS[row.metric](row, source_id)


def layer_steps(
    software: str | Software = "megatron-2022",
    model: str = "megatron-22b",
    cluster: str = "dgx-a100-80gb",
    *,
    tp: int = 8,
    micro_batch: int = 4,
    seq_len: int = 2048,
    precision: str = "fp16",
) -> StepModel:
    """The step model of one layer timing, on `tp` accelerators."""
    machine = load_cluster(cluster, accelerators=tp)
    task = training_task(
        model, machine, global_batch=micro_batch, seq_len=seq_len, precision=precision, software=software
    )
    return task.steps.with_(steady=False)


def layer_times(
    steps: StepModel, *, tp: int = 8, micro_batch: int = 4, seq_len: int = 2048
) -> dict[tuple[str, bool, str], float]:
    """Seconds of the ten layer timings of Korthikanti Table 4 by (recompute, sequence_parallel, phase)."""
    sizes = {"tp": tp, "micro_batch": micro_batch, "seq_len": seq_len}
    return {
        (recompute, shards, phase): layer_phase_time(
            steps, phase=phase, recompute=recompute, sequence_parallel=shards, **sizes
        )
        for recompute, shards in TABLE_4
        for phase in ("forward", "backward")
    }


def layer_phase_time(
    steps: StepModel, *, phase: str, recompute: str, sequence_parallel: bool, tp: int, micro_batch: int, seq_len: int
) -> float:
    """Seconds of one phase of one layer on `tp` accelerators that wait for each other; backward recomputes first."""
    block = steps.layer(Share(float(micro_batch), seq_len, float(tp), sequence_parallel=sequence_parallel))
    host_s = float(steps.software.host_layer_s)
    slow = straggler_slowdown(float(tp), steps.relative_spread)
    forward = _phase_time(block, block.forward, host_s, slow)
    if phase == "forward":
        return forward
    backward = _phase_time(block, block.backward, host_s * float(steps.software.host_backward_ratio), slow)
    if recompute == "full":
        return backward + forward
    if recompute == "selective" and steps.software.attention == "unfused":
        return backward + (1.0 + slow) * float(block.forward["attention_core"].seconds)
    return backward


def layer_row_time(steps: StepModel, row: Row) -> float:
    """Seconds of the layer phase that a row times."""
    return layer_phase_time(
        steps,
        phase="forward" if row.metric == "layer_forward_time" else "backward",
        recompute=row.recompute,
        sequence_parallel=row.sequence_parallel,
        tp=row.tp,
        micro_batch=row.micro_batch,
        seq_len=row.seq_len,
    )


def _phase_time(block: Layer, phase: dict[str, Cost], host_s: float, slow: float) -> float:
    device_s, all_s = float(block.device(phase).seconds), float(total(phase.values()).seconds)
    return all_s + slow * device_s + float(host_exposed_time(all_s, host_s))


def estimate_row(row: Row, software: Software | None = None) -> TrainingEstimate:
    """The prediction of a row, by its own software generation or another."""
    return estimate_training(
        model_of(row),
        load_cluster(row.cluster, accelerators=row.accelerators),
        layout=row.layout(),
        global_batch=row.global_batch,
        seq_len=row.seq_len,
        precision=row.precision,
        software=software or row.software,
        optimizer=row.optimizer,
    )


def _step_time(row: Row, source_id: str) -> Prediction:
    estimate, experts = estimate_row(row), model_of(row).n_experts > 1
    return Prediction(
        value=estimate.step_time_s,
        interval=interval_of(estimate.step_time_s, estimate.warnings, leave_out=source_id, experts=experts),
        fits=estimate.fits,
        widened_by=tuple(sorted({warning.formula for warning in estimate.warnings})),
        peak_s=estimate.hfu * estimate.step_time_s,
        model_flop_per_s=estimate.model_flop_per_s_per_accelerator,
    )


def _peak_memory(row: Row, source_id: str) -> Prediction:
    return Prediction(estimate_row(row).memory_bytes.total)


def _layer_phase(row: Row, source_id: str) -> Prediction:
    steps = layer_steps(
        row.software,
        row.model,
        row.cluster,
        tp=row.tp,
        micro_batch=row.micro_batch,
        seq_len=row.seq_len,
        precision=row.precision,
    )
    return Prediction(layer_row_time(steps, row))


def _activation_share(row: Row, source_id: str) -> Prediction:
    model, software = load_model(row.model), load_software(row.software)

    def kept_bytes(sequence_parallel: bool, recompute: str) -> float:
        share = Share(float(row.micro_batch), row.seq_len, float(row.tp), sequence_parallel=sequence_parallel)
        return float(
            activation_bytes_of_layer(model, software, share, row.precision, kind_parts(model, 0.0), recompute)
        )

    return Prediction(kept_bytes(row.sequence_parallel, row.recompute) / kept_bytes(False, "none"))


_PREDICTORS: dict[str, Callable[[Row, str], Prediction]] = {
    "step_time": _step_time,
    "hardware_flop_per_s_per_accelerator": _step_time,
    "model_flop_per_s_per_accelerator": _step_time,
    "tokens_per_s_per_accelerator": _step_time,
    "samples_per_s_per_accelerator": _step_time,
    "peak_memory": _peak_memory,
    "layer_forward_time": _layer_phase,
    "layer_backward_time": _layer_phase,
    "activation_share_of_tensor_parallel": _activation_share,
}
