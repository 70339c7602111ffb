"""Which device `--device` means."""

from __future__ import annotations

from importlib.util import find_spec

from perfmodel.calibrate.machine.numpy_device import NumpyDevice
from perfmodel.calibrate.machine.operations import Device
from perfmodel.errors import PlanError, unknown_name

__all__ = ["DEVICES", "open_device"]

DEVICES = ("auto", "cpu", "cuda")


def open_device(name: str | None = None) -> Device:
    """The device of that name; `auto` is a GPU where PyTorch finds one, else the CPU.

    Raises `PlanError` for an unknown name or where PyTorch finds no GPU, `MissingExtraError` without PyTorch.
    """
    name = name or "auto"
    if name not in DEVICES:
        raise PlanError(f"--device: {unknown_name('device', name, DEVICES)}")
    if name == "cpu" or (name == "auto" and find_spec("torch") is None):
        return NumpyDevice()
    from perfmodel.calibrate.machine.torch_device import TorchDevice, finds_gpu

    if name == "auto" and not finds_gpu():
        return NumpyDevice()
    return TorchDevice()
