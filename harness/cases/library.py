"""Loads every module that registers cases."""

from __future__ import annotations

import importlib

MODULES = (
    "memory_cases",
    "cpu_cases",
    "state_cases",
    "pagemap_cases",
    "cvm_cases",
    "reboot_cases",
    "interrupts.x86_cases",
    "interrupts.storm_case",
    "interrupts.arm_cases",
    "replay",
)


def load() -> None:
    """Register all cases; safe to call again."""
    for name in MODULES:
        importlib.import_module(f"harness.cases.{name}")
