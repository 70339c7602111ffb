"""The ledger of training results: counts as collected, units by hand, groups whole, roles complete."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from perfmodel.errors import SpecError
from perfmodel.specs import registry
from perfmodel.specs.huggingface import load_model
from perfmodel.validation.convert import foundry_rows, vtrain_rows
from perfmodel.validation.ledger import contradiction, digits_of
from perfmodel.validation.sources import (
    MAX_CALIBRATED,
    METRICS,
    PUBLISHED,
    Row,
    Source,
    load_sources,
    measured,
    model_of,
)

# Configurations in the collected tables (llm_foundry.csv 524 lines of 4 metrics each, megatron_bridge.csv 178 of 2,
# vtrain_single_node.csv 720, pipeline_schedules.csv 96, nanotron.csv 27 of 3) or, for schedules that split the backward
# pass, in tables 4 and 6 of the zero-bubble paper, and rows that are scored.
GIVEN_AND_KEPT = {
    "llm-foundry-a100": (61, 61),
    "llm-foundry-h100": (70, 70),
    "megatron-bridge-dense": (39, 39),
    "megatron-bridge-moe": (50, 46),
    "vtrain-single-node": (720, 36),
    "zero-bubble-step": (24, 24),
    "zero-bubble-memory": (24, 8),
    "zero-bubble-split-step": (24, 24),
    "zero-bubble-split-memory": (24, 8),
    "zero-bubble-v-step": (36, 36),
    "zero-bubble-v-memory": (36, 14),
    "simumax-step": (24, 24),
    "simumax-memory": (24, 12),
    "nanotron-step": (9, 9),
    "nanotron-memory": (9, 9),
}
CALIBRATING = {"llm-foundry-a100": 1, "llm-foundry-h100": 6, "megatron-bridge-dense": 2, "vtrain-single-node": 3}


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    return load_sources()


def row_at(sources: dict[str, Source], id: str, where: str) -> Row:
    found = [row for row in sources[id].rows if where in row.where]
    assert len(found) == 1, [row.where for row in found]
    return found[0]


def seconds(sources: dict[str, Source], id: str, where: str) -> float:
    return measured(row_at(sources, id, where), sources[id], load_model("gpt2"))


def test_every_collected_configuration_is_kept_or_left_out_with_a_reason(sources: dict[str, Source]) -> None:
    for id, (given, kept) in GIVEN_AND_KEPT.items():
        assert len(sources[id].rows) == kept
        assert given == kept or sources[id].left_out
        assert sources[id].role == "validate"
    # 131 configurations of llm-foundry; 36 cells of vTrain are 9 (tp, pp) splits of up to 8 GPUs times 4 micro-batches.
    assert len(sources["llm-foundry-a100"].rows) + len(sources["llm-foundry-h100"].rows) == 131
    cells = {(row.tp, row.pp, row.micro_batch) for row in sources["vtrain-single-node"].rows}
    assert cells == {(t, p, m) for t in (1, 2, 4, 8) for p in (1, 2, 4) if t * p <= 8 for m in (1, 2, 4, 8)}
    assert len(cells) == 36


def test_one_source_loads_by_name() -> None:
    assert set(GIVEN_AND_KEPT) < set(load_sources())
    assert list(load_sources(["nanotron-step"])) == ["nanotron-step"]


def test_few_whole_groups_calibrate(sources: dict[str, Source]) -> None:
    assert {id: n for id, source in sources.items() if (n := sum(row.calibrates for row in source.rows))} == CALIBRATING
    for id, n in CALIBRATING.items():
        source = sources[id]
        assert n <= MAX_CALIBRATED * len(source.rows)
        assert source.calibrate_rule
        assert len(source.free_constants) == 1
        for row in source.rows:
            matches = any(all(getattr(row, k) == v for k, v in s.items()) for s in source.calibrate_rows)
            assert row.calibrates == matches


def test_roles_are_complete(sources: dict[str, Source]) -> None:
    for id in GIVEN_AND_KEPT:
        source = sources[id]
        assert source.url.startswith("https://")
        assert source.decided
        assert source.reason
        assert source.read
        assert source.definition
        assert {METRICS[row.metric][0] for row in source.rows} == {source.quantity}
        for row in source.rows:
            address = row.source.removeprefix("arXiv:").split("@")[0]
            assert address in source.url


def test_no_run_stands_twice(sources: dict[str, Source]) -> None:
    for source in sources.values():
        runs = Counter(repr(row.model_copy(update={"where": "", "note": ""})) for row in source.rows)
        assert max(runs.values()) == 1


def test_rows_do_not_contradict_themselves(sources: dict[str, Source]) -> None:
    for id in GIVEN_AND_KEPT:
        for row in sources[id].rows:
            assert contradiction(row.model_dump()) == ""
            assert (row.schedule in ("interleaved", "zb-v")) == (row.vpp > 1)
            if row.schedule == "interleaved":
                assert row.global_batch // (row.dp * row.micro_batch) % row.pp == 0
            assert float(f"{row.value:.{row.digits}g}") == row.value
            if row.dp_shard:
                assert row.dp % row.dp_shard == 0
                assert row.zero_stage == 3


def test_contradictions_are_seen() -> None:
    row = {
        "tp": 2,
        "pp": 2,
        "dp": 2,
        "cp": 1,
        "ep": 1,
        "etp": 1,
        "accelerators": 8,
        "micro_batch": 1,
        "global_batch": 8,
    }
    assert contradiction(row) == ""
    assert "tp * pp * cp * dp" in contradiction(row | {"accelerators": 16})
    assert "ep 8 does not divide" in contradiction(row | {"ep": 8})
    assert "no multiple" in contradiction(row | {"global_batch": 9})


@pytest.mark.parametrize(
    ("printed", "digits"), [("1007", 4), ("0.76", 2), ("22.0", 3), ("0.076", 2), ("30", 2), ("372.160408", 9)]
)
def test_digits_as_printed(printed: str, digits: int) -> None:
    assert digits_of(printed) == digits


def test_rates_become_seconds(sources: dict[str, Source]) -> None:
    # MPT-70b on 512 H100: 4096 sequences of 2048 tokens at 1007 tokens/s on each GPU.
    where = "MPT-70b, sequence 2048, 512 GPUs"
    assert seconds(sources, "llm-foundry-h100", where) == pytest.approx(4096 * 2048 / (512 * 1007), rel=1e-12, abs=0)
    # The same row prints an MFU of 41.25 %: 6 N + 12 L h s FLOPs a token, N = 64.8624e9, of 989 TFLOP/s.
    mfu = 1007 * (6 * 64.8624e9 + 12 * 80 * 8192 * 2048) / 989e12
    assert mfu == pytest.approx(0.4125, abs=1e-3, rel=0)
    # GPT-1.5B, 1F1B, 24 micro-batches of 6: 144 samples at 11.8 samples/s on each of 8 GPUs.
    where = "GPT-1.5B, 1F1B, 24 micro-batches"
    assert seconds(sources, "zero-bubble-step", where) == pytest.approx(144 / (8 * 11.8), rel=1e-12, abs=0)
    # Llama 3 70B on 64 GB200 in NVFP4: 256 x 8192 tokens at 4557 tokens/s; 2047 TFLOP/s printed, 449.2e9 FLOPs a token.
    where = "26.02.01: LLAMA3_70B on 64 GB200, NVFP4"
    step = seconds(sources, "megatron-bridge-dense", where)
    assert step == pytest.approx(256 * 8192 / (64 * 4557), rel=1e-12, abs=0)
    assert 449.2e9 * 256 * 8192 / (64 * step) == pytest.approx(2047e12, rel=1e-3, abs=0)


def test_times_and_bytes(sources: dict[str, Source]) -> None:
    assert seconds(sources, "vtrain-single-node", "cell tp 8, pp 1, micro-batch 8") == pytest.approx(0.230202133)
    assert seconds(sources, "simumax-step", "llama3_70b_l12_tp8_pp1_dp1_mbc4_cef") == pytest.approx(0.2809, rel=1e-12)
    assert seconds(sources, "nanotron-step", "dp-1_tp-8_pp-1_mbz-8") == 26.2
    assert seconds(sources, "nanotron-memory", "dp-1_tp-8_pp-1_mbz-8") == 16.5 * 1024**3
    assert seconds(sources, "zero-bubble-memory", "GPT-28.3B, 1F1B-I") == 58e9
    assert seconds(sources, "simumax-memory", "llama3_405b_l4_tp8_pp1_dp1_mbc4_cef") == 38.57 * 1024**3


def test_recipes_tell_what_is_recomputed(sources: dict[str, Source]) -> None:
    rows = sources["megatron-bridge-dense"].rows
    # No dense recipe recomputes but that of Llama 3 8B on H100 in fp8: 5 of its 32 layers.
    full = {(row.model, row.cluster) for row in rows if row.recompute != "none"}
    assert full == {("llama-3-8b", "dgx-h100")}
    assert {row.recompute_layers for row in rows if row.recompute == "full"} == {5}
    # Llama 3 70B with sharded data parallelism on GB200 keeps 40 layers' activations in host memory.
    offloading = [row for row in rows if row.offload]
    assert {(row.model, row.cluster, row.zero_stage) for row in offloading} == {("llama-3-70b", "gb200-nvl72", 3)}
    assert offloading[0].layout()["offload"] == {"activation_layers": 40.0}
    experts = row_at(sources, "megatron-bridge-moe", "26.02.01: DeepSeekV3 on 256 GB200, MXFP8")
    assert experts.recompute_modules == ("mla_up_proj",)
    assert experts.layout()["ep"] == 64
    joined = row_at(sources, "megatron-bridge-moe", "26.02: DeepSeekV3 on 256 B200")
    assert "recipe of another layout" in joined.note


def test_layouts_name_a_key_only_where_it_differs(sources: dict[str, Source]) -> None:
    assert set(sources["megatron-sc21"].rows[0].layout()) == {
        "tp", "pp", "dp", "vpp", "micro_batch", "zero_stage", "sequence_parallel", "recompute", "schedule",
    }  # fmt: skip
    assert all(row.layout()["overlap"] is False for row in sources["simumax-step"].rows)


def test_groups_differ_in_their_layout_alone(sources: dict[str, Source]) -> None:
    same = ("model", "model_changes", "cluster", "accelerators", "global_batch", "seq_len", "precision", "software")
    for id in GIVEN_AND_KEPT:
        groups: dict[str, set[str]] = {}
        for row in sources[id].rows:
            assert row.group
            groups.setdefault(row.group, set()).add(repr([getattr(row, key) for key in same]))
        assert all(len(kinds) == 1 for kinds in groups.values())
    # Nine splits of eight GPUs at one batch: the layout choice that nanotron's runs allow.
    assert len({row.group for row in sources["nanotron-step"].rows}) == 1


def test_models_are_those_that_ran(sources: dict[str, Source]) -> None:
    # MPT-1b: 1.3160e9 parameters at sequence 2048 and 1.4460e9 at 65536, as the page prints: one position a token.
    short = row_at(sources, "llm-foundry-a100", "MPT-1b, sequence 2048, 8 GPUs")
    long = row_at(sources, "llm-foundry-a100", "MPT-1b, sequence 65536")
    assert model_of(short).n_params == pytest.approx(1.3160e9, abs=5e4, rel=0)
    assert model_of(long).n_params == pytest.approx(1.4460e9, abs=5e4, rel=0)
    assert all(model_of(row).max_seq_len >= row.seq_len for row in sources["llm-foundry-h100"].rows)
    truncated = model_of(row_at(sources, "simumax-step", "llama3_70b_l12_tp8_pp1_dp1_mbc4_cef"))
    whole = load_model("llama-3-70b")
    assert truncated.n_layers == 12
    # A layer: 2 x 8192 x (8192 + 1024) of attention, 3 x 8192 x 28672 of MLP, two norms of 8192.
    assert whole.n_params - truncated.n_params == 68 * (150_994_944 + 704_643_072 + 16_384)
    assert truncated.id == "llama-3-70b"


def test_own_zoo_entries_are_used(sources: dict[str, Source]) -> None:
    used = {row.model for source in sources.values() for row in source.rows}
    own = {id for id in registry.ids("models") if id.startswith(("mpt-", "zb-", "vtrain-", "nanotron-"))}
    assert own <= used
    assert len(own) == 9 + 4 + 1 + 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{ model = "mpt-3b", seq_len = 2048 }', '{ modle = "mpt-3b" }', "unknown column 'modle'; nearest: 'model'"),
        ('{ model = "mpt-3b", seq_len = 2048 }', '{ model = "mpt-4b" }', "no row has"),
        ('{ model = "mpt-3b", seq_len = 2048 }', "{ seq_len = 2048 }", "at most 10% may"),
    ],
)
def test_a_wrong_selector_says_so(tmp_path: Path, old: str, new: str, message: str) -> None:
    shutil.copytree(PUBLISHED / "training", tmp_path / "training")
    (tmp_path / "roles.toml").write_text((PUBLISHED / "roles.toml").read_text().replace(old, new))
    with pytest.raises(SpecError, match=message):
        load_sources(["llm-foundry-h100"], folder=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("step_time,26.2,s", "steptime,26.2,s", "unknown metric 'steptime'; nearest: 'step_time'"),
        ("step_time,26.2,s", "peak_memory,26.2,GB", "measures 'peak memory'"),
        ("step_time,26.2,s", "step_time,26.2,GB", "allowed: s, ms"),
        (",nanotron-1b,,", ",nanotron-1b,n_layers,", "must be name=number"),
    ],
)
def test_a_wrong_metric_says_so(tmp_path: Path, old: str, new: str, message: str) -> None:
    shutil.copytree(PUBLISHED / "training", tmp_path / "training")
    shutil.copy(PUBLISHED / "roles.toml", tmp_path)
    table = tmp_path / "training" / "nanotron-step.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(SpecError, match=message):
        load_sources(["nanotron-step"], folder=tmp_path)


FOUNDRY_HEAD = "table_or_figure,model_name,params_b,n_layers,d_model,seq_len,n_accel,zero_stage_or_fsdp"
FOUNDRY = (
    FOUNDRY_HEAD + ",mbs,gbs,precision,recompute,notes,metric_name,metric_value\n"
    "H100 80GB BF16,MPT-7b,6.6589,32,4096,2048,8,ZeRO-3,6,{batch},bf16,none,GradAccum=2,tokens_per_s_per_accel,{rate}\n"
    "H100 80GB BF16,MPT-7b,6.6589,32,4096,2048,8,ZeRO-3,6,{batch},bf16,none,GradAccum=2,mfu,0.4300\n"
)


@pytest.mark.parametrize(
    ("batch", "rate", "fault"),
    [
        # 6 x 6.6589e9 + 12 x 32 x 4096 x 2048 = 43.17e9 FLOPs a token; .43 of 989 TFLOP/s is 9850 tokens/s.
        (96, 9850, None),
        (96, 12000, "tokens/s and MFU disagree"),
        (48, 9850, "accumulation times micro-batch"),
        (100, 9850, "accumulation times micro-batch"),
    ],
)
def test_conversion_leaves_out_what_contradicts_itself(
    tmp_path: Path, batch: int, rate: int, fault: str | None
) -> None:
    (tmp_path / "llm_foundry.csv").write_text(FOUNDRY.format(batch=batch, rate=rate))
    made = foundry_rows(tmp_path, "llm-foundry-h100")
    assert made.given == 1
    assert foundry_rows(tmp_path, "llm-foundry-a100").given == 0
    if fault is None:
        assert [row["value"] for row in made.rows] == [str(rate)]
    else:
        assert made.rows == []
        assert fault in made.left_out[0]


def test_a_cell_is_scored_by_its_largest_run(tmp_path: Path) -> None:
    lines = ["# a line of names", "2,16,8,1024,16,12,1024,1,1,2,10.5", "2,16,8,1024,16,24,1024,1,1,2,20.5"]
    lines += ["4,32,8,1024,16,24,1024,1,2,2,21.5", "4,32,8,1024,16,20,1024,1,2,2,99.5"]
    (tmp_path / "vtrain_single_node.csv").write_text("\n".join(lines))
    made = vtrain_rows(tmp_path)
    assert made.given == 4
    assert [row["value"] for row in made.rows] == ["21.5"]
