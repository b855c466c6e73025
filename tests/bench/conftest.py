"""What tests of the bench share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.seaweed import SeaweedServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """An S3 server of which nobody else asks anything."""
    with SeaweedServer(tmp_path_factory.mktemp("seaweed")) as server:
        yield server
