"""What is expected to be read next."""

from __future__ import annotations

from itertools import pairwise

from dvfs.fs.readahead import (
    FIRST_PAGES,
    FIRST_WINDOW_BYTES,
    IN_ORDER_FILES,
    MAX_PAGES,
    RANDOM_READS,
    SLACK_RANKS,
    WHOLE_FILE_BYTES,
    WHOLE_FILE_READS,
    EntriesAhead,
    FileAhead,
    Job,
    PagesAhead,
    ReadAhead,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def read_through(ahead: ReadAhead, size: int, step: int, inode: int = 5) -> list[FileAhead]:
    jobs: list[FileAhead] = []
    for start in range(0, size, step):
        job = ahead.note(inode, inode - 1, size, start, min(step, size - start), waited=True)
        if isinstance(job, FileAhead):
            assert job.start >= start
            jobs.append(job)
    return jobs


def test_a_file_read_in_order_is_wanted_once_in_doubling_windows() -> None:
    jobs = read_through(ReadAhead(max_window_bytes=16 * MIB), 200 * MIB, 128 * KIB)

    assert jobs[0].start == 256 * KIB  # nothing at the first read: it may be the only one
    assert jobs[0].stop == 256 * KIB + FIRST_WINDOW_BYTES
    for before, after in pairwise(jobs):
        assert after.start == before.stop
    assert jobs[-1].stop == 200 * MIB
    lengths = [job.stop - job.start for job in jobs]
    assert max(lengths) <= 16 * MIB
    assert len(jobs) < 40
    assert not ReadAhead().looks_random


def test_nothing_is_wanted_beyond_the_end_or_when_switched_off() -> None:
    assert read_through(ReadAhead(), 128 * KIB, 128 * KIB) == []
    assert read_through(ReadAhead(max_window_bytes=0), 8 * MIB, 128 * KIB) == []


def test_requests_of_one_reader_that_overtake_each_other_are_in_order() -> None:
    ahead = ReadAhead()
    starts = [number * 128 * KIB for number in (0, 2, 1, 4, 3, 6, 5, 8, 7)]
    jobs = [ahead.note(5, 4, GIB, start, 128 * KIB, waited=True) for start in starts]
    assert any(isinstance(job, FileAhead) for job in jobs)
    assert not ahead.looks_random


def test_two_files_read_in_order_at_once_have_windows_of_their_own() -> None:
    ahead = ReadAhead()
    jobs: dict[int, list[Job]] = {5: [], 99: []}
    for start in range(0, 8 * MIB, 128 * KIB):
        for inode, found in jobs.items():
            job = ahead.note(inode, inode - 1, 8 * MIB, start, 128 * KIB, waited=True)
            if job is not None:
                found.append(job)
    for inode, found in jobs.items():
        assert [job.inode for job in found if isinstance(job, FileAhead)] == [inode] * len(found)
        assert found[-1] == FileAhead(inode, found[-1].start, 8 * MIB)  # type: ignore[union-attr]


def test_scattered_reads_that_wait_look_random() -> None:
    ahead = ReadAhead()
    for number in range(RANDOM_READS):
        assert not ahead.looks_random
        start = (number * 7919 % 1000 + 1) * MIB * 3
        assert ahead.note(5, 4, 8 * GIB, start, 64 * KIB, waited=True) is None
    assert ahead.looks_random


def test_a_file_that_is_read_here_and_there_is_wanted_whole_and_once() -> None:
    ahead = ReadAhead()
    starts = [(number * 7919 % 1000 + 1) * MIB for number in range(3 * WHOLE_FILE_READS)]
    jobs = [ahead.note(5, 4, GIB, start, 64 * KIB, waited=True) for start in starts]
    assert jobs == [None] * (WHOLE_FILE_READS - 1) + [FileAhead(5, 0, GIB)] + [None] * (2 * WHOLE_FILE_READS)


def test_a_file_is_not_wanted_whole_that_is_too_large_or_read_in_pieces_or_from_memory() -> None:
    starts = [(number * 7919 % 1000 + 1) * MIB for number in range(3 * WHOLE_FILE_READS)]
    ahead = ReadAhead()
    assert not any(ahead.note(5, 4, WHOLE_FILE_BYTES + 1, start, 64 * KIB, waited=True) for start in starts)
    assert not any(ahead.note(6, 5, GIB, start, 64 * KIB, waited=False) for start in starts)
    ahead.limit(GIB, wants_whole=False)
    assert not any(ahead.note(7, 6, GIB, start, 64 * KIB, waited=True) for start in starts)
    ahead = ReadAhead()
    for start in starts:  # a column here and there, each of several reads
        for at in range(start, start + MIB, 256 * KIB):
            assert ahead.note(5, 4, GIB, at, 256 * KIB, waited=True) != FileAhead(5, 0, GIB)


def test_scattered_reads_that_are_at_hand_do_not_matter() -> None:
    ahead = ReadAhead()
    for number in range(10 * RANDOM_READS):
        ahead.note(number * 1000, number * 7919 % 5000 * 1000, 64 * KIB, 0, 64 * KIB, waited=False)
    assert not ahead.looks_random


def test_files_begun_in_catalog_order_want_the_next_ones() -> None:
    ahead = ReadAhead()
    jobs: list[EntriesAhead] = []
    for rank in range(1000):
        job = ahead.note(rank + 1, rank, 64 * KIB, 0, 64 * KIB, waited=True)
        if isinstance(job, EntriesAhead):
            assert job.first > rank
            ahead.reached(job, job.first + 100)
            jobs.append(job)
    assert jobs[0].first == IN_ORDER_FILES
    for before, after in pairwise(jobs):
        assert after.first == before.first + 100
    assert [job.size for job in jobs[:3]] == [4 * MIB, 8 * MIB, 16 * MIB]
    assert max(job.size for job in jobs) == 256 * MIB


def test_workers_that_share_the_catalog_order_are_in_order() -> None:
    ahead = ReadAhead()
    ranks = [base + offset for base in range(0, 320, 16) for offset in (3, 0, 2, 1, 7, 5, 6, 4, 9, 8, 15, 12, 13, 14)]
    jobs = [ahead.note(rank + 1, rank, 64 * KIB, 0, 64 * KIB, waited=True) for rank in ranks]
    assert any(jobs)
    assert not ahead.looks_random


def test_files_in_random_order_want_nothing_and_look_random() -> None:
    ahead = ReadAhead()
    for number in range(RANDOM_READS + 2):
        rank = number * 7919 % 100_000
        assert ahead.note(rank + 1, rank, 64 * KIB, 0, 64 * KIB, waited=True) is None
    assert ahead.looks_random


def test_a_jump_begins_anew() -> None:
    ahead = ReadAhead()
    for rank in range(IN_ORDER_FILES - 1):
        assert ahead.note(rank + 1, rank, 1, 0, 1, waited=True) is None
    far = IN_ORDER_FILES + 2 * SLACK_RANKS
    assert ahead.note(far + 1, far, 1, 0, 1, waited=True) is None
    found = [ahead.note(far + step + 1, far + step, 1, 0, 1, waited=True) for step in range(1, IN_ORDER_FILES)]
    assert found[:-1] == [None] * (IN_ORDER_FILES - 2)
    assert isinstance(found[-1], EntriesAhead)


def test_pages_walked_in_order_are_wanted_once_in_doubling_numbers() -> None:
    pages = PagesAhead()
    found = [wanted for index in range(500) if (wanted := pages.note(b"parent", index))]
    assert found[0] == range(1, 4)
    for before, after in pairwise(found):
        assert after.start == before.stop
    assert max(map(len, found)) <= MAX_PAGES
    assert 4 * len(found) < 500 / FIRST_PAGES


def test_pages_walked_on_in_the_next_parent_keep_their_number() -> None:
    pages = PagesAhead()
    for index in range(100):
        pages.note(b"parent", index)
    assert len(pages.note(b"next", 0)) == MAX_PAGES


def test_pages_here_and_there_bring_few_others() -> None:
    pages = PagesAhead()
    for index in (7, 300, 20, 450, 0):
        assert pages.note(b"parent", index) == range(index + 1, index + 1 + FIRST_PAGES)
