"""Kernel settings of a mount, where they can be written."""

from __future__ import annotations

from pathlib import Path

from dvfs.fs.tuning import tune


def test_what_can_be_written_is(tmp_path: Path) -> None:
    (tmp_path / "class" / "bdi" / "0:39").mkdir(parents=True)
    (tmp_path / "class" / "bdi" / "0:39" / "read_ahead_kb").write_text("128")
    connection = tmp_path / "fs" / "fuse" / "connections" / "39"
    connection.mkdir(parents=True)

    tune("0:39", sys=tmp_path)

    assert (tmp_path / "class" / "bdi" / "0:39" / "read_ahead_kb").read_text() == "1024"
    assert (connection / "max_background").read_text() == "64"
    assert (connection / "congestion_threshold").read_text() == "48"


def test_what_cannot_be_written_stays(tmp_path: Path) -> None:
    tune("0:39", sys=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_writable_mount_may_hold_back_more(tmp_path: Path) -> None:
    device = tmp_path / "class" / "bdi" / "0:39"
    device.mkdir(parents=True)

    tune("0:39", sys=tmp_path)
    assert not (device / "strict_limit").exists()
    tune("0:39", writable=True, sys=tmp_path)

    assert (device / "strict_limit").read_text() == "0"
    assert (device / "max_ratio").read_text() == "100"
