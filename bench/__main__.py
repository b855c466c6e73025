"""`python -m bench`: runs the workloads and prints the table. Options: `python -m bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from bench import figures, machine, report
from bench.growth import table as growth_table
from bench.growth.curves import Curve
from bench.programs import Failed
from bench.race import table
from bench.race.rows import Row as RaceRow
from bench.scale import SCALES, Scale
from bench.session import Session, started, tell
from bench.timing import Row
from bench.trees import Tree, make_big, make_images, make_texts
from bench.workloads import big_file, editing, first_byte, growth, ingest, race, start, versions, walks
from bench.workloads.epochs import Epochs
from bench.workloads.single_objects import SingleObjects

OUT = machine.ROOT / "bench" / "out"
DOCS = machine.ROOT / "docs" / "BENCHMARKS.md"
RACE_DOCS = machine.ROOT / "docs" / "RACE.md"
GROWTH_DOCS = machine.ROOT / "docs" / "SCALE.md"
GROUPS = ("help", "images", "texts", "big", "edits", "versions")
RACES = {"race": race.PARTS} | {f"race-{part}": (part,) for part in race.PARTS}
"""Groups that are run alone, and only when asked for: they install the rivals."""
GROWTH = "growth"
"""A group that is run alone, and only when asked for: it makes versions of ten million entries."""
COLD_GOALS = {"images": 2.0, "texts": 5.0}


def run(scale: Scale, groups: Sequence[str], folder: Path) -> tuple[list[Row], list[str]]:
    """Measure *groups* of workloads in the empty *folder*; return the rows, and the groups that failed.

    A failure is told and ends its group only.
    """
    workloads: dict[str, Callable[[Session], None]] = {
        "help": start.measure,
        "images": lambda session: _trees(session, make_images(folder, scale.image_files, scale.image_folders)),
        "texts": lambda session: _trees(session, make_texts(folder, scale.text_files, scale.text_folders)),
        "big": lambda session: _big(session, make_big(folder, scale.big_bytes)),
        "edits": editing.measure,
        "versions": versions.measure,
    }
    failed = []
    with started(scale, folder, lambda row: tell(report.text_line(row))) as session:
        for group in groups:
            try:
                workloads[group](session)
            except (Failed, OSError) as error:
                tell(f"{group} ends: {error}")
                failed.append(group)
        return session.rows, failed


def _trees(session: Session, tree: Tree) -> None:
    tell(f"{tree.name}: {len(tree.files)} files, {tree.bytes / 1e6:.0f} MB")
    objects = SingleObjects(session, tree)
    dataset = ingest.measure(session, tree, objects)
    first_byte.measure(session, tree, dataset)
    Epochs(session, tree, dataset, objects, COLD_GOALS[tree.name]).measure()
    walks.measure(session, tree, dataset)
    machine.remove_tree(tree.root)


def _big(session: Session, tree: Tree) -> None:
    tell(f"{tree.name}: one file of {tree.bytes / 1e6:.0f} MB")
    big_file.measure(session, tree)
    machine.remove_tree(tree.root)


def _told() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure dvfs on this machine.")
    parser.add_argument(
        "--scale",
        choices=[*SCALES],
        default=os.environ.get("SCALE") or "full",
        help="how much is measured: small takes about 4 minutes, full about 25  [env var: SCALE; default: full]",
    )
    parser.add_argument(
        "--only",
        choices=(*GROUPS, *RACES, GROWTH),
        action="append",
        help="measure this group only; may be repeated, but for `growth`, and `race` and its parts",
    )
    parser.add_argument("--work-dir", type=Path, help="folder for everything a run writes  [default: as $TMPDIR says]")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="put the table into docs/BENCHMARKS.md, that of the race into docs/RACE.md, of growth into docs/SCALE.md",
    )
    parser.add_argument("--from", dest="figures", type=Path, metavar="JSON", help="take the figures of an earlier run")
    told = parser.parse_args()
    if told.scale not in SCALES:
        parser.error(f"SCALE is {told.scale!r}: choose from {', '.join(SCALES)}")
    if told.only is not None and len(told.only) > 1 and not {*RACES, GROWTH}.isdisjoint(told.only):
        parser.error("a race is run alone, and so is growth")
    return told


def main() -> None:
    told = _told()
    if told.only is not None and told.only[0] in RACES:
        _race(told)
        return
    if told.only == [GROWTH]:
        _growth(told)
        return
    if told.figures is not None:
        rows, about = report.from_json(json.loads(told.figures.read_text()))
    else:
        rows, about = _measured(SCALES[told.scale], told.only or GROUPS, told.work_dir)
        tell(f"figures: {figures.write_json(OUT, '', report.to_json(rows, about))}")
    print(report.text_table(rows))
    if told.write_docs:
        report.write_docs(DOCS, rows, about)
    if "failed" in about:
        sys.exit(1)


def _race(told: argparse.Namespace) -> None:
    """Run the race, or take the figures of an earlier one; end with 1 where dvfs itself failed."""
    if told.figures is not None:
        rows, about = table.from_json(json.loads(told.figures.read_text()))
    else:
        rows, about = _raced(SCALES[told.scale], RACES[told.only[0]], told.work_dir)
        tell(f"figures: {figures.write_json(OUT, 'race-', table.to_json(rows, about))}")
    print(table.text_table(rows))
    if told.write_docs:
        table.write_docs(RACE_DOCS, rows, about)
    if "failed" in about:
        sys.exit(1)


def _growth(told: argparse.Namespace) -> None:
    """Follow growth, or take the figures of an earlier run; end with 1 where something failed."""
    if told.figures is not None:
        curves, about = growth_table.from_json(json.loads(told.figures.read_text()))
    else:
        curves, about = _grown(SCALES[told.scale], told.work_dir)
        tell(f"figures: {figures.write_json(OUT, 'growth-', growth_table.to_json(curves, about))}")
    print(growth_table.text_table(curves))
    if told.write_docs:
        growth_table.write_docs(GROWTH_DOCS, curves, about)
    if "failed" in about:
        sys.exit(1)


def _measured(scale: Scale, groups: Sequence[str], work_dir: Path | None) -> tuple[list[Row], dict[str, str]]:
    with _work_folder(scale, scale.disk_bytes, work_dir) as (folder, about):
        rows, failed = run(scale, groups, folder)
        about |= {"failed": ", ".join(failed)} if failed else {}
    return rows, about


def _raced(scale: Scale, parts: tuple[str, ...], work_dir: Path | None) -> tuple[list[RaceRow], dict[str, str]]:
    place = _work_folder(scale, scale.disk_bytes, work_dir)
    with place as (folder, about), started(scale, folder, lambda row: None) as session:
        raced, rivals, failed = race.run(session, parts)
        about["versions"] = ", ".join(f"{name} {number}" for name, number in rivals.versions.items())
        about |= {f"without {name}": reason for name, reason in rivals.missing.items()}
        about |= {"failed": ", ".join(failed)} if failed else {}
    return raced.rows, about


def _grown(scale: Scale, work_dir: Path | None) -> tuple[list[Curve], dict[str, str]]:
    place = _work_folder(scale, scale.growth.disk_bytes, work_dir)
    with place as (folder, about), started(scale, folder, lambda row: None) as session:
        curves, failed = growth.run(session)
        about |= {"failed": ", ".join(failed)} if failed else {}
    return curves, about


@contextmanager
def _work_folder(scale: Scale, disk_bytes: int, work_dir: Path | None) -> Iterator[tuple[Path, dict[str, str]]]:
    """Give a folder for a run, on a disk with *disk_bytes* free, removed at its end, and what is told of the run.

    The minutes come when it ends.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    # A short name: folders of sockets are in it.
    folder = Path(tempfile.mkdtemp(prefix="dvfs-bench-", dir=work_dir))
    try:
        machine.check_disk(folder, disk_bytes)
        about = {"scale": scale.name, "date": time.strftime("%Y-%m-%d")} | machine.description(folder)
        began = time.monotonic()
        yield folder, about
        about["minutes"] = f"{(time.monotonic() - began) / 60:.1f}"
    finally:
        machine.remove_tree(folder)


def _interrupt(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
