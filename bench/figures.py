"""Where the figures of a run go: a JSON file of its own, and the generated section of a page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def write_json(folder: Path, prefix: str, document: dict[str, Any]) -> Path:
    """Write *document* to a new file in *folder* and to the latest one beside it; return the first.

    Their names begin with *prefix*.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"{prefix}{document['about']['scale']}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    text = json.dumps(document, indent=1) + "\n"
    path.write_text(text)
    (folder / f"{prefix}latest.json").write_text(text)
    return path


def put_into_page(path: Path, begin: str, end: str, section: str) -> None:
    """Put *section* between the markers in the page at *path*. Raises ValueError when they are not there."""
    before, found, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{path} has no section for the figures")
    path.write_text(f"{before}{begin}\n{section}{end}{after}")
