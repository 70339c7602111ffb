"""How the layers of a stage are made up, where the first layers of a model differ from the others."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from perfmodel.ops import less, maximum, minimum, where
from perfmodel.predict.cost import Number
from perfmodel.specs.architecture import Architecture
from perfmodel.specs.blocks import LayerKind

__all__ = ["Parts", "bottleneck_parts", "kind_parts", "stage_parts"]

Parts = list[tuple[LayerKind, Number]]


@lru_cache
def _groups(kinds: tuple[LayerKind, ...]) -> tuple[tuple[LayerKind, int], ...]:
    return tuple(Counter(kinds).items())


def kind_parts(model: Architecture, leading: Number) -> Parts:
    """Kinds with their share [1] of some layers, of which the share `leading` are the model's first dense ones."""
    k, kinds = model.first_k_dense, model.layer_kinds
    if k in (0, model.n_layers):
        return [(kind, count / model.n_layers) for kind, count in model.layer_groups]
    rest = [(kind, count / (model.n_layers - k) * (1.0 - leading)) for kind, count in _groups(kinds[k:])]
    return [(kinds[0], leading), *rest]


def stage_parts(model: Architecture, layers: Number, is_first: bool) -> Parts:
    """Kinds with their share [1] of a stage of so many layers."""
    return kind_parts(model, minimum(model.first_k_dense, layers) / maximum(layers, 1.0) if is_first else 0.0 * layers)


def bottleneck_parts(model: Architecture, pp: Number) -> Parts:
    """Kinds with their share [1] of the layers that set the pace: in a pipeline a stage without leading layers."""
    whole = model.first_k_dense / model.n_layers
    return kind_parts(model, where(less(pp, 2), whole, 0.0 * pp))
