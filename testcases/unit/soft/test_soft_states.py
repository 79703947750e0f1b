"""Every guest command in every state, on a real processor: legal ones move on, illegal ones change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.confidential.soft.processor.packets import Packet, PacketKind, PacketSealer
from harness.confidential.soft.processor.processor import SecureProcessor
from harness.confidential.soft.processor.states import TRANSITIONS, Command, GuestState, next_state
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus

from .conftest import ES, PAGE, VMSA, Refuse, World

LEGAL = {
    GuestState.UNINIT: "LAUNCH_START RECEIVE_START",
    GuestState.LUPDATE: "LAUNCH_UPDATE_DATA LAUNCH_UPDATE_VMSA LAUNCH_MEASURE",
    GuestState.LSECRET: "LAUNCH_UPDATE_SECRET LAUNCH_FINISH",
    GuestState.RUNNING: "SEND_START DBG_DECRYPT DBG_ENCRYPT",
    GuestState.SUPDATE: "SEND_UPDATE_DATA SEND_UPDATE_VMSA SEND_FINISH SEND_CANCEL",
    GuestState.RUPDATE: "RECEIVE_UPDATE_DATA RECEIVE_UPDATE_VMSA RECEIVE_FINISH",
    GuestState.SENT: "",
}
"""Written down apart from the table under test; what is legal in every living state is added below."""
ALWAYS = {"DEACTIVATE", "DECOMMISSION", "GUEST_STATUS"}


def is_legal(state: GuestState, command: Command) -> bool:
    named = set(LEGAL[state].split())
    if state != GuestState.UNINIT:
        named |= ALWAYS
    if state not in {GuestState.UNINIT, GuestState.SENT}:
        named.add("ACTIVATE")
    return command.value in named


@pytest.mark.parametrize("state", list(GuestState))
@pytest.mark.parametrize("command", list(Command))
def test_the_table_knows_exactly_the_legal_pairs(state: GuestState, command: Command) -> None:
    assert ((state, command) in TRANSITIONS) == is_legal(state, command)
    if not is_legal(state, command):
        with pytest.raises(CommandRefusedError, match="INVALID_GUEST_STATE"):
            next_state(state, command)


class Stage:
    """One processor with a guest in a given state, and how to issue each command to it."""

    def __init__(self, world: World, state: GuestState) -> None:
        self.world, self.here = world, world.platform()
        self.peer = world.platform()
        self.packets: PacketSealer | None = None
        self.handle = self._reach(state)

    def _reach(self, state: GuestState) -> int:
        if state == GuestState.RUPDATE:
            source = self.world.running(self.peer)
            handle = self.here.receive_start(self.peer.send_start(source, self.here.export_certificates()))
            self.here.activate(handle, 1)
            self.source = source
            return handle
        session, self.packets = self.world.owner_session(self.here)
        handle = self.here.launch_start(ES, owner=session)
        self.here.activate(handle, 1)
        steps: list[Callable[[int], object]] = []
        if state >= GuestState.LSECRET:
            steps.append(self.here.launch_measure)
        if state >= GuestState.RUNNING:
            steps.append(self.here.launch_finish)
        if state >= GuestState.SUPDATE:
            steps.append(lambda handle: self.here.send_start(handle, self.peer.export_certificates()))
        if state == GuestState.SENT:
            steps.append(self.here.send_finish)
        for step in steps:
            step(handle)
        return handle

    def _received(self, kind: Command) -> Packet:
        if not hasattr(self, "source"):
            return Packet(bytes(52), bytes(4096))
        if kind == Command.RECEIVE_UPDATE_VMSA:
            return self.peer.send_update_vmsa(self.source, 0, VMSA)
        return self.peer.send_update_data(self.source, 3, PAGE)

    def issue(self, command: Command) -> object:
        here, handle = self.here, self.handle
        if command in {Command.ACTIVATE, Command.DECOMMISSION}:
            self._give_back_asid()
        secret = self.packets.seal(PacketKind.SECRET, 3, PAGE) if self.packets else Packet(bytes(52), bytes(4096))
        commands: dict[Command, Callable[[], object]] = {
            Command.LAUNCH_UPDATE_DATA: lambda: here.launch_update_data(handle, 3, PAGE),
            Command.LAUNCH_UPDATE_VMSA: lambda: here.launch_update_vmsa(handle, 0, VMSA),
            Command.LAUNCH_MEASURE: lambda: here.launch_measure(handle),
            Command.LAUNCH_UPDATE_SECRET: lambda: here.launch_update_secret(handle, 3, secret),
            Command.LAUNCH_FINISH: lambda: here.launch_finish(handle),
            Command.ACTIVATE: lambda: here.activate(handle, 2),
            Command.DEACTIVATE: lambda: here.deactivate(handle),
            Command.DECOMMISSION: lambda: here.decommission(handle),
            Command.GUEST_STATUS: lambda: here.guest_status(handle),
            Command.DBG_DECRYPT: lambda: here.debug_decrypt(handle, [3], PAGE),
            Command.DBG_ENCRYPT: lambda: here.debug_encrypt(handle, [3], PAGE),
            Command.SEND_START: lambda: here.send_start(handle, self.peer.export_certificates()),
            Command.SEND_UPDATE_DATA: lambda: here.send_update_data(handle, 3, PAGE),
            Command.SEND_UPDATE_VMSA: lambda: here.send_update_vmsa(handle, 0, VMSA),
            Command.SEND_FINISH: lambda: here.send_finish(handle),
            Command.SEND_CANCEL: lambda: here.send_cancel(handle),
            Command.RECEIVE_UPDATE_DATA: lambda: here.receive_update_data(handle, 3, self._received(command)),
            Command.RECEIVE_UPDATE_VMSA: lambda: here.receive_update_vmsa(handle, 0, self._received(command)),
            Command.RECEIVE_FINISH: lambda: here.receive_finish(handle),
        }
        return commands[command]()

    def _give_back_asid(self) -> None:
        self.here.deactivate(self.handle)

    @property
    def state(self) -> GuestState:
        return self.here.guest_status(self.handle).state


EXISTING = [state for state in GuestState if state != GuestState.UNINIT]
TO_A_GUEST = [command for command in Command if command not in {Command.LAUNCH_START, Command.RECEIVE_START}]


@pytest.mark.parametrize("state", EXISTING)
@pytest.mark.parametrize("command", TO_A_GUEST)
def test_every_command_in_every_state(world: World, refuses: Refuse, state: GuestState, command: Command) -> None:
    stage = Stage(world, state)
    assert stage.state == state
    if not is_legal(state, command):
        refused = refuses(FirmwareStatus.INVALID_GUEST_STATE, stage.issue, command)
        assert f"{command} in state {state.name}" in refused.reason
        assert stage.state == state
        return
    stage.issue(command)
    if command == Command.DECOMMISSION:
        refuses(FirmwareStatus.INVALID_GUEST, stage.here.guest_status, stage.handle)
    else:
        assert stage.state == TRANSITIONS[state, command]


def _calls(here: SecureProcessor) -> dict[str, tuple[object, ...]]:
    return {
        "launch_update_data": (9, 0, PAGE),
        "launch_update_vmsa": (9, 0, VMSA),
        "launch_measure": (9,),
        "launch_update_secret": (9, 0, Packet(b"", b"")),
        "launch_finish": (9,),
        "activate": (9, 1),
        "deactivate": (9,),
        "decommission": (9,),
        "guest_status": (9,),
        "memory": (9,),
        "debug_decrypt": (9, [0], PAGE),
        "debug_encrypt": (9, [0], PAGE),
        "send_start": (9, here.export_certificates()),
        "send_update_data": (9, 0, PAGE),
        "send_update_vmsa": (9, 0, VMSA),
        "send_finish": (9,),
        "send_cancel": (9,),
        "receive_update_data": (9, 0, Packet(b"", b"")),
        "receive_update_vmsa": (9, 0, Packet(b"", b"")),
        "receive_finish": (9,),
    }


def test_no_command_reaches_a_guest_that_is_none_or_a_platform_that_is_off(world: World, refuses: Refuse) -> None:
    here = world.platform()
    calls = _calls(here)
    for name, args in calls.items():
        refuses(FirmwareStatus.INVALID_GUEST, getattr(here, name), *args)
    here.shutdown()
    for name, args in calls.items():
        refuses(FirmwareStatus.INVALID_PLATFORM_STATE, getattr(here, name), *args)
    for command in (here.export_certificates, here.df_flush, lambda: here.launch_start(ES)):
        refuses(FirmwareStatus.INVALID_PLATFORM_STATE, command)
    here.init()
    refuses(FirmwareStatus.INVALID_PLATFORM_STATE, here.init)


@pytest.mark.parametrize(
    ("state", "command"),
    [
        (GuestState.LUPDATE, Command.LAUNCH_UPDATE_DATA),
        (GuestState.LUPDATE, Command.LAUNCH_UPDATE_VMSA),
        (GuestState.LSECRET, Command.LAUNCH_UPDATE_SECRET),
        (GuestState.RUNNING, Command.DBG_DECRYPT),
        (GuestState.RUNNING, Command.DBG_ENCRYPT),
        (GuestState.SUPDATE, Command.SEND_UPDATE_DATA),
        (GuestState.SUPDATE, Command.SEND_UPDATE_VMSA),
        (GuestState.RUPDATE, Command.RECEIVE_UPDATE_DATA),
        (GuestState.RUPDATE, Command.RECEIVE_UPDATE_VMSA),
    ],
)
def test_what_touches_memory_needs_an_asid(world: World, refuses: Refuse, state: GuestState, command: Command) -> None:
    stage = Stage(world, state)
    stage.here.deactivate(stage.handle)
    refuses(FirmwareStatus.INACTIVE, stage.issue, command)
    refuses(FirmwareStatus.INACTIVE, stage.here.memory, stage.handle)
