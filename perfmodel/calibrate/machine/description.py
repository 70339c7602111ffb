"""A machine as a hardware description: one cluster file with its accelerator and the constants that were fitted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.calibrate.machine.fitting import Block
from perfmodel.calibrate.machine.operations import Facts, Sample
from perfmodel.calibrate.write import protocol_blocks
from perfmodel.specs import registry
from perfmodel.specs.accelerator import Accelerator, load_accelerator
from perfmodel.specs.efficiency import Efficiency, load_efficiency

__all__ = ["SOURCE", "accelerator_of", "cluster_document", "constants_of", "toml"]

SOURCE = "this-machine"
_ADDRESS = "https://own-measurement.invalid"  # a source needs an address; .invalid says there is none (RFC 2606)
_WATTS_PER_CORE, _IDLE_SHARE = 10.0, 0.3
_HEAD = "# Written by `perfmodel calibrate`: use it as --cluster, or as --accelerator.\n"


def accelerator_of(facts: Facts, samples: Sequence[Sample]) -> dict[str, Any]:
    """The accelerator's entries: the shipped data sheet where the device has one, else what was measured."""
    base = load_accelerator(facts.relative)
    relative = base.id if base.id in registry.ids("efficiency") else base.relative
    own = {
        "id": f"{_slug(facts.name)}-measured",
        "name": facts.name,
        "vendor": facts.vendor,
        "architecture": facts.architecture,
        "relative": relative,
        "reported_bytes": _said(facts.memory_bytes, "memory that the system reports"),
        **_watts(facts),
    }
    if facts.is_relative:
        sheet = base.model_dump(mode="json", exclude_none=True)
        return sheet | own
    peaks = _peaks(samples)
    if set(peaks) == {"fp32"}:
        note = "assumed: 16-bit numbers are widened on their way to single-precision units"
        peaks |= {name: peaks["fp32"] | {"kind": "assumed", "note": note} for name in ("bf16", "fp16")}
    bandwidth = _bandwidth(samples)
    return own | {
        "hbm_byte_per_s": bandwidth,
        "hbm_bytes": own["reported_bytes"],
        "sram_bytes": _said(facts.core_cache_bytes, "cache of one core"),
        "l2_bytes": _said(facts.last_cache_bytes, "last cache"),
        "n_cores": _said(float(facts.n_cores), "cores that the kernels may use"),
        "link_byte_per_s": bandwidth | {"kind": "assumed", "note": "memory stands in: no link was measured"},
        "usd_per_hour": {"value": 0.0, "source": "user", "kind": "assumed", "note": "not known: set your own"},
        "peak_flop_per_s": peaks,
    }


def constants_of(
    accelerator: Accelerator, blocks: Sequence[Block], title: str, repeats: int, *, on_cpu: bool
) -> dict[str, Any]:
    """The accelerator's own efficiency set.

    On a CPU every library stands for the one that was measured; on a GPU PyTorch's kernels are those of FlashAttention
    (`flash-2`, `vllm`) and of cuBLAS, and its element-wise kernels are Megatron's; the other blocks stay a relative's.
    """
    donor = load_efficiency(str(accelerator.relative))
    document: dict[str, Any] = {"id": accelerator.id, "relative": accelerator.relative}
    ratio = _backward_ratio(blocks, donor)
    for block in blocks:
        group, _, name = block.key.partition(".")
        entries = block.choices | block.found.constants | {"fit": _fit(block, repeats)}
        if group == "matmul":
            names = [name, *(("bf16",) if on_cpu and name == "fp32" else ())]
        elif group == "attention":
            entries |= {"backward_efficiency_ratio": ratio}
            names = list(donor.attention) if on_cpu else ["flash-2"]
        elif group == "decode":
            names = list(donor.decode) if on_cpu else ["vllm"]
        elif group == "elementwise":
            names = list(donor.elementwise) if on_cpu else ["megatron"]
        elif group in ("collective", "all_to_all"):
            document |= protocol_blocks(group, block.found.constants, _fit(block, repeats))
            continue
        else:
            continue
        document.setdefault(group, {}).update({one: entries for one in names})
    document["sources"] = {SOURCE: {"title": title, "url": _ADDRESS}}
    return document


def cluster_document(accelerator: Mapping[str, Any], constants: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The cluster file: `count` equal devices of one machine."""
    link = accelerator["link_byte_per_s"]
    value = link if isinstance(link, float) else link["value"]
    note = {"source": "user", "kind": "assumed"}
    tier = {
        "name": "inside one machine",
        "kind": "generic",
        "link_byte_per_s": {"value": value, **note, "note": "that of the accelerator"},
        "latency_s": {"value": 1e-6, **note, "note": "not measured"},
    }
    return {
        "id": f"{accelerator['id']}-machine",
        "name": f"{facts.count} x {facts.name}",
        "accelerators": facts.count,
        "accelerators_per_node": facts.count,
        "tiers": [tier],
        "accelerator": dict(accelerator) | {"efficiency": dict(constants)},
    }


def toml(document: Mapping[str, Any]) -> str:
    """The TOML text of a description: numbers with their provenance on one line each, blocks as tables."""
    lines: list[str] = []
    _table("", document, lines)
    return _HEAD + "\n".join(lines).strip() + "\n"


def _table(name: str, table: Mapping[str, Any], lines: list[str]) -> None:
    plain = {key: value for key, value in table.items() if not _is_block(key, value) and value is not None}
    if name and (plain or not table):
        lines += ["", f"[{name}]"]
    lines += [f"{key} = {_value(value)}" for key, value in plain.items()]
    for key, value in table.items():
        dotted = f"{name}.{key}" if name else key
        if key == "tiers":
            for tier in value:
                lines += ["", f"[[{dotted}]]", *(f"{word} = {_value(item)}" for word, item in tier.items())]
        elif _is_block(key, value):
            _table(dotted, value, lines)


def _is_block(key: str, value: Any) -> bool:
    return key == "tiers" or (isinstance(value, Mapping) and "value" not in value and key != "fit")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"


def _said(value: float, note: str) -> dict[str, Any]:
    return {"value": value, "source": "user", "kind": "measured", "note": note}


def _taken(value: float, sample: Sample, what: str) -> dict[str, Any]:
    times = f"median {sample.seconds:.4g} s, p10 {sample.p10_s:.4g} s, p90 {sample.p90_s:.4g} s"
    note = f"{what} over the p10 of {sample.repeats} repetitions: {times}"
    return {"value": float(f"{value:.4g}"), "source": "user", "kind": "measured", "note": note}


def _peaks(samples: Sequence[Sample]) -> dict[str, Any]:
    found: dict[str, tuple[float, Sample]] = {}
    for sample in samples:
        if sample.operation.kind == "matmul":
            m, n, k = sample.operation.sizes
            rate, dtype = 2.0 * m * n * k / sample.p10_s, sample.operation.dtype
            found[dtype] = max(found.get(dtype, (0.0, sample)), (rate, sample), key=lambda one: one[0])
    return {
        dtype: _taken(rate, sample, "fastest product, {} x {} x {},".format(*sample.operation.sizes))
        for dtype, (rate, sample) in found.items()
    }


def _bandwidth(samples: Sequence[Sample]) -> dict[str, Any]:
    copy = next(sample for sample in samples if sample.operation.kind == "copy")
    n_bytes = copy.operation.sizes[0]
    return _taken(2.0 * n_bytes / copy.p10_s, copy, f"reading and writing {n_bytes} B")


def _watts(facts: Facts) -> dict[str, Any]:
    limit_w = facts.limit_w or _WATTS_PER_CORE * facts.n_cores
    idle_w = min(facts.idle_w or _IDLE_SHARE * limit_w, limit_w)
    assumed = {"source": "user", "kind": "assumed"}
    guess = f"{_WATTS_PER_CORE:g} W a core, nothing reports a limit"
    return {
        "tdp_w": _said(limit_w, "power limit that the system reports")
        if facts.limit_w
        else {"value": limit_w, **assumed, "note": guess},
        "idle_w": _said(idle_w, "draw before the measurement")
        if facts.idle_w
        else {"value": idle_w, **assumed, "note": f"{_IDLE_SHARE:.0%} of the limit"},
    }


def _backward_ratio(blocks: Sequence[Block], donor: Efficiency) -> dict[str, Any]:
    for block in blocks:
        if block.key == "backward":
            value = block.found.constants["backward_efficiency_ratio"]
            return _said(value, f"{block.found.rows} rows, held-out median {block.found.held_out.median:.3f}")
    value = float(donor.attention["flash-2"].backward_efficiency_ratio)
    return {"value": value, "source": "user", "kind": "assumed", "note": f"not measured: that of {donor.id}"}


def _fit(block: Block, repeats: int) -> dict[str, Any]:
    found = block.found
    return {
        "source": SOURCE,
        "table": "perfmodel calibrate",
        "rows": found.rows,
        "fitted_error": float(f"{found.fitted.median:.3g}"),
        "held_out_error": float(f"{found.held_out.median:.3g}"),
        "how": f"{found.how}; medians of {repeats}",
    }
