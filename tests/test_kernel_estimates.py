"""`estimate_gemm`, `estimate_attention`, `estimate_collective`: answers, shapes, refusals, and their command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.cli.kernels import roofline_lines
from perfmodel.cli.main import main
from perfmodel.errors import PlanError
from perfmodel.predict.kernel_documents import KernelEstimate, describe_attention, describe_collective, describe_gemm
from perfmodel.validation.kernel_scores import run_kernels

POD = pm.load_cluster("dgx-h100", accelerators=64)
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")


# Answers


def test_scalars_give_floats_and_arrays_give_float64_arrays_that_broadcast() -> None:
    assert type(pm.estimate_gemm("h100-sxm", 4096, 4096, 4096)) is float
    m = np.array([[1], [64], [4096]])
    grid = pm.estimate_gemm("h100-sxm", m, [1024, 8192], 4096)
    assert isinstance(grid, np.ndarray)
    assert (grid.shape, grid.dtype) == ((3, 2), np.float64)
    for i, rows in enumerate(m[:, 0].tolist()):
        for j, columns in enumerate((1024, 8192)):
            assert grid[i, j] == pytest.approx(pm.estimate_gemm("h100-sxm", rows, columns, 4096), rel=1e-12, abs=0)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_attention_broadcasts_too(phase: str) -> None:
    lengths = np.array([1024, 4096, 16384])
    together = pm.estimate_attention("a100-sxm-80gb", phase, batch=8, seq_len=lengths)
    alone = [pm.estimate_attention("a100-sxm-80gb", phase, batch=8, seq_len=int(n)) for n in lengths]
    assert np.asarray(together).tolist() == pytest.approx(alone, rel=1e-12, abs=0)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_collective_is_priced_inside_and_out_of_a_node(operation: str) -> None:
    n_bytes = np.array([1e3, 1e6, 1e9])
    for ranks, per_node in ((8, None), (64, None), (8, 1), (16, 2)):
        seconds = np.asarray(pm.estimate_collective(POD, operation, n_bytes, ranks, ranks_per_node=per_node))
        assert (np.diff(seconds) > 0).all()
        alone = pm.estimate_collective(POD, operation, 1e6, ranks, per_node)
        assert type(alone) is float
        assert seconds[1] == pytest.approx(alone, rel=1e-12, abs=0)
    assert pm.estimate_collective(POD, operation, 1e6, 1) == 0.0
    assert pm.estimate_collective(POD, operation, 1e9, 8, ranks_per_node=1) > pm.estimate_collective(
        POD, operation, 1e9, 8
    )


@given(st.integers(1, 20000), st.integers(1, 20000), st.integers(1, 20000), st.sampled_from(["bf16", "fp8"]))
@settings(deadline=None, max_examples=50)
def test_no_product_is_faster_than_the_data_sheet(m: int, n: int, k: int, dtype: str) -> None:
    document = describe_gemm("h100-sxm", m, n, k, dtype)
    assert document.roofline_s <= document.seconds * (1 + 1e-9)
    assert document.lower_s <= document.seconds <= document.upper_s
    assert document.interval_s[0] < document.seconds < document.interval_s[1]


# Refusals

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "gemm dtype": (lambda: pm.estimate_gemm("h100-sxm", 1, 1, 1, "bf61"), r"dtype: unknown precision.*nearest: 'bf16'"),
    "gemm not measured": (lambda: pm.estimate_gemm("a100-sxm-80gb", 1, 1, 1, "fp8"), "unknown precision 'fp8'"),
    "gemm zero": (lambda: pm.estimate_gemm("h100-sxm", 0, 1, 1), r"m: must be a whole number >= 1.*\(got 0\)"),
    "gemm negative": (lambda: pm.estimate_gemm("h100-sxm", 1, [1, -2], 1), r"n: must be a whole number"),
    "gemm fraction": (lambda: pm.estimate_gemm("h100-sxm", 1, 1, 1.5), r"k: must be a whole number.*\(got 1.5\)"),
    "gemm NaN": (lambda: pm.estimate_gemm("h100-sxm", float("nan"), 1, 1), r"m: must be a whole number.*\(got nan\)"),
    "gemm infinite": (lambda: pm.estimate_gemm("h100-sxm", np.array([1, np.inf]), 1, 1), "m: must be a whole number"),
    "gemm text": (lambda: pm.estimate_gemm("h100-sxm", "64", 1, 1), r"m: must be a whole number >= 1 \(got '64'\)"),
    "gemm bool": (lambda: pm.estimate_gemm("h100-sxm", True, 1, 1), "m: must be a whole number"),
    "gemm huge": (lambda: pm.estimate_gemm("h100-sxm", 1e16, 1, 1), "at most 1e"),
    "phase": (lambda: pm.estimate_attention("h100-sxm", "decod"), "unknown phase 'decod'; nearest: 'decode'"),
    "attention dtype": (lambda: pm.estimate_attention("h100-sxm", dtype="fp8"), "dtype: unknown precision.*'fp8'"),
    "kv dtype": (lambda: pm.estimate_attention("h100-sxm", kv_dtype="fp9"), "kv_dtype: unknown.*nearest: 'fp"),
    "kv heads": (lambda: pm.estimate_attention("h100-sxm", n_kv_heads=5), "must divide n_heads, 32.0"),
    "attention library": (lambda: pm.estimate_attention("h100-sxm", library="flash-4"), "attention library 'flash-4'"),
    "operation": (lambda: pm.estimate_collective(POD, "allreduce", 1, 2), "operation 'allreduce'; nearest: 'all_"),
    "algorithm": (lambda: pm.estimate_collective(POD, "all_reduce", 1, 2, algorithm="tre"), "nearest: 'tree'"),
    "engine": (lambda: pm.estimate_collective(POD, "all_reduce", 1, 2, library="vlm"), "nearest: 'vllm'"),
    "no bytes": (lambda: pm.estimate_collective(POD, "all_reduce", 0, 2), r"n_bytes: must be a number > 0 \(got 0\)"),
    "NaN bytes": (lambda: pm.estimate_collective(POD, "all_reduce", [1, np.nan], 2), "n_bytes: must be a number > 0"),
    "no ranks": (lambda: pm.estimate_collective(POD, "all_reduce", 1, 0), "ranks: must be a whole number >= 1"),
    "too many ranks": (lambda: pm.estimate_collective(POD, "all_reduce", 1, 65), "ranks: 65.0 do not fit into 64"),
    "spread too far": (
        lambda: pm.estimate_collective(POD, "all_reduce", 1, 16, ranks_per_node=1),
        r"ranks: 16.0, 1.0 in a node, do not fit into 64",
    ),
    "full node": (
        lambda: pm.estimate_collective(POD, "all_reduce", 1, 16, ranks_per_node=9),
        r"ranks_per_node: dgx-h100 has 8 accelerators in a node \(got 9.0\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_refused_before_any_work(case: str) -> None:
    call, said = REFUSED[case]
    with pytest.raises(PlanError, match=said):
        call()


# Documents and command line


def test_documents_are_json_and_say_what_binds() -> None:
    documents = (
        describe_gemm("h100-sxm", 16, 8192, 8192),
        describe_gemm("h100-sxm", 8192, 8192, 8192),
        describe_attention("h100-sxm", "decode", batch=64),
        describe_collective(POD, "all_reduce", 1e9, 64),
        describe_collective(POD, "all_reduce", 1e3, 64),
    )
    assert [one.bound_by for one in documents] == ["memory", "compute", "memory", "link", "latency"]
    for one in documents:
        again = json.loads(one.to_json())
        assert again["document"] == "perfmodel/kernel-estimate/1"
        assert KernelEstimate(**again) == one
        assert one.sources
        assert not one.warnings


def test_borrowed_constants_warn_and_widen() -> None:
    own = pm.load_accelerator("h100-sxm").model_dump()
    stranger = pm.load_accelerator(own | {"id": "h1000", "relative": "h100-sxm"})
    known, borrowed = describe_gemm("h100-sxm", 4096, 4096, 4096), describe_gemm(stranger, 4096, 4096, 4096)
    assert borrowed.seconds == known.seconds
    assert "h1000 inherits every kernel constant of h100-sxm" in {warning.value for warning in borrowed.warnings}
    assert borrowed.interval_s[1] > known.interval_s[1]


GEMM = ["estimate", "gemm", "--accelerator", "h100-sxm", "--m", "64", "--n", "8192", "--k", "8192"]
COLLECTIVE = ["estimate", "collective", "--cluster", "dgx-h100", "--n-bytes", "1e8", "--ranks", "8"]


def test_the_command_line_gives_what_python_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GEMM, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == pm.estimate_gemm("h100-sxm", 64, 8192, 8192)
    assert main(["estimate", "attention", "--accelerator", "h100-sxm", "--phase", "decode", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == pm.estimate_attention("h100-sxm", "decode")
    assert main([*COLLECTIVE, "--accelerators", "64", "--ranks-per-node", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["seconds"] == pm.estimate_collective(POD, "all_reduce", 1e8, 8, ranks_per_node=4)
    assert document["machine_balance_flop_per_byte"] is None


def test_the_page_draws_the_roofline_and_names_what_binds(capsys: pytest.CaptureFixture[str]) -> None:
    for words, subject in (
        (GEMM, "matrix product 64 x 8,192 x 8,192"),
        (COLLECTIVE, "all_reduce of 100 MB over 8 ranks"),
    ):
        assert main(words) == 0
        page = capsys.readouterr().out
        assert subject in page
        assert "of the data-sheet roofline" in " ".join(page.split())
    for m, memory_bound in ((1, True), (16384, False)):
        lines = roofline_lines(describe_gemm("h100-sxm", m, 16384, 16384).to_dict())
        (marked,) = [line for line in lines if "#" in line]
        ridge = lines[-2].index("|")
        assert (marked.index("#") < ridge) == memory_bound


BAD_INPUT = {
    "nothing": (["estimate", "gemm"], "--accelerator: missing"),
    "half": (GEMM[:-2], "--k: missing"),
    "unknown accelerator": ([*GEMM[:3], "h100-sx", *GEMM[4:]], "nearest: 'h100-sxm'"),
    "zero": ([*GEMM[:-1], "0"], "--k: must be a whole number >= 1 (got 0)"),
    "text": ([*GEMM[:-1], "many"], "--k: must be a whole number >= 1 (got 'many')"),
    "dtype": ([*GEMM, "--dtype", "bf17"], "dtype: unknown precision 'bf17'; nearest: 'bf16'"),
    "phase": (["estimate", "attention", "--accelerator", "h100-sxm", "--phase", "decod"], "nearest: 'decode'"),
    "operation": ([*COLLECTIVE, "--operation", "all-reduce"], "nearest: 'all_reduce'"),
    "bytes": ([*COLLECTIVE[:5], "nan", *COLLECTIVE[6:]], "--n-bytes: must be a number > 0 (got nan)"),
    "ranks": ([*COLLECTIVE[:-1], "9"], "ranks: 9.0 do not fit into 8 accelerators"),
    "misspelt": ([*GEMM, "--dtpe", "bf16"], "unknown option '--dtpe'; nearest: '--dtype'"),
    "kernels of one source": (
        ["validate", "--kernels", "--source", "megatron-sc21"],
        "--source: goes without --kernels",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_2(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = BAD_INPUT[case]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert said in err


# Held-out scores


def test_every_family_is_scored_and_beats_the_data_sheet() -> None:
    """Floors of the KERNELS page; element-wise rows count whole microseconds."""
    report = run_kernels()
    assert {score.table for score in report.families} >= {
        "gemm_bf16",
        "nccl_half",
        "custom_all_reduce",
        "efa_all_reduce",
    }
    for score in report.families:
        assert not score.refused, score
        assert score.median is not None
        assert min(score.rows, score.calibrated_rows) > 0
        limit = 0.08 if "gemm" in score.table else 0.12
        assert score.median < limit, score
        assert score.median < 0.5 * float(score.data_sheet_median or 0), score


def test_the_page_of_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--kernels"]) == 0
    page = capsys.readouterr().out
    assert "NCCL, all_reduce between nodes" in page
    assert main(["validate", "--kernels", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["document"] == "perfmodel/kernel-validation/1"
