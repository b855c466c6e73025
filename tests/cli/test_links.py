import os
from pathlib import Path

from tests.cli.conftest import Program
from tests.http_server import HttpServer


def test_smoke(dvfs: Program, tmp_path: Path) -> None:
    with HttpServer() as server:
        data = os.urandom(3_000_000)
        url = server.put("/a/big.bin", data)
        small = server.put("/a/small%20x.txt".replace("%20", " "), b"small").replace(" ", "%20")
        dvfs.ok("create", "--project", "p", "--name", "d")
        print(dvfs.ok("add", "--links", url, small, "--dataset-folder", "x/y"))
        print(dvfs.ok("list"))
        dvfs.ok("close")
        print(dvfs.ok("list", "--json"))
        dvfs.ok("get", "--copy", "out", "-q")
        assert (dvfs.folder / "out/x/y/big.bin").read_bytes() == data
        print(dvfs.ok("verify"))
        print(dvfs.ok("verify", "--folder", "out"))
        for r in server.requests:
            print(r)
        server.put("/a/small x.txt", b"smell")
        print(dvfs("verify"))
        print(dvfs("get", "--copy", "out2", "-q", environ={"DVFS_CACHE_DIR": str(tmp_path / "c2")}))
        print(dvfs("get", "--copy", "out3", "-q"))
        print(dvfs("cache", "verify"))
        assert 0
