"""Child processes for what may crash the runtime; they end when the agent ends, however it does."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

_PR_SET_PDEATHSIG = 1


@asynccontextmanager
async def spawned(module: str, arguments: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m module PARENT_PID arguments…`, its output a pipe; killed at the latest when the block ends."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        str(os.getpid()),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


def end_with_parent(parent: int) -> None:
    """In the child, first of all: die when the agent does, also when it is killed and can tell nobody.

    The kernel sends the signal (Linux, prctl(2)); a parent that had died before is seen by its number.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
