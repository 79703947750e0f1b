"""Certificates of a platform: PDH <- PEK <- (OCA, CEK <- ASK <- ARK).

The format is our own (real ones are AMD's or Hygon's); the chain and what each signature proves are those of the API:
OCA says who owns the platform, ARK (HRK on Hygon) that it is genuine.

    4s magic   B usage   B api_major   B api_minor   B signatures   97s point   { B signer usage, B length, DER } ...
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from harness.confidential.soft.processor.keys import POINT_BYTES, Entropy, KeyPair, is_signed_by, system_entropy
from harness.confidential.soft.processor.policy import ANY_VERSION, ApiVersion, Policy, PolicyFlag
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus

_MAGIC = b"CVMC"
_BODY = struct.Struct(f"<4sBBBB{POINT_BYTES}s")


class Usage(IntEnum):
    """What a key is for (our own numbers)."""

    ARK = 0
    ASK = 1
    CEK = 2
    OCA = 3
    PEK = 4
    PDH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A public key and who vouches for it."""

    usage: Usage
    point: bytes
    version: ApiVersion
    """Of the firmware that made it; counts in a PEK."""
    signatures: tuple[tuple[Usage, bytes], ...] = ()

    @property
    def signed_part(self) -> bytes:
        """What signatures cover."""
        return _BODY.pack(_MAGIC, self.usage, self.version.major, self.version.minor, 0, self.point)

    def sign(self, usage: Usage, key: KeyPair) -> Certificate:
        """The same with one signature more."""
        return replace(self, signatures=(*self.signatures, (usage, key.sign(self.signed_part))))

    def is_signed(self, signer: Certificate) -> bool:
        """Whether *signer* really vouches for this one."""
        return any(
            usage == signer.usage and is_signed_by(signer.point, signature, self.signed_part)
            for usage, signature in self.signatures
        )

    def pack(self) -> bytes:
        """As it travels in a migration parameter."""
        body = bytearray(self.signed_part)
        body[7] = len(self.signatures)
        tail = (bytes((usage, len(signature))) + signature for usage, signature in self.signatures)
        return bytes(body) + b"".join(tail)


def unpack_chain(data: bytes) -> tuple[Certificate, ...]:
    """Certificates back to back. Raises CommandRefusedError INVALID_CERTIFICATE for anything else."""
    certificates = []
    while data:
        certificate, data = _unpack(data)
        certificates.append(certificate)
    return tuple(certificates)


def pack_chain(certificates: tuple[Certificate, ...]) -> bytes:
    """The inverse of :func:`unpack_chain`."""
    return b"".join(certificate.pack() for certificate in certificates)


@dataclass(frozen=True, slots=True)
class Vendor:
    """Who makes secure processors: the root that they all know."""

    ark: KeyPair
    ask: KeyPair

    @classmethod
    def generate(cls, entropy: Entropy = system_entropy) -> Vendor:
        """A vendor of its own."""
        return cls(KeyPair.generate(entropy), KeyPair.generate(entropy))

    @property
    def chain(self) -> tuple[Certificate, ...]:
        """ASK and ARK: the ``sev-amd-cert`` of a migration."""
        ark = _bare(Usage.ARK, self.ark).sign(Usage.ARK, self.ark)
        return (_bare(Usage.ASK, self.ask).sign(Usage.ARK, self.ark), ark)


@dataclass(frozen=True, slots=True)
class PlatformKeys:
    """All keys of one platform and its certificates."""

    pdh: KeyPair
    pdh_certificate: Certificate
    chain: tuple[Certificate, ...]
    """PEK, OCA, CEK: the ``sev-plat-cert`` of a migration."""

    @classmethod
    def generate(
        cls, vendor: Vendor, owner: KeyPair, version: ApiVersion, entropy: Entropy = system_entropy
    ) -> PlatformKeys:
        """A platform made by *vendor* and owned by *owner*."""
        pdh, pek, cek = (KeyPair.generate(entropy) for _ in range(3))
        signed_pek = _bare(Usage.PEK, pek, version).sign(Usage.OCA, owner).sign(Usage.CEK, cek)
        oca = _bare(Usage.OCA, owner).sign(Usage.OCA, owner)
        chain = (signed_pek, oca, _bare(Usage.CEK, cek, version).sign(Usage.ASK, vendor.ask))
        return cls(pdh, _bare(Usage.PDH, pdh, version).sign(Usage.PEK, pek), chain)


def judge_target(
    policy: Policy,
    *,
    pdh: bytes,
    platform: bytes,
    vendor: bytes,
    own_oca: bytes,
    known_ark: bytes,
) -> Certificate:
    """The target's PDH, if *policy* lets the guest go there. Points: *own_oca* and *known_ark*; the rest are chains.

    Raises CommandRefusedError: INVALID_CERTIFICATE for what is no certificate or the wrong one, BAD_SIGNATURE for a
    broken chain, POLICY_FAILURE for a target of another owner (DOMAIN), of no known vendor (SEV), or too old.
    """
    given = {item.usage: item for item in (*unpack_chain(pdh), *unpack_chain(platform), *unpack_chain(vendor))}
    target = _need(given, Usage.PDH)
    pek = _need(given, Usage.PEK)
    _prove(target, pek)
    if policy.flags & PolicyFlag.DOMAIN:
        oca = _need(given, Usage.OCA)
        _prove(pek, oca)
        _allow(oca.point == own_oca, "the target belongs to another owner")
    if policy.flags & PolicyFlag.SEV:
        cek, ask, ark = (_need(given, usage) for usage in (Usage.CEK, Usage.ASK, Usage.ARK))
        for certificate, signer in ((pek, cek), (cek, ask), (ask, ark)):
            _prove(certificate, signer)
        _allow(ark.point == known_ark, "the target's vendor is not known")
    _allow(pek.version >= policy.minimum, f"the target's firmware {pek.version} is older than {policy.minimum}")
    return target


def _bare(usage: Usage, key: KeyPair, version: ApiVersion = ANY_VERSION) -> Certificate:
    return Certificate(usage=usage, point=key.point, version=version)


def _need(given: dict[Usage, Certificate], usage: Usage) -> Certificate:
    if usage not in given:
        raise CommandRefusedError(FirmwareStatus.INVALID_CERTIFICATE, f"no {usage.name} certificate was given")
    return given[usage]


def _prove(certificate: Certificate, signer: Certificate) -> None:
    if not certificate.is_signed(signer):
        reason = f"{signer.usage.name} did not sign {certificate.usage.name}"
        raise CommandRefusedError(FirmwareStatus.BAD_SIGNATURE, reason)


def _allow(is_allowed: bool, reason: str) -> None:
    if not is_allowed:
        raise CommandRefusedError(FirmwareStatus.POLICY_FAILURE, reason)


def _unpack(data: bytes) -> tuple[Certificate, bytes]:
    try:
        magic, usage, major, minor, count, point = _BODY.unpack_from(data)
        offset, signatures = _BODY.size, []
        for _ in range(count):
            signer, length = data[offset], data[offset + 1]
            signatures.append((Usage(signer), data[offset + 2 : offset + 2 + length]))
            offset += 2 + length
        certificate = Certificate(
            usage=Usage(usage), point=point, version=ApiVersion(major, minor), signatures=tuple(signatures)
        )
    except (struct.error, ValueError, IndexError) as error:
        raise CommandRefusedError(FirmwareStatus.INVALID_CERTIFICATE, "this is no certificate") from error
    if magic != _MAGIC or offset > len(data):
        raise CommandRefusedError(FirmwareStatus.INVALID_CERTIFICATE, "this is no certificate")
    return certificate, data[offset:]
