"""What people use every day does in a mount what it does in a folder."""

from __future__ import annotations

from collections.abc import Callable

from tests.editing.conftest import Pair

TREE = """
mkdir -p a/b/c many
seq 1 20000 > a/numbers
head -c 300000 /dev/zero | tr '\\0' x > a/b/large
echo one > a/b/c/one
ln -s numbers a/link
ln -s nowhere dangling
for i in $(seq 40); do echo $i > many/f$i; done
chmod 640 a/b/large
chmod 750 a/b
find . -exec touch -hd @1500000000.123456789 {} +
"""


def test_cp(pair: Callable[..., Pair]) -> None:
    edits = pair(TREE)
    edits.run("cp -a a copy; cp -al a/b linked; cp -rL a/b/c followed; cp --reflink=auto a/numbers again; cp again a/b")
    edits.check()


def test_tar_out_and_in(pair: Callable[..., Pair]) -> None:
    edits = pair(TREE)
    edits.run("ln a/numbers a/hard; mkfifo fifo; mkdir out; tar cf a.tar a many fifo dangling; tar xpf a.tar -C out")
    edits.run("tar cf - -C $TOP base new | tar tf - | sort; tar df a.tar; rm a.tar")
    edits.check()


def test_rsync_keeps_all(pair: Callable[..., Pair]) -> None:
    edits = pair(TREE)
    edits.run('ln a/numbers a/hard; python3 -c \'import os; os.setxattr("a/b", "user.note", b"kept")\'')
    edits.run("rsync -aHAX --exclude=/copy ./ copy/; rsync -aHAXnic --exclude=/copy ./ copy/")
    edits.run("echo more >> a/numbers; rm many/f7; rsync -aHAX --delete --inplace --no-whole-file a many copy/")
    edits.run("rsync -aHAXnic --delete a many copy/")
    edits.check()


def test_sed_and_files_written_anew_and_renamed(pair: Callable[..., Pair]) -> None:
    edits = pair(TREE)
    edits.run("sed -i s/1/one/ a/numbers many/*; sed -i.bak 1d a/b/c/one")
    edits.run("seq 5 > a/.tmp; sync a/.tmp; mv -T a/.tmp a/numbers; truncate -s 100 a/b/large; echo end >> a/b/large")
    edits.check()


def test_directories_move_across_the_tree(pair: Callable[..., Pair]) -> None:
    edits = pair(TREE)
    edits.run(
        "mv a/b many/moved; mkdir a/b; mv many/moved/c a/b/c; mv many a/b; mv a/b/many/moved/large .; find . | sort"
    )
    edits.run(
        "mv base/a new/from-base; mv new/a base/from-new; mv base again; mv new base; mv again new", folders=(".",)
    )
    edits.run("mv from-* a; mv a/b/many .; rmdir many/moved; rm -r a/b; mkdir a/b; touch a/b/f; ls -lR . | wc -l")
    edits.check()


def test_modes_owners_and_times(pair: Callable[..., Pair]) -> None:
    edits = pair(TREE)
    edits.run("chmod -R g+w,o-r a; chmod +t many; touch -d @1400000000.5 a a/numbers; touch -hd @1 dangling a/link")
    edits.run("[ $(id -u) != 0 ] || chown -hR 12:34 a; touch -r a many; chmod 0 many/f1")
    edits.check()
