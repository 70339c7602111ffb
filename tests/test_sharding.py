"""Changes of sharding: bytes against a simulation that knows which rank holds which elements."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from perfmodel.errors import OutOfRangeError, PlanError
from perfmodel.formulas.sharding import (
    tensor_parallel_forward_bytes,
    tensor_parallel_step_bytes,
    tensor_parallel_weight_bytes,
    zero_communication_bytes,
)
from perfmodel.predict.sharding import conversion_bytes

SIZE = 12  # elements along each axis, one byte each: divides by every group below
SIGNATURES = ("split(0)", "split(1)", "broadcast", "partial")
PAIRS = list(itertools.product(SIGNATURES, SIGNATURES))


def held(signature: str, ranks: int) -> list[np.ndarray]:
    """What each rank holds or must hold [bool, rank x SIZE x SIZE]; a partial rank holds its summand of everything."""
    masks = []
    for rank in range(ranks):
        mask = np.ones((SIZE, SIZE), dtype=bool)
        if signature.startswith("split"):
            part = slice(rank * SIZE // ranks, (rank + 1) * SIZE // ranks)
            mask[:] = False
            mask[(part, slice(None)) if signature == "split(0)" else (slice(None), part)] = True
        masks.append(mask)
    return masks


def received_on_same(source: str, target: str, ranks: int) -> int:
    """Elements that arrive anywhere: each rank takes what it must hold and does not have."""
    if target == "partial":
        return 0  # a split rank puts zeros where others hold elements, one broadcast rank keeps and the others zero
    if source == "partial" and target == "broadcast":
        return received_on_same("partial", "split(0)", ranks) + received_on_same("split(0)", "broadcast", ranks)
    wanted = held(target, ranks)
    if source == "partial":
        return sum((ranks - 1) * int(mask.sum()) for mask in wanted)  # a summand from each of the others
    return sum(int((want & ~have).sum()) for want, have in zip(wanted, held(source, ranks), strict=True))


def received_elsewhere(source: str, target: str, ranks: int, target_ranks: int) -> int:
    """Elements that arrive on other devices: parts cross once (every summand of them), then copies are made there."""
    crossing = "split(0)" if target in ("broadcast", "partial") else target
    summands = ranks if source == "partial" else 1
    arrived = summands * sum(int(mask.sum()) for mask in held(crossing, target_ranks))
    return arrived + (received_on_same(crossing, "broadcast", target_ranks) if target == "broadcast" else 0)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_bytes_on_the_same_devices(source: str, target: str, ranks: int) -> None:
    expected = 0 if source == target else received_on_same(source, target, ranks)
    assert conversion_bytes(source, target, SIZE**2, ranks) == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize(("ranks", "target_ranks"), [(1, 1), (2, 3), (4, 4), (6, 2), (1, 12)])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_bytes_on_other_devices(source: str, target: str, ranks: int, target_ranks: int) -> None:
    moved = conversion_bytes(source, target, SIZE**2, ranks, disjoint=True, target_ranks=target_ranks)
    assert moved == received_elsewhere(source, target, ranks, target_ranks)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_detour_over_splits_saves_nothing(source: str, target: str) -> None:
    """Taking an all-gather or a reduce-scatter apart moves no fewer bytes, so the table has no cheaper path."""
    direct = conversion_bytes(source, target, 1.0, 8)
    for middle in ("split(0)", "split(1)"):
        detour = conversion_bytes(source, middle, 1.0, 8) + conversion_bytes(middle, target, 1.0, 8)
        assert direct <= detour or source == "broadcast"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spilt(0)", "broadcast", 1.0, 2), r"source: unknown signature 'spilt\(0\)'; nearest: 'split\(0\)'"),
        (("split(0)", "brodcast", 1.0, 2), "target: unknown signature 'brodcast'; nearest: 'broadcast'"),
        (("split", "broadcast", 1.0, 2), "source: unknown signature 'split'; nearest: 'split"),
        ((3, "broadcast", 1.0, 2), "source: unknown signature 3"),
        (("partial", "broadcast", -1.0, 2), "n_bytes: got -1.0"),
        (("partial", "broadcast", float("nan"), 2), "n_bytes: got nan"),
        (("partial", "broadcast", 1.0, 0), "ranks: got 0; allowed: whole numbers"),
        (("partial", "broadcast", 1.0, 2.5), "ranks: got 2.5"),
        (("partial", "broadcast", 1.0, 2, True, 0), "target_ranks: got 0"),
        (("partial", "broadcast", 1.0, 2, False, 4), "target_ranks: got 4 for 2 ranks"),
    ],
)
def test_bad_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises((PlanError, OutOfRangeError), match=message):
        conversion_bytes(*arguments)


def test_column_then_row_split_needs_one_all_reduce() -> None:
    """Numbers, not bytes: with columns of A and rows of B on each rank, the results are summands of x A B."""
    rng = np.random.default_rng(3)
    x, a, b = rng.normal(size=(5, 8)), rng.normal(size=(8, 16)), rng.normal(size=(16, 8))
    ranks = 4
    partial = [x @ a[:, r::ranks] @ b[r::ranks] for r in range(ranks)]
    np.testing.assert_allclose(sum(partial), x @ a @ b, rtol=1e-12)
    one = conversion_bytes("partial", "broadcast", 2.0 * partial[0].size, ranks)
    assert tensor_parallel_forward_bytes(n_tokens=5, d_model=8, tp=ranks) == 2 * one
    assert tensor_parallel_step_bytes(n_tokens=5, d_model=8, n_layers=3, tp=ranks) == 3 * 4 * one


def test_sequence_parallelism_moves_the_same_bytes() -> None:
    gather_and_scatter = conversion_bytes("split(0)", "broadcast", 1e6, 8) + conversion_bytes(
        "partial", "split(0)", 1e6, 8
    )
    assert gather_and_scatter == conversion_bytes("partial", "broadcast", 1e6, 8)


def test_weights_of_opt_66b_fit_a_tensor_parallel_rank() -> None:
    import perfmodel as pm

    n_params = pm.load_model("opt-66b").n_params
    assert tensor_parallel_weight_bytes(n_params, 0, 8) == n_params * 2 / 8


@pytest.mark.parametrize(("signatures", "weight_gathers"), [(["split(0)"], 1), (["split(0)", "split(0)"], 2)])
def test_zero_is_a_reduce_scatter_and_gathers(signatures: list[str], weight_gathers: int) -> None:
    ranks, n_params = 1024, 1e9
    group = conversion_bytes("partial", "split(0)", 2 * n_params, ranks)
    group += sum(conversion_bytes(signature, "broadcast", 2 * n_params, ranks) for signature in signatures)
    share = (ranks - 1) / ranks  # the formula counts many ranks
    assert group / ranks == pytest.approx(share * zero_communication_bytes(n_params, weight_gathers), rel=1e-12)
