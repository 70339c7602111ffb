"""Messages that many rows share are those that each row would have alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import perfmodel as pm
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.levels import lean_at_levels
from perfmodel.predict.training_task import TrainingTask, training_task


def task_of(model: str) -> TrainingTask:
    return training_task(model, pm.load_cluster("dgx-h100", accelerators=4096), global_batch=512, seq_len=4096)


def rows_of(zero_stage: int, replicas: int, ep: tuple[float, ...]) -> Degrees:
    """Sixty rows that repeat eight meshes with other micro-batches."""
    rng = np.random.default_rng(7)
    kinds = rng.integers(0, 8, 60)

    def column(values: Any) -> Any:
        return np.array(values, dtype=np.float64)[kinds].reshape(-1, 1, 1)

    dp = column([8, 8, 16, 16, 32, 64, 8, 32])
    shards = np.maximum(dp / 2.0 ** np.arange(replicas).reshape(1, -1, 1), 1.0) if zero_stage else dp
    return Degrees(
        tp=column([8, 4, 8, 4, 2, 1, 8, 2]),
        pp=column([4, 8, 4, 4, 2, 2, 8, 4]),
        dp=dp,
        vpp=1.0,
        micro_batch=rng.integers(1, 5, 60).astype(np.float64).reshape(-1, 1, 1),
        shards=shards,
        ep=column(ep),
        zero_stage=zero_stage,
        recompute="full",
    )


@pytest.mark.parametrize(("model", "ep"), [("llama-3.1-70b", (1.0,) * 8), ("mixtral-8x7b", (8, 8, 4, 2, 8, 8, 1, 4))])
@pytest.mark.parametrize("zero_stage", [0, 1, 3])
@pytest.mark.parametrize("counts", [1, 3, 9])
def test_rows_alike_share_their_messages(model: str, ep: tuple[float, ...], zero_stage: int, counts: int) -> None:
    task = task_of(model)
    d = rows_of(zero_stage, 3, ep)
    full = np.ceil(task.model.n_layers / d.pp) + np.minimum(np.arange(float(counts)), 2.0)

    def messages(of: Degrees, layers: Any) -> Any:
        return task.steps.data_parallel(of).messages(layers)

    found, alone = lean_at_levels(messages, d, full), messages(d, full).lean()
    for name in ("gradients", "weights", "updated"):
        one, other = (np.asarray(getattr(each, name).seconds) for each in (found, alone))
        shape = np.broadcast_shapes(one.shape, other.shape)
        np.testing.assert_allclose(np.broadcast_to(one, shape), np.broadcast_to(other, shape), rtol=1e-13)
    assert float(np.max(found.gradients.seconds)) > 0


def test_each_kind_of_row_is_priced_once() -> None:
    d, priced = rows_of(1, 1, (1.0,) * 8), []
    task = task_of("llama-3.1-70b")

    def messages(of: Degrees, layers: Any) -> Any:
        priced.append(len(layers))
        return task.steps.data_parallel(of).messages(layers)

    lean_at_levels(messages, d, 10.0 + 0.0 * d.pp)
    assert priced == [8]
