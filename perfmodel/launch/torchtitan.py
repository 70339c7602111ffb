"""torchtitan: the TOML file of a job from a training run, and a scenario from such a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.launch.pipeline import spare_slots
from perfmodel.launch.plan import TrainingRun
from perfmodel.launch.tables import Table
from perfmodel.launch.training_flags import precision_word, refuse_unless

__all__ = ["torchtitan_keys", "torchtitan_scenario"]

_SCHEDULES = {"1f1b": "1F1B", "gpipe": "GPipe", "interleaved": "Interleaved1F1B"}
_EXCHANGES = {"all-gather": "allgather", "all-to-all": "alltoall"}
_CONVERTERS = {"bf16": (), "fp8": ("quantize.linear.float8",), "mxfp8": ("quantize.linear.mx",)}
_MASTERS = {"adam-mixed": "float32", "adam-bf16": "bfloat16"}
_P = "parallelism."


def torchtitan_keys(plan: TrainingRun, table: Table) -> dict[str, Any]:
    """The keys of a job by their dotted names; raises `PlanError` for what the tool has no key for."""
    layout, asked = plan.layout, plan.scenario
    refuse_unless(
        table,
        plan,
        {"schedule": _SCHEDULES, "optimizer": _MASTERS, "overlap": (None,), "offload": ({},), "attention_dp": (1,)}
        | {"recompute": ("none", "full"), "recompute_layers": (None,), "recompute_modules": ((),)}
        | {"cp_exchange": (None, *_EXCHANGES), "sequence_parallel": (layout.tp > 1,)}
        | {
            "zero_stage": (0, 2, 3) if layout.dp > 1 else (0,),
            "dp_shard": (layout.dp_shard if layout.zero_stage else None,),
        },
    )
    shards = layout.full_data_parallel if layout.zero_stage else 1
    keys: dict[str, Any] = dict(zip(("model.name", "model.flavor"), _flavor(plan, table), strict=True))
    if converters := precision_word(table, _CONVERTERS, asked.get("precision", "bf16")):
        keys["model.converters"] = list(converters)
    if asked.get("precision") == "mxfp8":
        keys["quantize.linear.mx.recipe_name"] = "mxfp8_cublas"
    keys |= {
        "optimizer.name": "AdamW",
        "training.local_batch_size": layout.micro_batch if layout.pp == 1 else asked["global_batch"] // layout.dp,
        "training.global_batch_size": asked["global_batch"],
        "training.seq_len": asked["seq_len"],
        "training.dtype": _MASTERS[asked.get("optimizer", "adam-mixed")],
        "training.mixed_precision_param": "bfloat16",
        _P + "data_parallel_replicate_degree": layout.dp // shards,
        _P + "data_parallel_shard_degree": shards,
        _P + "tensor_parallel_degree": layout.tp,
        _P + "pipeline_parallel_degree": layout.pp,
        _P + "context_parallel_degree": layout.cp,
    }
    if layout.zero_stage:
        keys[_P + "fsdp_reshard_after_forward"] = "always" if layout.zero_stage == 3 else "never"
    if layout.pp > 1:
        keys |= _pipeline(plan)
    if layout.cp_exchange is not None:
        keys[_P + "context_parallel_rotate_method"] = _EXCHANGES[layout.cp_exchange]
    if plan.model.experts is not None:
        keys |= {_P + "expert_parallel_degree": layout.ep, _P + "expert_tensor_parallel_degree": layout.etp}
    keys["activation_checkpoint.mode"] = layout.recompute
    return {name: table.emitted(name, value) for name, value in keys.items()}


def _flavor(plan: TrainingRun, table: Table) -> list[str]:
    if plan.model.id not in table.models:
        raise PlanError(f"{table.label}: {unknown_name('model', plan.model.id, table.models, shown=20)}")
    return table.models[plan.model.id].split("/")


def _pipeline(plan: TrainingRun) -> dict[str, Any]:
    layout, n_layers = plan.layout, plan.model.n_layers
    keys: dict[str, Any] = {
        _P + "pipeline_parallel_schedule": _SCHEDULES[layout.schedule],
        _P + "pipeline_parallel_microbatch_size": layout.micro_batch,
    }
    if layout.stage_layers is not None:
        return keys | {_P + "module_fqns_per_model_part": _parts(layout.stage_layers)}
    spare = spare_slots(n_layers, layout)
    return keys | {
        _P + "pipeline_parallel_layers_per_stage": (n_layers + spare) // (layout.pp * layout.vpp),
        _P + "pipeline_parallel_first_stage_less_layers": int(spare > 1),
        _P + "pipeline_parallel_last_stage_less_layers": int(spare > 0),
    }


def _parts(stage_layers: tuple[int, ...]) -> list[list[str]]:
    parts, start = [], 0
    for count in stage_layers:
        parts.append([f"layers.{start + number}" for number in range(count)])
        start += count
    parts[0].insert(0, "tok_embeddings")
    parts[-1] += ["norm", "output"]
    return parts


def torchtitan_scenario(
    got: Mapping[str, Any], said: Mapping[str, Any], table: Table, label: str
) -> tuple[dict[str, Any], list[str]]:
    """The scenario of a job, with remarks on what it leaves open; `said` are the keys in our own comments.

    Raises `SpecError` for numbers that contradict each other and words that are not priced.
    """
    notes: list[str] = []
    degree = {
        ours: got.get(f"{_P}{theirs}_degree", 1)
        for ours, theirs in (
            ("tp", "tensor_parallel"), ("pp", "pipeline_parallel"), ("cp", "context_parallel"),
            ("ep", "expert_parallel"), ("etp", "expert_tensor_parallel"),
        )
    }  # fmt: skip
    layout: dict[str, Any] = dict(degree)
    replicas, shards = got.get(_P + "data_parallel_replicate_degree", 1), _shards(got, said, degree, notes)
    layout["dp"] = replicas * shards
    layout["zero_stage"] = _zero_stage(got, degree["pp"]) if shards > 1 else 0
    if shards > 1 and replicas > 1:
        layout["dp_shard"] = shards
    layout["sequence_parallel"] = degree["tp"] > 1
    model, n_layers = _model(got, said, table, label)
    scenario: dict[str, Any] = {"model": model}
    layout |= _schedule(got, degree["pp"], n_layers, label) | _batch(got, layout, label)
    scenario["global_batch"] = layout.pop("global_batch")
    scenario |= {"seq_len": got.get("training.seq_len", 2048), "precision": _precision(got, label)}
    masters = {word: key for key, word in _MASTERS.items()}
    scenario["optimizer"] = masters[got.get("training.dtype", "float32")]
    if (method := got.get(_P + "context_parallel_rotate_method")) is not None and degree["cp"] > 1:
        layout["cp_exchange"] = {word: key for key, word in _EXCHANGES.items()}[method]
    layout["recompute"] = _recompute(got, notes)
    return scenario | {"layout": layout}, notes


def _shards(got: Mapping[str, Any], said: Mapping[str, Any], degree: Mapping[str, int], notes: list[str]) -> int:
    shards: int = got.get(_P + "data_parallel_shard_degree", -1)
    if shards > 0:
        return shards
    share = degree["tp"] * degree["pp"] * degree["cp"] * got.get(_P + "data_parallel_replicate_degree", 1)
    world = said.get("accelerators")
    if isinstance(world, int) and world % share == 0:
        return world // share
    notes.append("data_parallel_shard_degree is -1: the rest of the world is not said; add --dp")
    return 1


def _zero_stage(got: Mapping[str, Any], pp: int) -> int:
    policy = got.get(_P + "fsdp_reshard_after_forward", "default")
    if policy == "default":  # its rule: weights stay gathered behind a pipeline
        return 2 if pp > 1 else 3
    return 3 if policy == "always" else 2


def _model(got: Mapping[str, Any], said: Mapping[str, Any], table: Table, label: str) -> tuple[str, int]:
    from perfmodel.specs.huggingface import load_model

    words = f"{got.get('model.name', 'llama3')}/{got.get('model.flavor', 'debugmodel')}"
    known = {flavor: id for id, flavor in table.models.items()}
    if words not in known:
        raise SpecError(f"{label}: model: {unknown_name('name/flavor', words, known, shown=20)}")
    return known[words], load_model(known[words]).n_layers


def _schedule(got: Mapping[str, Any], pp: int, n_layers: int, label: str) -> dict[str, Any]:
    if pp == 1:
        return {"schedule": "1f1b"}
    word = got.get(_P + "pipeline_parallel_schedule", "1F1B")
    known = {theirs: ours for ours, theirs in _SCHEDULES.items()}
    if word not in known:
        raise SpecError(f"{label}: {_P}pipeline_parallel_schedule: {unknown_name('priced schedule', word, known)}")
    schedule = known[word]
    if (parts := got.get(_P + "module_fqns_per_model_part")) is not None:
        counts = tuple(sum(name.startswith("layers.") for name in part) for part in parts)
        if len(counts) != pp or sum(counts) != n_layers:
            raise SpecError(f"{label}: {_P}module_fqns_per_model_part: needs {pp} parts with {n_layers} layers in all")
        return {"schedule": schedule, "stage_layers": counts}
    each = got.get(_P + "pipeline_parallel_layers_per_stage")
    ends = sum(got.get(f"{_P}pipeline_parallel_{end}_stage_less_layers", 1) for end in ("first", "last"))
    # Without a number each rank gets one stage, or two of a looped schedule.
    chunks = pp * (2 if schedule == "interleaved" else 1) if each is None else -(-(n_layers + ends) // each)
    if chunks % pp:
        raise SpecError(f"{label}: {_P}pipeline_parallel_layers_per_stage: {chunks} stages on {pp} ranks do not divide")
    return {"schedule": schedule, "vpp": chunks // pp}


def _batch(got: Mapping[str, Any], layout: Mapping[str, Any], label: str) -> dict[str, int]:
    local = got.get("training.local_batch_size", 8)
    whole = got.get("training.global_batch_size", -1)
    whole = local * layout["dp"] if whole < 1 else whole
    if whole % (local * layout["dp"]):
        raise SpecError(
            f"{label}: training.global_batch_size: {whole} is not local_batch_size {local} * dp {layout['dp']} * a "
            "whole number of accumulation steps"
        )
    micro = got.get(_P + "pipeline_parallel_microbatch_size", 1) if layout["pp"] > 1 else local
    if local % micro:
        raise SpecError(f"{label}: {_P}pipeline_parallel_microbatch_size: {micro} must divide local_batch_size {local}")
    return {"global_batch": whole, "micro_batch": micro}


def _precision(got: Mapping[str, Any], label: str) -> str:
    converters = got.get("model.converters", [])
    for precision, names in _CONVERTERS.items():
        if any(name in converters for name in names):
            return precision
    if got.get("training.mixed_precision_param", "bfloat16") != "bfloat16":
        raise SpecError(f"{label}: training.mixed_precision_param: only bfloat16 is priced (got 'float32')")
    return "bf16"


def _recompute(got: Mapping[str, Any], notes: list[str]) -> str:
    mode: str = got.get("activation_checkpoint.mode", "selective")
    if mode in ("selective", "memory_budget"):
        notes.append(f"activation_checkpoint.mode {mode}: chooses operations of its own; priced as none")
        return "none"
    return mode
