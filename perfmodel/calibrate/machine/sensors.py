"""What a machine says of itself: processor, caches, memory, watts; every reader has an answer where nothing is said."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["cores", "cpu_cache_bytes", "cpu_name", "cpu_watts", "gpu_watts", "memory_bytes"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_CPU = Path("/sys/devices/system/cpu/cpu0/cache")
_RAPL = Path("/sys/class/powercap/intel-rapl:0")
_CORE_CACHE, _LAST_CACHE = 2.0**20, 32.0 * 2**20
"""Taken where a machine does not say [B]."""


def cores() -> int:
    """The cores this process may use, at most as many as its BLAS is told to."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = [int(os.environ[name]) for name in _THREADS if os.environ.get(name, "").isdecimal()]
    return max(1, min([usable, *(count for count in told if count)]))


def cpu_name() -> tuple[str, str]:
    """Vendor and model of the processor as the system calls them."""
    text = _read(Path("/proc/cpuinfo"))
    vendor, model = (re.search(rf"^{key}\s*:\s*(.+)$", text, re.M) for key in ("vendor_id", "model name"))
    known = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}
    name = model[1].strip() if model else platform.processor() or platform.machine() or "CPU"
    return known.get(vendor[1].strip(), vendor[1].strip()) if vendor else "unknown", name


def cpu_cache_bytes() -> tuple[float, float]:
    """The second-level cache of a core and the last level [B]."""
    sizes: dict[int, float] = {}
    for index in sorted(_CPU.glob("index*")) if _CPU.is_dir() else []:
        level, size = _read(index / "level").strip(), re.fullmatch(r"(\d+)([KMG])", _read(index / "size").strip())
        if level.isdecimal() and size and _read(index / "type").strip() != "Instruction":
            sizes[int(level)] = float(size[1]) * _UNITS[size[2]]
    return sizes.get(2, _CORE_CACHE), sizes[max(sizes)] if sizes else _LAST_CACHE


def memory_bytes() -> float:
    """Memory of the machine [B]."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return 8.0 * 2**30


def cpu_watts() -> tuple[float | None, float | None]:
    """Power limit of the package [W] where the system lets it be read, and no idle power: nothing reports one."""
    text = _read(_RAPL / "constraint_0_power_limit_uw").strip()
    return (float(text) * 1e-6 if text.isdecimal() and int(text) else None), None


def gpu_watts() -> tuple[float | None, float | None]:
    """Power limit and draw of the first GPU now [W], from nvidia-smi; read it while nothing runs."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None, None
    query = [tool, "--query-gpu=power.limit,power.draw", "--format=csv,noheader,nounits", "--id=0"]
    try:
        ran = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    found = [_watts(word) for word in ran.stdout.strip().split(",")]
    return (found[0], found[1]) if len(found) == 2 else (None, None)


def _watts(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:  # "[N/A]"
        return None
    return value if value > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
