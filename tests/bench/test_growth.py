"""Growth: what a curve says of its values, what the table shows, and a run of small sizes on a real S3 server."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.growth import making, table
from bench.growth.curves import Axis, Curve, Measure
from bench.growth.curves import Growth as Grows
from bench.growth.measured import DEEDS
from bench.scale import SCALES, Growth
from bench.session import Session, started
from bench.workloads import growth
from dvfs.store.block import BlockRef, Codec
from dvfs.store.catalog.entry import Entry
from dvfs.store.catalog.key import path_of
from dvfs.store.digest import block_digest
from dvfs.store.ids import PackId

ABOUT = {"scale": "tiny"}


def curve(
    *values: float, growth: Grows = Grows.FLAT, most: float | None = None, answers: tuple[float, ...] = ()
) -> Curve:
    sizes = [10**number for number in range(len(values))]
    return Curve(
        "find",
        "find of all",
        Axis.ENTRIES,
        Measure.REQUESTS,
        growth,
        most,
        {size: [value] for size, value in zip(sizes, values, strict=True)},
        dict(zip(sizes, answers, strict=False)),
    )


# -- curves


def test_flat_is_at_most_twice_the_first() -> None:
    assert (curve(10, 300, 20).ratio, curve(10, 300, 20).is_met) == (2.0, True)
    assert curve(10, 20, 20.1).is_met is False
    assert curve(10).is_met is None
    assert (curve(0, 7).ratio, curve(0, 7).is_met) == (None, None)


def test_what_grows_with_the_answer_is_measured_against_it() -> None:
    asked = {"growth": Grows.ANSWER, "answers": (1, 50, 1000)}
    assert curve(10, 1, 20_000, **asked).is_met is True  # type: ignore[arg-type]
    assert curve(10, 1, 20_001, **asked).is_met is False  # type: ignore[arg-type]
    # An answer that becomes less is no reason to ask for less than twice the first.
    assert curve(10, 20, growth=Grows.ANSWER, answers=(10, 1)).is_met is True


def test_no_value_may_exceed_the_most() -> None:
    assert curve(1, 2, 2, most=2).is_met is True
    assert curve(1, 3, 2, most=2).is_met is False
    assert curve(0, 2, growth=Grows.TOLD, most=2).is_met is True
    assert curve(0, 2, growth=Grows.TOLD).is_met is None


def test_a_value_is_the_median_of_its_runs() -> None:
    one = curve(5, 6)
    one.runs[10] += [8, 100]
    assert (one.value(10), one.ratio, one.value(100)) == (8, 1.6, None)


# -- the table


def test_cells_show_values_ratio_goal_and_verdict() -> None:
    one = replace(curve(900_000, 1_200_000, most=1e6), measure=Measure.SENT)
    assert table.headings([one]) == ("entries in a version", "", "1", "10", "last/first", "last/before", "goal", "met")
    shown = ("find of all", "bytes sent", "900 KB", "1.2 MB", "1.33", "1.33", "flat: ≤ 2.0, ≤ 1 MB", "NO")
    assert table.cells(one, one.sizes) == shown
    walk = replace(curve(2, 4000, growth=Grows.ANSWER, answers=(1, 1000)), measure=Measure.SECONDS)
    assert table.cells(walk, walk.sizes)[2:] == (
        "2.00 s",
        "4000 s",
        "2,000",
        "2,000",
        "with the answer: ≤ 2,000",
        "yes",
    )
    assert table.cells(curve(0, 7, growth=Grows.TOLD), [1, 10]) == ("find of all", "requests", "0", "7", "", "", "", "")


def test_figures_survive_json() -> None:
    curves = [curve(1, 2, answers=(1, 3), most=7), replace(curve(3), axis=Axis.VERSIONS, measure=Measure.MEMORY)]
    assert table.from_json(json.loads(json.dumps(table.to_json(curves, ABOUT)))) == (curves, ABOUT)


def test_the_page_gets_a_table_for_each_axis_and_the_picture(tmp_path: Path) -> None:
    page = tmp_path / "SCALE.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    curves = [curve(1, 1000), replace(curve(3, 3), axis=Axis.VERSIONS), curve(0, 5)]
    table.write_docs(page, curves, ABOUT)
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n- scale: tiny\n")
    assert text.endswith(f"{table.END}\nafter\n")
    assert "\n| entries in a version |" in text
    assert "\n| versions in a lineage |" in text
    drawn = ElementTree.fromstring((tmp_path / "scale-growth.svg").read_text())
    first, second = [line.attrib["points"].split() for line in drawn.findall("{*}polyline")]  # nothing over 0
    heights = [[float(point.split(",")[1]) for point in points] for points in (first, second)]
    assert heights[0][1] < heights[0][0] == heights[1][0] == heights[1][1]


# -- what versions are made of


@pytest.mark.parametrize("entries", [5, 1_001, 1_003, 5_000, 120_000])
def test_entries_come_in_catalog_order_and_in_number(entries: int) -> None:
    data = random.Random(1).randbytes(1 << 20)
    ref = BlockRef(0, PackId(bytes(24)), 0, len(data), len(data), Codec.RAW, block_digest(data))
    pieces = making.Pieces([(ref, memoryview(data))], random.Random(2))
    keys: list[bytes] = []
    files: list[tuple[bytes, Entry]] = []
    for key, entry in making.items(entries, pieces):
        keys.append(key)
        if entry.is_file:
            files.append((path_of(key), entry))
    assert keys == sorted(set(keys))
    assert entries - 2 <= len(keys) <= entries
    assert making.shape(len(keys))[0] == len(files)
    assert len({entry.digest for _, entry in files}) >= 0.999 * len(files)
    parents = {b""} | {path_of(key) for key in keys}
    assert all(path.rpartition(b"/")[0] in parents for path, _ in files)
    for _, entry in files[:: -(-len(files) // 3)]:
        ((_, start, length),) = entry.content  # type: ignore[misc]
        assert (length, block_digest(data[start : start + length])) == (entry.size, entry.digest)


# -- a run

SIZES = Growth((700,), (2,), 700, rounds=1, delay_seconds=0.02, disk_bytes=0, quiet_seconds=0.1)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    folder = tmp_path / "run"
    folder.mkdir()
    with started(replace(SCALES["tiny"], growth=SIZES), folder, lambda row: None) as session:
        yield session


def test_a_run_fills_every_curve_and_leaves_nothing(session: Session) -> None:
    curves, failed = growth.run(session)
    assert failed == []
    assert len(curves) == sum(len(deed.measures) for deeds in DEEDS.values() for deed in deeds)
    for one in curves:
        assert one.sizes == [700] if one.axis is Axis.ENTRIES else [2]
        assert all(value >= 0 for runs in one.runs.values() for value in runs)
    by_name = {(one.axis, one.key, one.measure): one for one in curves}
    assert by_name[Axis.ENTRIES, "find", Measure.REQUESTS].answers == {700: 700}
    sent = by_name[Axis.ENTRIES, "commit", Measure.SENT].value(700)
    assert sent is not None
    assert making.EDITS * 500 < sent < 1e6
    memory = by_name[Axis.ENTRIES, "mount", Measure.MEMORY].value(700)
    assert memory is not None
    assert memory > 20e6
    assert by_name[Axis.VERSIONS, "diff-first", Measure.ANSWER].value(2) == making.EDITS
    assert by_name[Axis.VERSIONS, "diff-first", Measure.IN_A_ROW].answers == {2: making.EDITS}
    left = [path.name for path in session.folder.iterdir() if path.name.startswith(("machine", "mount"))]
    assert left == []
