"""What is on the shelf: `list` and `show`."""

from __future__ import annotations

import re
import tomllib
from argparse import Namespace
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from perfmodel.cli.output import emit
from perfmodel.cli.progress import progress
from perfmodel.errors import PlanError, unknown_name

if TYPE_CHECKING:
    from perfmodel.formulas import Formula
    from perfmodel.specs.architecture import Architecture
    from perfmodel.specs.blocks import LayerKind
    from perfmodel.specs.network import Tier

__all__ = ["formula_entry", "list_shelf", "show"]

Entry = dict[str, Any]


def list_shelf(args: Namespace) -> int:
    """`perfmodel list KIND`: one line, or one object with `id` first, per thing."""
    rows = {
        "models": _models,
        "hardware": _hardware,
        "software": _software,
        "formulas": _formulas,
        "published": _published,
        "systems": _systems,
    }[args.kind]
    entries = list(rows())

    def page(console: Any) -> None:
        from perfmodel.cli.render_catalogue import list_page

        list_page(console, args.kind, entries)

    emit(entries, page, as_json=args.json, file=args.output)
    return 0


def show(args: Namespace) -> int:
    """`perfmodel show ID`: a model, an accelerator, a cluster, a host, a software generation or a formula."""
    entry = _found(args.id)

    def page(console: Any) -> None:
        from perfmodel.cli.render_catalogue import formula_page, spec_page

        (formula_page if entry["kind"] == "formula" else spec_page)(console, entry)

    emit(entry, page, as_json=args.json, file=args.output)
    return 0


def _found(id: str) -> Entry:
    import perfmodel as pm
    from perfmodel.formulas import all_formulas
    from perfmodel.specs.region import load_region
    from perfmodel.specs.registry import ids
    from perfmodel.specs.serving_software import load_any_software

    loaders = {
        "models": ("model", pm.load_model),
        "accelerators": ("accelerator", pm.load_accelerator),
        "clusters": ("cluster", pm.load_cluster),
        "hosts": ("host", pm.load_host),
        "software": ("software", load_any_software),
        "regions": ("region", load_region),
    }
    for shelf, (kind, load) in loaders.items():
        if id in ids(shelf):
            spec = load(id)
            counts = _counts(spec) if kind == "model" else {}
            facts = _without_empty(spec.model_dump(mode="json"))
            if kind == "software":
                facts["purpose"] = facts.pop("kind")
            return {"id": id, "kind": kind} | counts | facts
    formulas = all_formulas()
    if id in formulas:
        return formula_entry(formulas[id])
    known = [*(one for shelf in loaders for one in ids(shelf)), *formulas]
    nearest = unknown_name("id", id, known).split("; allowed", 1)[0]
    raise PlanError(f"{nearest}; see perfmodel list models, hardware, software or formulas")


def _counts(model: Architecture) -> Entry:
    """What follows from a model's sizes: parameters, and how many layers there are of each kind."""
    counts = {"n_params": model.n_params, "n_active_params": model.n_active_params}
    return counts | {"layers": {_kind_name(kind): count for kind, count in model.layer_groups}}


def _kind_name(kind: LayerKind) -> str:
    return " + ".join(part for part in kind if part != "none") or "none"


def _without_empty(table: Mapping[str, Any]) -> Entry:
    return {key: value for key, value in table.items() if value not in (None, "", {}, [])}


def _models() -> Iterable[Entry]:
    from perfmodel.specs.huggingface import load_model
    from perfmodel.specs.registry import ids

    keys = ("name", "n_layers", "d_model", "d_ff", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")
    for id in ids("models"):
        model = load_model(id)
        source = model.source.url if model.source else ""
        shown = {"n_experts", "experts_per_token", "n_shared"}
        counts = _counts(model) | {"experts": model.experts.model_dump(include=shown) if model.experts else None}
        yield {"id": id} | {key: getattr(model, key) for key in keys} | counts | {"source": source}


def _hardware() -> Iterable[Entry]:
    from perfmodel.specs.accelerator import load_accelerator
    from perfmodel.specs.cluster import load_cluster
    from perfmodel.specs.host import load_host
    from perfmodel.specs.region import load_region
    from perfmodel.specs.registry import ids

    numbers = ("hbm_bytes", "hbm_byte_per_s", "link_byte_per_s", "tdp_w", "usd_per_hour")
    for id in ids("accelerators"):
        chip = load_accelerator(id)
        peaks = {dtype: float(peak) for dtype, peak in chip.peak_flop_per_s.items()}
        figures: Entry = {key: float(getattr(chip, key)) for key in numbers}
        yield {"id": id, "kind": "accelerator", "name": chip.name, "peak_flop_per_s": peaks} | figures
    for id in ids("clusters"):
        cluster = load_cluster(id)
        yield {
            "id": id,
            "kind": "cluster",
            "name": cluster.name,
            "accelerator": cluster.accelerator.id,
            "accelerators_per_node": cluster.accelerators_per_node,
            "host": cluster.host.id if cluster.host else None,
            "tiers": [_tier(tier) for tier in cluster.tiers],
        }
    for id in ids("hosts"):
        host = load_host(id)
        speeds = ("n_cores", "dram_bytes", "dram_byte_per_s", "pcie_byte_per_s", "nvme_bytes", "cxl_bytes")
        sizes = {key: None if (value := getattr(host, key)) is None else float(value) for key in speeds}
        yield {"id": id, "kind": "host", "name": host.name} | sizes
    for id in ids("regions"):
        region = load_region(id)
        kg = float(region.carbon_kg_per_kwh)
        yield {"id": id, "kind": "region", "name": region.name, "year": region.year, "carbon_kg_per_kwh": kg}


def _tier(tier: Tier) -> Entry:
    return {
        "name": tier.name,
        "kind": tier.kind,
        "domain_accelerators": tier.domain_accelerators,
        "link_byte_per_s": float(tier.link_byte_per_s),
        "torus_shape": list(tier.torus_shape) if tier.torus_shape else None,
    }


def _software() -> Iterable[Entry]:
    from perfmodel.specs.registry import ids
    from perfmodel.specs.serving_software import load_any_software

    for id in ids("software"):
        stack = load_any_software(id)
        lists = {"calibrated_on": list(stack.calibrated_on), "inherits": list(stack.inherits)}
        yield {"id": id, "kind": stack.kind, "name": stack.name} | lists


def _formulas() -> Iterable[Entry]:
    from perfmodel.formulas import all_formulas

    for name, law in all_formulas().items():
        yield {
            "id": name,
            "family": law.family,
            "returns": law.returns.unit,
            "summary": law.summary,
            "source": law.source,
        }


def _published() -> Iterable[Entry]:
    from perfmodel.validation import load_sources
    from perfmodel.validation.kernel_tables import load_roles, load_table

    for id, source in load_sources().items():
        facts = {key: getattr(source, key) for key in ("quantity", "role", "title", "url")}
        yield {"id": id, "rows": len(source.rows)} | facts
    for name, role in load_roles().items():
        facts = {
            "quantity": "kernel time",
            "role": "by whole groups",
            "title": f"held out by {', '.join(role['group'])}",
            "url": "",
        }
        yield {"id": f"kernels-{name.replace('_', '-')}", "rows": len(load_table(name))} | facts
    groups: dict[str, Entry] = {}
    for check in _checks():
        words = re.findall(r"[a-z0-9]+", check["source"].lower().replace("et al", ""))
        facts = {"quantity": "formula", "role": "validate", "title": check["source"], "url": ""}
        entry = groups.setdefault("-".join(["formula", *words[:3]]), {"rows": 0} | facts)
        entry["rows"] += 1
    yield from ({"id": id} | entry for id, entry in groups.items())


def _systems() -> Iterable[Entry]:
    from perfmodel.systems import ledger

    return ledger(progress("claims"))


def _checks() -> list[Entry]:
    """The published values of single formulas, as typed from the papers."""
    table = files("perfmodel").joinpath("validation", "published", "formula_checks.toml")
    checks: list[Entry] = tomllib.loads(table.read_text(encoding="utf-8"))["check"]
    return checks


def formula_entry(law: Formula) -> Entry:
    """The data sheet of a formula, with its published checks computed."""
    from perfmodel.formulas import explain as explained

    published = [_computed(law, check) for check in _checks() if check["formula"] == law.name]
    sheet = explained(law.name).to_dict()
    return {"id": sheet.pop("id"), "kind": "formula"} | sheet | {"published": published}


def _computed(law: Formula, check: Mapping[str, Any]) -> Entry:
    value = float(law.function(**{name: float(given) for name, given in check["inputs"].items()}))
    published = float(check["value"])
    error = value / published - 1.0 if published else None
    facts = {key: check[key] for key in ("where", "source", "inputs", "rel", "read", "reason") if key in check}
    return facts | {"value": published, "formula_value": value, "relative_error": error}
