"""Options that take several words, sizes, and the dataset as argument or `--id`."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from dvfs.cli.options import (
    Command,
    Invocation,
    Many,
    common,
    dataset_option,
    local_path,
    parse_size,
    spelled_out,
    text,
)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--files", "a", "b"], ["--files", "a", "--files", "b"]),
        (["--files", "a", "--files", "b", "c"], ["--files", "a", "--files", "b", "--files", "c"]),
        (["--files=a", "b", "-v"], ["--files=a", "--files", "b", "-v"]),
        (["x", "--files", "a", "--other", "1", "y"], ["x", "--files", "a", "--other", "1", "y"]),
        (["--files", "-", "b"], ["--files", "-", "--files", "b"]),
        (["--files", "a", "--", "b", "--files"], ["--files", "a", "--", "b", "--files"]),
        (["--files"], ["--files"]),
        ([], []),
    ],
)
def test_further_words_of_a_greedy_option_are_spelled_out(args: list[str], expected: list[str]) -> None:
    assert spelled_out(args, {"--files"}) == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("2K", 2048), ("1.5 KiB", 1536), ("500M", 500 << 20), ("10GiB", 10 << 30), ("3tb", 3 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1X", "1 2", "GiB", "1e3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_size(text)
    assert str(caught.value) == f"{text!r} is not a size; write 500M, 10GiB or a number of bytes"


@click.command(cls=Command, name="probe", context_settings={"auto_envvar_prefix": "PROBE"})
@dataset_option
@click.option("--files", cls=Many, type=local_path)
@click.option("--text", type=text)
@common
def probe(dataset: str | None, files: tuple[str, ...], text: str | None) -> None:
    told = click.get_current_context().find_object(Invocation)
    click.echo(f"{dataset} {files} {text} {told.store if told else None}")


@pytest.mark.parametrize(
    ("args", "environ", "expected"),
    [
        ([], {}, "None () None None\n"),
        (["D"], {}, "D () None None\n"),
        (["--id", "D"], {}, "D () None None\n"),
        (["D", "--id", "D"], {}, "D () None None\n"),
        (["D", "--files", "a", "b"], {}, "D ('a', 'b') None None\n"),
        (["--files", "~/a", "--store", "s"], {"HOME": "/h"}, "None ('/h/a',) None s\n"),
        ([], {"PROBE_ID": "E"}, "E () None None\n"),
        (["D"], {"PROBE_ID": "E"}, "D () None None\n"),
        ([], {"PROBE_TEXT": "t", "PROBE_STORE": "no"}, "None () t None\n"),
    ],
)
def test_words_and_environment(args: list[str], environ: dict[str, str], expected: str) -> None:
    result = CliRunner(env=environ).invoke(probe, args)
    assert (result.exit_code, result.output) == (0, expected)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["D", "--id", "E"], "two datasets are named: D and --id E"),
        (["--text", "\udcff"], "Invalid value for '--text': it is not UTF-8"),
        (["D", "E"], "Got unexpected extra argument (E)"),
    ],
)
def test_wrong_words(args: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        probe.main(args, standalone_mode=False)
    assert caught.value.format_message() == message
