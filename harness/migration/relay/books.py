"""What the relay's threads write down and its owner reads at any time."""

from __future__ import annotations

from pathlib import Path

from harness.migration.stream.elements import Configuration, Element
from harness.migration.stream.format import ReturnType
from harness.migration.stream.ledger import PageLedger
from harness.migration.stream.return_path import ReturnMessage
from harness.migration.stream.settled import Frame
from harness.migration.stream.snapshot import SnapshotCollector
from harness.model.errors import StreamError
from harness.model.wire import AppliedFault, WireAccount, WireEnd

MAX_MESSAGES = 256
MAX_NOTES = 32


class Books:
    """One writer per member, so no lock: counters and appends are atomic under the interpreter."""

    def __init__(self) -> None:
        self.ledger = PageLedger()
        self.collector = SnapshotCollector()
        self.frame = Frame()
        self.bytes_forwarded = 0
        self.bytes_returned = 0
        self.end = WireEnd.WAITING
        self.applied: tuple[AppliedFault, ...] = ()
        self.error: StreamError | None = None
        """Why an edited stream was not understood any more."""
        self._machine = ""
        self._messages: list[str] = []
        self._shut_code: int | None = None
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        """Anything that narrows what the account says."""
        if len(self._notes) < MAX_NOTES and text not in self._notes:
            self._notes.append(text)

    def finish(self, end: WireEnd) -> None:
        """The connection ended; the first reason stays."""
        if self.end in {WireEnd.WAITING, WireEnd.OPEN}:
            self.end = end

    def element(self, element: Element) -> None:
        """One element of the stream."""
        if isinstance(element, Configuration):
            self._machine = element.machine
        self.ledger.add(element)
        self.collector.add(element)
        self.frame.add(element)

    def message(self, message: ReturnMessage) -> None:
        """One message of the return path."""
        if message.type == ReturnType.SHUT:
            self._shut_code = message.value
        if len(self._messages) < MAX_MESSAGES:
            self._messages.append(str(message))

    def account(self, record: Path | None) -> WireAccount:
        """Everything so far."""
        return WireAccount(
            blocks=self.ledger.accounts(),
            bytes_forwarded=self.bytes_forwarded,
            bytes_returned=self.bytes_returned,
            passes=len(self.ledger.records_per_pass),
            records_per_pass=tuple(self.ledger.records_per_pass),
            machine=self._machine,
            return_messages=tuple(self._messages),
            shut_code=self._shut_code,
            faults=self.applied,
            end=self.end,
            record_path=str(record or ""),
            notes=tuple(self._notes),
        )
