"""The session buffer of SEND_START: transport keys wrapped for one target, and the policy bound to them.

128 bytes: nonce 16, wrap_tk 32 (AES-128-CTR(KEK, wrap_iv) of TEK and TIK), wrap_iv 16, wrap_mac 32
(HMAC-SHA256(KIK, wrap_tk)), policy_mac 32 (HMAC-SHA256(TIK, policy)). KEK and KIK come from the ECDH secret of both
platforms' PDH keys and the nonce.
"""

from __future__ import annotations

import hmac
import struct

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from harness.confidential.soft.processor.keys import KEY_BYTES, Entropy, KeyPair, derive
from harness.confidential.soft.processor.packets import TransportKeys
from harness.confidential.soft.processor.policy import Policy
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus

SESSION_BYTES = 128
_SESSION = struct.Struct("<16s32s16s32s32s")


def open_session(own: KeyPair, peer_point: bytes, policy: Policy, entropy: Entropy) -> tuple[TransportKeys, bytes]:
    """New transport keys, and the session buffer that only the holder of *peer_point* can unwrap."""
    keys = TransportKeys(entropy(KEY_BYTES), entropy(KEY_BYTES))
    nonce, wrap_iv = entropy(16), entropy(16)
    kek, kik = _wrapping_keys(own, peer_point, nonce)
    wrapped = _ctr(kek, wrap_iv, keys.tek + keys.tik)
    wrap_mac, policy_mac = hmac.digest(kik, wrapped, "sha256"), hmac.digest(keys.tik, policy.packed, "sha256")
    return keys, _SESSION.pack(nonce, wrapped, wrap_iv, wrap_mac, policy_mac)


def accept_session(own: KeyPair, peer_point: bytes, policy: Policy, session: bytes) -> TransportKeys:
    """The keys in *session*.

    Raises CommandRefusedError: INVALID_LENGTH, or BAD_MEASUREMENT for a buffer that was made for another platform, by
    another than *peer_point*, or changed, and for a *policy* that is not the guest's.
    """
    if len(session) != SESSION_BYTES:
        raise CommandRefusedError(FirmwareStatus.INVALID_LENGTH, f"a session of {len(session)} bytes")
    nonce, wrapped, wrap_iv, wrap_mac, policy_mac = _SESSION.unpack(session)
    kek, kik = _wrapping_keys(own, peer_point, nonce)
    if not hmac.compare_digest(wrap_mac, hmac.digest(kik, wrapped, "sha256")):
        raise CommandRefusedError(FirmwareStatus.BAD_MEASUREMENT, "the session's keys are not for this platform")
    tokens = _ctr(kek, wrap_iv, wrapped)
    keys = TransportKeys(tokens[:KEY_BYTES], tokens[KEY_BYTES:])
    if not hmac.compare_digest(policy_mac, hmac.digest(keys.tik, policy.packed, "sha256")):
        raise CommandRefusedError(FirmwareStatus.BAD_MEASUREMENT, f"policy {policy.value:#x} is not the guest's")
    return keys


def _wrapping_keys(own: KeyPair, peer_point: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    master = derive(own.shared_secret(peer_point), b"cvmig-master", nonce)
    return derive(master, b"cvmig-kek", b""), derive(master, b"cvmig-kik", b"")


def _ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    return Cipher(AES(key), CTR(iv)).encryptor().update(data)
