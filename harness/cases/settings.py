"""What can be set on a case with ``--set name=value``: validated once, here, and frozen afterwards.

Each case has its own class, so a name that a case does not use is refused instead of ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from harness.cases.protection_settings import ProtectionSettings
from harness.migration.settings import CancelAt, MigrationSettings, Transport
from harness.model.errors import UsageError
from harness.model.guest import Workload
from harness.model.machine import MachineSpec

_PASSES_PER_S = 5
_SLOW_MIB_S = 16
"""A bandwidth at which the first pass of any guest lasts long enough to be cancelled in."""

_UNKNOWN = "extra_forbidden"
"""What pydantic calls a name that the model does not have."""

Mib = Annotated[int, Field(ge=64, le=1 << 20)]


def _either(value: Any, form: ValidatorFunctionWrapHandler) -> Any:
    """One word for a value that is of neither form, instead of one for each."""
    try:
        return form(value)
    except ValidationError:
        raise ValueError("should be auto, or 0 to 1024 in steps of 8") from None


TrimKib = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=0, le=1024, multiple_of=8)],
    WrapValidator(_either),
]


class Settings(BaseModel):
    """What every case has. Units are in the names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_enum_values=False)

    memory_mib: Mib = 128
    trim_kib: TrimKib = "auto"
    """Taken off the end of memory; ``auto`` takes 64 KiB where QEMU loses dirty pages of memory that has a round size
    (TCG before 9.0), and 0 shows how it does."""
    below_4g_mib: int = Field(default=0, ge=0, le=3072)
    """Memory below the hole that ends at 4 GiB, the rest lies above; 0 leaves it to the machine type."""
    vcpus: int = Field(default=1, ge=1, le=8)
    machine: str = Field(default="pc-q35-7.2", pattern=r"^[a-z0-9][a-z0-9.-]*-[0-9.]+$")
    """Versioned machine type; an alias such as q35 means different things to different binaries."""
    firmware: str = Field(default="", pattern=r"^([A-Za-z0-9._-]+)?$")
    """Value of ``-bios``, e.g. ``qboot.rom``; empty is the machine type's own."""
    deadline_s: float = Field(default=120.0, gt=0, le=24 * 3600)
    """The case ends by then, whatever happens."""

    def machine_for(self, spec: MachineSpec) -> MachineSpec:
        """*spec* with what this case wants of the machine besides what can be set."""
        return spec


class MigrationCaseSettings(Settings):
    """A case that moves a guest under load."""

    workload: Workload = Workload.FULL
    working_set_mib: int = Field(default=0, ge=0)
    """Memory that the workload touches; 0 is all of it."""
    pages_per_tick: int = Field(default=0, ge=0)
    """Pages that a vCPU writes at most between two timer interrupts, 100 a second; 0 does not throttle. The workload
    ``full`` never is."""
    pages_per_flush: int = Field(default=64, ge=0)
    """Pages that a vCPU writes between two flushes of its TLB; 0 never flushes. A small TLB keeps it cheap for QEMU to
    read the dirty bitmap page by page under TCG, as it does where trim_kib is not 0."""
    transport: Transport = Transport.UNIX
    passes: int = Field(default=2, ge=1, le=1000)
    """How often the dirty bitmap is read before the migration is let go: 2 is when all memory has been sent once and is
    being sent again; 1 lets QEMU decide by downtime_limit_ms."""
    bandwidth_mib_s: int = Field(default=0, ge=0)
    """``max-bandwidth``; 0 is unlimited."""
    hold_bandwidth_mib_s: int = Field(default=0, ge=0)
    """``max-bandwidth`` while held in precopy; 0 lets a pass take a fifth of a second."""
    downtime_limit_ms: int = Field(default=300, ge=0, le=2_000_000)
    relay: bool = True
    """Put the relay between the two sides: it counts pages and keeps what was sent of devices and small RAM blocks."""
    record: bool = False
    """Keep every byte that goes over the wire, in all its versions; a wire fault implies it."""
    capabilities: Mapping[str, bool] = Field(default_factory=dict)
    """Migration capabilities by name: ``--set capabilities.xbzrle=on``."""
    protection: ProtectionSettings = Field(default_factory=ProtectionSettings)
    """How memory is protected, where the backend does: ``--set protection.policy=nosend``."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.below_4g_mib >= self.memory_mib:
            raise ValueError(f"below_4g_mib {self.below_4g_mib} leaves nothing of {self.memory_mib} MiB above the hole")
        if self.working_set_mib > self.memory_mib:
            raise ValueError(f"working_set_mib {self.working_set_mib} exceeds memory_mib {self.memory_mib}")
        if self.workload is Workload.IDLE and self.passes > 1:
            raise ValueError("an idle guest dirties nothing: set passes=1 or another workload")
        if self.protection.renews and not self.may_renew:
            raise ValueError("protection.renews is only played where a guest is rebooted and no migration is under way")
        return self

    @property
    def holds_firmware(self) -> bool:
        """Whether a protected guest stays in its firmware until it is told to go on."""
        return False

    @property
    def reboots(self) -> bool:
        """Whether a guest that resets itself boots again."""
        return False

    @property
    def plays_resets(self) -> bool:
        """Whether the platform plays what KVM and caches do around a reset; see cases/reset_road.py."""
        return False

    @property
    def may_renew(self) -> bool:
        """Whether a host that gives the guest a new context at each reset can be played; see protection.renews."""
        return False

    @property
    def changes_vmfd(self) -> bool:
        """Whether a reset gives the guest another VM descriptor of KVM, where the binary can do that without need."""
        return False

    def migration(self) -> MigrationSettings:
        """The part that the driver obeys."""
        return MigrationSettings(
            transport=self.transport,
            max_bandwidth_mib_s=self.bandwidth_mib_s,
            hold_bandwidth_mib_s=self.hold_bandwidth_mib_s or self.memory_mib * _PASSES_PER_S,
            downtime_limit_ms=self.downtime_limit_ms,
            hold_passes=self.passes,
            capabilities=dict(self.capabilities),
        )


class PingPongSettings(MigrationCaseSettings):
    """Back and forth."""

    hops: int = Field(default=4, ge=1, le=10_000)
    fill: bool = True
    """Whether the guest fills its memory with the pattern and verifies it at the end; without, it has to be idle."""

    @model_validator(mode="after")
    def _needs_a_pattern(self) -> Self:
        if not self.fill and self.workload is not Workload.IDLE:
            raise ValueError("memory that is not filled has no pattern to write: set workload=idle")
        return self


class CancelSettings(MigrationCaseSettings):
    """One attempt cancelled, then another that must succeed."""

    cancel_at: tuple[CancelAt, ...] = tuple(CancelAt)
    """Phases in which attempts are cancelled, one after the other."""

    @field_validator("cancel_at", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    cancel_with_return_path: bool = False
    """Keep the return path open in attempts that are cancelled. QEMU 7.2 and 10.0 were seen to end some of them
    ``failed`` with "Broken pipe" then, instead of ``cancelled``; a race in migrate_fd_cancel is likely, not proven."""

    def cancelled_migration(self, at: CancelAt) -> MigrationSettings:
        """An attempt that stays in the phase long enough: never lets go, and slowly until pages are sent again."""
        # A guest that a busy machine starves may dirty so little that a later pass is the last: then it waits there.
        pause = {"pause-before-switchover": True} if at in {CancelAt.LATER_PASS, CancelAt.PRE_SWITCHOVER} else {}
        slow = at in {CancelAt.SETUP, CancelAt.FIRST_PASS}
        return MigrationSettings(
            transport=self.transport,
            hold_passes=2,
            hold_bandwidth_mib_s=_SLOW_MIB_S if slow else self.memory_mib * _PASSES_PER_S,
            capabilities={"return-path": self.cancel_with_return_path, **self.capabilities, **pause},
        )


def parse_settings(kind: type[Settings], defaults: Mapping[str, Any], words: Iterable[str]) -> Settings:
    """Validate ``name=value`` *words* over *defaults*.

    Raises UsageError that names every fault at once, and the names that the case knows.
    """
    values: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in defaults.items()
    }
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"bad --set {word!r}", hint="write --set name=value, e.g. --set memory_mib=256")
        _assign(values, name.strip().split("."), text.strip())
    return validate(kind, values)


def validate(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Validate already structured *values* (defaults, a plan file).

    Raises UsageError as :func:`parse_settings`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(_fault(item) for item in error.errors())
        raise UsageError(f"bad settings: {faults}", hint=_hint(kind, error)) from None


def _assign(values: dict[str, Any], path: list[str], text: str) -> None:
    *parents, leaf = path
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise UsageError(f"bad --set: {parent} has no members", hint=f"write --set {parent}=value")
        values = inner
    try:
        values[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        values[leaf] = text


def _fault(item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "settings"
    what = "unknown name" if item["type"] == _UNKNOWN else str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}"


def _hint(kind: type[BaseModel], error: ValidationError) -> str:
    unknown = [item["loc"] for item in error.errors() if item["type"] == _UNKNOWN]
    if not unknown:
        return "cvmig plan CASE shows every setting with its value"
    *parents, name = map(str, unknown[0])
    for parent in parents:
        field = kind.model_fields.get(parent)
        if field and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            kind = field.annotation
    near = difflib.get_close_matches(name, kind.model_fields, n=1)
    return f"did you mean {'.'.join([*parents, near[0]])}?" if near else f"known names: {', '.join(kind.model_fields)}"
