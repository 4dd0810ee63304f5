"""Windows over a stream of sensor readings: maps of named numbers, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import Any

import numpy as np

from edge_agent.decoding import preprocess
from edge_agent.decoding.preprocess import Form
from edge_agent.sources import framing, stream
from edge_agent.sources.context import Captured, SourceContext
from edge_agent.sources.framing import Frames
from edge_agent.sources.mailbox import Feed, Put, fed
from edge_agent.sources.mqtt import subscribed
from edge_agent.sources.outage import Outage
from edge_agent.sources.settings import ReadingsSettings
from edge_agent.sources.windows import Windows
from shared.codec import Array
from shared.errors import SampleError, SettingsError
from shared.manifest import TensorSpec
from shared.mqtt import Connector

_MAX_READING_BYTES = 64 * 1024


def samples(
    settings: ReadingsSettings,
    context: SourceContext,
    stop: Event,
    *,
    connect: Connector | None = None,
    fd: int = 0,
) -> Generator[Captured, None, None]:
    """Windows as they are full, until standard input ends; every other origin is waited for when it is away.

    Args:
        connect, fd: how to connect, and the descriptor of standard input, for tests.

    Raises:
        SettingsError: the task's tensor is no such window, or there is no standard input.
    """
    _check(settings, context.spec())
    windows = fed(_feed(settings, context, stop, connect, fd), settings, context, stop)
    for number, window in enumerate(windows):
        yield Captured(partial(_fitted, window), number)


class ReadingWindows:
    """Takes readings, gives windows float64 [length, fields]; what is no reading is refused and changes nothing."""

    def __init__(
        self, settings: ReadingsSettings, context: SourceContext, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._refused, self._clock = settings, context.refused, clock
        self._windows = Windows(length=settings.length, hop=settings.hop or settings.length)
        self._last_s: float | None = None

    def add(self, body: bytes) -> list[Array]:
        """The windows that this reading completes: none, or one; a blank line is nothing."""
        if self._settings.payload is Form.JSON and body.isspace():
            return []
        try:
            reading = preprocess.parse(body, self._settings.payload, max_bytes=_MAX_READING_BYTES)
            values = preprocess.picked(reading, self._settings.fields)
            now_s = self._time(reading)
        except SampleError as err:
            self._refused(err)
            return []
        if self._gap(now_s):
            self._windows.restart()
        self._last_s = now_s
        return self._windows.add(np.array([values], np.float64))

    def restart(self) -> None:
        """The stream has a gap."""
        self._windows.restart()

    def _gap(self, now_s: float) -> bool:
        limit = self._settings.max_gap_s
        return limit is not None and self._last_s is not None and not 0 <= now_s - self._last_s <= limit

    def _time(self, reading: Any) -> float:
        name = self._settings.time_field
        if name is None:
            return self._clock()
        said = preprocess.value_at(reading, name)
        try:
            if not isinstance(said, str):
                return float(said)
            moment = datetime.fromisoformat(said)
        except (ValueError, TypeError, OverflowError) as err:
            raise SampleError(f"the field {name!r} is no time in seconds or ISO 8601: {err}") from err
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _feed(
    settings: ReadingsSettings, context: SourceContext, stop: Event, connect: Connector | None, fd: int
) -> Feed[Array]:
    windows = ReadingWindows(settings, context)

    def feed(put: Put[Array]) -> None:
        def take(bodies: Iterable[bytes]) -> bool:
            return all(put(window) for body in bodies for window in windows.add(body))

        if settings.topic is not None:
            subscribed(settings.topic, settings.broker, context, stop, connect=connect)(lambda m: take([m.payload]))
            return
        frames = _frames(settings, context)
        for chunk in _chunks(settings, context, stop, fd):
            if not chunk:
                frames.end()
                windows.restart()
            if not take(frames.add(chunk)):
                return
        if settings.payload is Form.JSON:
            take(frames.add(b"\n"))  # the last line need not have an end
        if not stop.is_set():
            frames.end()

    return feed


def _chunks(settings: ReadingsSettings, context: SourceContext, stop: Event, fd: int) -> Iterable[bytes]:
    path = settings.path or stream.STDIN
    if path == stream.STDIN:
        return stream.standard_input(stop, fd=fd)
    outage = Outage(settings, context, stop)
    return stream.followed(path, stop, outage, baud=settings.baud, from_end=settings.from_end)


def _frames(settings: ReadingsSettings, context: SourceContext) -> Frames:
    is_text = settings.payload is Form.JSON
    return Frames(
        framing.line if is_text else framing.cbor_item,
        max_bytes=lambda: _MAX_READING_BYTES,
        refused=context.refused,
        mark=b"\n" if is_text else b"",
    )


def _fitted(window: Array, spec: TensorSpec) -> Array:
    return preprocess.written(window.reshape(spec.shape), spec)


def _check(settings: ReadingsSettings, spec: TensorSpec) -> None:
    """Raise `SettingsError` unless a window fits; axes of length 1 may be there or not."""
    window = [settings.length, len(settings.fields)]
    if [size for size in window if size > 1] != [size for size in spec.shape if size > 1]:
        raise SettingsError(
            f"{settings.length} readings of {len(settings.fields)} fields are {window}; "
            f"the task takes {list(spec.shape)}: set length and fields"
        )
