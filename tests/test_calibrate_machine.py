"""`perfmodel calibrate` of a machine: laws come back from a device that follows them; the CPU of the test itself."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfmodel.calibrate.machine import devices, measuring, steps
from perfmodel.calibrate.machine.block import CPU_BLOCK, CUDA_BLOCK, BlockShape, forward, predicted_block
from perfmodel.calibrate.machine.calibration import calibrate_machine, describe_machine
from perfmodel.calibrate.machine.fitting import element_bytes, held_out
from perfmodel.calibrate.machine.measuring import Measured, measure, sample_of
from perfmodel.calibrate.machine.numpy_device import NumpyDevice, causal_attention, repeated
from perfmodel.calibrate.machine.operations import KINDS, Facts, Operation, Sample
from perfmodel.calibrate.machine.shapes import cpu_operations, cuda_operations, message_operations
from perfmodel.calibrate.machine.torch_device import known_part
from perfmodel.calibrate.machine.torch_messages import message_elements
from perfmodel.cli.main import main
from perfmodel.errors import MissingExtraError, PlanError, SpecError
from perfmodel.formulas.collectives import ring_all_reduce_time
from perfmodel.predict.kernels import Kernels
from perfmodel.predict.serving.estimate import estimate_serving
from perfmodel.predict.training import estimate_training
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.efficiency import Efficiency, load_efficiency

TRUTH = load_efficiency("h100-sxm")
H200 = Facts(
    name="NVIDIA H200", vendor="NVIDIA", architecture="compute capability 9.0", n_cores=132, memory_bytes=150.1e9,
    last_cache_bytes=50e6, core_cache_bytes=228e3, stack="PyTorch 9, CUDA 99", relative="h200-sxm", is_relative=True,
    limit_w=700.0, idle_w=75.0, count=8,
)  # fmt: skip
UNKNOWN = dataclasses.replace(H200, name="Made-up 9000", relative="h100-sxm", is_relative=False, count=1, idle_w=None)


class LawDevice:
    """A GPU that takes the time of the shipped laws of the H100 on the H200, with 2 % of noise."""

    kind = "cuda"

    def __init__(self, facts: Facts = H200, efficiency: Efficiency = TRUTH) -> None:
        self._facts, self._random = facts, np.random.default_rng(7)
        self._part = load_accelerator("h200-sxm")
        self._kernels = {dtype: Kernels(self._part, efficiency, dtype) for dtype in ("bf16",)}

    def facts(self) -> Facts:
        return self._facts

    def operations(self, quick: bool) -> Sequence[Operation]:
        messages = message_operations(self._facts.count, True) if self._facts.count > 1 else []
        return [*cuda_operations(quick, ("bf16",), self._facts.memory_bytes), *messages]

    def repetitions(self, operation: Operation, repeats: int) -> Sequence[float]:
        noise = np.exp(0.02 * self._random.standard_normal(repeats))
        return (self._law(operation) * noise).tolist()

    def block(self, shape: BlockShape, repeats: int) -> Sequence[float]:
        return [1.25 * sum(predicted_block(self._kernels["bf16"], shape, "flash-3", "megatron").values())] * repeats

    def _law(self, operation: Operation) -> float:
        kernels, sizes = self._kernels["bf16"], [float(size) for size in operation.sizes]
        if operation.kind == "matmul":
            return float(kernels.matmul(*sizes).seconds)
        if operation.kind in ("prefill", "backward"):
            backward = operation.kind == "backward"
            return float(kernels.flash_attention(*sizes, library="flash-3", backward=backward).seconds)
        if operation.kind == "decode":
            return float(kernels.decode_attention(*sizes, library="vllm").seconds)
        if operation.kind == "elementwise":
            return float(kernels.elementwise(2.0 * sizes[0] * sizes[1], "megatron").seconds)
        if operation.kind == "copy":
            return 2.0 * sizes[0] / (0.9 * float(self._part.hbm_byte_per_s))
        half = 1.0 if operation.kind == "all_reduce" else 0.5
        return half * float(ring_all_reduce_time(sizes[1], sizes[0], 8e-6, 1e-6, 3e11))


@pytest.fixture(scope="module")
def found() -> Any:
    return calibrate_machine(LawDevice(), quick=True, note="on a quiet day")


def test_the_laws_of_a_device_come_back(found: Any) -> None:
    """Noise of 2 % and 30 repetitions leave medians known to half a percent; the constants that many rows feel to 5."""
    blocks = {block.block: block for block in found.blocks}
    assert list(blocks) == ["matmul.bf16", "attention", "backward", "decode", "elementwise", "collective", "all_to_all"]
    for name in ("matmul.bf16", "attention", "backward", "decode", "elementwise"):
        assert blocks[name].held_out_median < 0.02 < blocks[name].roofline_median, name
        assert blocks[name].held_out_rows > 0
    truth = {"matmul.bf16": TRUTH.matmul["bf16"], "attention": TRUTH.attention["flash-3"]}
    for name, constant in (("matmul.bf16", "compute_efficiency"), ("attention", "peak_efficiency")):
        wanted = getattr(truth[name], constant)
        assert blocks[name].constants[constant] == pytest.approx(wanted, rel=0.05, abs=0), name
    ratio = float(TRUTH.attention["flash-3"].backward_efficiency_ratio)
    assert blocks["backward"].constants["backward_efficiency_ratio"] == pytest.approx(ratio, rel=0.05, abs=0)
    assert found.check.ratio == pytest.approx(1 / 1.25, rel=0.05, abs=0)


def test_every_kind_of_shape_is_scored_and_its_rows_add_up(found: Any) -> None:
    assert {one.block for one in found.classes} == {"matmul.bf16", "prefill", "decode", "elementwise"}
    for block in ("matmul.bf16", "decode", "elementwise"):
        rows = sum(one.rows for one in found.classes if one.block == block)
        assert rows == next(one.held_out_rows for one in found.blocks if one.block == block)
    assert all(one.median < 0.05 for one in found.classes)


def test_the_description_is_a_cluster_that_everything_takes(found: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(found.to_toml())
    cluster = load_cluster(path)
    part, sheet = cluster.accelerator, load_accelerator("h200-sxm")
    assert (cluster.accelerators, part.name, part.vendor) == (8, "NVIDIA H200", "NVIDIA")
    assert part.peak_flop_per_s == sheet.peak_flop_per_s
    assert (float(part.tdp_w), part.tdp_w.kind, float(part.idle_w)) == (700.0, "measured", 75.0)
    assert load_accelerator(path) == part
    own = part.kernel_constants()
    assert own.attention["flash-2"].fit.source == "this-machine"
    assert own.attention["flash-3"] == TRUTH.attention["flash-3"]
    title = own.sources["this-machine"].title
    for word in ("NVIDIA H200", "PyTorch 9", "medians of 30", "p10", "p90", "on a quiet day"):
        assert word in title
    layout = {"tp": 8, "pp": 1, "dp": 1, "micro_batch": 1}
    trained = estimate_training("llama-3.1-8b", path, layout=layout, global_batch=8, seq_len=4096)
    served = estimate_serving(
        "llama-3.1-8b", path, layout={"tp": 1}, prompt_tokens=1024, output_tokens=64, concurrency=8
    )
    assert 0 < trained.step_time_lower_s <= trained.step_time_s <= trained.step_time_upper_s
    assert served.tpot_s > 0
    again = estimate_training("llama-3.1-8b", trained.request["cluster"], layout=layout, global_batch=8, seq_len=4096)
    assert again.step_time_s == trained.step_time_s


def test_constants_of_ones_own_change_the_answer(found: Any) -> None:
    """Half the bandwidth share of the products' constants must make a decode step slower."""
    slow = json.loads(json.dumps(found.description))
    slow["accelerator"]["efficiency"]["matmul"]["bf16"]["memory_efficiency"] /= 2
    question: dict[str, Any] = {"layout": {"tp": 1}, "prompt_tokens": 64, "output_tokens": 64, "concurrency": 1}
    quick = estimate_serving("llama-3.1-8b", found.description, **question)
    assert estimate_serving("llama-3.1-8b", slow, **question).tpot_s > 1.5 * quick.tpot_s


def test_an_unknown_part_is_described_by_what_was_measured() -> None:
    device = LawDevice(UNKNOWN)
    machine = describe_machine(UNKNOWN, measure(device, quick=True), on_cpu=False)
    part = machine.accelerator
    assert part.id == "made-up-9000-measured"
    assert part.hbm_byte_per_s.kind == "measured"
    assert float(part.hbm_byte_per_s) == pytest.approx(0.9 * 4.8e12, rel=0.05, abs=0)
    assert "p10" in part.peak_flop_per_s["bf16"].note
    assert (part.idle_w.kind, float(part.idle_w)) == ("assumed", pytest.approx(210.0))
    assert part.kernel_constants().inherited


def test_an_efficiency_file_beside_an_accelerator(found: Any, tmp_path: Path) -> None:
    """`efficiency` may name a file, found beside the file that names it; what is wrong with it says so."""
    (tmp_path / "own.toml").write_text('relative = "h100-sxm"\n')
    description = load_accelerator("h100-sxm").model_dump(mode="json", exclude_none=True)
    (tmp_path / "part.json").write_text(json.dumps(description | {"id": "part", "efficiency": "./own.toml"}))
    assert load_accelerator(tmp_path / "part.json").kernel_constants().matmul == TRUTH.matmul
    (tmp_path / "part.json").write_text(json.dumps(description | {"efficiency": "./missing.toml"}))
    with pytest.raises(SpecError, match=r"missing\.toml: cannot be read"):
        load_accelerator(tmp_path / "part.json")
    (tmp_path / "part.json").write_text(json.dumps(description | {"efficiency": {"matmull": {}}}))
    with pytest.raises(SpecError, match="unknown key 'matmull'; nearest: 'matmul'"):
        load_accelerator(tmp_path / "part.json")


class Broken(LawDevice):
    def __init__(self, value: float, operations: int | None = None) -> None:
        super().__init__()
        self._value, self._most = value, operations

    def operations(self, quick: bool) -> Sequence[Operation]:
        return super().operations(quick)[: self._most]

    def repetitions(self, operation: Operation, repeats: int) -> Sequence[float]:
        return [*super().repetitions(operation, repeats - 1), self._value]


@pytest.mark.parametrize(
    ("device", "words", "message"),
    [
        (Broken(float("nan")), {}, "a device gave nan as a time"),
        (Broken(-1.0), {}, "a device gave -1.0 as a time"),
        (Broken(0.0), {}, "a device gave 0.0 as a time"),
        (Broken(float("inf")), {}, "a device gave inf as a time"),
        (Broken(1e-3, 6), {}, "matmul: 6 rows of 1 shapes are too few to find 10 constants"),
        (LawDevice(), {"repeats": 29}, "repeats: must be from 30 to 10000 (got 29)"),
        (LawDevice(), {"note": "two\nlines"}, "note: must be one line of at most 400"),
        (LawDevice(), {"note": "x" * 401}, "note: must be one line of at most 400"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(device: Any, words: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as error:
        calibrate_machine(device, quick=True, **words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["calibrate", *words])
    return code, *capsys.readouterr()


def test_the_command_measures_shows_and_writes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "open_device", lambda name: LawDevice(UNKNOWN))
    out = tmp_path / "own.toml"
    code, page, said = run(capsys, "--quick", "-o", str(out), "--note", "2026-11-21")
    assert code == 0
    for word in ("Made-up 9000", "held out", "m <= 16", "A block that was not fitted", "ratio"):
        assert word in page
    assert "100" not in said.splitlines()[0]
    assert f"--cluster {out}" in said
    assert "Made-up 9000" in out.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["own.toml"]
    code, printed, _ = run(capsys, "--quick", "--json")
    document = json.loads(printed)
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert document["device"]["name"] == "Made-up 9000"
    assert all(sample["repeats"] == 30 for sample in document["samples"])
    assert all(sample["p10_s"] <= sample["seconds"] <= sample["p90_s"] for sample in document["samples"])
    words = "estimate gemm --m 64 --n 4096 --k 4096 --dtype bf16 --json --accelerator"
    assert main([*words.split(), str(out)]) == 0


def test_nothing_is_written_where_a_measurement_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(devices, "open_device", lambda name: Broken(float("nan")))
    (tmp_path / "own.toml").write_text("# mine\n")
    code, out, said = run(capsys, "-o", str(tmp_path / "own.toml"))
    assert (code, out) == (2, "")
    assert said.splitlines()[-1].endswith("a device gave nan as a time [s]")
    assert (tmp_path / "own.toml").read_text() == "# mine\n"
    code, out, said = run(capsys, "-o", str(tmp_path / "no" / "own.toml"))
    assert (code, out, said.count("\n")) == (2, "", 1)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is here")
def test_without_pytorch_a_gpu_is_refused_and_the_cpu_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingExtraError, match="needs PyTorch"):
        devices.open_device("cuda")
    assert devices.open_device("auto").kind == "cpu"
    code, out, said = run(capsys, "--device", "cuda")
    assert (code, out, said.count("\n")) == (3, "", 1)


def test_help_and_shipped_need_no_measurement() -> None:
    assert "torch" not in sys.modules


def test_every_third_shape_is_held_out_whatever_its_rows() -> None:
    samples = [Sample(one, 1.0, 1.0, 1.0, 30) for one in cpu_operations(False, 1e12)]
    out = held_out(samples)
    pairs: dict[tuple[int, ...], set[bool]] = {}
    for sample, held in zip(samples, out.tolist(), strict=True):
        if sample.operation.kind == "matmul":
            pairs.setdefault(sample.operation.sizes[1:], set()).add(held)
    assert all(len(one) == 1 for one in pairs.values())
    assert sum(one == {True} for one in pairs.values()) == len(pairs) // 3


@pytest.mark.parametrize("shape", [CPU_BLOCK, CUDA_BLOCK])
def test_the_block_shares_no_shape_with_what_is_fitted(shape: BlockShape) -> None:
    fitted = [*cpu_operations(False, 1e12), *cuda_operations(False, ("bf16",), 1e12)]
    pairs = {(k, n) for one in fitted if one.kind == "matmul" for _, n, k in [one.sizes]}
    heads = {one.sizes[2:] for one in fitted if one.kind == "prefill"}
    assert not pairs & set(shape.weights)
    assert (shape.n_heads, shape.n_heads, shape.d_head) not in heads


def test_attention_in_blocks_is_attention() -> None:
    random = np.random.default_rng(1)
    q, k, v = (random.standard_normal((2, 3, 200, 16)).astype(np.float32) for _ in range(3))
    scores = np.einsum("bhqd,bhkd->bhqk", q, k) / 4 + np.triu(np.full((200, 200), -np.inf), 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdims=True), v)
    assert np.abs(causal_attention(q, k, v) - expected).max() < 1e-5


def test_the_block_is_a_residual_block() -> None:
    """With an output and a down projection of zeros nothing is added to the tokens."""
    shape = BlockShape(1, 8, 16, 24, 2, 8, "fp32")
    weights = [np.ones(size, np.float32) for size in shape.weights]
    weights[1], weights[4] = np.zeros_like(weights[1]), np.zeros_like(weights[4])
    tokens = np.random.default_rng(2).standard_normal((1, 8, 16)).astype(np.float32)
    assert np.array_equal(forward(tokens, weights, shape, causal_attention, np.exp), tokens)


def test_every_operation_of_the_cpu_runs() -> None:
    device = NumpyDevice()
    for kind, sizes in {
        "matmul": (4, 64, 64), "prefill": (1, 130, 4, 2, 16), "decode": (2, 64, 4, 2, 16), "elementwise": (4096, 2),
        "copy": (4096,),
    }.items():  # fmt: skip
        times = device.repetitions(Operation(kind, "fp32", sizes), 3)
        assert len(times) == 3, kind
        assert min(times) > 0, kind
    facts = device.facts()
    assert facts.name
    assert min(facts.n_cores, facts.memory_bytes, facts.last_cache_bytes, facts.core_cache_bytes) > 0


def test_percentiles_and_the_second_try() -> None:
    one = sample_of(Operation("copy", "fp32", (64,)), [float(time) for time in range(1, 12)])
    assert (one.p10_s, one.seconds, one.p90_s, one.repeats) == (2.0, 6.0, 10.0, 11)

    class Moody(LawDevice):
        calls = 0

        def repetitions(self, operation: Operation, repeats: int) -> Sequence[float]:
            self.calls += 1
            return [1e-3, 5e-3] * 15 if self.calls % 2 else [1e-3] * 30

    moody = Moody(UNKNOWN)
    measured = measure(moody, quick=True)
    assert moody.calls == 2 * len(measured.samples)
    assert measured.notes == ()


def test_a_guard_of_time_leaves_every_fit_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that ticks a second a look, a guard of 60 s leaves out operations, and none that a fit needs."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(measuring, "monotonic", lambda: float(next(ticks)))
    measured = measure(LawDevice(UNKNOWN), quick=True, limit_s=60.0)
    asked, taken = LawDevice(UNKNOWN).operations(True), [sample.operation.kind for sample in measured.samples]
    assert len(taken) < len(asked)
    assert measured.notes == (
        f"the time was up after {len(taken)} of {len(asked)} operations: the others are not in the fit",
    )
    for kind in {one.kind for one in asked}:
        assert taken.count(kind) >= min(measuring.ENOUGH, sum(one.kind == kind for one in asked)), kind


def test_a_machine_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10**7, 50))
    monkeypatch.setattr(measuring, "monotonic", lambda: float(next(ticks)))
    measured = measure(LawDevice(UNKNOWN), quick=True, limit_s=60.0)
    assert len(measured.samples) < 12


def test_a_busy_machine_is_named() -> None:
    class Busy(LawDevice):
        def repetitions(self, operation: Operation, repeats: int) -> Sequence[float]:
            return [1e-3, 5e-3] * 15

    seen: list[tuple[int, int]] = []
    (note,) = measure(Busy(UNKNOWN), quick=True, progress=lambda done, total, _: seen.append((done, total))).notes
    assert "something else ran beside them" in note
    assert seen[-1][0] == seen[-1][1] == len(seen) - 1


def test_a_repetition_follows_a_warm_up() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    assert len(repeated(call, 5)) == 5
    assert calls >= 2 + 5


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("NVIDIA H200", "h200-sxm"), ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"), ("NVIDIA L40S", "l40s"), ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("NVIDIA H200 NVL", None), ("Made-up 9000", None),
    ],
)  # fmt: skip
def test_parts_are_known_by_their_drivers_name(name: str, id: str | None) -> None:
    assert known_part(name) == id
    assert id is None or load_accelerator(id).id == id


def test_messages_hold_the_bytes_that_the_laws_mean() -> None:
    for one in message_operations(8, True):
        ranks, n_bytes = one.sizes
        given, got = (2 * size for size in message_elements(one))
        total = got if one.kind == "all_gather" else given
        assert total == n_bytes
        assert (one.kind == "all_gather") == (given * ranks == got)
        assert (one.kind == "reduce_scatter") == (given == got * ranks)


def test_operations_name_their_sizes() -> None:
    for one in (
        *cpu_operations(True, 1e9),
        *cuda_operations(True, ("bf16", "tf32"), 1e11),
        *message_operations(4, True),
    ):
        assert len(one.sizes) == len(KINDS[one.kind])
        assert element_bytes(one.dtype) in (2.0, 4.0)


def test_whole_steps_become_measured_entries(found: Any, tmp_path: Path) -> None:
    """Each entry holds the prediction beside the time; a description that cannot price a step stops before it runs."""
    ran: list[steps.StepShape] = []

    def fake(shape: steps.StepShape, repeats: int) -> Sequence[float]:
        ran.append(shape)
        return [0.01] * repeats

    cluster = load_cluster(found.description, accelerators=1)
    entries = list(steps.measured_steps(fake, cluster))
    assert len(entries) == len(steps.TRAININGS) + len(steps.DECODES) == len(ran)
    for entry in entries:
        assert (entry.kind, entry.repeats) == ("measured", 30)
        assert entry.ratio == pytest.approx(entry.predicted_s / 0.01)
        assert entry.predicted_s > 0
    broken = dataclasses.replace(steps.TRAININGS[0], n_kv_heads=5)
    ran.clear()
    with pytest.raises((PlanError, SpecError)):
        list(steps.measured_steps(fake, cluster, [steps.TRAININGS[0], broken]))
    assert ran == []


@pytest.fixture
def cpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[[], tuple[dict[str, Any], Path]]:
    def measured() -> tuple[dict[str, Any], Path]:
        path = tmp_path / "cpu.toml"
        code, out, said = run(capsys, "--device", "cpu", "--quick", "-o", str(path), "--json")
        assert code == 0, said
        return json.loads(out), path

    return measured


@pytest.mark.heavy
def test_this_machine_predicts_a_block_that_it_was_not_fitted_on(
    cpu: Callable[[], tuple[dict[str, Any], Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The real CPU: only that the ratio is a number within a factor of four, since other work runs beside tests."""
    document, path = cpu()
    check = document["check"]
    with capsys.disabled():
        medians = {block["block"]: round(block["held_out_median"], 3) for block in document["blocks"]}
        print(f"\nblock on this CPU: predicted / measured {check['ratio']:.3f}; held-out medians {medians}")
    assert 0.25 < check["ratio"] < 4
    layout = {"tp": 1, "pp": 1, "dp": 1, "micro_batch": 1}
    assert estimate_training("llama-3.2-1b", path, layout=layout, global_batch=1, seq_len=128).step_time_s > 0
    served = estimate_serving("llama-3.2-1b", path, layout={"tp": 1}, prompt_tokens=64, output_tokens=16, concurrency=1)
    assert served.tpot_s > 0


def test_a_measurement_without_samples_of_a_kind_says_which() -> None:
    measured = Measured((Sample(Operation("matmul", "bf16", (64, 64, 64)), 1e-5, 1e-5, 1e-5, 30),), ())
    with pytest.raises(PlanError, match="matmul: 1 rows of 1 shapes are too few"):
        describe_machine(H200, measured, on_cpu=False)
