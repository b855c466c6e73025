"""Counting requests."""

from __future__ import annotations

import threading

import pytest

from dvfs.store.errors import AlreadyExists, Conflict, NotFound
from dvfs.store.folder import FolderBackend
from dvfs.store.metrics import LIST_PAGE, Counts, Metered
from dvfs.store.retry import Retrying
from tests.clocks import FakeClock
from tests.faulty import Faulty

RECORD = "datasets/0123.json"


def test_every_operation_is_counted(folder_backend: FolderBackend) -> None:
    metered = Metered(folder_backend)
    etag = metered.put_if_absent(RECORD, b"12345")
    metered.replace_if(RECORD, b"1234567", etag)
    metered.get(RECORD)
    metered.get(RECORD, 2, 3)
    metered.head(RECORD)
    list(metered.list("datasets/"))
    assert list(metered.stream(RECORD, 1, [2, 3])) == [b"23", b"456"]
    metered.delete(RECORD)
    assert metered.counts == Counts(
        get=3, put_if_absent=1, replace_if=1, list=1, head=1, delete=1, listed=1, bytes_in=7 + 3 + 5, bytes_out=5 + 7
    )
    assert metered.counts.requests == 8


def test_failures_are_requests_too(folder_backend: FolderBackend) -> None:
    metered = Metered(folder_backend)
    metered.put_if_absent(RECORD, b"1")
    before = metered.counts
    with pytest.raises(AlreadyExists):
        metered.put_if_absent(RECORD, b"2")
    with pytest.raises(Conflict):
        metered.replace_if(RECORD, b"2", "0")
    with pytest.raises(NotFound):
        metered.get("datasets/none.json")
    with pytest.raises(NotFound):
        metered.head("datasets/none.json")
    assert metered.counts - before == Counts(get=1, put_if_absent=1, replace_if=1, head=1, errors=4)


def test_attempts_are_counted_below_the_retries(folder_backend: FolderBackend) -> None:
    faulty = Faulty(folder_backend)
    metered = Metered(faulty)
    folder_backend.put_if_absent(RECORD, b"1")
    faulty.fail("get", times=2)
    Retrying(metered, FakeClock()).get(RECORD)
    assert metered.counts == Counts(get=3, errors=2, bytes_in=1)


@pytest.mark.parametrize(("keys", "requests"), [(0, 1), (1, 1), (LIST_PAGE, 1), (LIST_PAGE + 1, 2)])
def test_a_listing_counts_its_pages(folder_backend: FolderBackend, keys: int, requests: int) -> None:
    class Many(Faulty):
        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            yield from range(keys)

    metered = Metered(Many(folder_backend))
    assert len(list(metered.list(""))) == keys
    assert metered.counts == Counts(list=requests, listed=keys)


def test_threads_lose_no_count(folder_backend: FolderBackend) -> None:
    metered = Metered(folder_backend)
    folder_backend.put_if_absent("packs/00/aa", b"1")

    def read() -> None:
        for _ in range(200):
            metered.get("packs/00/aa")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metered.counts == Counts(get=800, bytes_in=800)
