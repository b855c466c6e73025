"""Mounts a version that a test made, as a program of its own: what it is told comes as JSON, what it says is JSON.

The store can be broken, or made to hang, while it runs: for as long as a file exists. A writable mount is told the
folder of its overlay.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvfs.fs.mount import mount_daemon
from dvfs.fs.options import MountOptions
from dvfs.fs.overlay.editing import base_for
from dvfs.fs.overlay.home import Folder
from dvfs.fs.source import OpenedVersion
from dvfs.store.backend import Backend, Blob
from dvfs.store.cache import Cache
from dvfs.store.cache_cost import COSTLY_NS
from dvfs.store.errors import DvfsError, Unavailable
from tests.fs.made_version import Made, opened


class Breakable:
    """A backend that fails while the file *broken* exists, and does not answer while *hanging* does.

    A thread that it keeps waiting is called dvfs:hangs. Each answer takes *delay_seconds*.
    """

    def __init__(self, inner: Backend, broken: Path, hanging: Path, delay_seconds: float) -> None:
        self._inner = inner
        self._delay_seconds = delay_seconds
        self._broken = broken
        self._hanging = hanging

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get(self, key: str, start: int = 0, length: int | None = None) -> Blob:
        if self._hanging.exists():
            Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("dvfs:hangs")
        while self._hanging.exists():
            time.sleep(0.01)
        if self._broken.exists():
            raise Unavailable(f"{key}: the store does not answer")
        time.sleep(self._delay_seconds)
        return self._inner.get(key, start, length)


def main() -> int:
    told = json.loads(sys.argv[1])
    made: Made = pickle.loads(Path(told["made"]).read_bytes())

    def open_version() -> OpenedVersion:
        if told.get("fails"):
            raise Unavailable("the store cannot be reached", hint="try later")
        if told.get("crashes"):
            raise ZeroDivisionError("by test")
        if told.get("dies"):
            os._exit(3)
        cache = Cache(
            Path(told["cache"]),
            budget_bytes=told.get("budget_bytes", 1 << 30),
            reserve_bytes=0,
            costly_write_ns=told.get("costly_write_ns", COSTLY_NS),
        )
        broken, hanging, delay_seconds = Path(told["broken"]), Path(told["hanging"]), told.get("delay_seconds", 0)
        version = made.open(cache, wrap=lambda inner: Breakable(inner, broken, hanging, delay_seconds))
        version.check()

        folder = Folder(Path(told["overlay"])) if options.writable else None
        if folder is not None:
            assert base_for(folder, made.record.id) == made.record.id

        def close() -> None:
            version.close()
            cache.close()
            if folder is not None:
                folder.close()

        return replace(opened(version, close), folder=folder)

    words = told["options"]
    options = MountOptions(
        **words
        | {"directory": Path(words["directory"]), "state_dir": Path(words["state_dir"])}
        | {"subdir": os.fsencode(words.get("subdir", "")), "fuse_options": tuple(words.get("fuse_options", ()))}
    )
    try:
        ready = mount_daemon(options, open_version, lambda version: open_version())
    except DvfsError as exc:
        print(json.dumps({"kind": exc.kind, "message": exc.message, "hint": exc.hint}))
        return 1
    print(json.dumps({"pid": ready.pid, "digest": ready.digest, "log": ready.log}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
