"""Runs dvfs, and writes what it used to a file when it ends: seconds of processor time, and the most memory in bytes.

    python -m bench.peak FILE WORDS...       `dvfs WORDS...`

What the kernel tells of a child (`ru_maxrss`) begins with the memory of the parent.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from bench.programs import usage
from dvfs.cli.main import main

if __name__ == "__main__":
    file = Path(sys.argv[1])
    atexit.register(lambda: file.write_text(json.dumps(asdict(usage(os.getpid())))))
    sys.argv[:2] = ["dvfs"]
    main()
