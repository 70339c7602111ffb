"""The command line as a person and a script meet it: exit codes, one-line errors, pure JSON, scenario files."""

from __future__ import annotations

import inspect
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from cli_words import ESTIMATE, FLAGS, LAYOUT, PLAN, SCENARIO, TOML, replaced

import perfmodel as pm
from perfmodel.cli import format as fmt
from perfmodel.cli import options
from perfmodel.cli.main import main
from perfmodel.predict.activations import FREED_BY
from perfmodel.predict.communication import Links
from perfmodel.predict.layout import OFFLOADS, SCHEDULES, ParallelLayout
from perfmodel.predict.recompute import MODULES
from perfmodel.predict.training_task import PACKINGS, TRAINING_PRECISIONS
from perfmodel.predict.weights import OPTIMIZERS


def test_options_agree_with_the_library() -> None:
    allowed = {
        "precision": TRAINING_PRECISIONS,
        "optimizer": tuple(OPTIMIZERS),
        "packing": PACKINGS,
        "schedule": SCHEDULES,
        "recompute_modules": tuple(MODULES),
        "offload": OFFLOADS,
    }
    assert {name: options.OPTIONS[name].choices for name in allowed} == allowed
    assert MODULES.keys() == FREED_BY.keys()
    exchange = ParallelLayout.model_fields["cp_exchange"].annotation
    assert {*options.OPTIONS["cp_exchange"].choices, None} == {*get_args(get_args(exchange)[0]), None}
    of_kernel = {option.name: option.choices for option in options.ESTIMATE_COLLECTIVE}
    assert of_kernel["algorithm"] == Links.algorithms("all_reduce")
    assert all(set(Links.algorithms(name)) <= set(of_kernel["algorithm"]) for name in of_kernel["operation"])
    assert {option.name for option in options.LAYOUT} == set(ParallelLayout.model_fields)
    assert options.json_schema()["properties"]["layout"]["additionalProperties"] is False
    keywords = inspect.signature(pm.estimate_training).parameters.keys() - {"layout"}
    offered = {option.name for option in options.ESTIMATE_TRAINING} - {option.name for option in options.LAYOUT}
    assert offered == keywords | {"accelerators"}
    assert {option.name for option in options.PLAN_TRAINING} == inspect.signature(
        pm.plan_training
    ).parameters.keys() | {"accelerators"}


def test_public_names_resolve() -> None:
    assert all(getattr(pm, name) is not None for name in pm.__all__)
    named = {"Accelerator", "Architecture", "Cluster", "Host", "ParallelLayout", "load_host", "estimate_memory"}
    assert named <= set(pm.__all__) == set(dir(pm))


def test_help_and_version(cli: Any) -> None:
    code, out, err = cli("--help")
    assert (code, err) == (0, "")
    assert "register-python-argcomplete" in out
    assert cli() == (0, out, "")
    assert cli("--version") == (0, f"perfmodel {pm.__version__}\n", "")
    code, out, _ = cli("estimate", "training", "--help")
    assert code == 0
    assert all(option.flag in out for option in options.ESTIMATE_TRAINING)


def test_json_is_one_document_and_nothing_else(cli: Any) -> None:
    code, out, err = cli(*ESTIMATE, *FLAGS, *LAYOUT, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert document["request"]["layout"]["tp"] == 2
    assert out == cli(*ESTIMATE, *FLAGS, *LAYOUT, "--json").out


def test_files_and_flags_say_the_same(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = cli(*ESTIMATE, *FLAGS, *LAYOUT, "--no-sequence-parallel", "--json").out
    nested = SCENARIO | {"global_batch": 128.0, "layout": {"tp": 2, "dp": 32, "sequence_parallel": False}}
    flat = TOML + "tp = 4\ndp = 32\nsequence_parallel = false\n"
    (tmp_path / "nested.json").write_text(json.dumps(nested))
    (tmp_path / "flat.toml").write_text(flat)
    assert cli(*ESTIMATE, "-f", str(tmp_path / "nested.json"), "--json").out == wanted
    # A flag stands over the file.
    assert cli(*ESTIMATE, "-f", str(tmp_path / "flat.toml"), "--tp", "2", "--json").out == wanted
    for text in (json.dumps(nested), flat.replace("tp = 4", "tp = 2")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert cli(*ESTIMATE, "-f", "-", "--json").out == wanted


def test_a_document_reproduces_itself(cli: Any, tmp_path: Path) -> None:
    estimate, plan = tmp_path / "estimate.json", tmp_path / "plan.json"
    assert cli(*ESTIMATE, *FLAGS, *LAYOUT, "--tokens", "1e12", "-o", str(estimate)) == (0, "", "")
    assert cli(*ESTIMATE, "-f", str(estimate), "--json") == (0, estimate.read_text(), "")
    assert cli(*PLAN, *FLAGS, "--objective", "cost", "-o", str(plan)) == (0, "", "")
    assert cli(*PLAN, "-f", str(plan), "--json") == (0, plan.read_text(), "")
    # An estimate of a plan prices what the plan decided.
    document = json.loads(plan.read_text())
    priced = json.loads(cli(*ESTIMATE, "-f", str(plan), "--json").out)
    assert priced["request"]["layout"] == document["decision"]["layout"]
    assert priced["step_time_s"] == document["prediction"]["step_time_s"]


EVERY_KEY = """
tp = 2
pp = 4
dp = 2
cp = 2
micro_batch = 1
zero_stage = 1
dp_shard = 1
sequence_parallel = true
recompute = "selective"
recompute_modules = ["mlp", "layernorm"]
schedule = "1f1b"
stage_layers = [7, 9, 9, 7]
overlap = false
cp_exchange = "all-gather"
offload = { activations = 0.5 }
trainable = "lora:r=16"
mean_seq_len = 1000
packing = "packed"
optimizer = "adam-bf16"
"""


def test_every_key_has_a_flag_and_a_place_in_a_file(cli: Any, tmp_path: Path) -> None:
    words = "--tp 2 --pp 4 --dp 2 --cp 2 --micro-batch 1 --zero-stage 1 --dp-shard 1 --sequence-parallel --recompute "
    words += "selective --recompute-modules mlp,layernorm --schedule 1f1b --stage-layers 7,9,9,7 --no-overlap "
    words += "--cp-exchange all-gather "
    words += "--offload activations=0.5 --trainable lora:r=16 --mean-seq-len 1000 --packing packed "
    words += "--optimizer adam-bf16"
    (tmp_path / "s.toml").write_text(TOML + EVERY_KEY)
    code, out, err = cli(*ESTIMATE, *FLAGS, *words.split(), "--json")
    assert (code, err) == (0, "")
    assert cli(*ESTIMATE, "-f", str(tmp_path / "s.toml"), "--json").out == out
    (tmp_path / "result.json").write_text(out)
    assert cli(*ESTIMATE, "-f", str(tmp_path / "result.json"), "--json") == (0, out, "")
    page = " ".join(cli(*ESTIMATE, *FLAGS, *words.split()).out.split())
    for part in ("mlp, layernorm", "7, 2 x 9, 7", "activations 0.5", "lora:r=16", "packed documents of 1,000"):
        assert part in page


EXPERTS = [*ESTIMATE, *replaced("--model", "mixtral-8x7b"), "--dp", "32", "--tp", "2"]


def test_experts_have_their_degrees(cli: Any) -> None:
    document = json.loads(cli(*EXPERTS, "--ep", "8", "--etp", "2", "--json").out)
    assert (document["request"]["layout"]["ep"], document["request"]["layout"]["etp"]) == (8, 2)
    assert "expert_parallel" in {term["name"] for term in document["terms"]}
    code, _, err = cli(*EXPERTS, "--ep", "3")
    assert code == 2
    assert "ep: must divide n_experts 8 (got 3); allowed: 1, 2, 4, 8" in err


def test_memory_alone_is_what_the_step_says(cli: Any, tmp_path: Path) -> None:
    code, out, err = cli("estimate", "memory", *FLAGS, *LAYOUT, "--json")
    assert (code, err) == (0, "")
    memory, step = json.loads(out), json.loads(cli(*ESTIMATE, *FLAGS, *LAYOUT, "--json").out)
    assert list(memory)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert memory["document"] == "perfmodel/memory-estimate/1"
    assert {key: value for key, value in memory.items() if key != "document"}.items() <= step.items()
    (tmp_path / "memory.json").write_text(out)
    assert cli("estimate", "memory", "-f", str(tmp_path / "memory.json"), "--json") == (0, out, "")
    page = cli("estimate", "memory", *FLAGS, *LAYOUT).out
    assert page.startswith("Llama 3.1 8B on 64 H100 SXM: ")
    assert "Memory of the fullest accelerator" in page
    assert "DOES NOT FIT" in cli("estimate", "memory", *replaced("--model", "llama-3.1-70b"), "--dp", "64").out


def test_unused_keys_of_a_file_are_mentioned(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(TOML + 'objective = "cost"\ntp = 2\n')
    code, out, err = cli(*PLAN, "-f", str(file), "--json")
    assert code == 0
    assert json.loads(out)["request"]["objective"] == "cost"
    assert err == f"perfmodel: note: {file}: not used by plan training: tp\n"


def test_paths_in_a_file_are_relative_to_it(cli: Any, tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_attention_heads": 8,
        "vocab_size": 1024,
    }
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    (tmp_path / "s.toml").write_text(TOML.replace("llama-3.1-8b", "mine/config.json"))
    code, out, _ = cli(*ESTIMATE, "-f", str(tmp_path / "s.toml"), "--json")
    assert code == 0
    assert json.loads(out)["request"]["model"]


def test_infeasible_plan_prints_and_exits_1(cli: Any) -> None:
    words = [*PLAN, *replaced("--model", "llama-3.1-405b"), "--accelerators", "8"]
    code, out, err = cli(*words, "--json")
    document = json.loads(out)
    assert (code, err) == (1, "")
    assert not document["feasible"]
    code, out, _ = cli(*words)
    assert code == 1
    assert out.startswith("No feasible layout for Llama 3.1 405B on 8 H100 SXM")
    assert document["infeasible_because"][0][:40] in out


def test_estimate_that_does_not_fit_exits_0(cli: Any) -> None:
    words = [*ESTIMATE, *replaced("--model", "llama-3.1-70b"), "--dp", "64"]
    code, out, _ = cli(*words)
    assert code == 0
    assert "DOES NOT FIT" in out
    assert "too much" in out
    assert json.loads(cli(*words, "--json").out)["fits"] is False


@pytest.mark.parametrize("width", ["80", "100", "120"])
def test_pages_keep_their_width(cli: Any, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    monkeypatch.setenv("COLUMNS", width)
    out = cli(*PLAN, *FLAGS, "--tokens", "15e12", "--objective", "cost").out
    assert max(map(len, out.splitlines())) <= int(width)
    assert "\x1b" not in out
    for title in ("Best layout", "Where the step goes", "Memory of", "Alternatives", "What would help", "How sure"):
        assert f"\n{title}" in out
    assert out == "".join(f"{line.rstrip()}\n" for line in out.splitlines())


def test_the_page_adds_up(cli: Any) -> None:
    document = json.loads(cli(*ESTIMATE, *FLAGS, *LAYOUT, "--json").out)
    page = cli(*ESTIMATE, *FLAGS, *LAYOUT).out
    step = document["step_time_s"]
    assert f"{fmt.seconds(step)} per step" in page
    assert f"{fmt.percent(document['mfu'])} MFU" in page
    block = page.split("Where the step goes")[1].split("\nstep ")[0].splitlines()[2:]
    shown = [line.split() for line in block if line and not line.startswith(" ")]
    seconds = [next(float(word) for word in words if word.replace(".", "").isdigit()) for words in shown]
    assert sum(seconds) == pytest.approx(float(fmt.seconds_beside(step, step)), rel=0.01, abs=0)


def test_bars_without_unicode(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    assert main([*ESTIMATE, *FLAGS, *LAYOUT]) == 0
    plain.flush()
    page = plain.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "####" in page
    assert "?" not in page


def test_output_is_whole_or_not_at_all(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plan.json"
    file.write_text("before")
    assert cli(*PLAN, *replaced("--cluster", "dgx"), "-o", str(file)).code == 2
    assert file.read_text() == "before"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        code, _, err = cli(*PLAN, *FLAGS, "-o", str(file))
    assert (code, err) == (2, f"perfmodel: error: -o {file}: cannot be written: No space left on device\n")
    assert file.read_text() == "before"
    assert cli(*PLAN, *FLAGS, "-o", str(file)) == (0, "", "")
    assert json.loads(file.read_text())["feasible"]
    assert cli("list", "models", "-o", str(tmp_path / "models.txt")) == (0, "", "")
    assert "llama-3.1-405b" in (tmp_path / "models.txt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models.txt", "plan.json"]


def test_validate_exits_1_over_tolerance(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from perfmodel import validation

    code, out, err = cli("validate", "--source", "megatron-sc21", "--json")
    document = json.loads(out)
    assert err == ""
    assert code == int(document["over_tolerance"])
    assert list(document["sources"]) == ["megatron-sc21"]
    report = validation.run("megatron-sc21").model_copy(update={"over_tolerance": True, "failures": ("too far",)})
    monkeypatch.setattr(validation, "run", lambda source=None: report)
    code, out, _ = cli("validate")
    assert code == 1
    assert "over tolerance: too far" in out


def test_failures_of_ours(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> None:
        def broken(**_: object) -> None:
            raise error

        monkeypatch.setattr(pm, "plan_training", broken, raising=False)

    raising(KeyError("lost"))
    code, out, err = cli(*PLAN, *FLAGS)
    assert (code, out, err.count("\n")) == (70, "", 1)
    assert "KeyError: 'lost'" in err
    assert "--debug" in err
    assert "Traceback" in cli(*PLAN, *FLAGS, "--debug").err
    assert "Traceback" in cli("--debug", *PLAN, *FLAGS).err
    raising(KeyboardInterrupt())
    assert cli(*PLAN, *FLAGS) == (130, "", "perfmodel: interrupted\n")
    raising(pm.PlanError("first\nsecond\x1b[31m"))
    assert cli(*PLAN, *FLAGS) == (2, "", "perfmodel: error: first second [31m\n")
    from perfmodel.errors import MissingExtraError

    raising(MissingExtraError("pip install x"))
    assert cli(*PLAN, *FLAGS).code == 3


def test_bad_input_with_debug_has_a_traceback(cli: Any) -> None:
    code, _, err = cli("show", "nothing", "--debug")
    assert code == 2
    assert "Traceback" in err


def run_process(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perfmodel", *words], capture_output=True, text=True, timeout=60, check=False, **more
    )


def test_as_a_process() -> None:
    done = run_process(*ESTIMATE, "-f", "-", "--json", input=TOML + "tp = 2\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["request"]["layout"]["tp"] == 2
    failed = run_process("plan", "trainig")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.count("\n") == 1


def test_help_imports_nothing_heavy() -> None:
    heavy = {"numpy", "pydantic", "sympy", "rich", "pandas", "scipy"}
    probe = (
        "import sys; from perfmodel.cli.main import main; main(['--help']); "
        f"print(sorted({heavy!r} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes of a POSIX shell")
def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m perfmodel list formulas --json; echo code $? >&2"
    done = subprocess.run(
        f"({command}) | head -c 1", shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "code 0\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line() -> None:
    command = f"{sys.executable} -m perfmodel list models > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "perfmodel: error: standard output: cannot be written: No space left on device\n"
