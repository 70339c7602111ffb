"""From fits to hardware_specs/efficiency: the fitted blocks are replaced, everything else in a file is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfmodel.calibrate.kernels import (
    Fitted,
    fit_attention,
    fit_collective,
    fit_elementwise,
    fit_matmul,
    fit_network,
)
from perfmodel.errors import PlanError, unknown_name
from perfmodel.specs import registry
from perfmodel.specs.accelerator import load_accelerator

__all__ = ["RECIPES", "calibrated", "fits", "path_of", "render"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an accelerator's tables stand for: the attention libraries they measure, and whether its switch adds."""

    attention: tuple[str, ...]
    in_network: bool


# FlashAttention-3 has no Ampere kernels: its users run FlashAttention-2 there.
RECIPES = {
    "a100-sxm-80gb": Recipe(attention=("flash-2", "flash-3"), in_network=False),
    "h100-sxm": Recipe(attention=("flash-3",), in_network=True),
}
_SOURCES = {"elementwise_vllm": "vidur", "efa_all_reduce": "aws-efa"}
_BACKWARD_RATIO = {
    "value": 0.863,
    "source": "flash-attention-2",
    "where": "section 4.1, A100",
    "kind": "derived",
    "checked": "2026-11-21",
    "derived": "backward up to 63 % of the peak over forward up to 73 %: 63 / 73",
}
_GROUPS = ("matmul", "attention", "elementwise", "collective")
_ORDER = (*_GROUPS, "in_network", "network", "sources")
_HEAD = "# Written by `python -m perfmodel.calibrate --write`; blocks that it does not fit are kept as they stand.\n"


def fits(accelerator_id: str) -> Iterator[tuple[str, Fitted]]:
    """Every fit of an accelerator by the dotted key it fills; raises `PlanError`."""
    if accelerator_id not in RECIPES:
        raise PlanError(unknown_name("accelerator with kernel tables", accelerator_id, RECIPES))
    accelerator = load_accelerator(accelerator_id)
    found = {
        "matmul.bf16": fit_matmul(accelerator, "bf16"),
        "matmul.fp8": fit_matmul(accelerator, "fp8") if "fp8" in accelerator.peak_flop_per_s else None,
        "attention": fit_attention(accelerator),
        "elementwise.vllm": fit_elementwise(accelerator),
        "collective": fit_collective(accelerator, RECIPES[accelerator_id].in_network),
        "network": fit_network(),
    }
    yield from ((key, fit) for key, fit in found.items() if fit is not None)


def path_of(accelerator_id: str) -> Path:
    """The efficiency file of an accelerator; raises `SpecError`."""
    return registry.path_of("efficiency", accelerator_id)


def calibrated(accelerator_id: str, found: dict[str, Fitted]) -> dict[str, Any]:
    """The content of the efficiency file with the blocks of these fits in it; raises `SpecError`."""
    document = registry.read_toml(path_of(accelerator_id))
    for key, fit in found.items():
        group, _, name = key.partition(".")
        if group == "attention":
            block = fit.constants | {"backward_efficiency_ratio": _BACKWARD_RATIO, "fit": _provenance(fit)}
            document.setdefault(group, {}).update({library: block for library in RECIPES[accelerator_id].attention})
        elif group == "collective":
            document |= _protocols(fit)
        elif name:
            document.setdefault(group, {})[name] = fit.constants | {"fit": _provenance(fit)}
        else:
            document[group] = fit.constants | {"fit": _provenance(fit)}
    return document


def render(document: dict[str, Any]) -> str:
    """The TOML text of an efficiency file, the same for the same content."""
    parts = [_HEAD + "\n".join(f"{key} = {_value(value)}" for key, value in document.items() if key not in _ORDER)]
    for section in (name for name in _ORDER if name in document):
        if section in (*_GROUPS, "sources"):
            parts += [_table(f"{section}.{name}", block) for name, block in document[section].items()]
        else:
            parts.append(_table(section, document[section]))
    return "\n\n".join(parts) + "\n"


def _protocols(fit: Fitted) -> dict[str, Any]:
    blocks: dict[str, dict[str, Any]] = {}
    for constant in sorted(fit.constants):
        protocol, _, word = constant.partition(".")
        blocks.setdefault(protocol, {})[word] = fit.constants[constant]
    blocks = {protocol: block | {"fit": _provenance(fit)} for protocol, block in blocks.items()}
    switch = blocks.pop("in_network", None)
    return {"collective": blocks} | ({} if switch is None else {"in_network": switch})


def _provenance(fit: Fitted) -> dict[str, Any]:
    return {
        "source": _SOURCES.get(fit.table, "aiconfigurator"),
        "table": f"{fit.table}.csv",
        "rows": fit.rows,
        "fitted_error": float(f"{fit.fitted.median:.3g}"),
        "held_out_error": float(f"{fit.held_out.median:.3g}"),
        "how": fit.how,
    }


def _table(header: str, block: dict[str, Any]) -> str:
    return "\n".join([f"[{header}]", *(f"{key} = {_value(value)}" for key, value in block.items())])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value) if isinstance(value, str) else repr(value)
