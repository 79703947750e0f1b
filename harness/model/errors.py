"""Our own trouble. Defects of the product are findings, not exceptions.

::

    HarnessError                 one line and a hint; never a traceback for the user
     +-- UsageError              bad words on the command line, in a plan, in a case's settings    exit status 2
     +-- SetupError              something that the machine lacks: a binary, a folder, an image   exit status 3
     +-- UnsupportedError        this host or binary cannot do what the case needs                 -> unsupported
     +-- BlockedError            the product refuses, with its reason                              -> blocked
     +-- LostError               a process or a connection that the case needs is gone             -> lost
     +-- GuestError              the guest crashed or stopped answering          -> fail once it has moved, else error
     +-- DeadlineError           a wait reached its deadline; says for what
     +-- TooSlowError            the migration did not converge before its deadline                -> too-slow
     +-- PreconditionError       what the case is about did not come about                         -> error
     +-- StreamError             bytes that are no migration stream; carries the offset
     +-- ProtocolError           a reply that is none
"""

from __future__ import annotations


class HarnessError(Exception):
    """Base of all our errors. ``str()`` is one line; *hint* says what to try."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(HarnessError):
    """The user's words are off: a case, an option, a setting, a file's content."""


class SetupError(HarnessError):
    """The machine lacks something that every case needs."""


class UnsupportedError(HarnessError):
    """This host or binary cannot do what the case needs."""


class BlockedError(HarnessError):
    """The product refuses, and says why."""


class LostError(HarnessError):
    """A process or a connection that the case needs is gone. The message quotes its own last words."""


class GuestError(HarnessError):
    """The guest crashed, or stopped answering; QEMU itself is still there."""


class DeadlineError(HarnessError):
    """A wait reached its deadline."""


class TooSlowError(HarnessError):
    """The migration did not converge before its deadline."""


class PreconditionError(HarnessError):
    """What the case is about did not come about, so neither pass nor fail would mean anything."""


class ProtocolError(HarnessError):
    """A reply that does not belong to the protocol."""


class StreamError(HarnessError):
    """Bytes that are no migration stream.

    *offset* counts from the first byte of the stream.
    """

    def __init__(self, message: str, *, offset: int, hint: str = "") -> None:
        super().__init__(f"{message} at offset {offset:#x}", hint=hint)
        self.offset = offset
