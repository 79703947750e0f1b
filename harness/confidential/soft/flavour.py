"""What the software platform can stand for: a host with SEV, with CSV, with CSV2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.confidential.soft.processor.policy import ApiVersion, Policy, PolicyFlag
from harness.model.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One kind of host."""

    name: str
    """Of the backend."""
    is_es: bool
    """vCPU state is encrypted: VMSA, GHCB and what KVM keeps beside them have to travel."""
    batches: bool
    """Ring-buffer commands: a window of pages with one command."""
    version: ApiVersion
    """Of the firmware's interface. Ours, it only has to be one that a policy can be above or below."""

    @property
    def tells_of_resets(self) -> bool:
        """QEMU issues PRE_SYSTEM_RESET and POST_SYSTEM_RESET: Hygon's series, which also has the batches."""
        return self.batches

    def policy(self, words: Iterable[str] = (), *, minimum_api: str = "0.0") -> Policy:
        """A guest's policy here: names of :class:`PolicyFlag` in any case, ES as the flavour is; ``major.minor``.

        UsageError for a word or a version that is none.
        """
        flags = PolicyFlag.ES if self.is_es else PolicyFlag(0)
        for word in words:
            if word.upper() not in PolicyFlag.__members__:
                known = ", ".join(flag.lower() for flag in PolicyFlag.__members__)
                raise UsageError(f"unknown policy bit {word!r}", hint=f"known: {known}")
            flags |= PolicyFlag[word.upper()]
        if bool(flags & PolicyFlag.ES) != self.is_es:
            raise UsageError(f"{self.name} has no encrypted vCPU state", hint="take soft-csv2 for the policy bit es")
        return Policy.of(flags, minimum=_version(minimum_api))


SOFT_SEV = Flavour(name="soft-sev", is_es=False, batches=False, version=ApiVersion(0, 24))
SOFT_CSV = Flavour(name="soft-csv", is_es=False, batches=True, version=ApiVersion(1, 2))
SOFT_CSV2 = Flavour(name="soft-csv2", is_es=True, batches=True, version=ApiVersion(1, 3))
FLAVOURS: Mapping[str, Flavour] = MappingProxyType({item.name: item for item in (SOFT_SEV, SOFT_CSV, SOFT_CSV2)})


def _version(text: str) -> ApiVersion:
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal() and int(major) < 256 and int(minor) < 256):
        raise UsageError(f"{text!r} is no version of a firmware's interface", hint="write major.minor, each below 256")
    return ApiVersion(int(major), int(minor))
