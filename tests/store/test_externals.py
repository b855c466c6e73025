"""External files found and read: on this machine, in a bucket, on an http server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dvfs.store.cache import Cache
from dvfs.store.errors import AccessDenied, BadSource, Corrupt, DvfsError, InvalidInput, Unavailable, Unsupported
from dvfs.store.external import BLOCK_BYTES, External
from dvfs.store.externals import Externals
from dvfs.store.fetch import Fetcher
from dvfs.store.include import wildcards
from dvfs.store.retry import RetryPolicy
from dvfs.store.url import open_backend
from tests.http_server import HttpServer, Object, Request
from tests.memory_backend import MemoryBackend
from tests.store.noise import noise

DATA = noise(2 * BLOCK_BYTES + 1234, 1)
QUICK = RetryPolicy(attempts=3, base_seconds=0.001, cap_seconds=0.001)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "allowed").mkdir()
    return tmp_path / "allowed"


@pytest.fixture
def externals(folder: Path) -> Iterator[Externals]:
    with closing(Externals(policy=QUICK, file_folders=[folder])) as made:
        yield made


def one(externals: Externals, url: str) -> External:
    ((_, external),) = externals.find(url)
    return external


def found(externals: Externals, url: str, **words: bool) -> dict[bytes, str]:
    return {name: external.shown for name, external in externals.find(url, **words)}  # type: ignore[arg-type]


# --- files of this machine


def test_files_are_found_and_read(externals: Externals, folder: Path) -> None:
    (folder / "a b\udcff").write_bytes(b"one")
    (folder / "sub").mkdir()
    (folder / "sub" / "c").write_bytes(b"two")
    (folder / "leads away").symlink_to("/etc/passwd")
    url = f"file://{folder}"
    assert found(externals, url) == {b"a b\xff": f"{url}/a%20b%FF", b"sub/c": f"{url}/sub/c"}
    assert found(externals, f"{url}/sub/") == {b"c": f"{url}/sub/c"}
    assert found(externals, f"{url}/a%20b%FF") == {b"a b\xff": f"{url}/a%20b%FF"}
    assert found(externals, url, recursive=False) == {b"a b\xff": f"{url}/a%20b%FF"}
    fits = wildcards(["c"], recursive=True)
    assert [name for name, _ in externals.find(url, fits=fits)] == [b"sub/c"]
    external = one(externals, f"FILE://localhost{folder}/sub/c")
    status = (folder / "sub" / "c").stat()
    assert external.pin == b"mtime %d, inode %d, 3 bytes" % (status.st_mtime_ns, status.st_ino)
    assert externals.read(external, 1, 2) == b"wo"


def test_files_outside_of_the_folders_are_not_read(externals: Externals, folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.write_bytes(b"secret")
    (folder / "link").symlink_to(outside)
    (folder / "dir").symlink_to(folder.parent)
    (folder.parent / "allowed too").write_bytes(b"x")  # its name begins like that of the folder
    for path in (outside, folder / "link", folder / "dir" / "outside", folder / ".." / "outside", "/etc/passwd",
                 folder.parent / "allowed too", folder / "dir"):  # fmt: skip
        with pytest.raises(AccessDenied, match="file_links"):
            list(externals.find(f"file://{path}"))
        external = External(f"file://{path}".encode(), b"mtime 1, inode 1, 6 bytes", 6)
        with pytest.raises(AccessDenied, match="file_links") as caught:
            externals.read(external, 0, 6)
        assert "secret" not in str(caught.value)
    with closing(Externals()) as none, pytest.raises(AccessDenied):
        list(none.find(f"file://{folder}"))


@pytest.mark.parametrize("change", ["rewritten", "replaced", "longer", "gone", "a folder", "a fifo"])
def test_a_file_that_is_another_is_no_bytes(externals: Externals, folder: Path, change: str) -> None:
    path = folder / "file"
    path.write_bytes(b"before")
    before = path.stat()
    external = one(externals, f"file://{path}")
    if change == "rewritten":
        path.write_bytes(b"after!")
        os.utime(path, ns=(1, before.st_mtime_ns + 1))
    elif change == "replaced":
        (folder / "other").write_bytes(b"after!")
        os.utime(folder / "other", ns=(1, before.st_mtime_ns))
        (folder / "other").rename(path)
    elif change == "longer":
        path.write_bytes(b"before and after")
        os.utime(path, ns=(1, before.st_mtime_ns))
    else:
        path.unlink()
        if change == "a folder":
            path.mkdir()
        elif change == "a fifo":
            os.mkfifo(path)
    for call in (lambda: externals.read(external, 0, 6), lambda: externals.check(external)):
        with pytest.raises(Corrupt, match="was added as mtime") as caught:
            call()
        assert external.shown in caught.value.message
        assert caught.value.hint


# --- buckets


@pytest.fixture
def bucket(s3_url: str) -> str:
    with closing(open_backend(s3_url)) as backend:
        for key, data in {"a": b"one", "sub/b": b"two", "sub/deep/c.txt": DATA}.items():
            backend.put_if_absent(key, data)
    return s3_url


def test_objects_are_found_and_read(externals: Externals, bucket: str) -> None:
    everything = {b"a": f"{bucket}/a", b"sub/b": f"{bucket}/sub/b", b"sub/deep/c.txt": f"{bucket}/sub/deep/c.txt"}
    assert found(externals, bucket) == everything
    assert found(externals, f"{bucket}/") == everything
    assert found(externals, f"{bucket}/sub/deep") == {b"c.txt": f"{bucket}/sub/deep/c.txt"}
    assert found(externals, bucket, recursive=False) == {b"a": f"{bucket}/a"}
    assert found(externals, f"{bucket}/a".replace("s3", "S3", 1)) == {b"a": f"{bucket}/a"}
    external = one(externals, f"{bucket}/sub/deep/c.txt")
    assert external.size == len(DATA)
    assert externals.read(external, BLOCK_BYTES, 10) == DATA[BLOCK_BYTES : BLOCK_BYTES + 10]
    with pytest.raises(BadSource, match="nothing is at"):
        list(externals.find(f"{bucket}/nothing"))


def test_an_object_that_is_another_is_no_bytes(externals: Externals, bucket: str) -> None:
    external = one(externals, f"{bucket}/a")
    with closing(open_backend(bucket)) as backend:
        etag = backend.head("a").etag
        backend.replace_if("a", b"eno", etag)
        for call in (lambda: externals.read(external, 0, 3), lambda: externals.check(external)):
            with pytest.raises(Corrupt, match=f"it was added as etag {etag}, 3 bytes, and is etag "):
                call()
        backend.delete("a")
        for call in (lambda: externals.read(external, 0, 3), lambda: externals.check(external)):
            with pytest.raises(Corrupt, match=f"is gone; it was added as etag {etag}"):
                call()
        backend.put_if_absent("a", b"one")
        assert externals.read(external, 0, 3) == b"one"


def test_a_bucket_that_cannot_check_a_condition_is_checked_here() -> None:
    """The protocol of backends has no conditional read; whatever backend there is, the etag of its answer counts."""
    backend = MemoryBackend()
    backend.put_if_absent("key", b"one")
    backend.put_if_absent("folder/", b"")  # as some programs show that there is a folder
    externals = Externals(lambda url: backend)
    assert set(found(externals, "gs://bucket")) == {b"key"}
    external = one(externals, "gs://bucket/key")
    assert external.url == b"gs://bucket/key"
    assert one(externals, "az://bucket/key").url == b"azure://bucket/key"
    assert externals.read(external, 0, 3) == b"one"
    backend.replace_if("key", b"two", backend.head("key").etag)
    with pytest.raises(Corrupt, match="has changed"):
        externals.read(external, 0, 3)


# --- http


def test_pages_are_found_by_the_last_part_of_their_path(externals: Externals, server: HttpServer) -> None:
    server.put("/x/a b", b"1")
    assert found(externals, f"{server.url}/x/a%20b?version=1") == {b"a b": f"{server.url}/x/a%20b?version=1"}
    assert server.asked("GET") == []
    for url in (server.url, f"{server.url}/", f"{server.url}/x/"):
        with pytest.raises(Unsupported, match="is a folder") as caught:
            list(externals.find(url))
        assert caught.value.hint
    with pytest.raises(BadSource, match="404"):
        list(externals.find(f"{server.url}/x/none"))


@pytest.mark.parametrize(
    ("url", "error"),
    [("path", InvalidInput), ("ftp://h/x", InvalidInput), ("s3://", InvalidInput), ("http://u:p@h/x", InvalidInput),
     ("s3://b/\udcff", InvalidInput), ("file://host/x", InvalidInput), ("http://h/a b", InvalidInput)],
)  # fmt: skip
def test_what_is_no_url_is_refused(externals: Externals, url: str, error: type[DvfsError]) -> None:
    with pytest.raises(error):
        list(externals.find(url))


def test_a_server_that_fails_is_asked_again(externals: Externals, server: HttpServer) -> None:
    external = one(externals, server.put("/a", DATA))
    server.failing = 2
    assert externals.read(external, 0, 9) == DATA[:9]
    server.failing = 3
    with pytest.raises(Unavailable, match="gave up after 3 attempts"):
        externals.read(external, 0, 9)
    assert externals.read(external, 0, 9) == DATA[:9]


# --- through the fetcher


class Reading:
    """A fetcher with externals and a cache in *folder*."""

    def __init__(self, externals: Externals, folder: Path, **options: int) -> None:
        self.cache = Cache(folder / "cache", budget_bytes=options.pop("budget", 1 << 30), reserve_bytes=0)
        self.fetcher = Fetcher(lambda tag: MemoryBackend(), self.cache, externals=externals, parallel=4)

    def read(self, external: External, start: int = 0, stop: int = 1 << 62) -> bytes:
        extents = external.extents(start, stop)
        return b"".join(self.fetcher.read(block, at, size) for block, at, size in extents)

    def close(self) -> None:
        self.fetcher.close()
        self.cache.close()


def test_ranges_are_cached_and_verified_when_opened_anew(
    externals: Externals, server: HttpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    external = one(externals, server.put("/a", DATA))
    with closing(Reading(externals, tmp_path)) as reading:
        assert reading.read(external, 5, BLOCK_BYTES + 5) == DATA[5 : BLOCK_BYTES + 5]
        assert len(server.asked("GET")) == 2
        assert reading.read(external, 7, 70) == DATA[7:70]
        assert len(server.asked("GET")) == 2
        stats = reading.fetcher.stats()
        assert (stats.requests, stats.bytes_fetched, stats.raw_bytes) == (2, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES)
    server.put("/a", DATA[::-1])
    with closing(Reading(externals, tmp_path)) as reading:  # another process: what is cached is what was pinned
        assert reading.read(external, 0, BLOCK_BYTES) == DATA[:BLOCK_BYTES]
        view = memoryview(bytearray(BLOCK_BYTES))
        whole = next(external.extents(0, 1))
        reading.cache.settle()
        assert reading.cache.info().bytes == 2 * (BLOCK_BYTES + 32)
    with closing(Reading(externals, tmp_path)) as reading:
        reading.fetcher.readinto(whole.block, 0, view)  # verified in the view itself
        assert view == DATA[:BLOCK_BYTES]
        assert reading.cache.read(whole.block.digest, BLOCK_BYTES - 3, 100) == DATA[BLOCK_BYTES - 3 : BLOCK_BYTES]
        assert reading.cache.verify().blocks == 2
        with pytest.raises(Corrupt, match="has changed"):
            reading.read(external, 2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 1)
    assert [record.message.count(external.shown) for record in caplog.records] == [1]


@pytest.mark.parametrize("damage", ["flipped", "cut", "swapped"])
def test_damage_of_the_cache_is_seen(
    externals: Externals, server: HttpServer, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also a file that is a range of something else under the name of this one, whole as it is."""
    external = one(externals, server.put("/a", DATA[: 2 * BLOCK_BYTES]))
    with closing(Reading(externals, tmp_path)) as reading:
        reading.read(external)
    paths = [tmp_path / "cache/blocks" / name[:2] / name for name in (
        extent.block.digest.hex() for extent in external.extents(0, 1 << 62)
    )]  # fmt: skip
    data = bytearray(paths[0].read_bytes())
    if damage == "flipped":
        data[17] ^= 1
    paths[0].write_bytes({"flipped": bytes(data), "cut": bytes(data[:-1]), "swapped": paths[1].read_bytes()}[damage])
    with closing(Reading(externals, tmp_path)) as reading:
        assert reading.read(external) == DATA[: 2 * BLOCK_BYTES]
        assert len(server.asked("GET")) == 3
    assert "is damaged" in caplog.text


def test_wanted_neighbours_come_in_one_request(externals: Externals, server: HttpServer, tmp_path: Path) -> None:
    external = one(externals, server.put("/a", DATA))
    with closing(Reading(externals, tmp_path)) as reading:
        reading.fetcher.want(extent.block for extent in external.extents(0, 1 << 62))
        assert reading.fetcher.wait_idle(30)
        asked = len(server.asked("GET"))
        assert asked <= 3
        assert reading.read(external) == DATA
        assert len(server.asked("GET")) == asked


def test_readers_of_one_range_send_one_request(externals: Externals, server: HttpServer, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    external = one(externals, server.put("/a", DATA))
    with closing(Reading(externals, tmp_path)) as reading, ThreadPoolExecutor(8) as pool:
        for data in pool.map(lambda _: reading.read(external, 0, 100), range(8)):
            assert data == DATA[:100]
    assert len(server.asked("GET")) == 1


def test_files_of_this_machine_are_not_copied_into_the_cache(
    externals: Externals, folder: Path, tmp_path: Path
) -> None:
    (folder / "a").write_bytes(DATA)
    external = one(externals, f"file://{folder}/a")
    with closing(Reading(externals, tmp_path)) as reading:
        assert reading.read(external) == DATA
        reading.cache.settle()
        assert reading.cache.info().blocks == 0
        os.utime(folder / "a", ns=(1, 1))
    with closing(Reading(externals, tmp_path)) as reading, pytest.raises(Corrupt, match="has changed"):
        reading.read(external)


def test_a_target_that_changes_between_two_ranges_is_an_error(
    externals: Externals, server: HttpServer, tmp_path: Path
) -> None:
    """Also where the server does not notice: it heeds no If-Match, and the change comes with the same length."""
    external = one(externals, server.put("/a", DATA, conditions=False))
    with closing(Reading(externals, tmp_path, budget=0)) as reading:
        assert reading.read(external, 0, 100) == DATA[:100]
        server.put("/a", DATA[::-1], conditions=False)
        with pytest.raises(Corrupt, match="has changed"):
            reading.read(external, BLOCK_BYTES, BLOCK_BYTES + 100)


def test_a_target_that_changes_to_and_fro_is_an_error_of_the_moment(
    externals: Externals, server: HttpServer, tmp_path: Path
) -> None:
    """It is another when its bytes are asked for, and the pinned one when it is asked what it is."""
    external = one(externals, server.put("/a", DATA))
    pinned, other = server.objects["/a"], Object(DATA[::-1])

    def swap(request: Request) -> None:
        server.objects["/a"] = other if request.method == "GET" else pinned

    server.before = swap
    with closing(Reading(externals, tmp_path)) as reading:
        with pytest.raises(Unavailable, match="changes while it is read"):
            reading.read(external, 0, 100)
        server.before = lambda request: server.objects.update({"/a": pinned})
        assert reading.read(external, 0, 100) == DATA[:100]


def test_a_server_that_is_gone_and_back(
    externals: Externals, server: HttpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    external = one(externals, server.put("/a", DATA))
    with closing(Reading(externals, tmp_path)) as reading:
        assert reading.read(external, 0, 10) == DATA[:10]
        server.stop()
        assert reading.read(external, 0, 10) == DATA[:10]
        with pytest.raises(Unavailable, match=external.shown):
            reading.read(external, BLOCK_BYTES, BLOCK_BYTES + 1)
        server.start_again()
        assert reading.read(external) == DATA
    assert external.shown in caplog.text


def test_a_fetcher_without_externals_reads_none(tmp_path: Path) -> None:
    external = External(b"http://127.0.0.1/x", b"x", 5)
    block = next(external.extents(0, 5)).block
    with (
        closing(Cache(tmp_path / "cache")) as cache,
        closing(Fetcher(lambda tag: MemoryBackend(), cache)) as fetcher,
        pytest.raises(Corrupt, match="where none belongs"),
    ):
        fetcher.read(block, 0, 5)
