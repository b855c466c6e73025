"""What every backend does, bare and wrapped as the program wraps it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dvfs.store.backend import Backend, get_if, stream
from dvfs.store.errors import AlreadyExists, Conflict, InvalidInput, NotFound, Unavailable
from dvfs.store.metrics import Metered
from dvfs.store.retry import Retrying
from dvfs.store.url import open_backend
from tests.store.noise import noise

RECORD = "datasets/0123.json"
THREADS = 8
TURNS = 2  # SeaweedFS makes racing writers wait for seconds


@pytest.fixture(params=[f"{kind}{how}" for how in ("", "-wrapped") for kind in ("folder", "s3", "gcs", "azure")])
def backend(request: pytest.FixtureRequest) -> Backend:
    kind, _, wrapped = request.param.partition("-")
    inner: Backend = request.getfixturevalue(f"{kind}_backend")
    return Retrying(Metered(inner)) if wrapped else inner


def race(calls: list[Callable[[], str]]) -> tuple[list[str], list[Exception]]:
    """Run *calls* at once; return the results of those that return and the errors of the others."""
    start = threading.Barrier(len(calls))
    won: list[str] = []
    lost: list[Exception] = []

    def run(call: Callable[[], str]) -> None:
        start.wait()
        try:
            won.append(call())
        except Exception as exc:
            lost.append(exc)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, lost


def test_get_returns_what_was_put(backend: Backend) -> None:
    etag = backend.put_if_absent("packs/00/a", b"hello")
    blob = backend.get("packs/00/a")
    assert blob.data == b"hello"
    assert type(blob.data) is bytes
    assert blob.etag == etag


def test_get_if_reads_what_was_meant_or_nothing(backend: Backend) -> None:
    etag = backend.put_if_absent(RECORD, b"hello")
    blob = get_if(backend, RECORD, 1, 3, etag)
    assert (blob.data, blob.etag) == (b"ell", etag)
    new = backend.replace_if(RECORD, b"olleh", etag)
    with pytest.raises(Conflict):
        get_if(backend, RECORD, 1, 3, etag)
    assert get_if(backend, RECORD, 1, 3, new).data == b"lle"
    backend.delete(RECORD)
    with pytest.raises(NotFound):
        get_if(backend, RECORD, 1, 3, new)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_put_takes_any_buffer(backend: Backend, kind: type) -> None:
    backend.put_if_absent("runs/1/x", kind(b"hello"))
    assert backend.get("runs/1/x").data == b"hello"


@pytest.mark.parametrize("key", ["packs/00/a", RECORD])
@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (0, 4, b"0123"),
        (3, 4, b"3456"),
        (9, 1, b"9"),
        (7, 100, b"789"),
        (10, None, b""),
        (10, 5, b""),
        (99, None, b""),
        (99, 5, b""),
        (4, 0, b""),
        (0, 100, b"0123456789"),
    ],
)
def test_ranges(backend: Backend, key: str, start: int, length: int | None, expected: bytes) -> None:
    etag = backend.put_if_absent(key, b"0123456789")
    blob = backend.get(key, start, length)
    assert blob.data == expected
    assert blob.etag == etag


@pytest.mark.parametrize(
    ("start", "sizes", "expected"),
    [
        (0, [4, 0, 3, 3], [b"0123", b"456", b"789"]),
        (2, [1, 1], [b"2", b"3"]),
        (6, [3, 3, 3], [b"678", b"9"]),
        (10, [5], []),
        (3, [], []),
    ],
)
def test_streams(backend: Backend, start: int, sizes: list[int], expected: list[bytes]) -> None:
    backend.put_if_absent("packs/00/a", b"0123456789")
    pieces = list(stream(backend, "packs/00/a", start, sizes))
    assert pieces == expected
    assert all(type(piece) is bytes for piece in pieces)


def test_a_stream_that_is_left_harms_none_that_follows(backend: Backend) -> None:
    data = noise(20 << 20)
    backend.put_if_absent("packs/00/a", data)
    for _ in range(3):
        with closing(stream(backend, "packs/00/a", 5, [1 << 20] * 19)) as pieces:
            assert next(pieces) == data[5 : 5 + (1 << 20)]
    assert b"".join(stream(backend, "packs/00/a", 0, [3 << 20] * 7)) == data


def test_a_stream_of_a_missing_object(backend: Backend) -> None:
    with pytest.raises(NotFound):
        list(stream(backend, "packs/00/none", 0, [1, 1]))
    with pytest.raises(InvalidInput):
        list(stream(backend, "packs/00/none", -1, [1]))


@pytest.mark.parametrize(("start", "length"), [(-1, None), (0, -1)])
def test_negative_ranges_are_refused(backend: Backend, start: int, length: int | None) -> None:
    backend.put_if_absent("packs/00/a", b"hello")
    with pytest.raises(InvalidInput):
        backend.get("packs/00/a", start, length)


@pytest.mark.parametrize("key", ["traces/1/empty", RECORD])
def test_empty_object(backend: Backend, key: str) -> None:
    etag = backend.put_if_absent(key, b"")
    assert backend.get(key).data == b""
    assert backend.get(key, 0, 10).data == b""
    assert [(item.key, item.etag, item.size) for item in backend.list(key)] == [(key, etag, 0)]


def test_big_object(backend: Backend) -> None:
    data = noise(5 << 20)
    etag = backend.put_if_absent("packs/ab/big", data)
    assert backend.get("packs/ab/big").data == data
    blob = backend.get("packs/ab/big", (5 << 20) - 70_000, 100_000)
    assert blob.data == data[-70_000:]
    info = backend.head("packs/ab/big")
    assert (blob.etag, info.etag, info.size) == (etag, etag, 5 << 20)


def test_put_leaves_what_exists(backend: Backend) -> None:
    backend.put_if_absent("names/p/n/1.0.0", b"first")
    with pytest.raises(AlreadyExists) as caught:
        backend.put_if_absent("names/p/n/1.0.0", b"second")
    assert "names/p/n/1.0.0" in str(caught.value)
    assert backend.get("names/p/n/1.0.0").data == b"first"


def test_one_of_many_puts_wins(backend: Backend) -> None:
    for turn in range(TURNS):
        bodies = [b"%d of %d" % (number, turn) for number in range(THREADS)]
        key = f"names/p/n/{turn}"
        won, lost = race([partial(backend.put_if_absent, key, body) for body in bodies])
        assert len(won) == 1
        assert all(isinstance(exc, AlreadyExists) for exc in lost)
        blob = backend.get(key)
        assert blob.etag == won[0]
        assert blob.data in bodies


def test_replace(backend: Backend) -> None:
    first = backend.put_if_absent(RECORD, b"one")
    second = backend.replace_if(RECORD, b"two!", first)
    assert second != first
    assert backend.get(RECORD).data == b"two!"
    assert backend.get(RECORD).etag == second
    assert [(item.etag, item.size) for item in backend.list("datasets/")] == [(second, 4)]
    third = backend.replace_if(RECORD, b"three", second)
    assert backend.head(RECORD).etag == third
    assert backend.head(RECORD).size == 5


def test_replace_of_a_changed_object_is_a_conflict(backend: Backend) -> None:
    first = backend.put_if_absent(RECORD, b"one")
    second = backend.replace_if(RECORD, b"two", first)
    for stale in (first, "0" * len(first)):
        with pytest.raises(Conflict) as caught:
            backend.replace_if(RECORD, b"three", stale)
        assert not isinstance(caught.value, AlreadyExists)
        assert RECORD in str(caught.value)
    assert backend.get(RECORD).data == b"two"
    assert backend.get(RECORD).etag == second


def test_replace_of_a_missing_object_is_a_conflict(backend: Backend) -> None:
    with pytest.raises(Conflict):
        backend.replace_if(RECORD, b"one", "0" * 32)
    etag = backend.put_if_absent(RECORD, b"one")
    backend.delete(RECORD)
    with pytest.raises(Conflict):
        backend.replace_if(RECORD, b"two", etag)
    with pytest.raises(NotFound):
        backend.get(RECORD)


def test_one_of_many_replaces_wins(backend: Backend) -> None:
    etag = backend.put_if_absent(RECORD, b"start")
    for turn in range(TURNS):
        bodies = [b"%d of %d" % (number, turn) for number in range(THREADS)]
        won, lost = race([partial(backend.replace_if, RECORD, body, etag) for body in bodies])
        assert len(won) == 1
        assert all(isinstance(exc, Conflict) for exc in lost)
        blob = backend.get(RECORD)
        assert blob.etag == won[0]
        assert blob.data in bodies
        etag = won[0]


def test_a_counter_loses_nothing(backend: Backend) -> None:
    """Read, add one, swap, again on conflict: what `upload` does with drafts."""
    backend.put_if_absent(RECORD, b"0:")
    rounds = 4

    def count(who: int) -> str:
        for turn in range(rounds):
            while True:
                blob = backend.get(RECORD)
                body = b"%d:%d/%d" % (int(blob.data.split(b":")[0]) + 1, who, turn)
                try:
                    backend.replace_if(RECORD, body, blob.etag)
                    break
                except Conflict:
                    continue
        return ""

    _won, lost = race([partial(count, who) for who in range(4)])
    assert lost == []
    assert backend.get(RECORD).data.split(b":")[0] == b"%d" % (4 * rounds)


def test_list_is_in_order_of_key(backend: Backend) -> None:
    keys = [
        "names/a%20b/x/1.0.0",
        "names/a-b/x/1.0.0",
        "names/a.b/x/1.0.0",
        "names/a/x/1.0.0",
        "names/a/x/1.0.0-rc.1",
        "names/a/x/1.0.10",
        "names/a/x/1.0.2",
        "names/a/x-y/1.0.0",
        "names/a0/x/1.0.0",
        "names/B/x/1.0.0",
        "names/%E2%82%AC/x/1.0.0",
        "names/%2E%2E/x/1.0.0",
        "names/~tilde/_x/1.0.0",
        "packs/00/aa",
        "format.json",
    ]
    for key in reversed(keys):
        backend.put_if_absent(key, key.encode())
    assert [item.key for item in backend.list("")] == sorted(keys)
    assert [item.size for item in backend.list("")] == [len(key) for key in sorted(keys)]
    for prefix in ("names/", "names/a", "names/a/", "names/a/x", "names/a/x/", "names/a/x/1.0.", "names/%", "f"):
        assert [item.key for item in backend.list(prefix)] == sorted(key for key in keys if key.startswith(prefix))


def test_list_of_nothing(backend: Backend) -> None:
    assert list(backend.list("")) == []
    assert list(backend.list("datasets/")) == []
    backend.put_if_absent("datasets/aa.json", b"{}")
    assert list(backend.list("datasets/b")) == []
    assert list(backend.list("datasets/aa.json/")) == []


def test_one_etag_everywhere(backend: Backend) -> None:
    for key in (RECORD, "packs/00/aa", "names/p/n/1.0.0"):
        etag = backend.put_if_absent(key, b"bytes of " + key.encode())
        listed = {item.key: item for item in backend.list("")}[key]
        assert backend.get(key).etag == etag
        assert backend.get(key, 2, 3).etag == etag
        assert backend.get(key, 999).etag == etag
        assert backend.head(key) == listed
        assert (listed.etag, listed.size) == (etag, len(b"bytes of " + key.encode()))


def test_etags_of_other_bytes_differ(backend: Backend) -> None:
    etags = {backend.put_if_absent(f"datasets/{number}.json", b"%d" % number) for number in range(20)}
    assert len(etags) == 20


@pytest.mark.parametrize("key", [RECORD, "packs/00/aa"])
def test_delete(backend: Backend, key: str) -> None:
    backend.delete(key)
    first = backend.put_if_absent(key, b"first")
    backend.delete(key)
    backend.delete(key)
    assert list(backend.list("")) == []
    with pytest.raises(NotFound):
        backend.head(key)
    second = backend.put_if_absent(key, b"second")
    assert second != first
    assert backend.get(key).data == b"second"


def test_a_replaced_object_can_be_deleted_and_made_again(backend: Backend) -> None:
    etag = backend.put_if_absent(RECORD, b"one")
    etag = backend.replace_if(RECORD, b"two", etag)
    backend.delete(RECORD)
    assert list(backend.list("datasets/")) == []
    with pytest.raises(NotFound):
        backend.get(RECORD)
    with pytest.raises(Conflict):
        backend.replace_if(RECORD, b"three", etag)
    etag = backend.put_if_absent(RECORD, b"again")
    backend.replace_if(RECORD, b"and again", etag)
    assert backend.get(RECORD).data == b"and again"


def test_missing_objects(backend: Backend) -> None:
    backend.put_if_absent("datasets/aa.json", b"{}")
    for key in ("datasets/bb.json", "datasets", "packs/00/aa", "datasets/aa.json/below"):
        with pytest.raises(NotFound) as caught:
            backend.get(key)
        assert key in str(caught.value)
        with pytest.raises(NotFound):
            backend.get(key, 3, 4)
        with pytest.raises(NotFound):
            backend.get(key, 3, 0)
        with pytest.raises(NotFound):
            backend.head(key)


def test_not_found_is_not_unavailable(backend: Backend) -> None:
    with pytest.raises(NotFound) as caught:
        backend.get("format.json")
    assert not isinstance(caught.value, Unavailable)


def test_url_has_no_credentials_and_opens_the_same_store(backend: Backend) -> None:
    assert "secret" not in backend.url
    backend.put_if_absent("packs/00/aa", b"there")
    again = open_backend(backend.url)
    try:
        assert again.get("packs/00/aa").data == b"there"
        assert again.url == backend.url
    finally:
        again.close()


def test_both_kinds_open_by_url(store_backend: Backend, store_url: str, tmp_path: Path) -> None:
    store_backend.put_if_absent("packs/00/aa", b"there")
    assert store_url.startswith("s3://") != (tmp_path / "store" / "packs" / "00" / "aa").is_file()
