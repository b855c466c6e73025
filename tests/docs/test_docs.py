"""The documents say what the program does: the README's example runs, tables equal the code, links resolve."""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dvfs.cli import errors as exits
from dvfs.cli.config import KEYS
from dvfs.cli.main import program
from dvfs.cli.options import Many
from dvfs.cli.origin import RUN_VARIABLES
from dvfs.fs.errno import errno_of
from dvfs.store.errors import DvfsError
from tests.cli.conftest import program as program_in
from tests.docs.pages import ROOT, anchors, code_blocks, code_spans, links, pages, prose, section, sections, table

COMMON = {"--store", "--debug", "-h", "--help"}
GROUPS = {"scan options": "Scan options", "upload options": "Upload options"}
EXAMPLES = {"Shared options": ["add"], "Scan options": ["add", "sync"], "Upload options": ["upload", "sync"]}
"""Commands that have all options of a group."""
SHORT = {"stash": "stash push"}
"""Groups that stand for one of their commands."""
OTHER_VARIABLES = {"DVFS_CONFIG", "DVFS_STATE_DIR"}
DIGEST_CONTEXTS = {f"dvfs 1 {kind}" for kind in ("block", "file", "leaf", "inner", "link", "link block", "cache seal")}
SYSTEM_MESSAGES = {
    "Transport endpoint is not connected": errno.ENOTCONN,
    "Input/output error": errno.EIO,
    "Read-only file system": errno.EROFS,
    "Permission denied": errno.EACCES,
}
NO_MESSAGES = {"dvfs umount", "--version", "EIO", "EROFS"}
LIBRARY_MESSAGES = {"Could not connect to the endpoint URL", "Unable to locate credentials"}

README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs/CONFIGURATION.md").read_text()
COMMANDS = (ROOT / "docs/COMMANDS.md").read_text()
OPTIONS = COMMANDS + "".join(
    (ROOT / f"docs/{page}.md").read_text() for page in ("VERSIONS", "EDITING", "PREFETCH", "STATS")
)
SEMANTICS = (ROOT / "docs/SEMANTICS.md").read_text()
TROUBLESHOOTING = (ROOT / "docs/TROUBLESHOOTING.md").read_text()
CONCURRENCY = (ROOT / "docs/design/concurrency.md").read_text()


def commands() -> dict[str, click.Command]:
    """Return all commands that do something, by their words: `add`, `cache info`."""
    ctx = click.Context(program)
    found: dict[str, click.Command] = {}
    for name in program.list_commands(ctx):
        command = program.get_command(ctx, name)
        assert command is not None
        inner = command.commands if isinstance(command, click.Group) else None
        found |= {name: command} if inner is None else {f"{name} {word}": item for word, item in inner.items()}
    return found


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Return the options of *command* by each of their words."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    # click keeps the option that it makes for the first context of a command.
    help_option = command.get_help_option(command.context_class(command, **command.context_settings))
    return {word: option for option in options for word in [*option.opts, *option.secondary_opts]} | {
        word: help_option or pytest.fail("no --help") for word in ("-h", "--help")
    }


def documented() -> dict[str, set[str]]:
    """Return the words of the options that the pages about commands give each of them."""
    shared = {title: words_in(section(COMMANDS, heading)) for title, heading in GROUPS.items()}
    found: dict[str, set[str]] = {}
    for heading, body in sections(OPTIONS, level=3):
        named = [span.removeprefix("dvfs ") for span in code_spans(heading) if span.startswith("dvfs ")]
        words = words_in(body).union(*(shared[text] for text, _ in links(body) if text in shared))
        found |= {name: words | short_forms(words) for name in named}
    return found


def words_in(body: str) -> set[str]:
    """Return the options in the first column of the tables of *body*, and in its lines `Also: …`."""
    texts = [row[0] for row in table(body)] + re.findall(r"Also: .*", body)
    return {word for text in texts for span in code_spans(text) for word in span.split() if word.startswith("-")}


def short_forms(words: set[str]) -> set[str]:
    """Return the short options that the table of shared options gives beside those long ones."""
    rows = [set(code_spans(row[0])) for row in table(section(COMMANDS, "Shared options"))]
    return {word for row in rows if row & words for word in row if re.fullmatch(r"-\w", word)}


# -- the example


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody new: an empty home, `dvfs` in the path. Mounts left behind are taken away."""
    (tmp_path / "home").mkdir()
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "dvfs"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dvfs "$@"\n')
    script.chmod(0o755)
    environ = {
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C.UTF-8",
    }
    yield environ
    subprocess.run([script, "umount", "--all", "--lazy"], env=environ, check=True, timeout=60)


def test_the_example_of_the_readme_runs(shell: dict[str, str], tmp_path: Path) -> None:
    (script,) = code_blocks(README, "sh")
    (printed,) = code_blocks(README, "text")
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        env=shell,
        cwd=tmp_path / "home",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line in printed.splitlines()] == printed.splitlines()
    assert "Mounted demo/photos@1.0.0 at " + str(tmp_path / "home" / "mnt") in lines
    assert [line.split()[0] for line in lines if line.startswith(("added ", "removed "))] == ["added", "removed"]
    assert lines[-2:] == ["Unmounted mnt", "Unmounted next"]


def test_defaults_are_where_the_documents_say(shell: dict[str, str], tmp_path: Path) -> None:
    shown = subprocess.run(
        ["dvfs", "config"], env=shell, executable=tmp_path / "bin/dvfs", capture_output=True, text=True, check=True
    ).stdout.replace(str(tmp_path / "home"), "~")
    defaults = {row[0]: row[2] for row in table(section(CONFIGURATION, "Where a value comes from"))}
    folders = {row[2]: row[1] for row in table(section(CONFIGURATION, "Files and folders"))}

    assert f"# file: {folders['`DVFS_CONFIG`'].strip('`')}\n" in shown
    assert f"# state: {folders['`DVFS_STATE_DIR`'].strip('`')}\n" in shown
    assert f"store = {defaults['`store`'].strip('`')}  # default\n" in shown
    assert f"cache_dir = {defaults['`cache_dir`'].strip('`')}  # default\n" in shown
    assert folders["`DVFS_CACHE_DIR`"] == defaults["`cache_dir`"]


# -- commands, options, settings


def test_every_command_is_documented_and_no_other() -> None:
    assert set(documented()) == set(commands())


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_is_documented_and_no_other(name: str) -> None:
    assert documented()[name] | COMMON == set(options_of(commands()[name]))


def test_options_before_the_command() -> None:
    body = dict(sections(COMMANDS, level=2))["Options of every command"]
    assert words_in(body) == COMMON
    assert "`--version`" in body
    assert COMMON | {"--version"} == set(options_of(program))


def test_values_of_options_are_documented_as_they_are() -> None:
    """Whether an option takes a value, many or none; what its default and its choices are."""
    for heading, body in sections(OPTIONS, level=3):
        named = [span.removeprefix("dvfs ") for span in code_spans(heading) if span.startswith("dvfs ")]
        named = named or EXAMPLES[heading]
        for row in table(body):
            for span in code_spans(row[0]):
                word, _, value = span.partition(" ")
                for name in named:
                    option = options_of(commands()[name])[word]
                    assert bool(value) is not option.is_flag, f"{name} {word}"
                    assert value.endswith("...") is isinstance(option, Many), f"{name} {word}"
                    assert (row[1] == "required") is option.required, f"{name} {word}"
                    if isinstance(option.default, str) and option.default:
                        assert row[1] == option.default, f"{name} {word}"
                    if isinstance(option.type, click.Choice):
                        assert set(option.type.choices) <= set(code_spans(row[2])), f"{name} {word}"


def test_settings_are_documented_and_no_other() -> None:
    rows = [row[:2] for row in table(section(CONFIGURATION, "Where a value comes from"))]
    assert rows == [[f"`{key.name}`", f"`{key.env}`"] for key in KEYS]


def test_variables_of_runs_are_documented() -> None:
    named = set(code_spans(section(CONFIGURATION, "Files and folders")))
    assert set(RUN_VARIABLES.values()) <= named


def test_every_variable_that_is_documented_has_a_meaning() -> None:
    of_options = {
        f"DVFS_{name}_{option.name}".upper().replace(" ", "_")
        for name, command in commands().items()
        for option in command.params
        if isinstance(option, click.Option) and option.allow_from_autoenv
    }
    known = of_options | OTHER_VARIABLES | {key.env for key in KEYS}
    for page, text in pages().items():
        assert set(re.findall(r"\bDVFS_[A-Z0-9_]+", text)) <= known, page


def test_every_command_line_in_the_documents_can_be_typed() -> None:
    """Of each piece of code that begins with `dvfs`: the command is there, and so are its options."""
    found = 0
    for page, text in pages().items():
        lines = [line.strip() for block in code_blocks(text, "sh") for line in block.splitlines()]
        for line in [*lines, *code_spans(prose(text))]:
            if not line.startswith("dvfs ") or line in DIGEST_CONTEXTS:
                continue
            words = shlex.split(line, comments=True)
            options = {word.partition("=")[0] for word in words if word.startswith("-")}
            name = " ".join(words[1:3]) if " ".join(words[1:3]) in commands() else SHORT.get(words[1], words[1])
            assert name in commands() or name in options, f"{page}: {line}"
            assert options <= set(options_of(commands().get(name, program))), f"{page}: {line}"
            found += 1
    assert found > 20


# -- errors


def error_classes() -> list[type[DvfsError]]:
    kinds: list[type[DvfsError]] = [DvfsError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return kinds


def test_errors_are_documented_with_errno_and_exit_code() -> None:
    rows = {row[0].strip("`"): (row[2].strip("`"), row[3]) for row in table(section(SEMANTICS, "Errors"), nth=0)}
    ours = [kind("x") for kind in error_classes() if kind.__module__ == "dvfs.store.errors"]
    assert rows == {error.kind: (errno.errorcode[errno_of(error)], str(exits.exit_code(error))) for error in ours}


def test_exit_codes_are_documented() -> None:
    rows = {int(row[0]): row[1] for row in table(section(SEMANTICS, "Errors"), nth=1)}
    known = {
        value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int) and name[0] != "_"
    }
    assert set(rows) == known
    for code, meaning in rows.items():
        assert re.search(rf"^ +{code} +{re.escape(meaning)}", exits.__doc__ or "", re.MULTILINE), meaning


def test_answers_of_the_view_are_documented() -> None:
    used = set(re.findall(r"errno\.(E[A-Z]+)", (ROOT / "fs/view.py").read_text()))
    used |= set(re.findall(r"FUSEError\(errno\.(E[A-Z]+)\)", (ROOT / "fs/operations.py").read_text()))
    assert used - {"ENOSYS"} <= set(code_spans(section(SEMANTICS, "The read-only mount")))


def test_messages_in_troubleshooting_are_those_of_the_program() -> None:
    source = "".join(
        path.read_text() for folder in ("cli", "fs", "store") for path in sorted((ROOT / folder).rglob("*.py"))
    )
    source = re.sub(r'"\s*\n\s*f?"', "", source).replace("{device}", "/dev/fuse").replace("`", "")
    for row in table(TROUBLESHOOTING):
        for span in code_spans(row[0]):
            if span in SYSTEM_MESSAGES:
                assert os.strerror(SYSTEM_MESSAGES[span]) == span
            elif span not in LIBRARY_MESSAGES and span not in NO_MESSAGES:
                assert span in source, span


# -- what remove means


def remove_examples() -> list[tuple[str, bool, set[str]]]:
    rows = table(section(SEMANTICS, "Add, remove, sync"))
    return [
        (pattern, recursive, set(code_spans(cell)))
        for row in rows
        for pattern in code_spans(row[0])
        for recursive, cell in ((True, row[1]), (False, row[2]))
    ]


def test_patterns_of_remove_name_what_the_documents_say(tmp_path: Path) -> None:
    dvfs = program_in(tmp_path)
    (dvfs.folder / "tree/sub/deep").mkdir(parents=True)
    for name in ("a.txt", "sub/a.txt", "sub/deep/a.txt"):
        (dvfs.folder / "tree" / name).write_text(name)
    dvfs.ok("sync", "--project", "p", "--name", "n", "--folder", "tree")

    examples = remove_examples()
    assert len(examples) > 10
    for pattern, recursive, removed in examples:
        dvfs.ok("create", "--name", "n", "--parents", "p/n")
        ran = dvfs("remove", "-v", "--files", pattern, *([] if recursive else ["--non-recursive"]))
        assert (ran.code, set(ran.err.split())) == (0, removed), (pattern, recursive)


# -- concurrency


def test_locks_and_threads_are_documented() -> None:
    spans = set(code_spans(CONCURRENCY))
    found = 0
    for path in [path for folder in ("cli", "fs", "store") for path in sorted((ROOT / folder).rglob("*.py"))]:
        owner = ""
        for line in path.read_text().splitlines():
            if match := re.match(r"class (\w+)", line):
                owner = match[1]
            if match := re.search(r"self\.(_\w+) = threading\.(Lock|RLock|Condition)\(", line):
                assert f"{owner}.{match[1]}" in spans, path
                found += 1
            if match := re.search(r'(?:thread_name_prefix|Thread\(.*name)="([\w-]+)"', line):
                assert match[1] in spans, path
                found += 1
    assert found > 15


# -- links


def test_internal_links_resolve() -> None:
    found = 0
    for page, text in pages().items():
        for _, target in links(text):
            if re.match(r"[a-z]+://", target):
                continue
            name, _, anchor = target.partition("#")
            place = (ROOT / page).parent / name if name else ROOT / page
            assert place.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(place.read_text()), f"{page}: {target}"
            found += 1
    assert found > 10


def test_every_document_is_linked_from_the_readme() -> None:
    linked = {os.path.normpath(target.partition("#")[0]) for _, target in links(README)}
    assert {str(page) for page in pages()} - {"README.md"} <= linked


def test_pages_are_short_enough_to_read() -> None:
    for page, text in pages().items():
        assert text.count("\n") <= 260, page
