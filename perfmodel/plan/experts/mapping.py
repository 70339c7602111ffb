"""Mapping files that serving engines read: where every physical expert's weights come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["ENGINES", "mapping_text"]

ENGINES = ("sglang", "vllm")


def mapping_text(engine: str, slot_expert: Sequence[Sequence[int]], slots_per_rank: int) -> str:
    """The file's text. SGLang: `--init-expert-location FILE`. vLLM: the expert map of its EPLB loaders.

    SGLang's file holds `physical_to_logical_map[layer][slot]`. The expert map that vLLM's loaders of static placements
    read (vllm-ascend `expert_map_path`) lists devices and their experts; `physical_to_logical_map`, which
    `EplbModelState` holds, stands beside it.
    """
    table = [list(row) for row in slot_expert]
    document: dict[str, Any] = {"physical_to_logical_map": table}
    if engine == "vllm":
        document = {"moe_layer_count": len(table), "layer_list": _layers(table, slots_per_rank)} | document
    return json.dumps(document) + "\n"


def _layers(table: list[list[int]], slots: int) -> list[dict[str, Any]]:
    return [
        {
            "layer_id": layer,
            "device_count": len(row) // slots,
            "device_list": [
                {"device_id": rank, "device_expert": row[rank * slots : (rank + 1) * slots]}
                for rank in range(len(row) // slots)
            ],
        }
        for layer, row in enumerate(table)
    ]
