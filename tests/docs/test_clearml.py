"""The pages for those who come from ClearML Data say of each of its words what dvfs takes; the example runs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dvfs import Dataset
from tests.docs.clearml_reference import COMMANDS, METHODS, PROPERTIES, REQUIRED
from tests.docs.pages import ROOT, code_blocks, code_spans, section, table
from tests.docs.test_docs import commands, options_of
from tests.python.conftest import settings

VERDICTS = {"same", "changed", "absent", "added"}

LINE = (ROOT / "docs/CLEARML.md").read_text()
CLASS = (ROOT / "docs/CLEARML-PYTHON.md").read_text()
PYTHON = (ROOT / "docs/PYTHON.md").read_text()

Rows = dict[tuple[str, str], tuple[str, str]]
"""Command or method, and flag or argument ("" for the thing itself) → verdict and why."""


def rows(text: str, heading: str) -> Rows:
    found: Rows = {}
    thing = ""
    for cells in table(section(text, heading)):
        thing = (code_spans(cells[0]) or [thing])[0]
        word = (code_spans(cells[1]) or [""])[0]
        assert (thing, word) not in found
        found[thing, word] = cells[2], cells[3]
    return found


def properties() -> dict[str, tuple[str, str]]:
    return {code_spans(name)[0]: (verdict, why) for name, verdict, why in table(section(CLASS, "Properties"))}


def method(name: str) -> inspect.Signature:
    """Return the signature of a method of `Dataset`, without self or cls."""
    bound = inspect.signature(getattr(Dataset, name))
    parameters = [parameter for parameter in bound.parameters.values() if parameter.name != "self"]
    return bound.replace(parameters=parameters)


def test_verdicts_are_the_four_and_say_why() -> None:
    for found in (rows(LINE, "Commands"), rows(CLASS, "Methods"), properties()):
        for thing, (verdict, why) in found.items():
            assert verdict in VERDICTS, thing
            assert why or verdict == "same", thing


# --- commands


def test_every_command_and_flag_of_clearml_has_its_line() -> None:
    expected = {(command, flag) for command, flags in COMMANDS.items() for flag in ["", *flags]}
    assert set(rows(LINE, "Commands")) == expected


def test_flags_are_taken_as_the_page_says() -> None:
    ours = commands()
    for (command, flag), (verdict, _) in rows(LINE, "Commands").items():
        there = command in ours and (not flag or flag in options_of(ours[command]))
        assert there is (verdict != "absent"), f"{command} {flag}"


def test_what_clearml_requires_no_more_is_required_here() -> None:
    required = {
        (name, word)
        for name, command in commands().items()
        if name in COMMANDS
        for word, option in options_of(command).items()
        if option.required and word.startswith("--")
    }
    assert required <= {(command, flag) for command, flags in COMMANDS.items() for flag in flags}


# --- the class


def test_every_method_and_argument_of_clearml_has_its_line_and_ours_too() -> None:
    expected = {(name, argument) for name, arguments in METHODS.items() for argument in ["", *arguments]}
    found = rows(CLASS, "Methods")
    assert {thing for thing, (verdict, _) in found.items() if verdict != "added"} == expected | {("get", "kwargs")}
    ours = {name for name in dir(Dataset) if not name.startswith("_") and callable(getattr(Dataset, name))}
    ours -= {"surroundings"}
    assert ours == {name for (name, argument), (verdict, _) in found.items() if not argument and verdict != "absent"}
    for name in ours:
        arguments = {argument for (of, argument), (verdict, _) in found.items() if of == name and verdict != "absent"}
        assert arguments - {""} == set(method(name).parameters), name


def test_arguments_are_taken_in_their_places_with_their_defaults() -> None:
    for (name, argument), (verdict, _) in rows(CLASS, "Methods").items():
        if not argument or verdict == "absent":
            continue
        parameter = method(name).parameters[argument]
        if verdict == "added":
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, f"{name} {argument}"
            continue
        arguments = METHODS[name]
        assert list(method(name).parameters).index(argument) == list(arguments).index(argument), f"{name} {argument}"
        default = REQUIRED if parameter.default is inspect.Parameter.empty else parameter.default
        assert default == arguments[argument], f"{name} {argument}"


def test_properties_are_those_of_the_page() -> None:
    found = properties()
    assert {name for name, (verdict, _) in found.items() if verdict != "added"} == set(PROPERTIES)
    ours = {name for name, value in inspect.getmembers(Dataset) if isinstance(value, property) and name[0] != "_"}
    assert ours == set(found)
    assert inspect.getattr_static(Dataset, "tags").fset is not None


def test_every_method_says_what_it_does() -> None:
    for name, value in inspect.getmembers(Dataset):
        assert name[0] == "_" or name == "surroundings" or inspect.getdoc(value), name


# --- the example


def test_the_example_in_python_runs(tmp_path: Path) -> None:
    (script,) = code_blocks(PYTHON, "python")
    (printed,) = code_blocks(PYTHON, "text")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        env=settings(tmp_path) | {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", printed)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_words_of_ours_are_given_by_name_only(name: str) -> None:
    if not hasattr(Dataset, name):
        return
    positional = [item.name for item in method(name).parameters.values() if item.kind is not item.KEYWORD_ONLY]
    assert positional == [argument for argument in METHODS[name] if argument != "kwargs"]
