#!/bin/sh
# dvfs in two minutes: a dataset of real files, mounted, read, edited into a child version, mounted again.
#
# The data is the standard library of this machine's Python, thousands of files, and one large binary
# file. Store, state and cache live in a temporary folder that is removed at the end; nothing is asked.
# DEMO_BYTES_MB sets the size of the large file (200).
set -eu

work=$(mktemp -d "${TMPDIR:-/tmp}/dvfs-demo.XXXXXX")
export DVFS_STORE="$work/store" DVFS_STATE_DIR="$work/state" DVFS_CACHE_DIR="$work/cache"
export DVFS_CONFIG="$work/config.toml"

cleanup() {
    status=$?
    trap - EXIT INT TERM
    for mount in "$work/v1" "$work/v2"; do
        if grep -q " $mount " /proc/self/mounts; then
            dvfs umount "$mount" >/dev/null 2>&1 || fusermount3 -u -z "$mount" || true
        fi
    done
    chmod -R u+rwX "$work"
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n== %s\n' "$*"; }
run() {
    printf '$ %s\n' "$*" | sed "s|$work/||g"
    "$@"
}

step "Something to keep: the Python standard library and one large file"
library=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
mkdir "$work/source"
tar -C "$library" --exclude=site-packages --exclude=dist-packages --exclude=__pycache__ -cf - . | tar -C "$work/source" -xf -
dd if=/dev/urandom of="$work/source/large.bin" bs=1M count="${DEMO_BYTES_MB:-200}" status=none
printf '%s files, %s MiB\n' "$(find "$work/source" -type f | wc -l)" "$(du -sm "$work/source" | cut -f1)"

step "A version of it, in a store that is just a folder"
run dvfs create --project demo --name library
run dvfs add --files "$work/source"
run dvfs close

step "Mounted on an empty cache, as on a machine that has nothing of it"
rm -rf "$work/cache"
run dvfs mount demo/library "$work/v1"
run ls "$work/v1/json"
run head -n 5 "$work/v1/this.py"

step "Every byte is what it was"
run diff -r --no-dereference "$work/source" "$work/v1"
echo "no difference"

step "Edited in place: one file added, one changed, a few bytes of the large one, a folder moved, another removed"
run dvfs mount --rw demo/library "$work/edit"
printf 'print("made by the demo")\n' >"$work/edit/hello.py"
echo '# edited by the demo' >>"$work/edit/this.py"
printf 'edited' | dd of="$work/edit/large.bin" bs=1 seek=1000000 conv=notrunc status=none
mv "$work/edit/email" "$work/edit/post"
rm -r "$work/edit/json"
run dvfs status "$work/edit"

step "Committed: a child version, at the cost of the edits"
run dvfs commit "$work/edit" -m "edited by the demo"
run dvfs umount "$work/edit"

step "Mounted beside its parent, the difference"
run dvfs mount demo/library "$work/v2"
run dvfs mounts
run diff -rq --no-dereference "$work/v1" "$work/v2" && {
    echo "the two versions are equal, and should not be"
    exit 1
}
[ ! -e "$work/v2/json" ] && [ -e "$work/v2/post" ] && [ "$(cat "$work/v2/hello.py")" = 'print("made by the demo")' ]
run dvfs search

step "Unmounted"
run dvfs umount "$work/v1"
run dvfs umount "$work/v2"
step "The demo is over; nothing of it is left"
