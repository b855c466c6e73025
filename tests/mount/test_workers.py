"""Several processes that answer the requests of one mount: none of them needs the others, and one plan fetches ahead.

Which process answers is not left to chance: the others are stopped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from dvfs.fs.mountinfo import mounted_at
from dvfs.fs.mountpoint import take_away
from dvfs.fs.mounts import started_at, wait_gone
from dvfs.fs.orders import hand_in, inodes_of
from tests.fs.made_version import Made
from tests.mount.conftest import Mounted, Mounter
from tests.mount_kit import FILE_BYTES, NONE_IS_LARGE, figures, files_of_20_kb, read_in_order
from tests.store.noise import noise
from tests.store_kit import SMALL_CUTTING, tree_of
from tests.waiting import wait_until

FILES = 120
WORKERS = 3
LOOKS = 50
"""Of a worker that was woken so often there is no answer to come."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return files_of_20_kb(tmp_path / "source", FILES)


@pytest.fixture
def made(mounter: Mounter, source: Path) -> Made:
    return mounter.make(source, cutting=SMALL_CUTTING, pack_bytes=256 << 10, tail_bytes=0)


class Team:
    """The processes of a mount: *leader*, and *others*, each with the time at which it began."""

    def __init__(self, mounted: Mounted, others: int) -> None:
        self.leader = mounted.pid
        wait_until(lambda: len(mounted.log_lines("INFO dvfs.fs.worker: a worker takes requests")) == others)
        self.others = {pid: started_at(pid) for pid in _children(self.leader)}
        assert len(self.others) == others

    def wait_gone(self) -> bool:
        return all(wait_gone(pid, started) for pid, started in self.others.items())

    @contextmanager
    def only(self, pid: int) -> Iterator[None]:
        """Let the process *pid* alone answer."""
        stopped = [other for other in (self.leader, *self.others) if other != pid]
        for other in stopped:
            os.kill(other, signal.SIGSTOP)
        try:
            for other in stopped:
                wait_until(lambda other=other: _state(other) == "T")  # type: ignore[misc]
            yield
        finally:
            for other in stopped:
                os.kill(other, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _threads(pid: int) -> list[str]:
    return [name.read_text() for name in Path(f"/proc/{pid}/task").glob("*/comm")]


def _read_all(mounted: Mounted, source: Path, threads: int = 16) -> None:
    """Read all files with some threads, and compare them with their sources."""
    paths = sorted(path.relative_to(source) for path in source.glob("*/*"))
    with ThreadPoolExecutor(threads) as pool:
        for path, data in zip(
            paths, pool.map(lambda path: (mounted.directory / path).read_bytes(), paths), strict=True
        ):
            assert data == (source / path).read_bytes(), path


def _reads_in_log(mounted: Mounted) -> list[int]:
    lines = [line for line in mounted.log_lines("INFO") if "requests served" in line]
    return [int(found[1]) if (found := re.search(r"\bread (\d+)", line)) else 0 for line in lines]


def test_every_byte_is_right_whoever_answers(mounter: Mounter, made: Made, source: Path) -> None:
    mounted = mounter(made, workers=WORKERS)
    team = Team(mounted, WORKERS - 1)
    _read_all(mounted, source)
    answerers = [team.leader, *team.others]
    for number, pid in enumerate(answerers):
        with team.only(pid):
            for at in range(number, FILES, 7 * WORKERS):
                path = mounted.directory / f"d{at // 10:02}" / f"f{at:03}"
                handle = os.open(path, os.O_RDONLY)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(handle, FILE_BYTES, 0) == noise(FILE_BYTES, at)
                os.close(handle)
    before = figures(mounted)
    assert before.daemon.workers == WORKERS
    mounted.umount()
    assert team.wait_gone()
    reads = _reads_in_log(mounted)
    assert len(reads) == WORKERS
    assert min(reads) > 0
    assert sum(reads) == before.reads.count == before.requests["read"]


def test_figures_are_those_of_all(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made, workers=WORKERS)
    team = Team(mounted, WORKERS - 1)
    for number, pid in enumerate([team.leader, *team.others]):
        with team.only(pid):
            (mounted.directory / f"d0{number}" / f"f0{number}0").read_bytes()
    found = figures(mounted)
    assert found.reads.bytes == WORKERS * FILE_BYTES
    assert found.reads.waited == found.reads.latencies.count >= WORKERS
    assert found.waits.count >= WORKERS
    assert found.store.bytes >= WORKERS * FILE_BYTES
    assert found.cache.version_bytes == FILES * FILE_BYTES

    worker = next(iter(team.others))
    os.kill(worker, signal.SIGSTOP)
    try:
        late = figures(mounted)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert late.daemon.workers == WORKERS - 1
    assert late.reads == found.reads


def test_each_block_is_fetched_once(mounter: Mounter, tmp_path: Path) -> None:
    source = tmp_path / "longer"
    (source / "d").mkdir(parents=True)
    for number in range(FILES):
        (source / "d" / f"f{number:03}").write_bytes(noise(2 * FILE_BYTES, number))
    made = mounter.make(source, cutting=SMALL_CUTTING, pack_bytes=256 << 10, tail_bytes=0)
    mounted = mounter(made, workers=WORKERS, prefetch="auto", told={"delay_seconds": 0.005})
    Team(mounted, WORKERS - 1)
    _read_all(mounted, source)
    size = FILES * 2 * FILE_BYTES
    # The pages of the catalog are counted too. What lies between two blocks of one request is not, as it is not used.
    assert size <= figures(mounted).store.raw_bytes < size + 3 * 2 * FILE_BYTES


def test_names_are_right(mounter: Mounter, odd_version: Made, odd_tree: Path) -> None:
    mounted = mounter(odd_version, workers=WORKERS)
    team = Team(mounted, WORKERS - 1)
    for pid in team.others:
        with team.only(pid):
            assert tree_of(mounted.directory) == tree_of(odd_tree)


def _of_a_large_file_that_is_cached(mounter: Mounter, tmp_path: Path, workers: int) -> tuple[Mounted, bytes]:
    """Return a mount with *workers*, and what is in its file `large`."""
    source = tmp_path / "source"
    source.mkdir()
    data = noise(64 << 20)
    (source / "large").write_bytes(data)
    made = mounter.make(source)
    first = mounter(made)
    assert (first.directory / "large").read_bytes() == data
    first.umount()
    mounted = mounter(made, workers=workers, prefetch="auto", large_file_bytes=NONE_IS_LARGE)
    return mounted, data


def test_a_large_file_in_order_comes_from_stretches(mounter: Mounter, tmp_path: Path) -> None:
    mounted, data = _of_a_large_file_that_is_cached(mounter, tmp_path, WORKERS)
    Team(mounted, WORKERS - 1)
    assert read_in_order(mounted.directory / "large") == data
    reads = figures(mounted).reads
    assert reads.from_stretches > 10


def test_workers_leave_a_large_file_in_order_to_the_leader(mounter: Mounter, tmp_path: Path) -> None:
    mounted, data = _of_a_large_file_that_is_cached(mounter, tmp_path, 2)
    team = Team(mounted, 1)
    (worker,) = team.others
    length = 1 << 20
    with (mounted.directory / "large").open("rb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is under way when the leader is stopped
        for start in range(0, len(data), length):
            with team.only(worker):
                before = _waits_of(worker)
                reading = pool.submit(os.pread, file.fileno(), length, start)
                wait_until(lambda: reading.done() or _waits_of(worker) > before + LOOKS)  # noqa: B023
                is_left = not reading.done()
            assert reading.result(30) == data[start : start + length]
            if is_left:
                return
            figures(mounted)  # once it has answered, the leader knows what was read
    pytest.fail("a worker went on to answer")


def _waits_of(pid: int) -> int:
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_what_a_killed_worker_was_at_is_done_by_the_others(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made, workers=2)
    mounted.is_noisy = True
    team = Team(mounted, 1)
    (worker,) = team.others
    path = mounted.directory / "d03" / "f033"
    path.stat()
    with ThreadPoolExecutor(1) as pool:
        with team.only(worker):
            mounted.hanging.touch()
            reading: Future[object] = pool.submit(_outcome, path)
            wait_until(lambda: "dvfs:hangs\n" in _threads(worker))
            os.kill(worker, signal.SIGKILL)
            assert team.wait_gone()
            mounted.hanging.unlink()
        assert reading.result(30) in (noise(FILE_BYTES, 33), errno.ECONNABORTED)
    wait_until(lambda: any("a worker ended (-9)" in line for line in mounted.log_lines("WARNING")))
    assert path.read_bytes() == noise(FILE_BYTES, 33)
    assert figures(mounted).daemon.workers == 1
    assert _children(team.leader) == []


def _outcome(path: Path) -> bytes | int | None:
    try:
        return path.read_bytes()
    except OSError as exc:
        return exc.errno


def test_workers_end_with_their_killed_leader(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made, workers=WORKERS)
    team = Team(mounted, WORKERS - 1)
    (mounted.directory / "d00" / "f000").read_bytes()
    mounted.kill()
    assert team.wait_gone()
    with pytest.raises(OSError, match="not connected") as raised:
        os.listdir(mounted.directory)
    assert raised.value.errno == errno.ENOTCONN
    take_away(mounted.directory, lazy=True)


def test_workers_end_by_sigterm_while_a_file_is_open_and_the_store_hangs(mounter: Mounter, made: Made) -> None:
    mounted = mounter(made, workers=2)
    mounted.is_noisy = True
    team = Team(mounted, 1)
    (worker,) = team.others
    handle = os.open(mounted.directory / "d00" / "f000", os.O_RDONLY)
    with ThreadPoolExecutor(1) as pool:
        with team.only(worker):
            mounted.hanging.touch()
            reading = pool.submit(_outcome, mounted.directory / "d07" / "f070")
            wait_until(lambda: "dvfs:hangs\n" in _threads(worker))
        os.kill(mounted.pid, signal.SIGTERM)
        assert wait_gone(mounted.noted.pid, mounted.noted.started)
        assert team.wait_gone()
        assert isinstance(reading.result(30), int)
    assert not any("killed" in line for line in mounted.log_lines("WARNING"))
    with contextlib.suppress(OSError):
        os.close(handle)
    assert mounted_at(mounted.directory) is None


def test_an_order_is_followed_whoever_answers(mounter: Mounter, made: Made) -> None:
    window = 4 * FILE_BYTES
    mounted = mounter(made, workers=2, prefetch="none", told={"budget_bytes": 4 * window})
    team = Team(mounted, 1)
    (worker,) = team.others
    paths = sorted(path for path in mounted.directory.glob("*/*"))
    found = mounted_at(mounted.directory)
    assert found is not None
    inodes = inodes_of(paths, os.stat(mounted.directory).st_dev)
    assert hand_in(mounted.table.control_folder(mounted.directory, mounted.pid), inodes) == FILES
    wait_until(lambda: figures(mounted).store.ahead_bytes >= FILE_BYTES)
    wanted_ahead = 3 * window
    for number, path in enumerate(paths):
        with team.only(worker):
            assert path.read_bytes() == noise(FILE_BYTES, number)
        if figures(mounted).store.ahead_bytes > wanted_ahead:
            return
    pytest.fail("what a worker read was not taken note of")


def test_what_takes_edits_has_no_workers(mounter: Mounter, made: Made) -> None:
    mounted = mounter.rw(made, workers=WORKERS)
    assert _children(mounted.pid) == []
    assert figures(mounted).daemon.workers == 1
