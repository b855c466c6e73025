"""Serves one mount: the FUSE session and its event loop, from the first request to the unmount.

Imported inside the process that serves only: whoever forks must not have trio yet. pyfuse3 is imported later still,
after the shim. One session a process.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import trio

from dvfs.fs import zeroopen
from dvfs.fs.control_server import serve_control
from dvfs.fs.first_reads import FirstReads
from dvfs.fs.leading import Leader
from dvfs.fs.mountinfo import mounted_at
from dvfs.fs.mountpoint import prepare
from dvfs.fs.options import MountOptions
from dvfs.fs.orders import Orders
from dvfs.fs.own_ranges import Alone, OwnRanges
from dvfs.fs.passthrough import Passthrough, is_of_large_files
from dvfs.fs.prefetch import Prefetch, Prefetcher
from dvfs.fs.readahead import ReadAhead
from dvfs.fs.ready import ReadyFiles
from dvfs.fs.source import Committed, OpenedVersion
from dvfs.fs.stretches import Stretches, read_block
from dvfs.fs.threads import Threads
from dvfs.fs.tuning import MAX_BACKGROUND, tune
from dvfs.fs.turns import Turns, quicken
from dvfs.fs.view import blocking_view, identity_of, nowait_view, root_rank_of
from dvfs.fs.workers import Workers
from dvfs.fs.writable import open_overlay
from dvfs.store.errors import Internal, InvalidInput, WrongState

if TYPE_CHECKING:
    import pyfuse3

_log = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""After SIGTERM, how long requests under way may take before they are given up."""


def serve(
    options: MountOptions,
    opened: OpenedVersion,
    control: Path,
    on_ready: Callable[[str], None],
    on_committed: Callable[[Committed], None],
    first_reads: FirstReads | None = None,
    workers: Workers | None = None,
) -> None:
    """Mount *opened* as *options* say, call *on_ready* with its device once it answers, return when it is unmounted.

    Requests are taken at the control socket in folder *control*. *on_committed* is told each version that a writable
    mount goes on as. *first_reads* notes which files are read. *workers* help, where that works.

    SIGTERM, SIGINT and SIGHUP unmount. Raises InvalidInput, NotFound, WrongState when it cannot be mounted.
    """
    shim = zeroopen.load() if options.zero_open else None
    if shim is not None:
        shim.set_max_background(MAX_BACKGROUND)
        if options.writable:
            shim.set_writable()
    try:
        trio.run(_serve, options, opened, control, shim, on_ready, on_committed, first_reads, workers)
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _serve(
    options: MountOptions,
    opened: OpenedVersion,
    control: Path,
    shim: zeroopen.Shim | None,
    on_ready: Callable[[str], None],
    on_committed: Callable[[Committed], None],
    first_reads: FirstReads | None,
    workers: Workers | None,
) -> None:
    import pyfuse3

    from dvfs.fs.live import Live
    from dvfs.fs.operations import ReadOnlyOperations, VersionOperations
    from dvfs.fs.watch import Watch
    from dvfs.fs.writable_operations import WritableOperations

    source = opened.source
    words = fuse_options(options, opened)
    identity = identity_of(opened)
    root_rank = root_rank_of(source.tree, options.subdir)
    mode = Prefetch(options.prefetch)
    own_ranges = OwnRanges(source.fetcher.cached, Alone.FIRST if mode is Prefetch.NONE else Alone.NONE)
    waiting = blocking_view(source, identity, root_rank, own_ranges)
    nowait = nowait_view(source, identity, root_rank, own_ranges)
    blocks = source.fetcher
    stretches = Stretches(
        source.pages.load_blocks,
        read_block(blocks),
        blocks.foresee,
        blocks.is_unverified,
        prevail=lambda is_so: None if workers is None else workers.board.stand_back(is_so),
    )
    passthrough = None
    if shim is not None and not options.writable and is_of_large_files(source.tree, options.large_file_bytes):
        shim.want_passthrough()
        passthrough = Passthrough(
            shim,
            source.cache,
            waiting,
            source.pages.load_blocks,
            budget_bytes=opened.budget_bytes,
            note_opened=lambda file: prefetcher.note_opened(file),
            least_bytes=options.large_file_bytes,
        )
    prefetcher = Prefetcher(
        source,
        waiting,
        mode,
        budget_bytes=opened.budget_bytes,
        tail=opened.tail,
        read_ahead=ReadAhead(max_window_bytes=options.read_ahead_bytes),
        verifies=stretches.has,
        replayed=opened.replayed,
        own_ranges=own_ranges,
        first_reads=first_reads,
        lay=None if passthrough is None else passthrough.laid,
    )
    leader = None if workers is None else Leader(workers, nowait, stretches, prefetcher)
    threads = Threads()
    orders = Orders(control, prefetcher, threads)
    has_begun = trio.Event()
    make_operations: Callable[..., VersionOperations] = ReadOnlyOperations
    editing = open_overlay(options, opened, nowait, waiting) if options.writable else None
    if editing is not None:
        make_operations = partial(WritableOperations, editing=editing, source=source, writeback=shim is not None)
    operations = make_operations(
        nowait,
        waiting,
        threads,
        prefetcher,
        stretches,
        uid=options.owner,
        gid=options.group,
        on_init=has_begun.set,
    )

    async def announce() -> None:
        await has_begun.wait()
        await threads.run(threads.chores, partial(os.stat, options.directory))
        mount = mounted_at(options.directory)
        if mount is None:
            raise Internal(f"{options.directory} was mounted, and is not any more")
        tune(mount.device, writable=options.writable)
        on_ready(mount.device)
        if editing is not None:
            editing.rows.reserve.hold()
        passes = passthrough is not None and passthrough.is_on
        prefetcher.start()
        if passes and workers is not None:
            workers.let_go()  # which file is open how, one process knows
            return
        if workers is not None and leader is not None and shim is not None and shim.is_at_work:
            workers.board.fetch_alone(own_ranges.alone)
            own_ranges.on_change(lambda: workers.board.fetch_alone(own_ranges.alone))
            await leader.lead(opened.id, shim)

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        is_new = prepare(options.directory)
        try:
            begin_session(operations, options.directory, words)
        except BaseException:
            if is_new:
                options.directory.rmdir()
            raise
        operations.zero_open = shim is not None and shim.is_at_work
        operations.passthrough = passthrough
        turns = None
        if shim is not None and shim.is_at_work:
            ready = ReadyFiles(shim, nowait, operations.note_ready)
            turns = quicken(pyfuse3, lambda wait: Turns(shim, wait, lambda: threads.are_awaited, ready.catch_up))
            if turns is not None and not options.writable:
                operations.ready = ready
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_on_signal, signals, turns, nursery.cancel_scope)
                if isinstance(operations, WritableOperations) and editing is not None:
                    handlers = Live(operations, editing, on_committed).handlers()
                    await nursery.start(serve_control, editing.folder.path, handlers)
                watch = Watch(operations, source, prefetcher, options.prefetch, shim, leader)
                answers = watch.handlers() | ({} if options.writable else orders.handlers())
                await nursery.start(serve_control, control, answers)
                nursery.start_soon(announce)
                await pyfuse3.main()
                nursery.cancel_scope.cancel()
        finally:
            prefetcher.stop()
            if passthrough is not None:
                passthrough.stop()
            stretches.close()
            if workers is not None:
                workers.let_go()
            if shim is not None:
                shim.end_watch()
            pyfuse3.close(unmount=True)
            if editing is not None:
                editing.close()
            _log.info("requests served: %s", operations.served)
            _log.info("reads answered from stretches: %d", operations.answered_ahead)
            if shim is not None:
                _log.info("requests answered by the shim: %d", shim.answered)
            if operations.ready is not None:
                _log.info("reads answered by the shim: %d", operations.ready.given)
            if turns is not None:
                _log.info("waits for requests: %d", turns.waits)
                _log.info("watches for requests: %d", turns.watches)


async def _end_on_signal(signals: AsyncIterator[int], turns: Turns | None, scope: trio.CancelScope) -> None:
    import pyfuse3

    async for number in signals:
        _log.info("unmounting, by %s", signal.Signals(number).name)
        pyfuse3.terminate()
        if turns is not None:
            turns.end()
        await trio.sleep(GRACE_SECONDS)
        scope.cancel()


def begin_session(operations: pyfuse3.Operations, directory: Path, words: set[str]) -> None:
    """Mount at *directory*, or begin on the descriptor N of a mount's device, which is /dev/fd/N.

    Raises InvalidInput, WrongState.
    """
    import pyfuse3

    said: list[str] = []
    try:
        with _captured_stderr(said):
            pyfuse3.init(operations, os.fspath(directory), words)
    except RuntimeError as exc:
        why = "; ".join(line.removeprefix("fuse: ") for line in said) or str(exc)
        if "unknown option" in why:
            raise InvalidInput(
                f"FUSE does not take this: {why}", hint="see mount.fuse3(8) for what `-o` takes"
            ) from exc
        raise WrongState(f"{directory} cannot be mounted: {why}") from exc


def fuse_options(options: MountOptions, opened: OpenedVersion) -> set[str]:
    """Return what FUSE is told with -o. Raises InvalidInput for an option that contradicts *options*."""
    given = {word for words in options.fuse_options for word in words.split(",") if word}
    if "rw" in given and not options.writable:
        raise InvalidInput("`-o rw`: a version is mounted read-only", hint="`--rw` takes edits")
    if not all(word.isascii() for word in given):
        raise InvalidInput("`-o` takes ASCII only")
    # A comma would end the option, and pyfuse3 takes ASCII only.
    name = quote(opened.title, safe="/@ ~!$&'()*+;=:")
    ours = {"rw" if options.writable else "ro", "default_permissions", f"fsname=dvfs:{name}", "subtype=dvfs"}
    if options.allow_other:
        ours.add("allow_other")
    told = {word.partition("=")[0] for word in given}
    return given | {word for word in ours if word.partition("=")[0] not in told}


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in *group* that is none: a mount has one cause to end."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


@contextmanager
def _captured_stderr(said: list[str]) -> Iterator[None]:
    """Collect in *said* the lines that libfuse and fusermount3 write to stderr."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said += file.read().decode(errors="replace").splitlines()
