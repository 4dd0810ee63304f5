"""Whether and where the local HTTP server listens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from shared.settings import Section


class ServerSettings(Section):
    """The local HTTP server: Open Inference Protocol V2 and `/metrics`. It has no login: loopback, or a Unix socket.

    Attributes:
        enabled: off by default; aiohttp.web costs 29 MB of memory.
        host, port: where it listens; port 0: one that is free, which is logged.
        socket: a Unix socket instead of host and port; its permissions say who may ask.
        max_body_bytes: a larger request is refused.
    """

    enabled: bool = False
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    socket: Path | None = None
    max_body_bytes: Annotated[int, Field(gt=0)] = 64 * 1024**2
