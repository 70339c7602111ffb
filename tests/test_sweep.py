"""Sweeps: equal to single runs on every executor, and whole again after a kill anywhere."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import perfmodel as pm
from perfmodel.errors import OutOfRangeError, PlanError, SpecError
from perfmodel.predict.frames import row_of
from perfmodel.study.grid import grid_of, read_grid
from perfmodel.study.journal import Journal
from perfmodel.study.pool import over, over_processes
from perfmodel.study.sweep import answers_of
from perfmodel.study.work import answer_rows

BASE = {"model": "llama-3.1-8b", "accelerators": 64, "micro_batch": 1}
AXES: dict[str, Any] = {
    "cluster": ["dgx-h100", "dgx-h200"],
    "tp": [1, 2, 3],
    "dp": 8,
    "load": [
        {"label": "short", "global_batch": 64, "seq_len": 2048},
        {"label": "long", "global_batch": 32, "seq_len": 8192},
    ],
}
GRID_TOML = """
[scenario]
model = "llama-3.1-8b"
cluster = "dgx-h100"
accelerators = 64
dp = 8
[axes]
tp = [1, 2, 4]
global_batch = [32, 64, 128, 256]
seq_len = [1024, 2048, 3072, 4096]
recompute = ["none", "selective", "full"]
"""
ROWS = 3 * 4 * 4 * 3


@pytest.fixture(scope="module")
def alone() -> pd.DataFrame:
    return pm.sweep(AXES, base=BASE)


def test_a_sweep_is_its_single_runs(alone: pd.DataFrame) -> None:
    keys = ["cluster", "tp", "dp", "load", "global_batch", "seq_len"]
    assert list(alone)[:6] == keys
    assert list(alone)[-1] == "error"
    assert len(alone) == 12
    assert alone["load"].tolist()[:4] == ["short", "long"] * 2
    for _, row in alone.iterrows():
        own = {key: row[key] for key in keys if key != "load"}
        if row["tp"] == 3:
            assert row["error"] == "PlanError: tp: must divide n_heads 32 (got 3); allowed: 1, 2, 4, 8, 16, 32"
            assert pd.isna(row["step_time_s"])
            continue
        wanted = row_of(pm.load_scenario(BASE | own).run().to_dict())
        assert {key: row[key] for key in wanted} == wanted
        assert row["error"] is None or pd.isna(row["error"])
    assert alone["n_microbatches"].dtype == "Int64"
    assert alone["fits"].dtype == "boolean"


class Inline(Executor):
    """The least that an executor is: `submit`, here done at once."""

    def submit(self, work: Any, /, *args: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **keywords))
        except Exception as error:
            future.set_exception(error)
        return future


def test_any_executor_gives_the_same_table(alone: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(pm.sweep(AXES, base=BASE, executor=Inline()), alone, check_exact=True)
    with ThreadPoolExecutor(3) as threads:
        pd.testing.assert_frame_equal(pm.sweep(AXES, base=BASE, executor=threads), alone, check_exact=True)


def test_processes_and_the_death_of_one(alone: pd.DataFrame) -> None:
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if done and not killed and (children := multiprocessing.active_children()):
            killed.append(children[0].pid or 0)
            children[0].kill()

    found = pm.sweep(AXES, base=BASE, workers=2, progress=kill_one)
    assert killed
    pd.testing.assert_frame_equal(found, alone, check_exact=True)


def deadly(rows: Sequence[int]) -> list[dict[str, Any]]:
    """A row that takes its process with it."""
    if 3 in rows:
        os.kill(os.getpid(), signal.SIGKILL)
    return [{"row": row, "threads": os.environ["OMP_NUM_THREADS"]} for row in rows]


def test_a_row_that_kills_its_worker_keeps_that_as_its_error() -> None:
    chunks = [[0, 1], [2, 3], [4, 5]]
    found = {
        row: answer
        for chunk, answers in over_processes(chunks, lambda pool, chunk: pool.submit(deadly, chunk), 1)
        for row, answer in zip(chunk, answers, strict=True)
    }
    assert sorted(found) == [*range(6)]
    assert "WorkerDied" in found[3]["error"]
    assert all(found[row] == {"row": row, "threads": "1"} for row in (0, 1, 2, 4, 5))


def test_what_an_executor_cannot_take_becomes_an_error_or_goes_back() -> None:
    def unsendable(executor: Executor, chunk: Sequence[int]) -> Future[Any]:
        def work() -> list[dict[str, Any]]:
            if 1 in chunk:
                raise TypeError("cannot be sent")
            return [{"row": row} for row in chunk]

        return executor.submit(work)

    found = list(over(Inline(), deque([[0, 1], [2]]), unsendable))
    wanted = [([0], [{"row": 0}]), ([1], [{"error": "TypeError: cannot be sent"}]), ([2], [{"row": 2}])]
    assert sorted(found) == wanted

    def broken(executor: Executor, chunk: Sequence[int]) -> Future[Any]:
        if chunk == [2]:
            raise BrokenExecutor
        return Future()  # never done

    waiting = deque([[0, 1], [2], [3]])
    with pytest.raises(BrokenExecutor):
        list(over(Inline(), waiting, broken))
    assert list(waiting) == [[0, 1], [2], [3]]


def test_workers_of_another_version_are_refused() -> None:
    with pytest.raises(PlanError, match=r"worker: has perfmodel .* the sweep 0.0 with data x"):
        answer_rows("estimate training", [], ("0.0", "x"))


def test_a_defect_in_one_row_stays_in_it() -> None:
    frame = pm.sweep({"accelerator": ["h100-sxm"], "m": [128, "many"], "n": 128, "k": 128})
    assert pd.isna(frame["error"][0])
    assert "m" in frame["error"][1]


def test_axes_of_hardware_objects_and_numpy() -> None:
    import numpy as np

    h100 = pm.load_cluster("dgx-h100", 8)
    base = {"model": "llama-3.1-8b", "global_batch": 8, "seq_len": 2048, "tp": 8}
    frame = pm.sweep({"cluster": [h100], "hbm_byte_per_s": np.array([2e12, 4e12]), "seq_len": range(1024, 4096, 1024)}
                     , base={key: base[key] for key in ("model", "global_batch", "tp")})  # fmt: skip
    assert frame["cluster"].tolist() == ["dgx-h100"] * 6
    assert frame["error"].isna().all()
    assert (frame["step_time_s"][:3].to_numpy() > frame["step_time_s"][3:].to_numpy()).all()
    estimate = pm.load_scenario(base | {"cluster": h100}).run()
    again = pm.sweep({"tp": [8, 4]}, base=estimate)
    assert again["step_time_s"][0] == estimate.step_time_s
    plans = pm.sweep({"objective": ["time", "memory"]}, base=pm.load_scenario(estimate).with_(question="plan training"))
    assert plans["feasible"].all()
    assert plans["memory_total_bytes"][1] <= plans["memory_total_bytes"][0]
    served = pm.sweep(
        {"workload": [{"prompt_tokens": 512, "output_tokens": 64}, {"prompt_tokens": 64, "output_tokens": 512}],
         "concurrency": [1, 8]}, base={"model": "llama-3.1-8b", "cluster": h100, "tp": 1},
    )  # fmt: skip
    assert served["tpot_s"].notna().all()
    loads = [pm.Workload(prompt_tokens=512, output_tokens=n, arrival_rate_per_s=4.0) for n in (64, 256)]
    deployments = pm.sweep(
        {"model": ["llama-3.1-8b", "llama-3.1-70b"], "workload": loads},
        base={"question": "plan serving", "cluster": "dgx-h200", "ttft_s": 1.0, "tpot_s": 0.05},
    )
    assert deployments["feasible"].all()
    assert (deployments["mode"] == "aggregated").all()
    assert deployments["output_tokens"].tolist() == [64, 256] * 2
    assert deployments["tpot_s"][0] < deployments["tpot_s"][2]
    layouts = pm.sweep({"layout": [pm.ParallelLayout(tp=8), {"tp": 4, "dp": 2}]}, base={k: v for k, v in estimate.request.items() if k != "layout"})  # fmt: skip  # noqa: E501
    assert layouts["tp"].tolist() == [8, 4]


@pytest.mark.parametrize(
    ("axes", "base", "said"),
    [
        ({"tpp": [1]}, BASE | {"global_batch": 1, "seq_len": 1, "tp": 1}, "unknown key 'tpp'; nearest: 'tp'"),
        ({"tp": []}, BASE, "axes: tp: is empty"),
        (
            {"tp": [1], "group": [{"tp": 2, "dp": 1}]},
            BASE | {"global_batch": 1, "seq_len": 8},
            "is in two axes, tp and",
        ),
        ({"group": [{"tpp": 2}]}, BASE | {"global_batch": 1, "seq_len": 8, "tp": 1}, "axes: group: "),
        ([1], BASE, "axes: must be a table"),
        ({"tp": [1]}, {}, "question: missing"),
        ({"question": "estimate it", "tp": [1]}, {}, "unknown question 'estimate it'"),
        ({key: [*range(1, 1001)] for key in ("tp", "dp", "pp")}, BASE | {"global_batch": 1, "seq_len": 8}, "at most"),
    ],
)
def test_bad_grids_are_told_why(axes: Any, base: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        pm.sweep(axes, base=base)


def test_bad_arguments_are_told_why() -> None:
    with pytest.raises(OutOfRangeError, match="workers: must be a whole number >= 1"):
        pm.sweep(AXES, base=BASE, workers=0)
    with pytest.raises(PlanError, match="workers, executor: give one"):
        pm.sweep(AXES, base=BASE, workers=2, executor=Inline())


def test_a_grid_file_and_its_document(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID_TOML)
    grid = read_grid(tmp_path / "grid.toml")
    assert (len(grid), grid.question.name) == (ROWS, "estimate training")
    (tmp_path / "again.json").write_text(json.dumps({"document": "perfmodel/sweep/1", "request": grid.request()}))
    assert read_grid(tmp_path / "again.json").digest() == grid.digest()
    (tmp_path / "base.toml").write_text(GRID_TOML.split("[axes]")[0].replace("[scenario]", "") + "global_batch = 8\n")
    (tmp_path / "named.toml").write_text('scenario = "base.toml"\n[axes]\nseq_len = [1024, 2048]\n')
    named = read_grid(tmp_path / "named.toml")
    assert (len(named), named.base["global_batch"], named.values(1)["seq_len"]) == (2, 8, 2048)
    for text, said in (
        ("[axis]\ntp = 1", "unknown key 'axis'; nearest: 'axes'"),
        ("[scenario]\ntp = 1", "axes: missing"),
    ):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(SpecError, match=said):
            read_grid(tmp_path / "bad.toml")


def test_other_files_are_another_grid(tmp_path: Path) -> None:
    model = tmp_path / "config.json"
    config = {"model_type": "llama", "hidden_size": 64}
    model.write_text(json.dumps(config))
    axes = {"tp": [1], "model": [str(model)]}
    base = {"cluster": "dgx-h100", "global_batch": 1, "seq_len": 8}
    digest = grid_of(axes, base).digest()
    assert grid_of(axes, base).digest() == digest
    model.write_text(json.dumps(config | {"hidden_size": 128}))
    assert grid_of(axes, base).digest() != digest


def test_a_journal_goes_on_and_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    grid, file = grid_of(AXES, BASE), tmp_path / "journal"
    whole = answers_of(grid, resume=file)
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + len(grid)
    # Killed in the middle of a line: that row runs again, the others do not.
    file.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    reports: list[int] = []
    assert answers_of(grid, resume=file, progress=lambda done, total: reports.append(done)) == whole
    assert reports[0] == 4
    rows = [json.loads(line)["row"] for line in file.read_bytes().splitlines()[1:]]
    assert sorted(rows) == [*range(len(grid))]
    # Killed in the first line, or before it.
    for head in (b"", lines[0][:10]):
        file.write_bytes(head)
        assert answers_of(grid, resume=file) == whole
    with pytest.raises(PlanError, match=r"holds rows of another sweep \(grid"):
        answers_of(grid_of(AXES | {"tp": [1]}, BASE), resume=file)
    with Journal(file, grid.digest(), len(grid)), pytest.raises(PlanError, match="another run is writing it"):
        answers_of(grid, resume=file)
    file.write_text("no journal\n")
    with pytest.raises(PlanError, match="is no journal"):
        answers_of(grid, resume=file)
    assert file.read_text() == "no journal\n"
    file.write_text('{"some": "json"}\n')
    with pytest.raises(PlanError, match="is no journal"):
        answers_of(grid, resume=file)
    with pytest.raises(PlanError, match="cannot be written"):
        answers_of(grid, resume=tmp_path / "missing" / "journal")


def _status(pid: str) -> str:
    try:
        return Path("/proc", pid, "status").read_text()
    except OSError:
        return "State:\tZ"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_run_goes_on_and_loses_nothing(workers: str, tmp_path: Path, cli: Any) -> None:
    grid, journal = tmp_path / "grid.toml", tmp_path / "out.csv.journal"
    grid.write_text(GRID_TOML)
    words = [
        sys.executable,
        "-m",
        "perfmodel",
        "sweep",
        str(grid),
        "-o",
        str(tmp_path / "out.csv"),
        "--workers",
        workers,
    ]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    children: list[str] = []
    try:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 12:
            assert process.poll() is None, "it should be killed before it ends"
            time.sleep(0.01)
        below = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = below.read_text().split() if below.exists() else []
    finally:
        process.kill()
        process.wait()
    # Nobody works on for a run that is gone.
    while any(Path("/proc", child).exists() and "State:\tZ" not in _status(child) for child in children):
        time.sleep(0.01)
    kept = [json.loads(line)["row"] for line in journal.read_bytes().splitlines()[1:] if line.endswith(b"}")]
    assert 0 < len(kept) < ROWS
    assert not (tmp_path / "out.csv").exists()
    code, out, err = cli("sweep", str(grid), "-o", str(tmp_path / "out.csv"), "--workers", "1")
    assert (code, out) == (2, "")
    assert "--resume goes on" in err
    assert cli("sweep", str(grid), "-o", str(tmp_path / "out.csv"), "--resume", "--workers", "1").code == 0
    assert not journal.exists()
    assert cli("sweep", str(grid), "-o", str(tmp_path / "whole.csv"), "--workers", "1").code == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(pd.read_csv(tmp_path / "out.csv")) == ROWS


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_whose_worker_is_killed(alone: pd.DataFrame) -> None:
    distributed = pytest.importorskip("distributed")
    axes = AXES | {"dp": [1, 2, 4, 8], "micro_batch": [1, 2]}
    base = {key: value for key, value in BASE.items() if key != "micro_batch"}
    wanted = pm.sweep(axes, base=base)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            killed: list[int] = []

            def kill_one(done: int, total: int) -> None:
                if done and not killed:
                    killed.append(next(iter(client.run(os.getpid).values())))
                    os.kill(killed[0], signal.SIGKILL)

            found = pm.sweep(axes, base=base, executor=client.get_executor(pure=False), progress=kill_one)
        assert killed
        pd.testing.assert_frame_equal(found, wanted, check_exact=True)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_the_command_on_a_dask_cluster(tmp_path: Path, cli: Any) -> None:
    distributed = pytest.importorskip("distributed")
    (tmp_path / "grid.toml").write_text(GRID_TOML)
    words = ["sweep", str(tmp_path / "grid.toml"), "-o"]
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        assert cli(*words, str(tmp_path / "dask.csv"), "--dask", address).code == 0
    assert cli(*words, str(tmp_path / "own.csv"), "--workers", "1").code == 0
    assert (tmp_path / "dask.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()
