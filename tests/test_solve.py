"""Predictions asked backwards: what is found makes the target so, against the estimates themselves."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from test_explain import SERVING, TRAINING

import perfmodel as pm
from perfmodel.errors import PerfModelError
from perfmodel.study.quantities import question_of, resolved
from perfmodel.study.words import bound_seconds

FLAGS = "--model llama-3.1-8b --cluster dgx-h100 --accelerators 64 --global-batch 128 --seq-len 4096 --tp 2 --dp 32"
WORDS = ["solve", *FLAGS.split()]


def figure(scenario: dict[str, Any], quantity: str, x: float, key: str) -> Any:
    document = question_of(resolved(scenario), quantity)[0].estimate(x)
    assert document is not None
    return document[key]


@pytest.mark.parametrize(
    ("scenario", "quantity", "key", "wanted"),
    [
        (TRAINING, "link_byte_per_s", "step_time_s", 1.0),
        (TRAINING, "peak_flop_per_s", "step_time_s", 0.5),
        (TRAINING, "InfiniBand NDR link_byte_per_s", "step_time_s", 0.9),
        (TRAINING, "usd_per_hour", "cost_usd_per_step", 0.1),
        (SERVING, "hbm_byte_per_s", "tpot_s", 0.01),
    ],
)
def test_a_figure_is_reached(scenario: dict[str, Any], quantity: str, key: str, wanted: float) -> None:
    solution = pm.solve(scenario, quantity=quantity, target={key: wanted})
    assert solution.feasible
    assert solution.value is not None
    assert figure(scenario, quantity, solution.value, key) == pytest.approx(wanted, rel=1e-9, abs=0)
    assert solution.figures[key][1] == pytest.approx(wanted, rel=1e-9, abs=0)
    assert solution.request["quantity"].startswith((quantity, f"NVLink 4 {quantity}"))


def test_a_tier_has_three_names() -> None:
    answers = [
        pm.solve(TRAINING, quantity=f"{tier}link_byte_per_s", target={"step_time_s": 0.9})
        for tier in ("InfiniBand NDR ", "InfiniBand NDR.", "infiniband.")
    ]
    assert len({answer.value for answer in answers}) == 1
    assert {answer.request["quantity"] for answer in answers} == {"InfiniBand NDR link_byte_per_s"}


def test_a_price_is_a_closed_form() -> None:
    """Cost is in proportion to the price, so the root is known without looking."""
    now = pm.solve(TRAINING, quantity="usd_per_hour", target={"cost_usd_per_step": 0.1})
    estimate = pm.estimate_training(
        "llama-3.1-8b", pm.load_cluster("dgx-h100", accelerators=64), layout={"tp": 2, "dp": 32}, global_batch=128,
        seq_len=4096,
    )  # fmt: skip
    assert now.now is not None
    assert now.value == pytest.approx(now.now * 0.1 / estimate.cost_usd_per_step, rel=1e-9, abs=0)


def test_the_smallest_memory_fits_and_less_does_not() -> None:
    for scenario in (TRAINING, SERVING):
        solution = pm.solve(scenario, quantity="hbm_bytes", target="fits")
        assert solution.value is not None
        assert figure(scenario, "hbm_bytes", solution.value, "fits")
        assert not figure(scenario, "hbm_bytes", solution.value * (1 - 1e-6), "fits")
        assert solution.figures["fits"] == (True, True)


def test_whole_quantities_are_the_first_that_hold() -> None:
    larger = SERVING | {"model": "llama-3.1-70b", "accelerators": 8, "layout": {"tp": 8}, "prompt_tokens": 1024}
    bound = {"decode_step.bound_by": "compute"}
    solution = pm.solve(larger, quantity="concurrency", target=bound, bracket=(16, 1024))
    assert solution.value is not None
    assert solution.value.is_integer()
    binds = []
    for concurrency in (solution.value - 1, solution.value):
        terms = question_of(resolved(larger), "concurrency")[0].estimate(concurrency) or {"terms": ()}
        seconds = bound_seconds([term for term in terms["terms"] if term["name"] == "decode_step"])
        binds.append(next(iter(seconds)))
    assert binds == ["memory", "compute"]
    assert solution.figures["decode_step.bound_by"] == tuple(binds)


def test_no_root_says_why() -> None:
    solution = pm.solve(TRAINING, quantity="latency_s", target={"step_time_s": 1e-6})
    assert not solution.feasible
    assert solution.value is None
    assert "step_time_s runs from" in solution.infeasible_because[0]
    fits = pm.solve(TRAINING, quantity="hbm_bytes", target="fits", bracket=(1e9, 2e9))
    assert "it fits nowhere" in fits.infeasible_because[0]
    never = pm.solve(TRAINING, quantity="hbm_bytes", target={"bound_by": "host"})
    assert "never bound by host" in never.infeasible_because[0]


@pytest.mark.parametrize(
    ("quantity", "target", "bracket", "said"),
    [
        ("hbm_byte", "fits", None, "nearest: 'hbm_bytes'"),
        ("hbm_bytes", {"step_time": 1.0}, None, "nearest: 'step_time_s'"),
        ("hbm_bytes", {"step_time_s": math.nan}, None, "finite"),
        ("hbm_bytes", {"bound_by": "comput"}, None, "nearest: 'compute'"),
        ("hbm_bytes", {"layer.bound_by": "compute"}, None, "nearest: 'layers'"),
        ("hbm_bytes", "fit", None, "must be"),
        ("hbm_bytes", "fits", (2.0, 1.0), "must rise"),
    ],
)
def test_wrong_questions(quantity: str, target: Any, bracket: Any, said: str) -> None:
    with pytest.raises(PerfModelError, match=said.replace("(", r"\(")):
        pm.solve(TRAINING, quantity=quantity, target=target, bracket=bracket)


def test_on_the_command_line(cli: Any) -> None:
    words = [*WORDS, "--for", "link_byte_per_s", "--so-that", "step_time_s=1"]
    code, out, err = cli(*words, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert list(document)[:4] == ["document", "perfmodel_version", "data_version", "request"]
    assert document["figures"]["step_time_s"][1] == pytest.approx(1.0, rel=1e-9, abs=0)
    page = cli(*words).out
    assert "NVLink 4 link_byte_per_s = " in page
    assert "makes step_time_s = 1.0" in page
    code, out, _ = cli(*WORDS, "--for", "hbm_bytes", "--so-that", "fits", "--between", "1e9,2e9")
    assert code == 1
    assert out.startswith("No hbm_bytes makes fits")
    for wrong in ("--so-that step_time_s=x", "--so-that nothing", "--so-that fits --between 3"):
        code, _, err = cli(*WORDS, "--for", "hbm_bytes", *wrong.split())
        assert code == 2
        assert err.count("\n") == 1
