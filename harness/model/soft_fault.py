"""Known bugs of confidential migration that the software platform can play, to prove that a check catches each.

The classes B.. are those of the field's bug reports (references of this project); what a row says it does, it does to
the guest, its host or the wire, and no check asks whether it is on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Owner(StrEnum):
    """Whose bug a fault stands for, and so who applies it."""

    GUEST_FIRMWARE = "guest firmware"
    GUEST_KERNEL = "guest kernel"
    KVM = "KVM"
    QEMU = "QEMU"
    SECURE_PROCESSOR = "secure processor"
    WIRE = "wire"


class SoftFault(StrEnum):
    """Names on the command line of ``cvmig run --fault``; those of the guest also on the kernel's command line."""

    VC_ENABLES_INTERRUPTS = "gfw-vc-enables-interrupts"
    UNALIGNED_UNDERCOUNT = "gfw-unaligned-undercount"
    SEC_GHCB_UNREPORTED = "gfw-sec-ghcb-unreported"
    VC_DROPS_REGISTERS = "gfw-vc-drops-registers"
    ASSERT_WITHOUT_FEATURE = "gfw-assert-without-feature"
    VARIABLE_MISSING = "gfw-variable-missing"
    FLASH0_SHARED = "gfw-flash0-shared"
    KEXEC_KEEPS_RANGES = "guest-kexec-keeps-ranges"
    RETRY_IGNORED = "guest-retry-ignored"
    REUSES_UNCONVERTED = "guest-reuses-unconverted"
    LIST_KEPT_OVER_RESET = "qemu-list-kept-over-reset"
    LIST_LOSES_NEIGHBOUR = "qemu-list-loses-neighbour"
    LIST_NOT_MERGED = "qemu-list-not-merged"
    PAGE_SIZE_AS_ENCRYPTED = "qemu-page-size-as-encrypted"
    GFN_TRUNCATED = "qemu-gfn-truncated"
    RAM_OFFSET_AS_GPA = "qemu-ram-offset-as-gpa"
    LIST_NOT_SENT = "qemu-list-not-sent"
    LIST_APPENDED = "qemu-list-appended"
    STALE_BACKING = "kvm-stale-backing"
    RECEIVE_WITHOUT_FLUSH = "kvm-receive-without-flush"
    FLUSH_SKIPPED = "kvm-flush-skipped"
    FLUSH_ONE_CPU = "kvm-flush-one-cpu"
    FLUSH_BEFORE_LAST_WRITE = "kvm-flush-before-last-write"
    FLUSH_WRONG_VIEW = "kvm-flush-wrong-view"
    FLUSH_LINE_SHORT = "kvm-flush-line-short"
    STATE_STAYS_PROTECTED = "kvm-state-stays-protected"
    STATE_UNPROTECTED = "kvm-state-unprotected"
    VMSA_SNAPSHOT_STALE = "kvm-vmsa-snapshot-stale"
    GHCB_KEPT = "kvm-ghcb-kept"
    SIPI_FLAG_KEPT = "kvm-sipi-flag-kept"
    READY_KEPT = "kvm-ready-kept"
    BLOCKER_TWICE = "qemu-blocker-twice"
    BLOCKER_LATE = "qemu-blocker-late"
    VMSA_NOT_SENT = "qemu-vmsa-not-sent"
    VMSA_SWAPPED = "qemu-vmsa-swapped"
    AUX_NOT_RESTORED = "kvm-aux-not-restored"
    GHCB_LOST = "kvm-ghcb-lost"
    SIPI_FLAG_LOST = "kvm-sipi-flag-lost"
    FINISH_ON_FAILURE = "qemu-finish-on-failure"
    LENGTH_QUERY_IGNORED = "qemu-length-query-ignored"
    DIRTY_FORGOTTEN = "qemu-dirty-forgotten"
    CERTIFICATE_AS_FILE_NAME = "qemu-certificate-as-file-name"
    WINDOW_LOSES_EDGE = "qemu-window-loses-edge"
    PINS_LEAKED = "kvm-pins-leaked"
    OTHER_TREES_FLAGS = "qemu-other-trees-flags"
    PRIVATE_IN_CLEAR = "qemu-private-in-clear"
    IGNORES_NOSEND = "psp-ignores-nosend"
    WRONG_CERTIFICATE = "psp-wrong-certificate"
    SLOW = "psp-slow"
    SENT_RUNS_AGAIN = "psp-sent-runs-again"
    PACKET_TAMPERED = "wire-packet-tampered"
    PACKET_REPLAYED = "wire-packet-replayed"
    PACKET_REORDERED = "wire-packet-reordered"
    PACKET_TRUNCATED = "wire-packet-truncated"
    PACKET_MISPLACED = "wire-packet-misplaced"
    PACKET_DROPPED = "wire-packet-dropped"
    PACKET_OF_OTHER_SESSION = "wire-packet-of-other-session"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftFaultEntry:
    """One row of the catalogue."""

    name: SoftFault
    bug_class: str
    """``B5``; empty for what has no class, such as tampering."""
    owner: Owner
    does: str
    caught_by: str
    """Check and kind that find it, or the verdict that it ends in."""


def _rows() -> tuple[SoftFaultEntry, ...]:
    def row(name: SoftFault, bug_class: str, owner: Owner, does: str, caught_by: str) -> SoftFaultEntry:
        return SoftFaultEntry(name=name, bug_class=bug_class, owner=owner, does=does, caught_by=caught_by)

    firmware, kernel, kvm, qemu = Owner.GUEST_FIRMWARE, Owner.GUEST_KERNEL, Owner.KVM, Owner.QEMU
    processor, wire = Owner.SECURE_PROCESSOR, Owner.WIRE
    fault = SoftFault
    return (
        row(fault.VC_ENABLES_INTERRUPTS, "B2", firmware, "the #VC handler lets interrupts in, and nests", "guest/vc"),
        row(
            fault.UNALIGNED_UNDERCOUNT,
            "B5",
            firmware,
            "counts one page too few of an unaligned range",
            "page-map/views",
        ),
        row(
            fault.SEC_GHCB_UNREPORTED, "B14", firmware, "never reports the first GHCB page as shared", "page-map/views"
        ),
        row(fault.VC_DROPS_REGISTERS, "B15", firmware, "leaves RBX, RCX, RDX out of the GHCB", "page-map/hypercalls"),
        row(
            fault.ASSERT_WITHOUT_FEATURE, "B16", firmware, "stops where the host lacks the feature", "handshake/blocker"
        ),
        row(fault.VARIABLE_MISSING, "B17", firmware, "does not set SevLiveMigrationEnabled", "blocked"),
        row(
            fault.FLASH0_SHARED,
            "B11",
            firmware,
            "marks its own code flash shared, and the host believes it",
            "page-map/blocks",
        ),
        row(
            fault.KEXEC_KEEPS_RANGES, "B4", kernel, "a new kernel does not reset the old one's ranges", "page-map/reset"
        ),
        row(fault.RETRY_IGNORED, "B20", kernel, "takes RETRY for success: the tail keeps its state", "page-map/views"),
        row(fault.REUSES_UNCONVERTED, "B51", kernel, "uses pages whose conversion failed", "page-map/views"),
        row(fault.LIST_KEPT_OVER_RESET, "B3", qemu, "keeps the shared list over a reset", "page-map/reset"),
        row(fault.LIST_LOSES_NEIGHBOUR, "B6", qemu, "removing a range loses the entry behind it", "page-map/views"),
        row(fault.LIST_NOT_MERGED, "B7", qemu, "does not merge an entry with its successor", "page-map/list"),
        row(
            fault.PAGE_SIZE_AS_ENCRYPTED, "B8", qemu, "reads the page size in a2 as the encrypted bit", "page-map/views"
        ),
        row(
            fault.GFN_TRUNCATED,
            "B9",
            qemu,
            "sends gfns with too few bits (15, scaled to small guests)",
            "page-map/views",
        ),
        row(fault.RAM_OFFSET_AS_GPA, "B10", qemu, "takes an offset in the RAM block for a gpa", "page-map/views"),
        row(fault.LIST_NOT_SENT, "B12", qemu, "does not send the shared list", "page-map/views"),
        row(fault.LIST_APPENDED, "B12", qemu, "adds an incoming list to the one it had", "page-map/views"),
        row(fault.STALE_BACKING, "B21", kvm, "old content shows after a page went there and back", "guest/backing"),
        row(fault.RECEIVE_WITHOUT_FLUSH, "B23", kvm, "stale cache lines fall over received pages", "memory/host"),
        row(fault.FLUSH_SKIPPED, "B22", kvm, "never flushes caches when a view changes", "memory/stale-lines"),
        row(fault.FLUSH_ONE_CPU, "B22", kvm, "flushes the caches of one CPU at a reset", "memory/stale-lines"),
        row(
            fault.FLUSH_BEFORE_LAST_WRITE,
            "B22",
            kvm,
            "flushes caches before the last writes are in them",
            "memory/stale-lines",
        ),
        row(
            fault.FLUSH_WRONG_VIEW,
            "B23",
            kvm,
            "flushes a converted range through the view that it gets, not the one it had",
            "memory/stale-lines",
        ),
        row(fault.FLUSH_LINE_SHORT, "B23", kvm, "flushes a converted range but its last line", "memory/stale-lines"),
        row(fault.STATE_STAYS_PROTECTED, "B24", kvm, "guest_state_protected is not cleared at a reset", "reset/vcpu"),
        row(fault.STATE_UNPROTECTED, "B24", kvm, "guest_state_protected is not set again after a reset", "reset/vcpu"),
        row(
            fault.VMSA_SNAPSHOT_STALE,
            "B24",
            kvm,
            "a reset copies back a VMSA that is not the one of the launch",
            "reset/vcpu",
        ),
        row(fault.GHCB_KEPT, "B24", kvm, "a reset keeps the GHCB of every vCPU", "reset/vcpu"),
        row(fault.SIPI_FLAG_KEPT, "B24", kvm, "a reset keeps who has had its first SIPI", "reset/vcpu"),
        row(fault.READY_KEPT, "B18", kvm, "READY outlives a reset, or a vCPU that went offline", "handshake/blocker"),
        row(fault.BLOCKER_TWICE, "B44", qemu, "adds the migration blocker twice", "handshake/blocker"),
        row(fault.BLOCKER_LATE, "B44", qemu, "has no blocker before the guest first ran", "handshake/blocker"),
        row(fault.VMSA_NOT_SENT, "B26", qemu, "leaves out the VMSA of the last vCPU", "vcpu/vmsa"),
        row(fault.VMSA_SWAPPED, "B26", qemu, "gives vCPUs each other's VMSA", "vcpu/vmsa"),
        row(fault.AUX_NOT_RESTORED, "B27", kvm, "does not restore cr0, cr4, efer, cr8", "vcpu/aux"),
        row(fault.GHCB_LOST, "B28", kvm, "loses the GHCB value of every vCPU", "vcpu/ghcb"),
        row(fault.SIPI_FLAG_LOST, "B28", kvm, "forgets who has had its first SIPI", "vcpu/ghcb"),
        row(fault.FINISH_ON_FAILURE, "B29", qemu, "SEND_FINISH after a failed migration", "session/commands"),
        row(fault.LENGTH_QUERY_IGNORED, "B30", qemu, "takes a failed length query for a length, and aborts", "lost"),
        row(fault.DIRTY_FORGOTTEN, "B45", qemu, "a second attempt skips what the failed one had sent", "memory/host"),
        row(
            fault.CERTIFICATE_AS_FILE_NAME,
            "B48",
            qemu,
            "hands a file's name over as the certificate",
            "session/commands",
        ),
        row(fault.WINDOW_LOSES_EDGE, "B33", qemu, "loses the last page of a full batch window", "wire/records"),
        row(fault.PINS_LEAKED, "B33", kvm, "pages of a cancelled batch stay pinned", "host/pins"),
        row(fault.OTHER_TREES_FLAGS, "B32", qemu, "uses another tree's flag for encrypted pages", "wire/records"),
        row(fault.PRIVATE_IN_CLEAR, "", qemu, "sends some private pages as plain records", "wire/secrecy"),
        row(fault.IGNORES_NOSEND, "B31", processor, "sends a guest whose policy forbids it", "session/commands"),
        row(
            fault.WRONG_CERTIFICATE,
            "B31",
            processor,
            "the target's certificate is signed by nobody",
            "session/commands",
        ),
        row(fault.SLOW, "B34", processor, "as slow as silicon: precopy never ends", "too-slow"),
        row(fault.SENT_RUNS_AGAIN, "B37", processor, "a guest that was sent may run again", "session/commands"),
        row(fault.PACKET_TAMPERED, "", wire, "one bit of a packet changes", "session/packets"),
        row(fault.PACKET_REPLAYED, "", wire, "a packet comes twice", "session/packets"),
        row(fault.PACKET_REORDERED, "", wire, "two packets change places", "session/packets"),
        row(fault.PACKET_TRUNCATED, "", wire, "a packet is shorter than it says", "session/packets"),
        row(fault.PACKET_MISPLACED, "", wire, "a packet comes with another page's address", "session/packets"),
        row(fault.PACKET_DROPPED, "", wire, "a packet is missing", "session/packets"),
        row(fault.PACKET_OF_OTHER_SESSION, "", wire, "a packet of an earlier session", "session/packets"),
    )


SOFT_FAULTS: Mapping[SoftFault, SoftFaultEntry] = MappingProxyType({entry.name: entry for entry in _rows()})
"""The catalogue, in the order in which it is listed."""
