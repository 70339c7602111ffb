"""Makes the shipped table of FFNs of routed experts: `python -m perfmodel.calibrate.thin_moe FOLDER`.

The source names a routing, not the load it makes. `rank_rows` and `rank_experts` say it: the token copies that the
measured rank receives and its experts with at least one, derived here from the published routing of the collector.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from perfmodel.calibrate.tables import FOLDER

__all__ = ["MOE_GROUPS", "MOE_MAKERS", "balanced_load", "power_law_load", "thin_moe"]

MOE_GROUPS = {"moe_ffn": ["d_model", "d_ff", "n_experts", "experts_per_token"]}
_ORIGIN = (
    "aiconfigurator-core 0.12.0, NVIDIA, https://pypi.org/project/aiconfigurator-core/0.12.0/ "
    "(TensorRT-LLM 1.0.0 on A100, 1.3.0rc20 on H100); routing: collector/helper.py and "
    "collector/trtllm/collect_moe.py of https://github.com/ai-dynamo/aiconfigurator"
)
_RULE = (
    "one FFN of routed experts on the most loaded rank, exchange left out; d_ff whole, etp its tensor ranks; tokens of "
    "all ranks; without etp = 2, ep = 2 or 32 and 4 tokens, all between neighbours; slow marks rows over three times "
    "another format's time; rank_rows and rank_experts derived by "
    "perfmodel/calibrate/thin_moe.py (power_law: mean of simulated draws, the source measured five others)"
)
_ACCELERATORS = {"a100_sxm": "a100-sxm-80gb", "h100_sxm": "h100-sxm"}
_DTYPES = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8-block"}
_NAMES = {
    "num_tokens": "tokens",
    "hidden_size": "d_model",
    "inter_size": "d_ff",
    "num_experts": "n_experts",
    "topk": "experts_per_token",
    "moe_tp_size": "etp",
    "moe_ep_size": "ep",
}
_KEYS = ["accelerator", "dtype", "routing", *_NAMES.values()]
_DROPPED = {"etp": [2], "ep": [2, 32], "tokens": [4]}
_DRAWS, _SEED, _ALPHA = 200, 0, 1.2
_SLOW = 3.0
_FIRST_COLLECTOR = ("a100-sxm-80gb",)
"""Measured with TensorRT-LLM 1.0.0: its one-token times do not depend on ep, as only the first collector has it."""
Floats = NDArray[np.float64]


def balanced_load(tokens: int, n_experts: int, experts_per_token: int, ep: int) -> tuple[float, float]:
    """Rows and touched experts of rank 0 when choice j of token i is expert i + j * stride, modulo the experts.

    With fewer tokens than the stride (experts over experts per token) they are spread over it.
    """
    stride = -(-n_experts // experts_per_token)
    token, choice = np.arange(tokens)[:, None], np.arange(experts_per_token)[None, :]
    first = token if tokens >= stride else token * stride / tokens
    chosen = np.floor((first + choice * stride) % n_experts).astype(int)
    counts = np.bincount(chosen.ravel(), minlength=n_experts)[: n_experts // ep]
    return float(counts.sum()), float((counts > 0).sum())


def power_law_load(
    tokens: int, n_experts: int, experts_per_token: int, ep: int, busiest_first: bool = False
) -> tuple[float, float]:
    """Mean rows and touched experts of the most loaded rank when the loads of experts are draws from x^-1.2.

    The loads lie between 1 and 0.8 * tokens (0.01 and 2 when copies do not outnumber experts), are scaled to the sum
    and rounded; an expert holds each token once at most, and what is left goes to the idlest of every rank in turn, or,
    in the first versions of the collector, `busiest_first` over all ranks, once to each that can hold more.
    """
    copies = tokens * experts_per_token
    low, high = (1.0, 0.8 * tokens) if copies > n_experts else (0.01, 2.0)
    uniform = np.random.default_rng(_SEED).random((_DRAWS, n_experts))
    power = 1 - _ALPHA
    loads = ((high**power - low**power) * uniform + low**power) ** (1 / power)
    whole = np.minimum(np.rint(copies * loads / loads.sum(axis=1, keepdims=True)), tokens)
    ranks = whole.reshape(_DRAWS, ep, n_experts // ep)
    rest = copies - whole.sum(axis=1)
    for draw in range(_DRAWS):
        if busiest_first and 0 < rest[draw] <= n_experts:
            flat = ranks[draw].reshape(-1)
            open_to = np.where(flat < tokens, flat, -1.0)
            flat[np.argsort(-open_to, kind="stable")[: int(rest[draw])]] += 1
        else:
            _level(ranks[draw], int(rest[draw]), float(tokens))
    rows = ranks.sum(axis=2)
    fullest = rows.argmax(axis=1)
    touched = (ranks[np.arange(_DRAWS), fullest] > 0).sum(axis=1)
    return float(rows.max(axis=1).mean()), float(touched.mean())


def _level(ranks: Floats, rest: int, most: float) -> None:
    """Give `rest` copies to the ranks in turn, each to its idlest expert; take from the busiest when negative."""
    shares = np.full(len(ranks), rest // len(ranks)) if rest >= 0 else -np.full(len(ranks), -rest // len(ranks))
    shares[: abs(rest) % len(ranks)] += int(np.sign(rest))
    for experts, share in zip(ranks, shares, strict=True):
        if share > 0:
            experts[:] = np.minimum(_filled(experts, float(share)), most)
        elif share < 0:
            experts[:] = np.maximum(-_filled(-experts, float(-share)), 0.0)


def _filled(levels: Floats, volume: float) -> Floats:
    """`levels` after whole drops of that volume fell one by one, each on the lowest."""
    ordered = np.sort(levels)
    surfaces = (volume + np.cumsum(ordered)) / np.arange(1, len(ordered) + 1)
    surface = np.floor(surfaces[np.flatnonzero(surfaces > ordered)[-1]])
    filled = np.maximum(levels, surface)
    left = int(volume - (filled.sum() - levels.sum()))
    filled[np.argsort(filled, kind="stable")[:left]] += 1
    return np.asarray(filled)


def thin_moe(folder: Path) -> tuple[pd.DataFrame, str, str, str]:
    """The table from the full ones in `folder`, its origin, licence and rule."""
    rows = pd.read_csv(folder / "moe_ffn.csv.gz").rename(columns=_NAMES)
    for column, dropped in _DROPPED.items():
        rows = rows[~rows[column].isin(dropped)]
    rows = rows.assign(
        accelerator=rows["system"].map(_ACCELERATORS),
        dtype=rows["moe_dtype"].map(_DTYPES),
        routing=rows["distribution"].map({"balanced": "balanced", f"power_law_{_ALPHA}": "power_law"}),
    )
    loads = {key: _load(*key) for key in sorted(set(_routings(rows)))}
    found = np.array([loads[key] for key in _routings(rows)])
    rows = rows.assign(rank_rows=found[:, 0], rank_experts=found[:, 1])
    rows = rows.assign(slow=_is_slow(rows))
    columns = [*_KEYS, "rank_rows", "rank_experts", "slow", "latency_us"]
    return rows[columns].sort_values(_KEYS, kind="stable").reset_index(drop=True), _ORIGIN, "Apache-2.0", _RULE


def _load(
    accelerator: str, routing: str, tokens: int, n_experts: int, experts_per_token: int, ep: int
) -> tuple[float, float]:
    if routing == "balanced":
        return balanced_load(tokens, n_experts, experts_per_token, ep)
    return power_law_load(tokens, n_experts, experts_per_token, ep, accelerator in _FIRST_COLLECTOR)


def _routings(rows: pd.DataFrame) -> list[tuple[str, str, int, int, int, int]]:
    names = ["accelerator", "routing", "tokens", "n_experts", "experts_per_token", "ep"]
    return list(zip(*(rows[name].tolist() for name in names), strict=True))


def _is_slow(rows: pd.DataFrame) -> pd.Series:
    """Rows over three times as slow as the same FFN in another format: twice the bytes explain a factor of two."""
    same = rows.groupby([key for key in _KEYS if key != "dtype"])["latency_us"]
    return (rows["latency_us"] > _SLOW * same.transform("min")).astype(int)


MOE_MAKERS: dict[str, Callable[[Path], tuple[pd.DataFrame, str, str, str]]] = {"moe_ffn": thin_moe}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the full table")
    table, origin, licence, rule = thin_moe(parser.parse_args().folder)
    head = f"# Source: {origin}\n# Licence: {licence}\n# Rule: {rule}\n"
    body = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    (FOLDER / "moe_ffn.csv").write_text(head + body, encoding="utf-8")
