"""Settings: where they come from, and the file that is edited line by line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from dvfs.cli.config import KEYS, Config, Setting, Value, read_file, write_file
from dvfs.store.azure import AzureOptions
from dvfs.store.errors import InvalidInput
from dvfs.store.gcs import GcsOptions
from dvfs.store.retry import RetryPolicy
from dvfs.store.s3 import S3Options
from dvfs.store.url import BackendOptions


def config(tmp_path: Path, options: dict[str, Value | None] | None = None, **environ: str) -> Config:
    return Config({"DVFS_CONFIG": str(tmp_path / "config.toml")} | environ, options or {})


def test_option_before_environment_before_file_before_default(tmp_path: Path) -> None:
    assert config(tmp_path).get("store").source == "default"
    (tmp_path / "config.toml").write_text('store = "/file"\n')
    assert config(tmp_path).get("store") == Setting("/file", "file")
    assert config(tmp_path, DVFS_STORE="/env").get("store") == Setting("/env", "env")
    assert config(tmp_path, {"store": "/option"}, DVFS_STORE="/env").get("store") == Setting("/option", "option")
    assert config(tmp_path, {"store": None}, DVFS_STORE="").get("store") == Setting("/file", "file")


def test_folders_are_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    default = Config({}, {})
    assert default.path == tmp_path / "config" / "dvfs" / "config.toml"
    assert default.state_dir == tmp_path / "state" / "dvfs"
    assert default.store_url == str(tmp_path / "data" / "dvfs" / "store")
    assert default.cache_dir == tmp_path / "cache" / "dvfs"
    assert default.cache_bytes is None


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    told = config(tmp_path, DVFS_STORE="~/s", DVFS_CACHE_DIR="~/c", DVFS_STATE_DIR="~/t")
    assert (told.store_url, told.cache_dir, told.state_dir) == (f"{tmp_path}/s", tmp_path / "c", tmp_path / "t")


def test_values_are_read_by_kind(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('cache_size = "2GiB"\n[s3]\npath_style = true\nread_timeout = 3\n')
    told = config(tmp_path, DVFS_S3_CONNECT_TIMEOUT="1.5", DVFS_S3_REQUESTER_PAYS="yes", DVFS_S3_REGION="eu")
    assert told.cache_bytes == 2 << 30
    assert told.backend_options().s3 == S3Options(
        path_style=True, read_timeout=3.0, connect_timeout=1.5, requester_pays=True, region="eu"
    )


def test_retries_end_as_told_or_soon_after_timeouts(tmp_path: Path) -> None:
    assert config(tmp_path, DVFS_S3_READ_TIMEOUT="1").retry_policy() == RetryPolicy()
    for url, table in (("s3://bucket", "S3"), ("gs://bucket", "GCS"), ("az://box", "AZURE")):
        told = partial(config, tmp_path, None, **{"DVFS_STORE": url, f"DVFS_{table}_READ_TIMEOUT": "1"})
        assert config(tmp_path, DVFS_STORE=url).retry_policy() == RetryPolicy()
        assert told().retry_policy().deadline_seconds == 2.0
        assert told(DVFS_RETRY_DEADLINE="5.5").retry_policy().deadline_seconds == 5.5


def test_every_setting_reaches_its_backend(tmp_path: Path) -> None:
    options = config(tmp_path).backend_options()
    for table, name in (key.name.split(".") for key in KEYS if "." in key.name):
        assert hasattr(getattr(options, table), name), (table, name)


def test_settings_of_each_cloud(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[gcs]\nuser_project = "p"\n[azure]\naccount_name = "a"\n')
    told = config(tmp_path, DVFS_GCS_READ_TIMEOUT="2", AZURE_STORAGE_CONNECTION_STRING="AccountKey=c2VjcmV0")
    assert told.backend_options() == BackendOptions(
        gcs=GcsOptions(user_project="p", read_timeout=2.0),
        azure=AzureOptions(account_name="a", connection_string="AccountKey=c2VjcmV0"),
    )
    assert "c2VjcmV0" not in repr(told.backend_options())


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"DVFS_CACHE_SIZE": "big"}, "DVFS_CACHE_SIZE: 'big' is not a size; write 500M, 10GiB or a number of bytes"),
        ({"DVFS_S3_PATH_STYLE": "maybe"}, "DVFS_S3_PATH_STYLE: 'maybe' is neither true nor false"),
        ({"DVFS_S3_READ_TIMEOUT": "0"}, "DVFS_S3_READ_TIMEOUT: '0' is not a time in seconds"),
        ({"DVFS_S3_READ_TIMEOUT": "nan"}, "DVFS_S3_READ_TIMEOUT: 'nan' is not a time in seconds"),
        ({"DVFS_WORKERS": "many"}, "DVFS_WORKERS: 'many' is neither a number up to 64 nor `auto`"),
        ({"DVFS_WORKERS": "65"}, "DVFS_WORKERS: '65' is neither a number up to 64 nor `auto`"),
        ({"DVFS_STORE": " "}, "DVFS_STORE: it is empty"),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path: Path, environ: dict[str, str], message: str) -> None:
    told = Config({"DVFS_CONFIG": str(tmp_path / "none")} | environ, {})
    with pytest.raises(InvalidInput) as caught:
        [told.get(key.name) for key in KEYS]
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stor = 1\n", "there is no setting 'stor'"),
        ("[s3]\nsecret = 1\n", "there is no setting 's3.secret'"),
        ("store = \n", "{} is not TOML: Invalid value (at line 1, column 9)"),
        ("cache_size = []\n", "{}, cache_size: '[]' is not a size; write 500M, 10GiB or a number of bytes"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        read_file(path)
    assert caught.value.message == message.format(path)


def test_a_file_is_made_with_what_is_set(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    write_file(path, "s3.region", "eu")
    write_file(path, "store", 'a"b\\c\n')
    write_file(path, "s3.path_style", True)
    assert path.read_text() == 'store = "a\\"b\\\\c\\u000a"\n[s3]\nregion = "eu"\npath_style = true\n'
    assert read_file(path) == {"store": 'a"b\\c\n', "s3.region": "eu", "s3.path_style": True}


def test_other_lines_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('# mine\nstore = "/a" # here\n\n[s3] # far\nregion = "eu"\n# end\n')
    write_file(path, "cache_size", 1024)
    write_file(path, "store", "/b")
    write_file(path, "s3.region", "us")
    assert path.read_text() == '# mine\ncache_size = 1024\nstore = "/b"\n\n[s3] # far\n# end\nregion = "us"\n'
    write_file(path, "store", None)
    write_file(path, "s3.region", None)
    assert path.read_text() == "# mine\ncache_size = 1024\n\n[s3] # far\n# end\n"


def test_a_file_that_only_a_person_can_edit_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('"store" = "/a"\n')
    with pytest.raises(InvalidInput) as caught:
        write_file(path, "store", None)
    assert caught.value.message == f"{path} is written in a way that only a person can edit"
    assert [file.name for file in tmp_path.iterdir()] == ["config.toml"]
    assert path.read_text() == '"store" = "/a"\n'


def test_relative_paths_are_those_of_the_place_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = config(tmp_path, DVFS_STORE="store", DVFS_CACHE_DIR="cache", DVFS_STATE_DIR="state")
    monkeypatch.chdir("/")
    assert told.store_url == str(tmp_path / "store")
    assert told.cache_dir == tmp_path / "cache"
    assert told.state_dir == tmp_path / "state"


def test_aws_region_is_the_region(tmp_path: Path) -> None:
    assert config(tmp_path, AWS_REGION="eu-x-1").backend_options().s3.region == "eu-x-1"
    assert config(tmp_path, AWS_REGION="eu-x-1", DVFS_S3_REGION="eu-y-2").backend_options().s3.region == "eu-y-2"
