"""How pytest asks: options, the ``migrate_case`` fixture, and reports that name the check and the way to see it again.

::

    def test_precopy(migrate_case):
        migrate_case("memory/precopy", memory_mib=64)

Every check of a case is a subtest. A failure ends with one ``cvmig repro`` line. Blocked and unsupported are skips with
their reason; trouble of our own is an exception and never looks like a failure of the product.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.model.verdict import Verdict

_RUN_KEY = pytest.StashKey[Any]()
_SKIPS = {Verdict.BLOCKED, Verdict.UNSUPPORTED}


class CaseTroubleError(Exception):
    """A case ended in ``error``: the harness or the precondition is at fault, not the product."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cvmig", "confidential-VM migration harness")
    group.addoption("--qemu", metavar="PATH", type=Path, help="QEMU of the source")
    group.addoption("--qemu-dst", metavar="PATH", type=Path, help="QEMU of the destination")
    group.addoption("--backend", metavar="NAME", help="how the guest's memory is protected (default: the case's)")
    group.addoption("--arch", help="architecture of the guests: x86_64 (default) or aarch64")
    group.addoption("--accel", default="auto", help="auto, tcg or kvm")
    group.addoption("--cvmig-seed", metavar="N", help="seed of every case (default: one per case, printed)")
    group.addoption("--keep", default="fail", help="heavy artefacts stay: never, fail or always")
    group.addoption("--runs", metavar="DIR", default="runs", type=Path, help="where run folders go")
    group.addoption("--nightly", action="store_true", help="also run what is marked nightly")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--nightly"):
        return
    skip = pytest.mark.skip(reason="nightly: run with --nightly")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def cvmig_run(request: pytest.FixtureRequest) -> Any:
    """The run folder of this pytest session (of this worker under xdist)."""
    from harness.report.store import Run  # noqa: PLC0415 - pytest loads plugins even for people who use none of it

    return Run.create(request.config.getoption("--runs"))


@pytest.fixture
def play_case(request: pytest.FixtureRequest, cvmig_run: Any) -> Callable[..., Any]:
    """Run one case and return its CaseResult; judge nothing. Words of the test go before the options of pytest."""
    from harness.cases.ask import Words, requests_of  # noqa: PLC0415
    from harness.cases.session import run_requests  # noqa: PLC0415

    option = request.config.getoption

    def play(
        case: str,
        *,
        faults: tuple[str, ...] = (),
        seed: int | None = None,
        arch: str | None = None,
        backend: str | None = None,
        qemu: Path | None = None,
        qemu_dst: Path | None = None,
        **settings: Any,
    ) -> Any:
        chosen = hex(seed) if seed is not None else option("--cvmig-seed")
        words = Words(
            sets=tuple(f"{name}={json.dumps(value)}" for name, value in settings.items()),
            backend=backend or option("--backend"),
            arch=arch or option("--arch"),
            accel=option("--accel"),
            qemu=qemu or option("--qemu"),
            qemu_dst=qemu_dst or option("--qemu-dst"),
            seed=chosen,
            faults=faults,
            keep=option("--keep"),
        )
        (result,) = run_requests(requests_of([case], words), cvmig_run)
        request.node.user_properties += [("seed", str(result.seed)), ("run_dir", result.run_dir)]
        return result

    return play


@pytest.fixture
def migrate_case(play_case: Callable[..., Any], subtests: pytest.Subtests) -> Callable[..., Any]:
    """Run one case and report each of its checks as a subtest."""

    def migrate(case: str, **words: Any) -> Any:
        result = play_case(case, **words)
        report_case(result, subtests)
        return result

    return migrate


def report_case(result: Any, subtests: pytest.Subtests) -> None:
    """Turn *result* into pytest's words: subtests for checks, skip, failure or our own trouble."""
    from harness.report.repro import repro_line  # noqa: PLC0415

    again = repro_line(result.run_dir)
    if result.verdict in _SKIPS:
        pytest.skip(f"{result.verdict}: {result.reason}" + (f"; {result.hint}" if result.hint else ""))
    for check in result.checks:
        with subtests.test(msg=check):
            found = [finding for finding in result.findings if finding.check == check and finding.verdict.is_bad]
            if found:
                lines = [f"{f.kind} at {f.where}: {f.detail}" for f in found]
                pytest.fail("\n".join([*lines, again]), pytrace=False)
    if result.verdict is Verdict.ERROR:
        raise CaseTroubleError(f"{result.reason}\n{again}")
    if result.verdict is not Verdict.PASS:
        pytest.fail(f"{result.verdict}: {result.reason}\n{again}", pytrace=False)
