"""How values are written."""

from __future__ import annotations

import pytest

from dvfs.cli.output import counted, moment, name_fields, shown, shown_size, timestamp


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain/name.txt", "plain/name.txt"),
        ("größe 日本".encode(), "größe 日本"),
        (b"two\nlines\tand\rmore", "two\\nlines\\tand\\rmore"),
        (b"bell\x07 escape\x1b[2J del\x7f", "bell\\x07 escape\\x1b[2J del\\x7f"),
        (b"latin \xe9", "latin \\xe9"),
        ("c1 \x9b line \u2028".encode(), "c1 \\x9b line \\u2028"),
        (b"back\\slash \\xe9", "back\\\\slash \\\\xe9"),
    ],
)
def test_names_for_people_stay_on_one_line(name: bytes, text: str) -> None:
    assert shown(name) == text
    assert shown(name.decode("utf-8", "surrogateescape")) == text


def test_names_for_machines() -> None:
    assert name_fields("path", "größe".encode()) == {"path": "größe"}
    assert name_fields("path", b"\xe9") == {"path": "\ufffd", "path_b64": "6Q=="}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (3 << 50, "3.0 PiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert shown_size(count) == text


def test_numbers() -> None:
    assert [counted(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_times() -> None:
    assert moment(1_000_000_000_999_999_999) == "2001-09-09 01:46:40"
    assert timestamp(0) == "1970-01-01T00:00:00Z"
