"""`perfmodel validate --power`: tables, published figures, and the POLCA row over a hundred seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from perfmodel._version import __version__
from perfmodel.formulas.power import time_at_clock
from perfmodel.plan.power import plan_power
from perfmodel.plan.power_pools import PoolMachine, mixed_rate, plan_phase_pools
from perfmodel.plan.power_task import DEFAULT_CLOCK_BOUND_SHARE, power_task
from perfmodel.predict.power import accelerator_watts, clock_under_cap, dynamic_ratio, server_power_of
from perfmodel.predict.records import Record
from perfmodel.predict.replay_power import replay_row
from perfmodel.predict.row_power import row_outcome
from perfmodel.specs.accelerator import load_accelerator
from perfmodel.specs.cluster import load_cluster
from perfmodel.specs.power import load_power_set
from perfmodel.specs.registry import data_version
from perfmodel.validation.power_scores import PowerScore, median_curve, power_scores
from perfmodel.validation.power_tables import power_figures, power_table
from perfmodel.validation.power_work import node_training_watts, pools_within_limits

__all__ = [
    "ADDED",
    "POLCA_LOAD",
    "POLCA_POLICY",
    "POLCA_ROW",
    "SEEDS",
    "PolcaSeeds",
    "PowerFigure",
    "PowerReport",
    "phase_pool_ratios",
    "polca_seeds",
    "run_power",
]  # fmt: skip

POLCA_ROW = {"servers": 40, "server": "dgx-a100-80gb", "provisioned_w": 40 * 6500.0}
POLCA_POLICY = {
    "thresholds": [0.80, 0.89],
    "frequencies_hz": {"low": [1275e6, 1110e6], "high": [1305e6]},
    "priorities": {"low": 0.5, "high": 0.5},
    "latencies_s": {"frequency": 40.0, "brake": 5.0},
}
"""Thresholds, clocks and latencies are published; the even split of the priorities is not, and is assumed."""
POLCA_LOAD = {"peak": 0.79, "rise": 0.118, "rise_s": 40.0, "days": 42.0}
SEEDS = range(100)
ADDED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
_DEVIATION_TOLD = 0.5
_REQUEST_TOKENS = 128


class PowerFigure(Record):
    """One published figure beside the model's; `reached` is None where nothing has to be reached."""

    name: str
    published: float | None
    model: float
    unit: str
    source: str
    reached: bool | None
    verdict: str


class PolcaSeeds(Record):
    """The POLCA row over many seeds: share of six-week histories without a brake, by share of servers added."""

    seeds: int
    added: tuple[float, ...]
    without_brake: tuple[float, ...]
    closed_form: tuple[float, ...]
    high_p50_worst: tuple[float, ...]
    high_p99_worst: tuple[float, ...]
    generated_peak: float
    generated_rise: float


class PowerReport(Record):
    """Scores, figures and seeds; `missed` names what had to be reached and was not."""

    document: str = "perfmodel/power-validation/1"
    perfmodel_version: str
    data_version: str
    request: dict[str, Any]
    scores: tuple[PowerScore, ...]
    figures: tuple[PowerFigure, ...]
    polca: PolcaSeeds
    missed: tuple[str, ...]


def run_power(seeds: Sequence[int] = SEEDS, days: float = 42.0) -> PowerReport:
    """Score everything; fewer seeds or days make a quicker look."""
    scores = tuple(power_scores())
    polca = polca_seeds(seeds, days)
    figures = tuple(_figures(polca))
    missed = [one.source for one in scores if one.limit is not None and one.mape > one.limit]
    missed += [one.name for one in figures if one.reached is False]
    return PowerReport(
        perfmodel_version=__version__,
        data_version=data_version(),
        request={"seeds": len(seeds), "days": days},
        scores=scores,
        figures=figures,
        polca=polca,
        missed=tuple(missed),
    )


def polca_seeds(seeds: Sequence[int] = SEEDS, days: float = 42.0) -> PolcaSeeds:
    """The row replayed for each seed with each number of added servers, beside the closed form."""
    task = power_task(POLCA_ROW, POLCA_POLICY, POLCA_LOAD | {"days": days}, None)
    policy, scales = task.policies[0], [1.0 + added for added in ADDED]
    load: Any = task.load
    replay = replay_row(load, policy, task.server, scales, seeds)
    years = days / 365.25
    rates = [row_outcome(load, scale, policy, task.server).brakes_per_year for scale in scales]
    return PolcaSeeds(
        seeds=len(seeds),
        added=ADDED,
        without_brake=tuple(map(float, replay.share_without_brake)),
        closed_form=tuple(math.exp(-rate * years) for rate in rates),
        high_p50_worst=tuple(map(float, replay.impact("high", 0.5).max(axis=0))),
        high_p99_worst=tuple(map(float, replay.impact("high", 0.99).max(axis=0))),
        generated_peak=float(replay.peak.mean()),
        generated_rise=float(replay.rise.mean()),
    )


def _figures(polca: PolcaSeeds) -> Iterable[PowerFigure]:
    plan = plan_power(POLCA_ROW, POLCA_POLICY, POLCA_LOAD)
    added = 0.0 if plan.decision is None else plan.decision.added_servers_fraction
    free = plan_power(POLCA_ROW, {"priorities": POLCA_POLICY["priorities"]}, POLCA_LOAD)
    at = polca.added.index(0.3)
    yield _figure("polca-added-servers", added, added >= 0.30 - 1e-9)
    yield _figure("polca-high-p50", polca.high_p50_worst[at], polca.high_p50_worst[at] < 0.01)
    fell = all(a >= b for a, b in zip(polca.without_brake, polca.without_brake[1:], strict=False))
    yield _own("polca: seeds without a brake fall with servers", float(fell), fell)
    yield _own("polca: seeds without a brake at +30 %", polca.without_brake[at], None)
    beyond = 0.0 if free.decision is None else free.decision.added_servers_fraction
    yield _own("polca: servers added with own thresholds and clocks", beyond, None)
    server = server_power_of(load_cluster("dgx-a100-80gb"))
    power = server.power
    # At its limit, as a prompt draws; what does not follow the clock stays.
    dynamic = 1.0 - float(power.static_w) / float(power.limit_w)
    saved = dynamic * (1.0 - float(dynamic_ratio(power, 1110 / 1410)))
    yield _figure("polca-peak-power-at-lower-clock", saved, None)
    yield _figure("polca-accelerator-share", server.accelerator_share, None)
    yield from _cap_figures()
    yield from _splitwise_figures()
    yield _figure("splitwise-token-phase-h100", _token_phase_w(), None)
    yield _figure("latif-h100-node-training", node_training_watts(), None)


def _token_phase_w(model_params: float = 69e9) -> float:
    """An H100 that answers one request of Llama 2 70B over eight, at the measured seconds a token."""
    table = power_table("splitwise")
    rows = table[(table["model"] == "llama2-70b") & (table["hardware"] == "h100-80gb") & (table["tp"] == 8)]
    token_s = float(rows[(rows["batch"] == 1) & (rows["prompt_tokens"] == 512)]["token_s"][0])
    read = 2.0 * model_params / 8 / token_s / float(load_accelerator("h100-sxm").hbm_byte_per_s)
    return float(accelerator_watts(load_power_set("h100-sxm"), memory_share=read))


def _cap_figures() -> Iterable[PowerFigure]:
    for gpu in ("v100", "a40"):
        curve = median_curve(gpu)
        at = int(np.flatnonzero(curve["limit_w"] == 175)[0])
        slowed = float(curve["predicted_time"][at]) - 1.0
        yield _figure(f"zeus-{gpu}-175w-time", slowed, None, "one network waits for memory, docs/power.md")
        yield _figure(f"zeus-{gpu}-175w-energy", float(curve["predicted_energy"][at]) - 1.0, None)
        ours, theirs = (float(curve["limit_w"][int(np.argmin(curve[key]))]) for key in ("predicted_energy", "energy"))
        curved = bool(curve["limit_w"][0] < ours < curve["limit_w"][-1])
        yield PowerFigure(
            name=f"zeus-{gpu}: limit of least energy", published=theirs, model=ours, unit="W, median of jobs",
            source="You et al. 2023, Zeus, trace summaries (arXiv:2208.06102)", reached=curved,
            verdict="U-shaped" if curved else "missed: not U-shaped",
        )  # fmt: skip
    # Inference that draws the whole of its cap; of its time the same share follows the clock as in the POLCA row.
    clock = float(clock_under_cap(load_power_set("v100-pcie"), 175.0, 250.0))
    slowed = float(time_at_clock(1.0, DEFAULT_CLOCK_BOUND_SHARE, clock))
    yield _figure("words-to-watts-time", slowed - 1.0, None)
    yield _figure("words-to-watts-energy", 175.0 / 250.0 * slowed - 1.0, None)


def _splitwise_figures() -> Iterable[PowerFigure]:
    yield _figure("splitwise-iso-power-a100", 40 * 700 / 400, None)
    ratios = phase_pool_ratios()
    yield _figure("splitwise-iso-power-throughput", ratios["iso-power"], None, "rates alone, no latency limits")
    yield _figure("splitwise-cheaper-throughput", ratios["80 % of the cost"], None)
    limited = pools_within_limits()
    yield _figure("splitwise-iso-power-within-limits", limited["iso-power"], None)
    yield _figure("splitwise-cheaper-within-limits", limited["80 % of the cost"], None)
    yield _figure("splitwise-ha-within-limits", limited["H100 for prompts, A100 for tokens"], None)


def phase_pool_ratios(model: str = "llama2-70b", prompt_tokens: int = 512) -> dict[str, float]:
    """Requests of split pools over those of 40 mixed DGX-H100, from measured times alone: no latency limit, no waiting.

    Splitwise's 2.35 and 1.4 hold under latency limits, which its mixed baseline meets only with small batches; rates
    alone cannot show that.
    """
    facts = {"a100-80gb": (6500.0 / 8, 1.0), "h100-80gb": (10200.0 / 8, 2.16)}  # W and relative price of a GPU's share
    machines = {name: _machine(name, model, prompt_tokens, *fact) for name, fact in facts.items()}
    watts, usd = 40 * 8 * facts["h100-80gb"][0], 40 * 8 * facts["h100-80gb"][1]
    base = mixed_rate(machines["h100-80gb"], watts=watts)
    same = plan_phase_pools(machines, watts=watts, usd_per_hour=usd)
    cheap = plan_phase_pools(machines, usd_per_hour=0.8 * usd)
    return {
        "iso-power": 0.0 if same is None else same.requests_per_s / base,
        "80 % of the cost": 0.0 if cheap is None else cheap.requests_per_s / base,
    }


def _machine(hardware: str, model: str, prompt_tokens: int, watts: float, usd: float) -> PoolMachine:
    table = power_table("splitwise")
    rows = table[(table["model"] == model) & (table["hardware"] == hardware) & (table["tp"] == 8)]
    rows = rows[(rows["prompt_tokens"] == prompt_tokens) & (rows["output_tokens"] == _REQUEST_TOKENS)]
    one, many = rows[rows["batch"] == 1][0], rows[np.argmax(rows["batch"])]
    tokens_per_s = many["batch"] / many["token_s"]
    return PoolMachine(
        hardware, 1.0 / float(one["prompt_s"]), float(tokens_per_s) / _REQUEST_TOKENS, 8 * watts, 8 * usd
    )


def _figure(id: str, model: float, reached: bool | None, told: str = "not explained") -> PowerFigure:
    """A published figure beside the model's; `told` is what a large deviation comes from."""
    given = power_figures()[id]
    published = float(given["value"])
    if reached is None:
        off = model / published - 1.0
        verdict = f"{100 * off:+.0f} %" + (f": {told}" if abs(off) > _DEVIATION_TOLD else "")
    else:
        verdict = "reached" if reached else "missed"
    return PowerFigure(
        name=id, published=published, model=model, unit=given["unit"], source=given["source"], reached=reached,
        verdict=verdict,
    )  # fmt: skip


def _own(name: str, model: float, reached: bool | None) -> PowerFigure:
    verdict = "" if reached is None else "reached" if reached else "missed"
    source = "perfmodel, no published figure"
    return PowerFigure(
        name=name, published=None, model=model, unit="1", source=source, reached=reached, verdict=verdict
    )
