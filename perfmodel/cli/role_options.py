"""Options of the two estimates that price parts of a deployment: pools of one role each, and a round of speculation."""

from __future__ import annotations

from perfmodel.cli.option import Option
from perfmodel.cli.options import CACHES, CARBON, INPUTS, LAYOUT, WEIGHTS

__all__ = ["DEGREES", "ESTIMATE_DISAGGREGATED", "ESTIMATE_SPECULATION", "ROLE", "TRANSFERS"]

DEGREES = tuple(option.name for option in LAYOUT)
"""Keys of a role that belong to its layout."""
# Typed again, so that no command waits for the library; a test compares.
ROLE = (
    "cluster", "accelerators", "layout", "count", "weights", "activations", "kv_cache", "software", "batch",
    "batch_tokens", "dual_batch", "acceptance", "draft_tokens", "expert_imbalance", "expert_loads", "expert_placement",
)  # fmt: skip
TRANSFERS = ("layerwise", "serialised")
_KEYS = (*ROLE, *DEGREES)
_MODEL = Option("model", "spec", "zoo id, config.json, or hf:org/name", required=True, complete="models")
ESTIMATE_DISAGGREGATED = (
    _MODEL,
    Option(
        "prefill",
        "table",
        "the pool that prefills: cluster=dgx-h100,tp=8,count=4",
        choices=(*ROLE, *DEGREES),
        required=True,
    ),
    Option(
        "decode",
        "table",
        "the pool that decodes: cluster=dgx-h100,tp=8,count=2",
        choices=(*ROLE, *DEGREES),
        required=True,
    ),
    Option("prompt_tokens", "number", "tokens of a prompt", low=1, required=True),
    Option("output_tokens", "number", "tokens of an answer", low=1, required=True),
    Option("arrival_rate_per_s", "number", "requests a second (default: as many as the scarcer pool takes)", low=0),
    Option("prefix_hit", "number", "share of prompt tokens found in the cache", low=0, high=1),
    Option("transfer", "text", "how the cache travels (default: layerwise)", choices=TRANSFERS),
    Option("link_byte_per_s", "number", "rate of a rank's link for the cache instead of its cluster's [B/s]", low=0),
    *CARBON,
)
ESTIMATE_SPECULATION = (
    _MODEL,
    Option("cluster", "spec", "cluster id, or a file with one", required=True, complete="clusters"),
    Option("accelerators", "whole", "how many accelerators of the cluster", low=1),
    Option("acceptance", "number", "chance that a drafted token is accepted", low=0, high=1, required=True),
    Option("draft_tokens", "whole", "tokens drafted and verified at once", low=1, required=True),
    Option("draft", "spec", "model that drafts (default: mtp, a module of the model itself)", complete="models"),
    Option("batch", "whole", "sequences that decode together (default: 1)", low=1),
    Option("kv_len", "whole", "tokens in the cache of each (default: 1024)", low=1),
    Option("weights", "text", "precision of the weights (default: bf16)", choices=WEIGHTS),
    Option("activations", "text", "precision of inputs of products (default: as the weights ask)", choices=INPUTS),
    Option("kv_cache", "text", "precision of the cache (default: bf16)", choices=CACHES),
    Option("draft_weights", "text", "precision of the draft's weights (default: as the model's)", choices=WEIGHTS),
    Option("software", "spec", "serving engine, an id or a file", complete="software"),
    *(option for option in LAYOUT if option.name in ("tp", "pp", "ep")),
    Option("layout", "table", "these degrees and others, tp=8,ep=8", choices=DEGREES),
)
