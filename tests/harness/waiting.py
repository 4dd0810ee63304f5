"""Waiting for what real processes do, with a failure that says what was waited for."""

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

T = TypeVar("T")

POLL_S = 0.05


def wait_until(predicate: Callable[[], T], *, timeout: float, what: str) -> T:
    """The predicate's first truthy value. Fails the test after `timeout` seconds; its exceptions are not caught."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what} (last seen: {value!r})")
        time.sleep(POLL_S)


async def eventually(predicate: Callable[[], T | Awaitable[T]], *, timeout: float, what: str) -> T:
    """wait_until for a test inside an event loop; the predicate may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what} (last seen: {value!r})")
        await asyncio.sleep(POLL_S)


def free_port() -> int:
    """A loopback TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether something on loopback accepts connections on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
