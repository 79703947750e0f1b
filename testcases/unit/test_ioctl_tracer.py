"""ioctls of real processes, seen by strace; processes that die, refuse, or outlive their deadline."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.checks.reset_calls import check_reset_calls
from harness.hosts.tracer_probe import probe_strace
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, LostError, UnsupportedError
from harness.model.reboot import RebootOutcome
from harness.model.reset import POST_SYSTEM_RESET, PRE_SYSTEM_RESET, IoctlTrace, ResetEvidence
from harness.model.verdict import Verdict
from harness.vm.ioctl_tracer import IoctlTracer, trace_ioctls
from harness.vm.qmp import QmpEvent, QmpSession
from harness.vm.reset_observer import ResetObserver, observe_resets
from harness.vm.strace_lines import StraceParser

FIOCLEX = 0x5451
"""Linux include/uapi/asm-generic/ioctls.h: one that every descriptor answers with 0."""

HELPER = """
import fcntl, os, sys, threading
fd = os.open("/dev/null", os.O_RDWR)
def issue(number):
    try:
        fcntl.ioctl(fd, number)
    except OSError:
        pass
print("ready", flush=True)
for line in sys.stdin:
    what, *words = line.split()
    numbers = [int(word, 0) for word in words]
    if what == "issue":
        for number in numbers:
            issue(number)
    elif what == "threads":
        threads = [threading.Thread(target=issue, args=(number,)) for number in numbers for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elif what == "kvm":
        fd = fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), 0xAE01)
    elif what == "fork" and os.fork() == 0:
        issue(numbers[0])
        os._exit(0)
"""


KILLED = """
import asyncio, sys
from harness.model.deadline import Deadline
from harness.vm.ioctl_tracer import trace_ioctls
async def play():
    async with trace_ioctls(int(sys.argv[1]), deadline=Deadline.after(60)):
        print("attached", flush=True)
        await asyncio.Event().wait()
asyncio.run(play())
"""


def reset_event() -> QmpEvent:
    return QmpEvent(name="RESET", data={"guest": True, "reason": "guest-reset"}, at_s=0, sent_s=time.time())


class Helper:
    """A process that issues ioctls when told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid

    def say(self, *words: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()


@contextmanager
def helper() -> Iterator[Helper]:
    with subprocess.Popen(
        (sys.executable, "-I", "-S", "-c", HELPER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        try:
            yield Helper(process)
        finally:
            process.kill()


@pytest.fixture
def process() -> Iterator[Helper]:
    with helper() as started:
        yield started


@asynccontextmanager
async def traced(pid: int, *, seconds: float = 30, **options: object) -> AsyncIterator[IoctlTracer]:
    """As the product does it; without the right to trace, this machine cannot show anything."""
    strace = probe_strace(Path("/"))
    if not strace.present:
        pytest.skip(f"{strace.found}: {strace.remedy}")
    async with trace_ioctls(pid, deadline=Deadline.after(seconds), **options) as tracer:
        yield tracer


def children(of: int) -> list[str]:
    """Names of what *of* has started and what still is there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")
        except OSError:
            continue
        if int(fields[2].split()[1]) == of:
            found.append(fields[0].partition("(")[2])
    return found


def tracer_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:"))


def test_reset_ioctls_are_seen_with_who_when_and_what_came_of_it(process: Helper) -> None:
    async def play() -> IoctlTrace:
        async with traced(process.pid, wanted=(PRE_SYSTEM_RESET, POST_SYSTEM_RESET, FIOCLEX)) as tracer:
            process.say("issue", PRE_SYSTEM_RESET, FIOCLEX, 0xAE00, POST_SYSTEM_RESET)
            await tracer.wait_answered(POST_SYSTEM_RESET, deadline=Deadline.after(20))
            assert tracer.is_attached
            assert tracer_of(process.pid)
        assert not tracer.is_attached
        return tracer.trace()

    before = time.time()
    trace = asyncio.run(play())
    assert [call.request for call in trace.calls] == [PRE_SYSTEM_RESET, FIOCLEX, POST_SYSTEM_RESET]
    assert [(call.result, call.error) for call in trace.calls] == [(-1, "ENOTTY"), (0, ""), (-1, "ENOTTY")]
    assert {(call.thread, call.fd) for call in trace.calls} == {(process.pid, 3)}
    assert before <= trace.started_s <= trace.calls[0].at_s <= trace.calls[-1].at_s <= trace.ended_s <= time.time()
    assert (trace.pid, trace.others, trace.unread, trace.end) == (process.pid, 1, 0, "asked")
    assert tracer_of(process.pid) == 0
    assert process.process.poll() is None, "it goes on living"
    assert "strace" not in children(os.getpid())


def test_all_threads_and_children_are_seen(process: Helper) -> None:
    async def play() -> IoctlTrace:
        async with traced(process.pid) as tracer:
            process.say("threads", PRE_SYSTEM_RESET, POST_SYSTEM_RESET)
            await tracer.wait_answered(PRE_SYSTEM_RESET, 8, deadline=Deadline.after(20))
            await tracer.wait_answered(POST_SYSTEM_RESET, 8, deadline=Deadline.after(20))
            process.say("fork", PRE_SYSTEM_RESET)
            await tracer.wait_answered(PRE_SYSTEM_RESET, 9, deadline=Deadline.after(20))
        return tracer.trace()

    trace = asyncio.run(play())
    assert len(trace.calls) == 17
    assert len({call.thread for call in trace.calls}) >= 3
    assert {call.error for call in trace.calls} == {"ENOTTY"}
    assert trace.unread == 0


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm")
def test_what_a_real_kvm_answers(process: Helper) -> None:
    async def play() -> IoctlTrace:
        async with traced(process.pid) as tracer:
            process.say("kvm")
            process.say("issue", PRE_SYSTEM_RESET, POST_SYSTEM_RESET)
            await tracer.wait_answered(POST_SYSTEM_RESET, deadline=Deadline.after(20))
        return tracer.trace()

    calls = asyncio.run(play()).calls
    assert [call.request for call in calls] == [PRE_SYSTEM_RESET, POST_SYSTEM_RESET]
    assert {(call.result, call.error) for call in calls} <= {(0, ""), (-1, "ENOTTY")}


def test_the_end_of_the_process_ends_the_trace(process: Helper) -> None:
    async def play() -> IoctlTrace:
        async with traced(process.pid) as tracer:
            process.say("issue", PRE_SYSTEM_RESET)
            await tracer.wait_answered(PRE_SYSTEM_RESET, deadline=Deadline.after(20))
            process.process.kill()
            with pytest.raises(LostError, match=r"issued ioctl 0xaee9 0 times, then: killed by SIGKILL"):
                await tracer.wait_answered(POST_SYSTEM_RESET, deadline=Deadline.after(20))
        return tracer.trace()

    trace = asyncio.run(play())
    assert len(trace.calls) == 1
    assert trace.end == "killed by SIGKILL"


def test_the_deadline_lets_the_process_go_whatever_the_caller_does(process: Helper) -> None:
    async def play() -> IoctlTrace:
        async with traced(process.pid, seconds=3) as tracer:
            with pytest.raises(LostError, match=r"0 times, then: deadline"):
                await tracer.wait_answered(PRE_SYSTEM_RESET, deadline=Deadline.after(30))
            assert tracer_of(process.pid) == 0
        return tracer.trace()

    assert asyncio.run(play()).end == "deadline"
    assert process.process.poll() is None
    assert "strace" not in children(os.getpid())


def test_a_wait_has_its_own_deadline(process: Helper) -> None:
    async def play() -> None:
        async with traced(process.pid) as tracer:
            with pytest.raises(DeadlineError, match=r"0 of 2 calls of ioctl 0xaee8"):
                await tracer.wait_answered(PRE_SYSTEM_RESET, 2, deadline=Deadline.after(0))

    asyncio.run(play())


def test_a_process_that_has_a_tracer_already(process: Helper) -> None:
    async def play() -> None:
        async with traced(process.pid):
            with pytest.raises(UnsupportedError, match="may not attach to process") as refusal:
                async with traced(process.pid):
                    pass
        assert "ptrace_scope" in refusal.value.hint
        assert "\n" not in str(refusal.value)

    asyncio.run(play())
    assert "strace" not in children(os.getpid())


def test_a_process_that_is_gone() -> None:
    with helper() as gone:
        pass

    async def play() -> None:
        with pytest.raises(LostError, match=f"process {gone.pid} was gone before"):
            async with traced(gone.pid):
                pass

    asyncio.run(play())


def test_no_strace(process: Helper) -> None:
    async def play() -> None:
        async with trace_ioctls(process.pid, strace="no-such-strace", deadline=Deadline.after(1)):
            pass

    with pytest.raises(UnsupportedError, match="no no-such-strace on PATH") as refusal:
        asyncio.run(play())
    assert refusal.value.hint == "install the package strace"


def test_a_cancelled_caller_leaves_no_strace(process: Helper) -> None:
    async def play() -> None:
        watching = asyncio.Event()

        async def watch() -> None:
            async with traced(process.pid):
                watching.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(watch())
        await watching.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(play())
    assert tracer_of(process.pid) == 0
    assert "strace" not in children(os.getpid())


def test_a_strace_that_is_killed_lets_the_process_live(process: Helper) -> None:
    async def play() -> IoctlTrace:
        async with traced(process.pid) as tracer:
            os.kill(tracer_of(process.pid), signal.SIGKILL)
            with pytest.raises(LostError, match="strace ended"):
                await tracer.wait_answered(PRE_SYSTEM_RESET, deadline=Deadline.after(20))
        return tracer.trace()

    assert asyncio.run(play()).end == "strace ended"
    assert process.process.poll() is None


def test_an_observer_has_all_witnesses_and_leaves_out_what_is_not_of_its_span(process: Helper) -> None:
    async def play() -> ResetEvidence:
        qmp = QmpSession("src")
        qmp.events.append(reset_event())
        async with observe_resets(process.pid, qmp, deadline=Deadline.after(30)) as observer:
            if observer.tracer is None:
                pytest.skip(observer.missing[-1])
            for count in (1, 2):
                process.say("issue", PRE_SYSTEM_RESET)
                await observer.tracer.wait_answered(PRE_SYSTEM_RESET, count, deadline=Deadline.after(20))
                qmp.events.append(reset_event())
                process.say("issue", POST_SYSTEM_RESET)
                await observer.tracer.wait_answered(POST_SYSTEM_RESET, count, deadline=Deadline.after(20))
        qmp.events.append(reset_event())
        return observer.evidence()

    evidence = asyncio.run(play())
    assert len(evidence.resets) == 2
    assert evidence.trace
    assert [call.request for call in evidence.trace.calls] == [PRE_SYSTEM_RESET, POST_SYSTEM_RESET] * 2
    (finding,) = check_reset_calls(evidence, expected=RebootOutcome.PASSES_WITH_CALLS)
    assert (finding.kind, finding.verdict) == ("no-ioctls", Verdict.UNSUPPORTED)
    calls = tuple(replace(call, result=0, error="") for call in evidence.trace.calls)
    answered = replace(evidence, trace=replace(evidence.trace, calls=calls))
    assert check_reset_calls(answered, expected=RebootOutcome.PASSES_WITH_CALLS) == ()


def test_an_observer_without_witnesses_says_why(process: Helper, tmp_path: Path) -> None:
    async def play() -> ResetObserver:
        async with observe_resets(
            process.pid,
            QmpSession("src"),
            strace="no-such-strace",
            kernel_log=tmp_path / "kmsg",
            deadline=Deadline.after(30),
        ) as observer:
            pass
        return observer

    observer = asyncio.run(play())
    assert observer.evidence() == ResetEvidence(events=())
    assert [line.rpartition(": ")[2] for line in observer.missing] == [
        "run as root, or set kernel.dmesg_restrict to 0",
        "install the package strace",
    ]


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_a_harness_that_is_killed_leaves_no_strace(process: Helper) -> None:
    if not probe_strace(Path("/")).present:
        pytest.skip(probe_strace(Path("/")).remedy)
    with subprocess.Popen((sys.executable, "-c", KILLED, str(process.pid)), stdout=subprocess.PIPE) as harness:
        assert harness.stdout
        assert harness.stdout.readline() == b"attached\n"
        strace = os.pidfd_open(tracer_of(process.pid))
        harness.kill()
    try:
        assert select.select([strace], [], [], 20)[0], "strace outlives the harness"
    finally:
        os.close(strace)
    assert tracer_of(process.pid) == 0
    assert process.process.poll() is None


RECORDED = b"""\
1706  1795236204.756132 ioctl(0x3, 0xaee8, 0) = -1 ENOTTY (Inappropriate ioctl for device)
1706  1795236204.756200 ioctl(0x9, 0xae80, 0 <unfinished ...>
1707  1795236204.756300 ioctl(0x9, 0xaee8, 0 <unfinished ...>
1706  1795236204.756400 <... ioctl resumed>) = 0
1706  1795236204.756450 --- SIGUSR1 {si_signo=10, si_code=0x1} ---
1707  1795236204.756500 <... ioctl resumed>, 0) = 0
1706  1795236204.756600 ioctl(0x9, 0xae80, 0) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)
1707  1795236204.756700 ioctl(0x9, 0xaee9, 0) = ?
1707  1795236204.756800 +++ exited with 0 +++
1706  1795236204.790892 ioctl(0x9, 0xaee9, 0x7ffc <detached ...>
"""


@pytest.mark.parametrize("piece", [1, 7, 64, 4096])
def test_lines_in_pieces_of_any_size(piece: int) -> None:
    parser = StraceParser((PRE_SYSTEM_RESET, POST_SYSTEM_RESET))
    for start in range(0, len(RECORDED), piece):
        parser.feed(RECORDED[start : start + piece])
    parser.finish()
    assert [(call.thread, call.request, call.result, call.error) for call in parser.calls] == [
        (1706, PRE_SYSTEM_RESET, -1, "ENOTTY"),
        (1707, PRE_SYSTEM_RESET, 0, ""),
        (1707, POST_SYSTEM_RESET, None, ""),
        (1706, POST_SYSTEM_RESET, None, ""),
    ]
    assert parser.calls[1].at_s == 1795236204.7563
    assert (parser.others, parser.unread, parser.ends) == (2, 0, {1707: "exited with 0"})


@pytest.mark.parametrize(
    "garbage",
    [b"what is this\n", b"1706 1.5 ioctl(x, y) = 0\n", b"1706 1.5 read(3) = 0\n", b"a" * 10_000, b"\xff\xfe\n"],
)
def test_what_nobody_understands_is_counted(garbage: bytes) -> None:
    parser = StraceParser((PRE_SYSTEM_RESET,))
    parser.feed(garbage)
    parser.finish()
    assert parser.unread >= 1
    assert not parser.calls


def test_a_guest_that_runs_fills_no_memory() -> None:
    parser = StraceParser((PRE_SYSTEM_RESET,))
    feed: Callable[[bytes], None] = parser.feed
    for _ in range(1000):
        feed(b"1706 1.5 ioctl(0x9, 0xae80, 0) = 0\n" * 10)
    assert parser.others == 10_000
    assert not parser.calls
