"""A file without a name whose pages are huge, whatever the system says of memfds.

``/sys/kernel/mm/transparent_hugepage/shmem_enabled`` governs memfds and mostly says "never": each 4 KiB page costs a
fault of its own. A tmpfs has a setting of its own (``huge=``, tmpfs(5)). This one is mounted nowhere: fsmount(2) gives
a mount that no namespace and no path shows, and it goes with the last file that is open in it.
"""

from __future__ import annotations

import ctypes
import os

# asm-generic/unistd.h: these three are the same on each architecture that QEMU's KVM runs on.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
# include/uapi/linux/mount.h
_CLOEXEC = 1
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
_MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV, _MOUNT_ATTR_NOEXEC = 2, 4, 8

_OPTIONS = {b"huge": b"always", b"size": b"0"}
"""``size=0`` is no bound, as a memfd has none; tmpfs's own is half the machine's memory."""

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def open_huge_file() -> int:
    """Descriptor of an empty file, close-on-exec.

    OSError where it cannot be had: mounting takes CAP_SYS_ADMIN in the user namespace, fsopen(2) Linux 5.2, and
    containers mostly refuse both. Other than a memfd it cannot be sealed.
    """
    context = _call(_FSOPEN, ctypes.c_char_p(b"tmpfs"), _CLOEXEC)
    try:
        for key, value in _OPTIONS.items():
            _call(_FSCONFIG, context, _FSCONFIG_SET_STRING, ctypes.c_char_p(key), ctypes.c_char_p(value), 0)
        _call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        attributes = _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOEXEC
        mount = _call(_FSMOUNT, context, _CLOEXEC, attributes)
    finally:
        os.close(context)
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=mount)
    finally:
        os.close(mount)


def _call(number: int, *arguments: object) -> int:
    result = int(_syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        problem = ctypes.get_errno()
        raise OSError(problem, os.strerror(problem))
    return result
