"""What the launchers of training runs share: Megatron-Core's words, and the keys that a tool has no flag for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perfmodel.errors import PlanError, unknown_name
from perfmodel.launch.pipeline import chunk_layers, layout_string, spare_slots
from perfmodel.launch.plan import TrainingRun
from perfmodel.launch.tables import Table
from perfmodel.predict.layout import ParallelLayout

__all__ = [
    "CP_EXCHANGE",
    "OPTIMIZERS",
    "core_flags",
    "precision_word",
    "refuse_unless",
    "sharding_strategy",
    "uncarried",
]

CP_EXCHANGE = {"ring": "p2p", "all-gather": "all_gather", "all-to-all": "a2a"}
OPTIMIZERS = {"adam-mixed": "adam", "sgd": "sgd"}
_STRATEGIES = {1: "optim", 2: "optim_grads", 3: "optim_grads_params"}
_DEFAULTS = {"trainable": "all", "packing": "padded"}
# Keys of a scenario that no launcher has a flag for, or that only describe the run.
_DESCRIBES = ("cluster", "accelerators", "software", "tokens", "trainable", "packing", "mean_seq_len")


def refuse_unless(table: Table, plan: TrainingRun, allowed: Mapping[str, Iterable[Any]]) -> None:
    """Raise `PlanError` for the first key whose value this tool has no flag for."""
    values = {"trainable": "all"} | plan.scenario | plan.layout.model_dump()
    for key, words in ({"trainable": ("all",), "vocab_parallel": ("none",)} | dict(allowed)).items():
        value, known = values.get(key), tuple(words)
        if value not in known:
            shown = ", ".join(str(word) for word in known)
            raise PlanError(f"{table.label}: has no flag for {key} = {value!r}; it takes {shown}")


def uncarried(plan: TrainingRun, *more: str) -> dict[str, Any]:
    """The keys that travel in comments, those `more` among them; what an estimate takes anyway is left out."""
    said = {key: plan.scenario[key] for key in ("model", *_DESCRIBES, *more) if key in plan.scenario}
    return {key: value for key, value in said.items() if _DEFAULTS.get(key) != value}


def sharding_strategy(layout: ParallelLayout) -> str | None:
    """Megatron-FSDP's word for a ZeRO stage above 1; None where the distributed optimizer alone does it."""
    return _STRATEGIES[layout.zero_stage] if layout.zero_stage > 1 else None


def core_flags(plan: TrainingRun) -> dict[str, Any]:
    """The part of a layout that Megatron-LM and Megatron-Bridge name alike, as fields of Megatron-Core's configuration.

    Raises `PlanError` for a placement of layers that they cannot take.
    """
    layout = plan.layout
    flags: dict[str, Any] = {
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "context_parallel_size": layout.cp,
    }
    if layout.cp_exchange is not None:
        flags["cp_comm_type"] = CP_EXCHANGE[layout.cp_exchange]
    if plan.model.experts is not None:
        flags |= {"expert_model_parallel_size": layout.ep, "expert_tensor_parallel_size": layout.etp}
    flags |= _placement(plan) | _recomputed(plan)
    return flags | ({"sequence_parallel": True} if layout.sequence_parallel else {})


def _placement(plan: TrainingRun) -> dict[str, Any]:
    layout, mtp_layers = plan.layout, plan.model.mtp_layers
    if layout.stage_layers is not None:
        return {"pipeline_model_parallel_layout": layout_string(layout.stage_layers, mtp_layers)}
    if plan.placed_freely and (len(set(plan.stages)) > 1 or plan.stages[0] % layout.vpp):
        return {"pipeline_model_parallel_layout": layout_string(chunk_layers(plan.stages, layout.vpp), mtp_layers)}
    spare = spare_slots(plan.model.n_layers, layout)
    flags: dict[str, Any] = {"account_for_loss_in_pipeline_split": True} if spare else {}
    return flags | ({"account_for_embedding_in_pipeline_split": True} if spare > 1 else {})


def _recomputed(plan: TrainingRun) -> dict[str, Any]:
    layout = plan.layout
    if layout.recompute == "none":
        return {}
    flags: dict[str, Any] = {"recompute_granularity": layout.recompute}
    if layout.recompute == "selective":
        return flags | ({"recompute_modules": layout.recompute_modules} if layout.recompute_modules else {})
    if layout.recompute_layers is None or (plan.stages and layout.recompute_layers == max(plan.stages)):
        return flags | {"recompute_method": "uniform", "recompute_num_layers": 1}
    if not isinstance(layout.recompute_layers, int):
        raise PlanError(
            f"recompute_layers: Megatron repeats as many layers on every stage (got {list(layout.recompute_layers)})"
        )
    # Each chunk of a stage counts its own layers.
    each, rest = divmod(layout.recompute_layers, layout.vpp)
    if rest or not each:
        more = (each + 1) * layout.vpp
        raise PlanError(
            f"recompute_layers: Megatron repeats as many layers of every chunk, a multiple of vpp {layout.vpp} "
            f"(got {layout.recompute_layers}); nearest that fits: {more} (estimate training -f PLAN "
            f"--recompute-layers {more}), or plan with --schedules 1f1b"
        )
    return flags | {"recompute_method": "block", "recompute_num_layers": each}


def precision_word(table: Table, words: Mapping[str, Any], precision: str) -> Any:
    """What a tool calls a precision; raises `PlanError` where it has no word for it."""
    if not isinstance(precision, str) or precision not in words:
        raise PlanError(f"{table.label}: precision: {unknown_name('value', precision, words)}")
    return words[precision]
