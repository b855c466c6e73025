"""How commands find the overlay they are about, and open it: by a path in its mount, or by its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from dvfs.cli.config import Config
from dvfs.cli.output import log_to_stderr
from dvfs.cli.provenance import Notes
from dvfs.cli.session import configuration, note, opened_store
from dvfs.cli.state import InUse

if TYPE_CHECKING:
    from dvfs.fs.mounts import Mounts
    from dvfs.fs.overlay.desk import Desk
    from dvfs.fs.overlay.editing import Editing
    from dvfs.fs.overlay.home import About, Overlays
    from dvfs.store.store import Store

F = TypeVar("F", bound=Callable[..., object])


def overlay_option(function: F) -> F:
    """Give a command the option --overlay."""
    return click.option("--overlay", metavar="NAME", help="The overlay, where it is not mounted.")(function)


@dataclass(frozen=True, slots=True)
class Found:
    """An overlay: its *name*, and the *directory* that it is mounted at, None when no mount serves it.

    *paths*: those that were given, as paths of the version.
    """

    name: str
    directory: Path | None
    paths: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class OverlaySession:
    """An overlay at hand: who answers for it, the *store* that its version is in, *notes* of what this run does."""

    config: Config
    found: Found
    about: About
    desk: Desk
    store: Store
    notes: Notes = field(default_factory=Notes)

    @property
    def in_use(self) -> InUse:
        """The dataset in use of its store."""
        return InUse(self.config.state_dir, self.store.backend.url)

    def note(self, version: str, did: str) -> None:
        """Do as `Session.note`."""
        note(self.notes, self.config, self.store, version, did)


def find_overlay(paths: tuple[str, ...], overlay: str | None, *, is_whole: bool = False) -> Found:
    """Return the overlay called *overlay*, or that of the mount that *paths*, or the working directory, are in.

    With *overlay* *paths* are those of the version. *is_whole*: the paths say only which mount is meant. Raises
    NotFound where none is, WrongState where the mount is read-only, UsageError for paths of several mounts.
    """
    from dvfs.fs.mounts import Mounts
    from dvfs.store.errors import NotFound, WrongState

    mounts = Mounts(configuration().state_dir)
    if overlay is not None:
        served = [mount for mount in mounts.all() if mount.overlay == overlay and mount.is_served]
        directory = Path(served[0].directory) if served else None
        return Found(overlay, directory, tuple(os.fsencode(path).strip(b"/") for path in paths))
    found = None
    inside: list[bytes] = []
    for path in paths or (".",):
        place = _place(mounts, path)
        mount = mounts.holding(place.parent if os.path.islink(place) else place)
        if mount is None:
            raise NotFound(
                f"{path} is in no mount of dvfs", hint="`dvfs mounts` lists them, `dvfs overlays` edits kept"
            )
        if not mount.overlay:
            raise WrongState(f"{mount.directory} takes no edits", hint="`dvfs mount --rw` mounts it to be edited")
        if found is not None and mount.directory != found.directory:
            raise click.UsageError(f"{path} is in another mount than {paths[0]}", click.get_current_context())
        found = mount
        relative = os.fsencode(place.relative_to(mount.directory))
        inside.append(b"" if relative == b"." else relative)
    assert found is not None
    directory = Path(found.directory) if found.is_served else None
    return Found(found.overlay, directory, () if is_whole or not paths else tuple(inside))


def _place(mounts: Mounts, path: str) -> Path:
    """Return *path* as the kernel names it; a link inside a mount stands for itself."""
    from dvfs.fs.mountinfo import canonical

    if os.path.islink(path):
        itself = canonical(Path(path).absolute().parent) / os.path.basename(path)
        if mounts.holding(itself.parent) is not None:
            return itself
    return canonical(Path(path))


@contextmanager
def opened_overlay(found: Found) -> Iterator[OverlaySession]:
    """Open *found*: what was written to its mount until now is in it. Raises as `Store`, WrongState when it is busy."""
    from dvfs.fs.overlay.desk import LiveDesk, LocalDesk
    from dvfs.fs.overlay.home import Overlays
    from dvfs.fs.syncpoint import sync

    log_to_stderr()
    overlays = Overlays(configuration().state_dir)
    about = overlays.about(found.name)
    config = configuration({"store": about.store})
    with ExitStack() as stack:
        store = stack.enter_context(opened_store(config))
        desk: Desk
        if found.directory is not None:
            sync(found.directory)
            desk = LiveDesk(overlays.path(found.name))
        else:
            desk = LocalDesk(_opened_here(stack, overlays, found.name, store))
        stack.callback(desk.close)
        session = OverlaySession(config, found, about, desk, store)
        yield session
        session.notes.wait()


def _opened_here(stack: ExitStack, overlays: Overlays, name: str, store: Store) -> Editing:
    from dvfs.fs.overlay.editing import open_editing
    from dvfs.fs.view import Identity, blocking_view
    from dvfs.store.ids import VersionId

    folder = overlays.take(name)
    stack.callback(folder.close)
    about = overlays.about(name)
    version = store.version(store.records.read(VersionId(about.base)))
    stack.callback(version.close)
    view = blocking_view(version, Identity(b"", b"", b""))
    return open_editing(folder, about, version, view, view)
