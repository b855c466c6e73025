"""The machine under the benchmark: memory is used, and given back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
_ASKS = """
import sys
from bench import machine
def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
before = kib("VmHWM")
with machine.used_memory(int(sys.argv[1])):
    assert kib("VmRSS") - before > int(sys.argv[1]) * 0.9 / 1024
print(kib("VmHWM") - before, kib("VmHWM") - kib("VmRSS"))
"""


def test_memory_is_used_and_given_back() -> None:
    asked = [sys.executable, "-c", _ASKS, str(64 * MIB)]
    root = Path(__file__).parents[2]
    told = subprocess.run(asked, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    used, given_back = (int(kib) * 1024 for kib in told.split())
    assert used > 60 * MIB
    assert given_back > 60 * MIB
