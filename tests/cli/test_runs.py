"""Provenance: which runs made and read a version, and that noting it harms nothing."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dvfs.cli.origin import runs as runs_in
from dvfs.cli.provenance import Notes
from dvfs.store import runs
from dvfs.store.backend import Backend
from dvfs.store.errors import Corrupt, Unavailable
from dvfs.store.ids import VersionId
from dvfs.store.metrics import Metered
from dvfs.store.record import Origin
from tests.cli.conftest import Program, tree
from tests.memory_backend import MemoryBackend

VERSION = VersionId("a" * 32)
JOB = {"SLURM_JOB_ID": "17", "WANDB_RUN_ID": "w1", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "pod-1"}


def listed(dvfs: Program, *words: str) -> Any:
    return json.loads(dvfs.ok("runs", *words, "--json"))


def done(dvfs: Program, *words: str) -> list[str]:
    """Return what runs did, the newest first."""
    return [run["did"] for run in listed(dvfs, *words)]


def waited(dvfs: Program, count: int) -> Any:
    """Return the runs once there are *count*: a daemon notes itself when its mount is there already."""
    for _ in range(200):
        found = listed(dvfs)
        if len(found) >= count:
            break
        time.sleep(0.05)
    return found


@pytest.fixture
def version(dvfs_anywhere: Program) -> Iterator[str]:
    """The id of p/d@1.0.0, in use, in a store of each kind. What is mounted at the end is taken away."""
    dvfs = dvfs_anywhere
    made = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    dvfs.ok("add", "--files", tree(dvfs.folder / "source"))
    dvfs.ok("close", environ=JOB)
    yield made
    assert dvfs("umount", "--all", "--lazy").code == 0


def test_who_makes_and_reads_a_version_is_listed_newest_first(dvfs_anywhere: Program, version: str) -> None:
    dvfs = dvfs_anywhere
    dvfs.ok("get", "--copy", "copy", environ={"CLEARML_TASK_ID": "t1"})
    assert dvfs.process("mount", version, "mnt", "--quiet").code == 0
    found = waited(dvfs, 3)

    assert [run["did"] for run in found] == ["mounted", "get", "made"]
    assert [run["command"] for run in found] == [
        f"dvfs mount {version} mnt --quiet",
        "dvfs get --copy copy",
        "dvfs close",
    ]
    assert [run["runs"] for run in found] == [
        {},
        {"clearml": "t1"},
        {"slurm": "17", "wandb": "w1", "kubernetes": "pod-1"},
    ]
    assert {run["host"] for run in found} == {os.uname().nodename}
    assert all(run["user"] and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", run["time"]) for run in found)
    assert done(dvfs, "p/d@1.0.0", "--limit", "2") == ["mounted", "get"]
    lines = dvfs.ok("runs", version).splitlines()
    assert len(lines) == 5
    assert lines[-1].endswith("| kubernetes pod-1, slurm 17, wandb w1 | dvfs close")


def test_a_commit_a_sync_and_a_squash_make_versions(dvfs: Program) -> None:
    source = tree(dvfs.folder / "source")
    dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", source)
    assert done(dvfs) == ["made"]
    dvfs.ok("squash", "--name", "s", "--ids", "p/d")
    assert done(dvfs, "p/s") == ["made"]
    try:
        assert dvfs.process("mount", "--rw", "p/d", "mnt").code == 0
        (dvfs.folder / "mnt/new").write_text("new")
        assert dvfs.process("commit", "mnt").code == 0
        assert done(dvfs) == ["made"]
        assert done(dvfs, "p/d@1.0.1") == ["made"]
        assert done(dvfs, "p/d@1.0.0") == ["mounted", "made"]
    finally:
        dvfs("umount", "--all", "--lazy")


def test_an_open_version_has_no_run_yet(dvfs: Program) -> None:
    dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", tree(dvfs.folder / "source"), "--skip-close")
    assert done(dvfs) == []
    assert len(dvfs.ok("runs").splitlines()) == 2


@pytest.mark.parametrize("way", ["environment", "file"])
def test_one_setting_switches_it_off(dvfs: Program, tmp_path: Path, way: str) -> None:
    if way == "file":
        dvfs.ok("config", "provenance", "false")
    else:
        dvfs.environ["DVFS_PROVENANCE"] = "false"
    made = dvfs.ok("create", "--project", "p", "--name", "d", "-q").strip()
    dvfs.ok("add", "--files", tree(dvfs.folder / "source"))
    dvfs.ok("close")
    dvfs.ok("get", "--copy", "copy")
    assert dvfs.process("mount", made, "mnt").code == 0
    dvfs.ok("umount", "mnt")
    assert done(dvfs) == []
    assert not (tmp_path / "store/runs").exists()


def test_a_setting_that_makes_no_sense_is_told_before_anything_is_done(dvfs: Program) -> None:
    ran = dvfs("create", "--project", "p", "--name", "d", environ={"DVFS_PROVENANCE": "perhaps"})
    assert ran.code == 2
    assert "DVFS_PROVENANCE" in ran.err
    assert dvfs("search", "--not-only-completed", "--json").json == []


def test_credentials_that_may_only_read_are_no_obstacle(dvfs: Program, s3_url: str) -> None:
    dvfs.environ |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    dvfs.environ["DVFS_STORE"] = s3_url
    dvfs.ok("sync", "--project", "p", "--name", "d", "--folder", tree(dvfs.folder / "source"))
    dvfs.environ |= {"AWS_PROFILE": "reader", "DVFS_CACHE_DIR": str(dvfs.folder / "cache-of-reader")}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        dvfs.environ.pop(name, None)
    try:
        dvfs.ok("get", "--copy", "copy")
        ran = dvfs.process("mount", "p/d", "mnt", "--json")
        assert (ran.code, ran.err) == (0, "")
        assert (dvfs.folder / "mnt/a.txt").read_text() == "alpha\n"
        log = Path(ran.json["log"])
        for _ in range(200):
            if "not noted" in log.read_text():
                break
            time.sleep(0.05)
        (line,) = [line for line in log.read_text().splitlines() if "not noted" in line]
        assert " INFO dvfs.cli.provenance: not noted beside " in line
        assert done(dvfs) == ["made"]
    finally:
        dvfs("umount", "--all", "--lazy")


def test_kubernetes_tells_the_pod() -> None:
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "h"}
    assert runs_in({"HOSTNAME": "h"}) == {}
    assert runs_in(inside) == {"kubernetes": "h"}
    assert runs_in(inside | {"POD_NAME": "p", "POD_NAMESPACE": "n"}) == {"kubernetes": "n/p"}


# -- without a program


class Hanging(MemoryBackend):
    """A store that does not answer until *over* is set, and then has no answer."""

    def __init__(self, *, is_over: bool = False) -> None:
        super().__init__()
        self.over = threading.Event()
        if is_over:
            self.over.set()

    def put_if_absent(self, key: str, data: object) -> str:
        self.over.wait(60)
        raise Unavailable("no answer")


def test_nobody_waits_for_a_store_that_hangs(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO)
    notes = Notes(["train.py"])
    backend = Hanging()
    notes.note(backend, VERSION, "get", tmp_path)
    notes.wait(0.1)
    assert [(record.levelname, "not written" in record.getMessage()) for record in caplog.records] == [("INFO", True)]
    backend.over.set()
    for _ in range(500):
        if len(caplog.records) == 2:
            break
        time.sleep(0.01)
    assert caplog.records[1].getMessage() == f"not noted beside {VERSION} (get): no answer"


def test_noting_is_one_request_and_a_failure_one_line(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO)
    backend = Metered(MemoryBackend())
    notes = Notes(["train.py", "--lr", "1 e"])
    notes.note(backend, VERSION, "Dataset", tmp_path)
    notes.wait(60)
    assert backend.counts.requests == 1
    (run,) = runs.noted(backend, VERSION)
    assert (run.did, run.origin.command, run.origin.commit) == ("Dataset", "train.py --lr '1 e'", "")
    assert caplog.records == []

    notes.note(Hanging(is_over=True), VERSION, "Dataset", tmp_path)
    notes.wait(60)
    assert [record.getMessage() for record in caplog.records] == [f"not noted beside {VERSION} (Dataset): no answer"]


def test_long_commands_are_cut_and_runs_of_other_versions_left_alone() -> None:
    backend = MemoryBackend()
    for number, version in enumerate([VERSION, VERSION, VersionId("b" * 32)]):
        origin = Origin(command="x" * 10_000, host=str(number))
        runs.note(backend, version, runs.Run("made", number, "me", origin))
    found = runs.noted(backend, VERSION)
    assert [(run.time_ns, run.origin.host, len(run.origin.command)) for run in found] == [
        (1, "1", runs.COMMAND_LENGTH),
        (0, "0", runs.COMMAND_LENGTH),
    ]


@pytest.mark.parametrize("damaged", [b"", b"\xff", b"[]", b"{}", b'{"format": 2}', b"[" * 100_000])
def test_what_is_no_note_is_left_out_with_a_warning(damaged: bytes, caplog: pytest.LogCaptureFixture) -> None:
    backend: Backend = MemoryBackend()
    runs.note(backend, VERSION, runs.Run("made", 5, "me", Origin()))
    backend.put_if_absent(f"runs/{VERSION}/{9:020d}-{'0' * 16}", damaged)
    with pytest.raises(Corrupt):
        runs.decode(damaged)
    assert [run.time_ns for run in runs.noted(backend, VERSION)] == [5]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
