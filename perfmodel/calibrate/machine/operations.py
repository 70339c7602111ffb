"""What is measured: one kernel of one size, its sample, and the device that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from perfmodel.calibrate.machine.block import BlockShape

__all__ = ["KINDS", "Device", "Facts", "Operation", "Sample"]

KINDS: Mapping[str, tuple[str, ...]] = {
    "matmul": ("m", "n", "k"),
    "prefill": ("batch", "seq_len", "n_heads", "n_kv_heads", "d_head"),
    "backward": ("batch", "seq_len", "n_heads", "n_kv_heads", "d_head"),
    "decode": ("batch", "kv_len", "n_heads", "n_kv_heads", "d_head"),
    "elementwise": ("elements", "operands"),
    "copy": ("n_bytes",),
    "all_reduce": ("ranks", "n_bytes"),
    "all_gather": ("ranks", "n_bytes"),
    "reduce_scatter": ("ranks", "n_bytes"),
    "all_to_all": ("ranks", "n_bytes"),
}
"""The sizes of each kind of operation. `prefill` is causal attention forward, `backward` its gradient alone; `decode`
one new token per sequence over `kv_len` cached ones; `elementwise` reads and writes `operands` arrays in all; `copy`
reads and writes `n_bytes` each; `n_bytes` of a message are the rank's own, or the gathered or un-scattered total."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One kernel of one size in one precision; `sizes` stand in the order of `KINDS[kind]`."""

    kind: str
    dtype: str
    sizes: tuple[int, ...]

    def named(self) -> dict[str, int]:
        """The sizes by name."""
        return dict(zip(KINDS[self.kind], self.sizes, strict=True))


@dataclass(frozen=True, slots=True)
class Sample:
    """The times of one operation [s]: median, 10th and 90th percentile of `repeats` repetitions."""

    operation: Operation
    seconds: float
    p10_s: float
    p90_s: float
    repeats: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a device says of itself; None where it does not say. `stack` names libraries and versions.

    `n_cores` [1] cores or SMs that kernels use; `memory_bytes`, `last_cache_bytes`, `core_cache_bytes` [B]; `limit_w`
    and `idle_w` [W]; `count` equal devices in the machine. `relative` is the shipped accelerator that this is
    (`is_relative`), or the nearest with kernel constants.
    """

    name: str
    vendor: str
    architecture: str
    n_cores: int
    memory_bytes: float
    last_cache_bytes: float
    core_cache_bytes: float
    stack: str
    relative: str
    is_relative: bool = False
    limit_w: float | None = None
    idle_w: float | None = None
    count: int = 1
    notes: tuple[str, ...] = field(default=())


class Device(Protocol):
    """What runs operations: the NumPy of this machine, a GPU through PyTorch, or a test's law with noise."""

    @property
    def kind(self) -> str:
        """What `--device` calls it: cpu or cuda."""

    def facts(self) -> Facts:
        """What the device says of itself."""

    def operations(self, quick: bool) -> Sequence[Operation]:
        """What is to be measured, the same list every time."""

    def repetitions(self, operation: Operation, repeats: int) -> Sequence[float]:
        """Seconds of one call in each repetition, after a warm-up, operands cold as in a model."""

    def block(self, shape: BlockShape, repeats: int) -> Sequence[float]:
        """Seconds of one forward pass of a transformer block in each repetition."""
