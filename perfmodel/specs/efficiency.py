"""Kernel constants of one accelerator: what its libraries reach of the data-sheet peaks, with how each was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from perfmodel.errors import PlanError, SpecError, unknown_name
from perfmodel.specs import registry
from perfmodel.specs.quantity import Quantity, SourcedSpec, Spec

__all__ = [
    "Efficiency",
    "ElementwiseConstants",
    "Fit",
    "FlashConstants",
    "InNetworkConstants",
    "MatmulConstants",
    "NetworkConstants",
    "Protocol",
    "ProtocolConstants",
    "load_efficiency",
]

Protocol = Literal["ll", "ll128", "simple"]
_Share = Annotated[float, Field(gt=0, le=1)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_SAME_UNITS = {"fp16": "bf16"}
"""Precisions that share the tensor-core rate and the element size of another, and so its constants."""


class Fit(Spec):
    """Where a block of constants comes from. Errors are medians of |ln(law / measured)|, `rows` those fitted."""

    source: str
    table: str
    rows: Annotated[int, Field(ge=0)]
    fitted_error: Annotated[float, Field(ge=0)] | None = None
    held_out_error: Annotated[float, Field(ge=0)] | None = None
    how: str


class _Block(Spec):
    fit: Fit


class MatmulConstants(_Block):
    """Constants of `smooth_roofline_time`: shares of both peaks [1], exponent [1], launch floor [s]."""

    compute_efficiency: _Share
    memory_efficiency: _Share
    exponent: Annotated[float, Field(ge=1, le=16)]
    launch_s: _Seconds


class FlashConstants(_Block):
    """Constants of `flash_attention_time`; `half_length` [tokens] is where half of `peak_efficiency` [1] is reached."""

    peak_efficiency: _Share
    half_length: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    memory_efficiency: _Share
    backward_efficiency_ratio: Quantity
    launch_s: _Seconds


class ElementwiseConstants(_Block):
    """Constants of `elementwise_time`: share of the memory bandwidth [1] and floor of one kernel [s]."""

    memory_efficiency: _Share
    launch_s: _Seconds


class ProtocolConstants(_Block):
    """One protocol of the collective laws: floor [s], ring step [s], share of the scale-up link [1]."""

    launch_s: _Seconds
    latency_s: _Seconds
    link_efficiency: _Share


class InNetworkConstants(_Block):
    """Constants of `in_network_all_reduce_time`: floor [s] and share of the scale-up link [1]."""

    launch_s: _Seconds
    link_efficiency: _Share


class NetworkConstants(_Block):
    """Collectives across domains: floor [s], step from domain to domain [s], share of the scale-out link [1]."""

    launch_s: _Seconds
    latency_s: _Seconds
    link_efficiency: _Share


class _OwnConstants(SourcedSpec):
    """What the file of one accelerator says itself."""

    id: str = "custom"
    relative: str | None = None
    matmul: dict[str, MatmulConstants] = Field(default_factory=dict)
    attention: dict[str, FlashConstants] = Field(default_factory=dict)
    elementwise: dict[str, ElementwiseConstants] = Field(default_factory=dict)
    collective: dict[Protocol, ProtocolConstants] = Field(default_factory=dict)
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


class Efficiency(_OwnConstants):
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

    def attention_constants(self, library: str) -> FlashConstants:
        """Constants of a fused attention library; raises `PlanError`."""
        return self._constants(self.attention, "attention library", library)

    def elementwise_constants(self, library: str) -> ElementwiseConstants:
        """Constants of an element-wise kernel library; raises `PlanError`."""
        return self._constants(self.elementwise, "element-wise library", library)

    def _constants(self, blocks: Mapping[str, _BlockType], what: str, name: str) -> _BlockType:
        if name not in blocks:
            raise PlanError(f"{self.id}: no kernel constants: {unknown_name(what, name, blocks)}")
        return blocks[name]


_BlockType = TypeVar("_BlockType", bound=_Block)


def load_efficiency(what: str | Path | Mapping[str, Any] | Efficiency, relative: str | None = None) -> Efficiency:
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
    fields = {name: getattr(resolved, name) for name in _OwnConstants.model_fields}
    absent = [name for name in ("matmul", "attention", "elementwise", "collective", "network") if not fields[name]]
    if absent or fields["relative_spread"] is None:
        missing = ", ".join(absent or ["relative_spread"])
        raise SpecError(
            f"{own.id}: no {missing} constants, neither own nor a relative's (relative {own.relative!r}); "
            f"name a calibrated relative: {', '.join(registry.ids('efficiency'))}"
        )
    return Efficiency(**fields, inherited=tuple(inherited))


def _own(what: str | Path | Mapping[str, Any], relative: str | None) -> _OwnConstants:
    uncalibrated = isinstance(what, str) and not registry.is_path(what) and what not in registry.ids("efficiency")
    if uncalibrated and relative is None:
        known = unknown_name("calibrated accelerator", what, registry.ids("efficiency"))
        raise SpecError(f"{what}: has no kernel constants and names no relative to inherit from; {known}")
    if uncalibrated:
        return _OwnConstants(id=str(what), relative=relative)
    own = registry.load("efficiency", what, _OwnConstants)
    return own if own.relative or not relative else own.model_copy(update={"relative": relative})


def _completed(own: _OwnConstants, donor: _OwnConstants) -> tuple[_OwnConstants, list[str]]:
    """`own` with the blocks it lacks from `donor`, and the names of those blocks."""
    changes: dict[str, Any] = {"sources": {**donor.sources, **own.sources}}
    taken = []
    for group in ("matmul", "attention", "elementwise"):
        mine, theirs = getattr(own, group), getattr(donor, group)
        changes[group] = {**theirs, **mine}
        taken += [f"{group}.{name}" for name in theirs if name not in mine]
    if not own.collective and donor.collective:
        # The switch belongs to the protocols it was measured beside: a part with its own has its own switch or none.
        changes |= {"collective": donor.collective, "in_network": donor.in_network}
        taken += ["collective"] + ["in_network"] * (donor.in_network is not None)
    for name in ("network", "relative_spread"):
        if getattr(own, name) is None and getattr(donor, name) is not None:
            changes[name] = getattr(donor, name)
            taken.append(name)
    return own.model_copy(update=changes), taken


def _blocks(own: _OwnConstants) -> dict[str, _Block]:
    """Every block of constants by its dotted key."""
    groups: list[tuple[str, Mapping[Any, _Block]]] = [
        ("matmul", own.matmul),
        ("attention", own.attention),
        ("elementwise", own.elementwise),
        ("collective", own.collective),
    ]
    found = {f"{group}.{name}": block for group, blocks in groups for name, block in blocks.items()}
    for name, single in (("in_network", own.in_network), ("network", own.network)):
        if single is not None:
            found[name] = single
    return found
