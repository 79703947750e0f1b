"""Loads a captured stream into a fresh QEMU, without its source."""
