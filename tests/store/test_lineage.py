"""Opening a version costs the same wherever it stands in its lineage."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvfs.store.catalog.boundary import Boundaries, Boundary
from dvfs.store.metrics import Metered
from dvfs.store.parameters import Parameters
from dvfs.store.scan import ScanOptions
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from tests.store_kit import SMALL_CUTTING, UPLOAD, Kit

FILES = 600
MEDIUM = Boundary(least=16, soft=32, most=64, rare=64, often=16, weight=1 << 20)
"""Leaves that are not all in the tail, below one root."""


def chain(store: Store, folder: Path, length: int, name: str) -> str:
    """Make *length* versions, each of which changes one file of the one before; return the name of the last."""
    for number in range(FILES):
        path = folder / f"d{number % 7}" / f"f{number:03}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {number}\n" * 50)
    parents: list[str] = []
    for number in range(length):
        draft = store.create(project="tests", name=name, parents=parents)
        if number:
            changed = folder / f"d{number % 7}" / f"f{number:03}"
            changed.write_text(f"changed by {number}")
            draft.add_files([changed], ScanOptions(), dataset_folder=f"d{number % 7}")
        else:
            draft.add_files([folder], ScanOptions())
        draft.upload(UPLOAD)
        parents = [draft.finalize().id]
    return f"tests/{name}"


def requests_to_read(kit: Kit, spec: str, path: bytes) -> int:
    """Return how many requests it takes to open *spec* with nothing local and read the file *path*."""
    with kit.machine() as store:
        version = store.version(spec)
        found = version.tree.find(path)
        assert found is not None
        assert version.read(found[1]).startswith((b"file", b"changed"))
        version.close()
        assert isinstance(store.backend, Metered)
        return store.backend.counts.requests


@pytest.mark.parametrize(
    ("long", "parameters"),
    [
        pytest.param(30, Parameters(SMALL_CUTTING, Boundaries(MEDIUM, MEDIUM, MEDIUM)), id="30"),
        pytest.param(300, Parameters(), id="300", marks=pytest.mark.large),
    ],
)
def test_the_last_of_a_long_chain_takes_as_many_requests_as_that_of_a_short_one(
    store_url: str, tmp_path: Path, long: int, parameters: Parameters
) -> None:
    kit = Kit(lambda: open_backend(store_url), tmp_path, parameters)
    with kit.machine("writer") as store:
        short_name = chain(store, tmp_path / "short", 3, "short")
        long_name = chain(store, tmp_path / "long", long, "long")
    for path in (b"d4/f298", b"d5/f005"):  # never changed; changed in the long one alone
        requests = requests_to_read(kit, long_name, path)
        assert requests == requests_to_read(kit, short_name, path)
        assert requests <= 8
