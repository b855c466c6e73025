"""`dvfs config`: show and set the configuration."""

from __future__ import annotations

import click

from dvfs.cli.config import KEYS, Config, Value, key_named, parsed, write_file
from dvfs.cli.options import Command, common, json_option
from dvfs.cli.output import Json, emit, say, wants_json
from dvfs.cli.session import configuration


@click.command(cls=Command, name="config")
@click.argument("key", required=False)
@click.argument("value", required=False)
@click.option("--unset", is_flag=True, help="Take KEY out of the file.")
@json_option
@common
def command(key: str | None, value: str | None, unset: bool) -> None:
    """Show all settings and where each comes from, show the value of KEY, or set it to VALUE in the file.

    A setting is taken from the command line, else the environment, else the file, else it has its default.
    """
    config = configuration()
    if key is None:
        if unset:
            raise click.UsageError("--unset needs a KEY", click.get_current_context())
        _show_all(config)
    elif value is not None or unset:
        _change(config, key, value, unset)
    else:
        _show(config, key)


def _change(config: Config, name: str, text: str | None, unset: bool) -> None:
    if text is not None and unset:
        raise click.UsageError("a VALUE and --unset exclude each other", click.get_current_context())
    key = key_named(name)
    write_file(config.path, name, None if text is None else parsed(key, text, name))


def _show(config: Config, name: str) -> None:
    setting = config.get(name)
    if wants_json():
        emit({"key": name, "value": setting.value, "source": setting.source})
    elif setting.value is not None:
        say(_written(setting.value))


def _show_all(config: Config) -> None:
    settings = {key.name: config.get(key.name) for key in KEYS}
    if wants_json():
        values: dict[str, Json] = {
            name: {"value": setting.value, "source": setting.source} for name, setting in settings.items()
        }
        emit({"file": str(config.path), "state_dir": str(config.state_dir), "settings": values})
        return
    say(f"# file: {config.path}")
    say(f"# state: {config.state_dir}")
    for name, setting in settings.items():
        if setting.value is not None:
            say(f"{name} = {_written(setting.value)}  # {setting.source}")


def _written(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
