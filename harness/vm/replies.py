"""What the harness reads of QMP replies, checked before it is read: who answers otherwise is told so in one line.

Shapes are QEMU's qapi/migration.json, run-state.json and misc.json. Nearly every member is optional in practice, and
what is not read here may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from harness.model.errors import ProtocolError


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", alias_generator=lambda name: name.replace("_", "-"))


class _Ram(_Shape):
    remaining: int = 0
    transferred: int = 0
    total: int = 0
    normal: int = 0
    duplicate: int = 0
    page_size: int = 0
    dirty_pages_rate: int = 0
    dirty_sync_count: int = 0
    mbps: float = 0.0


class _Address(_Shape):
    host: str = ""
    port: str = ""


class _Migration(_Shape):
    status: str = ""
    ram: _Ram = _Ram()
    downtime: int = 0
    error_desc: str = ""
    blocked_reasons: list[str] = []
    socket_address: list[_Address] = []


class _Status(_Shape):
    status: str


class _Text(_Shape):
    human_readable_text: str


_SHAPES: Mapping[str, TypeAdapter[Any]] = {
    "query-status": TypeAdapter(_Status),
    "query-migrate": TypeAdapter(_Migration),
    "query-migrate-parameters": TypeAdapter(dict[str, Any]),
    "human-monitor-command": TypeAdapter(str),
    "x-query-interrupt-controllers": TypeAdapter(_Text),
}

_WORDS = {"missing": "it is missing", "model_type": "it should be an object"}
"""Pydantic speaks of models and fields, which nobody sees here."""


def check_reply(who: str, command: str, reply: Any) -> None:
    """ProtocolError when what *who* returned for *command* is not what the harness would read of it."""
    shape = _SHAPES.get(command)
    if shape is None:
        return
    try:
        shape.validate_python(reply)
    except ValidationError as odd:
        first = odd.errors(include_url=False, include_input=False)[0]
        where = ".".join([command, *map(str, first["loc"])])
        words = _WORDS.get(first["type"]) or first["msg"].replace("Input", "it")
        raise ProtocolError(
            f"{who}: {where} is not as QEMU says it: {words}", hint=f"see {who}.qmp.jsonl for the whole reply"
        ) from None
