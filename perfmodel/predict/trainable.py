"""Which weights learn: all of them, or low-rank adapters beside frozen ones (LoRA, QLoRA)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from perfmodel.errors import PlanError
from perfmodel.formulas.transformer import lora_params
from perfmodel.specs.architecture import Architecture

__all__ = ["Trainable", "trainable_of"]

_FORM = re.compile(r"(lora|qlora):r=(\d+)")
_FOUR_BIT_BYTES = 0.5 + 1 / 64 + 1 / 128
"""A 4-bit weight, one byte of scale for 64 of them, scales of scales (Dettmers et al. 2023, arXiv:2305.14314)."""


@dataclass(frozen=True, slots=True)
class Trainable:
    """`share` [1] of the weights that learn, and bytes of a frozen weight and of one of an adapter [B].

    `rank` is that of the adapters, 0 where every weight learns.
    """

    name: str
    share: float
    rank: int
    frozen_weight_bytes: float
    adapter_weight_bytes: float

    @property
    def trains_all(self) -> bool:
        """Whether every weight has a gradient."""
        return self.rank == 0


def trainable_of(name: str, model: Architecture) -> Trainable:
    """ "all", "lora:r=16" or "qlora:r=16" (adapters on every product of a layer); raises `PlanError`."""
    if name == "all":
        return Trainable(name, 1.0, 0, 2.0, 0.0)
    found = _FORM.fullmatch(name)
    if found is None or int(found[2]) < 1:
        raise PlanError(f"trainable: must be 'all', 'lora:r=R' or 'qlora:r=R' with R >= 1 (got {name!r})")
    rank = int(found[2])
    adapters = sum(
        count * lora_params(product.n, product.k, rank) * (model.n_experts if product.experts else 1)
        for kind, count in model.layer_groups
        for product in model.products(kind)
    )
    frozen = _FOUR_BIT_BYTES if found[1] == "qlora" else 2.0
    return Trainable(name, float(adapters) / model.n_params, rank, frozen, 2.0)
