"""Samples on standard input, one after the other: numpy files, raw tensors, or JSON lines."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial
from threading import Event

from edge_agent.decoding import npy, preprocess
from edge_agent.decoding.preprocess import Form
from edge_agent.sources import framing, stream
from edge_agent.sources.context import Captured, SourceContext
from edge_agent.sources.framing import Frames
from edge_agent.sources.mailbox import all_of, fed
from edge_agent.sources.settings import StdinSettings


def samples(
    settings: StdinSettings, context: SourceContext, stop: Event, *, fd: int = 0
) -> Generator[Captured, None, None]:
    """Samples until the input ends; what is none is refused, and the next one is looked for.

    Args:
        fd: the descriptor to read.

    Raises:
        SettingsError: there is no standard input.
    """
    frames = _whole_frames(settings, context, stop, fd)
    if settings.payload is Form.JSON:
        frames = (line for line in frames if not line.isspace())
    for number, body in enumerate(fed(all_of(frames), settings, context, stop)):
        yield Captured(partial(preprocess.decode, body, settings.payload, fields=settings.fields), number)


def _whole_frames(settings: StdinSettings, context: SourceContext, stop: Event, fd: int) -> Iterator[bytes]:
    def limit() -> int:
        return preprocess.max_bytes(settings.payload, context.spec())

    match settings.payload:
        case Form.RAW:
            frames = Frames(framing.piece(limit), max_bytes=limit, refused=context.refused)
        case Form.NPY:
            frames = Frames(framing.npy_file, max_bytes=limit, refused=context.refused, mark=npy.MAGIC)
        case Form.JSON:
            frames = Frames(framing.line, max_bytes=limit, refused=context.refused, mark=b"\n")
    for chunk in stream.standard_input(stop, fd=fd):
        yield from frames.add(chunk)
    if settings.payload is Form.JSON:
        yield from frames.add(b"\n")  # the last line need not have an end
    if not stop.is_set():
        frames.end()
