"""A protected move as a sequence for the report: who asked whom for what, in order, from both processors' traces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from harness.model.drawings import Actor, SequenceStep, SessionSequence
from harness.model.protection import SealedRecords, SessionCommand, SessionEvidence

STEPS_MAX = 60


def sequence_of(evidence: SessionEvidence, records: SealedRecords | None = None, *, title: str = "") -> SessionSequence:
    """The arrows of one attempt.

    Traces carry no time: a command of the destination stands behind the command of the source that made what it takes.
    *records* is what an observer of the wire counted; without it nothing is drawn between the hosts.
    """
    steps = list(_steps(_runs(evidence.source), _runs(evidence.destination), _crossings(records)))
    return SessionSequence(
        title=title,
        end=evidence.end.value,
        steps=tuple(steps[:STEPS_MAX]),
        steps_left_out=max(0, len(steps) - STEPS_MAX),
    )


def _steps(
    source: Sequence[SessionCommand], destination: Sequence[SessionCommand], crossings: dict[str, list[SequenceStep]]
) -> Iterator[SequenceStep]:
    waiting, is_sent = list(destination), False
    for command in source:
        yield replace(_asked(Actor.SOURCE_HOST, Actor.SOURCE_PROCESSOR, command), must_fail=is_sent)
        is_sent |= command.name == "send-finish" and command.status == 0
        if command.status:
            continue
        yield from crossings.pop(command.name, [])
        partner = command.name.replace("send-", "receive-", 1)
        while partner in {item.name for item in waiting}:
            yield _asked(Actor.DESTINATION_HOST, Actor.DESTINATION_PROCESSOR, waiting[0])
            if waiting.pop(0).name == partner and (not waiting or waiting[0].name != partner):
                break
    for crossing in crossings.values():
        yield from crossing
    for command in waiting:
        yield _asked(Actor.DESTINATION_HOST, Actor.DESTINATION_PROCESSOR, command)


def _runs(commands: Iterable[SessionCommand]) -> list[SessionCommand]:
    """Neighbours that were done alike as one command with their count."""
    runs: list[SessionCommand] = []
    for command in commands:
        if runs and (runs[-1].name, runs[-1].status, command.status) == (command.name, 0, 0):
            runs[-1] = replace(runs[-1], count=runs[-1].count + command.count)
        else:
            runs.append(command)
    return runs


def _asked(host: Actor, processor: Actor, command: SessionCommand) -> SequenceStep:
    return SequenceStep(
        sender=host,
        receiver=processor,
        label=command.name,
        count=command.count,
        status=command.status,
        detail=command.detail,
    )


def _crossings(records: SealedRecords | None) -> dict[str, list[SequenceStep]]:
    """What crosses the wire behind which command of the source."""
    if records is None:
        return {}
    told = {
        "send-start": [("session", records.starts)],
        "send-update-data": [
            ("packets", records.pages),
            ("plain pages", records.plain_pages),
            ("shared list", records.lists),
        ],
        "send-update-vmsa": [("CPU state", len(records.vcpu_packets))],
    }
    return {
        name: [
            SequenceStep(sender=Actor.SOURCE_HOST, receiver=Actor.DESTINATION_HOST, label=label, count=count)
            for label, count in items
            if count
        ]
        for name, items in told.items()
    }
