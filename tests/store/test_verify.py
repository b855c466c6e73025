"""Verifying finds each kind of damage by name, in the store and in a local copy, and nothing where all is right."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store.block import BlockRef
from dvfs.store.digest import block_digest
from dvfs.store.errors import InvalidInput, Unavailable
from dvfs.store.ids import pack_key
from dvfs.store.materialise import copy_out
from dvfs.store.record import Record
from dvfs.store.verify import verify_stored
from dvfs.store.verify_copy import verify_copy
from tests.catalog_model import Model
from tests.lineage_kit import make, memory_store
from tests.memory_backend import MemoryBackend
from tests.store.noise import noise
from tests.store_kit import SMALL_CUTTING, Kit, write_odd_tree


class Stored:
    """A version in a memory store, whose objects a test may damage."""

    def __init__(self, folder: Path) -> None:
        self.backend = MemoryBackend()
        self.kit = Kit(lambda: self.backend, folder)
        self.source = folder / "source"

    def publish(self, files: dict[str, bytes]) -> Record:
        for name, data in files.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return self.kit.publish(self.source)

    def blocks(self, record: Record, path: str) -> list[BlockRef]:
        with self.kit.machine() as store, closing(store.version(record)) as version:
            found = version.tree.find(path.encode())
            assert found is not None
            return list(version.blocks(found[1]))

    def damage(self, block: BlockRef, how: Callable[[bytearray, int, int], object]) -> None:
        key = pack_key(block.pack)
        data = bytearray(self.backend.objects[key])
        how(data, block.offset, block.offset + block.stored)
        self.backend.objects[key] = bytes(data)

    def verify(self, record: Record, *, sizes_only: bool = False, workers: int = 3) -> dict[str, str]:
        with self.kit.machine("verifier") as store, closing(store.version(record)) as version:
            version.check()
            found = list(verify_stored(version, sizes_only=sizes_only, workers=workers))
        assert len({path for path, _ in found}) == len(found)
        return {os.fsdecode(path): reason for path, reason in found}


def flip(data: bytearray, start: int, stop: int) -> None:
    data[(start + stop) // 2] ^= 1


def cut(data: bytearray, start: int, stop: int) -> None:
    del data[stop - 1 :]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


FILES = {
    "a": b"1",
    "a2": b"2",
    "b/c": b"22",
    "b/d": b"",
    "big": noise(400_000, 1),
    "twin": noise(400_000, 1),
    "z": noise(70_000, 2),
}


def test_a_whole_version_has_no_mismatch(stored: Stored, tmp_path: Path) -> None:
    write_odd_tree(tmp_path / "odd")
    record = stored.kit.publish(tmp_path / "odd")
    assert stored.verify(record) == {}
    assert stored.verify(record, sizes_only=True) == {}


def test_a_damaged_block_names_the_files_in_it(stored: Stored) -> None:
    record = stored.publish(FILES)
    (small,) = stored.blocks(record, "a")
    stored.damage(small, flip)
    stored.damage(stored.blocks(record, "big")[3], flip)
    found = stored.verify(record)
    assert set(found) == {"a", "a2", "big", "twin"}
    assert all("damaged" in reason for reason in found.values())
    assert stored.verify(record, sizes_only=True) == {}


@pytest.mark.parametrize("sizes_only", [False, True])
def test_a_missing_and_a_short_pack(stored: Stored, sizes_only: bool) -> None:
    record = stored.publish(FILES | {f"n{number:02}": noise(60_000, number) for number in range(10, 30)})
    last = stored.blocks(record, "n29")[0]
    with stored.kit.machine() as store, closing(store.version(record)) as version:
        behind = {
            path.decode()
            for path, entry in version.entries()
            for block in (version.blocks(entry) if entry.is_file else ())
            if block.pack == last.pack and block.offset >= last.offset
        }
        whole = {
            path.decode(): {block.pack for block in version.blocks(entry)}
            for path, entry in version.entries()
            if entry.is_file
        }
    stored.damage(last, cut)
    found = stored.verify(record, sizes_only=sizes_only)
    assert set(found) == behind != set()
    del stored.backend.objects[pack_key(last.pack)]
    found = stored.verify(record, sizes_only=sizes_only)
    assert set(found) == {path for path, packs in whole.items() if last.pack in packs}
    assert all("missing" in reason for reason in found.values())


def test_a_damaged_page_stands_for_its_entries(stored: Stored) -> None:
    record = stored.publish({f"f{number:03}": b"%d" % number for number in range(200)})
    with stored.kit.machine("verifier") as store, closing(store.version(record)) as version:
        leaf = None
        page = version.pages.load(version.root.page)
        while page.level:
            ref = page.child(page.count // 2)  # type: ignore[union-attr]
            page, leaf = version.pages.load(ref), ref
        assert leaf is not None
        first = os.fsdecode(page.path_at(0))  # type: ignore[union-attr]
    stored.damage(leaf.block, flip)
    found = stored.verify(record)
    assert list(found) == [first]
    assert found[first].startswith(f"{leaf.entries} entries of the catalog from here on: ")


def test_entries_whose_digest_is_not_that_of_their_bytes(tmp_path: Path) -> None:
    """What a catalog says of a file is compared with its bytes, not only its blocks with their digests."""
    stored = Stored(tmp_path)
    record = stored.publish(FILES)
    with stored.kit.machine() as store, closing(store.version(record)) as version:
        model: Model = dict(version.entries())
        forged = model | {path: model[path]._replace(digest=block_digest(b"9")) for path in (b"a", b"b/d")}
        with memory_store(tmp_path / "forger", backend=stored.backend) as other:
            lie = make(other, forged, name="forged")
    assert set(stored.verify(lie)) == {"a", "b/d"}


def test_a_block_of_many_files_is_read_once_and_the_cache_is_not_asked(stored: Stored) -> None:
    record = stored.publish({f"f{number:03}": noise(500, number) for number in range(400)} | FILES)
    assert stored.verify(record) == {}
    stored.backend.gets.clear()
    assert stored.verify(record, workers=1) == {}
    asked = sum(length or 0 for key, _, length in stored.backend.gets if key.startswith("packs/"))
    held = sum(len(data) for key, data in stored.backend.objects.items() if key.startswith("packs/"))
    assert held * 0.9 < asked < held * 1.2


def test_a_store_out_of_reach_is_no_mismatch(stored: Stored) -> None:
    record = stored.publish(FILES)

    def refuse(get: object) -> None:
        raise Unavailable("gone")

    with stored.kit.machine("verifier") as store, closing(store.version(record)) as version:
        stored.backend.on_get = refuse
        with pytest.raises(Unavailable):
            list(verify_stored(version))


# --- a local copy


def check_copy(stored: Stored, record: Record, folder: Path, *, sizes_only: bool = False) -> dict[str, str]:
    with stored.kit.machine("verifier") as store, closing(store.version(record)) as version:
        found = list(verify_copy(version, folder, SMALL_CUTTING, sizes_only=sizes_only, workers=2))
    return {os.fsdecode(path): reason for path, reason in found}


def test_a_copy_and_what_became_of_it(stored: Stored, tmp_path: Path) -> None:
    write_odd_tree(tmp_path / "odd")
    record = stored.kit.publish(tmp_path / "odd")
    copied = tmp_path / "copied"
    with stored.kit.machine() as store, closing(store.version(record)) as version:
        copy_out(version, copied)
    assert check_copy(stored, record, copied) == {}

    (copied / "extra").write_text("does not count")
    (copied / "x").chmod(0o600)
    os.utime(copied / "x")
    assert check_copy(stored, record, copied) == {}

    data = bytearray((copied / "big/random").read_bytes())
    data[1 << 20] ^= 1
    (copied / "big/random").write_bytes(data)
    (copied / "empty").write_bytes(b"longer")
    (copied / "dangling").unlink()
    (copied / "dangling").symlink_to("elsewhere")
    (copied / "old").unlink()
    (copied / "many/f000").unlink()
    (copied / "many/f000").mkdir()
    (copied / "empty directory/inside").rmdir()
    expected = {
        "big/random": "its bytes do not have its digest",
        "empty": "it has 6 bytes, not 0",
        "dangling": "it points elsewhere",
        "old": "missing",
        "many/f000": "it is a directory",
        "empty directory/inside": "missing",
    }
    assert check_copy(stored, record, copied) == expected
    expected.pop("big/random")
    assert check_copy(stored, record, copied, sizes_only=True) == expected


def test_a_folder_that_is_none(stored: Stored, tmp_path: Path) -> None:
    record = stored.publish(FILES)
    with pytest.raises(InvalidInput):
        check_copy(stored, record, tmp_path / "nothing")
