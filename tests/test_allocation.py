"""Freed memory stays with the process, and only verbs ask for that."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
torch.set_num_threads(1)
from counterpoint.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory() and keep_freed_memory()
def layers():
    for _ in range(20):
        activations = [torch.ones(2**21) for _ in range(6)]  # 8 MB each
        del activations
layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
layers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    # glibc's first threshold, held: by itself it rises with what is freed, and trimming depends on the heap's end.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
    command = [sys.executable, "-c", FAULTS, how]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_not_asked_for_again() -> None:
    given_back, kept = faults("given back"), faults("kept")
    assert given_back > 20 * 6 * 2048 / 2  # 8 MB are 2,048 pages
    assert kept < given_back / 20


def test_importing_the_library_changes_nothing() -> None:
    code = "import counterpoint, sys; sys.exit('counterpoint.allocation' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
