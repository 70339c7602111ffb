"""Prefix reuse: the iteration of prompts whose beginning is cached, and how many sequences share one beginning."""

from __future__ import annotations

import math

import numpy as np

from perfmodel.formulas.prefix import missed_prompt_tokens
from perfmodel.ops import ceil_div, maximum
from perfmodel.predict.cost import Number
from perfmodel.predict.serving.load import Load
from perfmodel.predict.serving.memory import ServingMemory

__all__ = ["chunks_of", "missed_load", "sharing_concurrency"]


def chunks_of(prompt_tokens: float, prefix_hit: float, most_tokens: float) -> float:
    """Iterations that the missed tokens of a prompt are cut into."""
    return float(math.ceil(max(1.0, float(missed_prompt_tokens(prompt_tokens, prefix_hit))) / most_tokens))


def missed_load(prompts: Number, prompt_tokens: Number, prefix_hit: Number, chunks: Number = 1.0) -> Load:
    """One of `chunks` equal iterations (the mean one) of prompts of which `prefix_hit` is in the cache.

    At least one token is worked on: a prompt found whole still needs its next token's logits.
    """
    missed = maximum(1.0, missed_prompt_tokens(prompt_tokens, prefix_hit))
    past = prompt_tokens - missed + missed * (1.0 - 1.0 / chunks) / 2.0
    return Load(prompts, missed / chunks, past, finishes=1.0 / chunks)


def sharing_concurrency(memory: ServingMemory, blocks: Number, shared_tokens: Number, own_tokens: Number) -> Number:
    """Sequences that fit in so many blocks when all begin with the same `shared_tokens`, kept once in whole blocks."""
    size = float(memory.software.block_tokens)
    common = np.floor(np.asarray(shared_tokens, dtype=float) / size)
    rest = own_tokens + shared_tokens - common * size
    places = np.floor(maximum(0.0, blocks - common) / ceil_div(rest, size))
    return float(places) if np.ndim(places) == 0 else places
