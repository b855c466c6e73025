"""What a worker tells its leader: as it was noted, in batches, and never so that the worker would wait."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from dvfs.fs.notes import MOST_MESSAGE_BYTES, Board, Notes, ReadNote, missed_page, reads
from dvfs.fs.own_ranges import Alone
from dvfs.fs.view import File

FILE = File(6, 1 << 40, ())


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_reads_come_as_they_were_noted(channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    notes = Notes(theirs)
    notes.note_read(7, FILE, 1 << 39, 131072, waited=False)
    notes.note_read(7, FILE, 0, 5, waited=True)
    with pytest.raises(BlockingIOError):
        ours.recv(MOST_MESSAGE_BYTES)
    notes.flush()
    notes.flush()
    message = ours.recv(MOST_MESSAGE_BYTES)
    assert list(reads(message)) == [
        ReadNote(7, 6, 1 << 40, 1 << 39, 131072, False),
        ReadNote(7, 6, 1 << 40, 0, 5, True),
    ]
    assert missed_page(message) is None
    with pytest.raises(BlockingIOError):
        ours.recv(MOST_MESSAGE_BYTES)


def test_many_reads_are_sent_before_anyone_asks_and_dropped_where_nobody_listens(
    channel: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = channel
    notes = Notes(theirs)
    for number in range(100_000):
        notes.note_read(number, FILE, 0, 1, waited=False)
    found = []
    while True:
        try:
            found += [note.inode for note in reads(ours.recv(MOST_MESSAGE_BYTES))]
        except BlockingIOError:
            break
    assert found == list(range(len(found)))
    assert 0 < len(found) < 100_000
    ours.close()
    notes.flush()
    notes.note_read(1, FILE, 0, 1, waited=False)
    notes.flush()


def test_a_board_is_seen_by_a_process_that_was_forked_after_it() -> None:
    board = Board()
    assert (board.stands_back, board.alone) == (False, Alone.NONE)
    go, went = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go, 1)
        os._exit(0 if (board.stands_back, board.alone) == (True, Alone.EACH) else 1)
    board.stand_back(True)
    board.fetch_alone(Alone.EACH)
    os.write(went, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(go)
    os.close(went)
