"""A child process that measures, without the process: what it prints and how it ends is written down beforehand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict

from edge_agent.execution.choice import Choice, Measurement


class ScriptedChild:
    """Takes the place of `asyncio.subprocess.Process`."""

    def __init__(self, output: bytes, code: int | None) -> None:
        """`code` None: it hangs after its output."""
        self.returncode = code
        self.stdout = asyncio.StreamReader(limit=4096)
        self.stdout.feed_data(output)
        if code is not None:
            self.stdout.feed_eof()

    async def wait(self) -> int | None:
        return self.returncode


class ScriptedChildren:
    """`spawn` that answers from a table; a choice that is not in it dies as `dies_with` says.

    Attributes:
        asked: the choices that each child was given, in order.
        ended: how many children's blocks have ended.
    """

    def __init__(
        self, table: Sequence[Measurement], *, dies_with: int | None = -11, noise: bytes = b"", after: bytes = b""
    ) -> None:
        self._table = {measurement.choice: measurement for measurement in table}
        self._dies_with, self._noise, self._after = dies_with, noise, after
        self.asked: list[list[Choice]] = []
        self.ended = 0

    @asynccontextmanager
    async def __call__(self, module: str, arguments: Sequence[str]) -> AsyncIterator[ScriptedChild]:
        choices = [Choice.parse(value) for value in json.loads(arguments[-1])]
        self.asked.append(choices)
        output, code = b"", 0
        for choice in choices:
            if choice not in self._table:
                output, code = output + self._after, self._dies_with
                break
            output += self._noise + json.dumps(asdict(self._table[choice])).encode() + b"\n"
        try:
            yield ScriptedChild(output, code)
        finally:
            self.ended += 1
