"""What one VM asked of its secure processor, and the answers: the trace that is judged."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from harness.confidential.soft.processor.status import CommandRefusedError
from harness.model.protection import SessionCommand


class CommandTrace:
    """Commands in order; runs of the same command that succeeded are one entry. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commands: list[SessionCommand] = []

    def commands(self) -> tuple[SessionCommand, ...]:
        """All of them so far."""
        with self._lock:
            return tuple(self._commands)

    @contextmanager
    def command(self, name: str, *, vcpu: int | None = None, ram_page: int | None = None) -> Iterator[None]:
        """Note one command: done, or refused with what its body raised."""
        try:
            yield
        except CommandRefusedError as refusal:
            self.refused(name, refusal, vcpu=vcpu, ram_page=ram_page)
            raise
        self.done(name, vcpu=vcpu)

    def done(self, name: str, *, count: int = 1, vcpu: int | None = None) -> None:
        """*count* of *name* succeeded."""
        if not count:
            return
        with self._lock:
            last = self._commands[-1] if self._commands else None
            if last and (last.name, last.status, last.vcpu) == (name, 0, vcpu):
                self._commands[-1] = replace(last, count=last.count + count)
            else:
                self._commands.append(SessionCommand(name=name, count=count, vcpu=vcpu))

    def refused(
        self, name: str, refusal: CommandRefusedError, *, vcpu: int | None = None, ram_page: int | None = None
    ) -> None:
        """*name* was refused."""
        entry = SessionCommand(
            name=name, status=refusal.status.value, vcpu=vcpu, detail=refusal.reason, ram_page=ram_page
        )
        with self._lock:
            self._commands.append(entry)
