"""Data in other storages: a tag means one URL in all of a store, and a reference stays what it is in every merge."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfs.store.backend import Backend
from dvfs.store.block import BlockRef
from dvfs.store.catalog.columns import Type
from dvfs.store.catalog.entry import Extra
from dvfs.store.errors import (
    Corrupt,
    DvfsError,
    InvalidInput,
    SourceChanged,
    Unavailable,
    Unsupported,
    WrongState,
)
from dvfs.store.ids import pack_key
from dvfs.store.record import SELF, Record, decode, encode
from dvfs.store.scan import ScanOptions
from dvfs.store.squash import squash
from dvfs.store.storages import Storages, first_tag, together
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from dvfs.store.verify import verify_stored
from tests.commit_kit import Committer, MemoryFiles, kept, write
from tests.lineage_kit import make, model_of
from tests.memory_backend import MemoryBackend
from tests.store.noise import noise
from tests.store_kit import UPLOAD, Kit, fill, tree_of, write_odd_tree

Files = dict[str, bytes]


def url_of(folder: Path) -> str:
    return f"file://{folder}"


def read_all(store: Store, record: Record | str) -> Files:
    with closing(store.version(record)) as version:
        return {os.fsdecode(path): version.read(entry) for path, entry in version.entries() if entry.is_file}


def blocks_of(store: Store, record: Record) -> dict[str, list[BlockRef]]:
    """Return path → blocks, of all files that have some, in catalog order."""
    with closing(store.version(record)) as version:
        return {os.fsdecode(path): list(version.blocks(entry)) for path, entry in version.entries() if entry.content}


def tags_of(store: Store, record: Record) -> dict[str, int]:
    """Return path → the tag of the one storage that the file lies in."""
    tags = {path: {block.storage for block in blocks} for path, blocks in blocks_of(store, record).items()}
    assert all(len(found) == 1 for found in tags.values())
    return {path: found.pop() for path, found in tags.items()}


def packs_in(place: Backend | str) -> set[str]:
    with closing(open_backend(place) if isinstance(place, str) else place) as backend:
        return {item.key.rpartition("/")[2] for item in backend.list("packs/")}


def colliding(folder: Path, count: int) -> list[str]:
    """Return the URLs of *count* folders in *folder* whose search for a tag begins at the same one."""
    found: dict[int, list[str]] = {}
    number = 0
    while True:
        url = url_of(folder / f"place{number}")
        same = found.setdefault(first_tag(url), [])
        same.append(url)
        if len(same) == count:
            return same
        number += 1


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(lambda: open_backend(str(tmp_path / "store")), tmp_path)


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    return url_of(tmp_path / "elsewhere")


# --- where data lies


@pytest.mark.parametrize("kinds", ["folder and folder", "folder and s3", "s3 and folder", "s3 and s3"])
def test_a_version_is_read_from_where_its_data_is(kinds: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url, there = (
        f"{request.getfixturevalue('s3_url')}/{name}" if kind == "s3" else url_of(tmp_path / name)
        for kind, name in zip(kinds.split(" and "), ("store", "elsewhere"), strict=True)
    )
    kit = Kit(lambda: open_backend(url), tmp_path)
    source = write_odd_tree(tmp_path / "odd")
    record = kit.publish(source, storage=there)
    assert set(record.storages.values()) == {SELF, there}
    assert record.storages[record.storage] == there
    with kit.machine() as store:
        assert set(tags_of(store, record).values()) == {record.storage} != {0}
        packs = {block.pack.hex() for blocks in blocks_of(store, record).values() for block in blocks}
        rows = tree_of(source).items()
        expected = {os.fsdecode(path): row[3] for path, row in rows if stat.S_ISREG(int(str(row[0])))}
        assert read_all(store, "tests/set") == expected
        assert len(expected) > 300
        with closing(store.version(record)) as version:
            assert list(verify_stored(version)) == []
    assert packs_in(there) == packs
    assert len(packs_in(url)) == 1  # that of the catalog


def test_a_catalog_is_read_without_the_other_storage(kit: Kit, tmp_path: Path, elsewhere: str) -> None:
    record = kit.publish(write(tmp_path / "source", {"a/b": b"1", "c": b"2"}), storage=elsewhere)
    with kit.machine() as store, closing(store.version(record.id)) as version:
        version.check()
        assert [path for path, _ in version.entries()] == [b"", b"a", b"c", b"a/b"]
        assert kit.places == {}
        assert read_all(store, record) == {"a/b": b"1", "c": b"2"}
        assert kit.places[elsewhere].counts.requests == 1


@pytest.mark.parametrize("spelled", ["{store}", "file://{store}", "file://localhost{store}/", "{store}/../store/"])
def test_the_store_itself_is_no_other_storage(kit: Kit, tmp_path: Path, spelled: str) -> None:
    storage = spelled.format(store=tmp_path / "store")
    record = kit.publish(write(tmp_path / "source", {"a": b"1"}), storage=storage)
    assert (record.storages, record.storage) == ({0: SELF}, 0)
    assert not (tmp_path / "store/storages").exists()
    os.rename(tmp_path / "store", tmp_path / "moved")
    moved = Kit(lambda: open_backend(str(tmp_path / "moved")), tmp_path)
    with moved.machine() as store:
        assert read_all(store, record.id) == {"a": b"1"}


def test_later_uploads_go_where_the_last_word_says(kit: Kit, tmp_path: Path) -> None:
    first, second = (url_of(tmp_path / name) for name in ("first", "second"))
    files = {name: noise(90_000, number) for number, name in enumerate("abcd")}
    with kit.machine() as store:
        draft = store.create(project="p", name="n", storage=first)
        for name, storage in (("a", None), ("b", second), ("c", None), ("d", str(tmp_path / "store"))):
            draft.add_files([write(tmp_path / name, {name: files[name]})], ScanOptions())
            draft = store.draft(draft.record.id)  # as another command, which knows what the record says
            draft.upload(UPLOAD, storage=storage)
        record = draft.finalize()
        one, two = (store.storages.tag(url)[0] for url in (first, second))
        assert record.storages == {0: SELF, one: first, two: second}
        assert tags_of(store, record) == {"a": one, "b": two, "c": two, "d": 0}
        with pytest.raises(WrongState):
            store.draft(record.id)
        with pytest.raises(WrongState):
            store.place_data(record.id, first)
    with kit.machine() as store:
        assert read_all(store, record) == files


def test_an_upload_that_broke_off_goes_on_elsewhere(kit: Kit, tmp_path: Path) -> None:
    """What was sent is not sent again, wherever the rest goes."""
    first, second = (url_of(tmp_path / name) for name in ("first", "second"))
    source = write(tmp_path / "source", {f"f{number}": noise(60_000, number) for number in range(12)})
    with kit.machine() as store:
        draft = store.create(project="p", name="n", storage=first)
        draft.add_files([source], ScanOptions())
        (source / "f9").write_bytes(b"changed")
        with pytest.raises(SourceChanged):
            draft.upload(UPLOAD)
        (source / "f9").write_bytes(noise(60_000, 9))
        draft.add_files([source], ScanOptions())
        draft.upload(UPLOAD, storage=second)
        record = draft.finalize()
        tags = tags_of(store, record)
        assert len({tag for path, tag in tags.items() if path != "f9"}) == 1
        assert tags["f9"] == record.storage != tags["f0"]
        assert read_all(store, record) == {f"f{number}": noise(60_000, number) for number in range(12)}


def test_what_a_parent_has_is_not_sent_again(kit: Kit, tmp_path: Path, elsewhere: str) -> None:
    files = {"a": noise(90_000, 1), "b": noise(300_000, 2)}
    parent = kit.publish(write(tmp_path / "one", files), storage=elsewhere)
    there = packs_in(elsewhere)
    moved = {"moved/a": files["a"], "b": files["b"], "c": b"new"}
    with kit.machine() as store:
        draft = store.create(project="tests", name="set", parents=[parent.id])
        assert draft.record.storage == 0  # a child inherits what is there, not where its own goes
        draft.sync_folders([write(tmp_path / "two", moved)], ScanOptions())
        draft.upload(UPLOAD)
        child = draft.finalize()
        assert child.storages == parent.storages
        assert tags_of(store, child) == {"moved/a": parent.storage, "b": parent.storage, "c": 0}
        assert read_all(store, child) == moved
    assert packs_in(elsewhere) == there


def test_a_commit_keeps_what_is_elsewhere_and_adds_to_the_store(kit: Kit, tmp_path: Path, elsewhere: str) -> None:
    files = {"a": noise(40_000, 1), "big": noise(900_000, 2), "c": b"3"}
    parent = kit.publish(write(tmp_path / "source", files), storage=elsewhere)
    there = packs_in(elsewhere)
    with kit.machine() as store:
        with closing(store.version(parent)) as version:
            before = {path.decode(): entry for path, entry in version.entries()}
        edited = files["big"][:450_000] + b"!" + files["big"][450_001:]
        reader = MemoryFiles()
        changes = [
            reader.edit("big", edited, before["big"], [(450_000, 450_001)]),
            kept("moved", before["a"]),
            reader.file("new", b"new"),
        ]
        child = Committer(parent, reader).child(store, changes)
        assert child.storages == parent.storages
        tags = {path: {block.storage for block in blocks} for path, blocks in blocks_of(store, child).items()}
        assert tags == {"a": {child_tag := parent.storage}, "big": {0, child_tag}, "c": {child_tag}} | {
            "moved": {child_tag},
            "new": {0},
        }
        assert read_all(store, child) == files | {"big": edited, "moved": files["a"], "new": b"new"}
    assert packs_in(elsewhere) == there


# --- tags


def test_storages_that_want_one_tag_get_several(kit: Kit, tmp_path: Path) -> None:
    urls = colliding(tmp_path, 3)
    first = first_tag(urls[0])
    with kit.machine() as store:
        assert [store.storages.tag(url)[0] for url in urls] == [first, first + 1, first + 2]
    with kit.machine() as store:
        assert [store.storages.tag(url)[0] for url in reversed(urls)] == [first + 2, first + 1, first]
    said = {path.name: json.loads(path.read_text())["url"] for path in (tmp_path / "store/storages").iterdir()}
    assert said == {str(first + number): url for number, url in enumerate(urls)}


def test_after_the_last_tag_comes_the_first() -> None:
    backend = MemoryBackend()
    found: list[str] = []
    number = 0
    while len(found) < 2:
        url = f"s3://bucket/{number}"
        if first_tag(url) == 0xFFFF:
            found.append(url)
        number += 1
    storages = Storages(backend, lambda url: MemoryBackend())
    assert [storages.tag(url)[0] for url in found] == [0xFFFF, 1]
    assert set(backend.objects) == {"storages/65535", "storages/1"}


def test_of_many_that_begin_at_once_each_storage_has_one_tag(kit: Kit, tmp_path: Path) -> None:
    urls = colliding(tmp_path, 3) * 4
    barrier = threading.Barrier(len(urls))

    def tag(url: str) -> int:
        storages = Storages(open_backend(str(tmp_path / "store")), open_backend)
        barrier.wait()
        return storages.tag(url)[0]

    with ThreadPoolExecutor(len(urls)) as pool:
        tags = list(pool.map(tag, urls))
    assert len(set(zip(urls, tags, strict=True))) == len(set(tags)) == 3


def test_a_lost_reply_does_not_give_a_second_tag(tmp_path: Path) -> None:
    """The first attempt was written and its answer lost: the repeat finds its own."""

    class Lossy(MemoryBackend):
        lost = False

        def put_if_absent(self, key: str, data: Any) -> str:
            etag = super().put_if_absent(key, data)
            if not self.lost:
                self.lost = True
                raise Unavailable("the answer is lost")
            return etag

    backend = Lossy()
    storages = Storages(backend, lambda url: MemoryBackend())
    url = url_of(tmp_path)
    with pytest.raises(Unavailable):
        storages.tag(url)
    assert storages.tag(url)[0] == first_tag(url)
    assert len(backend.objects) == 1


def test_backends_are_opened_once_and_closed_with_the_store(tmp_path: Path) -> None:
    opened: list[str] = []
    closed: list[str] = []

    class Closable(MemoryBackend):
        def __init__(self, url: str) -> None:
            super().__init__()
            opened.append(url)
            self.close = lambda: closed.append(url)  # type: ignore[method-assign]

    storages = Storages(MemoryBackend(), Closable)
    record = Record(id="0" * 32, project="p", name="n", version="1", storages={0: SELF, 7: "s3://b/1", 9: "s3://b/2"})  # type: ignore[arg-type]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(storages.behind(record), [7, 9] * 20))
    assert sorted(opened) == ["s3://b/1", "s3://b/2"]
    storages.close()
    assert sorted(closed) == sorted(opened)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://key:secret@bucket/prefix", "holds no credentials"),
        ("ftp://user:secret@host/x", "unsupported store URL ftp://host/x"),
        ("s3://", "names no bucket"),
        ("file://machine/path", "names another machine"),
        ("", "is empty"),
        ("s3://bucket/\udcff", "not UTF-8"),
    ],
)
def test_what_is_no_storage_is_refused_in_a_line(kit: Kit, url: str, message: str) -> None:
    with kit.machine() as store:
        with pytest.raises(InvalidInput, match=message) as caught:
            store.create(project="p", name="n", storage=url)
        assert "\n" not in caught.value.message
        assert "secret" not in caught.value.message
        assert store.records.all() == []


# --- records that cannot be right


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("somewhere", Unavailable),
        ("ftp://host/x", Unavailable),
        ("s3://key:secret@bucket/x", Unavailable),
        (None, Corrupt),
    ],
)
def test_a_storage_that_cannot_be_is_an_error_of_what_lies_there(
    kit: Kit, tmp_path: Path, elsewhere: str, url: str | None, error: type[DvfsError]
) -> None:
    parent = kit.publish(write(tmp_path / "one", {"there": b"1"}), storage=elsewhere)
    child = kit.publish(write(tmp_path / "two", {"here": b"2"}), parents=[parent.id])
    storages = {0: SELF} if url is None else {0: SELF, parent.storage: url}
    with kit.machine() as store:
        record = store.records.update(child.id, lambda newest: newest.with_fields(storages=storages))
        with closing(store.version(record)) as version:
            entries = {path: entry for path, entry in version.entries() if entry.is_file}
            assert version.read(entries[b"here"]) == b"2"
            with pytest.raises(error):
                version.read(entries[b"there"])


@pytest.mark.parametrize("storages", [{"65536": "s3://b/p"}, {"-1": "s3://b/p"}, {"x": "s3://b/p"}, {"1": 1}, None])
def test_maps_that_cannot_be_are_refused(storages: object) -> None:
    record = Record(id="0" * 32, project="p", name="n", version="1")  # type: ignore[arg-type]
    body = json.loads(encode(record)) | {"storages": storages}
    with pytest.raises(Corrupt):
        decode(json.dumps(body).encode(), record.id)


def test_where_data_goes_is_in_the_record_if_it_is_elsewhere() -> None:
    record = Record(id="0" * 32, project="p", name="n", version="1", storages={0: SELF, 7: "s3://b/p"}, storage=7)  # type: ignore[arg-type]
    assert decode(encode(record), record.id) == record
    assert "storage" not in json.loads(encode(record.with_fields(storage=0)))


def test_records_that_disagree_cannot_be_merged(kit: Kit, tmp_path: Path, elsewhere: str) -> None:
    """No dvfs makes such: tags are allotted by the store."""
    one = kit.publish(write(tmp_path / "one", {"a": b"1"}), name="one", storage=elsewhere)
    two = kit.publish(write(tmp_path / "two", {"b": b"2"}), name="two", storage=elsewhere)
    with kit.machine() as store:
        other = {0: SELF, one.storage: url_of(tmp_path / "another")}
        two = store.records.update(two.id, lambda newest: newest.with_fields(storages=other))
        for merge in (
            lambda: store.create(project="p", name="n", parents=[one.id, two.id]),
            lambda: squash(store, [one, two], name="n"),
        ):
            with pytest.raises(Corrupt, match=f"storage {one.storage} is "):
                merge()


# --- merging

Plan = list[tuple[list[int], int, dict[str, int]]]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Versions in order of making: the numbers of its parents, the storage of its data, its files by seed."""
    plan: Plan = []
    for number in range(draw(st.integers(2, 5))):
        parents = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=3)) if number else []
        files = st.dictionaries(st.sampled_from(["a", "b", "d/c", "d/e"]), st.integers(1, 3), max_size=3)
        plan.append((parents, draw(st.integers(0, 3)), draw(files)))
    return plan


def data_of(seed: int) -> bytes:
    return noise(100_000 if seed == 3 else 900, seed)


@given(plans(), st.data())
@settings(max_examples=25, deadline=None)
def test_versions_in_three_storages_and_the_store_merge(plan: Plan, data: st.DataObject) -> None:
    """Each file of a merge is read from where it was sent, though all three storages want one tag."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        kit = Kit(lambda: open_backend(str(top / "store")), top)
        places = [str(top / "store"), *colliding(top, 3)]
        records: list[Record] = []
        held: list[dict[str, int]] = []
        for number, (parents, place, files) in enumerate(plan):
            source = write(top / f"source{number}", {path: data_of(seed) for path, seed in files.items()})
            source.mkdir(exist_ok=True)
            inherited = {path: seed for parent in parents for path, seed in held[parent].items()}
            records.append(
                kit.publish(
                    source,
                    name=f"v{number}",
                    parents=[records[parent].id for parent in parents],
                    storage=places[place],
                )
            )
            held.append(inherited | files)
        chosen = data.draw(st.lists(st.integers(0, len(plan) - 1), unique=True, min_size=1, max_size=3))
        with kit.machine() as store:
            for record, files in zip(records, held, strict=True):
                assert read_all(store, record) == {path: data_of(seed) for path, seed in files.items()}
                used = {block.storage for blocks in blocks_of(store, record).values() for block in blocks}
                assert used <= set(record.storages)
            together(records)
            merged = squash(store, [records[number].id for number in chosen], name="squashed")
            copied = squash(store, [merged.id], name="copied", storage=places[data.draw(st.integers(0, 3))])
            assert read_all(store, merged) == read_all(store, copied)
            assert copied.root is not None
            assert merged.root is not None
            assert copied.root.page.content == merged.root.page.content
            expected = read_all(store, merged)
        # of the others nothing is needed
        for record in (*records, merged):
            for url in places:
                with closing(open_backend(url)) as backend:
                    for item in list(backend.list("packs/")):
                        if item.key.rpartition("/")[2].startswith(record.id):
                            backend.delete(item.key)
        with kit.machine() as store:
            assert read_all(store, copied.id) == expected


# --- squash


def lineage(kit: Kit, tmp_path: Path) -> tuple[list[Record], list[str], Files]:
    """Three versions, one on top of the other, each with its data in another storage; also what the last holds."""
    places = [url_of(tmp_path / name) for name in ("one", "two", "three")]
    files = [
        {f"d{number % 5}/f{number:03}": noise(700, number) for number in range(200)} | {"big": noise(900_000, 1000)},
        {f"d{number % 5}/f{number:03}": noise(800, 2000 + number) for number in range(0, 200, 3)},
        {f"d{number % 5}/f{number:03}": noise(900, 4000 + number) for number in range(0, 200, 7)} | {"empty": b""},
    ]
    records: list[Record] = []
    for number, (url, some) in enumerate(zip(places, files, strict=True)):
        source = write(tmp_path / f"source{number}", some)
        records.append(kit.publish(source, parents=[record.id for record in records[-1:]], storage=url))
    return records, places, files[0] | files[1] | files[2]


def test_a_squash_without_storage_asks_other_storages_nothing(kit: Kit, tmp_path: Path) -> None:
    records, places, files = lineage(kit, tmp_path)
    other = kit.publish(write(tmp_path / "other", {"x": b"1"}), name="other", storage=places[0])
    before = [packs_in(url) for url in places]
    with kit.machine() as store:
        made = squash(store, [records[-1].id, other.id], name="squashed")
        assert kit.places == {}
        assert set(made.storages.values()) == {SELF, *places}
        assert made.storage == 0
        assert read_all(store, made) == files | {"x": b"1"}
    assert [packs_in(url) for url in places] == before


def test_a_squash_into_a_storage_needs_no_other(kit: Kit, tmp_path: Path) -> None:
    records, places, files = lineage(kit, tmp_path)
    target = url_of(tmp_path / "target")
    with kit.machine() as store:
        made = squash(store, [records[-1].id], name="squashed", storage=target, options=UPLOAD)
        assert made.storages == {0: SELF, made.storage: target}
        assert made.root is not None
        assert records[-1].root is not None
        assert made.root.page.content == records[-1].root.page.content
        assert made.counts.uploaded > sum(map(len, files.values()))
        assert list((store.local / "squashes").iterdir()) == []
    for url in places:
        shutil.rmtree(url.removeprefix("file://"))
    with kit.machine() as store:
        assert read_all(store, made) == files
        assert set(kit.places) == {target}
        with closing(store.version(made)) as version:
            assert list(verify_stored(version)) == []
        with closing(store.version(records[-1])) as version:
            assert len(list(verify_stored(version))) == len(files) - 1  # but the empty one


def test_a_squash_into_a_storage_lies_as_it_is_read(kit: Kit, tmp_path: Path) -> None:
    """In catalog order, small files together again, and nothing else in the packs."""
    records, _, files = lineage(kit, tmp_path)
    with kit.machine() as store:
        scattered = blocks_of(store, records[-1])
        made = squash(store, [records[-1].id], name="s", storage=url_of(tmp_path / "target"), options=UPLOAD)
        blocks = blocks_of(store, made)
        run = [block for found in blocks.values() for block in found]
        assert list(blocks) == list(scattered)
        order = list(dict.fromkeys(run))
        assert [block for index, block in enumerate(run) if not index or run[index - 1] != block] == order
        assert sum(block.raw for block in order) == sum(map(len, files.values()))
        small = {found[0] for path, found in blocks.items() if path != "big"}
        assert len(small) < len({found[0] for path, found in scattered.items() if path != "big"})
        assert [block.digest for block in blocks["big"]] == [block.digest for block in scattered["big"]]
        packs = list(dict.fromkeys(block.pack for block in order))
        assert len(packs) > 3
        for pack in packs:
            offsets = [block.offset for block in order if block.pack == pack]
            assert offsets == sorted(offsets)
            assert offsets[0] == 0


def test_a_squash_into_the_store_brings_all_home(kit: Kit, tmp_path: Path) -> None:
    records, places, files = lineage(kit, tmp_path)
    with kit.machine() as store:
        made = squash(store, [records[-1].id], name="squashed", storage=str(tmp_path / "store"))
        assert (made.storages, made.storage) == ({0: SELF}, 0)
    for url in places:
        shutil.rmtree(url.removeprefix("file://"))
    with kit.machine() as store:
        assert read_all(store, made) == files


def test_all_of_an_entry_is_copied_along(kit: Kit, tmp_path: Path) -> None:
    source = write_odd_tree(tmp_path / "odd")
    record = kit.publish(source)
    with kit.machine() as store:
        made = squash(store, [record.id], name="s", storage=url_of(tmp_path / "target"))
        with closing(store.version(record)) as before, closing(store.version(made)) as after:
            pairs = list(zip(before.entries(), after.entries(), strict=True))
            assert all(
                (path, entry._replace(content=())) == (other, copy._replace(content=()))
                for (path, entry), (other, copy) in pairs
            )
            assert all(before.read(entry) == after.read(copy) for (_, entry), (_, copy) in pairs if entry.is_file)


def test_what_this_dvfs_does_not_know_is_copied_along(kit: Kit, tmp_path: Path) -> None:
    record = kit.publish(write(tmp_path / "source", {"a": b"1", "empty": b""}))
    extra = (Extra(70, Type.VAR, 0, b"unknown"),)
    with kit.machine() as store:
        model = {
            path: entry._replace(extra=extra) if path else entry for path, entry in model_of(store, record).items()
        }
        made = squash(store, [make(store, model, [record]).id], name="s", storage=url_of(tmp_path / "target"))
        assert {path: entry.extra for path, entry in model_of(store, made).items()} == {
            b"": (), b"a": extra, b"empty": extra
        }  # fmt: skip
        assert read_all(store, made) == {"a": b"1", "empty": b""}


def test_a_catalog_that_lies_is_not_made_true(kit: Kit, tmp_path: Path) -> None:
    """The blocks are those of their digests, but a file is not."""
    record = kit.publish(write(tmp_path / "source", {"a": b"1", "b": b"2"}))
    with kit.machine() as store:
        model = model_of(store, record)
        lying = make(store, model | {b"a": model[b"a"]._replace(content=model[b"b"].content)}, [record])
        with pytest.raises(Corrupt, match="b'a' is not what its digest"):
            squash(store, [lying.id], name="s", storage=url_of(tmp_path / "target"))
        assert [found.id for found in store.records.all()] == [record.id, lying.id]


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [damaged, Path.unlink])
def test_a_squash_of_damaged_data_leaves_no_version(
    kit: Kit, tmp_path: Path, elsewhere: str, damage: Callable[[Path], None]
) -> None:
    record = kit.publish(write(tmp_path / "source", {"a": noise(60_000, 1)}), storage=elsewhere)
    (pack,) = (tmp_path / "elsewhere/packs").glob("*/*")
    damage(pack)
    with kit.machine() as store:
        with pytest.raises(Corrupt, match=r"elsewhere"):
            squash(store, [record.id], name="squashed", storage=url_of(tmp_path / "target"))
        assert [found.name for found in store.records.all()] == ["set"]
        assert list((store.local / "squashes").iterdir()) == []
        (mismatch,) = verify(store, record)
        assert mismatch.path == b"a"
        assert elsewhere in mismatch.reason


def verify(store: Store, record: Record) -> list[Any]:
    with closing(store.version(record)) as version:
        return list(verify_stored(version))


@pytest.mark.parametrize("sizes_only", [False, True])
def test_verify_names_the_storage_that_lacks_a_pack(kit: Kit, tmp_path: Path, elsewhere: str, sizes_only: bool) -> None:
    parent = kit.publish(write(tmp_path / "one", {"there": b"1"}), storage=elsewhere)
    child = kit.publish(write(tmp_path / "two", {"here": b"2"}), parents=[parent.id])
    with kit.machine() as store:
        block = blocks_of(store, child)["there"][0]
        (tmp_path / "elsewhere" / pack_key(block.pack)).unlink()
        with closing(store.version(child)) as version:
            (mismatch,) = verify_stored(version, sizes_only=sizes_only)
        assert mismatch.path == b"there"
        assert all(word in mismatch.reason for word in (pack_key(block.pack), "is missing", elsewhere))


def test_a_squash_that_stays_open_goes_on_where_its_data_is(kit: Kit, tmp_path: Path, elsewhere: str) -> None:
    record = kit.publish(write(tmp_path / "one", {"a": b"1"}))
    with kit.machine() as store:
        made = squash(store, [record.id], name="squashed", storage=elsewhere, close=False)
        done = fill(store.draft(made.id), write(tmp_path / "two", {"b": b"2"})).finalize()
        assert set(tags_of(store, done).values()) == {made.storage} != {0}
        assert read_all(store, done) == {"a": b"1", "b": b"2"}


# --- a storage that is not there


def test_a_store_that_opens_no_other_says_so(kit: Kit, tmp_path: Path, elsewhere: str) -> None:
    record = kit.publish(write(tmp_path / "source", {"a": b"1"}), storage=elsewhere)
    storages = Storages(open_backend(str(tmp_path / "store")))
    with pytest.raises(Unavailable, match="elsewhere"):
        storages.behind(record)(record.storage)
    with pytest.raises(Unsupported, match="elsewhere"):
        storages.tag(elsewhere)
    assert storages.behind(record)(0).url == url_of(tmp_path / "store")
