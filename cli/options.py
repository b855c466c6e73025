"""The shape that all commands share: their class, the options that most have, and the words given before them.

`Many` is an option that takes all the words up to the next option, as ClearML's do: `--files a b c`
is `--files a --files b --files c`. A word that starts with a dash is given as `--files=-x`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., object])

HELP_NAMES = {"help_option_names": ["-h", "--help"]}


@dataclass(slots=True)
class Invocation:
    """What was said before or after the name of the command and holds for any command."""

    store: str | None = None
    debug: bool = False
    json: bool = False
    quiet: bool = False


def invocation() -> Invocation:
    """Return the invocation of the command that runs now."""
    return click.get_current_context().ensure_object(Invocation)


class Many(click.Option):
    """An option of any number of values that takes all words up to the next option."""

    def __init__(self, param_decls: list[str], **attributes: Any) -> None:
        super().__init__(param_decls, multiple=True, **attributes)


class Command(click.Command):
    """A command that knows `Many` options and `-h`."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        attributes["context_settings"] = HELP_NAMES | attributes.get("context_settings", {})
        super().__init__(name, **attributes)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Show arguments before options: after a `Many` option they would be taken for its values."""
        options, *arguments = super().collect_usage_pieces(ctx)
        return [*arguments, options]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spell out the values of `Many` options, then parse as click does."""
        greedy = {word for param in self.params if isinstance(param, Many) for word in param.opts}
        return super().parse_args(ctx, spelled_out(args, greedy))


def spelled_out(args: list[str], greedy: set[str]) -> list[str]:
    """Return *args* with each further value of a *greedy* option preceded by that option."""
    out: list[str] = []
    option: str | None = None
    taken = 0
    for index, word in enumerate(args):
        if word == "--":
            return out + args[index:]
        if word.startswith("-") and word != "-":
            head, has_value, _ = word.partition("=")
            option = head if head in greedy else None
            taken = 1 if has_value else 0
            out.append(word)
        elif option is not None and taken:
            out += [option, word]
        else:
            out.append(word)
            taken += option is not None
    return out


def text(value: str) -> str:
    """Return *value* if a record can hold it: it must be UTF-8, as file names need not be. Raises BadParameter."""
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise click.BadParameter("it is not UTF-8") from exc
    return value


def local_path(value: str) -> str:
    """Return *value*, a local path, with a leading `~` that the shell left alone replaced by the user's home."""
    return os.path.expanduser(value)


def place(value: str) -> str:
    """Return *value*, a URL or the path of a local folder, as a URL or an absolute path."""
    return value if not value or "://" in value else os.path.abspath(local_path(value))


def _parsed(parse: Callable[[str | int], int], value: str | int) -> int:
    """Return what *parse* makes of *value*. Raises BadParameter where it raises ValueError."""
    try:
        return parse(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def size(value: str | int) -> int:
    """Return the bytes that *value* names. Raises BadParameter."""
    return _parsed(parse_size, value)


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)


def parse_size(value: str | int) -> int:
    """Return the bytes that *value* names. Raises ValueError."""
    if isinstance(value, int):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size; write 500M, 10GiB or a number of bytes")
    return int(float(match[1]) * 1024 ** " KMGTP".index(match[2].upper() or " "))


_MOST_WORKERS = 64


def workers(value: str | int) -> int:
    """Return the number of processes that *value* names, 0 for `auto`. Raises BadParameter."""
    return _parsed(parse_workers, value)


def parse_workers(value: str | int) -> int:
    """Return the number of processes that *value* names, 0 for `auto`. Raises ValueError."""
    text = str(value)
    number = 0 if text == "auto" else int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= number <= _MOST_WORKERS:
        raise ValueError(f"{text!r} is neither a number up to {_MOST_WORKERS} nor `auto`")
    return number


def common(function: F) -> F:
    """Add what every command takes: `--store`, `--debug`."""
    debug = click.option(
        "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
    )
    store = click.option(
        "--store",
        metavar="URL",
        expose_value=False,
        callback=_set_store,
        allow_from_autoenv=False,
        help="The store: a folder, or file:///, s3://, gs:// or azure:// with bucket/prefix.  [env var: DVFS_STORE]",
    )
    return store(debug(function))


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Invocation).debug |= value


def _set_store(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Invocation).store = value


def json_option(function: F) -> F:
    """Add `--json`, which the command asks `invocation()` for."""
    return click.option(
        "--json", is_flag=True, expose_value=False, callback=_set_json, help="Write JSON, for machines."
    )(function)


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Invocation).json |= value


def quiet_option(text: str = "Say nothing but errors.") -> Callable[[F], F]:
    """Return a decorator that adds `-q/--quiet`, which the command asks `invocation()` for."""

    def decorate(function: F) -> F:
        return click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_set_quiet, help=text)(function)

    return decorate


def _set_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Invocation).quiet |= value


def verbose_option(function: F) -> F:
    """Add `--verbose`: each path."""
    return click.option("-v", "--verbose", is_flag=True, help="Print each path.")(function)


def yes_option(function: F) -> F:
    """Add `--yes`: what would be asked is answered."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)


def dataset_option(function: F) -> F:
    """Add the dataset, as first argument or as `--id`; the command gets it as *dataset*, None if not given."""
    return click.argument("dataset", required=False, callback=_either)(id_option(function))


def id_option(function: F) -> F:
    """Add `--id`, for a command that takes more words than the dataset; it asks `dataset_and_words`."""
    return click.option(
        "--id",
        metavar="DATASET",
        expose_value=False,
        is_eager=True,
        callback=_keep_id,
        help="The dataset: id, unique start of an id, project/name, project/name@version or tag:TAG."
        "  [default: the one in use]",
    )(function)


def dataset_and_words(words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the dataset that `--id` gives and all *words*, or the first of them and the others; None if not given."""
    ctx = click.get_current_context()
    option, source = _given_id(ctx)
    if words and source is not ParameterSource.COMMANDLINE:
        return words[0], tuple(words[1:])
    return option, tuple(words)


_ID = "dvfs.cli.id"


def _keep_id(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[_ID] = value, ctx.get_parameter_source(param.name or "")


def _given_id(ctx: click.Context) -> tuple[str | None, ParameterSource | None]:
    kept: tuple[str | None, ParameterSource | None] = ctx.meta.get(_ID, (None, None))
    return kept


def _either(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    option, source = _given_id(ctx)
    if value is None:
        return option
    if option not in (None, value) and source is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"two datasets are named: {value} and --id {option}", ctx)
    return value


def latest_option(function: F) -> F:
    """Add `--latest`; the command gives it and its tags to `with_latest`."""
    return click.option(
        "--latest", is_flag=True, help="Tag it `latest`, which no other version of the dataset has once it is finished."
    )(function)


def with_latest(tags: tuple[str, ...], latest: bool) -> tuple[str, ...]:
    """Return *tags*, with `latest` if that is wanted."""
    return tuple(dict.fromkeys((*tags, "latest"))) if latest else tags


def naming_options(function: F) -> F:
    """Add `--project` and `--name`, the words of ClearML Data for a dataset; the command asks `named_dataset`."""
    project = click.option("--project", metavar="PROJECT", help="Name the dataset by its project and --name.")
    return project(click.option("--name", metavar="NAME", help="Name the dataset by --project and its name.")(function))


def named_dataset(dataset: str | None, project: str | None, name: str | None) -> str | None:
    """Return *dataset*, or `project/name` where those are given instead. Raises UsageError."""
    if project is None and name is None:
        return dataset
    if project is None or name is None or dataset is not None:
        raise click.UsageError("name the dataset once: DATASET, or --project with --name", click.get_current_context())
    return f"{project}/{name}"


def workers_option(function: F) -> F:
    """Add `--max-workers`."""
    return click.option(
        "--max-workers",
        type=click.IntRange(1),
        metavar="N",
        help="Threads to work with.  [default: 8 for get, else one for each processor]",
    )(function)


def upload_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add what an upload takes; the command gets it as *upload*, an `UploadOptions`."""

    @click.option(
        "--compression",
        default="auto",
        show_default=True,
        metavar="HOW",
        help="auto, zstd, zstd:LEVEL or none; auto compresses where it pays.",
    )
    @click.option("--chunk-size", type=click.IntRange(1), metavar="MB", help="Size of a pack in MiB.  [default: 32]")
    @workers_option
    @click.option("--refresh", is_flag=True, help="Take files that changed since they were added as they are now.")
    @wraps(function)
    def wrapped(
        compression: str, chunk_size: int | None, max_workers: int | None, refresh: bool, **others: object
    ) -> None:
        from dvfs.store.codec import Compression
        from dvfs.store.upload import UploadOptions

        given: dict[str, int] = {}
        if chunk_size is not None:
            given["pack_bytes"] = chunk_size << 20
        if max_workers is not None:
            given["workers"] = max_workers
        upload = UploadOptions(compression=Compression.parse(compression), refresh=refresh, **given)
        function(upload=upload, **others)

    return wrapped


def storage_option(text: str, *names: str) -> Callable[[F], F]:
    """Return a decorator that adds `--storage`, also under other *names*, with *text* as its help."""
    return click.option("--storage", *names, "storage", type=place, metavar="URL", help=text)


def scan_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add what reading a local tree takes; the command gets it as *scan*, a `ScanOptions`."""

    @click.option(
        "--exclude",
        cls=Many,
        metavar="PATTERN...",
        help="Leave out what matches, by the rules of .gitignore; `.dvfsignore` files hold for their folder.",
    )
    @click.option("--follow-links", is_flag=True, help="Take what symbolic links point to, not the links.")
    @click.option("--skip-unreadable", is_flag=True, help="Leave out what cannot be read.")
    @click.option("--skip-special", is_flag=True, help="Leave out fifos, sockets and devices.")
    @wraps(function)
    def wrapped(
        exclude: tuple[str, ...], follow_links: bool, skip_unreadable: bool, skip_special: bool, **others: object
    ) -> None:
        from dvfs.store.scan import ScanOptions

        scan = ScanOptions(
            exclude=exclude,
            follow_links=follow_links,
            skip_unreadable=skip_unreadable,
            skip_special=skip_special,
        )
        function(scan=scan, **others)

    return wrapped
