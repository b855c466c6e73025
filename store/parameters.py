"""The parameters of a store's format, as `format.json` says them: fixed when the store is made, alike for all writers.

Two writers with other parameters would cut the same data differently: no deduplication, other pages, other digests.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dvfs.store.backend import Backend
from dvfs.store.catalog.boundary import Boundaries, Boundary
from dvfs.store.cut import Cutting
from dvfs.store.errors import AlreadyExists, Corrupt, NotFound, UnsupportedFormat
from dvfs.store.ids import new_write_id

FORMAT = 1
KEY = "format.json"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Where files are cut into blocks, and catalogs into pages."""

    cutting: Cutting = field(default_factory=Cutting)
    boundaries: Boundaries = field(default_factory=Boundaries)


def ensure(backend: Backend, wanted: Parameters) -> Parameters:
    """Return the parameters of the store behind *backend*, which is made with *wanted* if it is none yet.

    Raises UnsupportedFormat, Corrupt, and as the backend.
    """
    try:
        return decode(backend.get(KEY).data)
    except NotFound:
        pass
    try:
        backend.put_if_absent(KEY, encode(wanted))
    except AlreadyExists:
        return decode(backend.get(KEY).data)
    return wanted


def load(backend: Backend) -> Parameters:
    """Return the parameters of the store behind *backend*. Raises NotFound when there is none, and as `ensure`."""
    try:
        return decode(backend.get(KEY).data)
    except NotFound as exc:
        raise NotFound(f"there is no store at {backend.url} any more", hint="is its folder mounted?") from exc


def encode(parameters: Parameters) -> bytes:
    """Return the JSON of *parameters*, with a fresh write-id."""
    body = {"format": FORMAT, **dataclasses.asdict(parameters), "write_id": new_write_id()}
    return json.dumps(body, indent=1).encode()


def decode(data: bytes) -> Parameters:
    """Return the parameters in *data*. Raises UnsupportedFormat, Corrupt."""
    try:
        body = json.loads(data)
        number = body["format"]
    except (ValueError, TypeError, KeyError) as exc:
        raise Corrupt(f"{KEY} of the store is not what it should be: {exc}") from exc
    if number != FORMAT:
        raise UnsupportedFormat(
            f"the store is of format {number!r}; this dvfs knows format {FORMAT}", hint="use a newer dvfs"
        )
    try:
        boundaries = {name: _numbers(Boundary, value) for name, value in body["boundaries"].items()}
        return Parameters(_numbers(Cutting, body["cutting"]), Boundaries(**boundaries))
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise Corrupt(f"{KEY} of the store has parameters that cannot be: {exc}") from exc


_T = TypeVar("_T")


def _numbers(kind: type[_T], body: Any) -> _T:
    for name, value in body.items():
        if type(value) is not int or not 0 <= value < 1 << 32:
            raise ValueError(f"{name} is {value!r}")
    return kind(**body)
