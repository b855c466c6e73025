"""`dvfs doctor`: check that this machine can mount and reach the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

import click

from dvfs.cli import checks, errors
from dvfs.cli.checks import Finding
from dvfs.cli.config import Config
from dvfs.cli.options import Command, common, json_option
from dvfs.cli.output import Json, emit, say, wants_json
from dvfs.cli.session import configuration, opened_cache
from dvfs.store.errors import DvfsError
from dvfs.store.url import BucketLocation

_TIMEOUT_SECONDS = 10.0


@click.command(cls=Command, name="doctor")
@json_option
@common
def command() -> int:
    """Check that this machine can mount and reach the store; exits 1 when something does not work.

    What is written to the store for it, below probe/, is deleted at once.
    """
    found: list[Json] = []
    code = errors.OK
    for finding in _findings(configuration()):
        if finding.verdict == "fail":
            code = errors.FAILED
        found.append(
            {"name": finding.name, "verdict": finding.verdict, "text": finding.text, "hint": finding.hint or None}
        )
        if not wants_json():
            say(f"{finding.verdict:4}  {finding.name}: {finding.text}")
            if finding.hint:
                say(f"      hint: {finding.hint}")
    if wants_json():
        emit(found)
    return code


def _findings(config: Config) -> Iterator[Finding]:
    is_root = os.geteuid() == 0
    yield checks.fuse_device()
    yield checks.fusermount(is_root)
    yield checks.allow_other(is_root)
    yield checks.folder("state folder", config.state_dir)
    cache_folder = checks.folder("cache folder", config.cache_dir)
    yield cache_folder
    if cache_folder.verdict == "ok":
        with opened_cache(config) as cache:
            yield checks.cache_disk(config.cache_dir, cache.info().budget_bytes)
    yield from _store(config)


def _store(config: Config) -> Iterator[Finding]:
    from dvfs.store.url import FolderLocation, open_backend, parse_url

    try:
        location = parse_url(config.store_url)
        backend = open_backend(location, config.backend_options())
    except DvfsError as exc:
        yield Finding("store", "fail", exc.message, exc.hint or "")
        return
    try:
        yield from checks.store(backend, has_if_match=not isinstance(location, FolderLocation))
    finally:
        backend.close()
    server_time: Callable[[], float]
    if isinstance(location, FolderLocation):
        if not location.root.is_dir() or not os.access(location.root, os.W_OK):
            return
        server_time = partial(checks.folder_time, location.root)
    else:
        server_time = partial(checks.http_time, _endpoint(config, location), _TIMEOUT_SECONDS)
    yield checks.clock(server_time)


def _endpoint(config: Config, location: BucketLocation) -> str:
    """Return the URL of the service, as a setting, the environment of its tools or its maker says."""
    from dvfs.store.azure import configuration

    azure = configuration(config.backend_options().azure)
    account = azure.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    told = azure.get("endpoint") if location.table == "azure" else config.get(f"{location.table}.endpoint_url").value
    names, default = {
        "s3": (("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "https://s3.amazonaws.com"),
        "gcs": (("STORAGE_EMULATOR_HOST",), "https://storage.googleapis.com"),
        "azure": (("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"), f"https://{account}.blob.core.windows.net"),
    }[location.table]
    return str(told or next(filter(None, map(os.environ.get, names)), default))
