"""Bad input through the command line: exit code 2, one line that says what is wrong, nothing on standard output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_words import ESTIMATE, FLAGS, PLAN, SCENARIO, TOML, replaced, without

MESSAGE = ["estimate", "collective", "--cluster", "dgx-h100", "--n-bytes", "1e6", "--ranks", "8"]
BAD_INPUT = {
    "no such command": (["pln"], "unknown command 'pln'; nearest: 'plan'"),
    "no such plan": (["plan", "servng"], "unknown command 'plan servng'; nearest: 'plan serving'"),
    "half a command": (["plan"], "plan: say what"),
    "misspelt option": ([*PLAN, "--modle", "x"], "unknown option '--modle'; nearest: '--model'"),
    "misspelt with =": ([*PLAN, "--seqlen=5"], "unknown option '--seqlen'; nearest: '--seq-len'"),
    "no abbreviations": ([*PLAN, "--mod", "x"], "unknown option '--mod'"),
    "layout of a plan": ([*PLAN, *FLAGS, "--tp", "8"], "'--tp': plan training chooses the layout itself"),
    "stray word": ([*PLAN, *FLAGS, "stray"], "plan training: unexpected argument 'stray'"),
    "value missing": ([*ESTIMATE, "--tp"], "--tp: expected one argument"),
    "list of nothing": (["list"], "list: missing KIND"),
    "list of the unknown": (["list", "modles"], "unknown kind 'modles'; nearest: 'models'"),
    "schema of the unknown": (["schema", "training-pln"], "nearest: 'training-plan'"),
    "show the unknown": (["show", "h100-sx"], "unknown id 'h100-sx'; nearest: 'h100-sxm'"),
    "explain the unknown": (["explain", "ring_all_reduce_tim"], "nearest: 'ring_all_reduce_time'"),
    "two forms": (["explain", "cost_usd", "--json", "--latex"], "not allowed with argument"),
    "validate the unknown": (["validate", "--source", "megatron-sc22"], "nearest: 'megatron-sc21'"),
    "because of nothing": (["validate", "--because", "physics"], "--because: goes with --record"),
    "record of one": (["validate", "--record", "--source", "megatron-sc21"], "--record: needs every source"),
    "model missing": ([*PLAN, *without("--model")], "--model: missing"),
    "cluster missing": ([*PLAN, *without("--cluster")], "--cluster: missing"),
    "batch missing": ([*PLAN, *without("--global-batch")], "--global-batch: missing"),
    "model unknown": ([*PLAN, *replaced("--model", "llama-3.1-408b")], "nearest: 'llama-3.1-405b'"),
    "model empty": ([*PLAN, *replaced("--model", "")], "--model: must be an id, a path or a table (got '')"),
    "model no file": ([*PLAN, *replaced("--model", "no/such/config.json")], "no/such/config.json: cannot be read"),
    "model with newline": ([*PLAN, *replaced("--model", "a\nb")], "unknown model"),
    "cluster unknown": ([*PLAN, *replaced("--cluster", "dgx-h10")], "nearest: 'dgx-h100'"),
    "software unknown": ([*PLAN, *FLAGS, "--software", "megatron-2020"], "nearest: 'megatron-202"),
    "optimizer unknown": ([*PLAN, *FLAGS, "--optimizer", "adam-mixd"], "nearest: 'adam-mixed'"),
    "precision unknown": (
        [*PLAN, *replaced("--precision", "bf17")],
        "--precision: unknown value 'bf17'; nearest: 'bf16'",
    ),
    "objective unknown": ([*PLAN, *FLAGS, "--objective", "tim"], "--objective: unknown value 'tim'; nearest: 'time'"),
    "batch nan": ([*PLAN, *replaced("--global-batch", "nan")], "must be a whole number >= 1 (got nan)"),
    "batch inf": ([*PLAN, *replaced("--global-batch", "-inf")], "must be a whole number >= 1 (got -inf)"),
    "batch half": ([*PLAN, *replaced("--global-batch", "2.5")], "must be a whole number >= 1 (got 2.5)"),
    "batch negative": ([*PLAN, *replaced("--global-batch", "-3")], "must be a whole number >= 1 (got -3)"),
    "batch word": ([*PLAN, *replaced("--global-batch", "many")], "must be a whole number >= 1 (got 'many')"),
    "batch empty": ([*PLAN, *replaced("--global-batch", "")], "must be a whole number >= 1 (got '')"),
    "seq_len huge": ([*PLAN, *replaced("--seq-len", "1e400")], "--seq-len: must be a whole number"),
    "seq_len large": ([*PLAN, *replaced("--seq-len", "1e16")], "at most 1e+15 (got 1e16)"),
    "seq_len of digits": ([*PLAN, *replaced("--seq-len", "9" * 5000)], "--seq-len: must be a whole number"),
    "accelerators zero": (
        [*PLAN, *replaced("--accelerators", "0")],
        "--accelerators: must be a whole number >= 1 (got 0)",
    ),
    "tokens zero": ([*PLAN, *FLAGS, "--tokens", "0"], "--tokens: must be a number > 0 (got 0)"),
    "tokens negative": ([*PLAN, *FLAGS, "--tokens", "-1e12"], "--tokens: must be a number > 0 (got -1e12)"),
    "tokens nan": ([*PLAN, *FLAGS, "--tokens", "nan"], "--tokens: must be a number > 0 (got nan)"),
    "margin one": ([*PLAN, *FLAGS, "--memory-margin", "1"], "must be a number from 0 to below 1 (got 1)"),
    "tp zero": ([*ESTIMATE, *FLAGS, "--tp", "0"], "--tp: must be a whole number >= 1 (got 0)"),
    "tp against heads": ([*ESTIMATE, *FLAGS, "--tp", "3"], "tp: must divide n_heads 32 (got 3)"),
    "too many stages": ([*ESTIMATE, *FLAGS, "--pp", "64"], "64 stages"),
    "too few accelerators": ([*ESTIMATE, *FLAGS, "--tp", "8", "--dp", "16"], "= 128 accelerators, dgx-h100 has 64"),
    "batch not divisible": ([*ESTIMATE, *FLAGS, "--dp", "3"], "global_batch: 128 must be a multiple"),
    "chunks without schedule": ([*ESTIMATE, *FLAGS, "--pp", "2", "--vpp", "2"], "need schedule 'interleaved'"),
    "zero stage four": ([*ESTIMATE, *FLAGS, "--zero-stage", "4"], "must be a whole number from 0 to 3 (got 4)"),
    "schedule unknown": ([*ESTIMATE, *FLAGS, "--schedule", "1f1"], "--schedule: unknown value '1f1'; nearest: '1f1b'"),
    "recompute unknown": ([*ESTIMATE, *FLAGS, "--recompute", "ful"], "nearest: 'full'"),
    "stage layers": (
        [*ESTIMATE, *FLAGS, "--stage-layers", "4,x"],
        "--stage-layers: must be a whole number >= 0 (got 'x')",
    ),
    "precision of no training": ([*ESTIMATE, *FLAGS, "--precision", "int8"], "--precision: unknown value 'int8'"),
    "module unknown": ([*ESTIMATE, *FLAGS, "--recompute-modules", "mlp,moe_ack"], "nearest: 'moe_act'"),
    "modules of full": (
        [*ESTIMATE, *FLAGS, "--recompute", "full", "--recompute-modules", "mlp"],
        "recompute_modules: need recompute 'selective' (got 'full')",
    ),
    "layers of selective": ([*ESTIMATE, *FLAGS, "--recompute-layers", "2"], "needs recompute 'full'"),
    "offload of nothing": (
        [*ESTIMATE, *FLAGS, "--offload", "0.5"],
        "must be a table of numbers, as activations=0.5",
    ),
    "offload unknown": ([*ESTIMATE, *FLAGS, "--offload", "activation=0.5"], "--offload: unknown key 'activation'"),
    "offload word": (
        [*ESTIMATE, *FLAGS, "--offload", "activations=half"],
        "--offload: activations: must be a number >= 0 (got 'half')",
    ),
    "offload too much": ([*ESTIMATE, *FLAGS, "--offload", "activations=2"], "offload: activations must be from 0 to 1"),
    "experts of a dense model": ([*ESTIMATE, *FLAGS, "--dp", "8", "--ep", "8"], "llama-3.1-8b has no experts"),
    "context against length": ([*ESTIMATE, *FLAGS, "--cp", "3"], "tp * cp = 3 must divide seq_len 4096"),
    "serving degree": ([*ESTIMATE, *FLAGS, "--attention-dp", "2"], "attention_dp: is for serving"),
    "schedule's chunks": ([*ESTIMATE, *FLAGS, "--schedule", "zb-v"], "'zb-v' places two chunks a rank in the shape of"),
    "stages that do not add up": (
        [*ESTIMATE, *FLAGS, "--pp", "4", "--stage-layers", "8,8,8,9"],
        "stage_layers: must be pp = 4 numbers that add up to 32 (got [8, 8, 8, 9])",
    ),
    "adapter without rank": ([*ESTIMATE, *FLAGS, "--trainable", "lora"], "trainable: must be 'all', 'lora:r=R'"),
    "documents too long": ([*ESTIMATE, *FLAGS, "--mean-seq-len", "5000"], "must be at most seq_len 4096 (got 5000)"),
    "packing unknown": ([*ESTIMATE, *FLAGS, "--packing", "packd"], "nearest: 'packed'"),
    "algorithm unknown": ([*MESSAGE, "--algorithm", "rings"], "--algorithm: unknown value 'rings'; nearest: 'ring'"),
    "algorithm of another operation": (
        [*MESSAGE, "--operation", "all_gather", "--algorithm", "star"],
        "unknown algorithm of all_gather 'star'",
    ),
    "modules empty": (
        [*ESTIMATE, *FLAGS, "--recompute-modules", "mlp,"],
        "--recompute-modules: must be a list of names",
    ),
    "scenario no file": ([*PLAN, "-f", "no-such.toml"], "no-such.toml: cannot be read: No such file"),
    "scenario folder": ([*PLAN, "-f", "."], ".: cannot be read"),
    "output nowhere": (["list", "models", "-o", "no/such/folder/x"], "-o no/such/folder/x: cannot be written"),
}


@pytest.mark.parametrize(("words", "said"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line(cli: Any, words: list[str], said: str) -> None:
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert err.startswith("perfmodel: error: ")
    assert err.count("\n") == 1
    assert said in err


BAD_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("s.toml", "", "s.toml: is empty"),
    "truncated TOML": ("s.toml", TOML + 'software = "mega', "s.toml:7: not valid TOML"),
    "truncated JSON": ("s.json", json.dumps(SCENARIO, indent=1)[:-20], "s.json:7: not valid JSON"),
    "not text": ("s.toml", b'model = "a"\nname = "\xff"', "s.toml:2: not UTF-8 text"),
    "not an object": ("s.json", "[1, 2]", "must hold one JSON object (got list)"),
    "not finite": ("s.json", '{"tokens": NaN}', "numbers must be finite (got NaN)"),
    "TOML nan": ("s.toml", TOML + "tokens = nan", "s.toml: tokens: must be a number > 0 (got nan)"),
    "nested deeply": ("s.json", "[" * 100_000, "nested too deeply"),
    "unknown key": ("s.toml", TOML + "modle = 1", "s.toml: unknown key 'modle'; nearest: 'model'"),
    "dashes": ("s.toml", "seq-len = 1", "unknown key 'seq-len'; nearest: 'seq_len'"),
    "unknown layout key": ("s.toml", TOML + "[layout]\ntpp = 8", "layout: unknown key 'tpp'; nearest: 'tp'"),
    "layout no table": ("s.toml", "layout = 8", "layout: must be a table (got int)"),
    "given twice": ("s.toml", TOML + "tp = 2\n[layout]\ntp = 2", "tp: given twice"),
    "text for a number": ("s.toml", 'seq_len = "8192"', "s.toml: seq_len: must be a whole number >= 1 (got '8192')"),
    "true for a number": ("s.toml", "seq_len = true", "s.toml: seq_len: must be a whole number >= 1 (got true)"),
    "half": ("s.json", '{"global_batch": 2.5}', "global_batch: must be a whole number >= 1 (got 2.5)"),
    "number for a name": ("s.toml", "precision = 16", "s.toml: precision: must be text (got 16)"),
    "number for a model": ("s.toml", "model = 16", "s.toml: model: must be an id, a path or a table (got 16)"),
    "number for a switch": ("s.toml", "sequence_parallel = 1", "sequence_parallel: must be true or false (got 1)"),
    "text for a list": ("s.toml", 'stage_layers = "1"', "stage_layers: must be a list of whole numbers (got '1')"),
    "number for a table": ("s.toml", "offload = 1", "offload: must be a table of numbers, as activations=0.5 (got 1)"),
    "another document": ("s.json", '{"document": "perfmodel/serving-plan/1"}', "unknown document"),
    "document without request": (
        "s.json",
        '{"document": "perfmodel/training-plan/1"}',
        "request: missing or not a table",
    ),
}


@pytest.mark.parametrize(("name", "text", "said"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_scenario_is_one_line(cli: Any, tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    code, out, err = cli(*ESTIMATE, "-f", str(file))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
