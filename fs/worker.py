"""A worker: one more process that answers the requests of a read-only mount, beside its leader, the daemon.

It opens the version by itself, with the cache of the leader, and has a session of its own, on a descriptor of its own
of the mount's device; the session begins with the INIT that the leader was sent. Each request comes to one of the
processes, which answers it. A worker fetches what it is asked for and nothing ahead: it tells the leader what is read.
It ends with the mount, and with the leader. What goes through the channel is in `notes.py` and `workers.py`.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from dvfs.fs import zeroopen
from dvfs.fs.control_server import Handler
from dvfs.fs.leading import received
from dvfs.fs.notes import Board, Notes
from dvfs.fs.options import MountOptions
from dvfs.fs.own_ranges import OwnRanges
from dvfs.fs.ready import ReadyFiles
from dvfs.fs.serve import GRACE_SECONDS, begin_session, fuse_options
from dvfs.fs.source import OpenedVersion
from dvfs.fs.threads import Threads
from dvfs.fs.turns import Standby, Wait, quicken
from dvfs.fs.view import blocking_view, identity_of, nowait_view, root_rank_of
from dvfs.store.errors import Internal

_log = logging.getLogger(__name__)


def work(
    options: MountOptions, opened: OpenedVersion, channel: socket.socket, board: Board, device: int, init: bytes
) -> None:
    """Answer requests of the mount of *opened* from the descriptor *device*, until the mount ends or *channel* does.

    *init*: the request by which the kernel began the mount. Raises Internal where a session cannot begin so.
    """
    shim = zeroopen.load()
    if shim is None:
        raise Internal("a worker needs the shim")
    shim.begin_with(init)
    trio.run(_work, options, opened, channel, board, device, shim)


async def _work(
    options: MountOptions,
    opened: OpenedVersion,
    channel: socket.socket,
    board: Board,
    device: int,
    shim: zeroopen.Shim,
) -> None:
    import pyfuse3

    from dvfs.fs.operations import ReadOnlyOperations
    from dvfs.fs.watch import Watch

    source = opened.source
    identity = identity_of(opened)
    root_rank = root_rank_of(source.tree, options.subdir)
    own_ranges = OwnRanges(source.fetcher.cached, board.alone)
    notes = Notes(channel)
    threads = Threads()
    nowait = nowait_view(source, identity, root_rank, own_ranges)
    operations = ReadOnlyOperations(
        nowait,
        blocking_view(source, identity, root_rank, own_ranges),
        threads,
        notes,
        None,
        uid=options.owner,
        gid=options.group,
        on_init=lambda: _log.info("a worker takes requests"),
    )
    begin_session(operations, Path(f"/dev/fd/{device}"), fuse_options(options, opened))
    operations.zero_open = True
    operations.ready = ready = ReadyFiles(shim, nowait, operations.note_ready)

    def before_wait() -> None:
        notes.flush()
        own_ranges.fetch_alone(board.alone)

    def stand_by(wait: Wait) -> Standby:
        return Standby(
            shim,
            wait,
            is_awaited=lambda: threads.are_awaited,
            stands_back=lambda: board.stands_back,
            before_wait=before_wait,
            catch_up=ready.catch_up,
        )

    try:
        if not shim.is_at_work or (standby := quicken(pyfuse3, stand_by)) is None:
            raise Internal("pyfuse3 does not go through the shim")
        handlers = Watch(operations, source, notes, options.prefetch, shim).handlers()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_listen, channel, handlers, nursery.cancel_scope)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=False)
        _log.info("requests served by a worker: %s", operations.served)
    _log.info("pauses of a worker: %d", standby.pauses)


async def _listen(channel: socket.socket, handlers: Mapping[str, Handler], scope: trio.CancelScope) -> None:
    """Answer what the leader asks; when it is gone, give up the mount."""
    import pyfuse3

    leader = trio.socket.from_stdlib_socket(channel)
    while message := await received(leader):
        request: dict[str, Any] = json.loads(message)
        answer = await handlers[request["call"]]()
        try:
            await leader.send(json.dumps({"number": request["number"], "answer": answer}).encode())
        except (BrokenPipeError, ConnectionResetError):
            break  # it went meanwhile
    pyfuse3.terminate()
    await trio.sleep(GRACE_SECONDS)
    scope.cancel()
