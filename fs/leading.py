"""The leader's side of what it and its workers tell each other: it hears what they read, and asks for their figures."""

from __future__ import annotations

import itertools
import json
import logging
import socket

import trio

from dvfs.fs.figures import Figures
from dvfs.fs.notes import MOST_MESSAGE_BYTES, missed_page, reads
from dvfs.fs.prefetch import Prefetcher
from dvfs.fs.stretches import LEAST_FILE_BYTES, Stretches
from dvfs.fs.view import File, NowaitView
from dvfs.fs.workers import Worker, Workers, resend
from dvfs.fs.zeroopen import Shim
from dvfs.store.catalog.pages import NotCached
from dvfs.store.errors import DvfsError

_log = logging.getLogger(__name__)

ANSWER_SECONDS = 1.0
"""How long a worker may take to tell its figures; of one that takes longer, those that it told last are taken."""


class Leader:
    """Leads *workers*. *stretches* and *prefetcher* are told what they read of the files of *nowait*.

    Event loop only.
    """

    def __init__(self, workers: Workers, nowait: NowaitView, stretches: Stretches, prefetcher: Prefetcher) -> None:
        self._workers = workers
        self._nowait = nowait
        self._stretches = stretches
        self._prefetcher = prefetcher
        self._numbers = itertools.count()
        self._asked: dict[tuple[Worker, int], trio.Event] = {}
        self._figures: dict[Worker, Figures] = {}

    async def lead(self, version: str, shim: Shim) -> None:
        """Have the workers answer requests of the session of *shim*, for the version with that id, until they end."""
        async with trio.open_nursery() as nursery:
            for worker in self._workers.all:
                try:
                    worker.begin(version, shim.init, shim.device)
                except OSError as exc:
                    _log.warning("there are no workers: they cannot have the device of the mount: %s", exc)
                    self._workers.let_go()
                    return
            for worker in self._workers.all:
                nursery.start_soon(self._listen, worker, shim.device)

    async def figures(self) -> list[Figures]:
        """Return the figures of each worker, of one that does not answer in time what it counted before."""
        number = next(self._numbers)
        answered: list[Worker] = []
        with trio.move_on_after(ANSWER_SECONDS):
            async with trio.open_nursery() as nursery:
                for worker in self._workers.all:
                    if worker.device >= 0:
                        nursery.start_soon(self._ask, worker, number, answered)
        return [found if worker in answered else found.past() for worker, found in self._figures.items()]

    async def _ask(self, worker: Worker, number: int, answered: list[Worker]) -> None:
        has_answered = self._asked[worker, number] = trio.Event()
        try:
            worker.channel.send(json.dumps({"call": "stats", "number": number}).encode(), socket.MSG_DONTWAIT)
            await has_answered.wait()
            answered.append(worker)
        except OSError as exc:
            _log.info("a worker is not asked for its figures: %s", exc)
        finally:
            del self._asked[worker, number]

    async def _listen(self, worker: Worker, device: int) -> None:
        channel = trio.socket.from_stdlib_socket(worker.channel)
        while message := await received(channel):
            if message.startswith(b"{"):
                answer = json.loads(message)
                self._figures[worker] = Figures.from_message(answer["answer"])
                if (asked := self._asked.get((worker, answer["number"]))) is not None:
                    asked.set()
            else:
                self._hear(message)
        # Its descriptors go shortly before it is over: this ends soon, and nobody else may take its status meanwhile.
        if code := await trio.to_thread.run_sync(worker.exit_code, 0):
            is_resent = resend(device)
            becomes = "goes to the others" if is_resent else "is given up"
            _log.warning("a worker ended (%d); what it was at %s", code, becomes)
        worker.let_go()

    def _hear(self, message: bytes) -> None:
        for note in reads(message):
            file = File(note.rank, note.size, ())
            if note.size >= LEAST_FILE_BYTES:
                try:
                    file = self._nowait.file(note.inode)
                except (NotCached, DvfsError):
                    continue  # whoever reads meets the error itself
            self._stretches.note(note.inode, file, note.start, note.length)
            self._prefetcher.note_read(note.inode, file, note.start, note.length, waited=bool(note.waited))
        if (key := missed_page(message)) is not None:
            self._prefetcher.note_missed_leaf(key)


async def received(channel: trio.socket.SocketType) -> bytes:
    """Return the next message from *channel*; none when the other side is gone."""
    try:
        return await channel.recv(MOST_MESSAGE_BYTES)
    except ConnectionResetError:
        return b""
