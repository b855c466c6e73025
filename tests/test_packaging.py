"""How the folders `cli`, `fs` and `store` make one package: names, layers, links."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("cli", "fs", "store")

MAY_IMPORT = {"cli": {"cli", "fs", "store"}, "fs": {"fs", "store"}, "store": {"store"}}
"""Which layers of dvfs a layer may import."""

ONLY_IN = {
    "trio": ("fs/",),
    "pyfuse3": ("fs/",),
    "fsspec": (),
    "click": ("cli/",),
    "zstandard": ("store/codec.py",),
    "boto3": ("store/s3.py",),
    "botocore": ("store/s3.py", "store/s3_listing.py", "store/s3_loader.py", "store/s3_ranges.py"),
    "google": ("store/gcs.py",),
    "google_crc32c": ("store/gcs.py",),
    "requests": ("store/gcs.py",),
    "obstore": ("store/obstore_library.py",),
}
"""Where (prefix of a path) a library may be imported."""


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> list[str]:
    """Paths of all modules of the three layers, relative to the root of the repository."""
    return sorted(path.relative_to(ROOT).as_posix() for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of each module that the module at *source* imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node.lineno, module
            if module == "dvfs":
                yield from ((node.lineno, f"dvfs.{alias.name}") for alias in node.names)


def test_every_package_is_listed_and_every_listed_package_is_there() -> None:
    found = {"dvfs"}
    for layer in LAYERS:
        for init in (ROOT / layer).rglob("__init__.py"):
            found.add(".".join(("dvfs", *init.parent.relative_to(ROOT).parts)))
    assert sorted(pyproject()["tool"]["setuptools"]["packages"]) == sorted(found)


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {(ROOT / source).parent for source in sources()}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_package_dir_maps_the_layers() -> None:
    expected = {"dvfs": "dvfs"} | {f"dvfs.{layer}": layer for layer in LAYERS}
    assert pyproject()["tool"]["setuptools"]["package-dir"] == expected


@pytest.mark.parametrize("layer", LAYERS)
def test_links_of_the_shim_folder_resolve(layer: str) -> None:
    link = ROOT / "dvfs" / layer
    assert link.is_symlink()
    assert link.readlink() == Path("..") / layer
    assert (link / "__init__.py").is_file()


def test_no_layer_imports_one_above_it() -> None:
    wrong = []
    for source in sources():
        layer = source.split("/")[0]
        for line, module in imported(source):
            parts = module.split(".")
            if parts[0] == "dvfs" and parts[1:] and parts[1] in LAYERS and parts[1] not in MAY_IMPORT[layer]:
                wrong.append(f"{source}:{line} imports {module}")
    assert wrong == []


def test_imports_are_absolute() -> None:
    wrong = [
        f"{source}:{line} imports {module}"
        for source in sources()
        for line, module in imported(source)
        if module.split(".")[0] in {"", *LAYERS}
    ]
    assert wrong == []


def test_each_library_is_imported_in_its_own_place_only() -> None:
    wrong = [
        f"{source}:{line} imports {module}"
        for source in sources()
        for line, module in imported(source)
        for places in [ONLY_IN.get(module.split(".")[0])]
        if places is not None and not source.startswith(places)
    ]
    assert wrong == []


def test_version_of_the_package_is_that_of_the_project() -> None:
    code = "import dvfs; print(dvfs.__version__)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == pyproject()["project"]["version"]
