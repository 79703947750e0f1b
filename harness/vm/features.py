"""What a QEMU binary can do, read from the binary itself in one short QMP session, never guessed from its version."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, HarnessError, LostError, SetupError
from harness.model.machine import Accel
from harness.vm import feature_cache
from harness.vm.artefact import ArtefactFile
from harness.vm.keeper import PROCESS_PREFIX
from harness.vm.process import Process
from harness.vm.qmp import QmpError, QmpSession
from harness.vm.schema import Schema

_QMP_FD = 3
_DIRTY_PAGES_KEPT = (9, 0)
"""First release with QEMU commit 03bfc2188f06."""
_PROBE_S = 10.0
_HINT = "give a QEMU system emulator, e.g. --qemu /usr/bin/qemu-system-x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One binary. Sets of names as QEMU spells them."""

    path: Path
    version: str
    """E.g. ``7.2.22``."""
    package: str
    """What the packager added to the version, e.g. ``Debian 1:7.2+dfsg-7+deb12u18``."""
    target: str
    """Architecture of its guests, e.g. ``x86_64``."""
    machines: frozenset[str]
    """Machine types, aliases left out."""
    accelerators: frozenset[str]
    """``tcg``, ``kvm`` ... as compiled in; whether the host can is another question."""
    cpu_models: frozenset[str]
    commands: Mapping[str, frozenset[str]]
    """QMP command -> names of its arguments."""
    events: frozenset[str]
    migration_capabilities: frozenset[str]
    migration_parameters: frozenset[str]
    options: frozenset[str]
    """Command line options that take key=value lists, e.g. ``sandbox``, ``plugin``."""
    machine_properties: frozenset[str] = frozenset()
    """Properties that every machine type has, e.g. ``memory-encryption``."""

    @property
    def major_minor(self) -> tuple[int, int]:
        """The first two numbers of the version."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def loses_dirty_pages(self) -> bool:
        """Whether its TCG loses dirty pages of memory that has a round size; see ``TCG_TRIM_KIB`` in model/machine.py.

        Nothing that a binary says of itself tells, but its version; one that has the fix from elsewhere is not harmed.
        """
        return self.major_minor < _DIRTY_PAGES_KEPT

    @property
    def has_sandbox(self) -> bool:
        """Whether ``-sandbox`` is compiled in."""
        return "sandbox" in self.options

    def takes(self, command: str, argument: str) -> bool:
        """Whether QMP's *command* has *argument*."""
        return argument in self.commands.get(command, frozenset())


_known: dict[feature_cache.Key, Features] = {}


async def probe_binary(path: Path, *, deadline: Deadline) -> Features:
    """Ask the binary at *path*; answers are remembered in memory and on disk until the file changes.

    Raises SetupError for what is missing, not executable, no QEMU, or does not answer.
    """
    key = feature_cache.key_of(path)
    if key not in _known:
        stored = feature_cache.load(key)
        _known[key] = (stored and _decoded(path, stored)) or await _ask_and_store(path, key, deadline)
    return _known[key]


def forget_binary(path: Path) -> None:
    """Drop what is remembered: a start script stays the same when the QEMU behind it is replaced."""
    key = feature_cache.key_of(path)
    _known.pop(key, None)
    feature_cache.forget(key)


async def _ask_and_store(path: Path, key: feature_cache.Key, deadline: Deadline) -> Features:
    answers = await _ask(path, deadline.within(_PROBE_S))
    features = _decoded(path, answers)
    if features is None:
        raise _like_no_emulator(path)
    feature_cache.store(key, answers)
    return features


async def _ask(path: Path, deadline: Deadline) -> dict[str, Any]:
    ours, theirs = socket.socketpair()
    with theirs, ArtefactFile(Path("/dev/null")) as log:
        process = Process(_argv(path), inherit={_QMP_FD: theirs.fileno()}, log=log)
        theirs.close()
        session = QmpSession(path.name)
        try:
            await session.connect(ours, deadline=deadline)
            return await _answers(session, deadline)
        except DeadlineError:
            raise SetupError(f"{path} does not answer like a QEMU", hint=_HINT) from None
        except LostError:
            ended = await process.wait(Deadline.after(1.0))
            words = f": {ended.last_words}" if ended.last_words else ""
            raise SetupError(f"{path} is no QEMU; it {ended.words}{words}", hint=_HINT) from None
        except HarnessError as problem:
            raise SetupError(f"{path} is no QEMU: {problem}", hint=_HINT) from None
        except (LookupError, TypeError, AttributeError, ValueError):
            raise _like_no_emulator(path) from None
        finally:
            process.kill()
            await session.disconnect()
            await process.wait(Deadline.after(_PROBE_S))


def _like_no_emulator(path: Path) -> SetupError:
    return SetupError(f"{path} answers QMP, but not like a QEMU system emulator", hint=_HINT)


def _argv(path: Path) -> tuple[str, ...]:
    return (
        *(str(path), "-name", f"guest={PROCESS_PREFIX}probe", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "none", "-S", "-chardev", f"socket,id=qmp,fd={_QMP_FD}", "-mon", "chardev=qmp,mode=control"),
    )


async def _answers(session: QmpSession, deadline: Deadline) -> dict[str, Any]:
    async def ask(command: str, **arguments: Any) -> Any:
        return await session.execute(command, deadline=deadline, **arguments)

    schema = Schema(await ask("query-qmp-schema"))
    version = await ask("query-version")
    return {
        "version": version["qemu"],
        "package": version["package"],
        "target": (await ask("query-target"))["arch"],
        "machines": [machine["name"] for machine in await ask("query-machines")],
        "accelerators": await _accelerators(session, deadline),
        "cpu_models": [model["name"] for model in await ask("query-cpu-definitions")],
        "commands": schema.commands(),
        "events": schema.events(),
        "migration_capabilities": schema.values("migrate-set-capabilities", "capabilities", "capability"),
        "migration_parameters": schema.members("migrate-set-parameters"),
        "options": [entry["option"] for entry in await ask("query-command-line-options")],
        "machine_properties": [entry["name"] for entry in await ask("qom-list-properties", typename="machine")],
    }


async def _accelerators(session: QmpSession, deadline: Deadline) -> list[str]:
    """What is compiled in. Not qom-list-types: it loads every module, and one of another build aborts QEMU."""
    found = []
    for accel in Accel:
        with contextlib.suppress(QmpError):
            await session.execute("qom-list-properties", typename=f"{accel}-accel", deadline=deadline)
            found.append(accel.value)
    return found


def _decoded(path: Path, answers: Mapping[str, Any]) -> Features | None:
    """Features from answers as :func:`_answers` gives them; None when they are something else."""
    try:
        number = answers["version"]
        return Features(
            path=path,
            version=f"{number['major']}.{number['minor']}.{number['micro']}",
            package=str(answers["package"]).strip(" ()"),
            target=str(answers["target"]),
            machines=frozenset(answers["machines"]),
            accelerators=frozenset(answers["accelerators"]),
            cpu_models=frozenset(answers["cpu_models"]),
            commands={name: frozenset(arguments) for name, arguments in answers["commands"].items()},
            events=frozenset(answers["events"]),
            migration_capabilities=frozenset(answers["migration_capabilities"]),
            migration_parameters=frozenset(answers["migration_parameters"]),
            options=frozenset(answers["options"]),
            machine_properties=frozenset(answers["machine_properties"]),
        )
    except (KeyError, TypeError, AttributeError):
        return None
