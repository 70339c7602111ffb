"""How a model is spread over accelerators: the layout, and whether it fits a model, a cluster and a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from perfmodel.errors import PlanError, unknown_name
from perfmodel.predict.recompute import MODULES
from perfmodel.predict.schedules import DUALPIPE, SCHEDULES, V_SHAPED, WHOLE_BACKWARD
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.cluster import Cluster

__all__ = ["OFFLOADS", "RECOMPUTE", "SCHEDULES", "VOCABULARY_CHUNKS", "ParallelLayout", "check_layout", "make_layout"]

RECOMPUTE = ("none", "selective", "full")
OFFLOADS = ("activations", "activation_layers")
"""What may live in host memory between the passes: a share [1] of the activations, or those of so many layers."""
# Frameworks may give the embedding and the head a chunk of their own.
VOCABULARY_CHUNKS = 2
_DEGREES = ("tp", "pp", "dp", "cp", "ep", "etp", "attention_dp", "vpp", "micro_batch")


class ParallelLayout(BaseModel):
    """A parallel layout; `tp * pp * dp * cp` is the number of accelerators used. Raises `PlanError`.

    `micro_batch` counts sequences; `dp_shard` is how many of the dp ranks share one ZeRO shard (None: all);
    `overlap` turns every overlap of communication off or on, and `cp_exchange` says how context-parallel ranks share
    keys and values (None: as the software generation does). `recompute_layers` counts the layers that full
    recomputation repeats on every stage, or on each of them (None: all).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    attention_dp: int = 1
    vpp: int = 1
    micro_batch: int = 1
    zero_stage: int = 1
    dp_shard: int | None = None
    sequence_parallel: bool = True
    recompute: Literal["none", "selective", "full"] = "selective"
    recompute_modules: tuple[str, ...] = ()
    recompute_layers: int | tuple[int, ...] | None = None
    schedule: str = "1f1b"
    stage_layers: tuple[int, ...] | None = None
    vocab_parallel: Literal["none", "vocab-1", "vocab-2", "interlaced"] = "none"
    offload: dict[str, float] = Field(default_factory=dict)
    overlap: bool | None = None
    cp_exchange: Literal["ring", "all-gather", "all-to-all"] | None = None

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise PlanError(_one_line(error)) from None

    @field_validator(*_DEGREES, "dp_shard", mode="before")
    @classmethod
    def _whole_degree(cls, value: Any) -> Any:
        if value is None:
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value < 1 or value % 1:
            raise ValueError("must be a whole number >= 1")
        return int(value)

    @field_validator("zero_stage", mode="before")
    @classmethod
    def _zero_stage(cls, value: Any) -> Any:
        if isinstance(value, bool) or value not in (0, 1, 2, 3):
            raise ValueError("must be 0, 1, 2 or 3")
        return int(value)

    @field_validator("recompute_layers", mode="before")
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, value: str) -> str:
        if value not in SCHEDULES:
            raise ValueError(unknown_name("schedule", value, SCHEDULES))
        return value

    def offload_share(self, n_layers: int) -> float:
        """Share [1] of the kept activations that goes to the host."""
        layers = self.offload.get("activation_layers", 0.0) * self.pp / n_layers
        return min(1.0, max(self.offload.get("activations", 0.0), layers))

    @property
    def accelerators(self) -> int:
        """Accelerators that the layout uses."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def full_data_parallel(self) -> int:
        """Ranks among which a ZeRO shard is split."""
        return self.dp_shard or self.dp


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"layout: {unknown_name('key', key, ParallelLayout.model_fields, shown=20)}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if message.startswith("unknown ") else f" (got {first['input']!r})"
    return f"layout: {key}: {message}{got}"


def make_layout(layout: ParallelLayout | Mapping[str, Any]) -> ParallelLayout:
    """A layout from itself or a mapping; an unknown key is refused with the nearest match (`PlanError`)."""
    return layout if isinstance(layout, ParallelLayout) else ParallelLayout(**layout)


def check_layout(
    layout: ParallelLayout, model: Architecture, cluster: Cluster, global_batch: int, seq_len: int
) -> None:
    """Raise `PlanError` for the first reason why this layout cannot run; say what would."""
    tp, pp, vpp = layout.tp, layout.pp, layout.vpp
    _check_chunks(layout)
    if layout.attention_dp != 1:
        raise PlanError(f"attention_dp: is for serving; training takes 1 (got {layout.attention_dp})")
    if layout.vocab_parallel != "none":
        raise PlanError("vocab_parallel: only 'none' is priced yet")
    _check_experts(layout, model)
    _check_pieces(layout, model)
    if model.n_heads % tp:
        raise PlanError(f"tp: must divide n_heads {model.n_heads} (got {tp}); allowed: {_divisors(model.n_heads)}")
    if model.n_kv_heads % tp and tp % model.n_kv_heads:
        raise PlanError(f"tp: must divide n_kv_heads {model.n_kv_heads} or be a multiple of it (got {tp})")
    if model.d_ff % tp:
        raise PlanError(f"tp: must divide d_ff {model.d_ff} (got {tp}); allowed: {_divisors(model.d_ff)}")
    if layout.sequence_parallel and seq_len % (tp * layout.cp):
        raise PlanError(f"sequence_parallel: tp * cp = {tp * layout.cp} must divide seq_len {seq_len}; or turn it off")
    if layout.cp_exchange == "all-to-all" and model.n_heads % (tp * layout.cp):
        raise PlanError(
            f"cp_exchange: all-to-all gives each rank whole heads; tp * cp must divide n_heads {model.n_heads}"
        )
    if seq_len % layout.cp:
        raise PlanError(f"cp: must divide seq_len {seq_len} (got {layout.cp})")
    if pp * vpp > model.n_layers + VOCABULARY_CHUNKS:
        raise PlanError(
            f"pp: {pp} stages of {vpp} chunks need {pp * vpp} layers, {model.id} has {model.n_layers} "
            f"(and {VOCABULARY_CHUNKS} chunks may hold the embedding and the head alone)"
        )
    if layout.accelerators > cluster.accelerators:
        raise PlanError(
            f"layout: tp * pp * dp * cp = {layout.accelerators} accelerators, {cluster.id} has {cluster.accelerators}"
        )
    if layout.dp_shard is not None and layout.dp % layout.dp_shard:
        raise PlanError(f"dp_shard: must divide dp {layout.dp} (got {layout.dp_shard})")
    share = layout.dp * layout.micro_batch
    if global_batch % share:
        raise PlanError(
            f"global_batch: {global_batch} must be a multiple of dp * micro_batch = {layout.dp} * "
            f"{layout.micro_batch} = {share}; nearest: {max(share, round(global_batch / share) * share)}"
        )
    _check_microbatches(layout, global_batch // share)
    if seq_len > model.max_seq_len and model.learned_positions:
        raise PlanError(f"seq_len: {model.id} has {model.max_seq_len} learned positions (got {seq_len})")


def _check_chunks(layout: ParallelLayout) -> None:
    """Chunks and ranks that a schedule needs."""
    schedule, vpp = layout.schedule, layout.vpp
    if schedule in V_SHAPED:
        if vpp != 2:
            raise PlanError(f"vpp: schedule {schedule!r} places two chunks a rank in the shape of a V: 2 (got {vpp})")
        if layout.pp == 1:
            raise PlanError(f"pp: schedule {schedule!r} needs pp >= 2 (got 1); use '1f1b' otherwise")
        return
    if vpp > 1 and schedule != "interleaved":
        raise PlanError(
            f"vpp: {vpp} chunks need schedule 'interleaved' (got schedule {schedule!r}); allowed with it: 1"
        )
    if schedule == "interleaved" and vpp == 1:
        raise PlanError("vpp: schedule 'interleaved' needs vpp >= 2 (got 1); use '1f1b' otherwise")
    if schedule == DUALPIPE and layout.pp % 2:
        raise PlanError(
            f"pp: schedule 'dualpipe' pairs the ranks of both directions; pp must be even (got {layout.pp})"
        )
    if schedule == DUALPIPE and layout.stage_layers is not None:
        raise PlanError(
            "stage_layers: schedule 'dualpipe' holds two stages a rank; leave their layers to the placement"
        )


def _check_microbatches(layout: ParallelLayout, n_microbatches: int) -> None:
    """The number of micro-batches that a schedule needs."""
    schedule, pp = layout.schedule, layout.pp
    if schedule == "interleaved" and n_microbatches % pp:
        raise PlanError(
            f"global_batch: interleaving needs a number of micro-batches that is a multiple of pp {pp} "
            f"(got {n_microbatches})"
        )
    if schedule in V_SHAPED and n_microbatches < pp:
        raise PlanError(
            f"global_batch: schedule {schedule!r} needs at least pp = {pp} micro-batches (got {n_microbatches})"
        )
    if schedule == DUALPIPE and (n_microbatches % 2 or n_microbatches < 2 * pp):
        raise PlanError(
            f"global_batch: schedule 'dualpipe' needs an even number of micro-batches, at least 2 pp = {2 * pp} "
            f"(got {n_microbatches})"
        )


def _check_experts(layout: ParallelLayout, model: Architecture) -> None:
    """Expert degrees: experts share out, and the ranks that hold them are those of dp, cp and tp."""
    ep, etp = layout.ep, layout.etp
    if (ep > 1 or etp > 1) and model.experts is None:
        raise PlanError(f"ep: {model.id} has no experts, so ep and etp must be 1 (got ep {ep}, etp {etp})")
    if model.n_experts % ep:
        raise PlanError(
            f"ep: must divide n_experts {model.n_experts} (got {ep}); allowed: {_divisors(model.n_experts)}"
        )
    ranks = layout.dp * layout.cp * layout.tp
    if ranks % (ep * etp):
        raise PlanError(f"ep: ep * etp must divide dp * cp * tp = {ranks} (got {ep} * {etp})")
    if model.experts is not None and model.experts.d_ff % etp:
        raise PlanError(f"etp: must divide the experts' d_ff {model.experts.d_ff} (got {etp})")


def _check_pieces(layout: ParallelLayout, model: Architecture) -> None:
    """Stages placed by hand, modules recomputed, what lives in host memory."""
    stages = layout.stage_layers
    if stages is not None and (len(stages) != layout.pp or sum(stages) != model.n_layers or min(stages) < 0):
        raise PlanError(
            f"stage_layers: must be pp = {layout.pp} numbers that add up to {model.n_layers} (got {list(stages)})"
        )
    if stages is not None and layout.vpp > 1:
        raise PlanError("stage_layers: needs vpp 1; chunks get equal numbers of layers")
    for module in layout.recompute_modules:
        if module not in MODULES:
            raise PlanError(f"recompute_modules: {unknown_name('module', module, MODULES)}")
    if layout.recompute_modules and layout.recompute != "selective":
        raise PlanError(f"recompute_modules: need recompute 'selective' (got {layout.recompute!r})")
    _check_recomputed(layout)
    for key, value in layout.offload.items():
        if key not in OFFLOADS:
            raise PlanError(f"offload: {unknown_name('key', key, OFFLOADS)}")
        largest = 1.0 if key == "activations" else float(model.n_layers)
        if not 0 <= value <= largest:
            raise PlanError(f"offload: {key} must be from 0 to {largest:g} (got {value!r})")


def _check_recomputed(layout: ParallelLayout) -> None:
    """Numbers of layers that full recomputation repeats."""
    layers, stages = layout.recompute_layers, layout.stage_layers
    if layers is None:
        return
    if layout.recompute != "full":
        raise PlanError(f"recompute_layers: needs recompute 'full' (got {layout.recompute!r})")
    if isinstance(layers, int):
        if layers < 1:
            raise PlanError(f"recompute_layers: must be 1 or more (got {layers}); recompute 'none' repeats nothing")
        return
    if stages is None or layout.schedule not in WHOLE_BACKWARD:
        raise PlanError(
            f"recompute_layers: one number for each stage needs stage_layers and schedule "
            f"{' or '.join(map(repr, WHOLE_BACKWARD))} (got stage_layers {stages}, schedule {layout.schedule!r})"
        )
    if len(layers) != layout.pp or any(not 0 <= some <= all_ for some, all_ in zip(layers, stages, strict=False)):
        raise PlanError(
            f"recompute_layers: must be pp = {layout.pp} numbers from 0 to the layers of each stage "
            f"{list(stages)} (got {list(layers)})"
        )


def _divisors(number: int, shown: int = 12) -> str:
    divisors = [str(d) for d in range(1, number + 1) if number % d == 0]
    return ", ".join(divisors[:shown]) + (", ..." if len(divisors) > shown else "")
