"""Windows of sound with overlap, by PortAudio; only this module knows sounddevice (extra `microphone`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from threading import Event
from typing import Any, Protocol

from edge_agent.decoding import preprocess
from edge_agent.sources.context import Captured, SourceContext
from edge_agent.sources.mailbox import Feed, Put, fed
from edge_agent.sources.outage import Outage
from edge_agent.sources.settings import MicrophoneSettings
from edge_agent.sources.windows import Windows
from shared.codec import Array
from shared.errors import SettingsError
from shared.manifest import TensorSpec

_DTYPES = ("float32", "int32", "int16", "int8", "uint8")
# The part of a second that is read at once: an unplug or a stop is seen that soon.
_READS_A_SECOND = 10


class MicrophoneLost(Exception):
    """The sound card went away, or was never there."""


class Microphone(Protocol):
    """An open input."""

    def read(self, frames: int) -> tuple[Array, bool]:
        """So many frames [frames, channels], and whether sound was lost before them.

        Raises:
            MicrophoneLost: it went away.
        """
        ...

    def close(self) -> None: ...


OpenMicrophone = Callable[[MicrophoneSettings, str], Microphone]


def samples(
    settings: MicrophoneSettings, context: SourceContext, stop: Event, *, opener: OpenMicrophone | None = None
) -> Generator[Captured, None, None]:
    """Windows as they are full; numbers are the card's own in the task's dtype (float32 in [-1, 1]).

    A window never spans a gap: lost sound begins it anew and is counted as overrun.

    Args:
        opener: gives an open input of a dtype, or raises `MicrophoneLost`.

    Raises:
        SettingsError: sounddevice or libportaudio2 is missing, or the task's tensor is no such window.
    """
    spec = context.spec()
    length = _checked_length(settings, spec)
    opened = partial(opener or _portaudio(), settings, spec.dtype)
    windows = Windows(length=length, hop=max(1, round(settings.hop_s * settings.rate_hz)))
    feed = _feed(settings, context, stop, opened, windows=windows)
    return _captured(fed(feed, settings, context, stop))


def _captured(windows: Generator[Array, None, None]) -> Generator[Captured, None, None]:
    for number, window in enumerate(windows):
        yield Captured(partial(_fitted, window), number)


def _fitted(window: Array, spec: TensorSpec) -> Array:
    """[samples, channels], or [samples] of one channel."""
    flat = window.shape[1] == 1 and len(spec.shape) == 1
    return preprocess.lossless(window[:, 0] if flat else window, spec)


def _checked_length(settings: MicrophoneSettings, spec: TensorSpec) -> int:
    length = round(settings.window_s * settings.rate_hz)
    shapes = [(length, settings.channels)] + ([(length,)] if settings.channels == 1 else [])
    if spec.shape not in shapes or spec.dtype not in _DTYPES:
        gives = " or ".join(str(list(shape)) for shape in shapes)
        raise SettingsError(
            f"window_s = {settings.window_s} at {settings.rate_hz} Hz gives {gives} of {', '.join(_DTYPES)}; "
            f"the task takes {spec.dtype} {list(spec.shape)}: set window_s, rate_hz and channels"
        )
    return length


def _feed(
    settings: MicrophoneSettings,
    context: SourceContext,
    stop: Event,
    opener: Callable[[], Microphone],
    *,
    windows: Windows,
) -> Feed[Array]:
    outage = Outage(settings, context, stop)

    def feed(put: Put[Array]) -> None:
        while not stop.is_set():
            windows.restart()
            try:
                with closing(opener()) as microphone:
                    while not stop.is_set():
                        sound, lost = microphone.read(max(1, settings.rate_hz // _READS_A_SECOND))
                        outage.there()
                        if lost:
                            windows.restart()
                            context.overrun(1)
                        if not all(put(window) for window in windows.add(sound)):
                            return
            except MicrophoneLost as err:
                if not outage.wait(err):
                    return

    return feed


class _Input:
    """A stream that PortAudio has open."""

    def __init__(self, stream: Any, lost: type[Exception]) -> None:
        self._stream, self._lost = stream, lost

    def read(self, frames: int) -> tuple[Array, bool]:
        try:
            sound, overflowed = self._stream.read(frames)
        except self._lost as err:
            raise MicrophoneLost(f"the microphone stopped: {err}") from err
        return sound, overflowed

    def close(self) -> None:
        with _opening:
            self._stream.close()
            _inputs.discard(self)


# PortAudio lists the cards once, when it starts, and may start anew only while no input of the process is open.
_opening = threading.Lock()
_inputs: set[_Input] = set()


def _portaudio() -> OpenMicrophone:
    try:
        import sounddevice
    except ImportError as err:
        raise SettingsError("a microphone needs sounddevice: pip install 'edgeloop[microphone]'") from err
    except OSError as err:
        raise SettingsError(f"a microphone needs PortAudio ({err}): sudo apt-get install libportaudio2") from err

    def open_input(settings: MicrophoneSettings, dtype: str) -> Microphone:
        with _opening:
            try:
                stream = sounddevice.InputStream(
                    device=settings.device, samplerate=settings.rate_hz, channels=settings.channels, dtype=dtype
                )
                stream.start()
            except (sounddevice.PortAudioError, ValueError) as err:
                known = ", ".join(each["name"] for each in sounddevice.query_devices() if each["max_input_channels"])
                if not _inputs:
                    sounddevice._terminate()  # noqa: SLF001  # the only way to make it look for new cards
                    sounddevice._initialize()  # noqa: SLF001
                raise MicrophoneLost(f"no microphone ({err}); there are: {known or 'none'}") from err
            opened = _Input(stream, sounddevice.PortAudioError)
            _inputs.add(opened)
            return opened

    return open_input
