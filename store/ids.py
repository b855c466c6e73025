"""Identities: of versions, packs and writes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import NewType
from urllib.parse import quote, unquote

VersionId = NewType("VersionId", str)
"""32 lower-case hex digits."""

PackId = NewType("PackId", bytes)
"""24 bytes: the 16 of the version that wrote it, and 8 random ones."""

RandomBytes = Callable[[int], bytes]

PACK_ID_SIZE = 24
_VERSION_ID = re.compile(r"[0-9a-f]{32}")


def new_version_id(random: RandomBytes = secrets.token_bytes) -> VersionId:
    """Return a fresh version id of 128 random bits."""
    return VersionId(random(16).hex())


def is_version_id(text: str) -> bool:
    """Tell whether *text* has the form of a version id."""
    return _VERSION_ID.fullmatch(text) is not None


def new_pack_id(version: VersionId, random: RandomBytes = secrets.token_bytes) -> PackId:
    """Return a fresh pack id: no two uploads, not even of one version, share one."""
    return PackId(bytes.fromhex(version) + random(8))


def new_write_id(random: RandomBytes = secrets.token_bytes) -> str:
    """Return a fresh write-id, which makes every body of a conditional write unique."""
    return random(8).hex()


def pack_key(pack: PackId) -> str:
    """Return the key of *pack* in its store: `packs/<xx>/<pack-id>`, spread by the random part."""
    text = pack.hex()
    return f"packs/{text[-2:]}/{text}"


def escape(name: str) -> str:
    """Return *name* as one component of a key: all but letters, digits and `_.-~` become %XX; `.` and `..` too."""
    if name.strip(".") == "":
        return name.replace(".", "%2E")
    return quote(name, safe="")


def unescape(component: str) -> str:
    """Return the name that `escape` made *component* of."""
    return unquote(component)
