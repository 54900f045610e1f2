"""The machine: what it is, what it can do at best, and how much memory a process holds."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = [
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "lightly",
    "pytorch-metric-learning",
    "sentence-transformers",
    "faiss-cpu",
    "lancedb",
    "av",
    "numpy",
]
_STATUS = Path("/proc/self/status")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Facts to read figures by."""
    import torch

    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_gb": round(_memory() / 2**30, 1),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "amx": "amx_tile" in _flags(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "load": round(os.getloadavg()[0], 2),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def synchroniser(device: str) -> Callable[[], None]:
    """What waits until the device has done everything asked of it."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def measure_limits(device: str) -> dict[str, float]:
    """The best this machine does in a second or two: matrix products and copies.

    Products of square matrices, the largest rate of several sizes and repeats; a copy of 256 MB, which reads and
    writes each byte once.

    Returns:
        {"float32": GFLOP/s, "bfloat16": GFLOP/s, "copy": GB/s}.
    """
    import torch

    wait, found = synchroniser(device), {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        best = 0.0
        for side in (1024, 2048) if device == "cpu" else (4096, 8192):
            left = torch.randn(side, side, device=device).to(dtype)
            best = max(best, 2 * side**3 / _least(lambda: left @ left, wait) / 1e9)  # noqa: B023 (called at once)
        found[name] = best
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * source.nbytes / _least(lambda: target.copy_(source), wait) / 1e9
    return found


def _least(call: Callable[[], object], wait: Callable[[], None], repeats: int = 8) -> float:
    best = float("inf")
    for _ in range(repeats):
        wait()
        began = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - began)
    return best


class Memory:
    """Peak of the memory that a process (or its GPU) holds, above what it held at `start`."""

    def __init__(self, device: str) -> None:
        self.device, self._before = device, 0.0

    def start(self) -> bool:
        """Begin anew; False where the system cannot say."""
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
            return True
        _give_back()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes what is held now
        except OSError:
            return False
        self._before = _status("VmHWM")
        return True

    def extra(self) -> float:
        """Megabytes above those at the start."""
        if self.device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**20 - self._before
        return _status("VmHWM") - self._before


def held() -> float:
    """Megabytes resident now."""
    return _status("VmRSS")


def _status(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 2**10


def _give_back() -> None:
    """Freed memory goes back to the system, where the C library can do that: it must not hide what a run takes."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def limit_memory() -> None:
    """A process that would take more than there is gets an error instead of bringing the machine down."""
    if not _STATUS.exists():
        return
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 2**10 for line in lines if line.startswith("MemAvailable"))
    most = int(_status("VmSize") * 2**20 + 0.9 * available)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
