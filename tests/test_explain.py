"""Formulas explained, every one of them: elasticities against differences, roots against closed forms; and results."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_words import ESTIMATE, FLAGS, LAYOUT, SERVED
from test_formulas import FORMULAS, each_formula, samples

import perfmodel as pm
from perfmodel.cli.numbers import number_in
from perfmodel.errors import PlanError
from perfmodel.formulas import (
    Formula,
    asymptote,
    crossovers,
    elasticities,
    explain,
    meeting_points,
    solve_formula,
    substitute,
)
from perfmodel.predict.elasticities import elasticities as step_elasticities
from perfmodel.study.calls import calls_of_formula, calls_of_term, formula_calls
from perfmodel.study.quantities import estimate_of, question_of, resolved
from perfmodel.study.slopes import serving_elasticities
from perfmodel.study.words import term_words

TRAINING = {
    "model": "llama-3.1-8b",
    "cluster": "dgx-h100",
    "accelerators": 64,
    "layout": {"tp": 2, "dp": 32},
    "global_batch": 128,
    "seq_len": 4096,
}
SERVING = {
    "model": "llama-3.1-8b",
    "cluster": "dgx-h100",
    "accelerators": 1,
    "layout": {},
    "prompt_tokens": 512,
    "output_tokens": 128,
    "concurrency": 16,
}


@each_formula
def test_every_formula_is_explained(law: Formula) -> None:
    sheet = explain(law.name).to_dict()
    json.dumps(sheet, allow_nan=False)
    assert sheet["expression"]
    assert sheet["latex"]
    assert sheet["source"]
    assert sheet["valid"]
    assert [symbol["name"] for symbol in sheet["symbols"]] == list(law.symbols)
    point = next(samples(law))
    found = substitute(law.name, point)
    assert found.value == pytest.approx(law.function(**point), rel=1e-12, abs=1e-300)
    assert found.expression
    assert found.latex
    words = set(re.findall(r"[A-Za-z_]\w{2,}(?!\w*\()", found.expression))
    assert not words & law.symbols.keys(), "every symbol has its number"


@each_formula
def test_elasticities_equal_differences(law: Formula) -> None:
    point = next(samples(law, seed=3))
    value = law.function(**point)
    for one in elasticities(law.name, point):
        if one.elasticity is None:
            assert value == 0
        elif not one.kink:
            slope = _difference(law, point, one.quantity) / value
            assert one.elasticity == pytest.approx(slope, rel=1e-4, abs=1e-4), one


def _difference(law: Formula, point: dict[str, float], name: str) -> float:
    step = 1e-6
    with np.errstate(all="ignore"):
        low, high = (float(law.function(**(point | {name: point[name] * (1 + sign * step)}))) for sign in (-1, 1))
    return (high - low) / (2 * step)


@pytest.mark.heavy
@each_formula
def test_every_formula_has_limits_or_says_why_not(law: Formula) -> None:
    point = next(samples(law))
    for name in law.symbols:
        for towards in ("0", "inf"):
            try:
                found = asymptote(law.name, name, towards, point)
            except PlanError:  # no single power, or a step that never ends; it says which
                continue
            if found.ratio is not None and not math.isclose(found.ratio, 1.0, rel_tol=0.05):
                assert _far_out(law, point, name, towards, found.leading) == pytest.approx(1.0, rel=0.05), found


def _far_out(law: Formula, point: dict[str, float], name: str, towards: str, leading: str) -> float:
    """Formula over leading term where even a power of 0.001 has settled, far beyond float64."""
    import sympy

    x, far = sympy.Symbol(name, positive=True), sympy.Float(f"1e{'' if towards == 'inf' else '-'}100000", 30)
    fixed = {one: sympy.Float(value, 30) for one, value in point.items() if one != name}
    whole = law.symbolic(**fixed).subs(x, far).evalf(30)
    return float(whole / sympy.sympify(leading, locals={name: x}).subs(x, far).evalf(30))


@pytest.mark.parametrize("law", [law for law in FORMULAS.values() if law.monotone], ids=lambda law: law.name)
def test_a_value_is_found_again(law: Formula) -> None:
    """The number put into a formula is among those that give its value back."""
    point = next(samples(law, seed=5))
    name = next(iter(law.monotone))
    value = float(law.function(**point))
    slope = elasticities(law.name, point)[list(law.symbols).index(name)].elasticity
    if slope is None or abs(slope) < 1e-9:
        pytest.skip("flat there, up to rounding")
    roots = solve_formula(law.name, name, value, point, (point[name] / 3, point[name] * 3))
    assert any(math.isclose(root.value, point[name], rel_tol=1e-5) for root in roots), roots
    for root in roots:
        if root.closed_form_value is not None:
            assert root.closed_form_value == pytest.approx(root.value, rel=1e-6, abs=1e-12)


def test_roots_and_closed_forms_agree() -> None:
    at = {"n_bytes": 64e6, "launch_s": 5e-6, "latency_s": 1e-6, "link_byte_per_s": 3e11}
    (root,) = solve_formula("ring_all_reduce_time", "link_byte_per_s", 1e-3, at | {"ranks": 8})
    assert root.closed_form is not None
    assert not root.jump
    assert root.closed_form_value == pytest.approx(root.value, rel=1e-12, abs=0)
    assert pm.explain("ring_all_reduce_time").returns.unit == "s"
    assert solve_formula("machine_balance", "byte_per_s", -1.0, {"flop_per_s": 1e15}) == ()


def test_crossovers() -> None:
    at = {"n_bytes": 1e9, "flop_per_s": 1e15, "byte_per_s": 1e12}
    (ridge,) = crossovers("roofline_time", "flops", at)
    assert ridge.value == ridge.closed_form_value == 1e12
    assert (ridge.below, ridge.above) == ("n_bytes/byte_per_s", "flops/flop_per_s")
    at = {
        "ranks": 64,
        "launch_s": 0.0,
        "latency_s": 1e-6,
        "link_byte_per_s": 1e11,
        "domains": 64,
        "tree_byte_per_s": 5e10,
    }
    met = meeting_points("ring_all_reduce_time", "pipelined_tree_all_reduce_time", "n_bytes", at, (1e3, 1e12))
    (one,) = met
    assert (one.below, one.above) == ("pipelined_tree_all_reduce_time", "ring_all_reduce_time")
    values = [
        float(FORMULAS[name].function(**{key: ({"n_bytes": one.value} | at)[key] for key in FORMULAS[name].symbols}))
        for name in (one.below, one.above)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9, abs=0)


def test_asymptotes() -> None:
    far = asymptote("ring_all_reduce_time", "ranks", "inf")
    assert (far.leading, far.power) == ("2*latency_s*ranks", 1.0)
    at = {"n_bytes": 1e9, "flop_per_s": 1e15, "byte_per_s": 1e12}
    near, away = (asymptote("roofline_time", "flops", towards, at) for towards in ("0", "inf"))
    assert (near.power, away.power) == (0.0, 1.0)
    assert near.ratio == away.ratio == 1.0


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("450GB/s", "B/s", 450e9),
        ("64 MiB", "B", 64 * 2**20),
        ("3us", "s", 3e-6),
        ("989e12", "flop/s", 989e12),
        ("989 TFLOP/s", "flop/s", 989e12),
        ("8k", "1", 8000.0),
        ("989T", "flop/s", 989e12),
        ("-2", "1", -2.0),
    ],
)
def test_numbers_with_units(text: str, unit: str, value: float) -> None:
    assert number_in(text, unit, "--at") == pytest.approx(value, rel=1e-15, abs=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ring_all_redduce_time", "nearest: 'ring_all_reduce_time'"),
        ("ring_all_reduce_time --at n_byte=1", "nearest: 'n_bytes'"),
        ("ring_all_reduce_time --at n_bytes=1GB", "missing ranks"),
        ("ring_all_reduce_time --at n_bytes=1GHz", "must be a number in [B]"),
        ("ring_all_reduce_time --at n_bytes", "must be NAME=VALUE"),
        ("ring_all_reduce_time --solve ranks", "needs --for"),
        ("ring_all_reduce_time --for 3", "goes with --solve"),
        ("ring_all_reduce_time --crossover machine_balance", "needs --over"),
        ("ring_all_reduce_time --crossover machine_balance --over ranks", "ranks"),
        ("ring_all_reduce_time --limit ranks=1", "inf or 0"),
        ("ring_all_reduce_time --term layers", "goes with a result"),
        ("ring_all_reduce_time --between 1 --solve ranks --for 1", "LOW,HIGH"),
    ],
)
def test_wrong_questions(cli: Any, words: str, said: str) -> None:
    code, out, err = cli("explain", *words.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_formulas_on_the_command_line(cli: Any) -> None:
    words = ["explain", "roofline_time", "--at", "n_bytes=1GB", "flop_per_s=1Pflop/s", "byte_per_s=1TB/s", "flops=2e12"]
    document = json.loads(cli(*words, "--json").out)
    assert document["substituted"]["value"] == 0.002
    assert {one["quantity"]: one["elasticity"] for one in document["elasticities"]}["flops"] == 1.0
    page = cli(*words, "--over", "flops", "--solve", "byte_per_s", "--for", "5ms", "--limit", "flops=inf").out
    for part in ("Crossovers over flops", "closed form", "As flops goes to inf", "200 GB/s"):
        assert part in page
    page = cli(*words).out
    for part in ("maximum:", "= 0.002 s (2.00 ms)", "Elasticities"):
        assert part in page


def test_calls_of_a_prediction_are_its_own() -> None:
    calls = formula_calls(TRAINING)
    for call in calls[::7]:
        assert FORMULAS[call.formula].function(**call.at) == pytest.approx(call.value, rel=1e-12, abs=0)
    estimate = estimate_of(resolved(TRAINING))
    (spread,) = calls_of_formula(TRAINING, "straggler_slowdown")
    assert (spread.at["ranks"], spread.times) == (64.0, 1)
    (cost,) = calls_of_formula(TRAINING, "cost_usd")
    assert cost.value == estimate["cost_usd_per_step"]
    behind = calls_of_term(TRAINING, "data_parallel")
    gradients = next(term for term in estimate["terms"] if term["name"] == "data_parallel")["children"][0]
    assert any(math.isclose(call.value, gradients["seconds"], rel_tol=1e-6) for call in behind)
    assert all("predict" in call.asked_by for call in behind)
    for term, said in (("mlp_upp", "mlp_up"), ("layers", "sum of the terms")):
        with pytest.raises(PlanError, match=said):
            calls_of_term(TRAINING, term)
    with pytest.raises(PlanError, match="has no part"):
        calls_of_formula(TRAINING, "speculative_tpot")


def test_terms_have_words_and_formulas_that_exist() -> None:
    table = term_words()["term"]
    assert {name for words in table.values() for name in words.get("formulas", ())} <= FORMULAS.keys()
    assert all(words["meaning"] for words in table.values())
    for scenario in (TRAINING, SERVING):
        asked = {call.formula for call in formula_calls(scenario)}
        assert asked <= FORMULAS.keys()


@pytest.mark.parametrize("name", ["hbm_byte_per_s", "peak_flop_per_s", "link_byte_per_s"])
def test_elasticities_of_a_step_equal_differences(name: str) -> None:
    exact = step_elasticities(TRAINING).hardware
    question, label = question_of(resolved(TRAINING), name)
    assert question.now is not None
    low, high = (question.estimate(question.now * math.exp(sign * 1e-4)) for sign in (-1, 1))
    assert low is not None
    assert high is not None
    slope = math.log(high["step_time_s"] / low["step_time_s"]) / 2e-4
    assert exact[label] == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_elasticities_of_a_deployment() -> None:
    found = serving_elasticities(SERVING)
    assert found.figures == {key: estimate_of(resolved(SERVING))[key] for key in found.figures}
    slopes = found.elasticities["tpot_s"]
    assert -1.0 < slopes["hbm_byte_per_s"] < -0.5
    assert list(map(abs, slopes.values())) == sorted(map(abs, slopes.values()), reverse=True)
    assert found.elasticities["cost_usd_per_mtok"]["usd_per_hour"] == pytest.approx(1.0, rel=1e-9, abs=0)
    with pytest.raises(PlanError, match="describes training"):
        serving_elasticities(TRAINING)


def test_results_in_words(cli: Any, tmp_path: Path) -> None:
    step, served = str(tmp_path / "step.json"), str(tmp_path / "served.json")
    assert cli(*ESTIMATE, *FLAGS, *LAYOUT, "-o", step).code == 0
    assert cli("estimate", "serving", *SERVED.split(), "-o", served).code == 0
    page = cli("explain", step).out
    for part in ("What binds", "What would change it", "Terms", "How sure", "the step is bound by compute"):
        assert part in page
    assert "the decode step is bound by" in cli("explain", served).out
    document = json.loads(cli("explain", step, "--term", "data_parallel", "--json").out)
    assert {"ring_reduce_scatter_time", "exposed_time"} <= {call["formula"] for call in document["calls"]}
    assert "What stands behind data_parallel" in cli("explain", step, "--term", "data_parallel").out
    assert "In this prediction" in cli("explain", "straggler_slowdown", "-f", step).out
    slopes = json.loads(cli("explain", step, "--elasticities", "--json").out)
    assert slopes["hardware"] == pm.elasticities(TRAINING).hardware
    assert "Elasticities: hardware" in cli("explain", step, "--elasticities").out
    assert "Elasticities: tpot_s" in cli("explain", served, "--elasticities").out
    for wrong in (["--at", "ranks=2"], ["--latex"], ["--term", "data_parallel", "--elasticities"]):
        assert cli("explain", step, *wrong).code == 2
    nothing = tmp_path / "nothing.json"
    nothing.write_text("{}")
    assert "document: missing" in cli("explain", str(nothing)).err
