"""The program as a whole: what it loads, its help, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import pytest

from dvfs import __version__
from dvfs.cli.main import SECTIONS, program
from dvfs.cli.options import Command
from tests.cli.conftest import Program

HEAVY = ["boto3", "botocore", "pyfuse3", "trio", "sqlite3", "zstandard"]


@pytest.mark.parametrize("words", [["--help"], ["mount", "--help"], ["create", "--help"], ["--version"], ["config"]])
def test_nothing_heavy_is_loaded_for_little(dvfs: Program, words: list[str]) -> None:
    code = "; ".join(
        [
            "import json, sys",
            "from dvfs.cli.main import run",
            f"code = run({words!r})",
            f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=dvfs.folder, env=dvfs.environ, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


def test_who_asks_a_mount_loads_nothing_that_mounts(dvfs: Program) -> None:
    code = (
        "import sys, dvfs.fs.asking, dvfs.fs.orders, dvfs.fs.overlay.committing, dvfs.fs.watch; "
        "print([name for name in ('pyfuse3', 'trio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dvfs.environ, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_unreachable_objects_are_first_looked_for_when_many_were_made(dvfs: Program) -> None:
    code = (
        "import gc; from dvfs.cli.main import collect_later; usual = gc.get_threshold(); collect_later(); "
        "runs = []; gc.callbacks.append(lambda phase, info: runs.append(phase)); "
        "kept = [[] for _ in range(40_000)]; before = len(runs); kept += [[] for _ in range(40_000)]; "
        "print(before, len(runs) > 0, gc.get_threshold() == usual, gc.get_freeze_count() > 40_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dvfs.environ, capture_output=True, text=True, check=True)
    assert done.stdout == "0 True True True\n"


def commands() -> dict[str, click.Command]:
    ctx = click.Context(program, info_name="dvfs")
    found = {}
    for name in program.list_commands(ctx):
        command = program.get_command(ctx, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found.update({f"{name} {inner}": item for inner, item in command.commands.items()})
    return found


def test_every_command_is_one_of_ours_and_says_what_it_does() -> None:
    for name, command in commands().items():
        assert isinstance(command, (Command, click.Group)), name
        assert command.help, name
        for param in command.params:
            assert not isinstance(param, click.Option) or param.help, f"{name}: {param.name}"


def test_names_of_commands() -> None:
    named = {name: command.name for name, command in commands().items() if " " not in name}
    assert named == {name: name for name in named} | {"finalize": "close"}


def test_help_lists_all_commands(dvfs: Program) -> None:
    shown = dvfs.ok("--help")
    for section, lines in SECTIONS.items():
        assert f"\n{section}:\n" in shown
        for name, line in lines.items():
            assert any(row.split(None, 1) == [name, line] for row in shown.splitlines()), name
    assert dvfs.ok() == shown
    assert dvfs.ok("-h") == shown


def test_usage_shows_the_dataset_before_options_that_would_swallow_it(dvfs: Program) -> None:
    assert dvfs.ok("add", "--help").splitlines()[0] == "Usage: dvfs add [DATASET] [OPTIONS]"
    assert dvfs.ok("mount", "--help").splitlines()[0] == "Usage: dvfs mount DATASET DIR [OPTIONS]"
    assert dvfs.ok("config", "-h").splitlines()[0] == "Usage: dvfs config [KEY] [VALUE] [OPTIONS]"


def test_as_a_process(dvfs: Program) -> None:
    assert dvfs.process("--version").out == f"dvfs, version {__version__}\n"
    ran = dvfs.process("config", b"not\xe9")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: there is no setting 'not\\udce9'\n")


def test_version(dvfs: Program) -> None:
    assert dvfs.ok("--version") == f"dvfs, version {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["creat"], "error: no such command 'creat'\nhint: `dvfs --help` shows how it is used\n"),
        (["create"], "error: missing option '--name'\nhint: `dvfs create --help` shows how it is used\n"),
        (["search", "--nam", "x"], "error: no such option '--nam'. Did you mean one of: '--name'?\n"),
        (["config", "nothing"], "error: there is no setting 'nothing'\n"),
    ],
)
def test_wrong_words_exit_2(dvfs: Program, words: list[str], message: str) -> None:
    ran = dvfs(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(message.split("Did")[0])


def test_errors_as_json(dvfs: Program) -> None:
    ran = dvfs("config", "nothing", "--json")
    error = json.loads(ran.err)["error"]
    assert (ran.code, ran.out) == (2, "")
    assert (error["kind"], error["exit_code"]) == ("invalid_input", 2)
    assert error["message"] == "there is no setting 'nothing'"
    assert json.loads(dvfs("creat", "--json").err)["error"]["kind"] == "usage"


def test_traceback_only_when_asked_for(dvfs: Program) -> None:
    assert "Traceback" not in dvfs("config", "nothing").err
    for words in (["--debug", "config", "nothing"], ["config", "nothing", "--debug"]):
        ran = dvfs(*words)
        assert ran.code == 2
        assert ran.err.startswith("Traceback (most recent call last):\n")
        assert "\nerror: there is no setting 'nothing'\n" in ran.err


def test_a_reader_that_goes_away_is_no_error_to_talk_about(dvfs: Program) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dvfs", "--help"],
        cwd=dvfs.folder,
        env=dvfs.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait() == 1


def test_an_interrupt_exits_130_though_the_store_does_not_answer(dvfs: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        environ = {
            "DVFS_STORE": "s3://bucket/prefix",
            "DVFS_S3_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "DVFS_S3_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
            "PYTHONWARNINGS": "",  # the connection is left to the end of the process
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "dvfs", "search"],
            cwd=dvfs.folder,
            env=dvfs.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # whoever runs the tests may ignore it
        )
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == ("", "\nerror: interrupted\n")
    assert process.returncode == 130


def test_config_shows_and_sets(dvfs: Program, tmp_path: Path) -> None:
    environ = {"DVFS_STORE": "", "DVFS_CACHE_SIZE": ""}
    assert dvfs("config", "store", "s3://bucket/data", environ=environ).code == 0
    assert dvfs("config", "store", environ=environ).out == "s3://bucket/data\n"
    assert dvfs("config", "store", "--json", environ=environ).json == {
        "key": "store",
        "value": "s3://bucket/data",
        "source": "file",
    }
    assert dvfs("config", "s3.path_style", "on", environ=environ).code == 0
    assert dvfs.ok("config", environ=environ) == (
        f"# file: {tmp_path}/config.toml\n"
        f"# state: {tmp_path}/state\n"
        "store = s3://bucket/data  # file\n"
        f"cache_dir = {tmp_path}/cache  # env\n"
        "provenance = true  # default\n"
        "s3.path_style = true  # file\n"
    )
    assert dvfs("config", "store", "--unset", environ=environ).code == 0
    assert dvfs("config", "store", "--store", "/there").out == "/there\n"
    assert dvfs("--store", "/there", "config", "store").out == "/there\n"
    assert dvfs("--store", "/there", "config", "store", "--store", "/here").out == "/here\n"
    assert dvfs("config", "--unset").code == 2
    assert dvfs("config", "store", "x", "--unset").code == 2
