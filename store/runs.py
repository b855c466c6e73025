"""Which runs made and read a version: `runs/<id>/<run>`, small objects that are written once (docs/format.md, "Runs").

They are notes for people: nothing depends on them, and one that cannot be read is left out. Thread-safe.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dvfs.store.backend import Backend
from dvfs.store.errors import Corrupt, NotFound
from dvfs.store.ids import VersionId, new_write_id
from dvfs.store.record import Origin

_log = logging.getLogger(__name__)

FORMAT = 1
COMMAND_LENGTH = 4096
"""Most letters of a command that are kept."""

_MOST_BYTES = 1 << 18
_PARALLEL = 16


@dataclass(frozen=True, slots=True)
class Run:
    """What a run *did* with a version (made, mounted, get, fsspec, Dataset), when, which *user*, and where."""

    did: str
    time_ns: int
    user: str
    origin: Origin


def note(backend: Backend, version: VersionId, run: Run) -> None:
    """Write *run* beside *version*. Raises Unavailable, AccessDenied, NoSpace."""
    write_id = new_write_id()
    body = {
        "format": FORMAT,
        "did": run.did,
        "time_ns": run.time_ns,
        "user": run.user,
        "command": run.origin.command[:COMMAND_LENGTH],
        "commit": run.origin.commit,
        "host": run.origin.host,
        "runs": run.origin.runs,
        "write_id": write_id,
    }
    backend.put_if_absent(
        f"runs/{version}/{run.time_ns:020d}-{write_id}", json.dumps(body, ensure_ascii=False, indent=1).encode()
    )


def noted(backend: Backend, version: VersionId, limit: int | None = None) -> list[Run]:
    """Return the runs noted beside *version*, the newest first, at most *limit*: a LIST, and a GET for each."""
    keys = sorted((item.key for item in backend.list(f"runs/{version}/")), reverse=True)[:limit]
    return list(_read_all(backend, keys))


def _read_all(backend: Backend, keys: list[str]) -> Iterator[Run]:
    with ThreadPoolExecutor(_PARALLEL) as pool:
        todo = iter(keys)
        while batch := list(islice(todo, 4 * _PARALLEL)):
            yield from (run for run in pool.map(lambda key: _read(backend, key), batch) if run is not None)


def _read(backend: Backend, key: str) -> Run | None:
    try:
        return decode(backend.get(key, 0, _MOST_BYTES).data)
    except NotFound:
        return None  # removed since it was listed
    except Corrupt as exc:
        _log.warning("%s is left out: %s", key, exc.message)
        return None


def decode(data: bytes) -> Run:
    """Return the run in *data*. Raises Corrupt."""
    try:
        body = json.loads(data)
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']!r}")
        time_ns = body["time_ns"]
        if type(time_ns) is not int or not 0 <= time_ns < 1 << 63:
            raise ValueError(f"time_ns {time_ns!r}")
        runs = {_text(system): _text(run) for system, run in body["runs"].items()}
        origin = Origin(_text(body["command"]), _text(body["commit"]), _text(body["host"]), runs)
        return Run(_text(body["did"]), time_ns, _text(body["user"]), origin)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise Corrupt(f"it is no note of a run: {type(exc).__name__}: {exc}") from exc


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
