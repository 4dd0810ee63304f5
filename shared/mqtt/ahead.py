"""A socket that is read in large pieces: paho asks for each packet in four small ones, a system call each."""

from __future__ import annotations

from typing import Any

_PIECE = 64 * 1024


class ReadAhead:
    """Stands for a socket that does not block; what is not about reading goes to it as it is."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._piece = b""
        self._at = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, size: int) -> bytes:
        """At most `size` bytes; none: the other side has closed.

        Raises:
            BlockingIOError: there are none now.
        """
        if self._at == len(self._piece):
            if size >= _PIECE:
                return bytes(self._sock.recv(size))
            self._piece, self._at = b"", 0
            self._piece = self._sock.recv(_PIECE)
        part = self._piece[self._at : self._at + size]
        self._at += len(part)
        return part

    def pending(self) -> int:
        """How many bytes were read, or decrypted by TLS, which the socket does not announce again."""
        decrypted: int = getattr(self._sock, "pending", int)()
        return len(self._piece) - self._at + decrypted
