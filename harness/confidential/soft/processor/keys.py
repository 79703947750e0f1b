"""Key pairs, Diffie-Hellman, and derived keys of the secure processor.

Curves, derivation labels and sizes follow the shape of the SEV API (P-384, 128-bit KEK, KIK, TEK, TIK); the exact bytes
that real firmware feeds into its derivation are not verified, and nothing outside the emulation depends on ours.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus

KEY_BYTES = 16
POINT_BYTES = 97
"""An uncompressed P-384 point."""

Entropy = Callable[[int], bytes]
"""Gives that many bytes; tests pass a seeded one."""
system_entropy: Entropy = secrets.token_bytes


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A P-384 key of a platform or an authority; the private half never leaves the process."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def generate(cls, entropy: Entropy = system_entropy) -> KeyPair:
        """A new key, a pure function of *entropy*."""
        return cls(ec.derive_private_key(int.from_bytes(entropy(46), "big") + 1, ec.SECP384R1()))

    @property
    def point(self) -> bytes:
        """The public half, uncompressed."""
        return self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def sign(self, data: bytes) -> bytes:
        """ECDSA with SHA-384, DER."""
        return self.private.sign(data, ec.ECDSA(SHA384()))

    def shared_secret(self, point: bytes) -> bytes:
        """ECDH. Raises CommandRefusedError INVALID_CERTIFICATE for a point that is not on the curve."""
        return self.private.exchange(ec.ECDH(), _public(point))


def is_signed_by(point: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the key at *point* signed *data*."""
    try:
        _public(point).verify(signature, data, ec.ECDSA(SHA384()))
    except InvalidSignature:
        return False
    return True


def derive(secret: bytes, label: bytes, context: bytes) -> bytes:
    """One 16-byte key out of *secret* (NIST SP 800-108, counter mode, HMAC-SHA256)."""
    kdf = KBKDFHMAC(
        algorithm=SHA256(),
        mode=Mode.CounterMode,
        length=KEY_BYTES,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    )
    return kdf.derive(secret)


def _public(point: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    except ValueError as error:
        raise CommandRefusedError(FirmwareStatus.INVALID_CERTIFICATE, "a public key is no point of P-384") from error
