"""Serving engines: vLLM, SGLang and TensorRT-LLM commands from a deployment, memory fractions in each one's meaning."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from perfmodel.errors import PlanError, unknown_name
from perfmodel.formulas.memory_fractions import (
    memory_fraction_of_free,
    memory_fraction_of_total,
    memory_fraction_static,
)
from perfmodel.launch.plan import Bytes, Deployment, Role, nodes_of
from perfmodel.launch.tables import Table
from perfmodel.launch.text import command, tables_of, yaml_text
from perfmodel.specs.architecture import Architecture

__all__ = ["engine_script", "memory_fraction", "model_name", "role_command", "zoo_model"]

_PORTS = {"serve": 8000, "prefill": 8100, "decode": 8200}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}
# Engines read the fraction as a decimal: rounded up, so that no block of the plan is lost.
_DIGITS = 4
_HUGGING_FACE = "https://huggingface.co/"


def model_name(model: Architecture, given: Any) -> str:
    """What an engine loads: the repository on Hugging Face, the path that was given, or a name to put one in for."""
    if isinstance(given, str) and given.startswith("hf:"):
        return given.removeprefix("hf:")
    if model.source is not None and model.source.url.startswith(_HUGGING_FACE):
        return model.source.url.removeprefix(_HUGGING_FACE)
    return given if isinstance(given, str) else model.id


def memory_fraction(meaning: str, held: Bytes) -> float:
    """The fraction [1] that gives the cache its bytes, in an engine's own `meaning` of it ("of-total", "static" or
    "of-free"); raises `PlanError` where no fraction does.
    """
    free = held.capacity - held.weights - held.other
    if free <= 0 or held.kv_cache > free * (1 + 1e-9):
        needed = (held.weights + held.other + held.kv_cache) / 1e9
        raise PlanError(f"memory: weights, activations and cache need {needed:.1f} GB of {held.capacity / 1e9:.1f}")
    if meaning == "of-total":
        exact = memory_fraction_of_total(held.kv_cache, held.capacity, held.weights, held.other)
    elif meaning == "static":
        exact = memory_fraction_static(held.kv_cache, held.capacity, held.weights)
    else:
        exact = memory_fraction_of_free(held.kv_cache, held.capacity, held.weights, held.other)
    return min(1.0, math.ceil(exact * 10**_DIGITS - 1e-6) / 10**_DIGITS)


def engine_script(plan: Deployment, table: Table) -> tuple[str, list[str]]:
    """The commands of every role, and remarks; raises `PlanError` for what this version has no flag for."""
    name = model_name(plan.model, plan.scenario["model"])
    parts, remarks = [], []
    for role in plan.roles:
        words, flags, files = role_command(plan, role, table, name)
        if role.replicas > 1:
            parts.append(f"# {role.name}: start it {role.replicas} times, each on {role.accelerators} accelerators\n")
        parts += [f"cat > {file} <<'EOF'\n{text}EOF\n" for file, text in files.items()]
        parts.append(command(words, flags))
        nodes, _ = nodes_of(role.accelerators, plan.cluster)
        if nodes > 1:
            remarks.append(f"{role.name}: a replica spans {nodes} nodes; {_SPANNING[table.tool]}")
    if plan.mode == "disaggregated":
        text, remark = _front(plan, table)
        parts.append(text)
        remarks += [remark] if remark else []
    if not table.weights:
        remarks.append(f"weights {plan.precisions['weights']}: the checkpoint must be in this precision already")
    elif table.weights[plan.precisions["weights"]] not in ("", "fp8"):
        remarks.append(f"weights {plan.precisions['weights']}: needs a checkpoint quantised so")
    return "".join(parts), remarks


_SPANNING = {
    "vllm": "start a Ray cluster over them first",
    "sglang": "run the command on each with its NODE_RANK, and HEAD_ADDRESS the first one's",
    "tensorrt-llm": "run it under srun or mpirun with one task for each accelerator (trtllm-llmapi-launch)",
}


def role_command(
    plan: Deployment, role: Role, table: Table, name: str
) -> tuple[list[str], dict[str, Any], dict[str, str]]:
    """Words, flags, and files that one server of a role needs, every flag checked; raises `PlanError`."""
    for key, off in (("cp", 1), ("etp", 1), ("vpp", 1)):
        if getattr(role.layout, key) != off:
            raise PlanError(f"{table.label}: {role.name}: has no flag for {key} = {getattr(role.layout, key)}")
    if plan.precisions["kv_cache"] not in table.kv_cache:
        known = unknown_name("value", plan.precisions["kv_cache"], table.kv_cache)
        raise PlanError(f"{table.label}: kv_cache: {known}")
    words, flags, files = {"vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _tensorrt_llm}[table.tool](
        plan, role, table, name
    )
    return words, {flag: table.emitted(flag, value) for flag, value in flags.items()}, files


_Command = tuple[list[str], dict[str, Any], dict[str, str]]


def _precision_flags(plan: Deployment, table: Table) -> dict[str, Any]:
    weights = plan.precisions["weights"]
    flags = {"--dtype": _DTYPES[weights]} if weights in _DTYPES else {}
    return flags | ({"--quantization": table.weights[weights]} if table.weights[weights] else {})


def _vllm(plan: Deployment, role: Role, table: Table, name: str) -> _Command:
    layout = role.layout
    flags: dict[str, Any] = {"--tensor-parallel-size": layout.tp}
    flags["--pipeline-parallel-size"] = layout.pp
    if layout.attention_dp > 1:
        flags["--data-parallel-size"] = layout.attention_dp
    if layout.ep > 1:
        if layout.ep != role.ranks:
            raise PlanError(f"{table.label}: ep: is all ranks of a replica, {role.ranks} (got {layout.ep})")
        flags["--enable-expert-parallel"] = True
    flags |= {
        "--max-model-len": plan.context,
        "--max-num-seqs": role.rank_batch,
        "--max-num-batched-tokens": role.max_batched_tokens,
        "--gpu-memory-utilization": memory_fraction(table.memory_fraction, role.bytes),
        **_precision_flags(plan, table),
        "--kv-cache-dtype": table.kv_cache[plan.precisions["kv_cache"]],
        "--block-size": role.block_tokens,
    }
    if role.name in _KV_ROLES:
        flags["--kv-transfer-config"] = {"kv_connector": "NixlConnector", "kv_role": _KV_ROLES[role.name]}
    if nodes_of(role.accelerators, plan.cluster)[0] > 1:
        flags["--distributed-executor-backend"] = "ray"
    return ["vllm", "serve", name], flags | {"--port": _PORTS[role.name]}, {}


def _sglang(plan: Deployment, role: Role, table: Table, name: str) -> _Command:
    layout = role.layout
    flags: dict[str, Any] = {"--model-path": name, "--tp-size": role.ranks, "--pp-size": layout.pp}
    if layout.attention_dp > 1:
        flags |= {"--dp-size": layout.attention_dp, "--enable-dp-attention": True}
    if layout.ep > 1:
        flags["--ep-size"] = layout.ep
    flags |= {
        "--context-length": plan.context,
        "--max-running-requests": role.rank_batch,
        # With data-parallel attention each group gets its share of a chunk.
        "--chunked-prefill-size": role.max_batched_tokens * layout.attention_dp,
        "--mem-fraction-static": memory_fraction(table.memory_fraction, role.bytes),
        **_precision_flags(plan, table),
        "--kv-cache-dtype": table.kv_cache[plan.precisions["kv_cache"]],
        "--page-size": role.block_tokens,
    }
    if role.name in _KV_ROLES:
        flags |= {"--disaggregation-mode": role.name, "--disaggregation-transfer-backend": "nixl"}
    nodes, _ = nodes_of(role.accelerators, plan.cluster)
    if nodes > 1:
        flags |= {"--nnodes": nodes, "--node-rank": "$NODE_RANK", "--dist-init-addr": "$HEAD_ADDRESS:5000"}
    return ["python3", "-m", "sglang.launch_server"], flags | {"--port": _PORTS[role.name]}, {}


def _tensorrt_llm(plan: Deployment, role: Role, table: Table, name: str) -> _Command:
    layout = role.layout
    if layout.attention_dp > 1 and layout.tp > 1:
        raise PlanError(f"{table.label}: attention_dp: its groups are single accelerators, tp 1 (got tp {layout.tp})")
    nodes, per_node = nodes_of(role.accelerators, plan.cluster)
    flags: dict[str, Any] = {"--backend": "pytorch", "--tp_size": role.ranks, "--pp_size": layout.pp}
    if layout.ep > 1:
        flags["--ep_size"] = layout.ep
    flags |= {"--gpus_per_node": per_node} if nodes > 1 else {}
    flags |= {
        "--max_batch_size": role.rank_batch,
        "--max_num_tokens": role.max_batched_tokens,
        "--max_seq_len": plan.context,
        "--kv_cache_free_gpu_memory_fraction": memory_fraction(table.memory_fraction, role.bytes),
    }
    keys: dict[str, Any] = {
        "enable_attention_dp": layout.attention_dp > 1,
        "kv_cache_config.dtype": table.kv_cache[plan.precisions["kv_cache"]],
        "kv_cache_config.tokens_per_block": role.block_tokens,
    }
    if role.name in _KV_ROLES:
        # A context server hands over its cache before the next iteration may begin.
        keys |= {"disable_overlap_scheduler": role.name == "prefill", "cache_transceiver_config.backend": "DEFAULT"}
    checked = {key: table.emitted(key, value) for key, value in keys.items()}
    file = f"{role.name}.yaml"
    flags |= {"--extra_llm_api_options": file, "--port": _PORTS[role.name]}
    return ["trtllm-serve", "serve", name], flags, {file: yaml_text(tables_of(checked))}


def _front(plan: Deployment, table: Table) -> tuple[str, str]:
    """What stands before the roles and hands requests on; vLLM leaves it to a proxy of its examples."""
    prefill, decode = plan.roles
    if table.tool == "vllm":
        return "", "requests go through a proxy to prefill and then decode (tests/v1/kv_connector in vLLM's sources)"
    if table.tool == "sglang":
        line = (
            "python3 -m sglang_router.launch_router --pd-disaggregation "
            f"--prefill http://localhost:{_PORTS['prefill']} --decode http://localhost:{_PORTS['decode']}\n"
        )
        return f"# router: one --prefill and one --decode for each server\n# {line}", ""
    keys: dict[str, Any] = {"hostname": "localhost", "port": _PORTS["serve"], "backend": "pytorch"}
    for word, role in (("context_servers", prefill), ("generation_servers", decode)):
        urls = [f"localhost:{_PORTS[role.name] + number}" for number in range(role.replicas)]
        keys |= {f"{word}.num_instances": role.replicas, f"{word}.urls": urls}
    checked = {key: table.emitted(key, value) for key, value in keys.items()}
    text = yaml_text(tables_of(checked))
    flags = {"-c": table.emitted("-c", "disaggregated.yaml")}
    return f"cat > disaggregated.yaml <<'EOF'\n{text}EOF\n" + command(["trtllm-serve", "disaggregated"], flags), ""


def zoo_model(name: str, ids: Mapping[str, str]) -> str:
    """What estimates take for a repository: the zoo id with these weights' sizes, a path as it is, else hf:org/name."""
    base = re.sub(r"(-(Instruct|Chat|chat|Base|it|hf|\d{4}))+$", "", name)
    if (found := ids.get(name.lower()) or ids.get(base.lower())) is not None:
        return found
    return f"hf:{name}" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith((".", "/")) else name
