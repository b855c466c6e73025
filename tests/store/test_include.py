"""Wildcards take the files that `Path.rglob` finds, or `Path.glob` where they are not recursive."""

from __future__ import annotations

from pathlib import Path

import pytest

from dvfs.store.errors import InvalidInput
from dvfs.store.include import wildcards

FILES = (
    "a.jpg",
    "b.txt",
    ".hidden.jpg",
    "left/c.jpg",
    "left/d.txt",
    "deep/left/e.jpg",
    "deep/er/left/f.jpg",
    "x/[a].jpg",
)
PATTERNS = (
    "*", "*.jpg", "?.jpg", "left/*", "left/*.jpg", "deep/*.jpg", "deep/*/e.jpg", "**/e.jpg", "deep/**/*.jpg", "[ab].*",
    "a.jpg", "./a.jpg", "nothing", "*/*/*/*", "x/[[]a].jpg", "LEFT/*",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("tree")
    for name in FILES:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    return top


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("recursive", [True, False])
def test_wildcards_take_what_pathlib_finds(folder: Path, pattern: str, recursive: bool) -> None:
    found = folder.rglob(pattern) if recursive else folder.glob(pattern)
    takes = wildcards([pattern], recursive=recursive)
    assert {name for name in FILES if takes(name.encode())} == {
        str(path.relative_to(folder)) for path in found if path.is_file()
    }


def test_any_of_several_and_bytes_that_are_no_text() -> None:
    takes = wildcards(["*.txt", "\udce9*"], recursive=True)
    assert [takes(path) for path in (b"a.txt", b"d/\xe9t\xe9", b"a.jpg")] == [True, True, False]


@pytest.mark.parametrize("pattern", ["/a", "~/a", "../a", "a/../b", "", ".", "/"])
def test_a_wildcard_that_names_nothing(pattern: str) -> None:
    with pytest.raises(InvalidInput):
        wildcards([pattern], recursive=True)
