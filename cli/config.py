"""What the program is told from outside: options, the environment, the configuration file, in this order.

The only module that reads environment variables and knows where the user's folders are. The file is TOML
(`DVFS_CONFIG`, else `dvfs/config.toml` in the user's configuration folder):

    store = "s3://bucket/prefix"
    cache_size = "200GiB"
    [s3]
    endpoint_url = "http://localhost:8333"

It holds no credentials: those come from where the tools of each cloud look for them.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvfs.cli.options import parse_size, parse_workers
from dvfs.store.errors import InvalidInput

if TYPE_CHECKING:
    from dvfs.store.retry import RetryPolicy
    from dvfs.store.url import BackendOptions

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Key:
    """A setting: its *name* (`s3.region` is region in the table s3), its environment variable, how it is read."""

    name: str
    env: str
    parse: Callable[[str], Value]
    help: str


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty")
    return value


def _flag(value: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return words[value.strip().lower()]
    except KeyError:
        raise ValueError(f"{value!r} is neither true nor false") from None


def _folders(value: str) -> str:
    if not all(os.path.isabs(os.path.expanduser(folder)) for folder in value.split(os.pathsep)):
        raise ValueError(f"{value!r} are no absolute paths of folders")
    return value


def _seconds(value: str) -> float:
    seconds = float(value)
    if not seconds > 0:
        raise ValueError(f"{value!r} is not a time in seconds")
    return seconds


KEYS: tuple[Key, ...] = (
    Key(
        "store", "DVFS_STORE", _text, "URL of the store: a folder, file:///path, s3://bucket/prefix, gs://…, azure://…"
    ),
    Key("cache_dir", "DVFS_CACHE_DIR", _text, "folder of the cache"),
    Key("cache_size", "DVFS_CACHE_SIZE", parse_size, "byte budget of the cache: 500M, 200GiB"),
    Key("workers", "DVFS_WORKERS", parse_workers, "processes that answer the requests of a mount: a number, or auto"),
    Key("retry_deadline", "DVFS_RETRY_DEADLINE", _seconds, "seconds to go on trying a store that does not answer"),
    Key("provenance", "DVFS_PROVENANCE", _flag, "note in the store which runs make and read versions"),
    Key("file_links", "DVFS_FILE_LINKS", _folders, "folders, joined by `:`, whose files file:// links may name"),
    Key("s3.profile", "DVFS_S3_PROFILE", _text, "profile of the AWS configuration"),
    Key("s3.region", "DVFS_S3_REGION", _text, "region of the bucket"),
    Key("s3.endpoint_url", "DVFS_S3_ENDPOINT_URL", _text, "URL of an S3 service that is not AWS"),
    Key("s3.path_style", "DVFS_S3_PATH_STYLE", _flag, "address buckets by path, not by host name"),
    Key("s3.sse", "DVFS_S3_SSE", _text, "server-side encryption: AES256 or aws:kms"),
    Key("s3.sse_kms_key_id", "DVFS_S3_SSE_KMS_KEY_ID", _text, "key for aws:kms"),
    Key("s3.requester_pays", "DVFS_S3_REQUESTER_PAYS", _flag, "pay for requests to a requester-pays bucket"),
    Key("s3.connect_timeout", "DVFS_S3_CONNECT_TIMEOUT", _seconds, "seconds to wait for a connection"),
    Key("s3.read_timeout", "DVFS_S3_READ_TIMEOUT", _seconds, "seconds to wait for an answer"),
    Key("gcs.endpoint_url", "DVFS_GCS_ENDPOINT_URL", _text, "URL of a service that speaks as Google Cloud Storage"),
    Key("gcs.user_project", "DVFS_GCS_USER_PROJECT", _text, "project that pays for a requester-pays bucket"),
    Key("gcs.kms_key_name", "DVFS_GCS_KMS_KEY_NAME", _text, "key of Cloud KMS for what is written"),
    Key("gcs.connect_timeout", "DVFS_GCS_CONNECT_TIMEOUT", _seconds, "seconds to wait for a connection"),
    Key("gcs.read_timeout", "DVFS_GCS_READ_TIMEOUT", _seconds, "seconds to wait for an answer"),
    Key("azure.account_name", "DVFS_AZURE_ACCOUNT_NAME", _text, "storage account of the container"),
    Key("azure.endpoint_url", "DVFS_AZURE_ENDPOINT_URL", _text, "URL of the blob service, where it is not Azure's own"),
    Key("azure.connect_timeout", "DVFS_AZURE_CONNECT_TIMEOUT", _seconds, "seconds to wait for a connection"),
    Key("azure.read_timeout", "DVFS_AZURE_READ_TIMEOUT", _seconds, "seconds to wait for an answer"),
)

_BY_NAME = {key.name: key for key in KEYS}


def key_named(name: str) -> Key:
    """Return the key of that *name*. Raises InvalidInput."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise InvalidInput(f"there is no setting {name!r}", hint="the settings are " + ", ".join(_BY_NAME)) from None


@dataclass(frozen=True, slots=True)
class Setting:
    """The *value* of a setting (None: not set, no default) and where it comes from: option, env, file or default."""

    value: Value | None
    source: str


class Config:
    """All settings of one run of the program.

    *options* are the values that options of the command line gave, by name of the setting. *environ* and
    the configuration file are read once, at construction. Raises InvalidInput where a value makes no sense.
    """

    def __init__(self, environ: Mapping[str, str], options: Mapping[str, Value | None]) -> None:
        self._environ = environ
        self._here = Path.cwd()
        self._options = {name: value for name, value in options.items() if value is not None}
        self._file = read_file(self.path)

    @property
    def folder(self) -> Path:
        """The working directory of this run, as it began."""
        return self._here

    @property
    def path(self) -> Path:
        """The configuration file, which need not exist."""
        return self._folder("DVFS_CONFIG", "user_config_path", "config.toml")

    @property
    def state_dir(self) -> Path:
        """Where staging, the dataset in use and the list of mounts are kept."""
        return self._folder("DVFS_STATE_DIR", "user_state_path", "")

    @property
    def store_url(self) -> str:
        """The store; by default a folder of the user's own. A leading `~` is the user's home."""
        told = str(self.get("store").value)
        return told if "://" in told else str(self._absolute(told))

    @property
    def cache_dir(self) -> Path:
        """The folder of the cache."""
        return self._absolute(str(self.get("cache_dir").value))

    @property
    def cache_bytes(self) -> int | None:
        """The byte budget of the cache; None leaves it to the cache."""
        value = self.get("cache_size").value
        return None if value is None else int(value)

    @property
    def workers(self) -> int:
        """How many processes answer the requests of a mount; 0 leaves it to the cores of the machine."""
        return int(self.get("workers").value or 0)

    @property
    def file_folders(self) -> tuple[Path, ...]:
        """The folders of this machine from which external files are read; none by default."""
        told = self.get("file_links").value
        return () if told is None else tuple(Path(folder).expanduser() for folder in str(told).split(os.pathsep))

    @property
    def has_provenance(self) -> bool:
        """Whether runs are noted in the store."""
        return bool(self.get("provenance").value)

    def get(self, name: str) -> Setting:
        """Return the setting *name*. Raises InvalidInput where there is none, or its value makes no sense."""
        key = key_named(name)
        if name in self._options:
            return Setting(self._options[name], "option")
        if self._environ.get(key.env):
            return Setting(parsed(key, self._environ[key.env], key.env), "env")
        if name in self._file:
            return Setting(self._file[name], "file")
        return Setting(self._default(name), "default")

    def check(self) -> None:
        """Raise InvalidInput where any setting makes no sense."""
        for key in KEYS:
            self.get(key.name)

    def backend_options(self) -> BackendOptions:
        """Return the settings of the tables s3, gcs and azure as the backends take them."""
        from dvfs.store.azure import AzureOptions
        from dvfs.store.gcs import GcsOptions
        from dvfs.store.s3 import S3Options
        from dvfs.store.url import BackendOptions

        connection_string = self._environ.get("AZURE_STORAGE_CONNECTION_STRING") or None  # obstore asks for none
        return BackendOptions(  # each value was parsed to the type of its field
            s3=S3Options(**self._table("s3")),
            gcs=GcsOptions(**self._table("gcs")),
            azure=AzureOptions(connection_string=connection_string, **self._table("azure")),
        )

    def retry_policy(self) -> RetryPolicy:
        """Return how long to go on trying; where only the read timeout of the store's kind is told, twice that."""
        from dvfs.store.retry import RetryPolicy
        from dvfs.store.url import BucketLocation, parse_url

        told, timeout, location = self.get("retry_deadline").value, None, parse_url(self.store_url)
        if isinstance(location, BucketLocation):
            timeout = self.get(f"{location.table}.read_timeout").value
        if told is None and timeout is not None:
            told = 2 * float(timeout)
        return RetryPolicy() if told is None else RetryPolicy(deadline_seconds=float(told))

    def _table(self, table: str) -> dict[str, Any]:
        """Return the settings of *table* that have a value, by their names in it."""
        names = [key.name for key in KEYS if key.name.startswith(f"{table}.")]
        values = {name.removeprefix(f"{table}."): self.get(name).value for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def _default(self, name: str) -> Value | None:
        if name == "store":
            return str(self._platform("user_data_path") / "store")
        if name == "cache_dir":
            return str(self._platform("user_cache_path"))
        if name == "provenance":
            return True
        if name == "s3.region":
            return self._environ.get("AWS_REGION")  # botocore itself asks for AWS_DEFAULT_REGION only
        return None

    def _folder(self, env: str, platform_path: str, file: str) -> Path:
        told = self._environ.get(env)
        return self._absolute(told) if told else self._platform(platform_path) / file

    def _absolute(self, path: str) -> Path:
        """Return *path* as the run that was told it means it, also after a change of the working directory."""
        return self._here / Path(path).expanduser()

    @staticmethod
    def _platform(kind: str) -> Path:
        import platformdirs

        path: Path = getattr(platformdirs, kind)("dvfs", appauthor=False)
        return path


def parsed(key: Key, text: str, where: str) -> Value:
    """Return *text* as the value of *key*; *where* it stood is named if it makes no sense. Raises InvalidInput."""
    try:
        return key.parse(text)
    except ValueError as exc:
        raise InvalidInput(f"{where}: {exc}", hint=f"{key.name} is: {key.help}") from exc


def read_file(path: Path) -> dict[str, Value]:
    """Return what the configuration file at *path* sets; nothing if there is no file. Raises InvalidInput."""
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path} is not TOML: {exc}") from exc
    values: dict[str, Value] = {}
    for name, value in _flat(document).items():
        key = key_named(name)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        values[name] = parsed(key, text, f"{path}, {name}")
    return values


def _flat(document: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": inner_value for inner, inner_value in value.items()})
        else:
            flat[name] = value
    return flat


def write_file(path: Path, name: str, value: Value | None) -> None:
    """Set *name* to *value* in the file at *path*, or unset it (None), and leave all other lines as they are.

    Raises InvalidInput where the file is written in a way that this cannot edit.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    edited = _edited(lines, name, value)
    text = "".join(f"{line}\n" for line in edited)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(text)
    try:
        if read_file(temporary).get(name) != value:
            raise InvalidInput(f"{path} is written in a way that only a person can edit", hint="edit it by hand")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _edited(lines: list[str], name: str, value: Value | None) -> list[str]:
    """Return the *lines* of a TOML file with *name* set to *value*, or without it."""
    table, _, key = name.rpartition(".")
    start, stop = _table_range(lines, table)
    assignment = re.compile(rf"\s*{re.escape(key)}\s*=")
    kept = [line for line in lines[start:stop] if not assignment.match(line)]
    if value is not None:
        end = len(kept)
        while end and not kept[end - 1].strip():
            end -= 1
        kept.insert(end, f"{key} = {_toml(value)}")
        if table and start == len(lines):
            kept.insert(0, f"[{table}]")
    return lines[:start] + kept + lines[stop:]


def _table_range(lines: list[str], table: str) -> tuple[int, int]:
    """Return the lines of *table*, from the one after its heading on; the empty end where it is not there."""
    headings = [index for index, line in enumerate(lines) if line.lstrip().startswith("[")]
    if not table:
        return 0, headings[0] if headings else len(lines)
    for index in headings:
        if re.fullmatch(rf"\[\s*{re.escape(table)}\s*\]\s*(#.*)?", lines[index].strip()):
            return index + 1, min((other for other in headings if other > index), default=len(lines))
    return len(lines), len(lines)


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    return str(value)
