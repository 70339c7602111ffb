"""Kernel constants of one accelerator: what its libraries reach of the data-sheet peaks, with how each was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.specs import registry
from perfmodel.specs.kernel_constants import (
    ConstantsBlock,
    CustomAllReduceConstants,
    DecodeConstants,
    ElementwiseConstants,
    FlashConstants,
    FrameworkConstants,
    GroupedConstants,
    InNetworkConstants,
    MatmulConstants,
    NetworkConstants,
    ProtocolConstants,
    TileConstants,
    UnsplitLatentConstants,
)
from perfmodel.specs.quantity import Quantity, SourcedSpec

__all__ = ["Efficiency", "OwnConstants", "Protocol", "load_efficiency"]

Protocol = Literal["ll", "ll128", "simple"]
_INHERITED_BY_NAME = (
    "matmul",
    "grouped",
    "attention",
    "decode",
    "mla_decode",
    "mla_prefill",
    "elementwise",
    "framework",
    "custom_all_reduce",
)
_SAME_UNITS = {"fp16": "bf16", "mxfp8": "fp8-block"}
"""Precisions that share the tensor-core rate of another (and nearly the element size), and so its constants."""


class OwnConstants(SourcedSpec):
    """The kernel constants that one accelerator's file, or a calibration of it, says itself."""

    id: str = "custom"
    relative: str | None = None
    matmul: dict[str, MatmulConstants] = Field(default_factory=dict)
    grouped: dict[str, GroupedConstants] = Field(default_factory=dict)
    attention: dict[str, FlashConstants] = Field(default_factory=dict)
    decode: dict[str, DecodeConstants] = Field(default_factory=dict)
    mla_decode: dict[str, DecodeConstants | UnsplitLatentConstants] = Field(default_factory=dict)
    mla_prefill: dict[str, TileConstants] = Field(default_factory=dict)
    elementwise: dict[str, ElementwiseConstants] = Field(default_factory=dict)
    framework: dict[str, FrameworkConstants] = Field(default_factory=dict)
    collective: dict[Protocol, ProtocolConstants] = Field(default_factory=dict)
    all_to_all: dict[Protocol, ProtocolConstants] = Field(default_factory=dict)
    custom_all_reduce: dict[str, CustomAllReduceConstants] = Field(default_factory=dict)
    in_network: InNetworkConstants | None = None
    network: NetworkConstants | None = None
    relative_spread: Quantity | None = None

    @model_validator(mode="after")
    def _is_sound(self) -> Any:
        missing = {"ll", "ll128", "simple"} - self.collective.keys()
        if self.collective and missing:
            raise ValueError(f"collective: lacks {', '.join(sorted(missing))}; give all three protocols or none")
        for where, block in _blocks(self).items():
            if block.fit.source not in self.sources:
                raise ValueError(f"{where}.fit.source: {unknown_name('source', block.fit.source, self.sources)}")
        return self


class Efficiency(OwnConstants):
    """The kernel constants of an accelerator, blocks it lacks taken from its `relative`. Raises `SpecError`.

    `inherited` says in sentences which blocks are another accelerator's; `relative_spread` [1] is the standard
    deviation of the speed of equal accelerators.
    """

    network: NetworkConstants
    relative_spread: Quantity
    inherited: tuple[str, ...] = ()

    def matmul_constants(self, dtype: str) -> MatmulConstants:
        """Constants of matrix products in `dtype` (fp16 has bf16's); raises `PlanError` where none were fitted."""
        return self._constants(self.matmul, "matrix products in", _SAME_UNITS.get(dtype, dtype))

    def grouped_constants(self, library: str, dtype: str) -> GroupedConstants:
        """Constants of a library's FFN of routed experts in `dtype` (fp16 has bf16's); raises `PlanError`."""
        return self._constants(self.grouped, "grouped products of", f"{library}-{_SAME_UNITS.get(dtype, dtype)}")

    def attention_constants(self, library: str) -> FlashConstants:
        """Constants of a fused attention library; raises `PlanError`."""
        return self._constants(self.attention, "attention library", library)

    def decode_constants(self, library: str, kv_dtype: str) -> DecodeConstants:
        """Constants of decode attention over a cache in `kv_dtype`; its 16-bit ones if it has no others of its own."""
        return self._constants(self.decode, "decode attention library", _cached(self.decode, library, kv_dtype))

    def mla_decode_constants(self, library: str, kv_dtype: str) -> DecodeConstants | UnsplitLatentConstants:
        """As `decode_constants`, for latent attention."""
        return self._constants(self.mla_decode, "latent decode library", _cached(self.mla_decode, library, kv_dtype))

    def mla_prefill_constants(self, library: str, kv_dtype: str) -> TileConstants:
        """As `decode_constants`, for the prefill of latent attention."""
        return self._constants(self.mla_prefill, "latent prefill library", _cached(self.mla_prefill, library, kv_dtype))

    def elementwise_constants(self, library: str) -> ElementwiseConstants:
        """Constants of an element-wise kernel library; raises `PlanError`."""
        return self._constants(self.elementwise, "element-wise library", library)

    def inside(self, framework: str) -> Efficiency:
        """These constants with the matrix products as a framework runs them; raises `PlanError`."""
        share = self._constants(self.framework, "framework", framework).compute_share
        slower = {
            dtype: block.model_copy(update={"compute_efficiency": share * block.compute_efficiency})
            for dtype, block in self.matmul.items()
        }
        return self.model_copy(update={"matmul": slower})

    def custom_all_reduce_constants(self, library: str) -> CustomAllReduceConstants:
        """Constants of a serving engine's own all-reduce; raises `PlanError`."""
        return self._constants(self.custom_all_reduce, "all-reduce library", library)

    def _constants(self, blocks: Mapping[str, _BlockType], what: str, name: str) -> _BlockType:
        if name not in blocks:
            raise PlanError(f"{self.id}: no kernel constants: {unknown_name(what, name, blocks)}")
        return blocks[name]


def _cached(blocks: Mapping[str, ConstantsBlock], library: str, kv_dtype: str) -> str:
    own = f"{library}-{kv_dtype}"
    return own if own in blocks else library


_BlockType = TypeVar("_BlockType", bound=ConstantsBlock)


def load_efficiency(what: str | Path | Mapping[str, Any] | OwnConstants, relative: str | None = None) -> Efficiency:
    """The kernel constants of an accelerator id, a path or a dict; blocks it lacks are its relative's.

    `relative` is the accelerator to inherit from when there is no file for `what` or the file names none.
    Raises `SpecError`.

    >>> load_efficiency("a100-sxm-40gb", relative="a100-sxm-80gb").inherited[0]
    'a100-sxm-40gb inherits every kernel constant of a100-sxm-80gb'
    """
    if isinstance(what, Efficiency):
        return what
    own = _own(what, relative)
    resolved, visited, nearest = own, {own.id}, own.relative
    heir = own.id if _blocks(own) else own.relative
    inherited = [] if heir == own.id else [f"{own.id} inherits every kernel constant of {heir}"]
    while nearest is not None and nearest not in visited:
        visited.add(nearest)
        donor = _own(nearest, None)
        resolved, taken = _completed(resolved, donor)
        inherited += [f"{where} of {heir} is {donor.id}'s" for where in taken if donor.id != heir]
        nearest = donor.relative
    fields = {name: getattr(resolved, name) for name in OwnConstants.model_fields}
    absent = [name for name in ("matmul", "attention", "elementwise", "collective", "network") if not fields[name]]
    if absent or fields["relative_spread"] is None:
        missing = ", ".join(absent or ["relative_spread"])
        raise SpecError(
            f"{own.id}: no {missing} constants, neither own nor a relative's (relative {own.relative!r}); "
            f"name a calibrated relative: {', '.join(registry.ids('efficiency'))}"
        )
    return Efficiency(**fields, inherited=tuple(inherited))


def _own(what: str | Path | Mapping[str, Any] | OwnConstants, relative: str | None) -> OwnConstants:
    uncalibrated = isinstance(what, str) and not registry.is_path(what) and what not in registry.ids("efficiency")
    if uncalibrated and relative is None:
        known = unknown_name("calibrated accelerator", what, registry.ids("efficiency"))
        raise SpecError(f"{what}: has no kernel constants and names no relative to inherit from; {known}")
    if uncalibrated:
        return OwnConstants(id=str(what), relative=relative)
    own = registry.load("efficiency", what, OwnConstants)
    return own if own.relative or not relative else own.model_copy(update={"relative": relative})


def _completed(own: OwnConstants, donor: OwnConstants) -> tuple[OwnConstants, list[str]]:
    """`own` with the blocks it lacks from `donor`, and the names of those blocks."""
    changes: dict[str, Any] = {"sources": {**donor.sources, **own.sources}}
    taken = []
    for group in _INHERITED_BY_NAME:
        mine, theirs = getattr(own, group), getattr(donor, group)
        changes[group] = {**theirs, **mine}
        taken += [f"{group}.{name}" for name in theirs if name not in mine]
    if not own.collective and donor.collective:
        # The switch belongs to the protocols it was measured beside: a part with its own has its own switch or none.
        changes |= {name: getattr(donor, name) for name in ("collective", "in_network", "all_to_all")}
        taken += ["collective"] + ["in_network"] * (donor.in_network is not None)
    for name in ("network", "relative_spread"):
        if getattr(own, name) is None and getattr(donor, name) is not None:
            changes[name] = getattr(donor, name)
            taken.append(name)
    return own.model_copy(update=changes), taken


def _blocks(own: OwnConstants) -> dict[str, ConstantsBlock]:
    """Every block of constants by its dotted key."""
    groups: list[tuple[str, Mapping[Any, ConstantsBlock]]] = [
        ("matmul", own.matmul),
        ("grouped", own.grouped),
        ("attention", own.attention),
        ("decode", own.decode),
        ("mla_decode", own.mla_decode),
        ("mla_prefill", own.mla_prefill),
        ("elementwise", own.elementwise),
        ("framework", own.framework),
        ("collective", own.collective),
        ("all_to_all", own.all_to_all),
        ("custom_all_reduce", own.custom_all_reduce),
    ]
    found = {f"{group}.{name}": block for group, blocks in groups for name, block in blocks.items()}
    for name, single in (("in_network", own.in_network), ("network", own.network)):
        if single is not None:
            found[name] = single
    return found
