"""Traces: what is written is what is read, and nothing else is believed."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfs.store import traces
from dvfs.store.block import BlockRef, Codec
from dvfs.store.catalog.inner import PageRef
from dvfs.store.digest import block_digest
from dvfs.store.errors import Conflict, Corrupt, InvalidInput, NotFound
from dvfs.store.folder import FolderBackend
from dvfs.store.ids import PackId, VersionId
from dvfs.store.traces import Trace

ID = VersionId("0123456789abcdef" * 2)
DIGEST = bytes(range(32))
ENTRIES = 1000
ROOT = PageRef(b"", 0, ENTRIES, 900, 0, DIGEST, BlockRef(0, PackId(bytes(24)), 0, 1, 1, Codec.RAW, bytes(32)))


def trace_of(*ranks: int) -> Trace:
    return Trace(DIGEST, 1_700_000_000_000_000_000, array("Q", ranks))


@pytest.fixture
def backend(tmp_path: Path) -> FolderBackend:
    return FolderBackend(tmp_path / "store")


@given(st.lists(st.integers(0, ENTRIES - 1), max_size=300), st.integers(0, 1 << 62))
def test_what_is_encoded_is_decoded(ranks: list[int], time_ns: int) -> None:
    trace = Trace(DIGEST, time_ns, array("Q", ranks))
    assert traces.decode(traces.encode(trace), DIGEST, ENTRIES) == trace


def test_many_files_take_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "_PIECE_FILES", 7)
    trace = trace_of(*range(50))
    assert traces.decode(traces.encode(trace), DIGEST, ENTRIES) == trace


def test_no_more_files_than_may_be_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_FILES", 10)
    assert len(traces.decode(traces.encode(trace_of(*range(50))), DIGEST, ENTRIES).ranks) == 10


def test_a_damaged_trace_is_refused() -> None:
    data = traces.encode(trace_of(*range(0, 999, 3)))
    for at in range(len(data)):
        with pytest.raises(Corrupt):
            traces.decode(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :], DIGEST, ENTRIES)
        with pytest.raises(Corrupt):
            traces.decode(data[:at], DIGEST, ENTRIES)


def _sealed(body: bytes) -> bytes:
    return body + block_digest(body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (traces._HEADER.pack(b"dvT2", 0, 0, DIGEST), "no trace that this dvfs can read"),
        (traces._HEADER.pack(b"dvT1", (1 << 24) + 1, 0, DIGEST), "no trace that this dvfs can read"),
        (traces._HEADER.pack(b"dvT1", 1, 0, DIGEST), "it has 0 files and says 1"),
        (traces._HEADER.pack(b"dvT1", 0, 0, DIGEST) + b"abc", "ends inside a piece"),
        (traces._HEADER.pack(b"dvT1", 1, 0, DIGEST) + traces._PIECE.pack(0, 7, 7) + bytes(7), "a piece of 7 bytes"),
        (traces._HEADER.pack(b"dvT1", 1, 0, DIGEST) + traces._PIECE.pack(1, 1 << 30, 4) + bytes(4), "a piece of"),
        (traces._HEADER.pack(b"dvT1", 1, 0, DIGEST) + traces._PIECE.pack(1, 8, 4) + bytes(4), "zstd"),
        (traces._HEADER.pack(b"dvT1", 1, 0, DIGEST) + traces._PIECE.pack(9, 8, 8) + bytes(8), "codec"),
    ],
)
def test_a_hostile_trace_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(Corrupt, match=why):
        traces.decode(_sealed(body), DIGEST, ENTRIES)


def test_a_trace_of_another_version_or_of_files_it_does_not_have() -> None:
    with pytest.raises(Corrupt, match="of another version"):
        traces.decode(traces.encode(trace_of(1)), bytes(32), ENTRIES)
    with pytest.raises(Corrupt, match="a file 1000, the version 1000 entries"):
        traces.decode(traces.encode(trace_of(1, ENTRIES)), DIGEST, ENTRIES)


def test_traces_are_kept_beside_their_version_by_name(backend: FolderBackend) -> None:
    traces.check_free(backend, ID, "b")
    traces.write(backend, ID, "b", trace_of(3, 1))
    traces.write(backend, ID, "a", trace_of(5))
    assert traces.names(backend, ID) == ["a", "b"]
    assert traces.read(backend, ID, ROOT, "b").ranks.tolist() == [3, 1]
    with pytest.raises(Conflict, match="has a trace 'b' already"):
        traces.write(backend, ID, "b", trace_of(9))
    with pytest.raises(Conflict, match="has a trace 'b' already"):
        traces.check_free(backend, ID, "b")
    traces.remove(backend, ID, "b")
    assert traces.names(backend, ID) == ["a"]
    with pytest.raises(NotFound, match="has no trace 'b'"):
        traces.remove(backend, ID, "b")
    with pytest.raises(NotFound, match="has no trace 'b'"):
        traces.read(backend, ID, ROOT, "b")


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-x", "ä", "x" * 101])
def test_names_that_no_trace_has(backend: FolderBackend, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be named"):
        traces.check_free(backend, ID, name)


def test_first_reads_are_those_of_all_traces_once_each(backend: FolderBackend) -> None:
    traces.write(backend, ID, "b", trace_of(3, 1, 7))
    traces.write(backend, ID, "a", trace_of(5, 3))
    assert traces.first_reads(backend, ID, ROOT, None).tolist() == [5, 3, 1, 7]
    assert traces.first_reads(backend, ID, ROOT, ["b"]).tolist() == [3, 1, 7]
    assert traces.first_reads(backend, ID, ROOT, []).tolist() == []


def test_a_trace_that_cannot_be_read_is_left_out_unless_it_is_asked_for(
    backend: FolderBackend, caplog: pytest.LogCaptureFixture
) -> None:
    traces.write(backend, ID, "good", trace_of(3))
    traces.write(backend, ID, "other", replace(trace_of(4), digest=bytes(32)))
    assert traces.first_reads(backend, ID, ROOT, None).tolist() == [3]
    assert "trace 'other'" in caplog.text
    with pytest.raises(Corrupt, match="trace 'other'"):
        traces.first_reads(backend, ID, ROOT, ["other"])
    with pytest.raises(NotFound):
        traces.first_reads(backend, ID, ROOT, ["gone"])
