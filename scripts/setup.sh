#!/bin/sh
# Install dvfs into a virtual environment, with the system packages that are missing.
#
# usage: setup.sh VENV        PYTHON=python3.12 setup.sh VENV chooses the interpreter
#        setup.sh VENV test-servers        also servers that the tests run and that npm brings
#
# Debian and Ubuntu: packages are installed with apt-get, as root or through sudo, without questions.
# Elsewhere: names what is missing and stops.
set -eu

venv=${1:?usage: setup.sh VENV}
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if have "$candidate" && is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
}

has_venv() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' >/dev/null 2>&1
}

has_compiler() {
    have cc && printf '#include <stdio.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null
}

# The package of Debian that holds a file of this interpreter: python3-dev, or python3.12-dev.
python_package() {
    case $1 in
    python3.*) echo "$1-$2" ;;
    *) echo "python3-$2" ;;
    esac
}

missing_packages() {
    have fusermount3 || echo fuse3
    have pkg-config || echo pkg-config
    { have pkg-config && pkg-config --exists fuse3; } || echo libfuse3-dev
    has_compiler || echo gcc libc6-dev
    if [ -z "$python" ]; then
        echo python3 python3-dev python3-venv
    else
        has_headers "$python" || python_package "$python" dev
        has_venv "$python" || python_package "$python" venv
    fi
    for program in fio git rsync; do # the tests run them
        have "$program" || echo "$program"
    done
}

npm_packages() {
    have npm || echo npm
    have node || echo nodejs
}

# What `make bench` compares with, or uses, besides: without one of them it leaves a column or a row out.
bench_packages() {
    have fuse-overlayfs || echo fuse-overlayfs
    have fio || echo fio
    have git || echo git
}

# Whether npm has brought the very versions that tests/node/package.json names.
has_test_servers() {
    (cd tests/node && node -e 'const wanted = require("./package.json").dependencies
for (const name in wanted)
    if (require(`./node_modules/${name}/package.json`).version !== wanted[name]) process.exit(1)') >/dev/null 2>&1
}

install_test_servers() {
    has_test_servers && return
    packages=$(npm_packages | tr '\n' ' ')
    # shellcheck disable=SC2086  # a list of words
    [ -z "$packages" ] || install_packages $packages
    say "installing the servers that tests run with npm into tests/node"
    npm install --prefix tests/node --silent --no-audit --no-fund --no-package-lock --ignore-scripts
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo; then
        sudo -n "$@"
    else
        return 1
    fi
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2
}

apt_install_fresh() {
    apt_install "$@" || {
        say "refreshing the package lists"
        as_root apt-get update >&2 && apt_install "$@"
    }
}

install_packages() {
    say "installing $*"
    have apt-get || die "no apt-get here: install what gives you $*, then repeat"
    apt_install_fresh "$@" || die "could not install them; run as root: apt-get update && apt-get install $*"
}

python=$(find_python)
packages=$(missing_packages | tr '\n' ' ')
if [ -n "$packages" ]; then
    # shellcheck disable=SC2086  # a list of words
    install_packages $packages
    python=$(find_python)
fi
packages=$(bench_packages)
for package in $packages; do
    say "installing $package, for make bench"
    { have apt-get && apt_install_fresh "$package"; } || say "no $package: make bench leaves out what needs it"
done
[ -n "$python" ] || die "no Python 3.11 or newer found; name one with PYTHON=/path/to/python3.12"

if [ -x "$venv/bin/python" ] && ! is_new_enough "$venv/bin/python"; then
    rm -rf "$venv"
fi
if [ ! -x "$venv/bin/python" ]; then
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi
# --group needs pip 25.1.
"$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
say "installing dvfs and its development tools into $venv"
"$venv/bin/python" -m pip install --quiet --editable '.[azure,gcs]' --group dev
[ "${2:-}" != test-servers ] || install_test_servers
say "ready: $venv/bin/dvfs"
