"""The two constants from the layer table: reproduced from the shipped times, and pinned by them."""

from __future__ import annotations

import pytest

from perfmodel.calibrate.layer_table import ACCELERATOR, fit_layer_table
from perfmodel.specs import registry
from perfmodel.specs.efficiency import load_efficiency
from perfmodel.specs.serving_software import load_any_software
from perfmodel.specs.software import load_software


@pytest.fixture(scope="module")
def fit():
    return fit_layer_table()


def test_shipped_constants_are_the_fit(fit) -> None:
    shipped = load_efficiency(ACCELERATOR).elementwise["megatron"].memory_efficiency
    assert shipped == pytest.approx(fit.memory_efficiency, rel=2e-3, abs=0)
    assert float(load_software("megatron-2022").exposed_share) == pytest.approx(fit.exposed_share, rel=2e-3, abs=0)


def test_overlap_is_what_the_layer_times_need(fit) -> None:
    """Without the overlap of 2022 the same ten times are an order of magnitude worse explained."""
    assert fit.median_error < 0.01
    assert fit.median_error_without_overlap > 0.02


def test_a_generation_has_six_numbers_and_names_what_it_lacks() -> None:
    for id in registry.ids("software"):
        software = load_any_software(id)
        assert software.calibrated_on or software.inherits, id
