"""What a rank keeps for its weights: the weights, their gradients and the optimizer's states, cut by ZeRO."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from perfmodel.errors import PlanError, unknown_name
from perfmodel.formulas import memory as laws
from perfmodel.ops import less, maximum, where
from perfmodel.predict.cost import Number
from perfmodel.predict.degrees import Degrees
from perfmodel.predict.kinds import stage_parts
from perfmodel.predict.schedules import FOLDED
from perfmodel.predict.trainable import Trainable
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind
from perfmodel.specs.software import Software

__all__ = ["OPTIMIZERS", "Optimizer", "ParamsPerRank", "State", "Weights", "optimizer_of"]

WEIGHT_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Bytes of state per parameter beyond weight and gradient, and its traffic over that of mixed-precision Adam."""

    state_bytes: float
    traffic: float


OPTIMIZERS = {
    # A 32-bit copy of the weight and two 32-bit moments.
    "adam-mixed": Optimizer(12.0, 1.0),
    # Two 16-bit moments, no copy.
    "adam-bf16": Optimizer(4.0, 0.5),
    # A 32-bit copy and two 8-bit moments with a scale per block (Dettmers et al. 2022, arXiv:2110.02861).
    "adam-8bit": Optimizer(6.0, 0.6),
    # A 32-bit copy; row and column sums of the second moment are small (Shazeer, Stern 2018, arXiv:1804.04235).
    "adafactor": Optimizer(4.0, 0.6),
    "sgd": Optimizer(4.0, 0.5),
    # A 32-bit copy and one 32-bit momentum.
    "sgd-momentum": Optimizer(8.0, 0.75),
}


def optimizer_of(name: str) -> Optimizer:
    """The optimizer of that name; raises `PlanError`."""
    if name not in OPTIMIZERS:
        raise PlanError(unknown_name("optimizer", name, OPTIMIZERS))
    return OPTIMIZERS[name]


@dataclass(frozen=True, slots=True)
class ParamsPerRank:
    """Parameters on one rank [1], those of experts apart, because other ranks hold the same ones."""

    dense: Number
    experts: Number

    @property
    def total(self) -> Number:
        """All parameters of the rank."""
        return self.dense + self.experts


@dataclass(frozen=True, slots=True)
class State:
    """Bytes [B] of one rank."""

    weights: Number
    gradients: Number
    optimizer: Number


class Weights:
    """The weights of one model under one layout (arrays give arrays)."""

    def __init__(
        self, model: Architecture, software: Software, d: Degrees, dtype: str, optimizer: str, trainable: Trainable
    ) -> None:
        self.model, self.degrees, self.trainable, self.dtype = model, d, trainable, dtype
        self.gradient_bytes = software.gradient_bytes(dtype)
        self.state_bytes = optimizer_of(optimizer).state_bytes
        self._of_kind = {kind: self._split(kind) for kind, _ in model.layer_groups}

    def _split(self, kind: LayerKind) -> tuple[int, int]:
        """Parameters of a layer of this kind outside and inside its routed experts."""
        products = self.model.products(kind)
        experts = sum(product.params * self.model.n_experts for product in products if product.experts)
        return self.model.params_of(kind) - experts, experts

    def params(self, layers: Number, embeds: bool, predicts: Number) -> ParamsPerRank:
        """Parameters of so many layers, with the embedding, and with the head where `predicts` is 1."""
        d, model = self.degrees, self.model
        parts = stage_parts(model, layers, embeds)
        dense, experts = (
            layers * sum(part * self._of_kind[kind][which] for kind, part in parts) if present else 0.0
            for which, present in enumerate((True, model.experts is not None))
        )
        ends: Number = float(model.embedding_params) if embeds else 0.0
        # A tied head on another stage than the embedding is a copy of it.
        copy = where(less(d.pp, 2), float(model.head_params), float(model.head_params or model.embedding_params))
        if d.schedule in FOLDED:
            copy = float(model.head_params)
        ends = ends + predicts * copy
        return ParamsPerRank((dense + ends) / d.tp, experts / (d.ep * d.etp) if model.experts else 0.0)

    @cached_property
    def largest_gradient_bytes(self) -> Number:
        """The gradient of the largest weight on a rank before it is added to the others' [B]."""
        shards = [
            product.n * product.k / (self.degrees.etp if product.experts else self.degrees.tp)
            for kind in self._of_kind
            for product in self.model.products(kind)
            if product.split != "none"
        ]
        return self.gradient_bytes * maximum(*shards) if self.trainable.trains_all else 0.0 * self.degrees.tp

    def of_stage(self, layers: Number, embeds: bool, predicts: Number) -> State:
        """Weights, gradients and optimizer states of one stage [B]."""
        d, params = self.degrees, self.params(layers, embeds, predicts)
        dense_shards = d.shards * d.weight_copies
        expert_shards = dense_shards * d.tp / (d.ep * d.etp)
        whole = [State(0.0, 0.0, 0.0)]
        pieces = [(params.dense, dense_shards), (params.experts, expert_shards)]
        for n_params, shards in pieces if self.model.experts else pieces[:1]:
            cut = [shards if d.zero_stage >= stage else 1.0 for stage in (3, 2, 1)]
            learns = n_params * self.trainable.share
            whole.append(
                State(
                    laws.weight_bytes_per_rank(n_params, self.trainable.frozen_weight_bytes, cut[0])
                    + laws.weight_bytes_per_rank(learns, self.trainable.adapter_weight_bytes, cut[0]),
                    laws.gradient_bytes_per_rank(learns, self.gradient_bytes, cut[1]),
                    laws.optimizer_bytes_per_rank(learns, self.state_bytes, cut[2]),
                )
            )
        return State(
            sum(one.weights for one in whole), sum(one.gradients for one in whole), sum(one.optimizer for one in whole)
        )

    @property
    def gathered_bytes(self) -> Number:
        """Layers whose whole weights and gradients ZeRO-3 holds for the moment [B]: this one and the next."""
        d, last = self.degrees, self._of_kind[self.model.layer_kinds[-1]]
        return laws.gathered_weight_bytes(last[0] / d.tp + last[1] / (d.ep * d.etp))
