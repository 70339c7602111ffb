"""From fits to hardware_specs/efficiency: the fitted blocks are replaced, everything else in a file is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.calibrate.attention import fit_attention_kernels
from perfmodel.calibrate.collectives import (
    ENGINES,
    NETWORK_CLUSTER,
    fit_all_to_all,
    fit_collective,
    fit_custom_all_reduce,
    fit_network,
)
from perfmodel.calibrate.grouped import fit_grouped, grouped_choices
from perfmodel.calibrate.kernels import Fitted
from perfmodel.calibrate.layer_ops import fit_framework, fit_row_kernels
from perfmodel.calibrate.matmul import LIBRARIES, choices, fit_matmul
from perfmodel.errors import PlanError, unknown_name
from perfmodel.specs import registry
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.kernel_constants import MatmulConstants

__all__ = ["RECIPES", "calibrated", "fits", "path_of", "protocol_blocks", "provenance", "render"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an accelerator's tables stand for: the attention libraries they measure, and whether its switch adds."""

    attention: tuple[str, ...]
    in_network: bool


# FlashAttention-3 has no Ampere kernels: its users run FlashAttention-2 there.
RECIPES = {
    "a100-sxm-80gb": Recipe(attention=("flash-2", "flash-3"), in_network=False),
    "h100-sxm": Recipe(attention=("flash-3",), in_network=True),
    "b200-sxm": Recipe(attention=(), in_network=False),
}
_SOURCES = {"vidur_layer": "vidur", "efa_all_reduce": "aws-efa"}
_BACKWARD_RATIO = {
    "value": 0.863,
    "source": "flash-attention-2",
    "where": "section 4.1, A100",
    "kind": "derived",
    "checked": "2026-11-21",
    "derived": "backward up to 63 % of the peak over forward up to 73 %: 63 / 73",
}
_GROUPS = (
    "matmul",
    "grouped",
    "attention",
    "decode",
    "mla_decode",
    "mla_prefill",
    "elementwise",
    "framework",
    "collective",
    "all_to_all",
    "custom_all_reduce",
)
_ORDER = (*_GROUPS, "in_network", "network", "sources")
_HEAD = "# Written by `python -m perfmodel.calibrate --write`; blocks that it does not fit are kept as they stand.\n"


def fits(accelerator_id: str) -> Iterator[tuple[str, Fitted]]:
    """Every fit of an accelerator by the dotted key it fills; raises `PlanError`."""
    if accelerator_id not in RECIPES:
        raise PlanError(unknown_name("accelerator with kernel tables", accelerator_id, RECIPES))
    accelerator = load_accelerator(accelerator_id)
    found = {
        **{f"matmul.{dtype}": fit_matmul(accelerator, dtype) for dtype in LIBRARIES.get(accelerator_id, {})},
        **dict(fit_grouped(accelerator)),
        **fit_attention_kernels(accelerator),
        **fit_row_kernels(accelerator),
        **_collectives(accelerator),
    }
    product = found.get("matmul.bf16")
    if product is not None:
        block = choices(accelerator_id, "bf16") | product.constants
        found["framework.vllm"] = fit_framework(accelerator, MatmulConstants.model_construct(**block))
    yield from ((key, fit) for key, fit in found.items() if fit is not None)


def _collectives(accelerator: Accelerator) -> dict[str, Fitted | None]:
    """Protocols first: what an engine falls back to, and what carries a message inside the nodes of a network."""
    nccl = fit_collective(accelerator, RECIPES[accelerator.id].in_network)
    if nccl is None:
        return {}
    node = load_cluster(NETWORK_CLUSTER).accelerator
    node_nccl = nccl if node.id == accelerator.id else fit_collective(node, RECIPES[node.id].in_network)
    own = {f"custom_all_reduce.{engine}": fit_custom_all_reduce(accelerator, engine, nccl) for engine in ENGINES}
    return {"collective": nccl, "all_to_all": fit_all_to_all(accelerator), **own, "network": fit_network(node_nccl)}


def path_of(accelerator_id: str) -> Path:
    """The efficiency file of an accelerator; raises `SpecError`."""
    return registry.path_of("efficiency", accelerator_id)


def calibrated(accelerator_id: str, found: dict[str, Fitted]) -> dict[str, Any]:
    """The content of the efficiency file with the blocks of these fits in it; raises `SpecError`."""
    document = registry.read_toml(path_of(accelerator_id))
    for key, fit in found.items():
        group, _, name = key.partition(".")
        if group == "attention":
            block = fit.constants | {"backward_efficiency_ratio": _BACKWARD_RATIO, "fit": provenance(fit)}
            libraries = (name,) if name else RECIPES[accelerator_id].attention
            document.setdefault(group, {}).update({library: block for library in libraries})
        elif group == "matmul":
            block = choices(accelerator_id, name) | fit.constants | {"fit": provenance(fit)}
            document.setdefault(group, {})[name] = block
        elif group == "grouped":
            document.setdefault(group, {})[name] = grouped_choices() | fit.constants | {"fit": provenance(fit)}
        elif group in ("collective", "all_to_all"):
            document |= protocol_blocks(group, fit.constants, provenance(fit))
        elif key == "decode.vllm" and "decode.tensorrt-llm" not in found:
            block = fit.constants | {"fit": provenance(fit)}
            document.setdefault(group, {}).update({"vllm": block, "tensorrt-llm": _lent(block, "vllm")})
        elif name:
            document.setdefault(group, {})[name] = fit.constants | {"fit": provenance(fit)}
        else:
            document[group] = fit.constants | {"fit": provenance(fit)}
    return document


def render(document: dict[str, Any], head: str = _HEAD) -> str:
    """The TOML text of an efficiency file, the same for the same content; `head` is its comment."""
    parts = [head + "\n".join(f"{key} = {_value(value)}" for key, value in document.items() if key not in _ORDER)]
    for section in (name for name in _ORDER if name in document):
        if section in (*_GROUPS, "sources"):
            parts += [_table(f"{section}.{name}", block) for name, block in document[section].items()]
        else:
            parts.append(_table(section, document[section]))
    return "\n\n".join(parts) + "\n"


def protocol_blocks(group: str, constants: dict[str, float], fit: dict[str, Any]) -> dict[str, Any]:
    """Constants named `protocol.constant` as the blocks of a file, the switch's apart; each says where it is from."""
    blocks: dict[str, dict[str, Any]] = {}
    for constant in sorted(constants):
        protocol, _, word = constant.partition(".")
        blocks.setdefault(protocol, {})[word] = constants[constant]
    blocks = {protocol: block | {"fit": fit} for protocol, block in blocks.items()}
    switch = blocks.pop("in_network", None)
    return {group: blocks} | ({} if switch is None else {"in_network": switch})


def provenance(fit: Fitted) -> dict[str, Any]:
    """The `fit` entry of a block."""
    return {
        "source": _SOURCES.get(fit.table, "aiconfigurator"),
        "table": f"{fit.table}.csv",
        "rows": fit.rows,
        "fitted_error": float(f"{fit.fitted.median:.3g}"),
        "held_out_error": float(f"{fit.held_out.median:.3g}"),
        "how": fit.how,
    }


def _lent(block: dict[str, Any], library: str) -> dict[str, Any]:
    """The block of a library without rows of its own on this accelerator."""
    fit = block["fit"] | {"how": f"the constants of {library}: no usable rows of its own; {block['fit']['how']}"}
    return block | {"fit": fit}


def _table(header: str, block: dict[str, Any]) -> str:
    return "\n".join([f"[{header}]", *(f"{key} = {_value(value)}" for key, value in block.items())])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value) if isinstance(value, str) else repr(value)
