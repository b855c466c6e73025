"""What tests of `dvfs://` share."""

from __future__ import annotations

import gc

from dvfs.fsspec import _VERSIONS, DvfsFileSystem
from dvfs.surroundings import THIS_PROGRAM


def let_go() -> None:
    """Close all that this process holds open of stores: file systems, versions, stores."""
    THIS_PROGRAM.wait_for_notes()
    DvfsFileSystem.clear_instance_cache()
    _VERSIONS.forget()
    gc.collect()
    THIS_PROGRAM.stores.close()
