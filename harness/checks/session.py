"""The session between two secure processors: who was asked for what, in which order, and what they answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.checks.refusals import verdict_of_refusal, words_of
from harness.confidential.soft.processor.status import FirmwareStatus
from harness.model.protection import AttemptEnd, SessionCommand, SessionEvidence
from harness.model.verdict import Finding

CHECK = "session/commands"

_RUNS_AGAIN = ("run", "launch-", "send-", "receive-", "dbg-")
"""What a guest that was sent must be denied: it can only be taken down."""
_GONE = frozenset({"", "sent", "uninit"})
_REMEDIES: dict[int, str] = {
    FirmwareStatus.INVALID_CERTIFICATE: "class B31, B48: sev-pdh, sev-plat-cert and sev-amd-cert are the target's, as "
    "text or as names of files, whichever this QEMU expects",
    FirmwareStatus.POLICY_FAILURE: "class B31: the guest's policy, and the firmware version of the target",
    FirmwareStatus.BAD_SIGNATURE: "class B31: who signed the target's certificates, PDH by PEK, PEK by OCA and CEK",
}


def check_session(evidence: SessionEvidence) -> tuple[Finding, ...]:
    """One attempt: a session that is begun once, ended once, and as the attempt's end asks; nothing runs behind it."""
    findings = [*_refused(evidence), *_against_policy(evidence), *_out_of_order(evidence.source)]
    findings += _completed(evidence) if evidence.end is AttemptEnd.COMPLETED else _given_up(evidence)
    return (*findings, *_runs_again(evidence))


def succeeded(commands: Sequence[SessionCommand], name: str) -> int:
    """How often *name* was done."""
    return sum(command.count for command in commands if command.name == name and command.status == 0)


def _refused(evidence: SessionEvidence) -> Iterator[Finding]:
    told = [
        *(("source", command) for command in _until_sent(evidence.source) if command.name.startswith("send-")),
        *(("destination", item) for item in evidence.destination if item.name in {"receive-start", "receive-finish"}),
    ]
    for side, command in told:
        if command.status:
            yield Finding(
                check=CHECK,
                kind="refused",
                where=f"{side} {command.name}",
                detail=words_of(command),
                remedy=_REMEDIES.get(command.status, ""),
                verdict=verdict_of_refusal(command, forbidden_by=evidence.forbidden_by),
            )


def _against_policy(evidence: SessionEvidence) -> Iterator[Finding]:
    if evidence.forbidden_by and succeeded(evidence.source, "send-start"):
        detail = f"send-start succeeded, though the guest's policy forbids it: {evidence.forbidden_by}"
        yield _finding("sent-against-policy", "source send-start", detail, remedy="class B31: policies bind both ends")


def _out_of_order(source: Sequence[SessionCommand]) -> Iterator[Finding]:
    is_open = False
    for command in source:
        if command.status:
            continue
        if command.name.startswith("send-update") and not is_open:
            yield _finding("out-of-order", f"source {command.name}", "was done outside of a session")
            return
        if command.name == "send-start":
            is_open = True
        elif command.name in {"send-finish", "send-cancel"}:
            is_open = False


def _completed(evidence: SessionEvidence) -> Iterator[Finding]:
    source, destination = evidence.source, evidence.destination
    for side, commands, verb in (("source", source, "send"), ("destination", destination, "receive")):
        for step in ("start", "finish"):
            times = succeeded(commands, f"{verb}-{step}")
            if times != 1:
                detail = f"{verb}-{step} succeeded {times} times in an attempt that completed, expected once"
                yield _finding(f"{step}-count", f"{side} {verb}-{step}", detail)
        yield from _vmsa(side, commands, f"{verb}-update-vmsa", evidence.es_vcpus)
    if succeeded(source, "send-cancel"):
        yield _finding("cancelled", "source send-cancel", "was done in an attempt that completed")
    if evidence.source_state.lower() not in _GONE:
        detail = f"firmware state {evidence.source_state} after the guest was sent, expected sent"
        yield _finding("runs-after-sent", "source", detail, remedy="class B37: two instances of one guest can run")
    if evidence.destination_state.lower() not in {"", "running"}:
        detail = f"firmware state {evidence.destination_state} after the guest was received, expected running"
        yield _finding("state", "destination", detail)


def _vmsa(side: str, commands: Sequence[SessionCommand], name: str, vcpus: int) -> Iterator[Finding]:
    done = [command for command in commands if command.name == name and command.status == 0]
    named = {command.vcpu for command in done if command.vcpu is not None}
    count = len(named) if named else succeeded(commands, name)
    if count == vcpus:
        return
    missing = sorted(set(range(vcpus)) - named) if named else []
    which = f"; none of vcpu {', '.join(map(str, missing))}" if missing else ""
    detail = f"{name} was done for {count} of {vcpus} vCPUs{which}"
    yield _finding(
        "vmsa-count", f"{side} {name}", detail, remedy="class B26: each vCPU's registers travel, or are lost"
    )


def _given_up(evidence: SessionEvidence) -> Iterator[Finding]:
    source, end = evidence.source, evidence.end
    if succeeded(source, "send-start") > 1:
        yield _finding("start-count", "source send-start", f"succeeded more than once in an attempt that {_did(end)}")
    if succeeded(source, "send-finish"):
        detail = f"was done though the attempt {_did(end)}: the source can never run again"
        yield _finding("finish-after-failure", "source send-finish", detail, remedy="class B29: send-cancel instead")
        return
    if succeeded(source, "send-start") and not succeeded(source, "send-cancel"):
        detail = f"the attempt {_did(end)} and its session stays open: no send-cancel"
        yield _finding(
            "not-cancelled", "source send-cancel", detail, remedy="class B29: the source cannot run or retry"
        )
    elif evidence.source_state.lower() not in {"", "running"}:
        detail = f"firmware state {evidence.source_state} after the attempt {_did(end)}, expected running"
        yield _finding("state", "source", detail)


def _did(end: AttemptEnd) -> str:
    return "was cancelled" if end is AttemptEnd.CANCELLED else "failed"


def _runs_again(evidence: SessionEvidence) -> Iterator[Finding]:
    behind = evidence.source[len(_until_sent(evidence.source)) :]
    again = [item for item in behind if item.status == 0 and item.name.startswith(_RUNS_AGAIN)]
    for command in again[:1]:
        detail = f"{command.name} succeeded behind send-finish: a guest that was sent can only be taken down"
        yield _finding("runs-after-sent", f"source {command.name}", detail, remedy="class B37: anti-cloning")


def _until_sent(source: Sequence[SessionCommand]) -> Sequence[SessionCommand]:
    """Up to and with the first send-finish that was done; everything when there is none."""
    for index, command in enumerate(source):
        if command.name == "send-finish" and command.status == 0:
            return source[: index + 1]
    return source


def _finding(kind: str, where: str, detail: str, *, remedy: str = "") -> Finding:
    return Finding(check=CHECK, kind=kind, where=where, detail=detail, remedy=remedy)
