"""Where overlays are kept: one user at a time, and a folder of an overlay without edits goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dvfs.fs.overlay.home import About, Folder, Overlays, default_name
from dvfs.store.errors import Corrupt, InvalidInput, NotFound, WrongState

ABOUT = About("file:///store", "1" * 32, "project/name", "1.0.0", "/mnt", 1, 2)


@pytest.fixture
def overlays(tmp_path: Path) -> Overlays:
    return Overlays(tmp_path)


def test_an_overlay_has_one_user_at_a_time(overlays: Overlays) -> None:
    folder = overlays.take("a")
    with pytest.raises(WrongState, match="in use"):
        overlays.take("a")
    overlays.take("b").close()
    folder.note(ABOUT)
    folder.close()
    folder.close()
    overlays.take("a").close()


def test_an_empty_folder_goes_and_another_stays(overlays: Overlays) -> None:
    overlays.take("empty").close()
    assert not overlays.path("empty").exists()
    folder = overlays.take("a")
    folder.note(ABOUT)
    folder.close()
    assert overlays.about("a") == ABOUT
    assert overlays.about("a").title == "project/name@1.0.0"
    assert overlays.names() == ["a"]
    assert overlays.path("a").stat().st_mode & 0o777 == 0o700


def test_all_goes_but_the_lock(overlays: Overlays, tmp_path: Path) -> None:
    folder = overlays.take("a")
    folder.note(ABOUT)
    (folder.path / "data" / "x").mkdir(parents=True)
    (folder.path / "outside").symlink_to(tmp_path)
    folder.empty()
    assert os.listdir(folder.path) == ["lock"]
    assert tmp_path.exists()
    folder.close()


def test_a_folder_that_was_made_anew_meanwhile_is_not_taken_for_the_old_one(
    overlays: Overlays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the lock of a folder and locking it, who had it removes it, and another makes it."""
    overlays.path("a").mkdir(parents=True)
    others: list[Folder] = []
    real = os.open

    def slow(path: Path, flags: int, mode: int = 0o777) -> int:
        handle = real(path, flags, mode)
        if not others and Path(path).name == "lock":
            monkeypatch.setattr(os, "open", real)
            Path(path).unlink()
            Path(path).parent.rmdir()
            others.append(overlays.take("a"))
        return handle

    monkeypatch.setattr(os, "open", slow)
    with pytest.raises(WrongState, match="in use"):
        overlays.take("a")
    assert others[0].is_there
    others[0].close()
    assert not overlays.path("a").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a" * 101, "ä", "a\n"])
def test_names_that_none_can_have(overlays: Overlays, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be called"):
        overlays.path(name)


def test_what_is_not_there_or_cannot_be_read(overlays: Overlays) -> None:
    with pytest.raises(NotFound, match="no overlay a"):
        overlays.about("a")
    assert overlays.names() == []
    overlays.path("a").mkdir(parents=True)
    for text in ("", "[]", json.dumps({"store": 1})):
        (overlays.path("a") / "overlay.json").write_text(text)
        with pytest.raises(Corrupt, match="cannot be read"):
            overlays.about("a")


def test_the_name_of_an_overlay_tells_dataset_and_mount_point() -> None:
    found = default_name("file:///s", "project/näme of it", Path("/mnt"))
    assert found.startswith("n-me-of-it-")
    assert found == default_name("file:///s", "project/näme of it", Path("/mnt"))
    others = {
        default_name("file:///t", "project/näme of it", Path("/mnt")),
        default_name("file:///s", "other/näme of it", Path("/mnt")),
        default_name("file:///s", "project/näme of it", Path("/mnt2")),
        default_name("file:///s", "project/\udcff", Path("/mnt")),
    }
    assert len(others | {found}) == 5
    for name in others:
        Overlays(Path("/")).path(name)
