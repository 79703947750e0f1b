"""Names out of ``query-qmp-schema`` (QEMU qapi/introspect.json): the numbered types behind them mean nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Schema:
    """The reply of ``query-qmp-schema``. KeyError for a command that is not there."""

    def __init__(self, entities: Sequence[Mapping[str, Any]]) -> None:
        self._entities = {entity["name"]: entity for entity in entities}

    def commands(self) -> dict[str, list[str]]:
        """Command -> names of its arguments."""
        names = (name for name, entity in self._entities.items() if entity["meta-type"] == "command")
        return {name: self.members(name) for name in names}

    def events(self) -> list[str]:
        """Names of all events."""
        return [name for name, entity in self._entities.items() if entity["meta-type"] == "event"]

    def members(self, command: str) -> list[str]:
        """Names of the arguments of *command*."""
        return sorted(self._members_of(self._entities[command]["arg-type"]))

    def values(self, command: str, *path: str) -> list[str]:
        """Names that an enumeration takes which is reached from *command* along the members *path*."""
        kind = self._entities[command]["arg-type"]
        for member in path:
            kind = self._element(self._members_of(kind)[member])
        entity = self._entities[kind]
        # "values" is deprecated since QEMU 6.2, "members" carries the same names.
        return [member["name"] for member in entity["members"]] if "members" in entity else list(entity["values"])

    def _element(self, kind: str) -> str:
        entity = self._entities[kind]
        return str(entity["element-type"]) if entity["meta-type"] == "array" else kind

    def _members_of(self, kind: str) -> dict[str, str]:
        members: dict[str, str] = {member["name"]: member["type"] for member in self._entities[kind].get("members", ())}
        for variant in self._entities[kind].get("variants", ()):
            members |= self._members_of(variant["type"])
        return members
