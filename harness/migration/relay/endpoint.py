"""Where a relay listens and where it connects to: a unix socket or a tcp port on this machine."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from harness.migration.relay.sockets import tune
from harness.model.errors import SetupError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Either *path* or *host* and *port*; port 0 lets the kernel choose when listening."""

    path: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def unix(cls, path: Path) -> Endpoint:
        """A unix socket."""
        return cls(path=path)

    @classmethod
    def tcp(cls, port: int = 0, host: str = "127.0.0.1") -> Endpoint:
        """A tcp port; only loopback is listened on."""
        return cls(host=host, port=port)

    @classmethod
    def parse(cls, uri: str) -> Endpoint:
        """From a migration URI, ``unix:PATH`` or ``tcp:HOST:PORT``. Raises UsageError."""
        kind, _, rest = uri.partition(":")
        host, _, port = rest.rpartition(":")
        if kind == "unix" and rest:
            return cls.unix(Path(rest))
        if kind == "tcp" and port.isdecimal() and int(port) < 1 << 16:
            return cls.tcp(int(port), host.strip("[]") or "127.0.0.1")
        raise UsageError(f"no migration URI: {uri!r}", hint="unix:PATH or tcp:HOST:PORT")

    @property
    def uri(self) -> str:
        """What ``migrate`` and ``migrate-incoming`` take."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"

    def listen(self) -> tuple[socket.socket, Endpoint]:
        """A listening socket, and the endpoint with the port that it got. Raises SetupError."""
        listener = self._socket()
        try:
            listener.bind(self._sockaddr())
            listener.listen(1)
        except OSError as error:
            listener.close()
            raise SetupError(f"cannot listen on {self.uri}: {error}") from error
        return listener, self if self.path is not None else replace(self, port=listener.getsockname()[1])

    def connect(self, timeout_s: float) -> socket.socket:
        """Give a connected blocking socket. Raises OSError, as the system call does."""
        connection = self._socket()
        try:
            connection.settimeout(timeout_s)
            connection.connect(self._sockaddr())
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        tune(connection)
        return connection

    def remove(self) -> None:
        """Unlink the socket file of a listener."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _socket(self) -> socket.socket:
        if self.path is not None:
            return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return socket.socket(family, socket.SOCK_STREAM)

    def _sockaddr(self) -> str | tuple[str, int]:
        return str(self.path) if self.path is not None else (self.host, self.port)
