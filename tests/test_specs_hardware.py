"""Hardware descriptions: every shipped number has a source, every wrong one gets a useful line."""

from __future__ import annotations

import copy
import datetime
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perfmodel.errors import PlanError, SpecError
from perfmodel.specs import registry
from perfmodel.specs.accelerator import PRECISIONS, Accelerator, load_accelerator
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.network import Tier
from perfmodel.specs.quantity import KINDS, Quantity, quantities

LOADERS: dict[str, Any] = {"accelerators": load_accelerator, "clusters": load_cluster}
SHIPPED = [(kind, id) for kind in LOADERS for id in registry.ids(kind)]
TABLE = {"value": 2.0, "source": "sheet", "where": "table 1", "kind": "published", "checked": "2026-11-21"}
TEN_NUMBERS: dict[str, Any] = {
    "peak_flop_per_s": {"bf16": 1e15},
    "hbm_byte_per_s": 4e12,
    "hbm_bytes": 100e9,
    "sram_bytes": 262144,
    "l2_bytes": 50e6,
    "n_cores": 132,
    "link_byte_per_s": 450e9,
    "tdp_w": 700,
    "idle_w": 70,
    "usd_per_hour": 3,
}
TWO_TIERS = [
    {"name": "inner", "kind": "nvlink", "domain_accelerators": 8, "link_byte_per_s": 450e9, "latency_s": 1e-6},
    {"name": "outer", "kind": "infiniband", "link_byte_per_s": 50e9, "latency_s": 0},
]
CLUSTER: dict[str, Any] = {
    "accelerator": "h100-sxm",
    "accelerators": 64,
    "accelerators_per_node": 8,
    "tiers": TWO_TIERS,
}


def without(table: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != key}


# What is shipped


def test_the_ids_of_the_design_are_shipped() -> None:
    assert {"a100-sxm-80gb", "a100-sxm-40gb", "h100-sxm"} <= set(registry.ids("accelerators"))
    assert {"dgx-a100-80gb", "dgx-a100-40gb", "dgx-h100"} <= set(registry.ids("clusters"))


@pytest.mark.parametrize(("kind", "id"), SHIPPED)
def test_every_shipped_number_says_where_it_comes_from(kind: str, id: str) -> None:
    spec = LOADERS[kind](id)
    numbers = dict(quantities(spec))
    assert spec.id == id
    assert len(numbers) >= 7
    for key, number in numbers.items():
        assert number.source in spec.sources, key
        assert number.where, key
        assert number.kind in KINDS, key
        assert datetime.date.fromisoformat(number.checked) <= datetime.date(2100, 1, 1), key
        assert number.kind != "derived" or number.derived, key
        assert number.kind != "assumed" or number.note, f"{key}: an assumption gives its reason"
    assert {number.source for number in numbers.values()} == set(spec.sources), "a source that no number uses"
    assert all(source.url.startswith("https://") for source in spec.sources.values())


@pytest.mark.parametrize(("kind", "id"), SHIPPED)
def test_a_shipped_description_survives_a_round_trip_with_its_provenance(kind: str, id: str) -> None:
    spec = LOADERS[kind](id)
    table = json.loads(spec.model_dump_json())
    again = LOADERS[kind](table)
    assert again == spec
    assert again.model_dump(mode="json") == table
    assert pickle.loads(pickle.dumps(spec)).model_dump(mode="json") == table


def test_relatives_exist() -> None:
    for id in registry.ids("accelerators"):
        assert load_accelerator(id).relative in {None, *registry.ids("accelerators")} - {id}


# Source: NVIDIA data sheets and the white papers of both generations, as products of clock, cores and width.
@pytest.mark.parametrize(
    ("id", "flop_per_clock_and_core", "clock_hz"),
    [("a100-sxm-80gb", 2048, 1.410e9), ("a100-sxm-40gb", 2048, 1.410e9), ("h100-sxm", 4096, 1.830e9)],
)
def test_peaks_follow_from_clock_and_cores(id: str, flop_per_clock_and_core: int, clock_hz: float) -> None:
    accelerator = load_accelerator(id)
    computed = flop_per_clock_and_core * clock_hz * accelerator.n_cores
    assert accelerator.peak("bf16") == pytest.approx(computed, rel=1e-3, abs=0)
    assert accelerator.peak("tf32") == pytest.approx(computed / 2, rel=1e-3, abs=0)
    assert accelerator.peak("int8") == pytest.approx(computed * 2, rel=1e-3, abs=0)
    for dtype, sparse in (accelerator.sparse_peak_flop_per_s or {}).items():
        assert sparse == pytest.approx(2 * accelerator.peak(dtype), rel=1e-3, abs=0)


def test_dgx_power_adds_up_to_the_system_maximum() -> None:
    for id, system_w in {"dgx-a100-80gb": 6500, "dgx-a100-40gb": 6500, "dgx-h100": 10200}.items():
        cluster = load_cluster(id)
        per_accelerator_w = cluster.accelerator.tdp_w + cluster.server_overhead_w
        assert per_accelerator_w * cluster.accelerators_per_node == pytest.approx(system_w, rel=1e-9, abs=0)


# Quantity


def test_a_quantity_is_a_float() -> None:
    number = Quantity(3.0, source="sheet", where="table 1", kind="published", checked="2026-11-21")
    assert number == 3.0
    assert type(number * 2) is float
    assert (np.arange(3) * number).dtype == np.float64
    assert json.dumps(number) == "3.0"
    for twin in (pickle.loads(pickle.dumps(number)), copy.deepcopy(number)):
        assert twin.as_dict() == number.as_dict() == TABLE | {"value": 3.0}
    with pytest.raises(AttributeError, match="frozen"):
        number.kind = "measured"


def test_a_bare_number_is_the_users_assumption() -> None:
    accelerator = Accelerator(name="mine", **TEN_NUMBERS)
    assert accelerator.tdp_w.as_dict() == {"value": 700.0, "source": "user", "kind": "assumed"}
    assert accelerator.peak("bf16") == 1e15
    assert Accelerator(**accelerator.model_dump(mode="json")) == accelerator
    assert load_accelerator(accelerator) is accelerator
    assert Accelerator(**TEN_NUMBERS | {"n_cores": np.int64(4), "usd_per_hour": 0}).n_cores == 4.0


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (math.nan, "must be finite (got nan)"),
        (10**400, "must be finite"),
        (True, "must be a number (got True)"),
        ("700", "must be a number (got '700')"),
        (None, "must be a number (got None)"),
        (0, "must be more than zero (got 0)"),
        (-1.5, "must be more than zero (got -1.5)"),
        (TABLE | {"valeu": 1}, "unknown key 'valeu'; nearest: 'value'"),
        (without(TABLE, "where"), "missing where; a number needs value, source, where, kind, checked"),
        (TABLE | {"kind": "publishd"}, "kind: unknown kind 'publishd'; nearest: 'published'"),
        (TABLE | {"kind": "derived"}, "a derived number must say how"),
        (TABLE | {"derived": "by hand"}, "allowed only where kind is 'derived'"),
        (TABLE | {"checked": "21.11.2026"}, "must be an ISO date such as '2026-11-21' (got '21.11.2026')"),
        (TABLE | {"value": "2"}, "value: must be a number (got '2')"),
        (TABLE | {"note": 3}, "note: must be text (got 3)"),
        (TABLE | {"source": "shet"}, "tdp_w: source: unknown source 'shet'; nearest: 'sheet'; allowed: sheet"),
    ],
)
def test_wrong_numbers_are_refused(number: object, says: str) -> None:
    sources = {"sources": {"sheet": "The sheet, https://example.org/sheet"}}
    with pytest.raises(SpecError) as caught:
        load_accelerator(TEN_NUMBERS | sources | {"tdp_w": number})
    message = str(caught.value)
    assert message.startswith("accelerator: ")
    assert "tdp_w: " in message
    assert says in message
    assert "\n" not in message


def test_the_constructor_of_a_quantity_checks_too() -> None:
    with pytest.raises(SpecError, match="derived: missing"):
        Quantity(1.0, kind="derived")


# Descriptions


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tdp": 700}, "accelerator: tdp: unknown key 'tdp'; nearest: 'tdp_w'"),
        ({"peak_flop_per_s": {"bf61": 1e15}}, "peak_flop_per_s.bf61: unknown value 'bf61'; nearest: 'bf16'"),
        ({"peak_flop_per_s": {}}, "peak_flop_per_s: is empty"),
        ({"n_cores": 1.5}, "n_cores: must be a whole number (got 1.5)"),
        ({"idle_w": 800}, "idle_w: must be at most tdp_w, 700 (got 800)"),
        ({"sparse_peak_flop_per_s": {"fp8": 1e15}}, "sparse_peak_flop_per_s.fp8: needs a dense peak"),
        ({"id": 7}, "id: input should be a valid string (got 7)"),
        ({"sources": {"a": "a book"}}, "sources.a: a source needs a URL (got 'a book')"),
        ({"sources": {"a": {"title": "t", "url": "ftp:x"}}}, "sources.a: url: must start with http"),
    ],
)
def test_wrong_accelerators_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_accelerator(TEN_NUMBERS | change)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"accelerator": "h100-sxn"}, "cluster: accelerator: unknown accelerator 'h100-sxn'; nearest: 'h100-sxm'"),
        ({"tires": []}, "tires: unknown key 'tires'; nearest: 'tiers'"),
        ({"tiers": []}, "tiers: is empty"),
        ({"tiers": TWO_TIERS[::-1]}, "tiers.0.domain_accelerators: missing; only the last tier"),
        ({"tiers": [TWO_TIERS[0], TWO_TIERS[0]]}, "tiers.1.domain_accelerators: must grow outwards"),
        ({"tiers": [TWO_TIERS[0]]}, "the last tier must connect all 64 (got 8)"),
        ({"tiers": [TWO_TIERS[1] | {"kind": "nvlnk"}]}, "tiers.0.kind: unknown value 'nvlnk'; nearest: 'nvlink'"),
        ({"tiers": [TWO_TIERS[1] | {"latency": 1}]}, "tiers.0.latency: unknown key 'latency'; nearest: 'latency_s'"),
        ({"tiers": [TWO_TIERS[1] | {"latency_s": -1e-6}]}, "tiers.0.latency_s: must be zero or more"),
        ({"pue": 0.9}, "pue: must be 1 or more (got 0.9)"),
        ({"accelerators_per_node": 0}, "accelerators_per_node: "),
        ({"accelerators_per_node": 8.0}, "accelerators_per_node: "),
    ],
)
def test_wrong_clusters_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_cluster(CLUSTER | change)
    assert says in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(SpecError, match=r"^accelerator: hbm_bytes: key is missing; it is required$"):
        load_accelerator(without(TEN_NUMBERS, "hbm_bytes"))
    with pytest.raises(SpecError, match=r"^Tier: latency_s: key is missing"):
        Tier(name="t", link_byte_per_s=1e9)  # type: ignore[call-arg, arg-type]
    with pytest.raises(SpecError, match=r"^Cluster: pue: must be more than zero"):
        Cluster(**CLUSTER | {"pue": 0})


@pytest.mark.parametrize("count", [0, -8, 2.5, 8.0, math.nan, math.inf, True, "8", 10_000_001, 10**30, [8]])
def test_a_count_of_accelerators_is_a_whole_number(count: Any) -> None:
    with pytest.raises(SpecError, match="accelerators: must be a whole number from 1 to 10000000"):
        load_cluster("dgx-h100", accelerators=count)


def test_a_cluster_scales_and_finds_its_tier() -> None:
    cluster = load_cluster("dgx-h100", accelerators=1024)
    assert cluster.accelerators == 1024
    assert [cluster.tier_of(span).kind for span in (1, 8, 9, 1024)] == ["nvlink"] * 2 + ["infiniband"] * 2
    assert cluster.tier_of(8).in_network_reduction
    assert load_cluster(cluster, accelerators=16).accelerators == 16
    assert cluster.accelerator_usd_per_hour == cluster.accelerator.usd_per_hour
    assert load_cluster(CLUSTER | {"usd_per_hour": 1.25}).accelerator_usd_per_hour == 1.25
    small = load_cluster(CLUSTER | {"accelerators": 4, "tiers": [TWO_TIERS[0]]})
    with pytest.raises(PlanError, match=r"no tier connects so many ranks \(got 9\); at most 8"):
        small.tier_of(9)
    with pytest.raises(PlanError, match="must be 1 or more"):
        small.tier_of(0)


def test_any_number_of_tiers() -> None:
    rack = TWO_TIERS[0] | {"name": "rack", "domain_accelerators": 72}
    cluster = load_cluster(CLUSTER | {"tiers": [TWO_TIERS[0], rack, TWO_TIERS[1]]})
    assert [cluster.tier_of(span).name for span in (8, 9, 72, 73)] == ["inner", "rack", "rack", "outer"]


def test_a_missing_precision_names_those_there_are() -> None:
    with pytest.raises(PlanError, match=r"a100-sxm-80gb: unknown precision 'fp8'.*allowed: bf16, fp16"):
        load_accelerator("a100-sxm-80gb").peak("fp8")
    assert set(load_accelerator("h100-sxm").peak_flop_per_s) <= set(PRECISIONS)


# Files


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'id = "x"\nname = \n', r":2: not valid TOML: "),
        (b'id = "x"\nname = "trunc', r":2: not valid TOML: "),
        (b'id = "x"\nname = "\xff"\n', r":2: not UTF-8 text (byte 0xff at 17)"),
        (b"a = 1\na = 2\n", r":2: not valid TOML: "),
        (b"", "key is missing"),
    ],
)
def test_broken_files_name_path_and_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load_accelerator(path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)


def _toml_rest() -> list[str]:
    return [f"{key} = {value}" for key, value in TEN_NUMBERS.items() if key not in ("peak_flop_per_s", "tdp_w")]


def test_files_by_path(tmp_path: Path) -> None:
    card = tmp_path / "my-card.toml"
    card.write_text("\n".join(["tdp_w = 700", *_toml_rest(), "[peak_flop_per_s]", "bf16 = 1e15"]))
    assert load_accelerator(str(card)).id == "my-card"
    broken = tmp_path / "broken.toml"
    broken.write_text(card.read_text().replace("tdp_w = 700", "tdp_w = nan"))
    with pytest.raises(SpecError, match=r"broken.toml: tdp_w: must be finite \(got nan\)"):
        load_accelerator(broken)
    cluster = tmp_path / "my-cluster.json"
    cluster.write_text(json.dumps(CLUSTER | {"accelerator": "./my-card.toml"}))
    assert load_cluster(cluster, accelerators=8).accelerator.id == "my-card"
    cluster.write_text(json.dumps(CLUSTER | {"pue": math.nan}))
    with pytest.raises(SpecError, match=r"my-cluster.json: numbers must be finite \(got NaN\)"):
        load_cluster(cluster)
    cluster.write_text('{"id": 1,\n}')
    with pytest.raises(SpecError, match=r"my-cluster.json:2: not valid JSON"):
        load_cluster(cluster)
    cluster.write_text("[]")
    with pytest.raises(SpecError, match=r"must hold one JSON object \(got list\)"):
        load_cluster(cluster)
    for unreadable in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(SpecError, match="cannot be read: "):
            load_cluster(unreadable)


def test_unknown_ids_name_the_nearest() -> None:
    with pytest.raises(SpecError, match="unknown cluster 'DGX-H10'; nearest: 'dgx-h100'; allowed: "):
        load_cluster("DGX-H10")
    with pytest.raises(SpecError, match="unknown accelerator ''; allowed: "):
        load_accelerator("")
    with pytest.raises(SpecError, match=r"accelerator: must be an id, a path or a dict \(got int\)"):
        load_accelerator(3)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="unknown kind of description 'cluster'; nearest: 'clusters'"):
        registry.ids("cluster")


def test_an_installed_package_brings_its_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, file in {"accelerators": "my-card.toml", "models": "my-model/config.json"}.items():
        path = tmp_path.joinpath("perfmodel", "_data", *registry.KIND_FOLDERS[kind], file)
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(registry, "_PACKAGE", tmp_path / "perfmodel")
    assert registry.ids("accelerators") == ["my-card"]
    assert registry.ids("models") == ["my-model"]
    assert registry.path_of("models", "my-model").name == "config.json"
    assert registry.ids("clusters") == []


def test_schemas_can_be_printed() -> None:
    schema = json.dumps([Accelerator.model_json_schema(), Cluster.model_json_schema()])
    assert '"exclusiveMinimum": 0' in schema
    assert '"minimum": 0' in schema
