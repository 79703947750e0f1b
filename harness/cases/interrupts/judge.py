"""Judges the interrupts of a case: what was under way, what arrived, and in which order QEMU went about it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from harness.cases.interrupts.controllers import Controllers
from harness.cases.interrupts.known_defects import KnownDefect, with_explanation
from harness.cases.stage import Guest, Stage
from harness.cases.witness import SeenState
from harness.checks.handler_order import CHECK as HANDLER_ORDER
from harness.checks.handler_order import check_load_order, check_save_order
from harness.checks.interrupts import (
    DELIVERY,
    EXACTLY_ONCE,
    PENDING,
    check_delivery,
    check_exactly_once,
    check_planned,
    check_sightings,
)
from harness.checks.its_tables import CHECK as ITS_TABLES
from harness.checks.its_tables import check_translations
from harness.checks.precondition import CHECK as PRECONDITION
from harness.model.interrupts import (
    InterruptStory,
)
from harness.report.store import write_whole
from harness.vm.trace import parse_trace
from harness.vm.vm import Vm


def judge_handlers(stage: Stage, *, source: Vm, destination: Vm) -> None:
    """The order in which QEMU stopped, saved and loaded, by its own trace, which is kept beside its other artefacts."""
    for vm in (source, destination):
        with contextlib.suppress(OSError):
            write_whole(stage.folder / f"{vm.role}.trace.log", vm.trace.text().encode())
    stage.notebook.judge(HANDLER_ORDER, check_save_order(parse_trace(source.trace.text())))
    stage.notebook.judge(HANDLER_ORDER, check_load_order(parse_trace(destination.trace.text())))


def judge_translations(
    stage: Stage, controllers: Controllers, seen: SeenState, *, source: Guest, destination: Vm
) -> None:
    """What a translation service makes of events on both sides, where there is one."""
    if controllers.translations:
        ours = controllers.translations(seen.sent.devices, source)
        theirs = controllers.translations(seen.held.devices, replace(source, vm=destination))
        stage.notebook.judge(ITS_TABLES, check_translations(ours, theirs))


def judge_stop(stage: Stage, story: InterruptStory) -> None:
    """What was under way at the switch-over."""
    stage.notebook.judge(PRECONDITION, check_planned(story))
    stage.notebook.judge(PENDING, check_sightings(story))


def judge(stage: Stage, story: InterruptStory, known: Sequence[KnownDefect] = ()) -> None:
    """What arrived."""
    notebook, version = stage.notebook, stage.binaries.destination.version
    notebook.judge(EXACTLY_ONCE, with_explanation(check_exactly_once(story), known, version))
    notebook.judge(DELIVERY, with_explanation(check_delivery(story), known, version))
    stage.events.emit("guest", "interrupts", raised=len(story.raised), received=len(story.received))
