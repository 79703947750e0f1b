"""Address space ids: which guest's key a physical CPU uses, and what must be flushed before one is used again."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus


@dataclass(slots=True)
class AsidTable:
    """ASIDs 1 to *last*; those below *first_plain* are for guests with encrypted vCPU state, the rest for the others.

    CPUID 0x8000001F: ECX is *last*, EDX *first_plain*. After a DEACTIVATE the ASID is unclean until every core has run
    WBINVD and then DF_FLUSH was issued.
    """

    last: int
    first_plain: int
    cores: int
    owners: dict[int, int] = field(default_factory=dict)
    """ASID -> handle."""
    unclean: set[int] = field(default_factory=set)
    cores_to_flush: set[int] = field(default_factory=set)

    def bind(self, asid: int, handle: int, *, is_es: bool) -> None:
        """ACTIVATE. Refused with INVALID_ASID, ASID_OWNED or DF_FLUSH_REQUIRED."""
        allowed = range(1, self.first_plain) if is_es else range(self.first_plain, self.last + 1)
        if asid not in allowed:
            kind = "with" if is_es else "without"
            raise CommandRefusedError(FirmwareStatus.INVALID_ASID, f"ASID {asid} for a guest {kind} encrypted state")
        if asid in self.owners:
            raise CommandRefusedError(FirmwareStatus.ASID_OWNED, f"ASID {asid} is guest {self.owners[asid]}'s")
        if asid in self.unclean:
            raise CommandRefusedError(FirmwareStatus.DF_FLUSH_REQUIRED, f"ASID {asid} was used before")
        self.owners[asid] = handle

    def release(self, asid: int) -> None:
        """DEACTIVATE: caches of every core may still hold lines of it."""
        del self.owners[asid]
        self.unclean.add(asid)
        self.cores_to_flush = set(range(self.cores))

    def wbinvd(self, core: int) -> None:
        """*core* wrote back and dropped its caches."""
        self.cores_to_flush.discard(core)

    def df_flush(self) -> None:
        """DF_FLUSH: all released ASIDs are clean. WBINVD_REQUIRED while a core has not run WBINVD since."""
        if self.unclean and self.cores_to_flush:
            cores = ", ".join(map(str, sorted(self.cores_to_flush)))
            raise CommandRefusedError(FirmwareStatus.WBINVD_REQUIRED, f"cores {cores} still hold lines")
        self.unclean.clear()
