"""Figures of the race, goals beside them, and what the table says where some are missing."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench.race import table
from bench.race.rows import CONTESTANTS, DVFS, MOUNTS, NATIVE, Figure, Goal, Measure, Row, Taken

ABOUT = {"scale": "tiny", "versions": "JuiceFS 1"}


def figure(*rates: float, files: int = 100, **values: float) -> Figure:
    """Return runs of *rates* files a second."""
    return Figure([Taken(files / rate, files, files * 1000, **values) for rate in rates])  # type: ignore[arg-type]


def row(figures: dict[str, Figure], *goals: Goal, unit: Measure = Measure.FILES, **values: object) -> Row:
    return Row("images.cold.0ms", "images: cold epoch (all)", unit, figures, goals, **values)  # type: ignore[arg-type]


def cell(one: Row, name: str) -> str:
    return dict(zip(table.headings(), table.cells(one), strict=True))[name]


def test_a_goal_is_against_the_fastest_that_was_measured() -> None:
    goal = Goal(Measure.FILES, 2.0, MOUNTS)
    figures = {DVFS: figure(900, 1000, 5000), "JuiceFS": figure(500), "s3fs": figure(30), "rclone": figure(9000)}
    assert row(figures, goal).is_met(goal) is False

    figures["rclone"].failed = "it crashed"
    one = row(figures, goal)
    assert one.fastest(MOUNTS) == "JuiceFS"
    assert one.bound(goal) == 1000
    assert one.is_met(goal) is True
    assert cell(one, "goals of dvfs") == "≥ 2 x JuiceFS (is 2.00 x): met"

    figures["JuiceFS"] = figure(500.1)
    assert one.is_met(goal) is False
    assert cell(one, "goals of dvfs").endswith("MISSED")


def test_a_goal_without_reference_or_without_dvfs_is_not_measured() -> None:
    goal = Goal(Measure.FILES, 2.0, MOUNTS)
    nobody = row({DVFS: figure(100)}, goal)
    assert (nobody.bound(goal), nobody.is_met(goal)) == (None, None)
    assert cell(nobody, "goals of dvfs") == "≥ 2 x JuiceFS or rclone or s3fs: not measured"

    failed = row({DVFS: Figure(failed="gone"), "JuiceFS": figure(100)}, goal)
    assert failed.is_met(goal) is None
    assert cell(failed, DVFS) == "failed"


def test_less_is_better_for_seconds_bytes_and_latencies() -> None:
    seconds = Goal(Measure.SECONDS, 1.0, (NATIVE,), plus=0.5)
    figures = {DVFS: Figure([Taken(0.53)]), NATIVE: Figure([Taken(0.03)])}
    assert row(figures, seconds, unit=Measure.SECONDS).is_met(seconds) is True
    figures[DVFS] = Figure([Taken(0.54)])
    assert row(figures, seconds, unit=Measure.SECONDS).is_met(seconds) is False

    sent = Goal(Measure.SENT, plus=6e6)
    assert row({DVFS: Figure([Taken(1, sent=6_000_000)])}, sent).is_met(sent) is True
    assert row({DVFS: Figure([Taken(1, sent=6_000_001)])}, sent).is_met(sent) is False

    # The fastest of the rivals, not the one that fetched most.
    fetched = Goal(Measure.FETCHED, 1.0, MOUNTS)
    figures = {DVFS: figure(500, fetched=10), "JuiceFS": figure(400, fetched=9), "rclone": figure(10, fetched=99)}
    assert row(figures, fetched).is_met(fetched) is False


def test_a_share_is_of_the_dataset() -> None:
    goal = Goal(Measure.SHARE, plus=0.03)
    one = row({DVFS: figure(10, fetched=30)}, goal, unit=Measure.SHARE, total_bytes=1000)
    assert one.is_met(goal) is True
    assert cell(one, DVFS) == "3.0% fetched"
    one.total_bytes = 999
    assert one.is_met(goal) is False


def test_cells_say_how_often_one_ran_where_others_ran_more() -> None:
    one = row(
        {DVFS: figure(1000, 1000, 2000, fetched=2_000_000, p99_seconds=0.0152), "s3fs": figure(29)},
        shows=(Measure.FETCHED, Measure.P99),
    )
    assert cell(one, DVFS) == "1,000/s, 2 MB fetched, p99 15.2 ms"
    assert cell(one, "s3fs") == "29/s, 0 B fetched, 1 run"
    assert cell(one, "rclone") == ""


def test_failures_are_listed_by_name_with_the_end_of_why() -> None:
    one = row({DVFS: figure(1), "DVC": Figure(failed="dvc pull: exit code 255\nERROR: no such remote\n")})
    assert table.failures([one]) == ["DVC, images.cold.0ms: ERROR: no such remote"]
    assert "- DVC, images.cold.0ms: ERROR: no such remote\n" in table.markdown([one], ABOUT, "x.svg")
    assert "Failed:" not in table.markdown([row({DVFS: figure(1)})], ABOUT, "x.svg")


def test_figures_survive_json() -> None:
    goals = (Goal(Measure.FILES, 2.0, MOUNTS), Goal(Measure.P99, 1.0, ("JuiceFS",)), Goal(Measure.SHARE, plus=0.1))
    figures = {DVFS: figure(100, 120, p99_seconds=0.5), "JuiceFS": figure(10), "s3fs": Figure(failed="no")}
    rows = [row(figures, *goals, shows=(Measure.P99,), total_bytes=5)]
    assert table.from_json(json.loads(json.dumps(table.to_json(rows, ABOUT)))) == (rows, ABOUT)


def test_bars_are_in_proportion_and_of_the_epochs_alone() -> None:
    epoch = row({DVFS: figure(1000), "JuiceFS": figure(250), "rclone": Figure(failed="no")})
    walk = Row("images.find.cold", "images: find", Measure.FILES, {DVFS: figure(77)})
    drawn = ElementTree.fromstring(table.bars([epoch, walk]))
    bars = [float(rect.attrib["width"]) for rect in drawn.findall("{*}rect") if rect.attrib["width"] != "100%"]
    texts = [text.text for text in drawn.findall("{*}text")]
    assert len(bars) == 2
    assert bars[0] == pytest.approx(4 * bars[1], abs=0.5)
    assert texts == ["images: cold epoch", DVFS, "1,000/s", "JuiceFS", "250/s"]


def test_the_page_gets_table_and_picture_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "RACE.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write_docs(page, [row({DVFS: figure(1000)})], ABOUT)
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n- scale: tiny\n")
    assert text.endswith(f"{table.END}\nafter\n")
    assert "\nold\n" not in text
    assert "](race-epochs.svg)" in text
    assert (tmp_path / "race-epochs.svg").read_text().startswith("<svg")

    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="no section"):
        table.write_docs(page, [], ABOUT)


def test_every_contestant_has_a_column() -> None:
    assert table.headings() == ("workload", *CONTESTANTS, "goals of dvfs")
    assert len(table.cells(row({}))) == len(table.headings())
