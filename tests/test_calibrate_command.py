"""`perfmodel calibrate`: constants come back from a table made by their law; wrong tables are refused in one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from perfmodel.calibrate.tables import FOLDER, load_table
from perfmodel.cli.main import main
from perfmodel.formulas.collectives import ring_all_reduce_time
from perfmodel.predict.matmul import TiledMatmul
from perfmodel.specs import registry
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.efficiency import load_efficiency
from perfmodel.specs.kernel_constants import MatmulConstants

ACCELERATOR = "a100-sxm-80gb"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*words: str) -> Outcome:
        capsys.readouterr()
        code = main(["calibrate", *words])
        return Outcome(code, *capsys.readouterr())

    return run


def products(scale: float = 1e6) -> tuple[list[list[str]], MatmulConstants]:
    """Rows m, n, k and the time of the shipped A100 law, [us] unless another `scale` says so, and its constants."""
    constants = load_efficiency(ACCELERATOR).matmul_constants("bf16")
    shapes = [(n, k) for n in (1024, 4096, 10240, 16384) for k in (512, 2048, 8192)]
    rows = [(m, n, k) for n, k in shapes for m in (1, 16, 64, 192, 512, 1536, 4096, 16384)]
    m, n, k = np.array(rows, dtype=float).T
    seconds = TiledMatmul(load_accelerator(ACCELERATOR), "bf16", constants).cost(m, n, k, 1.0, 0.0).seconds
    cells = [[*(str(size) for size in row), f"{scale * time:.9g}"] for row, time in zip(rows, seconds, strict=True)]
    return cells, constants


def csv(header: str, rows: list[list[str]]) -> str:
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


GOOD = csv("m,n,k,latency_us", products()[0])
MESSAGES = csv(
    "op_name,num_gpus,bytes,latency_us",
    [
        ["all_reduce", str(p), str(n), f"{1e6 * float(ring_all_reduce_time(float(n), float(p), 8e-6, 1e-6, 2e11)):.6g}"]
        for p in (2, 4, 8)
        for n in (2**i for i in range(10, 28))
    ],
)


def test_constants_come_back_from_a_table_of_their_own_law(cli: Any, tmp_path: Path) -> None:
    """The table has no noise, so the law must be found again to the digits that its minimum is sharp.

    2 % on what every row or most rows feel. What only few rows feel is flat near the minimum: there the times
    themselves must agree, to 1 %, which also says that the constants that differ do not matter.
    """
    rows, constants = products()
    table, out = tmp_path / "own.csv.gz", tmp_path / "efficiency.toml"
    table.write_bytes(gzip.compress(csv("m,n,k,latency_us", rows).encode()))
    ran = cli("--from-table", str(table), "--accelerator", ACCELERATOR, "-o", str(out), "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    (block,) = document["blocks"]
    assert block["block"] == "matmul.bf16"
    assert block["held_out_median"] < 0.01 < block["data_sheet_median"]
    assert block["held_out_rows"] == len(rows) // 3
    assert block["rows"] + block["held_out_rows"] == len(rows)

    efficiency = load_efficiency(out)
    found = efficiency.matmul_constants("bf16")
    for name in ("compute_efficiency", "memory_efficiency", "launch_s"):
        assert getattr(found, name) == pytest.approx(getattr(constants, name), rel=0.02, abs=0), name
        assert {one["name"]: one["value"] for one in block["constants"]}[name] == getattr(found, name)
    assert (found.tiles, found.splits, found.settle_s) == (constants.tiles, constants.splits, constants.settle_s)
    assert found.fit.table == "own.csv.gz"
    assert efficiency.elementwise == load_efficiency(ACCELERATOR).elementwise
    assert "collective of a100-sxm-80gb-measured is a100-sxm-80gb's" in efficiency.inherited
    assert list(efficiency.inherited) == document["inherited"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("column", "scale"), [("latency_ms", 1e3), ("seconds", 1.0)])
def test_every_unit_of_time_gives_the_same_constants(cli: Any, tmp_path: Path, column: str, scale: float) -> None:
    from perfmodel.calibrate.own_csv import read_own_table

    (tmp_path / "us.csv").write_text(GOOD)
    (tmp_path / "other.csv").write_text(csv(f"m,n,k,{column}", products(scale)[0]))
    times = [[row.latency_us for row in read_own_table(tmp_path / name).rows] for name in ("us.csv", "other.csv")]
    assert times[1] == pytest.approx(times[0], rel=1e-8, abs=0)


def test_a_ring_comes_back_from_a_table_of_messages(cli: Any, tmp_path: Path) -> None:
    """Three protocols may share one ring, so their constants are not unique; the times they give are: 2 %."""
    table, out = tmp_path / "nccl.csv", tmp_path / "efficiency.toml"
    table.write_text(MESSAGES)
    ran = cli("--from-table", str(table), "--accelerator", ACCELERATOR, "-o", str(out), "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert [block["block"] for block in document["blocks"]] == ["collective"]
    assert document["blocks"][0]["held_out_median"] < 0.02
    assert any("rows of all_to_all are too few" in note for note in document["notes"])
    own = load_efficiency(out)
    assert own.collective["simple"].fit.table == "nccl.csv"
    assert own.matmul == load_efficiency(ACCELERATOR).matmul


def test_the_aiconfigurator_columns_are_read(cli: Any, tmp_path: Path) -> None:
    """`system`, `engine` and `dtype` choose accelerator and format; the shipped constants come back from their rows."""
    rows = load_table("gemm_bf16", ACCELERATOR)
    rows = rows[np.isin(rows["n"], [1024, 4096, 12288]) & np.isin(rows["k"], [1024, 4096, 12288])]
    lines = [
        ["a100_sxm", "trtllm-1.0.0", "bfloat16", *(str(row[name]) for name in ("m", "n", "k", "latency_us"))]
        for row in rows
    ]
    table = tmp_path / "gemm.csv"
    table.write_text(csv("system,engine,dtype,m,n,k,latency_us", lines))
    ran = cli("--from-table", str(table), "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert document["request"] == {"from_table": "gemm.csv", "accelerator": ACCELERATOR, "dtype": "bf16"}
    (block,) = document["blocks"]
    assert block["held_out_median"] < 0.1 < block["data_sheet_median"]


def test_the_aiconfigurator_messages_are_read(cli: Any, tmp_path: Path) -> None:
    rows = load_table("nccl_half", ACCELERATOR)
    lines = [
        [
            "a100_sxm",
            "nccl",
            "2.27.3",
            "2.27.3",
            str(row["operation"]).replace("all_to_all", "alltoall"),
            "half",
            str(row["ranks"]),
            str(row["n_bytes"] // 2),
            str(row["n_bytes"]),
            str(row["latency_us"]),
        ]
        for row in rows
    ]
    head = "system,library,lib_path_version,lib_version,op_name,dtype,num_gpus,elements,bytes,latency_us"
    (tmp_path / "nccl.csv").write_text(csv(head, lines))
    ran = cli("--from-table", str(tmp_path / "nccl.csv"), "--json")
    assert ran.code == 0, ran.err
    blocks = json.loads(ran.out)["blocks"]
    assert [block["block"] for block in blocks] == ["collective", "all_to_all"]
    assert all(block["held_out_median"] < 0.12 < block["data_sheet_median"] for block in blocks)


def attention(phase: str) -> str:
    """An attention table in the layout of aiconfigurator, from rows of the shipped one."""
    length, table = ("isl", "attention_prefill_bf16") if phase == "prefill" else ("kv_len", "attention_decode")
    rows = load_table(table, "h100-sxm")
    rows = rows[rows["library"] == "vllm"]
    sizes = ("batch", "seq_len" if phase == "prefill" else "kv_len", "n_heads", "n_kv_heads", "d_head", "latency_us")
    caches = {"bf16": "bfloat16", "fp8": "fp8"}
    lines = [
        ["h100_sxm", "vllm-0.11", "bfloat16", caches[str(row["kv_dtype"]) if phase == "decode" else "bf16"]]
        + [str(row[name]) for name in sizes]
        for row in rows
    ]
    head = "system,engine,attn_dtype,kv_cache_dtype,batch_size,%s,num_heads,num_key_value_heads,head_dim,latency_us"
    return csv(head % length, lines)


@pytest.mark.parametrize(
    ("phase", "blocks"), [("prefill", ["attention.flash-2", "attention.flash-3"]), ("decode", ["decode.vllm"])]
)
def test_the_aiconfigurator_attention_is_read(cli: Any, tmp_path: Path, phase: str, blocks: list[str]) -> None:
    """From the shipped rows the shipped errors come back, and a cluster with the constants in it prices with them."""
    table, out = tmp_path / "attention.csv", tmp_path / "cluster.toml"
    table.write_text(attention(phase))
    ran = cli("--from-table", str(table), "--cluster", "dgx-h100", "-o", str(out), "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert [block["block"] for block in document["blocks"]] == blocks
    assert document["blocks"][0]["held_out_median"] < 0.06 < document["blocks"][0]["data_sheet_median"]
    cluster = load_cluster(out, accelerators=16)
    group, _, name = blocks[0].partition(".")
    own = getattr(cluster.accelerator.kernel_constants(), group)[name]
    assert own.fit.table == "attention.csv"
    assert cluster.accelerator.kernel_constants().matmul == load_efficiency("h100-sxm").matmul
    assert cluster.tiers == load_cluster("dgx-h100").tiers
    assert load_accelerator(out) == cluster.accelerator


def test_a_table_of_our_own_layout_in_single_precision(cli: Any, tmp_path: Path) -> None:
    """`op,m,n,k,dtype,seconds` in a format of unknown tiles: the constants of the smooth roofline come back."""
    made = MatmulConstants.model_construct(
        tiles=(), splits=(1,), compute_efficiency=0.7, memory_efficiency=0.6, exponent=2.0, launch_s=5e-6
    )
    shapes = [(m, n, k) for n in (512, 2048, 8192) for k in (512, 4096) for m in (1, 16, 256, 4096)]
    part = load_accelerator(ACCELERATOR)
    m, n, k = np.array(shapes, dtype=float).T
    seconds = TiledMatmul(part, "tf32", made).cost(m, n, k, 1.0, 0.0).seconds
    rows = [["gemm", *map(str, shape), "tf32", f"{time:.9g}"] for shape, time in zip(shapes, seconds, strict=True)]
    (tmp_path / "own.csv").write_text(csv("op,m,n,k,dtype,seconds", rows))
    ran = cli("--from-table", str(tmp_path / "own.csv"), *A, "--json")
    assert ran.code == 0, ran.err
    (block,) = json.loads(ran.out)["blocks"]
    found = {one["name"]: one["value"] for one in block["constants"]}
    assert block["block"] == "matmul.tf32"
    for name in ("compute_efficiency", "memory_efficiency", "exponent", "launch_s"):
        assert found[name] == pytest.approx(getattr(made, name), rel=0.02, abs=0), name


def test_the_page_says_constants_with_units_and_errors(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "nccl.csv").write_text(MESSAGES)
    ran = cli("--from-table", str(tmp_path / "nccl.csv"), "--accelerator", ACCELERATOR)
    assert ran.code == 0
    for word in ("held out", "data sheet", "simple.launch_s", "µs", f"every other block is that of {ACCELERATOR}"):
        assert word in ran.out


def test_without_a_table_the_shipped_errors_are_shown(cli: Any) -> None:
    document = json.loads(cli("--shipped", "--json").out)
    for id in registry.ids("efficiency"):
        own = {block["block"]: block for block in document["blocks"] if block["accelerator"] == id}
        fit = load_efficiency(id).matmul_constants("bf16").fit
        assert own["matmul.bf16"]["held_out_error"] == fit.held_out_error
    assert "held out" in cli("--shipped", "--accelerator", ACCELERATOR).out
    assert "h100-sxm" not in cli("--shipped", "--accelerator", ACCELERATOR).out


def changed(line: int, old: str, new: str) -> str:
    """The good table with a cell of the `line` (1 is the header) replaced."""
    lines = GOOD.splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    return "\n".join(lines)


def with_column(name: str, values: list[str], text: str = GOOD) -> str:
    head, *lines = text.splitlines()
    return "\n".join([f"{name},{head}", *(f"{values[i % len(values)]},{line}" for i, line in enumerate(lines))])


A = ["--accelerator", ACCELERATOR]
BAD = {
    "missing k": (changed(1, ",k,", ",k_dim,"), A, "lacks the column 'k'; nearest: 'k_dim'"),
    "missing time": (changed(1, "latency_us", "latency"), A, "lacks a column of times, latency_us or latency_ms or"),
    "two times": (with_column("seconds", ["1"]), A, "has latency_us and seconds; keep one"),
    "neither layout": ("a,b\n1,2\n", A, "must have the columns m, n, k (matrix products) or op_name"),
    "column twice": (changed(1, "m,n,k", "m,m,n,k"), A, "names the column 'm' twice"),
    "a word": (changed(5, "192,", "many,"), A, "table.csv:5: m: must be a number > 0 (got 'many')"),
    "zero": (changed(2, "1,1024", "0,1024"), A, "table.csv:2: m: must be a number > 0 (got '0')"),
    "negative": (changed(3, "16,1024", "-16,1024"), A, "table.csv:3: m: must be a number > 0 (got '-16')"),
    "nan": (changed(4, "64,1024", "64,nan"), A, "table.csv:4: n: must be a number > 0 (got 'nan')"),
    "infinite": (changed(4, "64,1024", "64,inf"), A, "table.csv:4: n: must be a number > 0 (got 'inf')"),
    "a fraction": (changed(4, "64,1024", "64.5,1024"), A, "table.csv:4: m: must be a whole number"),
    "empty cell": (changed(4, "64,1024", ",1024"), A, "table.csv:4: m: must be a number > 0 (got '')"),
    "a cell too few": (changed(4, "64,", ""), A, "table.csv:4: has 3 cells; the header names 4 columns"),
    "wrong unit": (
        changed(1, "latency_us", "seconds"),
        A,
        "s is no time of a kernel (1 ns to 1 h); is the unit right?",
    ),
    "too few rows": ("\n".join(GOOD.splitlines()[:20]), A, "has 19 rows to fit; at least 20"),
    "one shape": (
        csv("m,n,k,seconds", [["8", "64", "64", "1e-5"]] * 30),
        A,
        "has 1 distinct (n, k) shapes; at least 3",
    ),
    "empty": ("", A, "is empty; the first line must name the columns"),
    "no accelerator": (GOOD, [], "the table has no column system; name the accelerator with --accelerator"),
    "unknown accelerator": (GOOD, ["--accelerator", "a100-sxm-80g"], "nearest: 'a100-sxm-80gb'"),
    "unknown system": (
        with_column("system", ["h100_sx"]),
        [],
        "column system: unknown accelerator 'h100-sx'; nearest:",
    ),
    "mixed systems": (with_column("system", ["a100_sxm", "h100_sxm"]), [], "column system holds a100_sxm, h100_sxm;"),
    "other systems": (with_column("system", ["b200_sxm", "h100_sxm"]), A, f"none of them {ACCELERATOR}"),
    "mixed formats": (with_column("dtype", ["fp16", "int8"]), A, "column dtype holds fp16, int8; choose one"),
    "unknown format": (
        with_column("dtype", ["fp6"]),
        A,
        "table.csv:2: dtype: unknown format of a matrix product 'fp6'",
    ),
    "format without a library": (GOOD, [*A, "--dtype", "fp8"], "the tiles of no library in fp8 are known"),
    "misspelt dtype": (GOOD, [*A, "--dtype", "bf61"], "--dtype: unknown format of a matrix product 'bf61'; nearest"),
    "absent dtype": (with_column("dtype", ["bf16"]), [*A, "--dtype", "int8"], "has no rows in int8"),
    "unknown operation": (MESSAGES.replace("all_reduce", "all_reduse"), A, "table.csv:2: op_name: unknown operation"),
    "one rank": (MESSAGES.replace("e,2,", "e,1,"), A, "table.csv:2: num_gpus: must be a whole number >= 2 (got 1)"),
    "no rings": (MESSAGES.replace("all_reduce", "alltoall"), A, "has 0 rows of all_reduce, all_gather and reduce"),
    "other output": (GOOD, [*A, "-o", "x.json"], "-o x.json: the constants are written as TOML; name a file *.toml"),
    "another op": (with_column("op", ["gemm", "conv"]), A, "table.csv:3: op: unknown matrix product 'conv'"),
    "two engines": (
        with_column("engine", ["vllm", "trtllm"], attention("decode")),
        [],
        "names the column 'engine' twice",
    ),
    "attention of no length": (
        attention("decode").replace("kv_len", "length"),
        [],
        "a table of attention of prompts lacks the column 'isl'",
    ),
    "unknown cache": (
        attention("decode").replace("bfloat16", "int3"),
        [],
        "table.csv:2: attn_dtype: unknown precision of attention 'int3'",
    ),
    "negative time": (GOOD.replace(",512,", ",512,-", 1), A, "table.csv:2: latency_us: must be a number > 0"),
    "other cluster": (
        GOOD,
        [*A, "--cluster", "dgx-h100", "-o", "x.toml"],
        "--cluster: dgx-h100 is of h100-sxm, the table of a100-sxm-80gb",
    ),
    "no such folder": (GOOD, [*A, "-o", "/nowhere/x.toml"], "-o /nowhere/x.toml: cannot be written: no such folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_tables_are_refused_in_one_line(cli: Any, tmp_path: Path, name: str) -> None:
    text, words, message = BAD[name]
    table = tmp_path / "table.csv"
    table.write_text(text)
    ran = cli("--from-table", str(table), *words)
    assert (ran.code, ran.out) == (2, ""), ran
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtype", "bf16"], "--dtype: goes with --from-table"),
        (["--shipped", "-o", "x.toml"], "-o: goes with a measurement or --from-table"),
        (["--shipped", "--quick"], "--quick: goes with a measurement or --from-table"),
        (["--accelerator", "h100-sxm"], "--accelerator: goes with --from-table"),
        (["--from-table", "x.csv", "--note", "x"], "--note: goes with a measurement of this machine, not with"),
        (["--from-table", "x.csv", "--shipped"], "--shipped: does not go with --from-table"),
        (["--from-table", "x.csv", "--cluster", "dgx-a100-80gb"], "--cluster: goes with -o, the file that is to hold"),
        (["--device", "gpu"], "--device: unknown device 'gpu'; nearest: 'cpu'; allowed: auto, cpu, cuda"),
        (["--device", "cpu", "-o", "x.json"], "-o x.json: the constants are written as TOML"),
        (["--shipped", "--accelerator", "h100"], "unknown calibrated accelerator 'h100'; nearest: 'h100-sxm'"),
        (["--from-table", "nowhere.csv"], "nowhere.csv: cannot be read: No such file or directory"),
        (["--from-table", str(FOLDER)], "cannot be read: Is a directory"),
        (["--from-tabel", "x"], "unknown option '--from-tabel'; nearest: '--from-table'"),
    ],
)
def test_wrong_words_are_refused_in_one_line(cli: Any, words: list[str], message: str) -> None:
    ran = cli(*words)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err


@pytest.mark.parametrize("raw", [b"\x1f\x8bnot gzip at all", gzip.compress(GOOD.encode())[:-40], b"m,n,k\n\xff\xfe"])
def test_broken_files_are_refused_in_one_line(cli: Any, tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(raw)
    ran = cli("--from-table", str(tmp_path / "table.csv"), *A)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert "cannot be read" in ran.err or "not UTF-8" in ran.err
