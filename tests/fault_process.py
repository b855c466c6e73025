"""A process that works on a store for a test: `python -m tests.fault_process`, told what to do by lines of JSON.

Actions, each on the machine whose folder is *folder*, with the store at *url*: `create` (*version*, *parents*), `add`
(*id*, *source*), `upload`, `close` (*id*), `read` (*id*; answers requests for blocks, raw bytes fetched, digests of
files by path), `mount` (*id*, *directory*, *prefetch*; in the foreground; answers its pid, at the end requests and raw
bytes), `child` (of *id*, made of *source*), `publish`, `tag` (*add*, *remove*), `metadata` (*key*, *value*), `rename`
(*new_name*), `delete` (*force*). With *crash* = [point, n] the process kills itself with SIGKILL
when it passes that point of the store or the cache for the n-th time. The answer is one line of JSON on stdout.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvfs.store import deletion, labels, renaming
from dvfs.store.cache import Cache
from dvfs.store.crash import CrashPoint, no_crash
from dvfs.store.digest import block_digest
from dvfs.store.errors import DvfsError
from dvfs.store.record import Record
from dvfs.store.retry import RetryPolicy
from dvfs.store.scan import ScanOptions
from dvfs.store.store import Store
from dvfs.store.url import open_backend
from dvfs.store.version import Version
from tests.commit_kit import commit_faults
from tests.fault_kit import ROOT, TINIEST, UPLOAD


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit *code*, negative for a signal; its *answer*, None when it gave none."""

    code: int
    answer: Any

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


def task(action: str, folder: Path, url: str, **words: object) -> dict[str, object]:
    """Return what to tell a process."""
    environ = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {"action": action, "folder": str(folder), "url": url, "environ": environ, **words}


class FaultProcess:
    """A process for one task, from the test's side."""

    def __init__(self, told: dict[str, object] | None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        if told is not None:
            self.tell(told)
            self.end_input()

    def tell(self, told: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def answer(self) -> Any:
        """Wait for an answer; None when the process died before."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def unmount(self) -> Ended:
        """End a mount."""
        self.process.terminate()
        return self.end()

    def end(self) -> Ended:
        """Wait until it has ended."""
        assert self.process.stdout is not None
        with self.process.stdout:
            answer = self.answer()
            return Ended(self.process.wait(60), answer)


class Processes:
    """Forks a process for each task from one that has all modules loaded: starting Python takes longer than they do."""

    def __init__(self) -> None:
        self._parent = FaultProcess(None)

    def __call__(self, action: str, folder: Path, url: str, **words: object) -> Ended:
        """Do it in a process of its own and wait."""
        return self.at_once(task(action, folder, url, **words))[0]

    def at_once(self, *tasks: dict[str, object]) -> list[Ended]:
        """Do *tasks* at the same time, each in a process of its own, and wait for all."""
        self._parent.tell(list(tasks))
        return [Ended(code, json.loads(said) if said else None) for code, said in self._parent.answer()]

    def close(self) -> None:
        self._parent.end_input()
        assert self._parent.end().code == 0


def _crash_at(point: str, count: int) -> CrashPoint:
    passed = itertools.count(1)
    lock = threading.Lock()

    def crash(here: str) -> None:
        if here == point:
            with lock:
                if next(passed) == count:
                    os.kill(os.getpid(), signal.SIGKILL)

    return crash


def _read(store: Store, told: dict[str, Any]) -> object:
    with closing(store.version(told["id"])) as version:
        entries = list(version.entries())[:: -1 if told.get("backwards") else 1]
        digests = {os.fsdecode(path): block_digest(version.read(e)).hex() for path, e in entries if e.is_file}
        return {**_fetched(version), "digests": digests}


def _fetched(version: Version) -> dict[str, int]:
    stats = version.fetcher.stats()
    return {"requests": stats.requests, "raw_bytes": stats.raw_bytes}


def _mount(store: Store, told: dict[str, Any], folder: Path) -> object:
    from dvfs.fs.mount import mount_foreground
    from dvfs.fs.options import MountOptions
    from dvfs.fs.source import OpenedVersion

    version = store.version(told["id"])
    record = version.record

    def open_version() -> OpenedVersion:
        version.check()
        return OpenedVersion(
            source=version,
            id=record.id,
            name=f"{record.project}/{record.name}",
            version=record.version,
            digest=record.digest,
            budget_bytes=lambda: 1 << 30,
            close=version.close,
            tail=version.root.tail,
        )

    prefetch = told.get("prefetch", "none")
    options = MountOptions(directory=Path(told["directory"]), state_dir=folder / "state", prefetch=prefetch)
    mount_foreground(options, open_version, lambda ready: print(json.dumps({"pid": ready.pid}), flush=True))
    return _fetched(version)


def _child(store: Store, told: dict[str, Any]) -> object:
    draft = store.create(
        project="faults", name=told.get("name", "set"), parents=[told["id"]], tags=told.get("tags", ())
    )
    draft.add_files([told["source"]], ScanOptions())
    draft.upload(UPLOAD)
    return {"id": draft.finalize().id}


def _records(*records: Record) -> object:
    return {"titles": [record.title for record in records]}


_CALLS: dict[str, Callable[[Store, dict[str, Any]], object]] = {
    "child": _child,
    "publish": lambda store, told: _records(labels.publish(store, told["id"])),
    "tag": lambda store, told: _records(
        labels.tag(store, told["id"], add=told.get("add", ()), remove=told.get("remove", ()))
    ),
    "metadata": lambda store, told: _records(labels.set_metadata(store, told["id"], told["key"], told["value"])),
    "rename": lambda store, told: _records(*renaming.rename(store, told["id"], told["new_name"])),
    "delete": lambda store, told: _records(deletion.delete(store, told["id"], force=told.get("force", False))),
}
"""Actions that are one call."""


def _do(store: Store, told: dict[str, Any], folder: Path) -> object:
    action = told["action"]
    if action == "create":
        parents = told.get("parents", ())
        record = store.create(project="faults", name="set", version=told.get("version"), parents=parents).record
        return {"id": record.id, "version": record.version}
    if action == "commit":
        made = commit_faults(store, store.resolve(told["parent"]), told["id"], told.get("part", 2))
        return {"version": made.version if made is not None else None}
    if action == "mount":
        return _mount(store, told, folder)
    if action in _CALLS:
        return _CALLS[action](store, told)
    if action == "read":
        return _read(store, told)
    draft = store.draft(told["id"])
    if action == "add":
        draft.add_files([told["source"]], ScanOptions())
    elif action == "upload":
        count = draft.upload(UPLOAD)
        return {"files": count.files, "stored_bytes": count.stored_bytes}
    else:
        draft.finalize()
    return {}


def work(told: dict[str, Any]) -> int:
    """Do the one task; return the exit code."""
    os.environ.update(told["environ"])
    folder = Path(told["folder"])
    crash = _crash_at(*told["crash"]) if told.get("crash") else no_crash
    backend = open_backend(told["url"], policy=RetryPolicy(deadline_seconds=10))
    cache = Cache(folder / "cache", budget_bytes=told.get("budget", 1 << 30), reserve_bytes=0, crash=crash)
    store = Store(backend, state_dir=folder / "state", cache=cache, wanted=TINIEST, crash=crash)
    try:
        answer = _do(store, told, folder)
    except DvfsError as exc:
        print(json.dumps({"error": exc.kind, "message": exc.message}), flush=True)
        return 1
    store.close()
    cache.close()
    print(json.dumps(answer), flush=True)
    return 0


def _fork(told: dict[str, Any]) -> tuple[int, int]:
    """Do it in a child; return its pid and the pipe that its answer comes from."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    code = 1
    try:
        os.dup2(writer, 1)
        code = work(told)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _end(pid: int, reader: int) -> tuple[int, str]:
    with open(reader) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


def main() -> int:
    """Do what each line says: one task here, a list of them in children at once."""
    code = 0
    for line in sys.stdin:
        told = json.loads(line)
        if isinstance(told, dict):
            code = work(told)
            continue
        import botocore.session  # noqa: F401 for all children

        print(json.dumps([_end(*child) for child in [_fork(one) for one in told]]), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
