"""What the earliest code of a boot found: memory as it was left, a boot that counts, no interrupt of the boot before.

Damage is told by its size, because that is what tells its cause: lines are the caches' (B22, B23), pages the map's or a
lost write's (B3-B12), content of the other view the map's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from harness.guest.lines import SHARED_SEED
from harness.model.early import EarlyEvidence, EarlyState, InterruptState, ResetPhase
from harness.model.memory import LINES_PER_PAGE, PageDamage
from harness.model.reboot_way import WAYS, RebootWay
from harness.model.reset import ResetEvidence
from harness.model.verdict import Finding, Verdict

MEMORY = "reboot/memory"
BOOTS = "reboot/boots"
INTERRUPTS = "reboot/interrupts"
EVENTS = "reboot/events"

_SHOWN = 4
_LINE = "class B22, B23: caches are flushed, on all CPUs and to the last line, before another view is used"
_PAGE = "whole pages: a write was lost, or the map took them for another kind (B3-B12)"
_VIEW = "class B3, B4: what the page map says of these pages is not what it was when they were written"
_KEY = "class B46: another context has another key; one that reads old memory was not launched anew"
_SEED_WORD = slice(16, 24)


def check_early_memory(evidence: EarlyEvidence, *, managed_pages: int) -> tuple[Finding, ...]:
    """All of what the boot before had written is still there; behind a reset that gave a new key, nothing private is.

    An error where that boot had written nothing that could be judged.
    """
    report = evidence.report
    if evidence.is_renewed:
        # The page that tells the next boot what to expect is private too: it is garbage, or zero where memory is new.
        if report.state is not EarlyState.LOOKED:
            return ()
        detail = (
            f"after {evidence.way}: {report.pages_checked} private pages of the boot before are read as it left them"
        )
        return (_finding(MEMORY, "old-key", "boot page", detail, _KEY),)
    if report.state is EarlyState.SPOILED:
        detail = "what the boot before wrote down for the next one is not as it was left: no page can be judged"
        return (_finding(MEMORY, "kept-lost", "boot page", detail, _LINE),)
    if report.state is EarlyState.NOTHING:
        return (_error(MEMORY, "nothing-kept", "the boot before had filled no memory: there was nothing to judge"),)
    seen = report.pages_checked + report.pages_locked + report.pages_spared
    if seen != managed_pages or not report.pages_checked:
        detail = f"{report.pages_checked} pages judged, {report.pages_locked + report.pages_spared} left out"
        return (_error(MEMORY, "not-covered", f"{detail}, {managed_pages} are there"),)
    return tuple(_damaged(evidence))


def _damaged(evidence: EarlyEvidence) -> Iterator[Finding]:
    groups: dict[str, list[PageDamage]] = {"line": [], "page": [], "view": []}
    for damage in evidence.report.damages:
        groups[_size_of(damage)].append(damage)
    unlisted = evidence.report.pages_bad - len(evidence.report.damages)
    remedies = {"line": _LINE, "page": _PAGE, "view": _VIEW}
    for kind, damages in groups.items():
        if not damages:
            continue
        lines = sum(damage.lines for damage in damages)
        more = f" (and {unlisted} damaged pages that are not listed)" if unlisted else ""
        detail = (
            f"after {evidence.way}: {lines} lines of 64 bytes wrong in {len(damages)} pages: {_told(damages)}{more}"
        )
        yield _finding(MEMORY, kind, f"gpa {damages[0].first_bad_gpa:#x}", detail, remedies[kind])


def _size_of(damage: PageDamage) -> str:
    if damage.lines < LINES_PER_PAGE:
        return "line"
    expected, found = (int.from_bytes(line[_SEED_WORD], "little") for line in (damage.expected, damage.found))
    return "view" if expected ^ found == SHARED_SEED else "page"


def _told(damages: Sequence[PageDamage]) -> str:
    first = [f"{damage.kind} at {damage.first_bad_gpa:#x} ({damage.detail})" for damage in damages[:_SHOWN]]
    return "; ".join([*first, "..."] if len(damages) > _SHOWN else first)


def check_boots(evidence: EarlyEvidence) -> tuple[Finding, ...]:
    """A reset is one boot more, under another id; a kernel that another one started is in the same boot.

    Under a new key the count begins anew, for it is kept in private memory.
    """
    report = evidence.report
    is_new, more = evidence.boot_id != evidence.boot_id_before, evidence.boot_count - evidence.boot_count_before
    findings = []
    if evidence.is_reset:
        if not is_new:
            findings.append(_finding(BOOTS, "same-boot", "guest", f"{evidence.way}: the boot id is what it was"))
        if evidence.is_renewed:
            if evidence.boot_count != 1:
                detail = (
                    f"boot {evidence.boot_count} behind a reset that gave a new key: the count is in private memory"
                )
                findings.append(_finding(BOOTS, "miscounted", "boot page", detail, _KEY))
        elif more != 1:
            detail = f"boot {evidence.boot_count_before}, and boot {evidence.boot_count} after one reboot"
            remedy = "a count that begins anew: the boot page was lost; one that jumps: the guest crashed on its way"
            findings.append(_finding(BOOTS, "miscounted", "boot page", detail, remedy))
    elif is_new or more or not report.is_kexec:
        detail = (
            f"boot {evidence.boot_count_before}, then {evidence.boot_count}, with {'another' if is_new else 'one'} id"
        )
        findings.append(_finding(BOOTS, "not-kexec", "guest", f"a new kernel was to start without a reset: {detail}"))
    return tuple(findings)


def check_interrupts(evidence: EarlyEvidence) -> tuple[Finding, ...]:
    """Behind a reset no interrupt is pending, in service or let through (Intel SDM vol. 3, 11.4.7; Arm IHI 0069)."""
    if not evidence.is_reset:
        return ()
    left = [each for each in evidence.report.interrupts if each.state is not InterruptState.ENABLED]
    opened = [each for each in evidence.report.interrupts if each.state is InterruptState.ENABLED]
    findings = []
    if left:
        kept = [each for each in left if each in evidence.pended]
        detail = f"after {evidence.way}: {_listed(left)}; {len(kept)} of them were pending before it"
        findings.append(_finding(INTERRUPTS, "survived", str(left[0]), detail, "class B43: a reset retires them all"))
    if opened:
        detail = f"after {evidence.way}, before anybody had set it up: {_listed(opened)}"
        findings.append(_finding(INTERRUPTS, "let-through", str(opened[0]), detail, "a reset masks every source"))
    return tuple(findings)


def check_pended(evidence: EarlyEvidence, *, at_least: int) -> tuple[Finding, ...]:
    """Precondition: interrupts were pending when the guest was rebooted."""
    pending = [each for each in evidence.pended if each.state is InterruptState.PENDING]
    if len(pending) >= at_least:
        return ()
    detail = f"{len(pending)} interrupts were pending before {evidence.way}, {at_least} were to be"
    return (_error("precondition", "not-pending", detail),)


def check_phase(phase: ResetPhase, *, expected: AbstractSet[str]) -> tuple[Finding, ...]:
    """Precondition: the migration was in its phase before the reboot, and still under way behind it."""
    if set(phase.statuses) <= expected:
        return ()
    detail = f"the migration was {phase.statuses[0]} before the reboot in {phase.at} and {phase.statuses[1]} after it"
    return (_error("precondition", "not-in-phase", detail),)


def check_events(evidence: ResetEvidence, *, way: RebootWay) -> tuple[Finding, ...]:
    """QEMU says that it reset the machine, and why."""
    row = WAYS[way]
    if not row.resets:
        if evidence.resets:
            detail = f"{len(evidence.resets)} RESET events while a kernel started another one"
            return (_finding(EVENTS, "reset-instead", "QEMU", detail),)
        return ()
    if not evidence.resets:
        return (_finding(EVENTS, "no-reset", "QEMU", f"the guest has booted anew by {way}, and no RESET event came"),)
    # A VM that is paused instead of reset says why in its SHUTDOWN event; then whoever manages it resets it.
    first = evidence.events[0]
    if first.reason and first.reason not in row.reasons:
        detail = f"{first.name} of reason {first.reason!r} for {way}; expected {' or '.join(sorted(row.reasons))}"
        return (_finding(EVENTS, "other-reason", "QEMU", detail),)
    return ()


def _listed(interrupts: Iterable[object]) -> str:
    words = [str(each) for each in interrupts]
    return ", ".join([*words[:_SHOWN], "..."] if len(words) > _SHOWN else words)


def _finding(check: str, kind: str, where: str, detail: str, remedy: str = "") -> Finding:
    return Finding(check=check, kind=kind, where=where, detail=detail, remedy=remedy)


def _error(check: str, kind: str, detail: str) -> Finding:
    return Finding(check=check, kind=kind, where="guest", detail=detail, verdict=Verdict.ERROR)
