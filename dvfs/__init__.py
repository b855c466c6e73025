"""dvfs mounts any version of a dataset as a directory; `Dataset` makes, finds and reads versions from Python.

`dvfs.store` holds versions, `dvfs.fs` mounts them, `dvfs.cli` is the program. `Dataset` and `DvfsError` are imported
when they are first used: the program itself starts without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvfs.dataset import Dataset
    from dvfs.store.errors import DvfsError

__version__ = "0.1.0"

__all__ = ["Dataset", "DvfsError", "__version__"]

if not TYPE_CHECKING:  # or every name would be one of the module

    def __getattr__(name: str) -> object:
        if name == "Dataset":
            from dvfs.dataset import Dataset

            return Dataset
        if name == "DvfsError":
            from dvfs.store.errors import DvfsError

            return DvfsError
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
