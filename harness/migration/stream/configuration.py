"""The configuration section: machine name, then optional subsections (vmstate_configuration in migration/savevm.c)."""

from __future__ import annotations

import struct

from harness.migration.stream.cursor import Cursor
from harness.migration.stream.elements import Configuration, ConfigurationSubsection
from harness.migration.stream.format import MAX_CAPABILITIES, MAX_MACHINE_NAME_BYTES, SectionType

TARGET_PAGE_BITS = "configuration/target-page-bits"
CAPABILITIES = "configuration/capabilities"
UUID = "configuration/uuid"
UUID_BYTES = 16


def parse(cursor: Cursor) -> Configuration:
    """Read what follows the type byte. Whether a subsection follows is told by the byte behind the section."""
    length = cursor.u32()
    if not 0 < length <= MAX_MACHINE_NAME_BYTES:
        raise cursor.error(f"machine name of {length} bytes")
    machine = cursor.text(length, "machine name")
    subsections = []
    while cursor.peek_u8() == SectionType.SUBSECTION:
        cursor.u8()
        subsections.append(_subsection(cursor))
    return build(machine, tuple(subsections))


def build(machine: str, subsections: tuple[ConfigurationSubsection, ...]) -> Configuration:
    """The configuration with the meaning of its subsections."""
    payloads = {subsection.name: subsection.payload for subsection in subsections}
    bits = payloads.get(TARGET_PAGE_BITS)
    return Configuration(
        machine=machine,
        subsections=subsections,
        capabilities=_names(payloads.get(CAPABILITIES, b"")),
        target_page_bits=int.from_bytes(bits, "big") if bits else None,
    )


def _subsection(cursor: Cursor) -> ConfigurationSubsection:
    name = cursor.str8("configuration subsection")
    version = cursor.u32()
    return ConfigurationSubsection(name=name, version=version, payload=_payload(cursor, name))


def _payload(cursor: Cursor, name: str) -> bytes:
    if name == TARGET_PAGE_BITS:
        payload = bytes(cursor.take(4))
        if not 10 <= (bits := int.from_bytes(payload, "big")) <= 16:
            raise cursor.error(f"target page of {bits} bits")
        return payload
    if name == UUID:
        return bytes(cursor.take(UUID_BYTES))
    if name == CAPABILITIES:
        return _capabilities(cursor)
    raise cursor.error(f"unknown configuration subsection {name}")


def _capabilities(cursor: Cursor) -> bytes:
    count = cursor.u32()
    if count > MAX_CAPABILITIES:
        raise cursor.error(f"{count} capabilities")
    names = [cursor.str8("capability") for _ in range(count)]
    return struct.pack(">I", count) + b"".join(bytes([len(name)]) + name.encode("ascii") for name in names)


def _names(payload: bytes) -> tuple[str, ...]:
    names = []
    pos = 4
    while pos < len(payload):
        end = pos + 1 + payload[pos]
        names.append(payload[pos + 1 : end].decode("ascii"))
        pos = end
    return tuple(names)
