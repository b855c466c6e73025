"""The tree: what calls answer and refuse, that listings go on, and that nothing is changed in part."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from functools import partial

import pytest

from dvfs.fs.errno import Refused
from dvfs.fs.overlay.overlay import ADDED_OFFSET, EXCHANGE, NOREPLACE, Overlay, Owner
from dvfs.fs.overlay.schema import FIRST_NEW_INODE
from dvfs.fs.view import ROOT_INODE
from dvfs.store.catalog.pages import NotCached
from tests.overlay_kit import FILES, USER, Client, Live, Outcome


@pytest.fixture
def overlay(live: Live) -> Overlay:
    return live.editing.overlay


def rows_of(live: Live) -> int:
    counts = live.rows.one("SELECT (SELECT count(*) FROM inodes), (SELECT count(*) FROM dentries)")
    return int(sum(counts))


def test_inodes_of_the_version_keep_their_numbers_and_new_ones_are_higher(live: Live, client: Client) -> None:
    before = {path: client.node(path).ino for path in FILES}
    for path in FILES:
        client.chmod(path, 0o600)
    client.rename(b"d", b"moved")
    assert client.node(b"moved/e/x").ino == before[b"d/e/x"]
    made = [client.mknod(b"new%d" % number).ino for number in range(3)]
    assert made == [FIRST_NEW_INODE, FIRST_NEW_INODE + 1, FIRST_NEW_INODE + 2]
    client.unlink(b"new2")
    live.kill()
    assert live.client.node(b"moved/e/x").ino == before[b"d/e/x"]
    assert live.client.mknod(b"new").ino >= FIRST_NEW_INODE + 2


def test_a_number_that_stands_for_nothing_is_stale(client: Client, overlay: Overlay) -> None:
    for ino in (FIRST_NEW_INODE + 7, 100_000):
        with pytest.raises(Refused) as refused:
            client.overlay.node(ino)
        assert refused.value.errno == errno.ESTALE


def test_dots_are_names(client: Client) -> None:
    client.tree()
    client.mkdir(b"d/e/new")
    client.rename(b"d/e", b"vacant/e")
    new, e, vacant = (client.node(path).ino for path in (b"vacant/e/new", b"vacant/e", b"vacant"))
    look = client.overlay.lookup
    for ino, name, expected in ((new, b".", new), (new, b"..", e), (e, b"..", vacant), (ROOT_INODE, b"..", ROOT_INODE)):
        found = look(ino, name)
        assert found is not None
        assert found.ino == expected
    listed = list(client.overlay.readdir(e, 0))
    assert [(entry.name, entry.node.ino) for entry in listed[:2]] == [(b".", e), (b"..", vacant)]


@pytest.mark.parametrize(
    ("work", "number"),
    [
        (lambda client: client.mknod(b"one"), errno.EEXIST),
        (lambda client: client.mkdir(b"d"), errno.EEXIST),
        (lambda client: client.symlink(b"x" * 4096, b"new"), errno.ENAMETOOLONG),
        (lambda client: client.mknod(b"n" * 256), errno.ENAMETOOLONG),
        (lambda client: client.node(b"n" * 256), errno.ENAMETOOLONG),
        (lambda client: client.mknod(b"one/new"), errno.ENOTDIR),
        (lambda client: client.link(b"d", b"new"), errno.EPERM),
        (lambda client: client.link(b"one", b"cell"), errno.EEXIST),
        (lambda client: client.unlink(b"none"), errno.ENOENT),
        (lambda client: client.unlink(b"d"), errno.EISDIR),
        (lambda client: client.rmdir(b"one"), errno.ENOTDIR),
        (lambda client: client.rmdir(b"d"), errno.ENOTEMPTY),
        (lambda client: client.rename(b"none", b"new"), errno.ENOENT),
        (lambda client: client.rename(b"one", b"d"), errno.EISDIR),
        (lambda client: client.rename(b"m", b"one"), errno.ENOTDIR),
        (lambda client: client.rename(b"m", b"d"), errno.ENOTEMPTY),
        (lambda client: client.rename(b"one", b"cell", NOREPLACE), errno.EEXIST),
        (lambda client: client.rename(b"one", b"new", EXCHANGE), errno.ENOENT),
        (lambda client: client.rename(b"one", b"new", NOREPLACE | EXCHANGE), errno.EINVAL),
        (lambda client: client.rename(b"one", b"new", 4), errno.EINVAL),
        (lambda client: client.readlink(b"one"), errno.EINVAL),
        (lambda client: client.listdir(b"one"), errno.ENOTDIR),
        (lambda client: client.setxattr(b"one", b"trusted.a", b""), errno.ENOTSUP),
        (lambda client: client.setxattr(b"one", b"user.a", None), errno.ENODATA),
        (lambda client: client.getxattr(b"one", b"user.a"), errno.ENODATA),
        (lambda client: client.getxattr(b"one", b"security.selinux"), errno.ENOTSUP),
    ],
)
def test_what_is_refused_changes_nothing(
    live: Live, client: Client, work: Callable[[Client], object], number: int
) -> None:
    before = rows_of(live), live.rows.log.serial
    assert Outcome.of(lambda: work(client)) == Outcome(number)
    assert (rows_of(live), live.rows.log.serial) == before


def test_in_a_removed_directory_nothing_is_made(client: Client) -> None:
    ino = client.open(b"vacant")
    client.rmdir(b"vacant")
    one = client.node(b"one").ino
    attempts: list[Callable[[], object]] = [
        lambda: client.overlay.mknod(ino, b"new", stat.S_IFREG, USER),
        lambda: client.overlay.link(one, ino, b"new"),
        lambda: client.overlay.rename(ROOT_INODE, b"one", ino, b"new"),
    ]
    for attempt in attempts:
        with pytest.raises(Refused) as refused:
            attempt()
        assert refused.value.errno == errno.ENOENT
    assert list(client.overlay.readdir(ino, 2)) == []


def test_a_file_without_a_name_cannot_be_linked(client: Client) -> None:
    ino = client.open(b"one")
    client.unlink(b"one")
    with pytest.raises(Refused) as refused:
        client.overlay.link(ino, ROOT_INODE, b"again")
    assert refused.value.errno == errno.ENOENT
    assert client.pread(ino) == b"1"
    client.close(ino)


# --- directories


def test_renaming_a_directory_of_the_version_moves_one_row(live: Live, client: Client) -> None:
    client.rename(b"d", b"vacant/moved")
    assert rows_of(live) == 2 + 3  # a whiteout and a name; the directory, and the two that hold it
    assert client.read(b"vacant/moved/e/f/deep") == b"deep"
    assert not client.exists(b"d")
    client.mkdir(b"d")
    assert client.listdir(b"d") == []
    client.rename(b"vacant/moved/e", b"d/e")
    assert client.read(b"d/e/f/deep") == b"deep"
    assert client.listdir(b"vacant/moved") == [b"cells", b"large", b"link"]


def test_a_merged_directory_is_empty_when_all_is_removed(client: Client) -> None:
    client.mknod(b"many/new")
    for name in client.listdir(b"many"):
        client.unlink(b"many/" + name)
    client.rmdir(b"many")
    client.mkdir(b"many")
    assert client.listdir(b"many") == []


def test_links_of_directories_are_counted_in_new_ones_alone(client: Client) -> None:
    client.mkdir(b"new")
    client.mkdir(b"new/a")
    client.rename(b"d", b"new/d")
    assert client.node(b"new").nlink == 4
    assert client.node(b"").nlink == client.node(b"new/d").nlink == 1
    client.rename(b"new/a", b"vacant")
    assert client.node(b"new").nlink == 3
    client.rename(b"new/d", b"one", EXCHANGE)
    assert client.node(b"new").nlink == 2


def test_a_directory_takes_its_group_from_one_with_setgid(client: Client, overlay: Overlay) -> None:
    client.mkdir(b"shared", 0o2775)
    ino = client.node(b"shared").ino
    client.overlay.setattr(ino, gid=77)
    below = client.overlay.mkdir(ino, b"below", 0o755, Owner(1, 2))
    assert (below.uid, below.gid, stat.S_IMODE(below.mode)) == (1, 77, 0o2755)
    file = client.overlay.mknod(ino, b"file", stat.S_IFREG | 0o644, Owner(1, 2))
    assert (file.gid, stat.S_IMODE(file.mode)) == (77, 0o644)


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_a_listing_goes_on_while_entries_are_removed(client: Client, at_once: int) -> None:
    for number in range(10):
        client.mknod(b"many/new%d" % number)
    client.unlink(b"many/05")
    ino = client.node(b"many").ino
    expected = set(client.listdir(b"many"))
    seen: list[bytes] = []
    offset = 0
    while entries := [entry for entry, _ in zip(client.overlay.readdir(ino, offset), range(at_once), strict=False)]:
        for entry in entries:
            offset = entry.offset
            seen.append(entry.name)
            if entry.name not in (b".", b".."):
                client.unlink(b"many/" + entry.name)
    assert seen[:2] == [b".", b".."]
    assert sorted(seen[2:]) == sorted(expected)
    client.rmdir(b"many")


def test_offsets_stay_good_through_a_kill_and_new_names_come_last(live: Live, client: Client) -> None:
    client.mknod(b"many/z")
    client.mknod(b"many/new")
    ino = client.node(b"many").ino
    whole = client.do(lambda: list(client.overlay.readdir(ino, 0)))
    assert [entry.name for entry in whole[-2:]] == [b"z", b"new"]
    assert whole[-1].offset > whole[-2].offset > ADDED_OFFSET
    live.kill()
    for number in range(len(whole)):
        listing = partial(live.client.overlay.readdir, ino, whole[number].offset)
        rest = live.client.do(lambda listing=listing: list(listing()))  # type: ignore[misc]
        assert [entry.name for entry in rest] == [entry.name for entry in whole[number + 1 :]]
    live.client.mknod(b"many/a")
    assert [entry.name for entry in live.client.overlay.readdir(ino, whole[-1].offset)] == [b"a"]


# --- attributes


def test_times_of_what_changes(live: Live, client: Client) -> None:
    client.mkdir(b"new")
    client.utime(b"new", 5)
    client.mknod(b"new/a")
    node = client.node(b"new")
    assert node.mtime_ns == node.ctime_ns > 5
    assert node.set_mtime_ns == 5
    before = client.node(b"one")
    client.chmod(b"one", 0o4751)
    after = client.node(b"one")
    assert (after.mode, after.mtime_ns) == (stat.S_IFREG | 0o4751, before.mtime_ns)
    assert after.ctime_ns > before.ctime_ns


def test_extended_attributes(live: Live, client: Client) -> None:
    assert client.getxattr(b"one", b"user.dvfs.id") == b"id"
    digest = client.getxattr(b"one", b"user.dvfs.digest")
    assert len(digest) == 64
    client.setxattr(b"one", b"user.a", b"1")
    live.freeze()
    client.setxattr(b"one", b"user.a", b"2")
    client.setxattr(b"one", b"user.b", b"")
    client.setxattr(b"one", b"user.a", None)
    live.kill()
    client = live.client
    assert client.tree()[b"one"].xattrs == ((b"user.b", b""),)
    assert Outcome.of(lambda: client.getxattr(b"one", b"user.a")) == Outcome(errno.ENODATA)
    assert client.getxattr(b"one", b"user.dvfs.digest") == digest


def test_the_digest_is_told_of_bytes_of_the_version_alone(live: Live, client: Client) -> None:
    client.write(b"one", 0, b"2")
    for _ in range(2):
        assert Outcome.of(lambda: client.getxattr(b"one", b"user.dvfs.digest")) == Outcome(errno.ENODATA)
        live.freeze()
        client.chmod(b"one", 0o600)


# --- what goes


def test_bytes_go_with_the_last_name_and_the_last_handle(live: Live, client: Client) -> None:
    client.mknod(b"new")
    client.write(b"new", 0, b"abc")
    client.link(b"new", b"other")
    client.unlink(b"new")
    assert client.read(b"other") == b"abc"
    ino = client.open(b"other")
    client.unlink(b"other")
    assert client.overlay.node(ino).nlink == 0
    client.pwrite(ino, 3, b"def")
    assert client.pread(ino) == b"abcdef"
    client.close(ino)
    live.rows.log.sync()
    live.editing.files.bury(live.rows.log.synced)
    assert list(live.editing.files.all()) == []
    assert live.rows.node(ino) is None


def test_what_the_kernel_forgets_stays_while_it_has_a_name(live: Live, client: Client) -> None:
    client.mknod(b"new")
    client.write(b"new", 0, b"abc")
    serial = live.rows.log.serial
    client.overlay.forget(client.node(b"new").ino)
    client.overlay.forget(client.node(b"one").ino)
    client.overlay.forget(FIRST_NEW_INODE + 99)
    assert live.rows.log.serial == serial
    assert client.read(b"new") == b"abc"


# --- pages that are not in memory


def test_pages_are_asked_for_before_anything_is_changed(live: Live) -> None:
    """Each call is made with nothing in memory; `Client.do` checks that it changed nothing before it was answered."""
    works: list[Callable[[Client], object]] = [
        lambda client: client.mknod(b"d/e/new"),
        lambda client: client.rename(b"d/e/x", b"m/n"),
        lambda client: client.rename(b"d", b"vacant"),
        lambda client: client.rmdir(b"m"),
        lambda client: client.unlink(b"m/n"),
        lambda client: client.tree(),
    ]
    for work in works:
        live.kill()
        assert live.client.not_cached == 0
        Outcome.of(partial(work, live.client))
        assert live.client.not_cached > 0


def test_a_listing_that_lacks_a_page_goes_on_where_it_was(live: Live, client: Client) -> None:
    client.mknod(b"many/new")
    client.unlink(b"many/03")
    ino = client.node(b"many").ino
    expected = client.listdir(b"many")
    live.kill()
    client = live.client
    seen: list[bytes] = []
    offset = 2
    stops = 0
    while True:
        try:
            for entry in client.overlay.readdir(ino, offset):
                seen.append(entry.name)
                offset = entry.offset
            break
        except NotCached as exc:
            stops += 1
            live.version.pages.load(exc.ref)  # type: ignore[arg-type]
    assert stops > 1
    assert seen == expected


def test_deep_trees(live: Live, client: Client) -> None:
    """Deeper than Python calls itself."""
    parent = client.mkdir(b"deep").ino
    for _ in range(1499):
        parent = client.overlay.mkdir(parent, b"d", 0o755, USER).ino
    with live.snapshot() as snapshot:
        assert snapshot.path(parent, 1) == b"deep" + b"/d" * 1499
