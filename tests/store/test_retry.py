"""Trying again, and the rule of doubt."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import pytest

from dvfs.store.backend import stream
from dvfs.store.errors import AccessDenied, AlreadyExists, Conflict, NoSpace, NotFound, Throttled, Unavailable
from dvfs.store.folder import FolderBackend
from dvfs.store.retry import Repeats, Retrying, RetryPolicy, repeats_of
from tests.clocks import FakeClock
from tests.faulty import FOREVER, Faulty
from tests.store.noise import noise

RECORD = "datasets/0123.json"
POLICY = RetryPolicy(attempts=5, deadline_seconds=100.0, base_seconds=1.0, cap_seconds=3.0)


class Setup:
    """A folder, faults around it, retries around those, and their clock."""

    def __init__(self, inner: FolderBackend, policy: RetryPolicy = POLICY) -> None:
        self.plain = inner
        self.faulty = Faulty(inner)
        self.clock = FakeClock()
        self.retrying = Retrying(self.faulty, self.clock, policy, jitter=lambda: 1.0)


@pytest.fixture
def setup(folder_backend: FolderBackend) -> Setup:
    return Setup(folder_backend)


def test_pauses_grow_to_the_cap(setup: Setup) -> None:
    setup.plain.put_if_absent("packs/00/aa", b"x")
    setup.faulty.fail("get", times=4)
    assert setup.retrying.get("packs/00/aa").data == b"x"
    assert setup.clock.sleeps == [1.0, 2.0, 3.0, 3.0]


def test_what_is_tried_again_is_counted(setup: Setup) -> None:
    setup.plain.put_if_absent("packs/00/aa", b"x")
    assert repeats_of(setup.plain) == repeats_of(setup.retrying) == Repeats()
    setup.faulty.fail("get", error=Throttled("slow down"), times=2)
    setup.faulty.fail("get", nth=3)
    assert setup.retrying.get("packs/00/aa").data == b"x"
    assert repeats_of(setup.retrying) == Repeats(retries=3, throttled=2)


def test_who_gives_up_says_that_the_store_asked_for_it(setup: Setup) -> None:
    setup.faulty.fail("get", error=Throttled("slow down"), times=FOREVER)
    with pytest.raises(Throttled, match=r"slow down \(gave up after 5 attempts"):
        setup.retrying.get("packs/00/aa")
    assert setup.retrying.repeats == Repeats(retries=4, throttled=4)


def test_pauses_have_full_jitter(folder_backend: FolderBackend) -> None:
    numbers = iter([0.0, 0.25, 0.5, 0.75])
    clock, faulty = FakeClock(), Faulty(folder_backend)
    folder_backend.put_if_absent("packs/00/aa", b"x")
    faulty.fail("get", times=4)
    Retrying(faulty, clock, POLICY, jitter=lambda: next(numbers)).get("packs/00/aa")
    assert clock.sleeps == [0.0, 0.5, 1.5, 2.25]


@pytest.mark.parametrize("operation", ["get", "head", "list", "delete", "put_if_absent", "replace_if"])
def test_it_gives_up_after_its_attempts(setup: Setup, operation: str) -> None:
    setup.faulty.fail("*", times=FOREVER)
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: setup.retrying.get(RECORD),
        "head": lambda: setup.retrying.head(RECORD),
        "list": lambda: list(setup.retrying.list("")),
        "delete": lambda: setup.retrying.delete(RECORD),
        "put_if_absent": lambda: setup.retrying.put_if_absent(RECORD, b"x"),
        "replace_if": lambda: setup.retrying.replace_if(RECORD, b"x", "0"),
    }
    with pytest.raises(Unavailable) as caught:
        calls[operation]()
    assert setup.faulty.count(operation) == POLICY.attempts
    assert "injected" in str(caught.value)
    assert "5 attempts" in str(caught.value)


def test_it_starts_no_attempt_after_the_deadline(folder_backend: FolderBackend) -> None:
    setup = Setup(folder_backend, RetryPolicy(attempts=100, deadline_seconds=10.0, base_seconds=1.0, cap_seconds=4.0))
    setup.faulty.fail("get", times=FOREVER)
    with pytest.raises(Unavailable):
        setup.retrying.get(RECORD)
    assert setup.clock.sleeps == [1.0, 2.0, 4.0]
    assert setup.clock.monotonic() <= 10.0


def test_what_does_not_help_is_not_repeated(setup: Setup) -> None:
    for error in (AccessDenied("no"), NotFound("none"), NoSpace("full"), Conflict("changed")):
        setup.faulty.heal()
        setup.faulty.fail("get", times=FOREVER, error=error)
        before = setup.faulty.count("get")
        with pytest.raises(type(error)):
            setup.retrying.get(RECORD)
        assert setup.faulty.count("get") == before + 1
    assert setup.clock.sleeps == []


def test_a_listing_that_breaks_off_goes_on(setup: Setup) -> None:
    keys = [f"packs/00/{number:02}" for number in range(10)]
    for key in keys:
        setup.plain.put_if_absent(key, b"x")
    setup.faulty.cut_short("list", 4)
    setup.faulty.cut_short("list", 2)
    assert [item.key for item in setup.retrying.list("packs/")] == keys
    assert setup.faulty.count("list") > 1


class Breaking(Faulty):
    """Streams break off after so many pieces each; *starts*: where each began."""

    def __init__(self, inner: FolderBackend, lives: list[int]) -> None:
        super().__init__(inner)
        self.starts: list[int] = []
        self._lives = lives

    def stream(self, key: str, start: int, sizes: Sequence[int]) -> Generator[bytes, None, None]:
        self.starts.append(start)
        life = self._lives.pop(0) if self._lives else len(sizes) + 1
        for number, piece in enumerate(stream(self._inner, key, start, sizes)):
            if number == life:
                raise Unavailable("broke off")
            yield piece


def test_a_stream_that_breaks_off_goes_on(setup: Setup) -> None:
    data = noise(1000)
    setup.plain.put_if_absent("packs/00/aa", data)
    breaking = Breaking(setup.plain, [3, 0, 2])
    retrying = Retrying(breaking, setup.clock, POLICY)
    assert list(retrying.stream("packs/00/aa", 100, [50] * 10)) == [data[at : at + 50] for at in range(100, 600, 50)]
    assert breaking.starts == [100, 250, 250, 350]
    assert retrying.repeats == Repeats(3)
    breaking = Breaking(setup.plain, [1])
    pieces = Retrying(breaking, setup.clock, POLICY).stream("packs/00/aa", 5, [0, 50, 0, 70])
    assert list(pieces) == [data[5:55], data[55:125]]
    assert breaking.starts == [5, 55]
    breaking = Breaking(setup.plain, [1] + [0] * 100)
    pieces = Retrying(breaking, setup.clock, POLICY).stream("packs/00/aa", 0, [50] * 10)
    assert next(pieces) == data[:50]
    with pytest.raises(Unavailable, match="gave up after 5 attempts"):
        next(pieces)
    assert breaking.starts == [0, 50, 50, 50, 50]


# Doubt

BIG = noise((1 << 20) + 1)


@pytest.mark.parametrize("body", [b"mine", b"", BIG])
def test_lost_reply_of_a_put_is_success(setup: Setup, body: bytes) -> None:
    setup.faulty.lose_reply("put_if_absent")
    etag = setup.retrying.put_if_absent(RECORD, body)
    assert setup.faulty.count("put_if_absent") == 2
    assert setup.plain.get(RECORD).data == body
    assert setup.plain.head(RECORD).etag == etag


@pytest.mark.parametrize("body", [b"mine", BIG])
def test_lost_reply_of_a_replace_is_success(setup: Setup, body: bytes) -> None:
    old = setup.plain.put_if_absent(RECORD, b"old")
    setup.faulty.lose_reply("replace_if")
    etag = setup.retrying.replace_if(RECORD, body, old)
    assert setup.faulty.count("replace_if") == 2
    assert setup.plain.get(RECORD).data == body
    assert setup.plain.head(RECORD).etag == etag


def test_a_big_body_is_not_fetched_whole_to_be_compared(setup: Setup) -> None:
    read: list[int | None] = []
    true_get = setup.plain.get

    class Watched(Faulty):
        def get(self, key: str, start: int = 0, length: int | None = None):  # type: ignore[no-untyped-def]
            read.append(length)
            return true_get(key, start, length)

    faulty = Watched(setup.plain)
    faulty.lose_reply("put_if_absent")
    Retrying(faulty, setup.clock, POLICY).put_if_absent("packs/00/aa", BIG)
    assert read == [4096]


@pytest.mark.parametrize("theirs", [b"theirs", BIG[:-1] + b"\0", BIG[:-1]])
def test_doubt_about_what_others_wrote_is_a_conflict(setup: Setup, theirs: bytes) -> None:
    setup.plain.put_if_absent(RECORD, theirs)
    setup.faulty.fail("put_if_absent")
    with pytest.raises(AlreadyExists):
        setup.retrying.put_if_absent(RECORD, BIG)
    setup.faulty.heal()
    setup.faulty.fail("replace_if")
    with pytest.raises(Conflict) as caught:
        setup.retrying.replace_if(RECORD, BIG, "0" * 64)
    assert not isinstance(caught.value, AlreadyExists)
    assert setup.plain.get(RECORD).data == theirs


def test_a_conflict_without_doubt_is_not_read_back(setup: Setup) -> None:
    setup.plain.put_if_absent(RECORD, b"mine")
    with pytest.raises(AlreadyExists):
        setup.retrying.put_if_absent(RECORD, b"mine")
    with pytest.raises(Conflict):
        setup.retrying.replace_if(RECORD, b"mine", "0" * 64)
    assert setup.faulty.count("get") == 0


@pytest.mark.parametrize("theirs", [None, b"theirs"])
def test_doubt_that_cannot_be_read_back_stays_unavailable(setup: Setup, theirs: bytes | None) -> None:
    if theirs is not None:
        setup.plain.put_if_absent(RECORD, theirs)
        setup.faulty.fail("put_if_absent")
    else:
        setup.faulty.lose_reply("put_if_absent")
    setup.faulty.fail("get", times=FOREVER)
    with pytest.raises(Unavailable) as caught:
        setup.retrying.put_if_absent(RECORD, b"mine")
    assert not isinstance(caught.value, AccessDenied)


def test_doubt_that_may_not_be_read_back_is_access_denied(setup: Setup) -> None:
    setup.faulty.lose_reply("put_if_absent")
    setup.faulty.fail("get", times=FOREVER, error=AccessDenied("write only"))
    with pytest.raises(AccessDenied):
        setup.retrying.put_if_absent(RECORD, b"mine")


def test_doubt_is_read_back_when_that_works_again(setup: Setup) -> None:
    setup.faulty.lose_reply("put_if_absent")
    setup.faulty.fail("get", times=2)
    etag = setup.retrying.put_if_absent(RECORD, b"mine")
    assert setup.plain.get(RECORD).etag == etag


def test_doubt_whose_object_is_gone_is_written_again(setup: Setup) -> None:
    setup.faulty.lose_reply("put_if_absent")
    setup.faulty.fail("get", error=NotFound("gone"))
    etag = setup.retrying.put_if_absent(RECORD, b"mine")
    assert setup.plain.get(RECORD).etag == etag


@pytest.mark.parametrize("operation", ["put_if_absent", "replace_if"])
@pytest.mark.parametrize("nth", range(1, 6))
def test_any_one_fault_is_survived(setup: Setup, operation: str, nth: int) -> None:
    """Whichever call fails, before or after it was done, a counter counts right."""
    for lose in (True, False):
        key = f"datasets/{lose}.json"
        setup.faulty.heal()
        (setup.faulty.lose_reply if lose else setup.faulty.fail)(operation, nth)
        setup.retrying.put_if_absent(key, b"0")
        for number in range(1, 8):
            blob = setup.retrying.get(key)
            setup.retrying.replace_if(key, b"%d" % (int(blob.data) + 1), blob.etag)
            assert setup.plain.get(key).data == b"%d" % number
