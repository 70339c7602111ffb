"""Figures: every one that a document has, what they draw, and what they refuse."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cli_words import Outcome
from result_documents import KINDS, result

import perfmodel as pm
from perfmodel.errors import MissingExtraError, PlanError, SpecError
from perfmodel.report import figure
from perfmodel.report.documents import read_document
from perfmodel.report.gallery import completed, pictures_of
from perfmodel.report.schedules import idle_share, replay
from perfmodel.report.style import BOUND_BY, FILLS, FORMATS, written

Cli = Callable[..., Outcome]
STEP = {"waterfall", "memory_bars", "roofline", "pipeline_timeline", "tornado"}
SERVER = {"waterfall", "memory_bars", "roofline", "percentiles", "load_curve"}
EXPECTED = {
    "training-plan": {"waterfall", "memory_bars", "roofline", "tornado", "pareto"},
    "nothing-feasible": set(),
    "training-estimate": STEP,
    "memory-estimate": {"memory_bars"},
    "elasticities": {"tornado"},
    "serving-estimate": SERVER,
    "serving-plan": SERVER | {"frontier", "hourly_replicas", "pareto"},
    "disaggregated-plan": {"waterfall", "frontier"},
    "disaggregated-estimate": {"waterfall"},
    "experts-plan": {"expert_balance"},
    "speculation-estimate": {"waterfall"},
    "serving-elasticities": {"tornado"},
    "clocks-plan": set(),
    "pools-plan": set(),
    "rows-plan": set(),
    "power-plan": {"load_duration", "tornado"},
    "test-time-plan": {"budget_curve", "tornado"},
    "training-budget-plan": {"spending"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_of_every_document_is_drawn(kind: str) -> None:
    document = completed(read_document(result(kind)))
    pictures = pictures_of(document)
    assert set(pictures) == EXPECTED[kind]
    for one in pictures.values():
        assert one.draw(document).axes
        assert one.title
        assert one.caption


def test_a_record_and_its_document_give_the_same_bytes() -> None:
    for name in ("waterfall", "pipeline_timeline"):
        first = written(figure(result("training-estimate"), name), "svg")
        assert first == written(figure(json.loads(result("training-estimate").to_json()), name), "svg")
        assert b"<dc:date>" not in first


def test_every_public_figure_belongs_to_some_document() -> None:
    assert set().union(*EXPECTED.values()) == set(pm.figures.__all__)


def test_waterfall_draws_the_terms_one_after_the_other() -> None:
    estimate = result("training-estimate")
    axes = pm.figures.waterfall(estimate).axes[0]
    *parts, whole = [bar for bar in axes.patches if bar.get_height() == pytest.approx(0.72)]
    assert sum(bar.get_width() for bar in parts) == pytest.approx(estimate.step_time_s, rel=1e-12)
    assert whole.get_width() == pytest.approx(estimate.step_time_s, rel=1e-12)
    for before, after in pairwise(parts):
        assert after.get_x() == pytest.approx(before.get_x() + before.get_width(), rel=1e-9)


def test_memory_bars_end_at_the_total() -> None:
    held = result("training-estimate").to_dict()["memory_bytes"]
    bars = pm.figures.memory_bars(result("training-estimate")).axes[0].patches
    assert max(bar.get_x() + bar.get_width() for bar in bars) == pytest.approx(held["total"] / 1e9, rel=1e-9)


@pytest.mark.parametrize("kind", ["training-estimate", "serving-estimate"])
def test_no_operation_stands_above_the_roof(kind: str) -> None:
    from perfmodel.report.repriced import operations_of

    roof = operations_of(result(kind).to_dict())
    assert len(roof.operations) >= 5
    for one in roof.operations:
        assert one.flop_per_s <= min(roof.peak_flop_per_s, one.intensity * roof.hbm_byte_per_s) * (1 + 1e-9)


@pytest.mark.parametrize(("pp", "n_microbatches", "vpp"), [(2, 4, 2), (4, 8, 2), (4, 8, 4)])
def test_timelines_idle_as_the_formulas_say(pp: int, n_microbatches: int, vpp: int) -> None:
    forward_s, inputs_s, weights_s = 1.0, 1.0, 1.0
    whole = forward_s + inputs_s + weights_s
    for schedule, chunks in (("gpipe", 1), ("1f1b", 1), ("interleaved", vpp)):
        passes = replay(schedule, pp, n_microbatches, forward_s, inputs_s, weights_s, vpp)
        bubble = (pp - 1) * whole / chunks
        assert idle_share(passes, pp) == pytest.approx(bubble / (bubble + n_microbatches * whole), rel=1e-9)
        assert len(passes) == 2 * pp * n_microbatches * chunks


def test_fills_differ_without_colour() -> None:
    """In grey no two fills of a figure have both the same hatching and like brightness."""
    from matplotlib.colors import to_rgb

    seen = [(fill["hatch"], sum(to_rgb(fill["facecolor"])) / 3) for fill in FILLS]
    for index, (hatch, grey) in enumerate(seen):
        for other_hatch, other_grey in seen[index + 1 :]:
            assert hatch != other_hatch or abs(grey - other_grey) > 0.2
    assert set(BOUND_BY) == {"compute", "memory", "link", "latency", "host", "dependency"}


def test_another_version_of_the_prices_is_refused() -> None:
    document = result("training-estimate").to_dict()
    document["step_time_s"] *= 1.01
    with pytest.raises(PlanError, match=r"step_time_s: this version answers .* make the document again"):
        pm.figures.roofline(document)


def test_refusals_name_what_there_is() -> None:
    with pytest.raises(PlanError, match=r"no roofline in a power plan; this document has load_duration, tornado"):
        figure(result("power-plan"), "roofline")
    with pytest.raises(PlanError, match="unknown figure 'waterfal'; nearest: 'waterfall'"):
        figure(result("training-estimate"), "waterfal")
    with pytest.raises(PlanError, match="which one; this document has load_duration, tornado"):
        figure(result("power-plan"))
    with pytest.raises(PlanError, match="pipeline_timeline: the layout has no pipeline"):
        pm.figures.pipeline_timeline(result("training-plan"))
    with pytest.raises(SpecError, match="document: missing"):
        figure({"request": {}}, "waterfall")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="pip install matplotlib"):
        pm.figures.waterfall(result("training-estimate"))


def test_plot_command(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(result("training-estimate").to_json())
    heads = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    for form in FORMATS:
        file = tmp_path / f"figure.{form}"
        assert cli("plot", str(plan), "--figure", "waterfall", "-o", str(file)) == (0, "", f"perfmodel: wrote {file}\n")
        assert file.read_bytes().startswith(heads[form])
    outcome = cli("plot", str(plan), "--figure", "waterfall", "-o", "figure.gif")
    assert outcome.code == 2
    assert "must end in .svg, .png, .pdf" in outcome.err
    outcome = cli("plot", str(plan), "-o", str(tmp_path / "a.svg"))
    assert outcome.code == 2
    assert "this document has waterfall, memory_bars, roofline, pipeline_timeline, tornado" in outcome.err
    outcome = cli("plot", str(plan), "--figure", "waterfall", "-o", str(tmp_path / "none" / "a.svg"))
    assert outcome.code == 2
    assert "cannot be written: No such file or directory" in outcome.err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = cli("plot", str(plan), "--figure", "waterfall", "-o", str(tmp_path / "a.svg"))
    assert outcome.code == 3
    assert len(outcome.err.splitlines()) == 1


def test_a_power_plan_draws_the_same_figure(cli: Cli, tmp_path: Path) -> None:
    words = ["plan", "power", "--servers", "40", "--server", "dgx-a100-80gb", "--provisioned-w", "260e3",
             "--thresholds", "0.8,0.89", "--frequencies-hz", "low=1275e6/1110e6,high=1305e6", "--priorities",
             "low=0.5,high=0.5", "--peak", "0.79", "--rise", "0.118"]  # fmt: skip
    one, other, plan = (str(tmp_path / name) for name in ("one.svg", "other.svg", "plan.json"))
    assert cli(*words, "--plot", one, "-o", plan).code == 0
    assert cli("plot", plan, "--figure", "load_duration", "-o", other).code == 0
    assert Path(one).read_bytes() == Path(other).read_bytes()
    outcome: Any = cli(*words, "--plot", "row.xyz")
    assert (outcome.code, "--plot row.xyz: must end in" in outcome.err) == (2, True)


def test_the_guide_lists_every_figure() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "reports.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", guide, flags=re.M)) == set(pm.figures.__all__)
