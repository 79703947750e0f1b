from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model.drawings import RebootMark
from harness.model.result import PageHeat
from harness.model.timeline import Mark, Phase, Sample, Timeline
from harness.report.axes import nice_ceiling, thin
from harness.report.figures import number, one_line, size, unit_of
from harness.report.heatmap import CELLS_MAX, heat_map, thresholds
from harness.report.logs import artefacts, logs, printable
from harness.report.plot import LEFT, RIGHT, WIDTH, downtime_s, plot
from harness.report.prose import byte_rows, pieces
from harness.report.reboots import draw_reboots


def test_nothing_gives_no_plot() -> None:
    assert plot(Timeline()) is None


def test_one_moment_is_a_plot() -> None:
    drawing = plot(Timeline(samples=(Sample(t_s=0.0, status="active"),)))
    assert drawing is not None
    assert [panel.name for panel in drawing.panels] == ["remaining", "dirty", "throughput"]


moments = st.floats(allow_nan=True, allow_infinity=True)
samples = st.builds(
    Sample,
    t_s=moments,
    status=st.text(),
    remaining_bytes=st.integers(0, 2**80),
    dirty_pages_per_s=st.integers(0, 2**40),
    throughput_mbps=moments,
)
phases = st.builds(Phase, side=st.sampled_from(["src", "dst"]), name=st.text(), start_s=moments, end_s=moments)
marks = st.builds(Mark, t_s=moments, side=st.text(), label=st.text())


@given(st.lists(samples, max_size=20), st.lists(phases, max_size=5), st.lists(marks, max_size=20))
def test_no_timeline_breaks_the_plot(some: list[Sample], stretches: list[Phase], flags: list[Mark]) -> None:
    drawing = plot(Timeline(samples=tuple(some), phases=tuple(stretches), marks=tuple(flags)), columns=4)
    if drawing is None:
        return
    numbers = [flag.x for flag in drawing.flags] + [band.x for lane in drawing.lanes for band in lane.bands]
    numbers += [value for panel in drawing.panels for dot in panel.dots for value in dot]
    assert all(math.isfinite(value) for value in (*numbers, drawing.height))
    assert "nan" not in "".join(panel.line for panel in drawing.panels)


def test_labels_never_overlap_within_a_lane() -> None:
    close = tuple(Mark(t_s=0.5 + index / 10_000, side="src", label=f"PASS {index}") for index in range(10))
    drawing = plot(Timeline(marks=(*close, Mark(t_s=1.0, side="dst", label="RESUME"))))
    assert drawing is not None
    labelled = [flag for flag in drawing.flags if flag.label]
    assert len({(flag.label_x, flag.label_y) for flag in labelled}) == len(labelled)
    assert drawing.unlabelled == len(drawing.flags) - len(labelled)
    assert all(LEFT <= flag.x <= RIGHT for flag in drawing.flags)
    assert all(flag.title for flag in drawing.flags)


def test_downtime_runs_from_stop_to_resume() -> None:
    stop, resume = Mark(t_s=0.8, side="src", label="STOP"), Mark(t_s=0.9, side="dst", label="RESUME")
    early = Mark(t_s=0.1, side="dst", label="RESUME")
    assert downtime_s(Timeline(marks=(early, stop, resume))) == (0.8, 0.9)
    assert downtime_s(Timeline(marks=(stop,))) is None
    assert downtime_s(Timeline(marks=(early, stop))) is None


def test_thinning_keeps_ends_and_extremes() -> None:
    points = [(float(index), float(index % 7)) for index in range(10_000)]
    points[5003] = (5003.0, 1e6)
    kept = thin(points, 100)
    assert len(kept) <= 400
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert (5003.0, 1e6) in kept
    assert kept == sorted(kept)
    assert thin(points[:10], 100) == points[:10]


@given(st.floats(1e-6, 1e15))
def test_nice_ceiling(value: float) -> None:
    assert value * (1 - 1e-6) <= nice_ceiling(value) <= value * 2.6


def test_no_bucket_gives_no_map() -> None:
    assert heat_map(PageHeat(pages_per_bucket=8, layers={})) is None
    assert heat_map(PageHeat(pages_per_bucket=8, layers={"sent": ()})) is None


@given(st.integers(1, 3 * CELLS_MAX), st.data())
def test_no_damaged_page_disappears(buckets: int, data: st.DataObject) -> None:
    hurt = data.draw(st.sets(st.integers(0, buckets - 1), min_size=1, max_size=5))
    counts = tuple(1 if index in hurt else 0 for index in range(buckets))
    drawing = heat_map(PageHeat(pages_per_bucket=1, layers={"damaged": counts}))
    assert drawing is not None
    (layer,) = drawing.layers
    assert sum(drawing.counts["damaged"]) == layer.total == len(hurt)
    assert layer.paths
    assert layer.rings
    assert drawing.columns * drawing.rows <= CELLS_MAX + drawing.columns
    assert drawing.columns * drawing.rows * drawing.pages_per_cell >= buckets


def test_eight_gib_have_as_many_cells_as_fit() -> None:
    buckets = 2_097_152 // 64
    layers = {"written": (0,) * buckets, "sent": (64,) * buckets, "damaged": (0,) * (buckets - 1) + (2,)}
    drawing = heat_map(PageHeat(pages_per_bucket=64, layers=layers))
    assert drawing is not None
    assert (drawing.columns, drawing.rows, drawing.cell_size) == (64, 64, "2 MiB")
    assert drawing.labels[4] == (32, "0x100000000")
    assert drawing.regions == ("0x1ffe00000-0x1ffffffff: 2 damaged",)
    assert [layer.name for layer in drawing.layers] == ["damaged", "written", "sent"]


def test_layers_of_unequal_length() -> None:
    drawing = heat_map(PageHeat(pages_per_bucket=1, layers={"sent": (1, 2, 3), "written": (1,)}))
    assert drawing is not None
    assert drawing.counts == {"written": [1, 0, 0], "sent": [1, 2, 3]}


def test_levels_cover_every_count() -> None:
    assert thresholds(0) == []
    assert thresholds(1) == [1]
    steps = thresholds(100_000)
    assert steps[0] == 1
    assert steps == sorted(set(steps))


def test_bytes_of_both_kinds_are_found() -> None:
    for text in (
        "stale; expected 00 11 22 33, found 00 11 22 34",
        "stale; expected 00112233445566770011223344556677, found 00112233445566770011223344556678",
        "stale; expected: 00:11:22:33; found: 00:11:22:34; more",
    ):
        words, ((*_, last),) = byte_rows(text)
        assert words.startswith("stale")
        assert "expected" not in words
        assert last.differs


def test_bytes_in_groups_become_rows() -> None:
    left, right = bytes(range(32)), bytes(range(31)) + b"\xff"
    words, rows = byte_rows(f"2 pages; expected {left.hex(' ', 8)}, found {right.hex(' ', 8)}")
    assert words == "2 pages"
    assert [len(row) for row in rows] == [16, 16]
    assert [pair.found for row in rows for pair in row if pair.differs] == ["ff"]


def test_a_shorter_side_differs_where_it_ends() -> None:
    _, (row,) = byte_rows("expected 00 11 22 33 44, found 00 11 22 33")
    assert [pair.differs for pair in row] == [False] * 4 + [True]


@pytest.mark.parametrize("text", ["expected 5, found 6", "generation 3, ledger says 5", "expected deadbeef", ""])
def test_words_stay_words(text: str) -> None:
    assert byte_rows(text) == (text, ())


@given(st.text(alphabet="0123456789abcdefx -,expcdfoun", max_size=60))
def test_no_text_is_lost(text: str) -> None:
    assert "".join(piece.text for piece in pieces(text)) == text
    byte_rows(text)


@pytest.mark.parametrize(
    ("name", "label", "unit"),
    [
        ("downtime_ms", "downtime", "ms"),
        ("dirty_pages_per_s", "dirty", "pages/s"),
        ("total_s", "total", "s"),
        ("passes", "passes", ""),
        ("_s", " s", ""),
    ],
)
def test_units(name: str, label: str, unit: str) -> None:
    assert unit_of(name) == (label, unit)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2.0, "2"), (54.21, "54.2"), (0.01234, "0.0123"), (18233, "18\u202f233"), (float("nan"), "nan")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_sizes() -> None:
    assert [size(value) for value in (0, 1023, 1 << 20, 3 << 40)] == ["0 B", "1\u202f023 B", "1 MiB", "3 TiB"]


@given(st.text())
def test_one_line_is_one_line(text: str) -> None:
    assert len(one_line(text).splitlines()) <= 1


def test_logs_show_their_ends(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "stderr.log").write_text("".join(f"line {index}\n" for index in range(10_000)))
    (tmp_path / "events.jsonl").write_text("{}\n")
    (tmp_path / "empty.log").write_text("")
    (tmp_path / "stream.bin").write_bytes(b"\x00" * 10)
    events, stderr = logs(tmp_path)
    assert (events.name, stderr.name) == ("events.jsonl", "src/stderr.log")
    assert stderr.text.startswith("line ")
    assert stderr.text.endswith("line 9999\n")
    assert stderr.left_out_bytes + len(stderr.text) == (tmp_path / "src" / "stderr.log").stat().st_size
    assert [item.name for item in artefacts(tmp_path)] == ["empty.log", "events.jsonl", "src/stderr.log", "stream.bin"]


def test_one_endless_line_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("x" * 1_000_000)
    (log,) = logs(tmp_path)
    assert len(log.text) <= 10_000


def test_many_logs_are_bounded_together(tmp_path: Path) -> None:
    for index in range(100):
        (tmp_path / f"{index}.log").write_text("y" * 50_000)
    assert sum(len(log.text) for log in logs(tmp_path)) <= 130_000


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "secret.log"
    outside.write_text("secret")
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "link.log").symlink_to(outside)
    os.mkfifo(folder / "pipe.log")
    assert logs(folder) == ()
    assert artefacts(folder) == ()


def test_control_characters_do_not_reach_the_page() -> None:
    assert printable(b"\x1b[1;31mred\x1b[0m\r\nbell\x07 \xff nul\x00") == "red\nbell· \ufffd nul·"


def reboot(number: int, way: str, duration_s: float, *, came_back: bool = True, findings: int = 0) -> RebootMark:
    return RebootMark(number=number, way=way, duration_s=duration_s, came_back=came_back, findings=findings)


def test_reboots_stand_in_the_lanes_of_their_ways_and_in_their_order() -> None:
    drawing = draw_reboots([reboot(1, "cf9", 0.2), reboot(2, "acpi", 0.4), reboot(3, "cf9", 0.3)])
    assert drawing is not None
    assert [(lane.label, len(lane.bars), lane.note) for lane in drawing.lanes] == [
        ("cf9", 2, "2 x 0.250 s"),
        ("acpi", 1, "1 x 0.400 s"),
    ]
    (first, third), (second,) = (lane.bars for lane in drawing.lanes)
    assert first.x < second.x < third.x
    assert first.height < third.height < second.height
    assert (drawing.count, drawing.wrong) == (3, 0)
    assert second.words == "reboot 2 by acpi: back after 0.400 s"


def test_a_reboot_with_findings_and_one_that_never_came_back_are_wrong() -> None:
    drawing = draw_reboots(
        [reboot(1, "cf9", 0.2, findings=2), reboot(2, "cf9", 9.0, came_back=False), reboot(3, "cf9", 0)]
    )
    assert drawing is not None
    assert [bar.is_wrong for bar in drawing.lanes[0].bars] == [True, True, False]
    assert drawing.wrong == 2
    assert drawing.lanes[0].bars[1].words == "reboot 2 by cf9: not back within 9.0 s"
    assert draw_reboots([]) is None


def test_ten_thousand_reboots_stay_inside_the_drawing() -> None:
    drawing = draw_reboots([reboot(number + 1, "cf9", 0.2) for number in range(10_000)])
    assert drawing is not None
    assert all(0 < bar.x < WIDTH and bar.width >= 1 for bar in drawing.lanes[0].bars)
