from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest

from harness.guest import image as image_module
from harness.guest.image import OVERRIDE, build_probe, probe_image
from harness.model.errors import SetupError
from harness.model.machine import Arch

SOURCE = Path(image_module.__file__).parents[2] / "images" / "probe"


def test_the_override_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "mine.elf"
    mine.write_bytes(b"x")
    monkeypatch.setenv(OVERRIDE, str(mine))
    assert probe_image() == mine


def test_an_override_that_is_no_file_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(OVERRIDE, str(tmp_path / "none"))
    with pytest.raises(SetupError, match=OVERRIDE):
        probe_image()


def test_each_architecture_has_an_override_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = tmp_path / "mine.elf"
    mine.write_bytes(b"x")
    monkeypatch.setenv(f"{OVERRIDE}_AARCH64", str(mine))
    monkeypatch.setenv(OVERRIDE, str(tmp_path / "none"))
    assert probe_image(Arch.AARCH64) == mine


@pytest.mark.skipif(platform.machine() == "aarch64", reason="the host's own compiler does it")
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_missing_cross_compiler_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "make").symlink_to(str(shutil.which("make")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="needs aarch64-linux-gnu-gcc") as caught:
        build_probe(SOURCE, tmp_path / "probe.elf", Arch.AARCH64)
    assert "gcc-aarch64-linux-gnu" in caught.value.hint


def test_a_missing_compiler_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="needs make") as caught:
        build_probe(SOURCE, tmp_path / "probe.elf", Arch.X86_64)
    assert "install" in caught.value.hint


@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("make") is None, reason="needs gcc and make")
def test_a_source_that_does_not_build_is_told_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "source"
    shutil.copytree(SOURCE, broken)
    (broken / "src" / "main.c").write_text("this is no C\n", encoding="ascii")
    with pytest.raises(SetupError, match=r"does not build: src/main\.c") as caught:
        build_probe(broken, tmp_path / "out" / "probe.elf", Arch.X86_64)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("make") is None, reason="needs gcc and make")
def test_a_build_is_repeated_only_when_a_source_is_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)
    image = probe_image()
    built_ns = image.stat().st_mtime_ns
    assert probe_image().stat().st_mtime_ns == built_ns
    assert image_module._is_fresh(image, SOURCE)
    newest = max(path.stat().st_mtime for path in SOURCE.rglob("*.c"))
    assert image.stat().st_mtime >= newest
    assert os.access(image, os.R_OK)
