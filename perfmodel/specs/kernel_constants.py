"""Blocks of kernel constants: what each fitted law takes, with units, and where the fit comes from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from perfmodel.specs.quantity import Quantity, Spec

__all__ = [
    "ConstantsBlock",
    "CustomAllReduceConstants",
    "DecodeConstants",
    "ElementwiseConstants",
    "Fit",
    "FlashConstants",
    "FrameworkConstants",
    "GroupedConstants",
    "InNetworkConstants",
    "MatmulConstants",
    "NetworkConstants",
    "ProtocolConstants",
    "TileConstants",
    "UnsplitLatentConstants",
]

_Share = Annotated[float, Field(gt=0, le=1)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Whole = Annotated[int, Field(ge=1)]
_Tile = Annotated[tuple[_Whole, _Whole], Field(strict=False)]


class Fit(Spec):
    """Where a block of constants comes from. Errors are medians of |ln(law / measured)|, `rows` those fitted."""

    source: str
    table: str
    rows: Annotated[int, Field(ge=0)]
    fitted_error: Annotated[float, Field(ge=0)] | None = None
    held_out_error: Annotated[float, Field(ge=0)] | None = None
    how: str


class ConstantsBlock(Spec):
    """Fitted constants and where they come from."""

    fit: Fit


class MatmulConstants(ConstantsBlock):
    """Constants of the tiled matrix product (`predict/matmul.py`): what the kernels of one library are and reach.

    Without `tiles` the product is arithmetic and traffic alone: the smooth roofline.

    `tiles` [rows, columns] and `splits` (of the summed dimension) are what the library chooses among; a part holds at
    least `least_k` of it. Shares of both peaks [1]; `core_load_ratio` [1] is how fast one core can load over its equal
    part of the memory bandwidth; `wave_quantisation` [1] is 1 where all cores wait for the last round;
    `epilogue_share` [1] of a tile's result is written while nothing else runs. Seconds: `launch_s` of the kernel,
    `tile_s` to fill the pipeline of a tile, `split_s` to launch the sum of the parts. `quantise_bytes` [B] cross
    memory for each activation that a kernel before the product quantises. At full load the clocks settle
    `sustained_slowdown` [1] below a burst's, half of it after `settle_s` [s].
    """

    tiles: Annotated[tuple[_Tile, ...], Field(strict=False)] = ()
    splits: Annotated[tuple[_Whole, ...], Field(min_length=1, strict=False)] = (1,)
    least_k: Annotated[int, Field(ge=1)] = 128
    compute_efficiency: _Share
    memory_efficiency: _Share
    exponent: Annotated[float, Field(ge=1, le=16)]
    launch_s: _Seconds
    core_load_ratio: Annotated[float, Field(gt=0, le=100)] = 1.0
    wave_quantisation: Annotated[float, Field(ge=0, le=1)] = 1.0
    epilogue_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    tile_s: _Seconds = 0.0
    split_s: _Seconds = 0.0
    quantise_bytes: Annotated[float, Field(ge=0, le=100)] = 0.0
    sustained_slowdown: Annotated[float, Field(ge=0, le=1)] = 0.0
    settle_s: Annotated[float, Field(gt=0, le=1)] = 1e-3


class GroupedConstants(ConstantsBlock):
    """Constants of the FFN of routed experts (`predict/grouped.py`): gather, two grouped products, weighted sum.

    `tiles` [rows, columns] as in `MatmulConstants`, `core_load_ratio` [1] too. Shares of both peaks [1] and `exponent`
    [1] are those of the products; the kernels around them take the time of `activation_passes` [1] times their least
    traffic at the data-sheet bandwidth. `launch_s` [s] is the floor of all kernels together.
    """

    tiles: Annotated[tuple[_Tile, ...], Field(min_length=1, strict=False)]
    compute_efficiency: _Share
    memory_efficiency: _Share
    exponent: Annotated[float, Field(ge=1, le=16)]
    launch_s: _Seconds
    core_load_ratio: Annotated[float, Field(gt=0, le=100)]
    activation_passes: Annotated[float, Field(ge=0, le=100)]


class TileConstants(ConstantsBlock):
    """Constants of `tiled_attention_compute_time` and `fused_attention_time` of a causal prefill.

    `peak_efficiency` [1] inside the tiles, `block_tiles` [tiles] start and end of a row block, `lone_share` [1] time of
    a tile on a core without a second block, `exponent` [1], `memory_efficiency` [1], `launch_s` [s].
    """

    peak_efficiency: _Share
    block_tiles: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    lone_share: _Share
    exponent: Annotated[float, Field(ge=1, le=16)]
    memory_efficiency: _Share
    launch_s: _Seconds


class FlashConstants(TileConstants):
    """A fused attention library that also trains: its backward pass reaches `backward_efficiency_ratio` of forward."""

    backward_efficiency_ratio: Quantity


class DecodeConstants(ConstantsBlock):
    """Constants of `decode_attention_time`.

    Shares of both peaks [1] (`ungrouped_efficiency` of the bandwidth when every query head has its own keys),
    `lone_speedup` and `exponent` [1], and the times of a stream, of a cold cache and of the launch [s].
    `max_splits_ungrouped` [1] is 1 where the kernel for ungrouped heads cannot split the keys.
    """

    memory_efficiency: _Share
    ungrouped_efficiency: _Share
    compute_efficiency: _Share
    lone_speedup: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    block_s: _Seconds
    cold_s: _Seconds
    launch_s: _Seconds
    exponent: Annotated[float, Field(ge=1, le=16)] = 3.0
    max_splits_ungrouped: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 128.0


class UnsplitLatentConstants(ConstantsBlock):
    """Constants of `unsplit_latent_decode_time`: share of a core's peak [1], slowdown of a pair [1], floors [s]."""

    compute_efficiency: _Share
    pair_slowdown: Annotated[float, Field(ge=1, le=2)]
    block_s: _Seconds
    launch_s: _Seconds


class ElementwiseConstants(ConstantsBlock):
    """Constants of `elementwise_time`: share of the memory bandwidth [1] and floor of one kernel [s].

    A kernel with one block of threads a row has more (`row_kernel_time`): `step_s` [s] of a pass of the block, and
    `cached_share` [1] of the last cache that operands may fill and stay in it.
    """

    memory_efficiency: _Share
    launch_s: _Seconds
    step_s: _Seconds = 0.0
    cached_share: Annotated[float, Field(ge=0, le=1)] = 0.0


class FrameworkConstants(ConstantsBlock):
    """What a framework leaves of kernel tables: `compute_share` [1] of their arithmetic rate, in a stream of kernels.

    Tables repeat one kernel; between others it meets lower clocks and colder caches.
    """

    compute_share: _Share


class ProtocolConstants(ConstantsBlock):
    """One protocol of the collective laws: floor [s], ring step [s], share of the scale-up link [1]."""

    launch_s: _Seconds
    latency_s: _Seconds
    link_efficiency: _Share


class CustomAllReduceConstants(ConstantsBlock):
    """All-reduce kernels of a serving engine, up to `max_bytes` [B]; beyond it the engine calls the protocols.

    One-shot and two-shot laws: floor [s], peer [s], share of the scale-up link [1]; an engine may have one-shot only.
    """

    one_shot_launch_s: _Seconds
    one_shot_latency_s: _Seconds
    one_shot_link_efficiency: _Share
    two_shot_launch_s: _Seconds | None = None
    two_shot_latency_s: _Seconds | None = None
    two_shot_link_efficiency: _Share | None = None
    max_bytes: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class InNetworkConstants(ConstantsBlock):
    """Constants of `in_network_all_reduce_time`: floor [s] and share of the scale-up link [1]."""

    launch_s: _Seconds
    link_efficiency: _Share


class NetworkConstants(ConstantsBlock):
    """Collectives across domains: floor [s], step from domain to domain [s], share of the scale-out link [1].

    `tree_latency_s` [s] is one level of a tree, `tree_link_efficiency` [1] what it reaches of the link.
    """

    launch_s: _Seconds
    latency_s: _Seconds
    link_efficiency: _Share
    tree_latency_s: _Seconds
    tree_link_efficiency: _Share
