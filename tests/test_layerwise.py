"""Layers and recomputation stage by stage: priced as its definition says, and the best of them found."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import perfmodel as pm
from perfmodel.cli.main import main
from perfmodel.plan.layerwise import stage_by_stage
from perfmodel.plan.limits import limits_of
from perfmodel.plan.pricing import Query
from perfmodel.plan.search import search
from perfmodel.plan.space import space_of
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.training_task import TrainingTask, degrees_of, training_task

LAYERS, BATCH, SEQ_LEN = 7, 8, 8192
SMALL = {
    "model_type": "llama",
    "num_hidden_layers": LAYERS,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 8192,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
}
"""With three accelerators a pipeline of it leaves none for other degrees."""
CASE = ("--model", "llama-2-13b", "--cluster", "consumer-rtx-3090", "--accelerators", "16", "--global-batch", "64",
        "--seq-len", "4096")  # fmt: skip


def small_task(accelerators: int = 3) -> TrainingTask:
    cluster = pm.load_cluster("dgx-h100", accelerators=accelerators)
    return training_task(SMALL, cluster, global_batch=BATCH, seq_len=SEQ_LEN)


def priced(task: TrainingTask, layout: ParallelLayout) -> tuple[float, float]:
    step = task.steps.price(degrees_of(layout, LAYERS), BATCH, SEQ_LEN, detail=False)
    return float(step.seconds), float(step.memory.total)


def every_layout(pp: int, micro_batch: int) -> list[ParallelLayout]:
    """All layers in all ways on the stages, and of each stage all numbers recomputed."""
    return [
        ParallelLayout(
            pp=pp, micro_batch=micro_batch, zero_stage=0, sequence_parallel=False, stage_layers=stages,
            recompute="full", recompute_layers=again,
        )
        for stages in product(range(LAYERS + 1), repeat=pp)
        if sum(stages) == LAYERS
        for again in product(*(range(layers + 1) for layers in stages))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def everything() -> list[tuple[float, float]]:
    task = small_task()
    return [
        priced(task, layout)
        for pp, micro_batch in product((2, 3), (1, 2, 4))
        for layout in every_layout(pp, micro_batch)
    ]


@pytest.mark.parametrize("limit_gb", [6.3, 6.4, 6.6, 7.0, 7.2, 7.8, 8.3, 30.0])
def test_the_best_of_all_stages_is_found(limit_gb: float, everything: list[tuple[float, float]]) -> None:
    """Against every layout of a small model, one by one: nothing better within the memory."""
    task = small_task()
    limits = (replace(limits_of(task, limit_gb * 1e9, None, None, None)[0]),)
    fits = [seconds for seconds, held in everything if held <= limit_gb * 1e9]
    query = Query.of(task, "time", limits)
    found = search(task, space_of(task, ("1f1b",)), query)
    assert bool(fits) or not found.fitting
    if not found.fitting:
        return
    plain = float(found.columns["value"][0])
    layered = stage_by_stage(query, found.loads, found.unplaced, plain)
    seconds, held = (plain, 0.0) if layered.layout is None else priced(task, layered.layout)
    assert held <= limit_gb * 1e9
    assert seconds <= plain
    assert seconds == pytest.approx(min([plain, *fits]), rel=1e-6)
    assert layered.solved <= layered.meshes
    if limit_gb in (6.4, 7.2, 7.8):  # memory asks recomputation of early stages alone
        assert layered.layout is not None


def test_one_number_for_all_is_that_number_on_every_stage() -> None:
    case = {"global_batch": 8, "seq_len": 4096}
    cluster = pm.load_cluster("dgx-h100", accelerators=32)
    base = {"tp": 8, "pp": 4, "stage_layers": (20,) * 4, "recompute": "full"}

    def estimated(**layout: object) -> tuple[float, ...]:
        one = pm.estimate_training("llama-2-70b", cluster, layout=base | layout, **case)  # type: ignore[arg-type]
        return one.step_time_s, one.memory_bytes.total, one.hfu, one.energy_j_per_step

    for number in (1, 12, 20):
        each = estimated(recompute_layers=[number] * 4)
        assert each == pytest.approx(estimated(recompute_layers=number), rel=1e-12)
    assert estimated(recompute_layers=[0] * 4) == pytest.approx(estimated(recompute="none"), rel=1e-12)


def test_each_stage_pays_for_its_own() -> None:
    """A stage beside the slowest adds its part to the bubble alone; memory falls where it is fullest."""
    task = small_task()
    base = {"pp": 3, "zero_stage": 0, "sequence_parallel": False, "stage_layers": (2, 3, 2), "recompute": "full"}
    times = {again: priced(task, ParallelLayout(**base, recompute_layers=again)) for again in
             ((0, 0, 0), (0, 1, 0), (0, 1, 1), (2, 1, 1))}  # fmt: skip
    none, pace, bubble, memory = times.values()
    assert none[0] < pace[0] < bubble[0] < memory[0]
    # The last stage keeps one micro-batch; the first keeps three, and of two layers.
    assert pace[1] == bubble[1] > memory[1]
    # Of the second stage's pace every micro-batch waits, of the others' only the bubble.
    assert bubble[0] - pace[0] < (pace[0] - none[0]) / 3


def test_plan_says_what_stage_by_stage_would_gain(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan_file = tmp_path / "plan.json"
    assert main(["plan", "training", *CASE, "--schedules", "1f1b", "-o", str(plan_file)]) == 0
    plan = json.loads(plan_file.read_text())
    found = plan["layerwise"]
    assert found["step_time_s"] < plan["prediction"]["step_time_s"]
    assert found["step_change"] == pytest.approx(found["step_time_s"] / plan["prediction"]["step_time_s"] - 1)
    capsys.readouterr()
    layout = found["layout"]
    shape = [f"--{key}={layout[key]}" for key in ("tp", "pp", "dp")] + ["--zero-stage", str(layout["zero_stage"])]
    stages = [
        f"--{key.replace('_', '-')}={','.join(map(str, layout[key]))}" for key in ("stage_layers", "recompute_layers")
    ]
    switch = "--sequence-parallel" if layout["sequence_parallel"] else "--no-sequence-parallel"
    assert main(["estimate", "training", *CASE, *shape, *stages, switch, "--recompute", "full", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["step_time_s"] == pytest.approx(found["step_time_s"])
    assert again["memory_bytes"]["total"] == pytest.approx(found["memory_bytes"])
    assert main(["plan", "training", "-f", str(plan_file)]) == 0
    assert "Stage by stage" in capsys.readouterr().out


def test_export_refuses_what_no_flag_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    layout = ["--tp=2", "--pp=8", "--stage-layers=5,5,5,5,5,5,5,5", "--recompute=full"]
    estimate = str(tmp_path / "estimate.json")
    assert main(["estimate", "training", *CASE, *layout, "--recompute-layers=4,3,2,1,0,0,0,0", "-o", estimate]) == 0
    assert main(["export", "--to", "megatron", estimate]) == 2
    assert "recompute_layers: Megatron repeats as many layers on every stage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"recompute_layers": (1, 2)}, "pp = 3 numbers"),
        ({"recompute_layers": (3, 0, 0)}, "from 0 to the layers of each stage [2, 3, 2]"),
        ({"recompute_layers": (1, 1, 1), "stage_layers": None}, "needs stage_layers"),
        ({"recompute_layers": (1, 1, 1), "schedule": "zb-h1"}, "needs stage_layers and schedule 'gpipe' or '1f1b'"),
        ({"recompute_layers": (1, 1, 1), "recompute": "none"}, "needs recompute 'full'"),
        ({"recompute_layers": 0}, "must be 1 or more"),
    ],
)
def test_bad_numbers_are_refused(layout: dict[str, object], words: str) -> None:
    base = {"pp": 3, "stage_layers": (2, 3, 2), "recompute": "full", "sequence_parallel": False}
    with pytest.raises(pm.PlanError, match="recompute_layers") as error:
        pm.estimate_training(
            SMALL,
            pm.load_cluster("dgx-h100", accelerators=3),
            layout=base | layout,
            global_batch=BATCH,
            seq_len=SEQ_LEN,
        )
    assert words in str(error.value)
