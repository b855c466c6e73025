"""Whether this machine and this directory take a mount: checks before it, with one clear message each."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

from dvfs.fs.mountinfo import mounted_at
from dvfs.store.errors import InvalidInput, WrongState

_MNT_DETACH = 2
_DEVICE = Path("/dev/fuse")
_CONFIG = Path("/etc/fuse.conf")


def check_machine(
    *, allow_other: bool, is_root: bool | None = None, device: Path = _DEVICE, config: Path = _CONFIG
) -> None:
    """Raise WrongState when FUSE cannot be used here: the device, the helper or the permission is missing."""
    is_root = os.geteuid() == 0 if is_root is None else is_root
    if not _is_device(device):
        raise WrongState(
            f"{device} is not there",
            hint="load the module with `modprobe fuse`; in a container pass `--device /dev/fuse --cap-add SYS_ADMIN`",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise WrongState(f"{device} is not yours to use", hint=f"an administrator can run `chmod 666 {device}`")
    if is_root:
        return
    if shutil.which("fusermount3") is None:
        raise WrongState("fusermount3 is not there", hint="install the package fuse3")
    if allow_other and not _allows_other(config):
        raise WrongState(
            f"--allow-other needs the line `user_allow_other` in {config}",
            hint=f"an administrator can run `echo user_allow_other >> {config}`",
        )


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISCHR(path.stat().st_mode)
    except OSError:
        return False


def _allows_other(config: Path) -> bool:
    try:
        lines = config.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def prepare(directory: Path) -> bool:
    """Make *directory* one that can be mounted on: there, empty, with no dead mount of ours in the way.

    Returns whether it was made now. Raises WrongState when something is in it or mounted there, InvalidInput when it is
    no directory or cannot be made.
    """
    while True:
        mount = mounted_at(directory)
        if mount is None or not mount.is_fuse:
            break
        if not is_dead(directory):
            raise WrongState(f"{directory} is a mount already ({mount.source})", hint=f"`dvfs umount {directory}`")
        if not mount.is_ours:
            raise WrongState(f"{directory} is a dead mount ({mount.source})", hint=f"`fusermount3 -uz {directory}`")
        take_away(directory, lazy=True)
    try:
        is_new = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        with os.scandir(directory) as entries:
            first = next(entries, None)
    except (FileExistsError, NotADirectoryError) as exc:
        raise InvalidInput(f"{directory} is not a directory") from exc
    except OSError as exc:
        raise InvalidInput(f"{directory} cannot be mounted on: {exc.strerror}") from exc
    if first is not None:
        raise WrongState(
            f"{directory} is not empty", hint="mount on an empty directory, or one that does not exist yet"
        )
    return is_new


def is_dead(directory: Path) -> bool:
    """Tell whether the process behind the mount at *directory* is gone ("Transport endpoint is not connected").

    The kernel knows the attributes of the directory for good; its statfs has to ask.
    """
    try:
        os.statvfs(directory)
    except OSError as exc:
        return exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def take_away(directory: Path, *, lazy: bool) -> None:
    """Unmount *directory*, when *lazy* also while it is in use. Raises OSError: EBUSY, EPERM, EINVAL if no mount."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(directory), _MNT_DETACH if lazy else 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(directory))
        return
    options = ["-u", "-z"] if lazy else ["-u"]
    try:
        done = subprocess.run(
            ["fusermount3", *options, "--", os.fspath(directory)],
            capture_output=True, text=True, errors="replace", env=os.environ | {"LC_ALL": "C"}, check=False,
        )  # fmt: skip
    except FileNotFoundError as exc:
        raise WrongState("fusermount3 is not there", hint="install the package fuse3") from exc
    if done.returncode:
        said = done.stderr.strip()
        number = errno.EBUSY if "busy" in said else errno.EINVAL if "not found in" in said else errno.EPERM
        raise OSError(number, said or os.strerror(number), os.fspath(directory))
