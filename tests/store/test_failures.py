"""Failures of single paths: all counted, some named, all of it printable."""

from __future__ import annotations

import pytest

from dvfs.store.errors import InvalidInput
from dvfs.store.failures import NAMED, Failures, plural, printable


def test_none_is_no_error() -> None:
    Failures().raise_as(InvalidInput, "are bad")


def test_up_to_twenty_are_named_and_all_are_counted() -> None:
    failures = Failures()
    for number in range(NAMED + 1234):
        failures.add(b"/src/%d" % number, "permission denied")
    with pytest.raises(InvalidInput) as caught:
        failures.raise_as(InvalidInput, "cannot be taken:", hint="leave them out")
    lines = caught.value.message.splitlines()
    assert lines[0] == "1,254 files cannot be taken:"
    assert lines[1] == "  /src/0: permission denied"
    assert len(lines) == 1 + NAMED + 1
    assert lines[-1] == "  and 1234 more"
    assert caught.value.hint == "leave them out"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"plain", "plain"),
        ("größe".encode(), "größe"),
        (b"new\nline\ttab\x1b[31m", r"new\nline\x09tab\x1b[31m"),
        (b"bad\xff\xfe", r"bad\xff\xfe"),
        ("right\u202eleft".encode(), r"right\u202eleft"),
    ],
)
def test_names_are_printable_whatever_their_bytes(path: bytes, text: str) -> None:
    assert printable(path) == text
    assert printable(path).isprintable()


def test_numbers_and_nouns_fit() -> None:
    assert [plural(count, "file") for count in (0, 1, 2, 1000)] == ["0 files", "1 file", "2 files", "1,000 files"]
