"""What a machine or a directory lacks is said in one line, with what to do about it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dvfs.fs.mountpoint import check_machine, is_dead, prepare
from dvfs.store.errors import InvalidInput, WrongState

DEVICE = Path("/dev/null")  # a character device that everybody may use


def test_a_machine_that_has_all(tmp_path: Path) -> None:
    config = tmp_path / "fuse.conf"
    config.write_text("# user_allow_other\nmount_max = 9\n user_allow_other \n")
    check_machine(allow_other=True, is_root=False, device=DEVICE, config=config)
    check_machine(allow_other=True, is_root=True, device=DEVICE, config=tmp_path / "missing")


def test_no_device(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for device in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(WrongState, match="is not there") as caught:
            check_machine(allow_other=False, device=device)
        assert caught.value.hint is not None
        assert "modprobe fuse" in caught.value.hint


def test_no_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WrongState, match="fusermount3 is not there") as caught:
        check_machine(allow_other=False, is_root=False, device=DEVICE)
    assert caught.value.hint == "install the package fuse3"
    check_machine(allow_other=False, is_root=True, device=DEVICE)


@pytest.mark.parametrize("text", [None, "", "#user_allow_other\n", "user_allow_others\n"])
def test_others_are_not_allowed(tmp_path: Path, text: str | None) -> None:
    config = tmp_path / "fuse.conf"
    if text is not None:
        config.write_text(text)
    with pytest.raises(WrongState, match="user_allow_other") as caught:
        check_machine(allow_other=True, is_root=False, device=DEVICE, config=config)
    assert caught.value.hint is not None
    check_machine(allow_other=False, is_root=False, device=DEVICE, config=config)


def test_a_directory_is_made_or_must_be_empty(tmp_path: Path) -> None:
    prepare(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []
    prepare(tmp_path / "a" / "b")
    with pytest.raises(WrongState, match="is not empty"):
        prepare(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="not a directory"):
        prepare(tmp_path / "file")


def test_a_plain_directory_is_not_dead(tmp_path: Path) -> None:
    assert not is_dead(tmp_path)
    assert not is_dead(tmp_path / "missing")
