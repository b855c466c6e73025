"""What `dvfs doctor` looks at: each check says ok, warn or fail, what it saw, and what to do about it.

Checks change nothing that stays: what they write (a probe in the store, a file in a folder) they delete.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Literal

from dvfs.cli.output import shown_size
from dvfs.store.backend import Backend
from dvfs.store.errors import AccessDenied, AlreadyExists, Conflict, DvfsError, NotFound

Verdict = Literal["ok", "warn", "fail"]

MAX_SKEW_SECONDS = 60.0
MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: its *name*, the *verdict*, the *text*, and a *hint* unless it is ok."""

    name: str
    verdict: Verdict
    text: str
    hint: str = ""


def fuse_device(path: Path = Path("/dev/fuse")) -> Finding:
    """Check that the device of FUSE can be opened."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        hint = "load the module (`modprobe fuse`); give a container `--device /dev/fuse --cap-add SYS_ADMIN`"
        return Finding("fuse device", "fail", f"{path} is not there", hint)
    except OSError as exc:
        hint = f"let this user read and write {path}; give a container `--device /dev/fuse`"
        return Finding("fuse device", "fail", f"{path} cannot be opened: {exc.strerror}", hint)
    return Finding("fuse device", "ok", str(path))


def fusermount(is_root: bool, which: Callable[[str], str | None] = shutil.which) -> Finding:
    """Check for the program that mounts for those who are not root."""
    path = which("fusermount3")
    if path is None:
        verdict: Verdict = "warn" if is_root else "fail"
        return Finding("fusermount3", verdict, "not found in PATH", "install the package fuse3")
    if not is_root and not os.stat(path).st_mode & stat.S_ISUID:
        return Finding("fusermount3", "warn", f"{path} is not setuid root", f"`sudo chmod u+s {path}`")
    return Finding("fusermount3", "ok", path)


def allow_other(is_root: bool, path: Path = Path("/etc/fuse.conf")) -> Finding:
    """Check whether `mount --allow-other` can work."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    if any(line.split("#")[0].strip() == "user_allow_other" for line in lines):
        return Finding("user_allow_other", "ok", f"set in {path}")
    if is_root:
        return Finding("user_allow_other", "ok", f"not set in {path}; root does not need it")
    hint = f"only `mount --allow-other` needs it: add the line user_allow_other to {path}"
    return Finding("user_allow_other", "warn", f"not set in {path}", hint)


def folder(name: str, path: Path) -> Finding:
    """Check that files can be made in the folder at *path*, which is made where it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"probe")
    except OSError as exc:
        return Finding(name, "fail", f"{path} cannot be written: {exc.strerror}", "choose another folder")
    return Finding(name, "ok", f"{path} can be written")


def cache_disk(path: Path, budget_bytes: int) -> Finding:
    """Check that the disk of the cache at *path* has room."""
    free = shutil.disk_usage(path).free
    text = f"{shown_size(free)} free, budget {shown_size(budget_bytes)}"
    if free < MIN_FREE_BYTES:
        hint = "free some space, or choose another disk: `dvfs config cache_dir PATH`"
        return Finding("cache disk", "warn", text, hint)
    return Finding("cache disk", "ok", text)


def store(backend: Backend, *, has_if_match: bool) -> Iterator[Finding]:
    """Check that the store can be read and written, and that its conditional writes hold.

    *has_if_match*: whether `replace_if` is to be tried. A folder builds it on what `put_if_absent` is tried for.
    """
    try:
        next(iter(backend.list("datasets/")), None)
    except DvfsError as exc:
        yield Finding("store read", "fail", exc.message, exc.hint or "check the URL and the credentials")
        return
    yield Finding("store read", "ok", backend.url)
    key = f"probe/{secrets.token_hex(16)}"
    try:
        etag = backend.put_if_absent(key, b"probe 1 " + secrets.token_bytes(8))
    except AccessDenied as exc:
        hint = "mount, list, search and get work; making versions does not"
        yield Finding("store write", "warn", exc.message, hint)
        return
    except DvfsError as exc:
        yield Finding("store write", "fail", exc.message, exc.hint or "check the credentials")
        return
    yield Finding("store write", "ok", "can be written")
    try:
        yield _conditional_writes(backend, key, etag if has_if_match else None)
    finally:
        backend.delete(key)


def _conditional_writes(backend: Backend, key: str, etag: str | None) -> Finding:
    """Try every conditional write on the object at *key*, those that must fail and the one that must not."""
    name = "conditional writes"
    hint = "two writers could overwrite each other: use a store with If-Match and If-None-Match on writes"
    try:
        if not _refused(AlreadyExists, lambda: backend.put_if_absent(key, b"probe 2")):
            return Finding(name, "fail", "the store overwrites what must not be (If-None-Match)", hint)
        if etag is None:
            return Finding(name, "ok", "enforced")
        fresh = backend.replace_if(key, b"probe 3 " + secrets.token_bytes(8), etag)
        if not _refused(Conflict, partial(backend.replace_if, key, b"probe 4", etag)):
            return Finding(name, "fail", "the store overwrites what was changed meanwhile (If-Match)", hint)
        if backend.get(key).etag != fresh:
            return Finding(name, "fail", "the store does not read back what was written last", hint)
    except DvfsError as exc:
        return Finding(name, "fail", exc.message, exc.hint or hint)
    return Finding(name, "ok", "enforced")


def _refused(error: type[DvfsError], write: Callable[[], str]) -> bool:
    try:
        write()
    except (error, NotFound):
        return True
    return False


def clock(server_time: Callable[[], float], now: Callable[[], float] = time.time) -> Finding:
    """Compare this machine's clock with the store's; *server_time* returns seconds since the epoch."""
    try:
        before = now()
        skew = server_time() - (before + now()) / 2
    except (OSError, ValueError) as exc:
        return Finding("clock", "warn", f"the store's time cannot be read: {exc}", "compare it by hand")
    # A server tells whole seconds.
    if abs(skew) > MAX_SKEW_SECONDS:
        text = f"this machine is {abs(skew):.0f} seconds {'behind' if skew > 0 else 'ahead of'} the store"
        return Finding("clock", "fail", text, "set the clock (`timedatectl set-ntp true`); S3 refuses wrong times")
    return Finding("clock", "ok", f"within {MAX_SKEW_SECONDS:.0f} seconds of the store's")


def http_time(url: str, timeout_seconds: float) -> float:
    """Return what the HTTP server at *url* says the time is, in seconds since the epoch. Raises OSError, ValueError."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, method="HEAD"), timeout=timeout_seconds) as reply:
            date = reply.headers["Date"]
    except HTTPError as refused:  # it tells the time all the same
        date = refused.headers["Date"]
    if date is None:
        raise ValueError(f"{url} tells no time")
    return parsedate_to_datetime(date).timestamp()


def folder_time(path: Path) -> float:
    """Return what the file system at *path* says the time is, in seconds since the epoch. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path) as probe:
        probe.write(b"probe")
        probe.flush()
        return os.stat(probe.name).st_mtime
