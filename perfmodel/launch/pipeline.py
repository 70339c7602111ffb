"""How many layers each pipeline stage gets when a launcher must be told, and the layout string of Megatron-Core."""

from __future__ import annotations

import re

from perfmodel.errors import PlanError, SpecError
from perfmodel.ops import ceil_div
from perfmodel.predict.layout import ParallelLayout

__all__ = ["layout_string", "parse_layout_string", "spare_slots"]


def spare_slots(n_layers: int, layout: ParallelLayout) -> int:
    """Layers missing from even chunks: 0, 1 (the head takes one's place) or 2 (the embedding another's).

    Raises `PlanError` where more are missing: then `stage_layers` must say who has fewer.
    """
    chunks = layout.pp * layout.vpp
    spare = int(ceil_div(n_layers, chunks)) * chunks - n_layers
    if spare > 2:
        way = "give stage_layers" if layout.vpp == 1 else "choose another pp or vpp"
        raise PlanError(f"pp: {n_layers} layers on {chunks} chunks leave {spare} places empty, launchers fill 2; {way}")
    return spare


def layout_string(stage_layers: tuple[int, ...]) -> str:
    """Megatron's description of stages: E embedding, t a layer, L loss, stages split by bars.

    >>> layout_string((7, 9, 0, 8))
    'Et*7|t*9||t*8L'
    """
    stages = [f"t*{count}" if count else "" for count in stage_layers]
    return "|".join(["E" + stages[0], *stages[1:]]) + "L" if len(stages) > 1 else f"E{stages[0]}L"


def parse_layout_string(text: str, label: str) -> tuple[int, ...]:
    """Layers of each chunk that a layout string describes; raises `SpecError`.

    >>> parse_layout_string("Et*3|(tt|)*2,m|L", "here")
    (3, 2, 2, 0, 0)
    """
    flat = re.sub(r"[\s,]", "", text)
    while (group := re.search(r"\(([^()]*)\)(?:\*(\d+))?", flat)) is not None:
        flat = flat[: group.start()] + group[1] * int(group[2] or 1) + flat[group.end() :]
    flat = re.sub(r"(.)\*(\d+)", lambda match: match[1] * int(match[2]), flat)
    if not re.fullmatch(r"E[tm|]*L", flat):
        raise SpecError(f"{label}: must be made of E, t, m, L, | and *N, as Et*7|t*9|t*8L (got {text!r})")
    return tuple(stage.count("t") for stage in flat.split("|"))
