"""What is mounted, as the kernel tells it. Never touches a mount: a dead or hanging one does no harm."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

FILE_SYSTEM = "fuse.dvfs"
_MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount: its *directory*, *device* (`major:minor`), file system *kind*, *source* (ours dvfs:name@version)."""

    directory: str
    device: str
    kind: str
    source: str

    @property
    def is_ours(self) -> bool:
        """Whether it is a mount of dvfs."""
        return self.kind == FILE_SYSTEM

    @property
    def is_fuse(self) -> bool:
        """Whether a process on this machine serves it."""
        return self.kind == "fuse" or self.kind.startswith("fuse.")


def all_mounts(table: Path = _MOUNTINFO) -> list[Mounted]:
    """Return what *table* lists, in the order of mounting."""
    found = []
    for line in table.read_bytes().splitlines():
        fields, _, rest = line.partition(b" - ")
        directory = fields.split(b" ")[4]
        device = fields.split(b" ")[2]
        kind, source, *_ = rest.split(b" ")
        found.append(Mounted(_text(directory), device.decode(), kind.decode(), _text(source)))
    return found


def mounted_at(directory: Path) -> Mounted | None:
    """Return the topmost mount at *directory* itself, None when there is none."""
    name = os.fspath(directory)
    return next((mount for mount in reversed(all_mounts()) if mount.directory == name), None)


def canonical(directory: Path) -> Path:
    """Return *directory* as the kernel names it: absolute, without links; also when a dead mount is there."""
    return Path(os.path.realpath(directory))


def _text(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))
