"""Files of the cache that several processes verify once: as long as they are the same files."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from dvfs.store.cache_files import BlockFiles
from dvfs.store.cache_locks import LockFile, Sessions
from dvfs.store.cache_temporary import TemporaryFiles
from dvfs.store.cache_verified import SharedVerified
from dvfs.store.cache_whole import WholeFiles
from dvfs.store.digest import block_digest, seal_of
from dvfs.store.log_once import LogOnce
from tests.store.noise import noise

DATA = noise(5000)
DIGEST = block_digest(DATA)


def files(root: Path, shared: SharedVerified) -> BlockFiles:
    """Return the block files in *root* as another process would have them."""
    sessions = Sessions(root / "sessions", LockFile(root / "lock"))
    log = LogOnce(logging.getLogger(__name__))
    temporary = TemporaryFiles(root, sessions)
    whole = WholeFiles(root, temporary)
    made = BlockFiles(root, temporary, whole, log=log, on_use=lambda row: None, max_open=16)
    made.share_verified(shared)
    return made


def is_verified_at_load(found: BlockFiles, digest: bytes = DIGEST) -> bool:
    """Load the block; its bytes come along if they were read to verify it."""
    loaded = found.load(digest)
    assert loaded is not None
    return loaded[1] is not None


@pytest.mark.parametrize("seals", [False, True])
def test_what_one_process_verified_no_other_does(tmp_path: Path, seals: bool) -> None:
    digest = b"n" * 32 if seals else DIGEST
    shared = SharedVerified()
    writer = files(tmp_path, SharedVerified())
    writer.write(digest, DATA, seal_of(digest, DATA) if seals else b"")
    assert is_verified_at_load(files(tmp_path, shared), digest)
    other = files(tmp_path, shared)
    assert not is_verified_at_load(other, digest)
    assert other.open[digest].size == len(DATA)


def test_what_one_process_wrote_no_other_verifies(tmp_path: Path) -> None:
    shared = SharedVerified()
    files(tmp_path, shared).write(DIGEST, DATA)
    assert not is_verified_at_load(files(tmp_path, shared))
    assert is_verified_at_load(files(tmp_path, SharedVerified()))


def test_a_file_that_was_changed_since_is_verified(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = SharedVerified()
    writer = files(tmp_path, shared)
    writer.write(DIGEST, DATA)
    path = Path(writer.path(DIGEST))
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert files(tmp_path, shared).load(DIGEST) is None
    assert not path.exists()
    assert "is damaged" in caplog.text
    caplog.clear()


def test_a_file_that_one_process_does_not_trust_any_more_is_verified(tmp_path: Path) -> None:
    shared = SharedVerified()
    writer = files(tmp_path, shared)
    writer.write(DIGEST, DATA)
    writer.let_go(DIGEST)
    assert is_verified_at_load(files(tmp_path, shared))


def test_other_processes_see_it_and_few_slots_only_forget() -> None:
    shared = SharedVerified(slots=4)
    identity = (1, 5000, 2, 3, 0)
    pid = os.fork()
    if pid == 0:
        shared.add(DIGEST, identity, 5000)
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert shared.length(DIGEST, identity) == 5000
    assert shared.length(DIGEST, (1, 5000, 2, 4, 0)) is None
    for number in range(100):
        shared.add(noise(32, number), identity, 5000)
    known = [shared.length(noise(32, number), identity) for number in range(100)]
    assert 1 <= sum(length is not None for length in known) <= 4
