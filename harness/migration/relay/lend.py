"""Lends threads: a relay needs two of them for every hop.

Starting a thread holds up whoever starts it until the new one has run for the first time, which on a busy machine is
milliseconds of the guest's way. A thread that has served before only has to be woken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeAlias

_Work: TypeAlias = tuple[str, Callable[[], None], "Future[None]"]

_AT_REST = "waits-to-be-lent"

_idle: list[SimpleQueue[_Work]] = []
"""Where each thread at rest waits for work."""


def lend(body: Callable[[], None], *, name: str) -> Future[None]:
    """Run *body* in a thread that is called *name* meanwhile; the future ends with it, and as it did.

    Unlike an executor's, the thread is a daemon: an interpreter that ends waits for nobody.
    """
    ended: Future[None] = Future()
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = SimpleQueue()
        threading.Thread(target=_serve, args=(inbox,), name=_AT_REST, daemon=True).start()
    inbox.put((name, body, ended))
    return ended


def _serve(inbox: SimpleQueue[_Work]) -> None:
    while True:
        ended, error = _do(*inbox.get())
        _idle.append(inbox)
        if error is None:
            ended.set_result(None)
        else:
            ended.set_exception(error)
        # A thread at rest keeps nothing of its last work alive.
        del ended, error


def _do(name: str, body: Callable[[], None], ended: Future[None]) -> tuple[Future[None], BaseException | None]:
    me = threading.current_thread()
    me.name = name
    try:
        body()
    except BaseException as error:  # noqa: BLE001 - whoever lent the thread is told
        return ended, error
    finally:
        me.name = _AT_REST
    return ended, None
