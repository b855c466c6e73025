"""Memory of buffers that were dropped is used for the next ones."""

from __future__ import annotations

import subprocess
import sys

_ROUNDS = 20
_CODE = f"""
import resource
from dvfs.fs import memory

def faults_of_rounds():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({_ROUNDS}):
        kept = [b"x" * (2 << 20) for _ in range(8)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults_of_rounds()
memory.use_again()
faults_of_rounds()
print(first, faults_of_rounds())
"""
_PAGES_OF_A_ROUND = 8 * 512


def test_buffers_are_made_of_memory_that_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    usual, again = map(int, done.stdout.split())
    assert usual > _ROUNDS // 2 * _PAGES_OF_A_ROUND
    assert again < _PAGES_OF_A_ROUND
