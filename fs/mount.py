"""Mounting, from the caller's side: as a daemon, or in the foreground.

A daemon is forked before anything that owns threads, sockets or SQLite handles exists; the child opens the version and
serves it. Until the mount answers, what goes wrong is raised in the caller; afterwards it goes to a log file.
Only a process with one thread may call `mount_daemon`.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import logging.handlers
import os
import signal
import socket
import sys
import threading
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dvfs.fs import memory
from dvfs.fs.first_reads import FirstReads
from dvfs.fs.mountinfo import canonical
from dvfs.fs.mountpoint import check_machine
from dvfs.fs.mounts import Mount, Mounts, started_at
from dvfs.fs.options import MountOptions
from dvfs.fs.source import Committed, OpenedVersion
from dvfs.store.errors import DvfsError, Internal, InvalidInput, WrongState, described, error_from

if TYPE_CHECKING:
    from dvfs.fs.notes import Board
    from dvfs.fs.workers import Workers

_log = logging.getLogger(__name__)

OpenVersion = Callable[[], OpenedVersion]
OpenSame = Callable[[str], OpenedVersion]
"""Opens, in a worker, the version with that id."""

_LOG_BYTES = 8 << 20
_CLOSE_SECONDS = 5.0
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True, slots=True)
class Ready:
    """A mount that answers. *log* is None in the foreground."""

    directory: str
    id: str
    name: str
    version: str
    digest: str
    pid: int
    log: str | None


def mount_daemon(options: MountOptions, open_version: OpenVersion, open_same: OpenSame | None = None) -> Ready:
    """Mount in the background what *open_version*, called in the daemon, returns; return once the mount answers.

    Workers call *open_same*; without it there are none.

    Raises what *open_version* raises, WrongState and InvalidInput as `mountpoint` and `serve` do.
    """
    options = _checked(options)
    report, reporter = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(report)
        _be_daemon(options, open_version, open_same, reporter)
    os.close(reporter)
    try:
        with os.fdopen(report, "rb") as file:
            said = file.read()
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        raise
    if not said:
        os.waitpid(pid, 0)
        raise Internal(
            f"the daemon ended before {options.directory} was mounted",
            hint=f"see {Mounts(options.state_dir).log_path(options.directory)}",
        )
    answer = json.loads(said)
    if "error" in answer:
        os.waitpid(pid, 0)
        raise error_from(answer["error"])
    return Ready(**answer)


def mount_foreground(
    options: MountOptions,
    open_version: OpenVersion,
    on_ready: Callable[[Ready], None],
    open_same: OpenSame | None = None,
) -> None:
    """Mount in this process, call *on_ready* once the mount answers, return when it is unmounted.

    SIGTERM, SIGINT (Ctrl-C) and SIGHUP unmount. Logs to stderr. Raises as `mount_daemon`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    options = _checked(options)
    memory.use_again()
    _run(options, open_version, on_ready, log=None, workers=_workers(options, open_same, lambda: None))


def _checked(options: MountOptions) -> MountOptions:
    check_machine(allow_other=options.allow_other)
    directory = canonical(options.directory)
    if options.state_dir.resolve().is_relative_to(directory):
        raise InvalidInput(f"{directory} holds the state folder {options.state_dir}")
    return replace(options, directory=directory, state_dir=options.state_dir.absolute())


def _run(
    options: MountOptions,
    open_version: OpenVersion,
    on_ready: Callable[[Ready], None],
    *,
    log: Path | None,
    workers: Workers | None,
) -> None:
    with ExitStack() as stack:
        if workers is not None:
            stack.callback(workers.end)
        opened = open_version()
        stack.callback(_close, opened)
        if workers is not None:
            opened.source.cache.share_verified(workers.board.verified)
        _serve(options, opened, on_ready, log, workers)


def _serve(
    options: MountOptions,
    opened: OpenedVersion,
    on_ready: Callable[[Ready], None],
    log: Path | None,
    workers: Workers | None,
) -> None:
    table = Mounts(options.state_dir)
    noted: list[Mount] = []
    try:
        from dvfs.fs.serve import serve

        first_reads = FirstReads(opened.source.tree.entries) if opened.keep_trace is not None else None

        def ready(device: str) -> None:
            mount = _mount(options, opened, device, log)
            table.add(mount)
            noted.append(mount)
            _log.info("mounted %s (%s) on %s", opened.title, opened.id, options.directory)
            on_ready(Ready(mount.directory, mount.id, mount.name, mount.version, mount.digest, mount.pid, mount.log))
            threading.Thread(target=opened.source.cache.make_folders, name="dvfs-folders", daemon=True).start()
            if opened.on_mounted is not None:
                opened.on_mounted()

        def committed(version: Committed) -> None:
            for mount in noted[-1:]:
                noted.append(
                    replace(mount, id=version.id, version=version.version, digest=version.digest, name=version.name)
                )
                table.add(noted[-1])

        with table.own_control_folder(options.directory) as control:
            serve(options, opened, control, ready, committed, first_reads, workers)
        _log.info("unmounted %s", options.directory)
        if opened.keep_trace is not None and first_reads is not None:
            _keep(opened.keep_trace, first_reads)
    finally:
        for mount in noted:
            table.remove(mount)


def _mount(options: MountOptions, opened: OpenedVersion, device: str, log: Path | None) -> Mount:
    shown = asdict(options) | {"subdir": os.fsdecode(options.subdir)}
    return Mount(
        directory=os.fspath(options.directory),
        id=opened.id,
        name=opened.name,
        version=opened.version,
        digest=opened.digest,
        pid=os.getpid(),
        started=started_at(os.getpid()),
        device=device,
        log=None if log is None else os.fspath(log),
        options={key: value for key, value in shown.items() if key not in ("directory", "state_dir")},
        overlay="" if opened.folder is None else opened.folder.path.name,
    )


def _keep(keep_trace: Callable[[array[int]], None], first_reads: FirstReads) -> None:
    """Keep the trace, for which nothing else is given up."""
    try:
        keep_trace(first_reads.ranks)
    except DvfsError as exc:
        _log.warning("the trace of %d files is not kept: %s", len(first_reads.ranks), exc.message)


def _close(opened: OpenedVersion) -> None:
    """Close *opened*, for a bounded time: a store that hangs does not keep the process."""
    closer = threading.Thread(target=opened.close, name="dvfs-close", daemon=True)
    closer.start()
    closer.join(_CLOSE_SECONDS)
    if closer.is_alive():
        _log.warning("not all could be closed in %.0f s", _CLOSE_SECONDS)


# -- in the daemon


def _be_daemon(options: MountOptions, open_version: OpenVersion, open_same: OpenSame | None, reporter: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        os.chdir("/")
        memory.use_again()
        log = Mounts(options.state_dir).log_path(options.directory)

        def report(ready: Ready) -> None:
            _leave_terminal(log)
            _tell(reporter, asdict(ready))
            os.close(reporter)

        try:
            _log_to(log)
            workers = _workers(options, open_same, lambda: _leave_daemon(log, reporter))
            _run(options, open_version, report, log=log, workers=workers)
            code = 0
        except DvfsError as exc:
            _log.info("not mounted: %s", exc.message)
            _tell(reporter, {"error": described(exc)})
        except BaseException as exc:
            _log.exception("the daemon ends")
            message = f"{type(exc).__name__}: {exc}"
            _tell(reporter, {"error": {"kind": "internal", "message": message, "hint": f"see {log}"}})
    finally:
        logging.shutdown()
        os._exit(code)  # threads that wait for a store, and what the caller would do at its end, are left alone


def _log_to(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8")
    except OSError as exc:
        raise WrongState(f"the state folder cannot be written: {exc.filename}: {exc.strerror}") from exc
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def _leave_terminal(log: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(nothing, 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(nothing)
    os.close(file)
    faulthandler.enable(2)


def _tell(reporter: int, message: dict[str, Any]) -> None:
    """Send *message* to the caller; one that does not listen any more is sent nothing."""
    try:
        os.write(reporter, json.dumps(message).encode())
    except OSError:
        pass


# -- in a worker


def _workers(options: MountOptions, open_same: OpenSame | None, leave: Callable[[], None]) -> Workers | None:
    """Fork the workers that *options* ask for; each begins with *leave*."""
    if open_same is None or options.writable or not options.zero_open or options.workers < 2:
        return None
    from dvfs.fs.workers import Workers

    return Workers(options.workers - 1, partial(_be_worker, options, open_same, leave))


def _leave_daemon(log: Path, reporter: int) -> None:
    os.close(reporter)
    _leave_terminal(log)
    handler = logging.handlers.WatchedFileHandler(log, encoding="utf-8")  # the daemon begins a new file now and then
    handler.setFormatter(logging.Formatter(_FORMAT))
    logging.getLogger().handlers[:] = [handler]


def _be_worker(
    options: MountOptions, open_same: OpenSame, leave: Callable[[], None], channel: socket.socket, board: Board
) -> NoReturn:
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the daemon is told, too
        leave()
        from dvfs.fs.workers import first_message

        told = first_message(channel)
        if told is not None:
            from dvfs.fs.worker import work

            message, device = told
            opened = open_same(message["id"])
            opened.source.cache.share_verified(board.verified)
            try:
                work(options, opened, channel, board, device, bytes.fromhex(message["init"]))
            finally:
                _close(opened)
        code = 0
    except DvfsError as exc:
        _log.warning("a worker ends: %s", exc.message)
    except BaseException:
        _log.exception("a worker ends")
    finally:
        logging.shutdown()
        os._exit(code)
