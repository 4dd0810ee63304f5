"""Whether and where the local HTTP server listens, and how much it takes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from shared.settings import Section


class ServerSettings(Section):
    """The local HTTP server: Open Inference Protocol V2 and `/metrics`. It has no login: loopback, or a Unix socket.

    Attributes:
        enabled: off by default: aiohttp.web costs memory (docs/local-server.md says how much).
        host, port: where it listens; port 0: one that is free, which is logged.
        socket: a Unix socket instead of host and port; the agent's user and group may connect.
        threads: inferences at once; one that waits for a verdict holds its thread.
        max_waiting: requests that may wait for a thread; one more is answered with 503.
        max_batch: samples in one request; they are answered one after the other.
        max_deadline_s: a client that asks for a longer wait for the verdict gets this one.
        max_body_bytes: a larger request, unpacked, is refused.
        max_json_bytes: its JSON alone, which takes four times its size in memory while it is read.
        body_timeout_s: a client that takes longer to send its request is turned away: others wait for its place.
    """

    enabled: bool = False
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    socket: Path | None = None
    threads: Annotated[int, Field(ge=1, le=64)] = 2
    max_waiting: Annotated[int, Field(ge=0, le=1_000)] = 16
    max_batch: Annotated[int, Field(ge=1, le=10_000)] = 64
    max_deadline_s: Annotated[float, Field(ge=0, le=60)] = 10.0
    max_body_bytes: Annotated[int, Field(ge=1_024)] = 16 * 1024**2
    max_json_bytes: Annotated[int, Field(ge=1_024)] = 4 * 1024**2
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0
