"""Quantities of a scenario that can be set, those of its hardware and of its load, and a new estimate for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from perfmodel.errors import PerfModelError, PlanError, unknown_name
from perfmodel.predict.layout import ParallelLayout
from perfmodel.predict.matmul import matmul_format
from perfmodel.predict.serving.estimate import estimate_serving
from perfmodel.predict.training import estimate_training
from perfmodel.specs.cluster import Cluster, load_cluster
from perfmodel.specs.huggingface import load_model, model_reference
from perfmodel.specs.quantity import Quantity

__all__ = [
    "COUNTS",
    "HARDWARE",
    "NUMBERS",
    "Question",
    "estimate_of",
    "names_of",
    "question_of",
    "resolved",
    "unit_of",
    "written",
]

HARDWARE = ("peak_flop_per_s", "hbm_byte_per_s", "hbm_bytes", "link_byte_per_s", "latency_s", "usd_per_hour")
COUNTS = ("concurrency", "global_batch", "seq_len", "prompt_tokens", "output_tokens")
NUMBERS = ("arrival_rate_per_s", "burstiness", "prefix_hit", "tokens")
_UNITS = {
    "peak_flop_per_s": "flop/s",
    "hbm_byte_per_s": "B/s",
    "hbm_bytes": "B",
    "link_byte_per_s": "B/s",
    "latency_s": "s",
    "usd_per_hour": "USD",
    "arrival_rate_per_s": "1/s",
}
Document = Mapping[str, Any]


def estimate_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The document of an estimate: of training where there is a global batch, else of serving."""
    price: Callable[..., Any] = estimate_training if "global_batch" in asked else estimate_serving
    document: dict[str, Any] = price(**asked).to_dict()
    return document


def unit_of(quantity: str) -> str:
    """The unit of a quantity by any of its names; "1" for a count."""
    last, first = quantity.replace(".", " ").split()[-1], quantity.split(".")[0]
    return _UNITS.get(last, _UNITS.get(first, "1"))


@dataclass
class Question:
    """A scenario whose quantity can be set: `estimate(x)` is its document there, None where it cannot run.

    `set(x)` gives the keywords with another value, `now` is the one that stands; `refused` says why one could not run.
    """

    quantity: str
    whole: bool
    now: float | None
    set: Callable[[float], dict[str, Any]]
    evaluations: int = 0
    refused: str = ""

    def estimate(self, x: float) -> Document | None:
        self.evaluations += 1
        try:
            return estimate_of(self.set(x))
        except PerfModelError as error:
            self.refused = self.refused or str(error)
            return None


def resolved(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of an estimate with model, cluster and layout loaded; raises `SpecError` and `PlanError`."""
    asked = dict(scenario)
    for key in ("model", "cluster", "layout"):
        if key not in asked:
            raise PlanError(f"scenario: {key}: missing; give the keywords of estimate_training or estimate_serving")
    cluster = load_cluster(asked["cluster"], accelerators=asked.pop("accelerators", None))
    asked |= {"model": load_model(asked["model"]), "cluster": cluster}
    if isinstance(asked["layout"], Mapping):
        asked["layout"] = ParallelLayout(**asked["layout"])
    return asked


def names_of(asked: Mapping[str, Any]) -> tuple[str, ...]:
    """The quantities of a `resolved` scenario that vary smoothly: those of the cluster and of the load given."""
    return (*_named(asked["cluster"]), *(name for name in NUMBERS if asked.get(name)))


def question_of(asked: dict[str, Any], quantity: str) -> tuple[Question, str]:
    """A `resolved` scenario as a question about one of its quantities, and that quantity's full name."""
    if quantity in COUNTS or quantity in NUMBERS:
        return _of_load(asked, quantity), quantity
    label, now, change = _of_hardware(asked, asked["cluster"], quantity)
    return Question(label, False, now, lambda x: asked | {"cluster": change(x)}), label


def _of_load(asked: dict[str, Any], quantity: str) -> Question:
    step = asked["layout"].dp * asked["layout"].micro_batch if quantity == "global_batch" else 1
    given = asked.get(quantity)
    if given is not None and (isinstance(given, bool) or not isinstance(given, (int, float))):
        raise PlanError(f"quantity: {quantity}: must be one number in the scenario (got {type(given).__name__})")
    whole = quantity in COUNTS

    def with_value(x: float) -> dict[str, Any]:
        return asked | {quantity: round(x / step) * step if whole else x}

    return Question(quantity, whole, None if given is None else float(given), with_value)


def _of_hardware(
    asked: dict[str, Any], cluster: Cluster, quantity: str
) -> tuple[str, float, Callable[[float], Cluster]]:
    """The full name of a quantity of the cluster, its value, and the cluster with another."""
    named = _named(cluster)
    if quantity in ("link_byte_per_s", "latency_s"):
        label = f"{cluster.tiers[0].name} {quantity}"
    elif quantity == "peak_flop_per_s":
        precision = asked.get("precision", "bf16") if "global_batch" in asked else asked.get("weights", "bf16")
        label = f"peak_flop_per_s.{matmul_format(precision).peak}"
    else:
        label = _of_tier(cluster, quantity) or quantity
    if label not in named:
        raise PlanError(unknown_name("quantity", quantity, [*named, *COUNTS, *NUMBERS], shown=30))
    return label, named[label], lambda x: _changed(cluster, label, x)


def _of_tier(cluster: Cluster, quantity: str) -> str | None:
    """The full name of `TIER.KEY`, as scenarios have it, or `TIER KEY`, as results; a tier by its name or its kind."""
    for separator in ".", " ":
        head, _, key = quantity.rpartition(separator)
        for tier in cluster.tiers:
            if key in ("link_byte_per_s", "latency_s") and head in (tier.name, tier.kind):
                return f"{tier.name} {key}"
    return None


def _named(cluster: Cluster) -> dict[str, float]:
    """Every quantity of a cluster that can be set, by its full name."""
    chip = cluster.accelerator
    named = {f"peak_flop_per_s.{dtype}": float(peak) for dtype, peak in chip.peak_flop_per_s.items()}
    named |= {key: float(getattr(chip, key)) for key in ("hbm_byte_per_s", "hbm_bytes")}
    named["usd_per_hour"] = float(cluster.accelerator_usd_per_hour)
    for tier in cluster.tiers:
        named |= {f"{tier.name} {key}": float(getattr(tier, key)) for key in ("link_byte_per_s", "latency_s")}
    return named


def _changed(cluster: Cluster, label: str, x: float) -> Cluster:
    value, chip = Quantity(x), cluster.accelerator
    if label == "usd_per_hour":
        return cluster.model_copy(update={"usd_per_hour": value})
    if label.startswith("peak_flop_per_s."):
        peaks = chip.peak_flop_per_s | {label.split(".", 1)[1]: value}
        return cluster.model_copy(update={"accelerator": chip.model_copy(update={"peak_flop_per_s": peaks})})
    if label == "hbm_bytes":
        reported = chip.reported_bytes and Quantity(chip.reported_bytes * x / chip.hbm_bytes)
        update = {"hbm_bytes": value, "reported_bytes": reported}
        return cluster.model_copy(update={"accelerator": chip.model_copy(update=update)})
    if label == "hbm_byte_per_s":
        return cluster.model_copy(update={"accelerator": chip.model_copy(update={label: value})})
    tier_name, key = label.rsplit(" ", 1)
    tiers = [tier.model_copy(update={key: value}) if tier.name == tier_name else tier for tier in cluster.tiers]
    return cluster.model_copy(update={"tiers": tuple(tiers)})


def written(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """The scenario as JSON: ids where they were given, records in full."""
    written: dict[str, Any] = {}
    for key, value in scenario.items():
        if key == "model" and not isinstance(value, (str, Mapping)):
            value = model_reference(value)
        written[key] = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    return written
