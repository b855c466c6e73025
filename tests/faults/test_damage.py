"""Damage of single objects: EIO for what needs them and a log line that names them; the rest is right, the mount lives.

Also through real mounts.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from dvfs.store.cache import Cache
from dvfs.store.errors import Corrupt
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import PackId
from dvfs.store.pack import read_footer
from dvfs.store.record import Record
from dvfs.store.version import Version
from tests.fault_kit import (
    LARGE,
    Anatomy,
    Content,
    Machine,
    content_of,
    dissect,
    flip_bit,
    look_at_all,
    opened,
    publish,
    read_all,
    restored,
    write_tree,
)
from tests.store.noise import noise

Damage = Callable[[Path, int, int, random.Random], tuple[int, int]]
"""Damages a file somewhere from byte *start* to before *stop*; returns between which bytes it is not what it was."""


@dataclass(frozen=True, slots=True)
class Made:
    """A child version, most of it in packs of its parent, in the folder *store*."""

    store: Path
    record: Record
    expected: dict[bytes, Content]
    anatomy: Anatomy

    @property
    def backend(self) -> FolderBackend:
        return FolderBackend(self.store)

    @property
    def record_file(self) -> Path:
        """The file of the newest generation of the record: the one that is read."""
        found = self.store.glob(f"generations/datasets/{self.record.id}.json,*")
        return max(found, key=lambda path: int(path.name.rpartition(",")[2]))

    def copy(self, folder: Path) -> Made:
        """Return the same with a store of its own, to be damaged."""
        shutil.copytree(self.store, folder / "store", symlinks=True)
        return Made(folder / "store", self.record, self.expected, self.anatomy)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    top = tmp_path_factory.mktemp("made")
    source = write_tree(top / "source")
    backend = FolderBackend(top / "store")
    with opened(backend, top / "machine") as store:
        parent = publish(store, source)
        for number in range(5):
            (source / "d1" / f"new{number}").write_bytes(noise(3000, 7000 + number))
        (source / "d2" / "f02").write_bytes(b"changed")
        record = publish(store, source, parents=[parent.id])
        version = store.version(record)
        anatomy = dissect(version, backend)
        version.close()
    pages = sum(1 for region in anatomy.regions if region.needed_by >= {b"middling0", LARGE})
    assert len(anatomy.packs) > 10
    assert pages > 1
    assert len(anatomy.regions) > 150
    return Made(top / "store", record, content_of(source), anatomy)


@pytest.fixture
def made(whole: Made, tmp_path: Path) -> Made:
    return whole.copy(tmp_path)


def flip(file: Path, start: int, stop: int, chance: random.Random) -> tuple[int, int]:
    flip_bit(file, start, stop, chance)
    return start, stop


def truncate(file: Path, start: int, stop: int, chance: random.Random) -> tuple[int, int]:
    size = chance.randrange(start, stop)
    os.truncate(file, size)
    return size, 1 << 62


def delete(file: Path, start: int, stop: int, chance: random.Random) -> tuple[int, int]:
    file.unlink()
    return 0, 1 << 62


class Damaged:
    """What goes wrong in a version, read without a mount."""

    def __init__(self, made: Made, folder: Path) -> None:
        self._made = made
        self._folder = folder
        self.errors: dict[bytes, Exception] = {}

    def read(self) -> dict[bytes, Content]:
        """Read all with nothing cached; what cannot be read goes to `errors`."""
        self.errors = {}
        backend, root = self._made.backend, self._made.record.root
        assert root is not None
        cache = Cache(self._folder, budget_bytes=0)
        version = Version(self._made.record, root, lambda tag: backend, cache)
        found = read_all(version, self._made.expected, self.errors.__setitem__)
        version.close()
        cache.close()
        return found


@pytest.mark.parametrize("how", [flip, truncate], ids=["flip", "truncate"])
def test_each_block_and_page_by_itself(
    made: Made, tmp_path: Path, how: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(how.__name__)
    reader = Damaged(made, tmp_path / "reader")
    regions = made.anatomy.regions
    alike = [region for region in regions if region.needed_by == {LARGE} and region.length > 1024]  # blocks of one file
    several = [region for region in regions if region not in alike] + chance.sample(alike, 10)
    for region in several if how is flip else chance.sample(several, 25):
        caplog.clear()
        with restored(made.store / region.key) as file:
            start, stop = how(file, region.offset, region.offset + region.length, chance)
            found = reader.read()
        touched = made.anatomy.touched(region.key, start, stop)
        assert touched >= region.needed_by
        assert reader.errors.keys() == touched, region
        assert found == {path: what for path, what in made.expected.items() if path not in touched}
        for error in reader.errors.values():
            assert isinstance(error, Corrupt)
            assert region.key.rpartition("/")[2] in error.message
        assert region.key in caplog.text
        assert {entry.levelno for entry in caplog.records} == {logging.WARNING}
    assert reader.read() == made.expected


def test_each_pack_deleted(made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = Damaged(made, tmp_path / "reader")
    for key in made.anatomy.packs:
        caplog.clear()
        with restored(made.store / key) as file:
            file.unlink()
            found = reader.read()
        touched = made.anatomy.touched(key, 0, 1 << 62)
        assert reader.errors.keys() == touched
        assert found == {path: what for path, what in made.expected.items() if path not in touched}
        assert all(key in str(error) and "missing" in str(error) for error in reader.errors.values())
        assert (key in caplog.text) == bool(touched)


def test_each_footer_is_checked_and_no_reader_needs_it(made: Made, tmp_path: Path) -> None:
    chance = random.Random("footers")
    reader = Damaged(made, tmp_path / "reader")
    for region in made.anatomy.footers:
        pack = PackId(bytes.fromhex(region.key.rpartition("/")[2]))
        for how in (flip, truncate):
            with restored(made.store / region.key) as file:
                how(file, region.offset, region.offset + region.length, chance)
                with pytest.raises(Corrupt, match=pack.hex()):
                    read_footer(made.backend, pack)
                assert reader.read() == made.expected


def test_each_cache_file_is_fetched_again(whole: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chance = random.Random("cache")
    folder = tmp_path / "reader"

    def read() -> int:
        with opened(whole.backend, folder) as store:
            version = store.version(whole.record)
            assert read_all(version, whole.expected, _raise) == whole.expected
            version.close()
            return version.fetcher.stats().requests

    assert read() > 100
    assert read() == 0
    files = sorted((folder / "cache" / "blocks").glob("*/*"))
    assert len(files) > 100
    for file in chance.sample(files, 30):
        for how in (flip, truncate, delete):
            caplog.clear()
            data = file.read_bytes()
            how(file, 0, len(data), chance)
            assert read() == 1
            assert file.read_bytes() == data
            assert (file.name in caplog.text) == (how is not delete)


def _raise(path: bytes, exc: Exception) -> None:
    raise exc


@pytest.fixture
def machine(tmp_path: Path, made: Made) -> Machine:
    return Machine(tmp_path / "machine", str(made.store))


def _batches(made: Made, count: int) -> Iterator[list[tuple[str, int, int]]]:
    """Yield disjoint parts of all regions without which the root can be shown, as pack, start and stop."""
    some = [region for region in made.anatomy.regions if b"" not in region.needed_by]
    random.Random("batches").shuffle(some)
    for number in range(count):
        yield [(region.key, region.offset, region.offset + region.length) for region in some[number::count]]


def test_a_mount_gives_eio_for_what_needs_damaged_bytes_and_lives(made: Made, machine: Machine) -> None:
    chance = random.Random("mount")
    pristine = {key: (made.store / key).read_bytes() for key in made.anatomy.packs}
    for batch in _batches(made, 6):
        machine.folder.mkdir(exist_ok=True)
        for key, start, stop in batch:
            flip(made.store / key, start, stop, chance)
        with machine.mounted(made.record.id) as mount:
            found, failed = look_at_all(mount.directory, made.expected)
            touched = {place: made.anatomy.touched(*place) for place in batch}
            assert failed == frozenset().union(*touched.values())
            assert found == {path: what for path, what in made.expected.items() if path not in failed}
            log = mount.said()
            for path in failed:
                assert any(key in log for (key, _, _), paths in touched.items() if path in paths)
            assert "Traceback" not in log

            for key, data in pristine.items():  # the same mount reads right once the store is whole again
                (made.store / key).write_bytes(data)
            assert look_at_all(mount.directory, made.expected) == (made.expected, set())
        shutil.rmtree(machine.folder)


@pytest.mark.parametrize("how", [truncate, delete], ids=["truncate", "delete"])
def test_a_mount_lives_when_packs_are_cut_short_or_gone(made: Made, machine: Machine, how: Damage) -> None:
    chance = random.Random(how.__name__)
    vital = {region.key for region in made.anatomy.regions if b"" in region.needed_by}
    damaged = [key for key in made.anatomy.packs if key not in vital][::2]
    ranges = [(key, *how(made.store / key, 0, made.anatomy.packs[key], chance)) for key in damaged]
    touched = frozenset().union(*(made.anatomy.touched(*place) for place in ranges))
    assert touched
    with machine.mounted(made.record.id) as mount:
        found, failed = look_at_all(mount.directory, made.expected)
        assert failed == touched
        assert found == {path: what for path, what in made.expected.items() if path not in touched}


def test_a_large_file_reads_on_around_a_damaged_block(made: Made, machine: Machine) -> None:
    whole_file = made.expected[LARGE][1]
    assert isinstance(whole_file, bytes)
    blocks = [region for region in made.anatomy.regions if region.needed_by == {LARGE} and region.length > 1024]
    victim = max(blocks, key=lambda region: region.length)
    raw = (made.store / victim.key).read_bytes()[victim.offset : victim.offset + victim.length]
    start = whole_file.index(raw)
    flip(made.store / victim.key, victim.offset, victim.offset + victim.length, random.Random(1))
    with machine.mounted(made.record.id) as mount:
        bad = set()
        with open(os.path.join(os.fsencode(mount.directory), LARGE), "rb", buffering=0) as file:
            for at in range(0, len(whole_file), 4096):
                try:
                    assert os.pread(file.fileno(), 4096, at) == whole_file[at : at + 4096]
                except OSError:
                    bad.add(at // 4096)
    assert bad == set(range(start // 4096, -(-(start + len(raw)) // 4096)))


def test_a_mount_fetches_damaged_cache_files_again(made: Made, machine: Machine) -> None:
    chance = random.Random("files")
    with machine.mounted(made.record.id) as mount:
        assert look_at_all(mount.directory, made.expected) == (made.expected, set())
    files = sorted((machine.cache / "blocks").glob("*/*"))
    pristine = {file: file.read_bytes() for file in files}
    for file, how in zip(files, itertools.cycle((flip, truncate, delete)), strict=False):
        how(file, 0, len(pristine[file]), chance)
    with machine.mounted(made.record.id) as mount:
        assert look_at_all(mount.directory, made.expected) == (made.expected, set())
        log = mount.said()
    named = [file for file, how in zip(files, itertools.cycle((True, True, False)), strict=False) if how]
    assert all(file.name in log for file in named if file.read_bytes())
    assert {file: file.read_bytes() for file in files} == pristine


def test_a_damaged_root_page_is_named_and_nothing_is_mounted(made: Made, machine: Machine) -> None:
    assert made.record.root is not None
    page = made.record.root.page.block
    key = next(region.key for region in made.anatomy.regions if page.pack.hex() in region.key)
    for how in (flip, truncate, delete):
        with restored(made.store / key) as file:
            how(file, page.offset, page.offset + page.stored, random.Random(1))
            done = machine.run("mount", made.record.id, machine.folder / "mnt")
            assert done.returncode == 5, done.stderr
            assert page.pack.hex() in done.stderr
            assert made.record.id in done.stderr
            assert len(done.stderr.splitlines()) <= 2
            assert not os.path.ismount(machine.folder / "mnt")
    with machine.mounted(made.record.id) as mount:
        assert look_at_all(mount.directory, made.expected) == (made.expected, set())


def test_a_damaged_record_is_named_and_nothing_is_mounted(made: Made, machine: Machine) -> None:
    for data in (b"", b"{", b"[]", b"\xff" * 100, made.record_file.read_bytes()[:-10]):
        with restored(made.record_file) as file:
            file.write_bytes(data)
            done = machine.run("mount", made.record.id, machine.folder / "mnt")
            assert done.returncode == 5, done.stderr
            assert made.record.id in done.stderr
            assert "Traceback" not in done.stderr


def test_no_flipped_bit_of_a_record_shows_wrong_bytes(made: Made, tmp_path: Path) -> None:
    chance = random.Random("record")
    errors: list[str] = []
    shown = 0
    with opened(made.backend, tmp_path / "reader") as store:
        size = made.record_file.stat().st_size
        for start in range(0, size, 4):
            with restored(made.record_file) as file:
                flip(file, start, min(start + 4, size), chance)
                try:
                    with closing(store.version(store.records.load(made.record.id).record)) as version:
                        version.check()
                        found = read_all(version, (b"", LARGE, b"d0/f00"), _raise)
                except Corrupt as exc:
                    errors.append(exc.message)
                else:
                    shown += 1
                    assert found == {path: made.expected[path] for path in found}
    assert all(made.record.id in message for message in errors)
    assert len(errors) > shown > 0


def test_a_storage_that_a_record_lacks_is_damage(made: Made, machine: Machine) -> None:
    with restored(made.record_file) as file:
        file.write_bytes(file.read_bytes().replace(b'"0": "."', b'"1": "."'))
        done = machine.run("mount", made.record.id, machine.folder / "mnt")
    assert done.returncode == 5, done.stderr
    assert made.record.id in done.stderr
