"""Memory encryption with a per-guest key and an address tweak: what the host sees of private pages.

AES-128-XTS per 4 KiB page, the tweak being the page's place in RAM. As on SEV and CSV1/2 there is no integrity: what is
moved to another page, or read under another guest's key, decrypts to garbage without an error.
"""

from __future__ import annotations

from collections.abc import Iterable

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from harness.model.memory import PAGE_SIZE

VEK_BYTES = 32
"""Two AES-128 keys, as XTS wants them."""


class MemoryCipher:
    """The memory engine as loaded with one guest's key (VEK)."""

    def __init__(self, vek: bytes) -> None:
        if len(vek) != VEK_BYTES:
            raise ValueError(f"a memory key has {VEK_BYTES} bytes, got {len(vek)}")
        self._algorithm = AES(vek)

    def host_view(self, ram_pages: Iterable[int], plain: bytes | memoryview) -> bytes:
        """Ciphertext of whole pages; *plain* holds the content of *ram_pages* one after the other."""
        return self._each(ram_pages, plain, is_encryption=True)

    def guest_view(self, ram_pages: Iterable[int], ciphertext: bytes | memoryview) -> bytes:
        """What the guest reads where the host left *ciphertext*; garbage unless it is of this key and these pages."""
        return self._each(ram_pages, ciphertext, is_encryption=False)

    def _each(self, ram_pages: Iterable[int], data: bytes | memoryview, *, is_encryption: bool) -> bytes:
        pages, view = list(ram_pages), memoryview(data)
        if len(pages) * PAGE_SIZE != len(view):
            raise ValueError(f"{len(pages)} pages, but {len(view)} bytes")
        # cryptography wants 15 bytes of room behind what update_into() writes.
        out = bytearray(len(view) + 15)
        target = memoryview(out)
        for index, page in enumerate(pages):
            start = index * PAGE_SIZE
            cipher = Cipher(self._algorithm, XTS(page.to_bytes(16, "little")))
            context = cipher.encryptor() if is_encryption else cipher.decryptor()
            context.update_into(view[start : start + PAGE_SIZE], target[start:])
        return bytes(target[: len(view)])
