"""How many layers each pipeline stage gets when a launcher must be told, and the layout string of Megatron-Core."""

from __future__ import annotations

import re

from perfmodel.errors import PlanError, SpecError
from perfmodel.ops import ceil_div
from perfmodel.predict.layout import ParallelLayout

__all__ = ["chunk_layers", "layout_string", "parse_layout_string", "spare_slots"]


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


def chunk_layers(stage_layers: tuple[int, ...], vpp: int) -> tuple[int, ...]:
    """Layers of every chunk in the order of the model, when each stage shares its layers out over `vpp` chunks.

    Stages of equal length put their longer chunks at the same turns; the embedding's chunk and the head's are short.

    >>> chunk_layers((5, 5, 4), 3)
    (1, 1, 2, 2, 2, 1, 2, 2, 1)
    """
    last = len(stage_layers) - 1
    turns = [[(turn + 1) * count // vpp - turn * count // vpp for turn in range(vpp)] for count in stage_layers]
    turns[last].sort(reverse=True)
    return tuple(stage[turn] for turn in range(vpp) for stage in turns)


def layout_string(chunks: tuple[int, ...], mtp_layers: int = 0) -> str:
    """Megatron's description of chunks: E embedding, t a layer, m one that predicts further tokens, L loss, | between.

    >>> layout_string((7, 9, 0, 8), 1)
    'Et*7|t*9||t*8mL'
    """
    return "E" + "|".join(f"t*{count}" if count else "" for count in chunks) + "m" * mtp_layers + "L"


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
