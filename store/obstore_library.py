"""The library obstore, of the extra `azure`, in processes that fork.

Its core is a runtime of threads in a static variable of a shared object, made at the first request: a child of a fork
inherits the variable without the threads, and its first request waits for ever. So a child that finds the library in
its memory loads the shared object once more, from an anonymous file, as the dynamic loader gives the file that it knows
only once; what it inherited is not touched. That costs 30 ms and 15 MB in each such child.

Thread-safe.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import threading
from typing import Any

from dvfs.store.errors import Unsupported

_CORE = "obstore._obstore"


class _Process:
    """What this process has of the library. *must_copy*: its memory has that of its parent."""

    def __init__(self, must_copy: bool) -> None:
        self.must_copy = must_copy
        self.lock = threading.Lock()
        self.core: Any = None


_process = _Process(must_copy=False)


def obstore_core() -> Any:
    """Return the module of functions and stores that works in this process. Raises Unsupported without obstore."""
    here = _process
    with here.lock:
        if here.core is None:
            try:
                import obstore._obstore as imported
            except ImportError as exc:
                raise Unsupported(f"stores at azure:// need obstore: {exc}", hint="pip install 'dvfs[azure]'") from exc
            here.core = _copy_of(imported) if here.must_copy else imported
        return here.core


def _copy_of(imported: Any) -> Any:
    """Load the shared object of the module *imported* again, as another; `sys.modules` stays as it is."""
    descriptor = os.memfd_create("obstore")  # left open: its name in /proc is that of the copy
    with open(imported.__file__, "rb") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            left -= os.sendfile(descriptor, file.fileno(), None, left)
    path = f"/proc/self/fd/{descriptor}"
    known = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "obstore"}
    try:
        loader = importlib.machinery.ExtensionFileLoader(_CORE, path)
        spec = importlib.util.spec_from_file_location(_CORE, path, loader=loader)
        assert spec is not None
        copy = importlib.util.module_from_spec(spec)
        loader.exec_module(copy)
    finally:
        sys.modules.update(known)
    return copy


def _after_fork_in_child() -> None:
    global _process
    _process = _Process(must_copy=_process.must_copy or _CORE in sys.modules)


os.register_at_fork(after_in_child=_after_fork_in_child)
