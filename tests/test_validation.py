"""Validation: whole sources have one role, scores are what a hand computes, tolerances only ever fall in silence."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import perfmodel.validation as validation
from perfmodel.errors import PlanError, SpecError
from perfmodel.formulas.transformer import model_flops_korthikanti2022, training_flops_sc21
from perfmodel.specs.huggingface import load_model
from perfmodel.specs.registry import read_toml
from perfmodel.validation import runner, score
from perfmodel.validation.predictions import Prediction
from perfmodel.validation.records import Refusal, ValidationReport
from perfmodel.validation.runner import failures_of, score_source
from perfmodel.validation.scoreboard import BEGIN, END, scoreboard_markdown, write_scoreboard
from perfmodel.validation.sources import PUBLISHED, Row, Source, load_sources, measured
from perfmodel.validation.tolerances import Tolerance, load_tolerances, record

README = Path(__file__).parents[1] / "README.md"
GIVEN = {
    "megatron-sc21": 10,
    "korthikanti-2022-table5": 9,
    "korthikanti-2022-layer": 10,
    "korthikanti-2022-figure7": 16,
    "llama-3-table4": 3,
    "llm-foundry-a100": 61,
    "llm-foundry-h100": 70,
    "megatron-bridge-dense": 39,
    "megatron-bridge-moe": 46,
    "vtrain-single-node": 36,
    "zero-bubble-step": 24,
    "zero-bubble-memory": 8,
    "zero-bubble-split-step": 24,
    "zero-bubble-split-memory": 8,
    "zero-bubble-v-step": 36,
    "zero-bubble-v-memory": 14,
    "simumax-step": 24,
    "simumax-memory": 12,
    "nanotron-step": 9,
    "nanotron-memory": 9,
}


@pytest.fixture(scope="module")
def report() -> ValidationReport:
    return validation.run()


# Published tables


def test_every_source_has_one_role_decided_before_fitting() -> None:
    sources = load_sources()
    assert {id: len(source.rows) for id, source in sources.items()} == GIVEN
    roles = {id: source.role for id, source in sources.items()}
    assert [id for id, role in roles.items() if role == "calibrate"] == ["korthikanti-2022-layer"]
    for source in sources.values():
        assert source.reason
        assert source.definition
        assert source.read
        assert source.decided
        assert bool(source.free_constants) == (source.role == "calibrate" or bool(source.calibrate_rows))


def test_every_row_names_a_publication_and_keeps_the_printed_digits() -> None:
    for source in load_sources().values():
        for row in source.rows:
            assert row.source.removeprefix("arXiv:").split("@")[0] in source.url
            assert row.accelerators == row.tp * row.pp * row.dp * row.cp
            assert math.isclose(float(f"{row.value:.{row.digits}g}"), row.value, rel_tol=1e-12, abs_tol=0)


def test_a_table_without_a_role_is_refused(tmp_path: Path) -> None:
    shutil.copytree(PUBLISHED / "training", tmp_path / "training")
    shutil.copy(PUBLISHED / "roles.toml", tmp_path)
    shutil.copy(tmp_path / "training" / "megatron-sc21.csv", tmp_path / "training" / "stray.csv")
    with pytest.raises(SpecError, match="stray: needs both a table"):
        load_sources(folder=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("megatron-1.7b,dgx-a100-80gb,32", "megatron-1.7b,dgx-a100-80gb,0", "megatron-sc21.csv:2: accelerators"),
        (",137,TFLOP/s", ",nan,TFLOP/s", "megatron-sc21.csv:2: value"),
        (",137,TFLOP/s", ",137,furlong", "megatron-sc21.csv:2: unit"),
        ("Table 1, 3.6B", "Table 1, 1.7B", "two rows stand at the same place"),
        ("hardware_flop_per_s_per_accelerator,137", "step_time,137", "against flops"),
    ],
)
def test_a_broken_table_says_where(tmp_path: Path, old: str, new: str, message: str) -> None:
    shutil.copytree(PUBLISHED / "training", tmp_path / "training")
    shutil.copy(PUBLISHED / "roles.toml", tmp_path)
    table = tmp_path / "training" / "megatron-sc21.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(SpecError, match=message):
        load_sources(["megatron-sc21"], folder=tmp_path)


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(PlanError, match="nearest: 'megatron-sc21'"):
        validation.run("megatron-sc22")


def test_printed_rates_become_times_by_their_own_definition() -> None:
    sources = load_sources()
    row = sources["megatron-sc21"].rows[0]
    # 96 B s l h^2 (1 + s/6h + V/16lh) over 32 x 137 TFLOP/s.
    flops = 96 * 512 * 2048 * 24 * 2304**2 * (1 + 2048 / (6 * 2304) + 51200 / (16 * 24 * 2304))
    by_hand = flops / (32 * 137e12)
    assert measured(row, sources["megatron-sc21"], load_model(row.model)) == pytest.approx(by_hand, rel=1e-12, abs=0)
    assert training_flops_sc21(512, 2048, 24, 2304, 51200) == pytest.approx(flops, rel=1e-12, abs=0)

    llama = sources["llama-3-table4"]
    seconds = measured(llama.rows[0], llama, load_model("llama-3.1-405b"))
    # 6 N D with N = 403.7e9 multiplied parameters, and 8 % more for full attention at 8192 tokens.
    assert seconds == pytest.approx(6 * 403.7e9 * 2048 * 8192 * 1.0836 / (8192 * 430e12), rel=2e-3, abs=0)


def test_printed_mfu_of_korthikanti_agrees_with_its_times() -> None:
    # Table 5 prints both: 41.5, 51.4, 56.0 and 56.3 % of 312 TFLOP/s, to three digits.
    rows = [row for row in load_sources()["korthikanti-2022-table5"].rows if row.dp == 1 and row.sequence_parallel]
    for row, mfu in zip(rows, (0.415, 0.514, 0.560, 0.563), strict=True):
        model = load_model(row.model)
        sizes = (row.global_batch, row.seq_len, model.n_layers, model.d_model, model.vocab_padded)
        rate = model_flops_korthikanti2022(*sizes) / row.value / row.accelerators
        assert rate / 312e12 == pytest.approx(mfu, abs=2e-3, rel=0)


# Scores against hand-computed numbers


def test_error_scores() -> None:
    predicted, truth = [1.1, 1.8, 4.0], [1.0, 2.0, 4.0]
    assert score.relative_errors(predicted, truth) == pytest.approx([0.1, -0.1, 0.0], abs=1e-12)
    assert score.mape(predicted, truth) == pytest.approx(0.2 / 3, rel=1e-12, abs=0)
    assert score.bias(predicted, truth) == pytest.approx(0.0, abs=1e-12)
    assert score.median_abs_log(predicted, truth) == pytest.approx(math.log(1.1), rel=1e-12, abs=0)
    by_hand = math.sqrt((math.log(1.1) ** 2 + math.log(0.9) ** 2) / 3)
    assert score.rms_log(predicted, truth) == pytest.approx(by_hand, rel=1e-12, abs=0)
    with pytest.raises(ValueError, match="argument 2"):
        score.mape([1.0], [1.0, 2.0])


def test_rank_correlation() -> None:
    assert score.spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0, rel=1e-12, abs=0)
    assert score.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0, rel=1e-12, abs=0)
    assert score.spearman([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5, rel=1e-12, abs=0)
    # Ties take their mean rank: (1.5, 1.5, 3) against (1, 2, 3).
    assert score.spearman([5, 5, 9], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(3), rel=1e-12, abs=0)
    assert score.spearman([1, 2], [1, 2]) is None
    assert score.spearman([1, 1, 1], [1, 2, 3]) is None


def test_the_best_constant_is_a_minimum() -> None:
    shape, truth = [1.0, 2.0, 3.0, 5.0], [2.2, 3.9, 6.3, 9.0]
    best = score.best_constant(shape, truth)
    least = score.mape([best * s for s in shape], truth)
    for step in range(100, 300):
        assert score.mape([step / 100 * s for s in shape], truth) >= least - 1e-12


def test_interval_scores() -> None:
    intervals, truth = [(0.9, 1.1), (1.8, 2.2), (2.0, 3.0)], [1.0, 2.4, 4.0]
    assert score.coverage(intervals, truth) == pytest.approx(1 / 3, rel=1e-12, abs=0)
    assert score.median_relative_width(intervals, truth) == pytest.approx(0.2, rel=1e-9, abs=0)
    # Width plus ten times the miss (80 %), over the measurement.
    by_hand = (0.2 / 1.0 + (0.4 + 10 * 0.2) / 2.4 + (1.0 + 10 * 1.0) / 4.0) / 3
    assert score.interval_score(intervals, truth, 0.8) == pytest.approx(by_hand, rel=1e-9, abs=0)


def test_regret_and_rank_inside_groups() -> None:
    # First group: the second layout is chosen (2 < 3 < 4), which ran 12 s where the best ran 10: 20 %. Second: right.
    groups = [([3.0, 2.0, 4.0], [10.0, 12.0, 20.0]), ([1.0, 5.0], [7.0, 9.0])]
    assert score.mean_regret(groups) == pytest.approx(0.1, rel=1e-12, abs=0)
    # Ranks around their middle: (0, -1, 1) with (-1, 0, 1), and (-.5, .5) with itself: (1 + .5) / (2 + .5).
    assert score.rank_correlation_inside(groups) == pytest.approx(0.6, rel=1e-12, abs=0)
    # Between groups nothing is compared, however far apart they lie.
    apart = [([1.0, 2.0], [1.0, 2.0]), ([0.1, 0.2], [100.0, 200.0])]
    assert score.rank_correlation_inside(apart) == pytest.approx(1.0, rel=1e-12, abs=0)
    assert score.rank_correlation_inside([([1.0, 1.0], [1.0, 2.0])]) is None


# Rows of one source, priced by a stand-in that returns what a test writes down


PRICES = {1: 0.50, 2: 0.45, 4: 0.44}  # predicted seconds by tensor degree


def toy(rows: list[Row], **facts: object) -> Source:
    source = load_sources(["vtrain-single-node"])["vtrain-single-node"]
    return source.model_copy(update={"id": "toy", "rows": tuple(rows), "others": (), **facts})


def toy_row(tp: int, value_ms: float, *, group: str = "g", calibrates: bool = False) -> Row:
    row = load_sources(["vtrain-single-node"])["vtrain-single-node"].rows[0]
    degrees = {"tp": tp, "dp": 8 // tp, "value": value_ms, "where": f"tp {tp} {group}"}
    return row.model_copy(update=degrees | {"group": group, "calibrates": calibrates})


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(row: Row, source_id: str) -> Prediction:
        if row.metric == "peak_memory":
            return Prediction(PRICES[row.tp] * 1e9)
        seconds = PRICES[row.tp]
        return Prediction(seconds, interval=(0.9 * seconds, 1.2 * seconds), fits=row.tp > 1, peak_s=0.2)

    monkeypatch.setattr(runner, "predict", stand_in)


@pytest.mark.usefixtures("priced")
def test_rows_that_calibrate_never_make_a_headline() -> None:
    rows = [toy_row(1, 500.0, calibrates=True), toy_row(2, 500.0), toy_row(4, 400.0)]
    one = score_source(toy(rows))
    assert (one.given, one.scored, one.predicted) == (3, 2, 3)
    assert one.headline == pytest.approx(0.1, rel=1e-12, abs=0)
    assert one.bias == pytest.approx(0.0, abs=1e-12)
    assert one.calibrated is not None
    assert (one.calibrated.rows, one.calibrated.constants) == (1, 1)
    assert one.calibrated.headline == pytest.approx(0.0, abs=1e-12)
    # A wild calibrating row moves nothing but its own figure.
    wild = score_source(toy([toy_row(1, 5.0, calibrates=True), *rows[1:]]))
    kept = ("headline", "bias", "max_error", "median_abs_log", "baselines", "interval", "layout_choice")
    assert all(getattr(wild, name) == getattr(one, name) for name in kept)
    assert wild.calibrated is not None
    assert wild.calibrated.headline == pytest.approx(99.0, rel=1e-12, abs=0)
    # The row that ran although it is predicted not to fit is counted.
    assert (one.fitting, one.predicted) == (2, 3)


@pytest.mark.usefixtures("priced")
def test_layout_choice_compares_inside_groups_only() -> None:
    # Chosen: tp 4 (.44 s), which ran .46 s where tp 2 ran .40 s; the lone row of the other group is no choice.
    rows = [toy_row(1, 600.0), toy_row(2, 400.0), toy_row(4, 460.0), toy_row(4, 9.0, group="other")]
    choice = score_source(toy(rows)).layout_choice
    assert choice is not None
    assert (choice.groups, choice.rows) == (1, 3)
    assert choice.mean_regret == pytest.approx(0.15, rel=1e-12, abs=0)
    # Predicted ranks (3, 2, 1), measured (3, 1, 2).
    assert choice.rank_correlation == pytest.approx(0.5, rel=1e-12, abs=0)
    assert score_source(toy(rows[2:])).layout_choice is None


@pytest.mark.usefixtures("priced")
def test_memory_scores_beside_16_bytes_a_parameter() -> None:
    memory = {"metric": "peak_memory", "unit": "GB"}
    values = {1: 1.0, 2: 0.5, 4: 0.4}
    rows = [toy_row(tp, value).model_copy(update=memory) for tp, value in values.items()]
    one = score_source(toy(rows, quantity="peak memory"))
    assert one.headline == pytest.approx((0.5 + 0.1 + 0.1) / 3, rel=1e-12, abs=0)
    assert one.worst is not None
    assert one.worst.error == pytest.approx(-0.5, rel=1e-12, abs=0)
    assert (one.baselines, one.interval, one.fitting) == (None, None, None)
    n = load_model("vtrain-355m").n_params
    by_hand = sum(abs(16 * n / tp / (value * 1e9) - 1) for tp, value in values.items()) / 3
    assert one.memory_baselines is not None
    assert one.memory_baselines.states_mape == pytest.approx(by_hand, rel=1e-9, abs=0)
    # 1 / tp fits the first two rows exactly; the third holds 1.6 times that.
    assert one.memory_baselines.fitted_bytes_per_param == pytest.approx(1e9 / n, rel=1e-9, abs=0)
    assert one.memory_baselines.fitted_mape == pytest.approx((1 - 1 / 1.6) / 3, rel=1e-9, abs=0)


# The report


def test_the_report_scores_every_source(report: ValidationReport) -> None:
    assert report.document == "perfmodel/validation/1"
    assert list(json.loads(report.to_json()))[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert {id: one.given for id, one in report.sources.items()} == GIVEN
    for one in report.sources.values():
        fixed = one.calibrated.rows if one.calibrated else 0
        assert one.scored + fixed + len(one.refused) == one.given
        assert not one.refused
        assert one.headline is not None
        counted = [row for row in one.rows if not row.calibrates]
        assert len(counted) == one.scored
        assert one.headline == pytest.approx(sum(abs(row.error) for row in counted) / one.scored, rel=1e-12, abs=0)
        assert (one.baselines is not None) == (one.quantity == "step time")
        assert (one.memory_baselines is not None) == (one.quantity == "peak memory")


def test_the_summary_is_over_sources(report: ValidationReport) -> None:
    scored = [one.interval for one in report.sources.values() if one.interval]
    summary, pool = report.summary, report.pooled["llm-foundry"]
    assert summary.intervals == len(scored) == 13
    assert summary.mean_coverage == pytest.approx(sum(one.coverage for one in scored) / 13, rel=1e-12, abs=0)
    assert 0.7 <= (summary.mean_coverage or 0.0) <= 0.9
    assert summary.compared == 18
    assert (pool.given, pool.scored) == (131, 124)
    parts = [report.sources[id] for id in pool.sources]
    assert pool.headline == pytest.approx(
        sum((one.headline or 0) * one.scored for one in parts) / 124, rel=1e-12, abs=0
    )


def test_a_source_stands_beside_its_score_without_its_own_rows(report: ValidationReport) -> None:
    for id in ("llm-foundry-a100", "llm-foundry-h100", "megatron-bridge-dense"):
        left = report.sources[id].without_it
        assert left is not None
        assert id not in left.fitted_on
    assert report.sources["megatron-sc21"].without_it is None


def test_nothing_is_over_tolerance(report: ValidationReport) -> None:
    assert report.failures == ()
    assert not report.over_tolerance
    assert set(load_tolerances()) == set(GIVEN)


def test_activation_percentages_are_within_a_point(report: ValidationReport) -> None:
    assert (report.sources["korthikanti-2022-figure7"].max_error or 1.0) < 0.01


def test_baselines_equal_the_known_ones(report: ValidationReport) -> None:
    # Constant hardware utilisation of 0.5 scores 8.3 % on SC21, the best constant 5.85 %: computed independently.
    baselines = report.sources["megatron-sc21"].baselines
    assert baselines is not None
    assert baselines.constant_hfu_mape == pytest.approx(0.083, abs=0.001, rel=0)
    assert baselines.fitted_hfu_mape == pytest.approx(0.0585, abs=0.0005, rel=0)


def test_rows_can_be_left_out() -> None:
    brief = validation.run("korthikanti-2022-figure7", rows=False)
    assert brief.sources["korthikanti-2022-figure7"].rows == ()
    assert brief.sources["korthikanti-2022-figure7"].scored == 16


def test_layer_times_are_the_ten_of_table_4(report: ValidationReport) -> None:
    times = validation.layer_times(validation.layer_steps("megatron-2022"))
    assert len(times) == 10
    assert times["selective", True, "forward"] == times["none", True, "forward"]
    repeated = times["full", False, "backward"] - times["none", False, "backward"]
    assert repeated == pytest.approx(times["full", False, "forward"], rel=1e-12, abs=0)
    assert sorted(times.values()) == sorted(row.predicted for row in report.sources["korthikanti-2022-layer"].rows)


# Tolerances


def test_over_tolerance_and_refusals_are_flagged() -> None:
    source = load_sources(["korthikanti-2022-figure7"])["korthikanti-2022-figure7"]
    good = score_source(source, Tolerance(landed_percent=1.0, tolerance_percent=1.5))
    assert failures_of(source.id, good) == []
    over = score_source(source, Tolerance(landed_percent=0.0, tolerance_percent=0.0001))
    assert over.over_tolerance
    assert "over the tolerance" in failures_of(source.id, over)[0]
    refused = good.model_copy(update={"refused": (Refusal(where="one", reason="declined"),)})
    assert "1 of 16 rows refused, first one: declined" in failures_of(source.id, refused)[0]


def test_a_row_that_cannot_be_priced_is_refused_with_its_reason() -> None:
    source = load_sources(["megatron-sc21"])["megatron-sc21"]
    broken = source.rows[0].model_copy(update={"micro_batch": 7})
    scored = score_source(source.model_copy(update={"rows": (broken,)}))
    assert (scored.given, scored.scored, scored.headline) == (1, 0, None)
    assert "global_batch: 512 must be a multiple" in scored.refused[0].reason


def landing(report: ValidationReport, folder: Path, headline: float, because: str | None = None) -> Tolerance:
    """Land `headline` for SC21, the rest as reported; the tolerance that follows."""
    one = report.sources["megatron-sc21"].model_copy(update={"headline": headline})
    changed = report.model_copy(update={"sources": report.sources | {"megatron-sc21": one}})
    files = {"tolerances": folder / "tolerances.toml", "residuals": folder / "residuals.toml"}
    record(changed, because=because, **files)
    return load_tolerances(files["tolerances"])["megatron-sc21"]


def test_tolerances_fall_in_silence_and_rise_with_a_reason(report: ValidationReport, tmp_path: Path) -> None:
    assert landing(report, tmp_path, 0.04).tolerance_percent == pytest.approx(4.5, rel=1e-12, abs=0)
    assert landing(report, tmp_path, 0.03).tolerance_percent == pytest.approx(3.5, rel=1e-12, abs=0)
    # Worse, but within what was landed: the figure is written down and the limit stays.
    later = landing(report, tmp_path, 0.034)
    assert (later.landed_percent, later.tolerance_percent) == (3.4, 3.5)
    before = (tmp_path / "tolerances.toml").read_bytes()
    with pytest.raises(PlanError, match=r"megatron-sc21: 3.60 % is over the tolerance of 3.50 %"):
        landing(report, tmp_path, 0.036)
    assert (tmp_path / "tolerances.toml").read_bytes() == before
    raised = landing(report, tmp_path, 0.036, because='host "launch" time\nof two kernels')
    assert raised == Tolerance(
        landed_percent=3.6, tolerance_percent=4.1, raised_because='host "launch" time of two kernels'
    )


def test_residuals_stand_by_class_without_rows_that_calibrate(report: ValidationReport, tmp_path: Path) -> None:
    landing(report, tmp_path, 0.03)
    kept = read_toml(tmp_path / "residuals.toml")
    assert set(kept) == {"dense", "dense-uncalibrated", "experts"}
    # Calibration is the software's (`calibrated_on`), experts are the row's; zero-bubble-step stands for its study.
    own_stacks = {"llama-3-table4", "zero-bubble-step", "nanotron-step"}
    assert set(kept["dense-uncalibrated"]) == own_stacks | {"megatron-bridge-dense", "simumax-step"}
    assert set(kept["experts"]) == {"megatron-bridge-moe", "simumax-step"}
    assert {id: len(rows) for id, rows in kept["dense"].items()} == {
        "megatron-sc21": 10,
        "korthikanti-2022-table5": 9,
        "llm-foundry-a100": 60,
        "llm-foundry-h100": 64,
        "megatron-bridge-dense": 7,
        "vtrain-single-node": 33,
    }
    assert {id: len(kept["dense-uncalibrated"][id]) for id in ("megatron-bridge-dense", "simumax-step")} == {
        "megatron-bridge-dense": 30,
        "simumax-step": 16,
    }
    row = report.sources["llama-3-table4"].rows[0]
    assert math.log(row.measured / row.predicted) in [
        pytest.approx(value, abs=1e-4, rel=0) for value in kept["dense-uncalibrated"]["llama-3-table4"]
    ]


def test_a_partial_report_is_not_recorded(report: ValidationReport, tmp_path: Path) -> None:
    files = {"tolerances": tmp_path / "tolerances.toml", "residuals": tmp_path / "residuals.toml"}
    with pytest.raises(PlanError, match="needs a report of every source"):
        record(validation.run("korthikanti-2022-figure7"), **files)
    with pytest.raises(PlanError, match="needs a report with its rows"):
        record(report.model_copy(update={"request": {"rows": False}}), **files)
    assert list(tmp_path.iterdir()) == []


# The scoreboard


def test_the_readme_shows_what_the_program_prints(report: ValidationReport) -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1, f"README.md needs {BEGIN} and {END}"
    shown = text.split(BEGIN)[1].split(END)[0].strip()
    assert shown == scoreboard_markdown(report).strip(), "run `perfmodel validate --record` and `write_scoreboard`"


def test_the_scoreboard_is_written_between_its_markers(report: ValidationReport, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nstale figures\n{END}\nbelow\n")
    assert write_scoreboard(page, report)
    assert not write_scoreboard(page, report)
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "megatron-sc21" in text
    assert "stale figures" not in text
    # A calibrated source never stands as a headline.
    line = next(line for line in text.splitlines() if "korthikanti-2022-layer" in line)
    assert "**" not in line
    page.write_text("no markers")
    with pytest.raises(SpecError, match="needs one <!-- scoreboard:begin -->"):
        write_scoreboard(page, report)
