"""One VM: a QEMU process with everything that controls it, from its start to the last of its output."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, GuestError, LostError, SetupError
from harness.model.machine import MachineSpec
from harness.vm.commandline import FDS, command_line
from harness.vm.console import Console
from harness.vm.doorbell import Doorbell
from harness.vm.features import Features, forget_binary
from harness.vm.keeper import Keeper
from harness.vm.process import Exit, Process
from harness.vm.qmp import QmpSession
from harness.vm.ram import SharedRam
from harness.vm.trace import TraceLog
from harness.vm.vm_files import VmFiles, write_command

T = TypeVar("T")
Channel = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_CHANNEL_BYTES = 64 << 20
"""The reader takes this much before it lets the guest wait for us."""

_GUEST_ENDS = frozenset({"SHUTDOWN", "GUEST_PANICKED"})
"""With ``-action reboot=shutdown`` a triple fault is a SHUTDOWN too (QEMU qapi/run-state.json)."""

_END_S = 5.0
"""A killed process is gone long before; its console has reached its end."""

_CAUSE_S = 1.0
"""How long a process may take to be gone after its QMP connection broke."""


@dataclass(slots=True)
class _Sockets:
    """Our ends of the socket pairs whose other ends QEMU inherits."""

    qmp: socket.socket
    console: socket.socket
    channel: socket.socket
    hypercalls: socket.socket | None = None


class Vm:
    """A running QEMU. Made by :func:`start_vm`."""

    def __init__(
        self,
        *,
        name: str,
        role: str,
        spec: MachineSpec,
        features: Features,
        argv: tuple[str, ...],
        ram: SharedRam,
        process: Process,
        files: VmFiles,
    ) -> None:
        self.name = name
        """Value of ``-name``."""
        self.role = role
        """``src``, ``dst`` ...; begins the names of its files."""
        self.spec = spec
        self.features = features
        self.argv = argv
        self.ram = ram
        self.qmp = QmpSession(role, files.qmp)
        self.console = Console(files.console)
        self.started_s = time.monotonic()
        self.capabilities: dict[str, bool | None] = {}
        """Migration capabilities as QEMU has said it has them, None where it has not answered; only the harness
        switches them."""
        self.limits: dict[str, int] = {}
        """Migration parameters that QEMU has said it has; only the harness sets them."""
        self.listens_at = ""
        """URI to migrate to, once it waits for a stream."""
        self._process = process
        self._files = files
        self._channel: Channel | None = None
        self._hypercalls: socket.socket | None = None
        self._doorbell: Doorbell | None = None
        self._trace: TraceLog | None = None
        self._populating: asyncio.Future[None] | None = None
        self._is_closing = False
        self._boots_since = 0

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        return self._process.pid

    @property
    def is_incoming(self) -> bool:
        """Whether its guest came from another VM."""
        return "-incoming" in self.argv

    @property
    def channel(self) -> Channel:
        """Reader and writer of the guest's command port (COM2)."""
        assert self._channel is not None
        return self._channel

    @property
    def hypercalls(self) -> socket.socket:
        """The host's end of the guest's hypercall port (COM3), for a machine that has it. Closed with the VM."""
        assert self._hypercalls is not None
        return self._hypercalls

    @property
    def doorbell(self) -> Doorbell:
        """The device that the harness plays, for a machine that has it. Closed with the VM."""
        assert self._doorbell is not None
        return self._doorbell

    @property
    def trace(self) -> TraceLog:
        """What QEMU traces, for a machine that is traced. Closed with the VM."""
        assert self._trace is not None
        return self._trace

    @property
    def lost(self) -> asyncio.Future[Exit]:
        """Done as soon as the process is gone. Do not cancel it."""
        return self._process.exited

    @property
    def is_alive(self) -> bool:
        """False when the process has been seen to end."""
        return not self.lost.done()

    @property
    def last_words(self) -> str:
        """QEMU's last lines on stderr, as one line; empty when it said nothing."""
        return self._process.last_words

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why parts of the artefacts are missing (a full disk); empty when nothing is."""
        return tuple(f"{self.role}: {trouble}" for trouble in self._files.troubles)

    def describe_exit(self) -> str:
        """How the process ended, with its last words; ``is running`` while it does."""
        if not self.lost.done():
            return "is running"
        ended = self.lost.result()
        return f"{ended.words}: {ended.last_words}" if ended.last_words else ended.words

    async def guarded(self, work: Awaitable[T], deadline: Deadline, *, what: str, guest_too: bool = False) -> T:
        """Await *work*, but not beyond the process's end or the deadline. *what* names it: "the probe to boot".

        With *guest_too* the guest's own end (power-off, triple fault, panic), now or before, also ends the wait.

        Raises LostError that quotes QEMU's stderr, GuestError that quotes the console, DeadlineError that names *what*,
        or what *work* raises.
        """
        task = asyncio.ensure_future(work)
        guest = asyncio.ensure_future(self._guest_end(deadline) if guest_too else _never())
        try:
            await asyncio.wait((task, self.lost, guest), timeout=deadline.left_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return await self._outcome(task, what, deadline)
            if self.lost.done():
                raise self._loss(what)
            if guest.done() and not guest.exception():
                await self.console.settle()
                raise GuestError(
                    f"{self.role}: the guest is gone ({guest.result()}) while waiting for {what}; "
                    f"its last line: {self.console.last_line!r}"
                )
            raise self._late(what)
        finally:
            await _cancelled(task)
            await _cancelled(guest)

    async def _guest_end(self, deadline: Deadline) -> str:
        event = await self.qmp.wait_event(
            _GUEST_ENDS,
            where=lambda data: data.get("guest", True) is not False,
            since=self._boots_since,
            deadline=deadline,
        )
        return f"{event.name} {event.data.get('reason', event.data.get('action', ''))}".strip()

    async def _outcome(self, task: asyncio.Future[T], what: str, deadline: Deadline) -> T:
        try:
            return task.result()
        except DeadlineError as late:
            # *work* often ends at the same deadline: which of the two notices first is chance, and must not tell.
            if not deadline.has_passed:
                raise
            raise self._late(what, f" ({late})", hint=late.hint) from late
        except GuestError:
            raise
        except (LostError, EOFError, OSError) as loss:
            # A connection breaks a moment before the kernel tells of the death that broke it.
            await asyncio.wait({self.lost}, timeout=_CAUSE_S)
            if self.lost.done():
                raise self._loss(what) from loss
            raise

    def _late(self, what: str, why: str = "", *, hint: str = "") -> DeadlineError:
        words = f"{self.role}: waited for {what} until the deadline{why}; QEMU {self.describe_exit()}"
        return DeadlineError(words, hint=hint)

    def _loss(self, what: str) -> LostError:
        return LostError(f"{self.role}: QEMU {self.describe_exit()} (while waiting for {what})")

    def rebooted(self) -> None:
        """The guest has booted anew, as it was told to: how it ended before is no end of it any more."""
        self._boots_since = self.qmp.cursor

    async def quit(self, deadline: Deadline) -> Exit:
        """Ask QEMU to end, and wait for it."""
        with contextlib.suppress(LostError):
            await self.qmp.execute("quit", deadline=deadline)
        return await self.wait_exit(deadline)

    async def kill(self) -> Exit:
        """End QEMU at once (SIGKILL)."""
        self._process.kill()
        return await self.wait_exit(Deadline.after(_END_S))

    async def wait_exit(self, deadline: Deadline) -> Exit:
        """Wait until the process is gone. DeadlineError when it stays."""
        try:
            return await self._process.wait(deadline)
        except DeadlineError:
            raise DeadlineError(f"{self.role}: QEMU did not end before the deadline") from None

    def _populate(self) -> None:
        """Have the memory populated while QEMU starts and the guest is still elsewhere."""
        loop = asyncio.get_running_loop()
        self._populating = loop.run_in_executor(None, self.ram.populate, lambda: not self._is_closing)

    async def _connect(self, sockets: _Sockets, deadline: Deadline) -> None:
        with ExitStack() as not_taken:
            for sock in (sockets.channel, sockets.qmp):
                not_taken.enter_context(sock)
            self._hypercalls = sockets.hypercalls
            await self.console.attach(sockets.console)
            not_taken.pop_all()
            not_taken.enter_context(sockets.qmp)
            self._channel = await asyncio.open_connection(sock=sockets.channel, limit=_CHANNEL_BYTES)
            not_taken.pop_all()
        await self._greet(sockets.qmp, deadline)

    async def _greet(self, sock: socket.socket, deadline: Deadline) -> None:
        try:
            with ExitStack() as not_taken:
                not_taken.enter_context(sock)
                await self.guarded(self.qmp.connect(sock, deadline=deadline), deadline, what="the QMP greeting")
                not_taken.pop_all()
        except LostError:
            if self.lost.done() and (self.lost.result().status or 0) > 0:
                raise SetupError(
                    f"{self.role}: QEMU refuses to start: {self.describe_exit()}",
                    hint=f"see {self.role}.command.txt in the run's folder",
                ) from None
            raise
        if self.qmp.version != self.features.version:
            forget_binary(self.features.path)
            raise SetupError(
                f"{self.features.path} was QEMU {self.features.version} and is {self.qmp.version} now", hint="run again"
            )

    async def close(self) -> None:
        """Kill what still runs, take the last output, give everything back."""
        self._is_closing = True
        if self._populating:
            await asyncio.wait({self._populating})
        # Ours first: the last one to let go of a memory frees its pages, and QEMU's death does so in the background.
        await asyncio.to_thread(self.ram.close)
        self._process.kill()
        try:
            await self.qmp.disconnect()
            await self.wait_exit(Deadline.after(_END_S))
            await self.console.close(Deadline.after(_END_S))
        finally:
            if self._channel:
                self._channel[1].close()
            if self._hypercalls:
                self._hypercalls.close()
            for given in (self._doorbell, self._trace):
                if given:
                    given.close()
            self._files.close()


@asynccontextmanager
async def start_vm(
    spec: MachineSpec,
    features: Features,
    *,
    role: str,
    artefacts: Path,
    token: str,
    keeper: Keeper,
    incoming: bool = False,
    deadline: Deadline,
) -> AsyncIterator[Vm]:
    """Start QEMU, stopped before its first instruction (``cont`` runs it), and end it with the block.

    *role* names the files in *artefacts*; *token* (of the run) and *role* go into ``-name``. With *incoming* it
    waits for ``migrate-incoming``.

    Raises SetupError when QEMU refuses the command line, LostError when it dies otherwise, DeadlineError.
    """
    name = keeper.vm_name(token, role)
    argv = command_line(spec, features, name=name, incoming=incoming)
    write_command(artefacts / f"{role}.command.txt", argv)
    files = VmFiles.open(artefacts, role)
    vm, sockets = _launch(spec, features, name=name, role=role, argv=argv, files=files)
    try:
        if incoming:
            vm._populate()  # noqa: SLF001 - the other half of this constructor
        await vm._connect(sockets, deadline)  # noqa: SLF001 - the other half of this constructor
        yield vm
    finally:
        # Kill before anything that could be cancelled.
        vm._process.kill()  # noqa: SLF001
        await asyncio.shield(vm.close())


def _launch(
    spec: MachineSpec, features: Features, *, name: str, role: str, argv: tuple[str, ...], files: VmFiles
) -> tuple[Vm, _Sockets]:
    with ExitStack() as undo, ExitStack() as handed_over:
        undo.callback(files.close)
        ram = undo.enter_context(closing(SharedRam.create(spec.memory_bytes)))
        numbers = (FDS.qmp, FDS.console, FDS.channel, *((FDS.hypercalls,) if spec.hypercall_port else ()))
        pairs = [socket.socketpair() for _ in numbers]
        ours = [undo.enter_context(end) for end, _ in pairs]
        theirs = [handed_over.enter_context(end).fileno() for _, end in pairs]
        inherit = dict(zip((FDS.ram, *numbers), (ram.fd, *theirs), strict=True))
        doorbell = undo.enter_context(closing(Doorbell(spec.interrupt_vectors))) if spec.interrupt_vectors else None
        if doorbell:
            inherit[FDS.interrupts] = handed_over.enter_context(doorbell.theirs).fileno()
        trace = undo.enter_context(closing(TraceLog())) if spec.traces else None
        if trace:
            inherit[FDS.trace] = trace.fd
        process = Process(argv, inherit=inherit, log=files.stderr)
        undo.pop_all()
    vm = Vm(name=name, role=role, spec=spec, features=features, argv=argv, ram=ram, process=process, files=files)
    vm._doorbell, vm._trace = doorbell, trace  # noqa: SLF001 - the other half of this constructor
    return vm, _Sockets(*ours)


async def _cancelled(task: asyncio.Future[T]) -> None:
    """Cancel *task* if it is not done, and see it end; work that ignores this is left to itself."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CAUSE_S)
    if task.done() and not task.cancelled():
        task.exception()


async def _never() -> str:
    await asyncio.Event().wait()
    return ""
