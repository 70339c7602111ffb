"""Options of the planners of pools and rows, whose tables come from files."""

from __future__ import annotations

from perfmodel.cli.option import Option
from perfmodel.cli.options import CACHES, WEIGHTS

__all__ = ["PLAN_POOLS", "PLAN_POOL_CLOCKS", "PLAN_ROWS"]

_LATENCY = (
    Option("ttft_s", "number", "limit of the time to the first token [s]", low=0),
    Option("tpot_s", "number", "limit of the time per output token [s]", low=0),
    Option("percentile", "number", "share of the requests that must keep the limits (default: 0.9)", low=0, high=1),
)
_PRECISIONS = (
    Option("weights", "text", "precision of the weights (default: bf16)", choices=WEIGHTS),
    Option("kv_cache", "text", "precision of the cache (default: bf16)", choices=CACHES),
    Option("software", "spec", "serving engine, an id or a file", complete="software"),
)
_SOLVER = (
    Option("work_limit", "whole", "branch-and-bound nodes at most (default: 1000)", low=1),
    Option("time_limit_s", "number", "guard in seconds (default: 60)", low=0),
)
_MODEL = Option("model", "spec", "zoo id, config.json, or hf:org/name", complete="models")
PLAN_POOLS = (
    Option("watts", "number", "power of all machines at most, as provisioned [W]", low=0),
    Option("usd_per_hour", "number", "price of an hour of all machines at most", low=0),
    Option(
        "machines",
        "array",
        "CSV of measured rates: machine, prompt_requests_per_s, token_requests_per_s, watts, usd_per_hour",
    ),
    _MODEL,
    Option(
        "cluster", "texts", "instead of machines: clusters whose nodes are priced, with commas", complete="clusters"
    ),
    Option("prompt_tokens", "whole", "mean tokens of a prompt", low=1),
    Option("output_tokens", "whole", "mean tokens of an answer", low=1),
    *_LATENCY,
    Option("tp", "whole", "accelerators of a replica (default: a whole node)", low=1),
    *_PRECISIONS,
)
PLAN_POOL_CLOCKS = (
    Option(
        "pools",
        "array",
        "CSV: pool, arrival_rate_per_s, and to price it prompt_tokens, output_tokens (ttft_s, tpot_s)",
        required=True,
    ),
    Option("accelerators", "whole", "accelerators of all pools at most", low=1, required=True),
    Option("options", "array", "CSV of measured ways to run: option, pool, requests_per_s, watts, accelerators"),
    _MODEL,
    Option("cluster", "spec", "instead of options: cluster whose accelerators are priced", complete="clusters"),
    *_LATENCY,
    Option("degrees", "wholes", "tensor parallel degrees to choose from (default: 1,2,4,8)", low=1),
    Option(
        "clocks_hz", "wholes", "clocks to choose from [Hz], 1200e6,1980e6 (default: 0.4 to 1 of the full one)", low=1
    ),
    *_PRECISIONS,
    *_SOLVER,
)
PLAN_ROWS = (
    Option("loads", "array", "CSV: load, watts (heat_w to the air of its row; default: its watts)", required=True),
    Option("rows", "array", "CSV: row, power_w (cooling_w; default: its power)", required=True),
    *_SOLVER,
)
