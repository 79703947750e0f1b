"""Guest states and which command is legal in which: the table of the SEV/CSV key-management API."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus


class GuestState(IntEnum):
    """The firmware's numbering (sev-tool src/sevapi.h). KVM and QEMU number otherwise: compare by name."""

    UNINIT = 0
    LUPDATE = 1
    LSECRET = 2
    RUNNING = 3
    SUPDATE = 4
    RUPDATE = 5
    SENT = 6


class Command(StrEnum):
    """Commands that belong to a guest."""

    LAUNCH_START = "LAUNCH_START"
    LAUNCH_UPDATE_DATA = "LAUNCH_UPDATE_DATA"
    LAUNCH_UPDATE_VMSA = "LAUNCH_UPDATE_VMSA"
    LAUNCH_MEASURE = "LAUNCH_MEASURE"
    LAUNCH_UPDATE_SECRET = "LAUNCH_UPDATE_SECRET"
    LAUNCH_FINISH = "LAUNCH_FINISH"
    ACTIVATE = "ACTIVATE"
    DEACTIVATE = "DEACTIVATE"
    DECOMMISSION = "DECOMMISSION"
    GUEST_STATUS = "GUEST_STATUS"
    DBG_DECRYPT = "DBG_DECRYPT"
    DBG_ENCRYPT = "DBG_ENCRYPT"
    SEND_START = "SEND_START"
    SEND_UPDATE_DATA = "SEND_UPDATE_DATA"
    SEND_UPDATE_VMSA = "SEND_UPDATE_VMSA"
    SEND_FINISH = "SEND_FINISH"
    SEND_CANCEL = "SEND_CANCEL"
    RECEIVE_START = "RECEIVE_START"
    RECEIVE_UPDATE_DATA = "RECEIVE_UPDATE_DATA"
    RECEIVE_UPDATE_VMSA = "RECEIVE_UPDATE_VMSA"
    RECEIVE_FINISH = "RECEIVE_FINISH"


_ALIVE = (GuestState.LUPDATE, GuestState.LSECRET, GuestState.RUNNING, GuestState.SUPDATE, GuestState.RUPDATE)

TRANSITIONS: dict[tuple[GuestState, Command], GuestState] = {
    (GuestState.UNINIT, Command.LAUNCH_START): GuestState.LUPDATE,
    (GuestState.LUPDATE, Command.LAUNCH_UPDATE_DATA): GuestState.LUPDATE,
    (GuestState.LUPDATE, Command.LAUNCH_UPDATE_VMSA): GuestState.LUPDATE,
    (GuestState.LUPDATE, Command.LAUNCH_MEASURE): GuestState.LSECRET,
    (GuestState.LSECRET, Command.LAUNCH_UPDATE_SECRET): GuestState.LSECRET,
    (GuestState.LSECRET, Command.LAUNCH_FINISH): GuestState.RUNNING,
    (GuestState.RUNNING, Command.DBG_DECRYPT): GuestState.RUNNING,
    (GuestState.RUNNING, Command.DBG_ENCRYPT): GuestState.RUNNING,
    (GuestState.RUNNING, Command.SEND_START): GuestState.SUPDATE,
    (GuestState.SUPDATE, Command.SEND_UPDATE_DATA): GuestState.SUPDATE,
    (GuestState.SUPDATE, Command.SEND_UPDATE_VMSA): GuestState.SUPDATE,
    (GuestState.SUPDATE, Command.SEND_FINISH): GuestState.SENT,
    (GuestState.SUPDATE, Command.SEND_CANCEL): GuestState.RUNNING,
    (GuestState.UNINIT, Command.RECEIVE_START): GuestState.RUPDATE,
    (GuestState.RUPDATE, Command.RECEIVE_UPDATE_DATA): GuestState.RUPDATE,
    (GuestState.RUPDATE, Command.RECEIVE_UPDATE_VMSA): GuestState.RUPDATE,
    (GuestState.RUPDATE, Command.RECEIVE_FINISH): GuestState.RUNNING,
    **{(state, Command.ACTIVATE): state for state in _ALIVE},
    **{(state, Command.DEACTIVATE): state for state in (*_ALIVE, GuestState.SENT)},
    **{(state, Command.DECOMMISSION): GuestState.UNINIT for state in (*_ALIVE, GuestState.SENT)},
    **{(state, Command.GUEST_STATUS): state for state in (*_ALIVE, GuestState.SENT)},
}
"""(state, command) -> next state. What is missing is illegal; a SENT guest can only be taken down (anti-cloning)."""

NEEDS_ASID = frozenset(
    {
        Command.LAUNCH_UPDATE_DATA,
        Command.LAUNCH_UPDATE_VMSA,
        Command.LAUNCH_UPDATE_SECRET,
        Command.DBG_DECRYPT,
        Command.DBG_ENCRYPT,
        Command.SEND_UPDATE_DATA,
        Command.SEND_UPDATE_VMSA,
        Command.RECEIVE_UPDATE_DATA,
        Command.RECEIVE_UPDATE_VMSA,
    }
)
"""Commands that touch guest memory: the guest must be active (INACTIVE otherwise)."""


def next_state(state: GuestState, command: Command) -> GuestState:
    """The state after *command*. Raises CommandRefusedError INVALID_GUEST_STATE where the table has no entry."""
    after = TRANSITIONS.get((state, command))
    if after is None:
        raise CommandRefusedError(FirmwareStatus.INVALID_GUEST_STATE, f"{command} in state {state.name}")
    return after
