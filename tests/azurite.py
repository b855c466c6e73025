"""A server of Azure Blob Storage for tests: azurite, with its data in memory. It enforces conditional writes."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tests.server import Server, free_ports

CONTAINER = "dvfs-test"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that azurite has, with the key that everybody knows."""

_API_VERSION = "2021-08-06"
_PROGRAM = Path(__file__).parent / "node/node_modules/azurite/dist/src/blob/main.js"


class AzureServer(Server):
    """One azurite with one container. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}/{ACCOUNT}"

    @property
    def bucket(self) -> str:
        return CONTAINER

    @property
    def connection_string(self) -> str:
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.endpoint};"

    def environment(self) -> dict[str, str]:
        """Return the variables with which a process reaches this server."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
        }

    def command(self) -> Sequence[str | Path]:
        """See `Server.command`."""
        if not _PROGRAM.is_file():
            raise RuntimeError(f"there is no {_PROGRAM}: run `make setup`")
        words = "--blobHost 127.0.0.1 --inMemoryPersistence --skipApiVersionCheck --disableTelemetry --silent"
        return ["node", _PROGRAM, "--blobPort", str(self._port), *words.split()]

    def takes_writes(self) -> bool:
        """See `Server.takes_writes`."""
        date = formatdate(usegmt=True)
        signed = (
            f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:{_API_VERSION}\n"
            f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
        )
        signature = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
        headers = {
            "x-ms-date": date,
            "x-ms-version": _API_VERSION,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}",
        }
        make = Request(f"{self.endpoint}/{CONTAINER}?restype=container", method="PUT", headers=headers)
        try:
            with urlopen(make, timeout=10):
                return True
        except HTTPError as refused:
            with refused:
                return refused.code == 409
        except URLError:
            return False
