"""The kernel's table of mounts, read."""

from __future__ import annotations

from pathlib import Path

from dvfs.fs.mountinfo import Mounted, all_mounts, canonical, mounted_at

TABLE = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
42 22 0:39 / /data/a\040b\011c\012d\134e ro,nosuid - fuse.dvfs dvfs:p/n@1.0.0 ro,user_id=0
43 22 0:40 / /data/other rw shared:3 master:1 - fuse.sshfs host:/x rw
44 22 0:41 / /data/\303\274\377 rw - fuse me rw
"""


def test_lines_are_taken_apart(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(TABLE)

    found = all_mounts(table)

    assert found[0] == Mounted("/", "254:0", "ext4", "/dev/vda")
    assert found[1] == Mounted("/data/a b\tc\nd\\e", "0:39", "fuse.dvfs", "dvfs:p/n@1.0.0")
    assert found[3].directory == "/data/ü\udcff"
    assert [mount.is_ours for mount in found] == [False, True, False, False]
    assert [mount.is_fuse for mount in found] == [False, True, True, True]


def test_the_root_is_mounted_and_a_plain_folder_is_not(tmp_path: Path) -> None:
    assert mounted_at(Path("/")) is not None
    assert mounted_at(tmp_path) is None


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    assert canonical(tmp_path / "link" / "new" / ".." / "x") == tmp_path / "target" / "x"
