"""From mount to unmount: what is refused, what is reported, what is left behind (nothing)."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dvfs.fs.control import Control
from dvfs.fs.mountinfo import mounted_at
from dvfs.fs.mountpoint import is_dead, take_away
from dvfs.fs.mounts import is_running, wait_gone
from dvfs.store.errors import NotFound, Unavailable, WrongState
from tests.fs.made_version import Made
from tests.mount.conftest import Failed, Mounted, Mounter
from tests.waiting import wait_until

Odd = Callable[..., Mounted]


def test_a_mount_is_named_in_the_kernel_and_in_the_table(odd: Odd) -> None:
    mounted = odd()
    found = mounted_at(mounted.directory)
    assert found is not None
    assert (found.kind, found.source, found.is_ours) == ("fuse.dvfs", "dvfs:project/name@1.0.0", True)
    assert mounted.table.all() == [mounted.noted]
    noted = mounted.noted
    assert (noted.directory, noted.title, noted.pid) == (str(mounted.directory), "project/name@1.0.0", mounted.pid)
    assert (noted.device, noted.digest, noted.log) == (found.device, mounted.digest, str(mounted.log))
    assert noted.options["prefetch"] == "none"
    assert noted.is_served


def test_a_new_cache_has_its_folders_before_blocks_need_them(odd: Odd, mounter: Mounter) -> None:
    odd()
    blocks = mounter.folder / "cache" / "blocks"
    wait_until(lambda: {path.name for path in blocks.iterdir()} == {f"{number:02x}" for number in range(256)})


def test_a_mount_answers_at_a_socket_that_only_its_user_reaches(odd: Odd) -> None:
    mounted = odd()
    folder = mounted.table.control_folder(mounted.directory, mounted.pid)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    os.listdir(mounted.directory)
    with contextlib.closing(Control(folder)) as control:
        assert control.call("stats")["requests"]["readdir"] > 0
    mounted.umount()
    assert not folder.exists()
    with pytest.raises(Unavailable, match="no mount answers at"):
        Control(folder)


def test_the_socket_of_a_killed_daemon_goes_with_the_next_mount(odd: Odd) -> None:
    mounted = odd()
    folder = mounted.table.control_folder(mounted.directory, mounted.pid)
    os.kill(mounted.pid, signal.SIGKILL)
    assert wait_gone(mounted.noted.pid, mounted.noted.started)
    assert folder.exists()
    again = odd()
    assert not folder.exists()
    assert list((again.table.control_folder(again.directory, again.pid)).iterdir()) != []


def test_unmounting_ends_the_daemon_and_leaves_nothing(odd: Odd) -> None:
    mounted = odd()
    mounted.umount()
    assert not is_running(mounted.noted.pid, mounted.noted.started)
    assert mounted_at(mounted.directory) is None
    assert mounted.table.all() == []
    assert list(mounted.directory.iterdir()) == []
    with pytest.raises(NotFound, match="is not a mount of dvfs"):
        mounted.umount()


def test_the_daemon_has_left_the_terminal(odd: Odd, tmp_path: Path) -> None:
    mounted = odd()
    assert os.getsid(mounted.pid) == mounted.pid
    assert Path(f"/proc/{mounted.pid}/cwd").readlink() == Path("/")
    targets = [os.readlink(f"/proc/{mounted.pid}/fd/{number}") for number in (0, 1, 2)]
    assert targets == ["/dev/null", str(mounted.log), str(mounted.log)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts(odd: Odd, number: signal.Signals) -> None:
    mounted = odd()
    os.kill(mounted.pid, number)
    assert wait_gone(mounted.noted.pid, mounted.noted.started)
    assert mounted_at(mounted.directory) is None
    assert mounted.table.all() == []


def test_sigterm_unmounts_while_a_file_is_open(odd: Odd) -> None:
    mounted = odd()
    fd = os.open(mounted.directory / "x", os.O_RDONLY)
    os.kill(mounted.pid, signal.SIGTERM)
    assert wait_gone(mounted.noted.pid, mounted.noted.started)
    assert mounted_at(mounted.directory) is None
    with contextlib.suppress(OSError):
        os.close(fd)


def test_sigterm_unmounts_while_the_shim_keeps_watch(odd: Odd) -> None:
    mounted = odd()

    def asks_and_is_watched() -> bool:
        with (mounted.directory / "x").open("rb", buffering=0) as file:
            assert not file.isatty()
        return "dvfs-watch\n" in _threads(mounted.pid)

    wait_until(asks_and_is_watched)
    os.kill(mounted.pid, signal.SIGTERM)
    assert wait_gone(mounted.noted.pid, mounted.noted.started)
    assert mounted_at(mounted.directory) is None


def test_sigterm_ends_a_mount_whose_store_hangs(odd: Odd) -> None:
    mounted = odd()
    mounted.is_noisy = True
    mounted.hanging.touch()
    reader = subprocess.Popen(["cat", mounted.directory / "big" / "random"], stdout=-3, stderr=-3)
    wait_until(lambda: "dvfs:hangs\n" in _threads(mounted.pid))
    os.kill(mounted.pid, signal.SIGTERM)
    assert wait_gone(mounted.noted.pid, mounted.noted.started)
    assert mounted_at(mounted.directory) is None
    assert reader.wait(30) != 0


def _threads(pid: int) -> list[str]:
    return [name.read_text() for name in Path(f"/proc/{pid}/task").glob("*/comm")]


def test_a_directory_is_made_with_those_above_it(odd: Odd, tmp_path: Path) -> None:
    mounted = odd(tmp_path / "not" / "there" / "yet")
    assert (mounted.directory / "x").read_bytes() == b"x"


def test_a_name_with_odd_characters_can_be_mounted_on(odd: Odd, tmp_path: Path) -> None:
    mounted = odd(tmp_path / "with space, comma\n and ü\\011")
    assert (mounted.directory / "x").read_bytes() == b"x"
    mounted.umount()


def test_a_link_is_mounted_where_it_leads(mounter: Mounter, odd_version: Made, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    mounted = mounter(odd_version, tmp_path / "link")
    assert mounted.noted.directory == str(tmp_path / "target")
    mounted.table.umount(tmp_path / "link")
    assert mounted_at(tmp_path / "target") is None


def test_what_is_not_an_empty_directory_is_refused(odd: Odd, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(Failed) as caught:
        odd(tmp_path / "full")
    assert (caught.value.kind, caught.value.message) == ("wrong_state", f"{tmp_path}/full is not empty")
    with pytest.raises(Failed) as caught:
        odd(tmp_path / "full" / "file")
    assert (caught.value.kind, caught.value.message) == ("invalid_input", f"{tmp_path}/full/file is not a directory")
    with pytest.raises(Failed) as caught:
        odd(tmp_path / "full" / "file" / "below")
    assert caught.value.kind == "invalid_input"


def test_a_mount_is_not_mounted_over(odd: Odd) -> None:
    mounted = odd()
    with pytest.raises(Failed) as caught:
        odd()
    assert caught.value.message == f"{mounted.directory} is a mount already (dvfs:project/name@1.0.0)"
    assert caught.value.hint == f"`dvfs umount {mounted.directory}`"


def test_a_killed_daemon_leaves_a_dead_mount_that_is_mounted_over(odd: Odd) -> None:
    mounted = odd()
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: is_dead(mounted.directory) and not mounted.noted.is_served)
    assert [mount.is_served for mount in mounted.table.all()] == [False]
    again = odd()
    assert (again.directory / "x").read_bytes() == b"x"
    again.umount()
    assert mounted_at(mounted.directory) is None


def test_a_dead_mount_is_unmounted(odd: Odd) -> None:
    mounted = odd()
    os.kill(mounted.pid, signal.SIGKILL)
    wait_until(lambda: is_dead(mounted.directory))
    mounted.umount()
    assert mounted_at(mounted.directory) is None
    assert mounted.table.all() == []


@pytest.fixture
def user_of(tmp_path: Path) -> Iterator[Callable[[str, Path], int]]:
    """Starts a process that uses a path: has it open, mapped, or as its directory; returns its pid."""
    programs = {
        "open": "file = open(sys.argv[1], 'rb')",
        "mapped": "import mmap; file = open(sys.argv[1], 'rb'); m = mmap.mmap(file.fileno(), 0, prot=1); file.close()",
        "directory": "import os; os.chdir(sys.argv[1])",
    }
    running = []

    def start(way: str, path: Path) -> int:
        program = f"import sys, time; {programs[way]}; print('ready', flush=True); sys.stdin.read()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process.pid

    yield start
    for process in running:
        process.communicate("")


@pytest.mark.parametrize("way", ["open", "mapped", "directory"])
def test_busy_names_the_processes(odd: Odd, user_of: Callable[[str, Path], int], way: str) -> None:
    mounted = odd()
    pid = user_of(way, mounted.directory / ("many" if way == "directory" else "big/random"))
    with pytest.raises(WrongState) as caught:
        mounted.umount()
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    assert caught.value.message == f"{mounted.directory} is in use by {name} (pid {pid})"
    assert caught.value.hint is not None
    assert "--lazy" in caught.value.hint
    mounted.umount(lazy=True)
    assert mounted_at(mounted.directory) is None
    assert is_running(mounted.noted.pid, mounted.noted.started)


def test_who_uses_a_lazily_unmounted_version_reads_on(odd: Odd) -> None:
    mounted = odd()
    with (mounted.directory / "big" / "random").open("rb", buffering=0) as file:
        mounted.umount(lazy=True)
        again = odd()
        assert len(file.read()) > 0
        assert again.table.all() == [again.noted]
    assert wait_gone(mounted.noted.pid, mounted.noted.started)
    assert again.table.all() == [again.noted]


def test_errors_before_the_mount_answers_reach_the_caller(odd: Odd, tmp_path: Path) -> None:
    with pytest.raises(Failed) as caught:
        odd(tmp_path / "new", told={"fails": True})
    assert (caught.value.kind, caught.value.message) == ("unavailable", "the store cannot be reached")
    assert caught.value.hint == "try later"
    with pytest.raises(Failed) as caught:
        odd(tmp_path / "new", told={"crashes": True})
    assert (caught.value.kind, caught.value.message) == ("internal", "ZeroDivisionError: by test")
    with pytest.raises(Failed) as caught:
        odd(tmp_path / "new", told={"dies": True})
    assert caught.value.message == f"the daemon ended before {tmp_path}/new was mounted"
    with pytest.raises(Failed) as caught:
        odd(tmp_path / "new", subdir="nothing")
    assert (caught.value.kind, caught.value.message) == ("not_found", "the version has no directory nothing")
    with pytest.raises(Failed) as caught:
        odd(tmp_path / "new", fuse_options=["rw"])
    assert caught.value.kind == "invalid_input"
    assert not (tmp_path / "new").exists()


def test_options_are_passed_through_or_named(odd: Odd, tmp_path: Path) -> None:
    mounted = odd(tmp_path / "new", fuse_options=["noexec,noatime", "fsname=mine"])
    found = mounted_at(mounted.directory)
    assert found is not None
    assert found.source == "mine"
    assert os.statvfs(mounted.directory).f_flag & os.ST_NOEXEC
    with pytest.raises(Failed) as caught:
        odd(tmp_path / "other", fuse_options=["nonsense"])
    assert caught.value.kind == "invalid_input"
    assert "nonsense" in caught.value.message
    assert not (tmp_path / "other").exists()


def test_the_state_folder_is_not_mounted_over(mounter: Mounter, odd_version: Made) -> None:
    with pytest.raises(Failed) as caught:
        mounter(odd_version, mounter.folder)
    assert caught.value.kind == "invalid_input"


def test_what_is_no_mount_of_ours_is_not_unmounted(mounter: Mounter, odd: Odd, tmp_path: Path) -> None:
    table = odd().table
    with pytest.raises(NotFound):
        table.umount(tmp_path)
    with pytest.raises(NotFound):
        table.umount(Path("/proc"))
    with pytest.raises(OSError) as caught:
        take_away(tmp_path, lazy=False)
    assert caught.value.errno == errno.EINVAL


_USER_PROGRAM = """
import os, pickle, sys
from pathlib import Path
from dvfs.fs.asking import Asked
from dvfs.fs.mount import mount_daemon
from dvfs.fs.mountinfo import mounted_at
from dvfs.fs.mounts import Mounts
from dvfs.fs.options import MountOptions
from dvfs.store.errors import WrongState

home = Path(sys.argv[1])

def open_version():
    from dvfs.store.cache import Cache
    from tests.fs.made_version import opened
    return opened(pickle.loads((home / "made.pickle").read_bytes()).open(Cache(home / "cache", reserve_bytes=0)))

# Large files would be left to the kernel, which takes none from this user.
mount_daemon(MountOptions(directory=home / "mnt", state_dir=home / "state", large_file_bytes=1), open_version)
print((home / "mnt" / "x").read_text(), (home / "mnt" / "x").stat().st_uid)
print(Asked(Mounts(home / "state"), home / "mnt").figures().daemon.passthrough)
with open(home / "mnt" / "x"):
    try:
        Mounts(home / "state").umount(home / "mnt")
    except WrongState:
        print("busy")
Mounts(home / "state").umount(home / "mnt")
print("gone" if mounted_at(home / "mnt") is None else "still there")
"""


if os.geteuid() == 0:  # any other user has tested it with the rest

    def test_another_user_mounts(public: Mounter, odd_tree: Path) -> None:
        """In a mount namespace of its own, where the device is open to all as udev makes it."""
        made = public.make(odd_tree)
        for path in public.folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        home = public.folder / "home"
        home.mkdir()
        (home / "made.pickle").write_bytes(pickle.dumps(made))
        os.chown(home, 65534, 65534)
        program = public.folder / "program.py"
        program.write_text(_USER_PROGRAM)
        script = (
            'mknod "$1/fuse" c 10 229 && chmod 666 "$1/fuse" && mount --bind "$1/fuse" /dev/fuse && shift &&'
            " exec setpriv --reuid 65534 --regid 65534 --clear-groups"
            # The checkout and the interpreter may lie where only root looks.
            ' --inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"'
        )
        ran = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", public.folder, sys.executable, program, home],
            capture_output=True, text=True, timeout=60, check=False, cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.fspath(Path(__file__).parents[2])},
        )  # fmt: skip
        assert (ran.stdout.splitlines(), ran.stderr, ran.returncode) == (["x 65534", "False", "busy", "gone"], "", 0)
