"""The quick loader finds the services that botocore's own does, also those of the user."""

import os
from pathlib import Path

import botocore.session
import pytest
from botocore.exceptions import UnknownServiceError

from dvfs.store.s3 import S3Options, make_client
from dvfs.store.s3_loader import quick_loader


def test_it_finds_each_service_that_botocore_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours" / "2026-01-01").mkdir(parents=True)
    (tmp_path / "ours" / "2026-01-01" / "service-2.json").write_text('{"metadata": {}}')
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    theirs = botocore.session.Session().get_component("data_loader")
    quick = quick_loader(theirs)
    assert set(theirs.list_available_services("service-2")) <= set(quick.list_available_services("service-2"))
    assert quick.load_service_model("s3", "service-2") == theirs.load_service_model("s3", "service-2")
    assert quick.load_service_model("ours", "service-2") == {"metadata": {}}
    with pytest.raises(UnknownServiceError):
        quick.load_service_model("no-such-service", "service-2")


def test_a_client_does_not_look_into_all_services(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_into: list[object] = []
    listdir = os.listdir

    def noted(path: str) -> list[str]:
        looked_into.append(path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", noted)
    make_client(S3Options(region="us-east-1"))
    assert 0 < len(looked_into) < 20
