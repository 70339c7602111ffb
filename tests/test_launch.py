"""Launch files: every flag in its table, batches and memory that add up, and a way back to the scenario."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfmodel as pm
from perfmodel.errors import SpecError
from perfmodel.launch import EXPORTS, IMPORTS, export_plan, import_launch, load_table, versions
from perfmodel.launch.engines import memory_fraction
from perfmodel.launch.pipeline import chunk_layers, layout_string, parse_layout_string
from perfmodel.launch.plan import Bytes, Deployment, TrainingRun, normal_layout, read_plan
from perfmodel.launch.shell import commands
from perfmodel.launch.tables import tools
from perfmodel.launch.text import toml_text, toml_value, yaml_text
from perfmodel.specs.serving_software import load_serving_software

PlanError = pm.PlanError
FEW = settings(max_examples=40, deadline=None)


def training(layout: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The least that an estimate of training says, of an 8B model on 64 accelerators."""
    request = {"model": "llama-3.1-8b", "cluster": "dgx-h100", "accelerators": 64, "global_batch": 128}
    request |= {"seq_len": 4096, "precision": "bf16", "software": "megatron-core-2025", "optimizer": "adam-mixed"}
    request |= {"trainable": "all", "packing": "padded", "tokens": None, "layout": layout} | changes
    return {"document": "perfmodel/training-estimate/1", "request": request}


def serving(mode: str = "aggregated", **changes: Any) -> dict[str, Any]:
    """A plan of serving: a 70B model in fp8 on H100, 2 replicas of 4, or 2 + 1 servers of 4."""
    role = {
        "layout": {"tp": 4}, "max_batch": 64, "kv_blocks": 30000, "block_tokens": 16, "max_batched_tokens": 8192,
        "weights": "fp8", "activations": "fp8", "kv_cache": "fp8", "accelerators": 4, "replicas": 2,
    }  # fmt: skip
    roles = {"serve": role} if mode == "aggregated" else {"prefill": role, "decode": role | {"replicas": 1}}
    request = {"model": "llama-3.1-70b", "cluster": "dgx-h100", "accelerators": 16, "software": "vllm-2025"}
    request |= {"prompt_tokens": 1024, "output_tokens": 256}
    roles = {name: part | changes for name, part in roles.items()}
    return {
        "document": "perfmodel/serving-plan/1", "request": request, "feasible": True,
        "decision": {"mode": mode, "replicas": 2} | roles,
    }  # fmt: skip


def estimated(**changes: Any) -> dict[str, Any]:
    question: dict[str, Any] = {"prompt_tokens": 1024, "output_tokens": 256, "concurrency": 64}
    question |= {"model": "llama-3.1-70b", "layout": {"tp": 4, "dp": 2}, "cluster": "dgx-h100"} | changes
    return pm.estimate_serving(**question).to_dict()


def test_every_table_says_where_it_was_read() -> None:
    assert set(tools()) == set(EXPORTS) >= set(IMPORTS)
    for tool in tools():
        for version in versions(tool):
            table = load_table(tool, version)
            assert table.title
            assert table.url.startswith("https://")
            assert table.commit
            assert table.checked
            assert table.kind in ("training", "serving", "skeleton")
            assert not table.ignored & table.flags.keys()
            names = [name for flag in table.flags.values() for name in (flag.name, *flag.aliases)]
            assert len(names) == len(set(names))
            for words, flag in ((table.weights, "--quantization"), (table.kv_cache, "--kv-cache-dtype")):
                if flag in table.flags:
                    assert set(words.values()) - {""} <= set(table.flags[flag].allowed)


def test_a_version_may_stand_on_another() -> None:
    old, new = load_table("vllm", "0.10.0"), load_table("vllm", "v0.11.1")
    assert new.flags.keys() == old.flags.keys()
    assert versions("vllm")[0] == "0.10.0"
    document = estimated()
    assert "--kv-cache-dtype auto" in export_plan(document, "vllm").text
    assert "--kv-cache-dtype bfloat16" in export_plan(document, "vllm", "0.11.1").text


DEGREES = st.sampled_from([1, 2, 4])


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Layouts of a model of 32 layers, 32 heads and 8 experts, as training takes them."""
    tp, pp, cp, dp = (draw(DEGREES) for _ in range(4))
    vpp = draw(DEGREES) if pp > 1 else 1
    found: dict[str, Any] = {"tp": tp, "pp": pp, "cp": cp, "dp": dp, "vpp": vpp}
    found["schedule"] = "interleaved" if vpp > 1 else "1f1b"
    found["micro_batch"] = draw(DEGREES)
    found["zero_stage"] = draw(st.integers(0, 3))
    found["sequence_parallel"] = draw(st.booleans())
    found["recompute"] = draw(st.sampled_from(["none", "selective", "full"]))
    if found["recompute"] == "selective":
        found["recompute_modules"] = draw(st.sampled_from([(), ("core_attn",), ("mlp", "layernorm")]))
    if found["recompute"] == "full":
        found["recompute_layers"] = draw(st.sampled_from([None, vpp, 2 * vpp]))
    if vpp == 1 and pp > 1 and draw(st.booleans()):
        found["stage_layers"] = (32 // pp - 1, *[32 // pp] * (pp - 2), 32 // pp + 1)
    found["dp_shard"] = draw(st.sampled_from([None, dp // 2 or None, dp])) if found["zero_stage"] else None
    found["overlap"] = draw(st.sampled_from([None, False]))
    found["cp_exchange"] = draw(st.sampled_from([None, "ring", "all-gather", "all-to-all"]))
    return found


def same_training(document: dict[str, Any], scenario: dict[str, Any]) -> None:
    request = document["request"]
    wanted = normal_layout(pm.ParallelLayout(**request["layout"]), request["software"])
    assert normal_layout(pm.ParallelLayout(**scenario["layout"]), request["software"]) == wanted
    for key in ("model", "cluster", "accelerators", "global_batch", "seq_len", "precision", "software", "optimizer"):
        assert scenario[key] == request[key], key
    assert scenario.get("packing", "padded") == request["packing"]
    assert scenario.get("mean_seq_len") == request.get("mean_seq_len")


@FEW
@given(layouts(), st.sampled_from(["bf16", "fp16", "fp8", "mxfp8", "nvfp4"]), st.booleans(), st.booleans())
def test_megatron_there_and_back(layout: dict[str, Any], precision: str, moe: bool, packed: bool) -> None:
    more = {"packing": "packed", "mean_seq_len": 1000} if packed else {}
    if moe:
        precision = "bf16" if precision == "fp16" else precision
        more["model"] = "mixtral-8x7b"
        layout |= {"ep": layout["dp"], "etp": layout["tp"]}
    if layout["vpp"] > 1 and layout["pp"] == 2:
        layout["overlap"] = None
    batch = layout["dp"] * layout["micro_batch"] * layout["pp"] * 2
    document = training(layout, precision=precision, global_batch=batch, accelerators=256, **more)
    imported = import_launch(export_plan(document, "megatron").text, "megatron")
    assert {word.split()[0] for word in imported.ignored} <= {
        "--ckpt-format",
        "--moe-token-dispatcher-type",
        "--moe-grouped-gemm",
    }
    assert imported.notes == ()
    same_training(document, tomllib.loads(imported.to_toml()))


@FEW
@given(layouts(), st.sampled_from(["bf16", "fp8", "mxfp8"]), st.sampled_from(["adam-mixed", "adam-bf16"]))
def test_torchtitan_there_and_back(layout: dict[str, Any], precision: str, optimizer: str) -> None:
    layout |= {
        "sequence_parallel": layout["tp"] > 1,
        "recompute_modules": (),
        "recompute_layers": None,
        "overlap": None,
    }
    layout["recompute"] = "none" if layout["recompute"] == "selective" else layout["recompute"]
    layout["zero_stage"] = {0: 0, 1: 2}.get(layout["zero_stage"], layout["zero_stage"])
    layout["cp_exchange"] = None if layout["cp_exchange"] == "ring" else layout["cp_exchange"]
    if layout["dp_shard"] == 1:
        layout["dp_shard"] = None  # one rank a shard is no sharding: torchtitan then runs DDP
    batch = layout["dp"] * layout["micro_batch"] * layout["pp"] * 2
    document = training(layout, precision=precision, optimizer=optimizer, global_batch=batch, accelerators=256)
    imported = import_launch(export_plan(document, "torchtitan").text, "torchtitan")
    assert (imported.ignored, imported.notes) == ((), ())
    same_training(document, tomllib.loads(imported.to_toml()))


@FEW
@given(layouts(), st.sampled_from(["bf16", "fp16"]))
def test_deepspeed_there_and_back(layout: dict[str, Any], precision: str) -> None:
    layout |= {"pp": 1, "cp": 1, "vpp": 1, "schedule": "1f1b", "dp_shard": None, "cp_exchange": None}
    layout |= {"stage_layers": None}
    batch = layout["dp"] * layout["micro_batch"] * 3
    exported = export_plan(training(layout, global_batch=batch, precision=precision), "deepspeed")
    config = json.loads(exported.text)
    steps = config["gradient_accumulation_steps"]
    assert config["train_batch_size"] == config["train_micro_batch_size_per_gpu"] * steps * layout["dp"] == batch
    scenario = import_launch(exported.text, "deepspeed").scenario
    assert (scenario["global_batch"], scenario["precision"]) == (batch, precision)
    for key in ("tp", "dp", "micro_batch"):
        assert scenario["layout"][key] == layout[key]
    assert scenario["layout"]["zero_stage"] == (layout["zero_stage"] if layout["dp"] > 1 else 0)


@FEW
@given(
    st.sampled_from(["vllm", "sglang"]), st.sampled_from([2, 4, 8]), st.sampled_from([1, 2]), st.sampled_from([1, 3]),
    st.booleans(), st.booleans(), st.sampled_from(["bf16", "fp16", "fp8", "fp8-block", "int4", "nvfp4"]),
    st.sampled_from(["bf16", "fp8"]), st.integers(1, 200),
)  # fmt: skip
def test_engines_there_and_back(
    tool: str, tp: int, pp: int, dp: int, experts: bool, spread: bool, weights: str, cache: str, batch: int
) -> None:
    layout = {"tp": tp, "pp": pp} | ({"ep": tp} if experts else {})
    if experts and spread:
        layout = {"tp": 1, "pp": pp, "ep": tp, "attention_dp": tp, "dp": tp}
    document = serving(
        layout=layout, replicas=dp, max_batch=batch, weights=weights, activations=None, kv_cache=cache,
        memory_bytes={"weights": 30e9, "kv_cache": 30e9, "activations": 1e9, "workspace": 2e9, "capacity": 80e9},
    )  # fmt: skip
    document["request"] |= {"software": f"{tool}-2025", "model": "mixtral-8x7b"}
    imported = import_launch(export_plan(document, tool).text, tool)
    assert {word.split()[0] for word in imported.ignored} <= {
        "--port",
        "--nnodes",
        "--node-rank",
        "--dist-init-addr",
    } | {"--distributed-executor-backend"}
    scenario = tomllib.loads(imported.to_toml())
    groups = layout.get("attention_dp", 1)
    wanted = pm.ParallelLayout(**layout | {"dp": dp * groups})
    assert pm.ParallelLayout(**scenario["layout"]) == wanted
    assert (scenario["weights"], scenario["kv_cache"]) == (weights, cache)
    for key in ("model", "cluster", "accelerators", "prompt_tokens", "output_tokens", "software"):
        assert scenario[key] == document["request"][key]
    assert scenario["concurrency"] == -(-batch // groups) * groups * dp


@pytest.mark.parametrize("tool", ["vllm", "sglang"])
def test_an_estimate_comes_back_whole(tool: str) -> None:
    document = estimated(concurrency=65, kv_cache="fp8", software=f"{tool}-2025")
    scenario = import_launch(export_plan(document, tool).text, tool).scenario
    assert (
        pm.estimate_serving(
            cluster=pm.load_cluster(scenario.pop("cluster"), accelerators=scenario.pop("accelerators")), **scenario
        ).to_dict()
        == document
    )


def test_an_arrival_rate_comes_back() -> None:
    document = estimated(concurrency=None, arrival_rate_per_s=4.0)
    text = export_plan(document, "vllm").text
    sequences = int(text.split("--max-num-seqs ")[1].split()[0])
    held = document["kv_blocks"] * document["block_tokens"] / (1024 + 256)
    assert 1 <= sequences <= min(load_serving_software().max_batch, 2 * held)
    scenario = import_launch(text, "vllm").scenario
    assert scenario["arrival_rate_per_s"] == 4.0
    assert "concurrency" not in scenario


@FEW
@given(st.floats(1e9, 60e9), st.floats(1e8, 10e9), st.floats(0.0, 1.0))
def test_fractions_mean_what_each_engine_means(weights: float, other: float, share: float) -> None:
    capacity = 80e9
    cache = share * (capacity - weights - other)
    held = Bytes(weights, cache, other, capacity)
    given_back = {
        "of-total": lambda f: capacity * f - weights - other,
        "static": lambda f: capacity * f - weights,
        "of-free": lambda f: (capacity - weights - other) * f,
    }
    for meaning, law in given_back.items():
        fraction = memory_fraction(meaning, held)
        assert 0 <= fraction <= 1
        # Rounded up by at most a ten-thousandth of the memory; down by bytes, which is no block.
        assert -100.0 <= law(fraction) - cache <= 1.01e-4 * capacity


def test_fractions_of_one_plan_differ() -> None:
    document = estimated()
    memory = document["memory_bytes"]
    used = (memory["weights"] + memory["kv_cache"]) / memory["capacity"]
    free = memory["capacity"] - memory["weights"] - memory["activations"] - memory["workspace"]
    for tool, flag, exact in (
        ("vllm", "--gpu-memory-utilization", memory["total"] / memory["capacity"]),
        ("sglang", "--mem-fraction-static", used),
        ("tensorrt-llm", "--kv_cache_free_gpu_memory_fraction", memory["kv_cache"] / free),
    ):
        text = export_plan(document, tool).text
        assert float(text.split(f"{flag} ")[1].split()[0]) == pytest.approx(exact, rel=2e-4, abs=0)


def test_memory_is_counted_where_a_plan_does_not_say() -> None:
    document = serving()
    plan = read_plan(document)
    assert isinstance(plan, Deployment)
    estimate = estimated(weights="fp8", kv_cache="fp8", layout={"tp": 4}, cluster="dgx-h100")
    assert plan.roles[0].bytes.weights == estimate["memory_bytes"]["weights"]
    assert plan.roles[0].bytes.kv_cache == pytest.approx(
        30000 * estimate["memory_bytes"]["kv_cache"] / estimate["kv_blocks"], rel=1e-12, abs=0
    )


def test_split_deployments() -> None:
    document = serving("disaggregated")
    vllm = export_plan(document, "vllm")
    assert vllm.text.count("vllm serve") == 2
    assert '"kv_connector": "NixlConnector", "kv_role": "kv_producer"' in vllm.text
    assert '"kv_role": "kv_consumer"' in vllm.text
    sglang = export_plan(document, "sglang").text
    assert "--disaggregation-mode prefill" in sglang
    assert "--disaggregation-mode decode" in sglang
    trtllm = export_plan(document, "tensorrt-llm").text
    assert "context_servers:\n  num_instances: 2\n  urls:\n    - " in trtllm
    assert "generation_servers:\n  num_instances: 1" in trtllm
    assert "trtllm-serve disaggregated \\\n    -c disaggregated.yaml" in trtllm
    for tool, text in (("vllm", vllm.text), ("sglang", sglang)):
        with pytest.raises(PlanError, match=r"starts prefill and decode servers.*--role"):
            import_launch(text, tool)
        scenario = import_launch(text, tool, role="decode").scenario
        assert scenario["layout"]["tp"] == 4
        with pytest.raises(PlanError, match="starts no serve server"):
            import_launch(text, tool, role="serve")
        with pytest.raises(PlanError, match=r"unknown value 'decod'; nearest: 'decode'"):
            import_launch(text, tool, role="decod")


def test_a_workload_of_many_lengths() -> None:
    document = serving()
    document["request"] = {key: value for key, value in document["request"].items() if not key.endswith("_tokens")}
    lengths = {"prompt_tokens": {"mean": 1000, "p99": 6000.5}, "output_tokens": {"mean": 200, "p90": 500}}
    document["request"]["workload"] = lengths | {"arrival_rate_per_s": 3.0}
    text = export_plan(document, "vllm").text
    assert "--max-model-len 6501 " in text  # the longest that is said
    scenario = import_launch(text, "vllm").scenario
    wanted = {"prompt_tokens": 1000, "output_tokens": 200, "arrival_rate_per_s": 3.0}
    assert wanted.items() <= scenario.items()
    # A prefill server keeps prompts, a decode server whole requests.
    split = serving("disaggregated", kv_blocks=64 * 65, max_batch=64)
    with pytest.raises(PlanError, match="decode: max_batch 64 does not fit"):
        export_plan(split, "vllm")


def test_a_bridge_configuration_runs() -> None:
    layout = {"tp": 2, "pp": 4, "dp": 8, "vpp": 2, "schedule": "interleaved", "recompute": "full", "zero_stage": 3}
    text = export_plan(training(layout), "megatron-bridge").text
    parts = ("model", "dataset", "train", "optimizer", "ddp", "dist")
    found: dict[str, Any] = {}
    exec(text, found)
    cfg = found["configure"](SimpleNamespace(**{name: SimpleNamespace() for name in parts}))
    assert (cfg.model.tensor_model_parallel_size, cfg.model.virtual_pipeline_model_parallel_size) == (2, 2)
    assert (cfg.train.micro_batch_size, cfg.train.global_batch_size, cfg.dataset.seq_length) == (1, 128, 4096)
    assert (cfg.model.recompute_granularity, cfg.model.recompute_method) == ("full", "uniform")
    assert cfg.ddp.data_parallel_sharding_strategy == "optim_grads_params"


def test_attention_groups_are_each_engines_own() -> None:
    document = serving(layout={"tp": 1, "dp": 8, "ep": 8, "attention_dp": 8}, max_batch=128)
    document["request"] |= {"model": "mixtral-8x22b", "software": "vllm-2025"}
    vllm = export_plan(document, "vllm").text
    for part in (
        "--tensor-parallel-size 1 ",
        "--data-parallel-size 8 ",
        "--enable-expert-parallel ",
        "--max-num-seqs 16 ",
    ):
        assert part in vllm
    sglang = export_plan(document, "sglang").text
    for part in (
        "--tp-size 8 ",
        "--dp-size 8 ",
        "--enable-dp-attention ",
        "--ep-size 8 ",
        "--chunked-prefill-size 65536 ",
    ):
        assert part in sglang
    assert "enable_attention_dp: true" in export_plan(document, "tensorrt-llm").text
    half = serving(layout={"tp": 4, "attention_dp": 2})
    with pytest.raises(PlanError, match="attention_dp: its groups are single accelerators"):
        export_plan(half, "tensorrt-llm")
    with pytest.raises(PlanError, match="ep: is all ranks of a replica, 8"):
        export_plan(serving(layout={"tp": 8, "ep": 4}), "vllm")


def test_uneven_layers_are_placed_as_they_were_priced() -> None:
    layout = {"tp": 8, "pp": 16, "dp": 1}
    document = training(layout, model="llama-3.1-405b", accelerators=128)
    text = export_plan(document, "megatron").text
    assert "--account-for-embedding-in-pipeline-split" in text
    assert "--account-for-loss-in-pipeline-split" in text
    titan = tomllib.loads(export_plan(document, "torchtitan").text)["parallelism"]
    assert titan["pipeline_parallel_layers_per_stage"] == 8
    for tool in ("megatron", "torchtitan"):
        same_training(document, import_launch(export_plan(document, tool).text, tool).scenario)
    with pytest.raises(PlanError, match="leave 9 places empty, launchers fill 2; give stage_layers"):
        export_plan(training({"tp": 8, "pp": 15}, model="llama-3.1-405b", accelerators=120), "megatron")


@FEW
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_layout_strings_there_and_back(stages: list[int]) -> None:
    assert parse_layout_string(layout_string(tuple(stages)), "here") == tuple(stages)


@FEW
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 7))
def test_chunks_share_out_the_layers_of_their_stage(stages: list[int], vpp: int) -> None:
    chunks = chunk_layers(tuple(stages), vpp)
    assert len(chunks) == len(stages) * vpp
    for stage, count in enumerate(stages):
        own = chunks[stage :: len(stages)]
        assert sum(own) == count
        assert max(own) - min(own) <= 1
        # The embedding stands before the first chunk and the head behind the last.
        assert (own[-1] if stage == len(stages) - 1 else own[0]) == min(own) or stage not in (0, len(stages) - 1)


@pytest.mark.parametrize(
    ("model", "accelerators", "layout"),
    [
        ("mixtral-8x7b", 64, {"tp": 2, "pp": 2, "dp": 16, "ep": 8, "vpp": 10, "micro_batch": 4}),
        ("llama-3.1-405b", 120, {"tp": 8, "pp": 15, "dp": 1, "vpp": 2}),
        ("llama-3.1-405b", 120, {"tp": 8, "pp": 15, "dp": 1}),
    ],
)
@pytest.mark.parametrize("tool", ["megatron", "megatron-bridge"])
def test_layers_stand_where_they_were_priced(model: str, accelerators: int, layout: dict[str, Any], tool: str) -> None:
    """Chunks that layers do not fill evenly are named, and what comes back is priced as what was planned."""
    schedule = "interleaved" if layout.get("vpp", 1) > 1 else "1f1b"
    case = {"global_batch": 480 if "405b" in model else 256, "seq_len": 4096}
    cluster = pm.load_cluster("dgx-h100", accelerators=accelerators)
    chosen = layout | {"schedule": schedule, "recompute": "full"}
    estimate = pm.estimate_training(model, cluster, layout=chosen, **case)
    assert estimate.stage_layers is not None
    assert sum(estimate.stage_layers) == pm.load_model(model).n_layers
    document = json.loads(estimate.to_json()) | {"fits": True}
    text = export_plan(document, tool).text
    [string] = re.findall(r"'(E[t*0-9|m]*L)'", text)
    chunks = parse_layout_string(string, "here")
    assert tuple(sum(chunks[stage :: layout["pp"]]) for stage in range(layout["pp"])) == estimate.stage_layers
    assert "virtual-stages" not in text
    if tool == "megatron":
        back = import_launch(text, tool).scenario
        again = pm.estimate_training(model, cluster, layout=back["layout"], **case)
        assert again.step_time_s == pytest.approx(estimate.step_time_s, rel=0.01)


NVIDIA = """#!/bin/bash
# Runs Mixtral 8x7B model
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NNODES=${SLURM_NNODES:-"2"}
DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes 2   # two of them
)
MODEL_ARGS="
    --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --swiglu
    --group-query-attention --num-query-groups 8 --normalization RMSNorm --disable-bias-linear
    --position-embedding-type rope --untie-embeddings-and-output-weights --max-position-embeddings 32768
"
MOE_ARGS=(--num-experts 8 --moe-router-topk 2 --moe-aux-loss-coeff 1e-2 --expert-model-parallel-size 4)
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py \\
    $MODEL_ARGS "${MOE_ARGS[@]}" --vocab-size 32000 \\
    --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --sequence-parallel --use-distributed-optimizer \\
    --micro-batch-size 1 --global-batch-size 128 --seq-length 4096 --bf16 --lr 1e-4 --overlap-grad-reduce
"""


def test_a_script_as_people_write_it() -> None:
    imported = import_launch(NVIDIA, "megatron")
    assert imported.ignored == ("--moe-aux-loss-coeff 1e-2", "--lr 1e-4")
    scenario = imported.scenario
    assert scenario["layout"] | {"tp": 2, "pp": 2, "dp": 4, "ep": 4, "etp": 2, "zero_stage": 1} == scenario["layout"]
    made, zoo = pm.load_model(scenario["model"]), pm.load_model("mixtral-8x7b")
    assert made.n_params == zoo.n_params
    assert made.n_active_params == zoo.n_active_params
    assert tomllib.loads(imported.to_toml())["model"] == scenario["model"]


def test_sizes_alone_make_the_same_model() -> None:
    for id in ("llama-3.1-8b", "mixtral-8x7b", "megatron-18.4b"):
        layout = {"tp": 8, "dp": 8}
        text = export_plan(training(layout, model=id, seq_len=2048), "megatron").text
        bare = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
        made, zoo = pm.load_model(import_launch(bare, "megatron").scenario["model"]), pm.load_model(id)
        assert (made.n_params, made.vocab_padded) == (zoo.n_params, zoo.vocab_padded)
        assert made.kv_cache_bytes_per_token("bf16") == zoo.kv_cache_bytes_per_token("bf16")


def test_the_sizes_in_a_command_stand_over_the_comment() -> None:
    text = export_plan(training({"tp": 2, "dp": 32}), "megatron").text
    assert import_launch(text, "megatron").scenario["model"] == "llama-3.1-8b"
    smaller = import_launch(text.replace("--num-layers 32", "--num-layers 16"), "megatron").scenario["model"]
    assert smaller["n_layers"] == 16
    served = export_plan(estimated(), "vllm").text
    other = served.replace("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-8B-Instruct")
    assert import_launch(other, "vllm").scenario["model"] == "llama-3.1-8b"


def test_commands_of_an_engine_as_people_write_them() -> None:
    text = "CUDA_VISIBLE_DEVICES=0,1 vllm serve Qwen/Qwen3-32B -tp 2 --max_num_seqs=64 --host 0.0.0.0 --enable-lora &\n"
    imported = import_launch(text, "vllm")
    assert imported.scenario["model"] == "qwen3-32b"
    assert imported.scenario["concurrency"] == 64
    assert imported.ignored == ("--host 0.0.0.0", "--enable-lora")
    twice = import_launch(text + text.replace("=0,1", "=2,3"), "vllm").scenario
    assert (twice["layout"]["dp"], twice["concurrency"]) == (2, 128)
    deepseek = (
        "python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3-0324 --tp-size 16 --dp-size 8 "
        "--enable-dp-attention --moe-a2a-backend deepep --mem-fraction-static 0.8 --max-running-requests 128\n"
    )
    imported = import_launch(deepseek, "sglang")
    assert imported.scenario["model"] == "deepseek-v3"
    assert imported.scenario["layout"] | {"tp": 2, "attention_dp": 8, "dp": 8} == imported.scenario["layout"]
    assert imported.ignored == ("--moe-a2a-backend deepep",)
    assert import_launch("vllm serve someone/else --dtype half", "vllm").scenario["model"] == "hf:someone/else"


def test_variables_and_quotes_of_a_shell() -> None:
    text = "A=1\nB=(--x 2)\nB+=(--y '3 4')\nC=1 run \"${B[@]}\" $A ${D:-5} && next # said\n"
    assert commands(text, "s") == [["run", "--x", "2", "--y", "3", "4", "1", "5"], ["next"]]
    with pytest.raises(SpecError, match="s: not a shell script"):
        commands("echo 'open", "s")


def test_toml_and_yaml() -> None:
    data = {"a": 1, "b": {"x y": [1.5, True, "é\n"], "n": None}}
    assert tomllib.loads(toml_text(data)) == {"a": 1, "b": {"x y": [1.5, True, "é\n"]}}
    assert toml_value({}) == "{}"
    assert yaml_text({"a": [{"b": 1, "c": ["yes"]}], "d": []}) == 'a:\n  - b: 1\n    c:\n      - "yes"\nd: []\n'


BAD_PLANS = [
    (training({"cp": 4}, seq_len=4100), "megatron", r"seq_len: must be a multiple of 2 \* cp = 8 \(got 4100\)"),
    (training({"dp": 8, "ep": 8}, model="mixtral-8x7b", precision="fp16"), "megatron", "fp16 goes without expert"),
    (training({"pp": 2, "vpp": 2, "schedule": "interleaved", "overlap": False}), "megatron", "needs pp of 3 or more"),
    (training({"tp": 2, "dp": 3}), "megatron", r"global_batch: 128 is not micro_batch 1 \* dp 3 .*nearest: 129"),
    (training({"tp": 3}), "megatron", "tp: must divide n_heads 32"),
    (training({"tp": 2, "zero_stage": 1, "dp": 4}), "torchtitan", r"has no flag for zero_stage = 1; it takes 0, 2, 3"),
    (training({"pp": 2}), "deepspeed", r"has no flag for pp = 2; it takes 1"),
    (training({"pp": 2, "schedule": "gpipe"}), "megatron", "has no flag for schedule = 'gpipe'"),
    (training({}, optimizer="adam-8bit"), "megatron", "has no flag for optimizer = 'adam-8bit'; it takes adam-mixed"),
    (training({}, trainable="lora:r=16"), "megatron", "has no flag for trainable"),
    (training({"offload": {"activations": 0.5}}), "megatron", "has no flag for offload"),
    (training({"pp": 2, "offload": {"activation_layers": 4}}), "megatron", "has no flag for pp = 2; it takes 1"),
    (training({"recompute_modules": ["mlp_act"]}), "megatron", "--recompute-modules: unknown value 'mlp_act'; nearest"),
    (training({}, model="mixtral-8x7b"), "torchtitan", "unknown model 'mixtral-8x7b'"),
    (training({}, precision="fp16"), "torchtitan", "precision: unknown value 'fp16'"),
    (training({"tp": 4}), "vllm", "plans training; vllm serves"),
    (serving(), "megatron", "plans serving; megatron trains"),
    (serving(), "vlm", "unknown tool 'vlm'; nearest: 'vllm'"),
    (serving(max_batch=10**4), "vllm", r"serve: max_batch 10000 does not fit 30000 blocks of 16: 375 requests of 1280"),
    (serving(kv_blocks=79), "vllm", r"a request of 1280 tokens does not fit 79 blocks of 16: at most 1264 tokens fit"),
    (serving(kv_blocks=80, max_batch=2), "sglang", r"max_batch 2 does not fit 80 blocks of 16: 1 requests of 1280"),
    (serving(kv_blocks=10**6), "vllm", r"memory: weights, activations and cache need .* GB of 85.5"),
    (serving(kv_blocks=-1), "vllm", r"serve: kv_blocks: must be a whole number >= 0 \(got -1\)"),
    (serving(max_batch=1.5), "vllm", r"serve: max_batch: must be a whole number >= 1 \(got 1.5\)"),
    (serving(replicas=0), "vllm", r"serve: replicas: must be a whole number >= 1 \(got 0\)"),
    (serving(layout={"tp": 4, "dp": 3}), "vllm", "replicas: 2 and layout dp 3 contradict each other"),
    (serving(layout={"tq": 8}), "vllm", "unknown key 'tq'; nearest: 'tp'"),
    (serving(layout={"tp": 16}), "kubernetes", "serve: a replica spans 2 nodes"),
    (serving(layout={"tp": 12}), "vllm", "must fill nodes of 8 evenly"),
    (serving(block_tokens=17), "vllm", "--block-size: unknown value 17"),
    (serving(kv_cache="fp4"), "vllm", "kv_cache: unknown precision 'fp4'"),
]


@pytest.mark.parametrize(("document", "tool", "said"), BAD_PLANS, ids=[said[:40] for _, _, said in BAD_PLANS])
def test_bad_plans_are_refused(document: dict[str, Any], tool: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        export_plan(document, tool)


def test_what_cannot_run_is_not_exported() -> None:
    infeasible = {"document": "perfmodel/training-plan/1", "request": {}, "feasible": False, "decision": None}
    with pytest.raises(PlanError, match="not feasible: needs 91 GB"):
        export_plan(infeasible | {"infeasible_because": ["needs 91 GB"]}, "megatron")
    tight = training({"dp": 64}) | {"fits": False, "memory_bytes": {"total": 91e9, "capacity": 80e9}}
    with pytest.raises(PlanError, match=r"does not fit: needs 91.0 GB an accelerator, has 80.0"):
        export_plan(tight, "megatron")
    full = estimated(concurrency=4000)
    with pytest.raises(PlanError, match=r"max_batch 2000 does not fit .* requests of 1280 tokens fit at once"):
        export_plan(full, "vllm")
    with pytest.raises(PlanError, match="the weights leave no room"):
        export_plan(estimated(layout={"tp": 1}), "vllm")
    for wrong in ({"document": "perfmodel/kernel-estimate/1"}, {}):
        with pytest.raises(SpecError, match="unknown document"):
            export_plan(wrong, "vllm")
    with pytest.raises(SpecError, match="request: missing"):
        export_plan({"document": "perfmodel/serving-plan/1"}, "vllm")
    with pytest.raises(PlanError, match=r"vllm: unknown version '0.1.0'; nearest: '0.10.0'"):
        export_plan(serving(), "vllm", "0.1.0")
    unknown_mode = serving()
    unknown_mode["decision"]["mode"] = "split"
    with pytest.raises(PlanError, match="unknown mode 'split'"):
        export_plan(unknown_mode, "vllm")
    del unknown_mode["decision"]["serve"]
    unknown_mode["decision"]["mode"] = "aggregated"
    with pytest.raises(SpecError, match="decision: serve: missing"):
        export_plan(unknown_mode, "vllm")


TORCHRUN = "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --global-batch-size 64 "
BAD_FILES = [
    ("", "vllm", "file: is empty"),
    ("ls -l\n", "vllm", "file: holds no command of vllm"),
    ("vllm serve m --tensor-paralel-size 2", "vllm", r"'--tensor-paralel-size'; nearest: '--tensor-parallel-size'"),
    ("vllm serve m --tensor-parallel-size two", "vllm", "--tensor-parallel-size: must be a whole number"),
    ("vllm serve m --tensor-parallel-size", "vllm", "--tensor-parallel-size: has no value"),
    ("vllm serve m --gpu-memory-utilization 1.2", "vllm", r"at most 1 \(got 1.2\)"),
    ("vllm serve m --kv-cache-dtype fp4", "vllm", "--kv-cache-dtype: unknown value 'fp4'"),
    ("vllm serve m --kv-transfer-config {", "vllm", "--kv-transfer-config: must be JSON"),
    ("vllm serve --port 1", "vllm", "names no model"),
    ("vllm serve a\nvllm serve a -tp 2\n", "vllm", "its servers differ"),
    ("# perfmodel: layout.dp = 'x'\nvllm serve a\n", "vllm", "# perfmodel: layout.dp: must be a whole number >= 1"),
    ("# perfmodel: model = ]\nvllm serve a\n", "vllm", "# perfmodel: model: not a TOML value"),
    ("python -m sglang.launch_server --model m --tp 4 --dp 3 --enable-dp-attention", "sglang", "must divide --tp-size"),
    (TORCHRUN + "--micro-batch-size 3", "megatron", r"--global-batch-size: 64 is not --micro-batch-size 3 \* dp 4"),
    (TORCHRUN + "--context-parallel-size 3", "megatron", r"8 processes are no multiple of tp \* pp \* cp = 6"),
    (TORCHRUN + "--recompute-granularity full", "megatron", "needs --recompute-method"),
    (TORCHRUN + "--pipeline-model-parallel-layout tt|L", "megatron", "must be made of E, t"),
    (TORCHRUN + "--num-layer 3", "megatron", "nearest: '--num-layers'"),
    ("{", "deepspeed", "not valid JSON"),
    ("[1]", "deepspeed", "must hold one table"),
    ('{"train_batchsize": 8}', "deepspeed", "'train_batchsize'; nearest: 'train_batch_size'"),
    ('{"train_batch_size": 8, "train_micro_batch_size_per_gpu": 3, "gradient_accumulation_steps": 1}', "deepspeed",
     "train_batch_size: 8 is not train_micro_batch_size_per_gpu 3"),
    ('{"zero_optimization": {"stage": 4}}', "deepspeed", "zero_optimization.stage: unknown value 4"),
    ("[model", "torchtitan", "not valid TOML"),
    ("[paralelism]\ntensor_parallel_degree = 2", "torchtitan", "unknown flag of torchtitan 0.2.0 'paralelism'"),
    ("[parallelism]\ntensor_parallel_deg = 2", "torchtitan", "nearest: 'parallelism.tensor_parallel_degree'"),
    ("[parallelism]\ntensor_parallel_degree = '2'", "torchtitan", "must be a whole number >= 1"),
    ('[model]\nname = "llama3"\nflavor = "9B"', "torchtitan", r"unknown name/flavor 'llama3/9B'"),
    ('[model]\nflavor = "8B"\n[training]\nlocal_batch_size = 3\nglobal_batch_size = 8', "torchtitan", "is not local"),
    ("x", "megatrom", "unknown tool 'megatrom'; nearest: 'megatron'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "tool", "said"), BAD_FILES, ids=[said[:40] for _, _, said in BAD_FILES])
def test_bad_files_are_refused(text: str, tool: str, said: str) -> None:
    with pytest.raises((PlanError, SpecError), match=said):
        import_launch(text, tool)


@FEW
@given(st.sampled_from(IMPORTS), st.data())
def test_spoilt_files_are_refused_in_our_words(tool: str, data: st.DataObject) -> None:
    served = tool in ("vllm", "sglang")
    document = estimated() if served else training({"tp": 2, "dp": 32, "zero_stage": 3})
    words = export_plan(document, tool).text.split(" ")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(words) - 1))
        words[at] = data.draw(st.sampled_from(["", "-1", "x", "'", "{", "0", "= [", "1e9", "--bf16", "true\n"]))
    with contextlib.suppress(pm.PerfModelError):  # anything else is a defect of ours
        import_launch(" ".join(words), tool).to_toml()


def test_open_questions_are_said() -> None:
    imported = import_launch(
        '{"train_batch_size": "auto", "bf16": {"enabled": true}, "scheduler": {"type": "x"}}', "deepspeed"
    )
    assert imported.ignored == ("train_batch_size (auto: left to the trainer around it)", "scheduler")
    assert any("--dp" in note for note in imported.notes)
    imported = import_launch("--tensor-model-parallel-size 2 --micro-batch-size 1", "megatron")
    assert [note.rpartition("add it as ")[2] for note in imported.notes] == ["--model", "--dp", "--cluster"]
    titan = import_launch('[model]\nflavor = "8B"\n[training]\nsteps = 10', "torchtitan")
    assert titan.ignored == ("training.steps",)
    assert any("data_parallel_shard_degree is -1" in note for note in titan.notes)
    said = import_launch("vllm serve meta-llama/Llama-3.1-8B --max-model-len 4096 --block-size 32", "vllm").notes
    assert any("at most 4096 tokens" in note for note in said)
    assert "--block-size 32: an estimate takes 16 of vllm-2025" in said
    experts = import_launch("vllm serve mistralai/Mixtral-8x7B-v0.1 -tp 2 -dp 4", "vllm")
    assert any("shares the experts" in note for note in experts.notes)


def test_skeletons_hold_the_plan() -> None:
    document = training({"tp": 2, "dp": 32})
    plan = read_plan(document)
    assert isinstance(plan, TrainingRun)
    assert plan.n_microbatches == 4
    slurm = export_plan(document, "slurm").text
    assert slurm.startswith("#!/bin/bash\n# Written by perfmodel")
    assert "#SBATCH --nodes=8\n" in slurm
    assert '"--rdzv-endpoint=$HEAD_ADDRESS:29500" pretrain_gpt.py' in slurm
    assert "--tensor-model-parallel-size 2" in slurm
    assert "srun env CUDA_DEVICE_MAX_CONNECTIONS=1 torchrun" in slurm
    sharded = export_plan(training({"tp": 2, "dp": 32, "zero_stage": 3}), "megatron").text
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in sharded
    assert "--ckpt-format fsdp_dtensor" in sharded
    titan = export_plan(training({"tp": 2, "dp": 32, "zero_stage": 3}, software="torchtitan-2025"), "slurm").text
    assert "-m torchtitan.train" in titan
    assert "--parallelism.tensor_parallel_degree 2" in titan
    pods = export_plan(document, "kubernetes").text
    assert "completions: 8\n" in pods
    assert "nvidia.com/gpu: 8\n" in pods
    served = export_plan(serving("disaggregated"), "kubernetes").text
    assert served.count("kind: Deployment") == 2
    assert "replicas: 2\n" in served
    array = export_plan(serving(), "slurm").text
    assert "#SBATCH --array=1-2\n" in array
    assert "--exclusive" not in array
    wide = serving(layout={"tp": 16})
    wide["request"]["software"] = "sglang-2025"
    assert "srun bash -c 'python3 -m sglang.launch_server" in export_plan(wide, "slurm").text
    assert "$SLURM_NODEID" in export_plan(wide, "slurm").text
