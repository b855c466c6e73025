"""Searching inside versions finds what a look at every entry finds, and reads shared pages once."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfs.store.catalog.boundary import Boundaries, Boundary
from dvfs.store.catalog.entry import directory
from dvfs.store.catalog.inner import PageRef
from dvfs.store.catalog.pages import Page, PageSource
from dvfs.store.content_search import ContentSearch
from dvfs.store.digest import block_digest
from dvfs.store.errors import Corrupt, InvalidInput
from dvfs.store.parameters import Parameters
from dvfs.store.selection import is_literal, matcher
from dvfs.store.store import Store
from tests.catalog_model import PATHS, Model, models, small_file
from tests.lineage_kit import make, memory_store
from tests.memory_backend import MemoryBackend
from tests.store_kit import SMALL_CUTTING

MEDIUM = Boundary(least=16, soft=32, most=64, rare=64, often=16, weight=1 << 20)
PATTERNS = st.one_of(PATHS, st.sampled_from([b"*", b"x*", b"a/*", b"x/a/*", b"?", b"*/x", b"x/*/b", b"[ab]", b"x-y"]))


@given(st.lists(models(15), min_size=1, max_size=3), PATTERNS, st.binary(max_size=2), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_what_is_found_is_what_a_look_at_all_finds(
    held: list[Model], pattern: bytes, data: bytes, with_path: bool, with_digest: bool
) -> None:
    if not (with_path or with_digest) or pattern.startswith(b"./"):
        return
    digest = block_digest(data)
    matches = (lambda path: path == pattern) if is_literal(pattern) else matcher(pattern, recursive=True)
    with tempfile.TemporaryDirectory() as folder, memory_store(Path(folder)) as store:
        records = [make(store, model) for model in held]
        search = ContentSearch(
            store, path=pattern if with_path else None, digest=digest.hex()[:9] if with_digest else None
        )
        with closing(search):
            for record, model in zip(records, held, strict=True):
                found = search.find(record)
                listed = [] if found is None else list(found)
                assert found is None or found.number == len(listed) > 0
                assert {(match.path, match.mode, match.size, match.digest) for match in listed} == {
                    (path, entry.mode, entry.size, entry.digest)
                    for path, entry in model.items()
                    if path
                    and (not with_path or matches(path))
                    and (not with_digest or (entry.is_file and entry.digest == digest))
                }


def many(folders: int = 20, files: int = 100) -> Model:
    model: Model = {b"": directory()}
    for folder in range(folders):
        model[b"d%02d" % folder] = directory()
        names = [b"d%02d/f%03d" % (folder, number) for number in range(files)]
        model |= {name: small_file(name) for name in names}
    return model


class Counting(PageSource):
    """Notes all pages that are asked for."""

    loaded: ClassVar[list[bytes]] = []

    def load(self, ref: PageRef) -> Page:
        self.loaded.append(ref.content)
        return super().load(ref)


def chain(store: Store, length: int) -> None:
    model = many()
    record = make(store, model)
    for number in range(length):
        model = model | {b"d%02d/f050" % (number % 20): small_file(b"changed by %d" % number)}
        record = make(store, model, [record])


@pytest.mark.parametrize("words", [{"digest": block_digest(b"d07/f099").hex()}, {"path": "*99"}, {"path": "d07/f099"}])
def test_pages_that_versions_share_are_read_once(
    tmp_path: Path, words: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvfs.store.content_search.PageSource", Counting)
    reads = {}
    for length in (0, 40):
        backend = MemoryBackend()
        parameters = Parameters(SMALL_CUTTING, Boundaries(MEDIUM, MEDIUM, MEDIUM))
        with memory_store(tmp_path / f"writer {length}", parameters, backend) as store:
            chain(store, length)
        with memory_store(tmp_path / f"reader {length}", parameters, backend) as store:
            records = store.search()
            Counting.loaded.clear()
            with closing(ContentSearch(store, **words)) as search:
                found = [search.find(record) for record in records]
        assert all(matches is not None and b"d07/f099" in {match.path for match in matches} for matches in found)
        assert len(found) == length + 1
        assert len(Counting.loaded) == len(set(Counting.loaded))
        reads[length] = len(Counting.loaded)
    assert reads[0] < reads[40] <= reads[0] + 40 * 4  # of each child a leaf and what is above it
    if words.get("path") == "d07/f099":
        assert reads[0] <= 3


def test_words_that_name_nothing(tmp_path: Path) -> None:
    with memory_store(tmp_path) as store:
        for words in ({}, {"path": "/"}, {"digest": "abc"}, {"digest": "x" * 64}, {"digest": "a" * 65}):
            with pytest.raises(InvalidInput):
                ContentSearch(store, **words)


def test_a_damaged_version_is_named(tmp_path: Path) -> None:
    backend = MemoryBackend()
    with memory_store(tmp_path / "writer", backend=backend) as store:
        record = make(store, many(2, 5))
    for key in backend.objects:
        if key.startswith("packs/"):
            backend.objects[key] = bytes(len(backend.objects[key]))
    with (
        memory_store(tmp_path / "reader", backend=backend) as store,
        closing(ContentSearch(store, path="d00/f001")) as search,
        pytest.raises(Corrupt, match=record.id),
    ):
        search.find(record)
