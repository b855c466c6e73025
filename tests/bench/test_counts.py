"""What the server says that it was asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.config import Config

from bench.race.counts import ServerCounts, Traffic, when_quiet
from tests.seaweed import SeaweedServer


@pytest.fixture
def s3(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    with closing(boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))) as client:
        yield client


@pytest.mark.parametrize("size", [1, 100_000, 12 * 1024 * 1024])
def test_requests_and_bytes_are_counted(server: SeaweedServer, s3: Any, size: int) -> None:
    counts = ServerCounts(server.metrics_url)
    before = counts.quiet_counts(0.1)
    s3.put_object(Bucket=server.bucket, Key="one", Body=os.urandom(size))
    written = counts.quiet_counts(0.1) - before
    s3.get_object(Bucket=server.bucket, Key="one")["Body"].read()
    s3.get_object(Bucket=server.bucket, Key="one", Range="bytes=0-0")["Body"].read()
    read = counts.quiet_counts(0.1) - before - written
    assert written == Traffic(1, size, 0)
    assert read == Traffic(2, 0, size + 1)


def test_it_is_not_quiet_while_an_answer_is_read(server: SeaweedServer, s3: Any) -> None:
    size = 32 * 1024 * 1024
    s3.put_object(Bucket=server.bucket, Key="large", Body=os.urandom(size))
    counts = ServerCounts(server.metrics_url)
    before = counts.quiet_counts(0.1)
    body = s3.get_object(Bucket=server.bucket, Key="large")["Body"]
    body.read(1)
    found: list[Traffic] = []
    waits = threading.Thread(target=lambda: found.append(counts.quiet_counts(0.2) - before))
    waits.start()
    waits.join(1.0)
    assert not found
    body.read()
    waits.join()
    assert found == [Traffic(1, 0, size)]


def test_it_does_not_wait_for_ever() -> None:
    asked: list[int] = []

    def read() -> tuple[Traffic, bool]:
        asked.append(0)
        return Traffic(len(asked)), True

    assert when_quiet(read, 0.01) == Traffic(len(asked))


def test_traffic_of_a_while() -> None:
    assert Traffic(5, 100, 1000) - Traffic(2, 40, 1) == Traffic(3, 60, 999)
