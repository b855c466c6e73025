"""The graph of a lineage as text."""

from __future__ import annotations

import pytest

from dvfs.cli.graph import Row, drawn


def rows(*words: str) -> list[Row]:
    """Return rows of words such as `c:ab`, the version c with the parents a and b."""
    return [(word[0], tuple(word[2:]), word[0]) for word in words]


@pytest.mark.parametrize(
    ("versions", "picture"),
    [
        ([], ""),
        (["c:b", "b:a", "a"], "* c\n* b\n* a"),
        (["d:bc", "c:a", "b:a", "a"], "* d\n|\\\n| * c\n* | b\n|/\n* a"),
        (["d:bc", "c", "b:a", "a"], "* d\n|\\\n| * c\n* b\n* a"),
        (["e:bcd", "d", "c:a", "b:a", "a"], "* e\n|\\\n|\\ \\\n| | * d\n| * c\n* | b\n|/\n* a"),
        (["d:bca", "c:a", "b", "a"], "* d\n|\\\n|\\ \\\n| * | c\n| |/\n* | b\n /\n* a"),
        (["d:bac", "c:b", "b", "a"], "* d\n|\\\n|\\ \\\n| | * c\n| |/\n|/|\n* | b\n /\n* a"),
        (["e:d", "d:bc", "c:b", "b"], "* e\n* d\n|\\\n| * c\n|/\n* b"),
    ],
)
def test_graphs(versions: list[str], picture: str) -> None:
    assert "\n".join(line.rstrip() for line in drawn(rows(*versions))) == picture


def test_a_graph_of_two_tips() -> None:
    assert list(drawn(rows("c:a", "b:a", "a"))) == ["* c", "| * b", "|/", "* a"]
