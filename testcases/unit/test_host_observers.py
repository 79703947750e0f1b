"""The kernel's log while something runs, QEMU's events as evidence, and whether this host lets anybody trace."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from harness.hosts.kernel_log import KernelLog, record_line
from harness.hosts.tracer_probe import probe_strace
from harness.model.errors import UnsupportedError
from harness.model.reset import MachineEvent
from harness.vm.machine_events import machine_events
from harness.vm.qmp import QmpEvent


def host(root: Path, scope: str | None, capabilities: int = 0) -> Path:
    for path, text in (
        ("proc/sys/kernel/yama/ptrace_scope", scope),
        ("proc/self/status", f"CapEff:\t{capabilities:x}"),
    ):
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("scope", "capabilities", "present"),
    [
        (None, 0, True),
        ("0", 0, True),
        ("1", 0, False),
        ("1", 1 << 19, True),
        ("2", 1 << 19, True),
        ("3", 1 << 19, False),
    ],
)
def test_whether_strace_may_attach(tmp_path: Path, scope: str | None, capabilities: int, present: bool) -> None:
    found = probe_strace(host(tmp_path, scope, capabilities), strace="/usr/bin/strace")
    assert found.present is present
    assert bool(found.remedy) is not present
    assert f"ptrace_scope {'is ' if not present else ''}{scope or 0}" in found.found


def test_no_strace_says_what_to_install(tmp_path: Path) -> None:
    found = probe_strace(tmp_path, strace="")
    assert (found.present, found.remedy) == (False, "install the package strace")


def test_the_kernels_records_are_lines() -> None:
    record = b"30,339,5140900,-;something happened\n SUBSYSTEM=kvm\n DEVICE=c10:232\n"
    assert record_line(record) == "<6>[5.140900] something happened"
    assert record_line(b"<no record\n") == "<no record"


def test_only_what_was_logged_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    monkeypatch.setattr(os, "open", lambda *_: os.dup(ours.fileno()))
    with KernelLog(tmp_path / "kmsg") as log, theirs, ours:
        monkeypatch.undo()
        assert log.difference().lines == ()
        for number in range(3):
            theirs.send(f"4,{number},1000001,-;line {number}\n".encode())
        assert log.difference().lines == tuple(f"<4>[1.000001] line {number}" for number in range(3))
        assert log.difference().lines == ()


def test_a_log_that_may_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="No such file or directory, so the kernel's log") as refusal:
        KernelLog(tmp_path / "kmsg")
    assert "dmesg_restrict" in refusal.value.hint


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="needs a readable /dev/kmsg")
def test_the_real_log_is_read_from_its_end_and_never_waited_for() -> None:
    with KernelLog() as log:
        assert log.difference().lost == 0
        assert all(line.startswith("<") for line in log.difference().lines)


def test_qemus_events_are_evidence() -> None:
    def event(name: str, **data: object) -> QmpEvent:
        return QmpEvent(name=name, data=data, at_s=1.0, sent_s=1700000000.5)

    told = machine_events(
        [
            event("STOP"),
            event("RESET", guest=False, reason="host-qmp-system-reset"),
            event("SHUTDOWN", guest=True, reason="guest-reset"),
            event("RESET"),
        ]
    )
    assert told == (
        MachineEvent(name="RESET", reason="host-qmp-system-reset", by_guest=False, at_s=1700000000.5),
        MachineEvent(name="SHUTDOWN", reason="guest-reset", by_guest=True, at_s=1700000000.5),
        MachineEvent(name="RESET", reason="", by_guest=False, at_s=1700000000.5),
    )
