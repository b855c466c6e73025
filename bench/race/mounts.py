"""The mounts of the race: dvfs, JuiceFS, rclone, s3fs, and a plain directory beside them.

Each is given trees, under a name, and shows them in a fresh mount with a cache folder of its own. rclone and s3fs show
the same single objects below `objects/` of the bucket. Where the server is, the variable AWS_ENDPOINT_URL says each
time. Options: those that their documents advise for data that does not change, where there are such.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from bench.daemons import mounted_by
from bench.mounting import Dvfs
from bench.programs import Failed, Programs, Read
from bench.race.rows import DVFS, NATIVE
from bench.trees import Tree

OBJECTS = "objects"
"""Prefix of single objects in the bucket."""
AT_ONCE = "16"
_LONG = "3600"
"""Seconds for which what does not change may be remembered."""


@dataclass(frozen=True, slots=True)
class Place:
    """A mount: the tree lies at *directory*, the mount took *seconds*."""

    directory: Path
    seconds: float = 0.0


class Mount(Protocol):
    """A contestant that shows trees as directories."""

    @property
    def name(self) -> str:
        """As in the headings of the table."""

    @property
    def program_files(self) -> tuple[Path, ...]:
        """What it is loaded from: its start is not what is measured cold."""

    def put(self, tree: Tree, name: str) -> float:
        """Make *tree* readable under *name*, what changed of it if it is there; return the seconds. Raises Failed."""

    def mounted(self, name: str, cache: Path) -> AbstractContextManager[Place]:
        """Show the tree *name* in a fresh mount; *cache* is its cache folder. Raises Failed."""


class Native:
    """The directory on the local disk that the trees were made in."""

    name = NATIVE
    program_files = ()

    def __init__(self) -> None:
        self._roots: dict[str, Path] = {}

    def put(self, tree: Tree, name: str) -> float:
        self._roots[name] = tree.root
        return 0.0

    @contextmanager
    def mounted(self, name: str, cache: Path) -> Iterator[Place]:
        yield Place(self._roots[name])


class Absent:
    """A rival that cannot be had: all that is asked of it fails, and says why."""

    program_files = ()

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._reason = reason

    def put(self, tree: Tree, name: str) -> float:
        raise Failed(self._reason)

    def get(self, tree: Tree, name: str, target: Path) -> float:
        raise Failed(self._reason)

    @contextmanager
    def mounted(self, name: str, cache: Path) -> Iterator[Place]:
        raise Failed(self._reason)
        yield

    def work(self) -> Iterator[NoReturn]:
        """Do its turn in a race."""
        raise Failed(self._reason)


class DvfsMount:
    """`dvfs sync`; `dvfs mount` with *options*."""

    name = DVFS
    program_files = ()

    def __init__(self, dvfs: Dvfs, *options: str) -> None:
        self.dvfs = dvfs
        self.datasets: dict[str, str] = {}
        self._options = options

    def with_options(self, *options: str) -> DvfsMount:
        """Return the same trees, mounted with other options."""
        other = DvfsMount(self.dvfs, *options)
        other.datasets = self.datasets
        return other

    def put(self, tree: Tree, name: str) -> float:
        self.datasets[name], seconds = self.dvfs.take_in(tree)
        return seconds

    @contextmanager
    def mounted(self, name: str, cache: Path) -> Iterator[Place]:
        with self.dvfs.mounted(self.datasets[name], cache, options=self._options) as mount:
            yield Place(mount.directory, mount.seconds)


class JuiceFs:
    """JuiceFS with its metadata in an SQLite file in *folder*; trees come by `juicefs sync`."""

    name = "JuiceFS"

    def __init__(
        self, program: Path, programs: Programs, variables: Mapping[str, str], bucket: str, folder: Path, mounts: Path
    ) -> None:
        folder.mkdir()
        self.program_files = (program,)
        self._program = program
        self._programs = programs
        self._mounts = mounts
        self._meta = f"sqlite3://{folder}/meta.db"
        keys = ("--access-key", variables["AWS_ACCESS_KEY_ID"], "--secret-key", variables["AWS_SECRET_ACCESS_KEY"])
        self._variables = variables
        self._bucket = bucket
        programs.run([program, "format", "--storage", "minio", "--bucket", self._url, *keys, self._meta, "juicefs"])

    @property
    def _url(self) -> str:
        return f"{self._variables['AWS_ENDPOINT_URL']}/{self._bucket}"

    def put(self, tree: Tree, name: str) -> float:
        command: tuple[str | Path, ...] = (
            self._program,
            "sync",
            "--threads",
            AT_ONCE,
            "--inplace",
            "--metrics",
            "127.0.0.1:0",
        )
        words = (*command, f"{tree.root}/", f"jfs://RACE/{name}/")
        return self._programs.run(words, {"RACE": self._meta}).seconds

    @contextmanager
    def mounted(self, name: str, cache: Path) -> Iterator[Place]:
        timeouts = [word for what in ("attr", "entry", "dir-entry", "open") for word in (f"--{what}-cache", _LONG)]
        command: tuple[str | Path, ...] = (
            self._program,
            "mount",
            *timeouts,
            "--readdir-cache",
            *("--bucket", self._url),
            *("--cache-dir", cache),
            *("--backup-meta", "0"),
            *("--metrics", "127.0.0.1:0"),
            "--no-usage-report",
            "--no-syslog",
            self._meta,
        )
        began = time.monotonic()
        with mounted_by(self._mounts, *command) as place:
            yield Place(place.directory / name, time.monotonic() - began)


class Rclone:
    """rclone with `--vfs-cache-mode full`; trees come by `rclone copy`."""

    name = "rclone"

    def __init__(
        self, program: Path, programs: Programs, variables: Mapping[str, str], bucket: str, folder: Path, mounts: Path
    ) -> None:
        folder.mkdir()
        self.program_files = (program,)
        self._program = program
        self._programs = programs
        self._mounts = mounts
        self._remote = f"race:{bucket}/{OBJECTS}"
        self._of_store = variables
        self._settings = {
            "RCLONE_CONFIG": str(folder / "no-such.conf"),
            "RCLONE_CONFIG_RACE_TYPE": "s3",
            "RCLONE_CONFIG_RACE_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_RACE_ACCESS_KEY_ID": variables["AWS_ACCESS_KEY_ID"],
            "RCLONE_CONFIG_RACE_SECRET_ACCESS_KEY": variables["AWS_SECRET_ACCESS_KEY"],
            "RCLONE_CONFIG_RACE_REGION": variables["AWS_REGION"],
            "RCLONE_S3_NO_CHECK_BUCKET": "true",
        }

    @property
    def _variables(self) -> dict[str, str]:
        return self._settings | {"RCLONE_CONFIG_RACE_ENDPOINT": self._of_store["AWS_ENDPOINT_URL"]}

    def put(self, tree: Tree, name: str) -> float:
        command: tuple[str | Path, ...] = (self._program, "copy", "--transfers", AT_ONCE, "--checkers", AT_ONCE)
        words = (*command, tree.root, f"{self._remote}/{name}")
        return self._programs.run(words, self._variables).seconds

    @contextmanager
    def mounted(self, name: str, cache: Path) -> Iterator[Place]:
        command: tuple[str | Path, ...] = (
            self._program,
            "mount",
            *("--vfs-cache-mode", "full"),
            *("--vfs-cache-max-size", "off"),
            *("--dir-cache-time", "24h"),
            *("--attr-timeout", "1h"),
            "--use-server-modtime",
            *("--cache-dir", cache),
            self._remote,
        )
        began = time.monotonic()
        with mounted_by(self._mounts, *command, variables=self._variables) as place:
            yield Place(place.directory / name, time.monotonic() - began)


class S3fs:
    """s3fs with `use_cache`; trees are copied into a mount by 16 threads."""

    name = "s3fs"

    def __init__(
        self, program: Path, programs: Programs, variables: Mapping[str, str], bucket: str, folder: Path, mounts: Path
    ) -> None:
        folder.mkdir()
        self.program_files = (program,)
        self._program = program
        self._programs = programs
        self._mounts = mounts
        self._bucket = bucket
        self._folder = folder
        self._password_file = folder / "password"
        self._password_file.write_text(f"{variables['AWS_ACCESS_KEY_ID']}:{variables['AWS_SECRET_ACCESS_KEY']}\n")
        self._password_file.chmod(0o600)
        self._variables = variables

    def put(self, tree: Tree, name: str) -> float:
        began = time.monotonic()
        with self.mounted(name, self._folder / f"cache-of-{name}") as place:
            copied = copy_into(self._programs, tree, place.directory)
        if copied.files != len(tree.files) or copied.bytes != tree.bytes:
            raise Failed(f"copied {copied.files} files of {copied.bytes} bytes")
        return time.monotonic() - began

    @contextmanager
    def mounted(self, name: str, cache: Path) -> Iterator[Place]:
        cache.mkdir(parents=True, exist_ok=True)
        options = {
            "url": self._variables["AWS_ENDPOINT_URL"],
            "endpoint": self._variables["AWS_REGION"],
            "passwd_file": str(self._password_file),
            "use_cache": str(cache),
            "stat_cache_expire": _LONG,
            "max_stat_cache_size": "500000",
            "parallel_count": AT_ONCE,
            "multireq_max": AT_ONCE,
            "umask": "0022",
        }
        flags = ("use_path_request_style", "enable_noobj_cache", "kernel_cache")
        words = ",".join([*(f"{key}={value}" for key, value in options.items()), *flags])
        began = time.monotonic()
        with mounted_by(self._mounts, self._program, "-f", "-o", words, self._bucket) as place:
            yield Place(place.directory / OBJECTS / name, time.monotonic() - began)


def copy_into(programs: Programs, tree: Tree, target: Path) -> Read:
    """Copy the files of *tree* into *target* with 16 threads."""
    words = ("copy", tree.root, tree.list_file, target, "--threads", AT_ONCE)
    return programs.read_by([sys.executable, "-m", "bench.writer", *words])
