from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.model.drawings import Actor, MapStrip, SequenceStep, SessionSequence, StripRow
from harness.model.errors import SetupError, UsageError
from harness.model.memory import Damage
from harness.model.page_map import Witness
from harness.model.result import CaseResult, PageHeat
from harness.model.seed import Seed
from harness.model.timeline import Mark, Phase, Sample, Timeline
from harness.model.verdict import Finding, Verdict
from harness.report import html
from harness.report.document import dump
from harness.report.html import render_case, render_index, write_index, write_pages, write_report
from harness.report.store import REPORT, RESULT, CaseFolder, Run

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x1b[31m https://evil.example/ {{ 7 * 7 }}"
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a page could load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.text += data


def a_timeline(hop: int = 0, count: int = 50) -> Timeline:
    samples = tuple(
        Sample(
            t_s=index / count,
            status="active",
            remaining_bytes=(128 << 20) * (count - index) // count,
            transferred_bytes=index << 20,
            dirty_pages_per_s=100 * index,
            throughput_mbps=9.5 * index,
            dirty_sync_count=index // 10,
        )
        for index in range(count)
    )
    phases = (
        Phase(side="src", name="active", start_s=0.0, end_s=0.9),
        Phase(side="src", name="completed", start_s=0.9, end_s=1.0),
        Phase(side="dst", name="active", start_s=0.0, end_s=1.0),
    )
    marks = (Mark(t_s=0.8, side="src", label="STOP"), Mark(t_s=0.85, side="dst", label="RESUME"))
    return Timeline(hop=hop, samples=samples, phases=phases, marks=marks)


def a_heat(buckets: int = 256, pages_per_bucket: int = 8, damaged: int | None = 70) -> PageHeat:
    hurt = tuple(1 if index == damaged else 0 for index in range(buckets))
    layers = {"written": tuple(range(buckets)), "sent": (pages_per_bucket,) * buckets, "damaged": hurt}
    return PageHeat(pages_per_bucket=pages_per_bucket, layers=layers)


FAILED = CaseResult(
    case="memory/precopy",
    verdict=Verdict.FAIL,
    reason="2 pages are stale at 0x1000-0x1fff",
    hint="look at the dirty log",
    seed=Seed(7),
    run_dir="runs/r/memory-precopy",
    checks={"memory/host": 2, "ends": 0},
    findings=tuple(
        Finding(check="memory/host", kind=kind.value, where="gpa 0x1000-0x1fff", detail=f"1 page; {kind}", remedy="r")
        for kind in Damage
    ),
    timings={"total_s": 2.5, "downtime_ms": 54.2},
    versions={"harness": "0.1.0", "qemu_src": "7.2.22"},
    settings={"memory_mib": 128, "list": [1, 2]},
    faults=("drop",),
    timelines=(a_timeline(),),
    heat=a_heat(),
)
BARE = CaseResult(case="c", verdict=Verdict.PASS, reason="", seed=Seed(0), run_dir="runs/r/c")
HOSTILE = replace(
    FAILED,
    case=EVIL,
    reason=EVIL,
    hint=EVIL,
    run_dir=EVIL,
    checks={EVIL: 1},
    findings=(Finding(check=EVIL, kind=EVIL, where=EVIL, detail=EVIL, remedy=EVIL),),
    versions={EVIL: EVIL, "harness": EVIL},
    settings={EVIL: [EVIL]},
    timings={EVIL: 1.0},
    faults=(EVIL,),
    timelines=(
        Timeline(
            samples=(Sample(t_s=0.0, status=EVIL), Sample(t_s=0.1, status=EVIL)),
            phases=(Phase(side=EVIL, name=EVIL, start_s=0.0, end_s=1.0),),
            marks=(Mark(t_s=0.1, side=EVIL, label=EVIL),),
        ),
    ),
    heat=PageHeat(pages_per_bucket=1, layers={EVIL: (1, 2)}),
    map_strips=(
        MapStrip(
            title=EVIL,
            total_pages=10,
            pages_per_column=1,
            windows=((0, 0, 10),),
            rows=(StripRow(witness=EVIL, kinds=EVIL),),
            mismatch_pages=1,
            mismatches=(EVIL,),
        ),
    ),
    sessions=(
        SessionSequence(
            title=EVIL,
            end=EVIL,
            steps=(
                SequenceStep(
                    sender=Actor.SOURCE_HOST, receiver=Actor.SOURCE_PROCESSOR, label=EVIL, status=1, detail=EVIL
                ),
            ),
        ),
    ),
)


def a_strip(hop: int = 1, columns: int = 1000) -> MapStrip:
    """Kinds that change in every column: the largest drawing that there can be."""
    rows = tuple(StripRow(witness=witness.value, kinds=("psbm-" * columns)[:columns]) for witness in Witness)
    return MapStrip(
        title=f"hop {hop}",
        total_pages=columns * 66,
        pages_per_column=66,
        windows=((0, 0, 1000), (1 << 20, 1000, columns * 66 - 1000)),
        rows=rows,
        mismatch_pages=columns,
        mismatches=("0x1000-0x1fff",),
        mismatches_left_out=3,
    )


def a_session(hop: int = 1) -> SessionSequence:
    steps = (
        SequenceStep(sender=Actor.SOURCE_HOST, receiver=Actor.SOURCE_PROCESSOR, label="send-update-data", count=65211),
        SequenceStep(sender=Actor.SOURCE_HOST, receiver=Actor.DESTINATION_HOST, label="packets", count=65211),
        SequenceStep(
            sender=Actor.DESTINATION_HOST,
            receiver=Actor.DESTINATION_PROCESSOR,
            label="receive-update-data",
            status=0xB,
            detail="the packet does not verify",
        ),
    )
    return SessionSequence(title=f"hop {hop}", end="failed", steps=steps)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "events.jsonl").write_text('{"t": 0, "who": "src", "what": "STOP"}\n')
    (tmp_path / "dst-console.log").write_bytes(b"\x1b[2Jready\r\n" + EVIL.encode() + b"\x00\xff")
    (tmp_path / (f"a<b>&'\"{'x' * 5}.log")).write_text(EVIL)
    return tmp_path


RESULTS = {
    "failed": FAILED,
    "hostile": HOSTILE,
    "empty timeline": replace(BARE, timelines=(Timeline(),)),
    **{f"bare {verdict}": replace(BARE, verdict=verdict) for verdict in Verdict},
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_nothing_is_fetched_and_nothing_escapes(result: CaseResult, folder: Path) -> None:
    text = render_case(result, folder)
    page = Page(text)
    assert not {"img", "link", "iframe", "object", "embed", "base", "form", "use", "image"} & set(page.tags)
    assert page.tags.count("script") == 1
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in {"src", "srcset", "action", "xlink:href"}
        assert name != "href" or (tag == "a" and re.match(r"[\w./%-]+$", value)), value
    css = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css


def test_only_our_own_script_may_run(folder: Path) -> None:
    text = render_case(HOSTILE, folder)
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.replace("&#39;", "'").startswith("default-src 'none'; ")
    assert f"sha256-{digest}" in policy.replace("&#43;", "+")


def test_hostile_text_is_shown_as_text(folder: Path) -> None:
    page = Page(render_case(HOSTILE, folder))
    assert page.text.count("<script>alert(1)</script>") > 10
    assert "49" not in re.findall(r"\{\{.*?\}\}|\b49\b", page.text)


def test_everything_that_a_maintainer_asks_for_is_there(folder: Path) -> None:
    page = Page(render_case(FAILED, folder))
    for kind in Damage:
        assert kind.value in page.text
    for part in (
        "FAIL",
        FAILED.reason,
        FAILED.hint,
        "0x0000000000000007",
        "cvmig repro runs/r/memory-precopy",
        "cvmig run memory/precopy --seed 0x0000000000000007",
        "remaining, MiB",
        "dirty rate, pages/s",
        "throughput, Mbit/s",
        "time after the migrate command",
        "src STOP",
        "dst RESUME",
        "7.2.22",
        "54.2 ms",
        "damaged: pages that arrived wrong",
        "ready\n",
        "·",
    ):
        assert part in page.text, part


def test_bytes_stand_side_by_side(folder: Path) -> None:
    detail = "1 page; expected deadbeef00000000 0000000000000001, found deadbeef00000000 0000000000000002"
    finding = Finding(check="memory/host", kind="stale", where="gpa 0x1000-0x1fff", detail=detail)
    text = render_case(replace(FAILED, findings=(finding,)), folder)
    assert text.count('<td class="differs">') == 1
    assert '<td class="differs">02</td>' in text


def test_bounds_are_told(folder: Path) -> None:
    finding = FAILED.findings[0]
    many = replace(
        FAILED, findings=(finding,) * 1000, timelines=tuple(a_timeline(hop) for hop in range(100)), reason="x" * 100_000
    )
    (folder / "big.log").write_text("line\n" * 1_000_000)
    page = Page(render_case(many, folder))
    assert "800 more findings" in page.text
    assert page.tags.count("svg") == 6 + 3
    assert "94 between them" in page.text
    assert "before it are in the file" in page.text


@pytest.mark.parametrize("count", [0, 1, 2, 30_000])
def test_the_page_stays_small(folder: Path, count: int) -> None:
    result = replace(FAILED, timelines=(a_timeline(count=count) if count else Timeline(),), heat=a_heat(32_768, 64))
    assert len(render_case(result, folder)) < 300_000


def test_the_page_map_and_the_session_are_drawn(folder: Path) -> None:
    page = Page(render_case(replace(FAILED, map_strips=(a_strip(),), sessions=(a_session(),)), folder))
    for part in (
        "Page map",
        "guest, by host",
        "hypercalls",
        "destination",
        "mismatch: not what the guest says",
        "1\u202f000 pages told in two ways: gpa 0x1000-0x1fff and 3 ranges more",
        "source processor",
        "send-update-data \u00d7 65\u202f211",
        "BAD_MEASUREMENT (0x0b): the packet does not verify",
    ):
        assert part in page.text, part
    assert ("g", "class", "refused") in page.attributes
    assert "Page map" not in Page(render_case(FAILED, folder)).text


def test_many_maps_and_sessions_are_bounded(folder: Path) -> None:
    strips = tuple(a_strip(hop) for hop in range(1, 101))
    sessions = tuple(a_session(hop) for hop in range(1, 101))
    text = render_case(replace(FAILED, map_strips=strips, sessions=sessions), folder)
    page = Page(text)
    assert page.text.count("94 between them") == 2
    assert "hop 100" in page.text
    assert "hop 50" not in page.text
    assert len(text) < 1_000_000


def test_what_did_not_happen_is_said(folder: Path) -> None:
    assert "No migration was begun" in Page(render_case(BARE, folder)).text
    assert "Nothing was recorded" in Page(render_case(replace(BARE, timelines=(Timeline(),)), folder)).text
    phases_only = Timeline(phases=(Phase(side="src", name="setup", start_s=0.0, end_s=0.1),))
    assert "No sample" in Page(render_case(replace(BARE, timelines=(phases_only,)), folder)).text


def test_a_folder_that_is_gone_still_gives_a_page(tmp_path: Path) -> None:
    Page(render_case(FAILED, tmp_path / "gone"))


def test_hover_data_are_json(folder: Path) -> None:
    page = Page(render_case(HOSTILE, folder))
    data = [json.loads(value) for _, name, value in page.attributes if name.startswith("data-")]
    assert len(data) == 4


def test_a_bug_in_the_page_never_costs_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(html, "render_case", broken)
    folder = CaseFolder(path=tmp_path)
    write_report(folder, FAILED)
    assert folder.losses.lines == ("report.html: bug in the harness: ZeroDivisionError('oops')",)


def a_run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path)
    for result in (FAILED, BARE, HOSTILE):
        run.new_case(result.case).write(RESULT, dump(result, ["events.jsonl: No space left on device"]))
    return run


def test_warming_up_finds_every_template() -> None:
    html.warm_up()


def test_the_index_links_every_case(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    assert write_pages(run.path) == run.path / "index.html"
    page = Page((run.path / "index.html").read_text())
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert len(links) == 3
    assert all((run.path / link).is_file() for link in links)
    assert len(json.loads((run.path / "index.json").read_text())) == 3


def test_losses_of_the_run_are_on_the_page(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    page = write_pages(run.path / "c")
    assert page == run.path / "c" / REPORT
    assert "artefacts incomplete (events.jsonl: No space left on device)" in Page(page.read_text()).text
    assert not (run.path / "index.html").exists()


def test_pages_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_pages(tmp_path)


def test_pages_that_cannot_be_written(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    (run.path / "c" / REPORT).mkdir()
    with pytest.raises(SetupError, match=REPORT):
        write_pages(run.path / "c")


def test_an_empty_run_has_an_index(tmp_path: Path) -> None:
    folder = write_index(Run(path=tmp_path), [])
    assert not folder.losses
    assert "No case has ended" in Page((tmp_path / "index.html").read_text()).text
    assert "memory/precopy" in Page(render_index([FAILED], name="x")).text
