"""Version numbers of a dataset: their order, and the next one (as ClearML Data counts: docs/glossary.md, "version").

A number is what PEP 440 takes for one (`1.0.0`, `1.2rc1`, `v3`); any other text (`final`)
may name a version too, but comes before all numbers and is not counted up.
"""

from __future__ import annotations

from collections.abc import Iterable

from packaging.version import InvalidVersion, Version

FIRST = "1.0.0"


def parse(text: str) -> Version | None:
    """Return the number that *text* is, None when it is none."""
    try:
        return Version(text)
    except InvalidVersion:
        return None


def order(text: str) -> tuple[bool, Version, str]:
    """Return a key to sort versions by, the highest last."""
    number = parse(text)
    return number is not None, number or Version("0"), text


def following(existing: Iterable[str]) -> str:
    """Return the number after the highest of *existing*: its last part plus one; FIRST when there is none."""
    numbers = [number for number in map(parse, existing) if number is not None]
    if not numbers:
        return FIRST
    top = max(numbers)
    release = ".".join(map(str, top.release))
    if top.dev is not None:
        return f"{top.public.rpartition('.dev')[0]}.dev{top.dev + 1}"
    if top.post is not None:
        return f"{top.public.rpartition('.post')[0]}.post{top.post + 1}"
    if top.pre is not None:
        return f"{release}{top.pre[0]}{top.pre[1] + 1}"
    return ".".join(map(str, (*top.release[:-1], top.release[-1] + 1)))
